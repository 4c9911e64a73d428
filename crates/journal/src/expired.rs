//! What has expired of each stream: the messages are gone, and who was away is to hear of it from the node's next
//! life all the same.

use std::io;

use powderhorn_protocol::Expired;
use powderhorn_protocol::bounds::{SEQ_MAX, STREAMS_MAX};
use powderhorn_protocol::time::Time;

use crate::clock::Anchor;
use crate::files::{EXPIRED, Files};
use crate::format::{
    self, HEADER_BYTES, Header, Reader, put_anchor, put_signed, put_stream, put_varint,
};

const KIND_EXPIRED: u8 = 3;

/// Stream 24, seq 9, birth 10.
const ENTRY_BYTES_MAX: usize = 43;

/// More than the file has with as many streams as there can be.
const BYTES_MAX: u64 = (1_024 + STREAMS_MAX * ENTRY_BYTES_MAX) as u64;

/// Puts it in place, whole or not at all.
pub fn write(files: &Files, anchor: &Anchor, all: &[Expired]) -> io::Result<()> {
    let mut out = format::header().to_vec();
    let start = format::begin_frame(&mut out);
    out.push(KIND_EXPIRED);
    put_anchor(&mut out, anchor);
    put_varint(&mut out, all.len() as u64);
    for expired in all {
        put_stream(&mut out, expired.stream);
        put_varint(&mut out, expired.below);
        let born = expired.born.as_us().wrapping_sub(anchor.boot.as_us());
        put_signed(&mut out, born);
    }
    format::end_frame(&mut out, start);
    files.replace(EXPIRED, &out)
}

/// Reads it: `Err` if the file is there and says nothing that can be used. Births are of the anchor's boot.
pub fn read(files: &Files) -> io::Result<Option<(Anchor, Vec<Expired>)>> {
    let Some(bytes) = files.read_small(EXPIRED, BYTES_MAX)? else {
        return Ok(None);
    };
    if format::read_header(&bytes) != Header::Known {
        return Err(io::Error::other("it is not of this format"));
    }
    let frame = bytes.get(HEADER_BYTES..).and_then(format::read_frame);
    frame
        .and_then(parse)
        .map(Some)
        .ok_or_else(|| io::Error::other("it is damaged"))
}

fn parse(payload: &[u8]) -> Option<(Anchor, Vec<Expired>)> {
    let mut input = Reader(payload);
    if input.u8()? != KIND_EXPIRED {
        return None;
    }
    let anchor = input.anchor()?;
    let mut all = Vec::new();
    // Every turn takes bytes of the input, so no number in it makes this long.
    for _ in 0..input.varint()? {
        let stream = input.stream()?;
        let below = input.varint().filter(|below| *below <= SEQ_MAX + 1)?;
        let born = anchor.boot.as_us().wrapping_add(input.signed()?);
        all.push(Expired {
            stream,
            below,
            born: Time::from_us(born),
        });
    }
    input.0.is_empty().then_some((anchor, all))
}
