//! The plaintext of a datagram: a header and length-prefixed frames. docs/DESIGN.md has it byte by
//! byte.
//!
//! Decoding allocates nothing and looks at each byte a fixed number of times: a [`Datagram`] is
//! validated once as a whole and then handed out as views into the input. Every encoding is
//! canonical (shortest varints, ascending and maximal ranges), so a datagram that decodes encodes
//! back to the very same bytes. Integers are little-endian; *varint* is LEB128, at most ten bytes.

mod news;
mod receipts;

use std::ops::RangeInclusive;

use crate::bounds::{NAME_BYTES_MAX, SEQ_MAX};
use crate::id::{Epoch, NodeId, StreamId};
use crate::purge::Purge;

pub use news::{Lacking, News, NewsEntry, Standing, news_entry_bytes, put_news, put_news_entry};
pub use receipts::{
    Ask, Fate, ReceiptEntry, Receipts, put_ask, put_receipt_entry, put_receipts,
    receipt_entry_bytes,
};

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

/// Messages of one stream, in ascending order of seq.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// [`Data::REPAIR`]; the other bits are for later versions, which a receiver ignores.
    pub flags: u8,
    /// The stream of all messages in the frame.
    pub stream: StreamId,
    messages: &'a [u8],
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

    fn try_messages(&self) -> impl Iterator<Item = Result<WireMessage<'a>>> + use<'a> {
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
    entries: &'a [u8],
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

    fn try_entries(&self) -> impl Iterator<Item = Result<DigestEntry<'a>>> + use<'a> {
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

    fn decode(input: &mut Reader<'a>) -> Result<DigestEntry<'a>> {
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

    fn encode(&self, out: &mut Vec<u8>) {
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

/// What the sender asks for.
#[derive(Clone, Copy, Debug)]
pub struct Solicit<'a> {
    /// The round of the digest that it answers; 0 if a gap was seen without one.
    pub round: u64,
    /// Microseconds between that digest's arrival and this solicit's departure.
    pub delay_us: u64,
    /// Messages older than this are not wanted.
    pub age_ms_max: u64,
    entries: &'a [u8],
}

/// What is asked of one stream.
#[derive(Clone, Copy, Debug)]
pub struct SolicitEntry<'a> {
    /// The stream.
    pub stream: StreamId,
    ranges: &'a [u8],
}

impl<'a> Solicit<'a> {
    fn try_entries(&self) -> impl Iterator<Item = Result<SolicitEntry<'a>>> + use<'a> {
        each(self.entries, SolicitEntry::decode)
    }

    /// The entries, in the sender's order.
    pub fn entries(&self) -> impl Iterator<Item = SolicitEntry<'a>> + use<'a> {
        self.try_entries().map_while(Result::ok)
    }
}

impl<'a> SolicitEntry<'a> {
    fn decode(input: &mut Reader<'a>) -> Result<SolicitEntry<'a>> {
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
fn decode_ranges<'a>(input: &mut Reader<'a>) -> Result<&'a [u8]> {
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
fn ranges_in(ranges: &[u8]) -> impl Iterator<Item = RangeInclusive<u64>> + use<'_> {
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

fn put_ranges(out: &mut Vec<u8>, ranges: impl Iterator<Item = RangeInclusive<u64>>) {
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

fn ranges_bytes(ranges: impl Iterator<Item = RangeInclusive<u64>>) -> usize {
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

/// Every message of `stream` below `seq` is older than the receiver's solicit asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The stream.
    pub stream: StreamId,
    /// The first seq that may be young enough.
    pub seq: u64,
}

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

fn put_stream(out: &mut Vec<u8>, stream: StreamId) {
    for field in [stream.node.0, stream.epoch.stamp, stream.epoch.random] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[kind, 0, 0]);
    body(out);
    close_frame(out, start);
}

fn close_frame(out: &mut [u8], start: usize) {
    let len = out.len() - start - FRAME_HEAD_BYTES;
    debug_assert!(
        u16::try_from(len).is_ok(),
        "a frame is smaller than a datagram"
    );
    out[start + 1..start + 3].copy_from_slice(&(len as u16).to_le_bytes());
}

/// Decodes one value after the other until the input ends; nothing more after an error.
fn each<'a, T, F>(input: &'a [u8], mut decode: F) -> impl Iterator<Item = Result<T>> + use<'a, T, F>
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

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk().ok_or(WireError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
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

    fn seq(&mut self) -> Result<u64> {
        Some(self.varint()?)
            .filter(|seq| (1..=SEQ_MAX).contains(seq))
            .ok_or(WireError::OutOfRange("seq"))
    }

    fn stream(&mut self) -> Result<StreamId> {
        Ok(StreamId {
            node: NodeId(self.u64()?),
            epoch: Epoch {
                stamp: self.u64()?,
                random: self.u64()?,
            },
        })
    }

    fn name(&mut self) -> Result<&'a str> {
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
