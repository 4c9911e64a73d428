//! The footer of a segment: for each stream what is held of it and where, so that a start need not read
//! the messages; and what had been removed from earlier segments when this one was closed.

use powderhorn_protocol::bounds::SEQ_MAX;
use powderhorn_protocol::id::StreamId;
use powderhorn_protocol::ranges::{RangeSet, width};
use powderhorn_protocol::time::Time;

use crate::clock::Anchor;
use crate::format::{self, Reader, put_anchor, put_signed, put_stream, put_varint};

const KIND_FOOTER: u8 = 2;

/// No message takes less in a block.
const MESSAGE_BYTES_MIN: u64 = 4;

/// Where a block of a segment is, and what it has: all that stays in memory of some 200 messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The smallest seq in it.
    pub first: u64,
    /// The earliest birth in it.
    pub born_min: Time,
    /// Where its frame begins in the file.
    pub offset: u32,
    /// The largest seq, less the smallest.
    pub span: u32,
    /// The latest birth, less the earliest, in microseconds.
    pub born_span: u32,
    /// Bytes of its frame; 0 once it was found damaged.
    pub bytes: u32,
}

impl Block {
    /// The largest seq in it.
    pub fn last(&self) -> u64 {
        self.first.saturating_add(u64::from(self.span))
    }

    /// The latest birth in it.
    pub fn born_max(&self) -> Time {
        Time::from_us(
            self.born_min
                .as_us()
                .saturating_add(i64::from(self.born_span)),
        )
    }

    /// The share of its bytes that belongs to the messages at or above `below`, as if all were alike.
    pub fn bytes_kept(&self, below: u64) -> u64 {
        if below <= self.first {
            u64::from(self.bytes)
        } else if below > self.last() {
            0
        } else {
            let kept = self.last() - below + 1;
            u64::from(self.bytes) * kept / (u64::from(self.span) + 1)
        }
    }
}

/// What a segment has of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamBlocks {
    /// The stream.
    pub stream: StreamId,
    /// Its messages.
    pub ranges: RangeSet,
    /// Where they are, ascending by seq.
    pub blocks: Vec<Block>,
}

/// All that the footer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// When the segment was written; births are of this boot's clock.
    pub anchor: Anchor,
    /// What it has.
    pub streams: Vec<StreamBlocks>,
    /// Of these streams the messages below a seq had been removed from all earlier segments.
    pub removed: Vec<(StreamId, u64)>,
}

impl Footer {
    /// Appends the footer as a frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = format::begin_frame(out);
        out.push(KIND_FOOTER);
        put_anchor(out, &self.anchor);
        put_varint(out, self.streams.len() as u64);
        for entry in &self.streams {
            put_stream(out, entry.stream);
            put_varint(out, entry.ranges.range_count() as u64);
            let mut next = 0;
            for range in entry.ranges.iter() {
                put_varint(out, range.start() - next);
                put_varint(out, width(&range) - 1);
                next = range.end().saturating_add(1);
            }
            put_varint(out, entry.blocks.len() as u64);
            let (mut seq, mut born, mut end) = (0u64, self.anchor.boot.as_us(), 0u32);
            for block in &entry.blocks {
                put_varint(out, block.first.wrapping_sub(seq));
                put_varint(out, u64::from(block.span));
                put_signed(out, block.born_min.as_us().wrapping_sub(born));
                put_varint(out, u64::from(block.born_span));
                put_varint(out, u64::from(block.offset.wrapping_sub(end)));
                put_varint(out, u64::from(block.bytes));
                (seq, born) = (block.first, block.born_min.as_us());
                end = block.offset.wrapping_add(block.bytes);
            }
        }
        put_varint(out, self.removed.len() as u64);
        for &(stream, seq) in &self.removed {
            put_stream(out, stream);
            put_varint(out, seq);
        }
        format::end_frame(out, start);
    }

    /// Reads a frame's payload as a footer of a segment whose blocks end at `blocks_end`.
    pub fn read(payload: &[u8], blocks_end: u64) -> Option<Footer> {
        let mut input = Reader(payload);
        if input.u8()? != KIND_FOOTER {
            return None;
        }
        let anchor = input.anchor()?;
        let mut streams = Vec::new();
        // Every turn takes bytes of the input, so no number in it makes this long.
        for _ in 0..input.varint()? {
            streams.push(read_stream(&mut input, &anchor, blocks_end)?);
        }
        let mut removed = Vec::new();
        for _ in 0..input.varint()? {
            removed.push((input.stream()?, input.varint()?));
        }
        input.0.is_empty().then_some(Footer {
            anchor,
            streams,
            removed,
        })
    }
}

fn read_stream(input: &mut Reader<'_>, anchor: &Anchor, blocks_end: u64) -> Option<StreamBlocks> {
    let stream = input.stream()?;
    let (mut ranges, mut next) = (RangeSet::new(), 0u64);
    for _ in 0..input.varint()? {
        let first = next.checked_add(input.varint()?)?;
        let last = first
            .checked_add(input.varint()?)
            .filter(|last| *last <= SEQ_MAX)?;
        ranges.insert_range(first.max(1)..=last);
        next = last + 1;
    }
    let mut blocks: Vec<Block> = Vec::new();
    let (mut seq, mut born, mut end) = (0u64, anchor.boot.as_us(), 0u32);
    for _ in 0..input.varint()? {
        seq = seq.checked_add(input.varint()?)?;
        let span = u32::try_from(input.varint()?).ok()?;
        born = born.wrapping_add(input.signed()?);
        let block = Block {
            first: seq,
            born_min: Time::from_us(born),
            span,
            born_span: u32::try_from(input.varint()?).ok()?,
            offset: end.checked_add(u32::try_from(input.varint()?).ok()?)?,
            bytes: u32::try_from(input.varint()?).ok()?,
        };
        end = block.offset.checked_add(block.bytes)?;
        let after = blocks
            .last()
            .is_none_or(|before| before.last() < block.first);
        if u64::from(end) > blocks_end || block.last() > SEQ_MAX || !after {
            return None;
        }
        blocks.push(block);
    }
    // What it says to have must be somewhere: a message takes more than this many bytes.
    let ends = blocks.first().zip(blocks.last());
    let within = match (ranges.first().zip(ranges.last()), ends) {
        (None, _) => true,
        (Some((first, last)), Some((begin, end))) => first >= begin.first && last <= end.last(),
        (Some(_), None) => false,
    };
    if !within || ranges.count() > blocks_end / MESSAGE_BYTES_MIN {
        return None;
    }
    Some(StreamBlocks {
        stream,
        ranges,
        blocks,
    })
}
