//! What frames are made of: integers, names, streams, and the frame around them.

use super::{FRAME_HEAD_BYTES, Result, WireError};
use crate::bounds::{NAME_BYTES_MAX, SEQ_MAX};
use crate::id::{Epoch, NodeId, StreamId};

/// Bytes that `value` takes as a varint: one for each seven bits.
pub fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn put_stream(out: &mut Vec<u8>, stream: StreamId) {
    for field in [stream.node.0, stream.epoch.stamp, stream.epoch.random] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

pub(super) fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[kind, 0, 0]);
    body(out);
    close_frame(out, start);
}

pub(super) fn close_frame(out: &mut [u8], start: usize) {
    let len = out.len() - start - FRAME_HEAD_BYTES;
    debug_assert!(
        u16::try_from(len).is_ok(),
        "a frame is smaller than a datagram"
    );
    out[start + 1..start + 3].copy_from_slice(&(len as u16).to_le_bytes());
}

/// Decodes one value after the other until the input ends; nothing more after an error.
pub(super) fn each<'a, T, F>(
    input: &'a [u8],
    mut decode: F,
) -> impl Iterator<Item = Result<T>> + use<'a, T, F>
where
    F: FnMut(&mut Reader<'a>) -> Result<T>,
{
    let mut input = Reader(input);
    std::iter::from_fn(move || {
        if input.0.is_empty() {
            return None;
        }
        let value = decode(&mut input);
        if value.is_err() {
            input = Reader(&[]);
        }
        Some(value)
    })
}

/// What is left of the input.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A last byte of zero says nothing: the varint has a shorter form.
                return if byte == 0 && shift > 0 {
                    Err(WireError::Varint)
                } else {
                    Ok(value)
                };
            }
        }
        Err(WireError::Varint)
    }

    pub(super) fn seq(&mut self) -> Result<u64> {
        Some(self.varint()?)
            .filter(|seq| (1..=SEQ_MAX).contains(seq))
            .ok_or(WireError::OutOfRange("seq"))
    }

    pub(super) fn stream(&mut self) -> Result<StreamId> {
        Ok(StreamId {
            node: NodeId(self.u64()?),
            epoch: Epoch {
                stamp: self.u64()?,
                random: self.u64()?,
            },
        })
    }

    pub(super) fn name(&mut self) -> Result<&'a str> {
        let len = usize::from(self.u8()?);
        if len > NAME_BYTES_MAX {
            return Err(WireError::OutOfRange("name length"));
        }
        let name =
            std::str::from_utf8(self.take(len)?).map_err(|_| WireError::OutOfRange("name"))?;
        if name.chars().any(char::is_control) {
            return Err(WireError::OutOfRange("name"));
        }
        Ok(name)
    }
}
