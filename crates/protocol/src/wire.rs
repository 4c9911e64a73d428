//! The plaintext of a datagram: a header and length-prefixed frames. docs/DESIGN.md has it byte by
//! byte.
//!
//! Decoding allocates nothing and looks at each byte a fixed number of times: a [`Datagram`] is
//! validated once as a whole and then handed out as views into the input. Every encoding is
//! canonical (shortest varints, ascending and maximal ranges), so a datagram that decodes encodes
//! back to the very same bytes. Integers are little-endian; *varint* is LEB128, at most ten bytes.

mod bytes;
mod data;
mod digest;
mod news;
mod receipts;
mod solicit;

use crate::bounds::NAME_BYTES_MAX;
use crate::id::{NodeId, StreamId};

pub use bytes::varint_bytes;
pub(crate) use bytes::{Reader, put_varint};
use bytes::{frame, put_stream};
pub use data::{Data, DataWriter, WireMessage};
pub use digest::{Digest, DigestEntry, EntryWriter, RunKind, put_digest};
pub use news::{
    Earlier, Lacking, News, NewsEntry, Standing, news_entry_bytes, put_news, put_news_entry,
};
pub use receipts::{
    Ask, Fate, ReceiptEntry, Receipts, put_ask, put_receipt_entry, put_receipts,
    receipt_entry_bytes,
};
pub use solicit::{Solicit, SolicitEntry, put_solicit, put_solicit_entry, solicit_entry_bytes};

/// Bytes of the [`Header`].
pub const HEADER_BYTES: usize = 32;
/// Bytes of a frame's type and length.
pub const FRAME_HEAD_BYTES: usize = 3;
/// Bytes of a [`StreamId`].
pub const STREAM_ID_BYTES: usize = 24;
/// Most bytes of a message besides its op's body: stream, then seq, age and time of issue at their
/// longest, op code, length.
pub const MESSAGE_OVERHEAD_BYTES: usize = STREAM_ID_BYTES + 9 + 10 + 10 + 3 + 3;

const FRAME_CHALLENGE: u8 = 1;
const FRAME_ECHO: u8 = 2;
const FRAME_DATA: u8 = 3;
const FRAME_DIGEST: u8 = 4;
const FRAME_SOLICIT: u8 = 5;
const FRAME_FLOOR: u8 = 6;
const FRAME_ASK: u8 = 7;
const FRAME_RECEIPT: u8 = 8;
const FRAME_NEWS: u8 = 9;

/// Why bytes are not a datagram. Nothing has been changed by trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The input ends inside a field.
    #[error("cut off inside a field")]
    Truncated,
    /// A varint is longer than needed or does not fit 64 bits.
    #[error("varint not in its shortest form")]
    Varint,
    /// A value is outside what the format allows; the text names the field.
    #[error("{0} out of range")]
    OutOfRange(&'static str),
}

pub(crate) type Result<T> = std::result::Result<T, WireError>;

/// Who sends, to whom, and which datagram of the sender's session it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The sender.
    pub node: NodeId,
    /// The sender's instance: 64 random bits, new at every start of its process. (node, instance)
    /// is the session that [`Header::counter`] counts in.
    pub instance: u64,
    /// The instance that the datagram is meant for; 0 for whoever receives it.
    pub to: u64,
    /// Number of the datagram in the sender's session, from 1, each used once.
    pub counter: u64,
}

impl Header {
    /// Appends the header's 32 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for field in [self.node.0, self.instance, self.to, self.counter] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Header> {
        Ok(Header {
            node: NodeId(input.u64()?),
            instance: input.u64()?,
            to: input.u64()?,
            counter: input.u64()?,
        })
    }
}

