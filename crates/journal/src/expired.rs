//! What has expired of each stream, and what there was no room for: the messages are gone, and who was away is to hear
//! of it from the node's next life all the same.

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

/// What an earlier life no longer had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// By age, of each stream.
    pub expired: Vec<Expired>,
    /// For want of room: when the youngest of it was born.
    pub evicted_born: Option<Time>,
}

/// More than the file has with as many streams as there can be.
const BYTES_MAX: u64 = (1_024 + STREAMS_MAX * ENTRY_BYTES_MAX) as u64;

/// Puts it in place, whole or not at all.
pub fn write(files: &Files, anchor: &Anchor, gone: &Gone) -> io::Result<()> {
    let mut out = format::header().to_vec();
    let start = format::begin_frame(&mut out);
    out.push(KIND_EXPIRED);
    put_anchor(&mut out, anchor);
    let since_boot = |time: Time| time.as_us().wrapping_sub(anchor.boot.as_us());
    put_varint(&mut out, gone.expired.len() as u64);
    for expired in &gone.expired {
        put_stream(&mut out, expired.stream);
        put_varint(&mut out, expired.below);
        put_signed(&mut out, since_boot(expired.born));
    }
    if let Some(born) = gone.evicted_born {
        put_signed(&mut out, since_boot(born));
    }
    format::end_frame(&mut out, start);
    files.replace(EXPIRED, &out)
}

/// Reads it: `Err` if the file is there and says nothing that can be used. Births are of the anchor's boot.
pub fn read(files: &Files) -> io::Result<Option<(Anchor, Gone)>> {
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

fn parse(payload: &[u8]) -> Option<(Anchor, Gone)> {
    let mut input = Reader(payload);
    if input.u8()? != KIND_EXPIRED {
        return None;
    }
    let anchor = input.anchor()?;
    let mut gone = Gone::default();
    let born = |input: &mut Reader<'_>| {
        let since_boot = input.signed()?;
        Some(Time::from_us(anchor.boot.as_us().wrapping_add(since_boot)))
    };
    // Every turn takes bytes of the input, so no number in it makes this long.
    for _ in 0..input.varint()? {
        let stream = input.stream()?;
        let below = input.varint().filter(|below| *below <= SEQ_MAX + 1)?;
        gone.expired.push(Expired {
            stream,
            below,
            born: born(&mut input)?,
        });
    }
    if !input.0.is_empty() {
        gone.evicted_born = Some(born(&mut input)?);
    }
    input.0.is_empty().then_some((anchor, gone))
}
