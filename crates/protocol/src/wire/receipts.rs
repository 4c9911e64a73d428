//! The frames of receipts: who asks which messages were applied, and the answer.

use std::ops::RangeInclusive;

use super::bytes::{Reader, each, put_stream, put_varint, varint_bytes};
use super::solicit::{SolicitEntry, decode_ranges, put_ranges, ranges_bytes, ranges_in};
use super::{Result, STREAM_ID_BYTES};
use crate::id::StreamId;

/// "Tell me which of these you have applied."
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Microseconds over which those who are asked are to spread their answers.
    pub spread_us: u64,
    pub(super) entries: &'a [u8],
}

impl<'a> Ask<'a> {
    pub(super) fn try_entries(&self) -> impl Iterator<Item = Result<SolicitEntry<'a>>> + use<'a> {
        each(self.entries, SolicitEntry::decode)
    }

    /// What is asked of each stream, in the sender's order.
    pub fn entries(&self) -> impl Iterator<Item = SolicitEntry<'a>> + use<'a> {
        self.try_entries().map_while(Result::ok)
    }
}

/// "These I have applied."
#[derive(Clone, Copy, Debug)]
pub struct Receipts<'a> {
    pub(super) entries: &'a [u8],
}

/// What became of messages at the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Applied to its cache.
    Applied,
    /// Held and relayed, but of an op that it does not know.
    Unsupported,
    /// Not wanted there: older than its cache, or expired.
    NotWanted,
    /// For later versions; to this one it says nothing.
    Reserved(u8),
}

impl Fate {
    fn code(self) -> u8 {
        match self {
            Fate::Applied => 0,
            Fate::Unsupported => 1,
            Fate::NotWanted => 2,
            Fate::Reserved(code) => code,
        }
    }
}

/// Messages of one stream that met with one fate at about one time.
#[derive(Clone, Copy, Debug)]
pub struct ReceiptEntry<'a> {
    /// The stream.
    pub stream: StreamId,
    /// What became of them.
    pub fate: Fate,
    /// Microseconds from then to the datagram's departure; `None` if that is not remembered.
    pub since_us: Option<u64>,
    ranges: &'a [u8],
}

impl<'a> Receipts<'a> {
    pub(super) fn try_entries(&self) -> impl Iterator<Item = Result<ReceiptEntry<'a>>> + use<'a> {
        each(self.entries, ReceiptEntry::decode)
    }

    /// The entries, in the sender's order.
    pub fn entries(&self) -> impl Iterator<Item = ReceiptEntry<'a>> + use<'a> {
        self.try_entries().map_while(Result::ok)
    }
}

impl<'a> ReceiptEntry<'a> {
    fn decode(input: &mut Reader<'a>) -> Result<ReceiptEntry<'a>> {
        Ok(ReceiptEntry {
            stream: input.stream()?,
            fate: match input.u8()? {
                0 => Fate::Applied,
                1 => Fate::Unsupported,
                2 => Fate::NotWanted,
                code => Fate::Reserved(code),
            },
            since_us: input.varint()?.checked_sub(1),
            ranges: decode_ranges(input)?,
        })
    }

    /// The messages, as ascending, disjoint ranges that are not adjacent.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + use<'a> {
        ranges_in(self.ranges)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_receipt_entry(out, self.stream, self.fate, self.since_us, self.ranges());
    }
}

/// Appends what became of some messages of a stream. The ranges are as in a
/// [`crate::ranges::RangeSet`], and there is one at least.
pub fn put_receipt_entry(
    out: &mut Vec<u8>,
    stream: StreamId,
    fate: Fate,
    since_us: Option<u64>,
    ranges: impl Iterator<Item = RangeInclusive<u64>>,
) {
    put_stream(out, stream);
    out.push(fate.code());
    put_varint(out, since_us.map_or(0, |since| since.saturating_add(1)));
    put_ranges(out, ranges);
}

/// Bytes that [`put_receipt_entry`] appends.
pub fn receipt_entry_bytes(
    since_us: Option<u64>,
    ranges: impl Iterator<Item = RangeInclusive<u64>>,
) -> usize {
    let since = since_us.map_or(0, |since| since.saturating_add(1));
    STREAM_ID_BYTES + 1 + varint_bytes(since) + ranges_bytes(ranges)
}

/// Appends an ask frame of encoded entries, which [`super::put_solicit_entry`] makes.
pub fn put_ask(out: &mut Vec<u8>, spread_us: u64, entries: &[u8]) {
    super::frame(out, super::FRAME_ASK, |out| {
        put_varint(out, spread_us);
        out.extend_from_slice(entries);
    });
}

/// Appends a receipt frame of encoded entries.
pub fn put_receipts(out: &mut Vec<u8>, entries: &[u8]) {
    super::frame(out, super::FRAME_RECEIPT, |out| {
        out.extend_from_slice(entries)
    });
}