/// A whole, validated datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its header.
    pub header: Header,
    frames: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Validates `plaintext` from the first byte to the last.
    pub fn parse(plaintext: &'a [u8]) -> Result<Datagram<'a>> {
        let mut input = Reader(plaintext);
        let header = Header::decode(&mut input)?;
        let frames = input.0;
        while !input.0.is_empty() {
            Frame::decode(&mut input)?.validate()?;
        }
        Ok(Datagram { header, frames })
    }

    /// The frames in the order they were written.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'a>> + use<'a> {
        let mut input = Reader(self.frames);
        // `parse` has walked the same bytes with the same code, so no frame is lost to an error.
        std::iter::from_fn(move || Frame::decode(&mut input).ok())
    }

    /// Appends the same bytes that [`Datagram::parse`] was given.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        for frame in self.frames() {
            frame.encode(out);
        }
    }
}

/// One frame. The parts that repeat are iterators over the input.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    /// "Echo this to me, so that I know your session is live", and who asks.
    Challenge(Challenge<'a>),
    /// The nonce of a challenge, sent back.
    Echo([u8; 16]),
    /// Messages of one stream.
    Data(Data<'a>),
    /// What the sender holds and lacks.
    Digest(Digest<'a>),
    /// What the sender asks for.
    Solicit(Solicit<'a>),
    /// Below which seq the sender has nothing as young as was asked for.
    Floor(Floor),
    /// Which messages the sender wants receipts of.
    Ask(Ask<'a>),
    /// Which messages the sender has applied.
    Receipts(Receipts<'a>),
    /// How far nodes have got.
    News(News<'a>),
    /// A frame of a later version: skipped.
    Unknown {
        /// Its type.
        kind: u8,
        /// Its body.
        body: &'a [u8],
    },
}

impl<'a> Frame<'a> {
    fn decode(input: &mut Reader<'a>) -> Result<Frame<'a>> {
        let kind = input.u8()?;
        let len = input.u16()?;
        let mut body = Reader(input.take(usize::from(len))?);
        let frame = match kind {
            FRAME_CHALLENGE => Frame::Challenge(Challenge {
                nonce: body.array()?,
                name: body.name()?,
                site: body.name()?,
            }),
            FRAME_ECHO => Frame::Echo(body.array()?),
            FRAME_DATA => Frame::Data(Data {
                flags: body.u8()?,
                stream: body.stream()?,
                messages: body.rest(),
            }),
            FRAME_DIGEST => Frame::Digest(Digest {
                flags: body.u8()?,
                round: body.varint()?,
                echo_round: body.varint()?,
                echo_delay_us: body.varint()?,
                entries: body.rest(),
            }),
            FRAME_SOLICIT => Frame::Solicit(Solicit {
                round: body.varint()?,
                delay_us: body.varint()?,
                age_ms_max: body.varint()?,
                entries: body.rest(),
            }),
            FRAME_FLOOR => Frame::Floor(Floor {
                flags: body.u8()?,
                stream: body.stream()?,
                seq: body.seq()?,
            }),
            FRAME_ASK => Frame::Ask(Ask {
                spread_us: body.varint()?,
                entries: body.rest(),
            }),
            FRAME_RECEIPT => Frame::Receipts(Receipts {
                entries: body.rest(),
            }),
            FRAME_NEWS => Frame::News(News {
                wall_ms: body.varint()?,
                entries: body.rest(),
            }),
            kind => Frame::Unknown {
                kind,
                body: body.rest(),
            },
        };
        if body.0.is_empty() {
            Ok(frame)
        } else {
            Err(WireError::OutOfRange("frame length"))
        }
    }

    fn validate(&self) -> Result<()> {
        match self {
            Frame::Data(data) => data
                .try_messages()
                .try_for_each(|message| message.map(drop)),
            Frame::Digest(digest) => digest.try_entries().try_for_each(|entry| entry.map(drop)),
            Frame::Solicit(solicit) => solicit.try_entries().try_for_each(|entry| entry.map(drop)),
            Frame::Ask(ask) => ask.try_entries().try_for_each(|entry| entry.map(drop)),
            Frame::Receipts(all) => all.try_entries().try_for_each(|entry| entry.map(drop)),
            Frame::News(news) => news.try_entries().try_for_each(|entry| entry.map(drop)),
            _ => Ok(()),
        }
    }

    /// Appends the frame's head and body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Challenge(challenge) => challenge.encode(out),
            Frame::Echo(nonce) => frame(out, FRAME_ECHO, |out| out.extend_from_slice(nonce)),
            Frame::Data(data) => {
                let mut writer = DataWriter::new(out, usize::MAX, data.stream, data.flags);
                for message in data.messages() {
                    writer.push(&message);
                }
                writer.finish();
            }
            Frame::Digest(digest) => frame(out, FRAME_DIGEST, |out| {
                out.push(digest.flags);
                put_varint(out, digest.round);
                put_varint(out, digest.echo_round);
                put_varint(out, digest.echo_delay_us);
                for entry in digest.entries() {
                    entry.encode(out);
                }
            }),
            Frame::Solicit(solicit) => frame(out, FRAME_SOLICIT, |out| {
                put_varint(out, solicit.round);
                put_varint(out, solicit.delay_us);
                put_varint(out, solicit.age_ms_max);
                for entry in solicit.entries() {
                    put_solicit_entry(out, entry.stream, entry.ranges());
                }
            }),
            Frame::Floor(floor) => frame(out, FRAME_FLOOR, |out| {
                out.push(floor.flags);
                put_stream(out, floor.stream);
                put_varint(out, floor.seq);
            }),
            Frame::Ask(ask) => frame(out, FRAME_ASK, |out| {
                put_varint(out, ask.spread_us);
                for entry in ask.entries() {
                    put_solicit_entry(out, entry.stream, entry.ranges());
                }
            }),
            Frame::Receipts(all) => frame(out, FRAME_RECEIPT, |out| {
                for entry in all.entries() {
                    entry.encode(out);
                }
            }),
            Frame::News(news) => frame(out, FRAME_NEWS, |out| {
                put_varint(out, news.wall_ms);
                for entry in news.entries() {
                    entry.encode(out);
                }
            }),
            Frame::Unknown { kind, body } => frame(out, *kind, |out| out.extend_from_slice(body)),
        }
    }
}

/// See [`Frame::Challenge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge<'a> {
    /// Fresh random bits, for one peer and one proof.
    pub nonce: [u8; 16],
    /// The sender's name: at most [`NAME_BYTES_MAX`] bytes of UTF-8.
    pub name: &'a str,
    /// The sender's site, likewise; may be empty.
    pub site: &'a str,
}

impl Challenge<'_> {
    /// Appends the frame. A longer name or site is cut at a character's border.
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, FRAME_CHALLENGE, |out| {
            out.extend_from_slice(&self.nonce);
            for text in [self.name, self.site] {
                let mut len = text.len().min(NAME_BYTES_MAX);
                while !text.is_char_boundary(len) {
                    len -= 1;
                }
                out.push(len as u8);
                out.extend_from_slice(&text.as_bytes()[..len]);
            }
        });
    }
}

/// Appends an echo frame.
pub fn put_echo(out: &mut Vec<u8>, nonce: [u8; 16]) {
    Frame::Echo(nonce).encode(out);
}

/// Every message of `stream` below `seq` is older than the receiver's solicit asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// [`Floor::YOUNG`]; the other bits are for later versions, which a receiver ignores.
    pub flags: u8,
    /// The stream.
    pub stream: StreamId,
    /// The first seq that may be young enough.
    pub seq: u64,
}

impl Floor {
    /// Flag: of what the solicit asked for, some is gone here and was not older. Otherwise nothing is known of
    /// what it asked for at the floor or above.
    pub const YOUNG: u8 = 1;

    /// Bytes that it takes in a datagram at most.
    pub(crate) const BYTES_MAX: usize = FRAME_HEAD_BYTES + 1 + STREAM_ID_BYTES + 9;
}
