//! The frame of a digest: of some streams, what the sender holds and what it lacks.

use std::ops::RangeInclusive;

use super::bytes::{Reader, each, frame, put_stream, put_varint, varint_bytes};
use super::{FRAME_DIGEST, Result, STREAM_ID_BYTES, WireError};
use crate::bounds::SEQ_MAX;
use crate::id::StreamId;

/// A part of what the sender knows. A stream, or a part of a stream, that is not in any part says
/// nothing: it is neither held nor missing.
#[derive(Clone, Copy, Debug)]
pub struct Digest<'a> {
    /// [`Digest::ASKS`]; the other bits are for later versions, which a receiver ignores.
    pub flags: u8,
    /// The sender's round, from 1.
    pub round: u64,
    /// The last round that the sender got a digest of from this receiver; 0 for none.
    pub echo_round: u64,
    /// Microseconds between that digest's arrival and this one's departure: a round trip is
    /// measured without answering.
    pub echo_delay_us: u64,
    pub(super) entries: &'a [u8],
}

/// What a run of consecutive messages is to the digest's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// Nothing is said of these: seen and no longer held, or not wanted.
    Silent,
    /// Held: may be solicited.
    Held,
    /// Missing: may be pushed.
    Missing,
    /// For later versions; to this one it says nothing.
    Reserved,
}

/// What a digest says about one stream.
#[derive(Clone, Copy, Debug)]
pub struct DigestEntry<'a> {
    /// The stream.
    pub stream: StreamId,
    /// [`DigestEntry::OPEN`], [`DigestEntry::EXPIRED_BELOW`]; the other bits are for later versions,
    /// which a receiver ignores.
    pub flags: u8,
    /// First seq that the entry speaks about.
    pub start: u64,
    runs: &'a [u8],
}

impl<'a> Digest<'a> {
    /// Flag: the sender asks to be told of streams that changed lately and are not in here. All
    /// those that it knows of are.
    pub const ASKS: u8 = 1;

    pub(super) fn try_entries(&self) -> impl Iterator<Item = Result<DigestEntry<'a>>> + use<'a> {
        each(self.entries, DigestEntry::decode)
    }

    /// The entries, in the sender's order.
    pub fn entries(&self) -> impl Iterator<Item = DigestEntry<'a>> + use<'a> {
        self.try_entries().map_while(Result::ok)
    }
}

impl<'a> DigestEntry<'a> {
    /// Flag: everything from the end of the runs on is missing; the sender knows of nothing further.
    /// Without it, nothing is said of that.
    pub const OPEN: u8 = 1;
    /// Flag: everything below [`DigestEntry::start`] has expired at the sender.
    pub const EXPIRED_BELOW: u8 = 2;
    /// Flag: of what the sender says nothing of, the oldest was held and dropped for want of room.
    pub const EVICTED: u8 = 4;

    pub(super) fn decode(input: &mut Reader<'a>) -> Result<DigestEntry<'a>> {
        let stream = input.stream()?;
        let flags = input.u8()?;
        let start = input.seq()?;
        let count = input.varint()?;
        let rest = input.0;
        let (mut next, mut last_kind) = (start, None);
        // Each run takes at least one byte of input, so the loop is bounded by the input.
        for _ in 0..count {
            let (kind, len) = decode_run(input)?;
            if Some(kind) == last_kind {
                return Err(WireError::OutOfRange("run kind"));
            }
            last_kind = Some(kind);
            // The last run may end at the last number, or whoever holds that could not say so.
            next = next
                .checked_add(len)
                .filter(|&next| next <= SEQ_MAX + 1)
                .ok_or(WireError::OutOfRange("run length"))?;
        }
        let open = flags & Self::OPEN != 0;
        if open && last_kind == Some(RunKind::Missing) {
            return Err(WireError::OutOfRange("run kind"));
        }
        let used = rest.len() - input.0.len();
        let runs = rest.get(..used).ok_or(WireError::Truncated)?;
        Ok(DigestEntry {
            stream,
            flags,
            start,
            runs,
        })
    }

    /// The runs, ascending; if the entry is open, the last one reaches to [`SEQ_MAX`].
    pub fn runs(&self) -> impl Iterator<Item = (RunKind, RangeInclusive<u64>)> + use<'a> {
        let mut input = Reader(self.runs);
        let mut next = self.start;
        let mut open = self.flags & Self::OPEN != 0;
        std::iter::from_fn(move || {
            if let Ok((kind, len)) = decode_run(&mut input) {
                let first = next;
                next = next.saturating_add(len);
                return Some((kind, first..=next - 1));
            }
            std::mem::take(&mut open).then_some((RunKind::Missing, next..=SEQ_MAX))
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = EntryWriter {
            stream: self.stream,
            flags: self.flags,
            start: self.start,
            runs: Vec::new(),
        };
        let mut input = Reader(self.runs);
        while let Ok(run) = decode_run(&mut input) {
            writer.runs.push(run);
        }
        writer.encode(out);
    }
}

fn decode_run(input: &mut Reader<'_>) -> Result<(RunKind, u64)> {
    let packed = input.varint()?;
    let kind = match packed & 3 {
        0 => RunKind::Silent,
        1 => RunKind::Held,
        2 => RunKind::Missing,
        _ => RunKind::Reserved,
    };
    match packed >> 2 {
        0 => Err(WireError::OutOfRange("run length")),
        len => Ok((kind, len)),
    }
}

/// A digest entry under construction.
#[derive(Clone, Debug)]
pub struct EntryWriter {
    /// See [`DigestEntry::stream`].
    pub stream: StreamId,
    /// See [`DigestEntry::flags`].
    pub flags: u8,
    /// See [`DigestEntry::start`].
    pub start: u64,
    /// Kinds and lengths, ascending; no two neighbours of one kind, no length 0, and none of kind
    /// missing at the end of an open entry.
    pub runs: Vec<(RunKind, u64)>,
}

impl EntryWriter {
    /// Bytes of a run.
    pub fn run_bytes(len: u64) -> usize {
        varint_bytes(len << 2)
    }

    /// Most bytes of an entry besides its runs.
    pub const OVERHEAD_BYTES: usize = STREAM_ID_BYTES + 1 + 9 + 2;

    /// Appends the entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_stream(out, self.stream);
        out.push(self.flags);
        put_varint(out, self.start);
        put_varint(out, self.runs.len() as u64);
        for &(kind, len) in &self.runs {
            let kind = match kind {
                RunKind::Silent => 0,
                RunKind::Held => 1,
                RunKind::Missing => 2,
                RunKind::Reserved => 3,
            };
            put_varint(out, (len << 2) | kind);
        }
    }
}

/// Builds a digest frame from encoded entries.
pub fn put_digest(
    out: &mut Vec<u8>,
    flags: u8,
    round: u64,
    echo: (u64, u64),
    entries: impl FnOnce(&mut Vec<u8>),
) {
    frame(out, FRAME_DIGEST, |out| {
        out.push(flags);
        put_varint(out, round);
        put_varint(out, echo.0);
        put_varint(out, echo.1);
        entries(out);
    });
}
