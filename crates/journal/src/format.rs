//! What is in the files, byte by byte.
//!
//! A file is a header and frames. A frame carries its length and a checksum, and can be found again
//! behind a damaged one by its mark. What holds messages is a *batch* (`batch.rs`): with its own clock anchor and
//! its own table of streams, so that no damage elsewhere takes anything from it. A log has batches in the order
//! of arrival. A segment has batches of one stream each (*blocks*), sorted, then a footer that says where
//! they are, then a trailer that says where the footer is.
//!
//! Integers are little-endian; *varint* is LEB128; *signed* is a varint of the zigzag form.

use powderhorn_protocol::id::{Epoch, NodeId, StreamId};
use powderhorn_protocol::time::Time;

use crate::clock::Anchor;

/// The version that is written here. Files of another one are neither read nor touched.
pub const VERSION: u32 = 2;
/// Mark 8, version 4, checksum of these 4.
pub const HEADER_BYTES: usize = 16;
const HEADER_MARK: [u8; 8] = *b"PHjrnl\r\n";

/// Mark 4, length of the payload 4, checksum of the length and the payload 4.
pub const FRAME_HEAD_BYTES: usize = 12;
/// It is in no body that is under a mask, but by chance: a search for it stops at few other places.
const FRAME_MARK: [u8; 4] = [0x00, 0xb1, 0x1c, 0x0e];
/// Longest payload that is believed.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;

/// Bytes that are checked in vain while a file is searched for frames, for each byte of it: more than damage takes,
/// and little enough for a file that was made to keep a start busy, where each mark promises a long frame.
const SEARCH_BYTES_EACH: usize = 4;

/// Offset of the footer 8, mark 8, checksum of these 4.
pub const TRAILER_BYTES: usize = 20;
const TRAILER_MARK: [u8; 8] = *b"PHtrail\n";

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// It can be read here.
    Known,
    /// It was written by another version.
    Version(u32),
    /// They are no header, or a damaged one.
    Damaged,
}

/// The header of a file of ours.
pub fn header() -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(&HEADER_MARK);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads a header.
pub fn read_header(bytes: &[u8]) -> Header {
    let mut input = Reader(bytes);
    let read =
        || -> Option<(&[u8], u32, u32)> { Some((input.take(8)?, input.u32()?, input.u32()?)) };
    match { read }() {
        Some((mark, version, crc))
            if mark == HEADER_MARK && crc == crc32fast::hash(bytes.get(..12).unwrap_or(&[])) =>
        {
            if version == VERSION {
                Header::Known
            } else {
                Header::Version(version)
            }
        }
        _ => Header::Damaged,
    }
}

/// The trailer of a segment whose footer is at `footer`.
pub fn trailer(footer: u64) -> [u8; TRAILER_BYTES] {
    let mut out = [0; TRAILER_BYTES];
    out[..8].copy_from_slice(&footer.to_le_bytes());
    out[8..16].copy_from_slice(&TRAILER_MARK);
    let crc = crc32fast::hash(&out[..16]);
    out[16..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Where a trailer says that the footer is.
pub fn read_trailer(bytes: &[u8]) -> Option<u64> {
    let mut input = Reader(bytes);
    let footer = input.u64()?;
    let right = input.take(8)? == TRAILER_MARK
        && input.u32()? == crc32fast::hash(bytes.get(..16)?)
        && input.0.is_empty();
    right.then_some(footer)
}

fn checksum(payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(payload.len() as u32).to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

/// Opens a frame at the end of `out`; where it begins.
pub fn begin_frame(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&FRAME_MARK);
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES - FRAME_MARK.len()]);
    out.len() - FRAME_HEAD_BYTES
}

/// Closes the frame that begins at `start`; how long it is.
pub fn end_frame(out: &mut [u8], start: usize) -> usize {
    let payload = start + FRAME_HEAD_BYTES;
    let (len, crc) = ((out.len() - payload) as u32, checksum(&out[payload..]));
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    out[start + 8..payload].copy_from_slice(&crc.to_le_bytes());
    out.len() - start
}

/// The payload of the frame that `bytes` begins with, if it is whole and sound.
pub fn read_frame(bytes: &[u8]) -> Option<&[u8]> {
    let mut input = Reader(bytes);
    let mark = input.take(4)?;
    let (len, crc) = (input.u32()? as usize, input.u32()?);
    if mark != FRAME_MARK || len > PAYLOAD_BYTES_MAX {
        return None;
    }
    input.take(len).filter(|payload| checksum(payload) == crc)
}

/// How long the frame that `bytes` begins with says that it is.
fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let mut input = Reader(bytes);
    let marked = input.take(4)? == FRAME_MARK;
    let len = input.u32()? as usize;
    marked.then_some(FRAME_HEAD_BYTES + len)
}

