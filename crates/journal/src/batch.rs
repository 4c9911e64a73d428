//! Batches: messages with their own clock anchor and their own table of streams.

use powderhorn_protocol::bounds::SEQ_MAX;
use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::store::Held;
use powderhorn_protocol::time::Time;

use crate::clock::Anchor;
use crate::format::{
    FRAME_HEAD_BYTES, Reader, begin_frame, end_frame, put_anchor, put_signed, put_stream, put_varint,
};

const KIND_BATCH: u8 = 1;

/// A payload of a batch is closed when it has reached this: what one damaged byte costs at most is
/// this and a message.
pub const BATCH_BYTES: usize = 4 << 10;
/// The same for a block of a segment: large enough that the index of blocks stays small in memory.
pub const BLOCK_BYTES: usize = 8 << 10;

/// Writes batches. Born times are those of the anchor's boot clock.
pub struct BatchWriter {
    start: usize,
    streams: Vec<(StreamId, u64, u64)>,
    born: i64,
}

impl BatchWriter {
    /// Opens a batch at the end of `out`.
    pub fn begin(out: &mut Vec<u8>, anchor: &Anchor) -> BatchWriter {
        let start = begin_frame(out);
        out.push(KIND_BATCH);
        put_anchor(out, anchor);
        BatchWriter {
            start,
            streams: Vec::new(),
            born: anchor.boot.as_us(),
        }
    }

    /// Appends a message.
    pub fn push(&mut self, out: &mut Vec<u8>, id: MessageId, held: &Held) {
        // Most messages are of the stream that was used last, or one of few.
        let known = self
            .streams
            .iter()
            .rposition(|(stream, ..)| *stream == id.stream);
        let place = known.unwrap_or_else(|| {
            put_varint(out, 0);
            put_stream(out, id.stream);
            self.streams.push((id.stream, 0, 0));
            self.streams.len() - 1
        });
        if known.is_some() {
            put_varint(out, place as u64 + 1);
        }
        let (_, seq, issued_ms) = &mut self.streams[place];
        let (op, body) = held.purge.op();
        put_signed(out, id.seq.wrapping_sub(*seq) as i64);
        put_signed(out, held.born.as_us().wrapping_sub(self.born));
        put_signed(out, held.issued_ms.wrapping_sub(*issued_ms) as i64);
        put_varint(out, u64::from(op));
        put_varint(out, body.len() as u64);
        out.extend_from_slice(body);
        (*seq, *issued_ms) = (id.seq, held.issued_ms);
        self.born = held.born.as_us();
    }

    /// Bytes of the payload so far.
    pub fn bytes(&self, out: &[u8]) -> usize {
        out.len() - self.start - FRAME_HEAD_BYTES
    }

    /// Closes the batch; how long its frame is.
    pub fn end(self, out: &mut [u8]) -> usize {
        end_frame(out, self.start)
    }
}

/// What a batch has. Born times are those of the anchor's boot clock.
#[derive(Debug)]
pub struct Batch {
    /// When it was written.
    pub anchor: Anchor,
    /// Its messages, in the order in which they were written.
    pub messages: Vec<(MessageId, Held)>,
}

/// Reads a frame's payload as a batch; `None` if it is something else.
pub fn read_batch(payload: &[u8]) -> Option<Batch> {
    let mut input = Reader(payload);
    if input.u8()? != KIND_BATCH {
        return None;
    }
    let anchor = input.anchor()?;
    let (mut streams, mut messages) = (Vec::<(StreamId, u64, u64)>::new(), Vec::new());
    let mut born = anchor.boot.as_us();
    while !input.0.is_empty() {
        let place = match usize::try_from(input.varint()?).ok()?.checked_sub(1) {
            Some(place) => place,
            None => {
                streams.push((input.stream()?, 0, 0));
                streams.len() - 1
            }
        };
        let (stream, seq, issued_ms) = streams.get_mut(place)?;
        *seq = seq.wrapping_add(input.signed()? as u64);
        born = born.wrapping_add(input.signed()?);
        *issued_ms = issued_ms.wrapping_add(input.signed()? as u64);
        let op = u16::try_from(input.varint()?).ok()?;
        let len = usize::try_from(input.varint()?).ok()?;
        let purge = Purge::from_op(op, input.take(len)?);
        if !(1..=SEQ_MAX).contains(seq) {
            return None;
        }
        let id = MessageId {
            stream: *stream,
            seq: *seq,
        };
        let held = Held {
            born: Time::from_us(born),
            issued_ms: *issued_ms,
            purge,
        };
        messages.push((id, held));
    }
    Some(Batch { anchor, messages })
}
