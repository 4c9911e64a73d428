//! The frame of data: messages of one stream, disseminated or as a repair.

use super::bytes::{close_frame, each, put_stream, put_varint};
use super::{FRAME_DATA, Result, WireError};
use crate::bounds::SEQ_MAX;
use crate::id::StreamId;
use crate::purge::Purge;

/// Messages of one stream, in ascending order of seq.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// [`Data::REPAIR`]; the other bits are for later versions, which a receiver ignores.
    pub flags: u8,
    /// The stream of all messages in the frame.
    pub stream: StreamId,
    pub(super) messages: &'a [u8],
}

/// A message as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireMessage<'a> {
    /// Its number in the stream, `1..=SEQ_MAX`.
    pub seq: u64,
    /// Milliseconds since it was issued, as far as its holders know: each adds the time it held it.
    pub age_ms: u64,
    /// Milliseconds from the stream's opening to its issue, on the origin's boot clock. With the
    /// epoch's stamp it gives the wall-clock time of issue, for latency figures only.
    pub issued_ms: u64,
    /// The op code.
    pub op: u16,
    /// The op's body.
    pub body: &'a [u8],
}

impl WireMessage<'_> {
    /// The purge that the op stands for: see [`Purge::from_op`].
    pub fn purge(&self) -> Purge {
        Purge::from_op(self.op, self.body)
    }
}

impl<'a> Data<'a> {
    /// Flag: sent because it was solicited or seen to be missing, not as the first dissemination.
    pub const REPAIR: u8 = 1;

    /// Whether the messages are repairs.
    pub fn repair(&self) -> bool {
        self.flags & Self::REPAIR != 0
    }

    pub(super) fn try_messages(&self) -> impl Iterator<Item = Result<WireMessage<'a>>> + use<'a> {
        let (mut seq, mut issued_ms) = (0u64, 0u64);
        each(self.messages, move |input| {
            let skipped = input.varint()?;
            seq = skipped
                .checked_add(seq + 1)
                .filter(|&seq| seq <= SEQ_MAX)
                .ok_or(WireError::OutOfRange("seq"))?;
            let age_ms = input.varint()?;
            issued_ms = issued_ms
                .checked_add(input.varint()?)
                .ok_or(WireError::OutOfRange("time of issue"))?;
            let op =
                u16::try_from(input.varint()?).map_err(|_| WireError::OutOfRange("op code"))?;
            let len = usize::try_from(input.varint()?).map_err(|_| WireError::Truncated)?;
            Ok(WireMessage {
                seq,
                age_ms,
                issued_ms,
                op,
                body: input.take(len)?,
            })
        })
    }

    /// The messages, ascending.
    pub fn messages(&self) -> impl Iterator<Item = WireMessage<'a>> + use<'a> {
        self.try_messages().map_while(Result::ok)
    }
}

/// Builds a data frame message by message, into a datagram of bounded size.
pub struct DataWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    bytes_max: usize,
    last_seq: u64,
    last_issued_ms: u64,
    messages: usize,
}

impl<'o> DataWriter<'o> {
    /// Opens a data frame at the end of `out`, which may grow to `bytes_max` bytes.
    pub fn new(out: &'o mut Vec<u8>, bytes_max: usize, stream: StreamId, flags: u8) -> Self {
        let start = out.len();
        out.extend_from_slice(&[FRAME_DATA, 0, 0, flags]);
        put_stream(out, stream);
        DataWriter {
            out,
            start,
            bytes_max,
            last_seq: 0,
            last_issued_ms: 0,
            messages: 0,
        }
    }

    /// Appends a message; whether there was room. Messages come in ascending order of seq; a time
    /// of issue that is before its predecessor's is raised to that.
    pub fn push(&mut self, message: &WireMessage<'_>) -> bool {
        if message.seq <= self.last_seq {
            return false;
        }
        let before = self.out.len();
        let issued_ms = message.issued_ms.max(self.last_issued_ms);
        put_varint(self.out, message.seq - self.last_seq - 1);
        put_varint(self.out, message.age_ms);
        put_varint(self.out, issued_ms - self.last_issued_ms);
        put_varint(self.out, u64::from(message.op));
        put_varint(self.out, message.body.len() as u64);
        self.out.extend_from_slice(message.body);
        if self.out.len() > self.bytes_max {
            self.out.truncate(before);
            return false;
        }
        self.last_seq = message.seq;
        self.last_issued_ms = issued_ms;
        self.messages += 1;
        true
    }

    /// Closes the frame and tells how many messages it holds; a frame without any is taken back.
    pub fn finish(self) -> usize {
        if self.messages == 0 && self.bytes_max != usize::MAX {
            self.out.truncate(self.start);
        } else {
            close_frame(self.out, self.start);
        }
        self.messages
    }
}