/// What is found in a file that is read from one end to the other.
pub enum Found<'a> {
    /// A frame: where it begins, and its payload.
    Frame(usize, &'a [u8]),
    /// Bytes that are no frame, and once were: there is a frame behind them, or they have the length that
    /// they say. Where they begin.
    Damage(usize, &'a [u8]),
    /// Bytes at the end that are no frame, and may never have been one. Where they begin.
    Torn(usize, &'a [u8]),
    /// The rest of a file in which too much has looked like frames and was none: there may be some in it. Where
    /// it begins.
    Unsearched(usize, &'a [u8]),
}

/// Walks the frames of a file.
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes that may still be checked in vain.
    allowance: usize,
}

impl<'a> Frames<'a> {
    /// Of a file with this content, from `start` on.
    pub fn new(bytes: &'a [u8], start: usize) -> Frames<'a> {
        Frames {
            bytes,
            at: start,
            allowance: bytes.len().saturating_mul(SEARCH_BYTES_EACH),
        }
    }

    /// The payload of a frame at the beginning of `rest`. An error: there may be one, and too much has been checked.
    fn try_frame(&mut self, rest: &'a [u8]) -> Result<Option<&'a [u8]>, Exhausted> {
        let believed = rest.len().min(FRAME_HEAD_BYTES + PAYLOAD_BYTES_MAX);
        let Some(len) = frame_bytes(rest).filter(|len| *len <= believed) else {
            return Ok(None);
        };
        let payload = read_frame(rest);
        if payload.is_none() {
            self.allowance = self.allowance.checked_sub(len).ok_or(Exhausted)?;
        }
        Ok(payload)
    }

    /// How far the next frame is from the beginning of `rest`, which is none.
    fn search(&mut self, rest: &'a [u8]) -> Result<Option<usize>, Exhausted> {
        for skip in 1..rest.len() {
            let here = &rest[skip..];
            if here[0] == FRAME_MARK[0] && self.try_frame(here)?.is_some() {
                return Ok(Some(skip));
            }
        }
        Ok(None)
    }
}

/// Too much was checked in vain.
struct Exhausted;

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let start = self.at;
        let rest = self.bytes.get(start..).filter(|rest| !rest.is_empty())?;
        let next = match self.try_frame(rest) {
            Ok(Some(payload)) => {
                self.at += FRAME_HEAD_BYTES + payload.len();
                return Some(Found::Frame(start, payload));
            }
            Ok(None) => self.search(rest),
            Err(exhausted) => Err(exhausted),
        };
        let Ok(next) = next else {
            self.at = self.bytes.len();
            return Some(Found::Unsearched(start, rest));
        };
        self.at += next.unwrap_or(rest.len());
        Some(match next {
            Some(next) => Found::Damage(start, rest.get(..next)?),
            None if frame_bytes(rest) == Some(rest.len()) => Found::Damage(start, rest),
            None => Found::Torn(start, rest),
        })
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub fn put_stream(out: &mut Vec<u8>, stream: StreamId) {
    for field in [stream.node.0, stream.epoch.stamp, stream.epoch.random] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

pub fn put_anchor(out: &mut Vec<u8>, anchor: &Anchor) {
    out.extend_from_slice(&anchor.boot_id);
    out.extend_from_slice(&anchor.boot.as_us().to_le_bytes());
    out.extend_from_slice(&anchor.wall_ms.to_le_bytes());
}

/// What is left of the input. Nothing in it is believed before it was looked at.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub fn stream(&mut self) -> Option<StreamId> {
        Some(StreamId {
            node: NodeId(self.u64()?),
            epoch: Epoch {
                stamp: self.u64()?,
                random: self.u64()?,
            },
        })
    }

    pub fn anchor(&mut self) -> Option<Anchor> {
        Some(Anchor {
            boot_id: self.array()?,
            boot: Time::from_us(self.u64()? as i64),
            wall_ms: self.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks, each of which says that its frame goes on to the end.
    fn marks_only(count: usize) -> Vec<u8> {
        let total = count * FRAME_HEAD_BYTES;
        let mut bytes = Vec::new();
        for n in 0..count {
            let rest = total - n * FRAME_HEAD_BYTES - FRAME_HEAD_BYTES;
            bytes.extend_from_slice(&FRAME_MARK);
            bytes.extend_from_slice(&(rest as u32).to_le_bytes());
            bytes.extend_from_slice(&[0x5a; 4]);
        }
        bytes
    }

    /// What was checked in vain, and what was found.
    fn walk(bytes: &[u8]) -> (usize, Vec<Found<'_>>) {
        let mut frames = Frames::new(bytes, 0);
        let before = frames.allowance;
        let found: Vec<_> = frames.by_ref().collect();
        (before - frames.allowance, found)
    }

    /// Without a bound each of these files takes a thousand times its size in checksums, and one of ten times the
    /// size ten thousand times.
    #[test]
    fn a_file_of_marks_takes_no_more_than_so_much_for_each_byte() {
        for count in [2_000, 20_000] {
            let bytes = marks_only(count);
            let (checked, found) = walk(&bytes);
            assert!(checked <= bytes.len() * SEARCH_BYTES_EACH, "{checked}");
            assert!(checked > bytes.len() * (SEARCH_BYTES_EACH - 1), "{checked}");
            // What was not looked at is said, and not taken for a torn end.
            assert!(matches!(found[..], [Found::Unsearched(0, rest)] if rest.len() == bytes.len()));
        }
    }

    #[test]
    fn damage_does_not_use_up_what_may_be_checked() {
        let mut bytes = Vec::new();
        for n in 0..1_000u32 {
            let start = begin_frame(&mut bytes);
            bytes.extend(std::iter::repeat_n(n as u8, 4_000));
            end_frame(&mut bytes, start);
            // A byte of each other payload is another one.
            bytes[start + 100] ^= u8::from(n % 2 == 0);
        }
        let (checked, found) = walk(&bytes);
        let frames = found
            .iter()
            .filter(|found| matches!(found, Found::Frame(..)));
        assert_eq!((frames.count(), found.len()), (500, 1_000));
        assert!(checked <= bytes.len(), "{checked}");
    }
}
