//! The frame of a solicit: what the sender asks for; and ranges, as asks and receipts have them, too.

use std::ops::RangeInclusive;

use super::bytes::{Reader, each, frame, put_stream, put_varint, varint_bytes};
use super::{FRAME_SOLICIT, Result, STREAM_ID_BYTES, WireError};
use crate::bounds::SEQ_MAX;
use crate::id::StreamId;

/// What the sender asks for.
#[derive(Clone, Copy, Debug)]
pub struct Solicit<'a> {
    /// The round of the digest that it answers; 0 if a gap was seen without one.
    pub round: u64,
    /// Microseconds between that digest's arrival and this solicit's departure.
    pub delay_us: u64,
    /// Messages older than this are not wanted.
    pub age_ms_max: u64,
    pub(super) entries: &'a [u8],
}

/// What is asked of one stream.
#[derive(Clone, Copy, Debug)]
pub struct SolicitEntry<'a> {
    /// The stream.
    pub stream: StreamId,
    ranges: &'a [u8],
}

impl<'a> Solicit<'a> {
    pub(super) fn try_entries(&self) -> impl Iterator<Item = Result<SolicitEntry<'a>>> + use<'a> {
        each(self.entries, SolicitEntry::decode)
    }

    /// The entries, in the sender's order.
    pub fn entries(&self) -> impl Iterator<Item = SolicitEntry<'a>> + use<'a> {
        self.try_entries().map_while(Result::ok)
    }
}

impl<'a> SolicitEntry<'a> {
    pub(super) fn decode(input: &mut Reader<'a>) -> Result<SolicitEntry<'a>> {
        Ok(SolicitEntry {
            stream: input.stream()?,
            ranges: decode_ranges(input)?,
        })
    }

    /// The ranges, ascending, disjoint and not adjacent.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + use<'a> {
        ranges_in(self.ranges)
    }
}

/// A number of ranges, not 0, and the ranges; what they take of the input.
pub(super) fn decode_ranges<'a>(input: &mut Reader<'a>) -> Result<&'a [u8]> {
    let count = input.varint()?;
    let rest = input.0;
    let mut end = 0;
    // Each range takes at least two bytes of input, so the loop is bounded by the input.
    for i in 0..count {
        end = *decode_range(input, end, i == 0)?.end();
    }
    if count == 0 {
        return Err(WireError::OutOfRange("range count"));
    }
    let used = rest.len() - input.0.len();
    rest.get(..used).ok_or(WireError::Truncated)
}

/// The ranges in what [`decode_ranges`] gave.
pub(super) fn ranges_in(ranges: &[u8]) -> impl Iterator<Item = RangeInclusive<u64>> + use<'_> {
    let mut input = Reader(ranges);
    let (mut end, mut first) = (0, true);
    std::iter::from_fn(move || {
        let range = decode_range(&mut input, end, std::mem::take(&mut first)).ok()?;
        end = *range.end();
        Some(range)
    })
}

/// A range is the distance from the previous one's end (2 at least, or they would be one range; the
/// first counts from 0) and its width less one.
fn decode_range(input: &mut Reader<'_>, end: u64, first: bool) -> Result<RangeInclusive<u64>> {
    let distance = input.varint()?;
    if distance < if first { 1 } else { 2 } {
        return Err(WireError::OutOfRange("range start"));
    }
    let start = end
        .checked_add(distance)
        .filter(|&start| start <= SEQ_MAX)
        .ok_or(WireError::OutOfRange("range start"))?;
    let end = start
        .checked_add(input.varint()?)
        .filter(|&end| end <= SEQ_MAX)
        .ok_or(WireError::OutOfRange("range end"))?;
    Ok(start..=end)
}

/// Appends what is asked of one stream. The ranges are ascending, disjoint and not adjacent, as a
/// [`crate::ranges::RangeSet`] gives them.
pub fn put_solicit_entry(
    out: &mut Vec<u8>,
    stream: StreamId,
    ranges: impl Iterator<Item = RangeInclusive<u64>>,
) {
    put_stream(out, stream);
    put_ranges(out, ranges);
}

pub(super) fn put_ranges(out: &mut Vec<u8>, ranges: impl Iterator<Item = RangeInclusive<u64>>) {
    let mut encoded = Vec::new();
    let (mut count, mut end) = (0, 0);
    for range in ranges {
        put_varint(&mut encoded, range.start() - end);
        put_varint(&mut encoded, range.end() - range.start());
        end = *range.end();
        count += 1;
    }
    put_varint(out, count);
    out.extend_from_slice(&encoded);
}

pub(super) fn ranges_bytes(ranges: impl Iterator<Item = RangeInclusive<u64>>) -> usize {
    let (mut bytes, mut count, mut end) = (0, 0, 0);
    for range in ranges {
        bytes += varint_bytes(range.start() - end) + varint_bytes(range.end() - range.start());
        end = *range.end();
        count += 1;
    }
    bytes + varint_bytes(count)
}

/// Bytes that [`put_solicit_entry`] appends.
pub fn solicit_entry_bytes(ranges: impl Iterator<Item = RangeInclusive<u64>>) -> usize {
    STREAM_ID_BYTES + ranges_bytes(ranges)
}

/// Builds a solicit frame from encoded entries.
pub fn put_solicit(out: &mut Vec<u8>, round: u64, delay_us: u64, age_ms_max: u64, entries: &[u8]) {
    frame(out, FRAME_SOLICIT, |out| {
        put_varint(out, round);
        put_varint(out, delay_us);
        put_varint(out, age_ms_max);
        out.extend_from_slice(entries);
    });
}
