//! The codec of plaintext datagrams: what is written is read back, and whatever bytes come are an
//! error or a value that encodes to the very same bytes.

mod common;

use std::ops::RangeInclusive;

use powderhorn_protocol::bounds::{NAME_BYTES_MAX, NEWS_BODY_BYTES_MAX, SEQ_MAX};
use powderhorn_protocol::id::{Epoch, NodeId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::wire::{
    self, Challenge, DataWriter, Datagram, Earlier, EntryWriter, Fate, Floor, Frame, Header,
    Lacking, RunKind, Standing, WireError, WireMessage,
};
use proptest::prelude::*;

/// A frame as the tests write it down.
#[derive(Clone, Debug, PartialEq)]
enum Plain {
    Challenge([u8; 16], String, String),
    Echo([u8; 16]),
    Data(u8, StreamId, Vec<Message>),
    Digest(u8, u64, (u64, u64), Vec<Entry>),
    Solicit(u64, u64, u64, Vec<(StreamId, Vec<RangeInclusive<u64>>)>),
    Floor(u8, StreamId, u64),
    Ask(u64, Vec<(StreamId, Vec<RangeInclusive<u64>>)>),
    Receipts(Vec<Told>),
    News(u64, Vec<OneNews>),
    Unknown(u8, Vec<u8>),
}

/// What became of messages: of which stream, what, how long ago, and which.
type Told = (StreamId, Fate, Option<u64>, Vec<RangeInclusive<u64>>);

/// The news of a node: whose, its age, and what it says.
type OneNews = (NodeId, u64, Vec<u8>);

#[derive(Clone, Debug, PartialEq)]
struct Message {
    seq: u64,
    age_ms: u64,
    issued_ms: u64,
    op: u16,
    body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    stream: StreamId,
    flags: u8,
    start: u64,
    runs: Vec<(RunKind, u64)>,
}

impl Plain {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Plain::Challenge(nonce, name, site) => Challenge {
                nonce: *nonce,
                name,
                site,
            }
            .encode(out),
            Plain::Echo(nonce) => wire::put_echo(out, *nonce),
            Plain::Data(repair, stream, messages) => {
                let mut writer = DataWriter::new(out, usize::MAX, *stream, *repair);
                for message in messages {
                    assert!(writer.push(&WireMessage {
                        seq: message.seq,
                        age_ms: message.age_ms,
                        issued_ms: message.issued_ms,
                        op: message.op,
                        body: &message.body,
                    }));
                }
                assert_eq!(writer.finish(), messages.len());
            }
            Plain::Digest(flags, round, echo, entries) => {
                wire::put_digest(out, *flags, *round, *echo, |out| {
                    for entry in entries {
                        EntryWriter {
                            stream: entry.stream,
                            flags: entry.flags,
                            start: entry.start,
                            runs: entry.runs.clone(),
                        }
                        .encode(out);
                    }
                })
            }
            Plain::Solicit(round, delay_us, age_ms_max, entries) => {
                let mut encoded = Vec::new();
                for (stream, ranges) in entries {
                    let before = encoded.len();
                    wire::put_solicit_entry(&mut encoded, *stream, ranges.iter().cloned());
                    assert_eq!(
                        wire::solicit_entry_bytes(ranges.iter().cloned()),
                        encoded.len() - before
                    );
                }
                wire::put_solicit(out, *round, *delay_us, *age_ms_max, &encoded);
            }
            Plain::Floor(flags, stream, seq) => Frame::Floor(Floor {
                flags: *flags,
                stream: *stream,
                seq: *seq,
            })
            .encode(out),
            Plain::Ask(spread_us, entries) => {
                let mut encoded = Vec::new();
                for (stream, ranges) in entries {
                    wire::put_solicit_entry(&mut encoded, *stream, ranges.iter().cloned());
                }
                wire::put_ask(out, *spread_us, &encoded);
            }
            Plain::Receipts(entries) => {
                let mut encoded = Vec::new();
                for (stream, fate, since_us, ranges) in entries {
                    let (before, ranges) = (encoded.len(), ranges.iter().cloned());
                    wire::put_receipt_entry(
                        &mut encoded,
                        *stream,
                        *fate,
                        *since_us,
                        ranges.clone(),
                    );
                    let bytes = wire::receipt_entry_bytes(*since_us, ranges);
                    assert_eq!(bytes, encoded.len() - before);
                }
                wire::put_receipts(out, &encoded);
            }
            Plain::News(wall_ms, entries) => {
                let mut encoded = Vec::new();
                for (node, age_ms, body) in entries {
                    let before = encoded.len();
                    wire::put_news_entry(&mut encoded, *node, *age_ms, body);
                    let bytes = wire::news_entry_bytes(*age_ms, body);
                    assert_eq!(bytes, encoded.len() - before);
                }
                wire::put_news(out, *wall_ms, &encoded);
            }
            Plain::Unknown(kind, body) => Frame::Unknown { kind: *kind, body }.encode(out),
        }
    }

    fn read(frame: &Frame<'_>) -> Plain {
        match frame {
            Frame::Challenge(c) => Plain::Challenge(c.nonce, c.name.into(), c.site.into()),
            Frame::Echo(nonce) => Plain::Echo(*nonce),
            Frame::Data(data) => {
                let messages = data.messages().map(|message| Message {
                    seq: message.seq,
                    age_ms: message.age_ms,
                    issued_ms: message.issued_ms,
                    op: message.op,
                    body: message.body.to_vec(),
                });
                Plain::Data(data.flags, data.stream, messages.collect())
            }
            Frame::Digest(digest) => {
                let entries = digest.entries().map(|entry| Entry {
                    stream: entry.stream,
                    flags: entry.flags,
                    start: entry.start,
                    runs: runs_as_lengths(entry.runs(), entry.flags & 1 != 0),
                });
                Plain::Digest(
                    digest.flags,
                    digest.round,
                    (digest.echo_round, digest.echo_delay_us),
                    entries.collect(),
                )
            }
            Frame::Solicit(solicit) => Plain::Solicit(
                solicit.round,
                solicit.delay_us,
                solicit.age_ms_max,
                solicit
                    .entries()
                    .map(|entry| (entry.stream, entry.ranges().collect()))
                    .collect(),
            ),
            Frame::Floor(floor) => Plain::Floor(floor.flags, floor.stream, floor.seq),
            Frame::Ask(ask) => Plain::Ask(
                ask.spread_us,
                ask.entries()
                    .map(|entry| (entry.stream, entry.ranges().collect()))
                    .collect(),
            ),
            Frame::Receipts(all) => Plain::Receipts(
                all.entries()
                    .map(|e| (e.stream, e.fate, e.since_us, e.ranges().collect()))
                    .collect(),
            ),
            Frame::News(news) => Plain::News(
                news.wall_ms,
                news.entries()
                    .map(|entry| (entry.node, entry.age_ms, entry.body.to_vec()))
                    .collect(),
            ),
            Frame::Unknown { kind, body } => Plain::Unknown(*kind, body.to_vec()),
        }
    }
}

/// Runs as they were written: without the open end, and contiguous.
fn runs_as_lengths(
    runs: impl Iterator<Item = (RunKind, RangeInclusive<u64>)>,
    open: bool,
) -> Vec<(RunKind, u64)> {
    let mut runs: Vec<_> = runs.collect();
    for pair in runs.windows(2) {
        assert_eq!(pair[0].1.end() + 1, *pair[1].1.start(), "runs touch");
    }
    if open {
        let (kind, range) = runs.pop().expect("an open entry has an open end");
        assert_eq!((kind, *range.end()), (RunKind::Missing, SEQ_MAX));
    }
    runs.into_iter()
        .map(|(kind, range)| (kind, range.end() - range.start() + 1))
        .collect()
}

fn number() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        0..4u64,
        100..300u64,
        (0..64u32).prop_map(|bit| 1 << bit),
        any::<u64>(),
    ]
}

fn stream() -> impl Strategy<Value = StreamId> {
    (number(), number(), number()).prop_map(|(node, stamp, random)| StreamId {
        node: NodeId(node),
        epoch: Epoch { stamp, random },
    })
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 32..=32),
        proptest::collection::vec(any::<u8>(), 0..200),
    ];
    let step = prop_oneof![8 => Just(1u64), 2 => 2..1_000u64, 1 => Just(1u64 << 58)];
    let issued_step = prop_oneof![0..500u64, Just(1u64 << 60)];
    proptest::collection::vec((step, number(), issued_step, any::<u16>(), body), 0..8).prop_map(
        |parts| {
            let (mut seq, mut issued_ms) = (0, 0);
            parts
                .into_iter()
                .map(|(step, age_ms, issued_step, op, body)| {
                    seq += step;
                    issued_ms += issued_step;
                    Message {
                        seq,
                        age_ms,
                        issued_ms,
                        op,
                        body,
                    }
                })
                .collect()
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![
        Just(RunKind::Silent),
        Just(RunKind::Held),
        Just(RunKind::Missing),
        Just(RunKind::Reserved)
    ];
    let len = prop_oneof![8 => 1..100u64, 1 => Just(1u64 << 57)];
    let start = prop_oneof![Just(1u64), 1..1_000_000u64, Just(1u64 << 61)];
    let runs = proptest::collection::vec((kind, len), 0..12);
    (stream(), any::<u8>(), start, runs).prop_map(|(stream, flags, start, mut runs)| {
        runs.dedup_by_key(|(kind, _)| *kind);
        if flags & 1 != 0
            && runs
                .last()
                .is_some_and(|(kind, _)| *kind == RunKind::Missing)
        {
            runs.pop();
        }
        Entry {
            stream,
            flags,
            start,
            runs,
        }
    })
}

fn solicited() -> impl Strategy<Value = Vec<RangeInclusive<u64>>> {
    let range = (1..10_000u64, 0..100u64).prop_map(|(lo, width)| lo..=lo + width);
    let range = prop_oneof![9 => range, 1 => Just(5_000..=SEQ_MAX), 1 => Just(SEQ_MAX..=SEQ_MAX)];
    proptest::collection::vec(range, 1..20).prop_map(|ranges| {
        let mut set = RangeSet::new();
        ranges.into_iter().for_each(|range| set.insert_range(range));
        set.iter().collect()
    })
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Applied),
        Just(Fate::Unsupported),
        Just(Fate::NotWanted),
        (3..=u8::MAX).prop_map(Fate::Reserved),
    ]
}

fn since() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(prop_oneof![0..4u64, 100..300u64, 0..u64::MAX])
}

fn frame() -> impl Strategy<Value = Plain> {
    let name = "[a-zäß0-9-]{0,30}";
    prop_oneof![
        (any::<[u8; 16]>(), name, name).prop_map(|(n, a, b)| Plain::Challenge(n, a, b)),
        any::<[u8; 16]>().prop_map(Plain::Echo),
        (any::<u8>(), stream(), messages()).prop_map(|(r, s, m)| Plain::Data(r, s, m)),
        (
            any::<u8>(),
            number(),
            (number(), number()),
            proptest::collection::vec(entry(), 0..6)
        )
            .prop_map(|(f, r, e, entries)| Plain::Digest(f, r, e, entries)),
        (
            number(),
            number(),
            number(),
            proptest::collection::vec((stream(), solicited()), 0..4)
        )
            .prop_map(|(r, d, a, entries)| Plain::Solicit(r, d, a, entries)),
        (any::<u8>(), stream(), 1..=SEQ_MAX).prop_map(|(f, s, seq)| Plain::Floor(f, s, seq)),
        (
            number(),
            proptest::collection::vec((stream(), solicited()), 0..4)
        )
            .prop_map(|(spread, entries)| Plain::Ask(spread, entries)),
        proptest::collection::vec((stream(), fate(), since(), solicited()), 0..4)
            .prop_map(Plain::Receipts),
        (number(), proptest::collection::vec(news(), 0..4)).prop_map(|(w, n)| Plain::News(w, n)),
        (10..=u8::MAX, proptest::collection::vec(any::<u8>(), 0..60))
            .prop_map(|(kind, body)| Plain::Unknown(kind, body)),
    ]
}

fn standing() -> impl Strategy<Value = Standing> {
    let flags = prop::sample::subsequence(vec![4u8, 8, 16], 0..=3);
    let lacking = (number(), number(), number()).prop_map(|(count, node, since_ms)| Lacking {
        count,
        node: NodeId(node),
        since_ms,
    });
    let earlier = (number(), number()).prop_map(|(stamp, issued)| Earlier { stamp, issued });
    let standing = (
        (any::<u16>(), flags, number(), since(), number()),
        prop::option::of(lacking),
        prop::option::of(number()),
        prop::option::of(earlier),
    );
    standing.prop_map(|(simple, lacking, retention_ms, earlier)| {
        let (stream, flags, issued, complete_ms, nodes) = simple;
        Standing {
            stream,
            flags: flags.into_iter().sum(),
            issued,
            complete_ms,
            nodes,
            lacking,
            retention_ms,
            earlier,
        }
    })
}

/// With what a later version says more.
fn news() -> impl Strategy<Value = OneNews> {
    let more = proptest::collection::vec(any::<u8>(), 0..3);
    (number(), number(), standing(), more).prop_map(|(node, age_ms, standing, more)| {
        let mut body = Vec::new();
        standing.encode(&mut body);
        body.extend_from_slice(&more);
        (NodeId(node), age_ms, body)
    })
}

fn datagram() -> impl Strategy<Value = (Header, Vec<Plain>)> {
    let header =
        (number(), number(), number(), number()).prop_map(|(a, instance, to, counter)| Header {
            node: NodeId(a),
            instance,
            to,
            counter,
        });
    (header, proptest::collection::vec(frame(), 0..5))
}

fn encode(header: &Header, frames: &[Plain]) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    for frame in frames {
        frame.encode(&mut bytes);
    }
    bytes
}

/// What the codec promises of any bytes.
fn check(bytes: &[u8]) -> Result<bool, TestCaseError> {
    let Ok(datagram) = Datagram::parse(bytes) else {
        return Ok(false);
    };
    let mut again = Vec::new();
    datagram.encode(&mut again);
    prop_assert_eq!(bytes, &again[..]);
    // Not by way of the views alone: out of what was read, too.
    let frames: Vec<Plain> = datagram.frames().map(|frame| Plain::read(&frame)).collect();
    prop_assert_eq!(bytes, &encode(&datagram.header, &frames)[..]);
    Ok(true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_a_node_says_of_itself_comes_back(standing in standing(), age_ms in number()) {
        let mut body = Vec::new();
        standing.encode(&mut body);
        prop_assert!(body.len() <= NEWS_BODY_BYTES_MAX - 16, "room for later versions");
        let frame = Plain::News(1, vec![(NodeId(7), age_ms, body)]);
        let header = Header { node: NodeId(1), instance: 2, to: 3, counter: 4 };
        let bytes = encode(&header, &[frame]);
        let datagram = Datagram::parse(&bytes).expect("just encoded");
        let Some(Frame::News(news)) = datagram.frames().next() else {
            panic!("another frame");
        };
        let entry = news.entries().next().expect("one entry");
        prop_assert_eq!((entry.node, entry.age_ms, entry.standing()), (NodeId(7), age_ms, Some(standing)));
    }

    #[test]
    fn what_is_written_is_read_back((header, frames) in datagram()) {
        let bytes = encode(&header, &frames);
        let datagram = Datagram::parse(&bytes).expect("what the codec writes it takes");
        prop_assert_eq!(datagram.header, header);
        let read: Vec<Plain> = datagram.frames().map(|frame| Plain::read(&frame)).collect();
        prop_assert_eq!(read, frames);
        prop_assert!(check(&bytes)?);
    }

    #[test]
    fn changed_bytes_are_an_error_or_encode_to_themselves(
        (header, frames) in datagram(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..30),
    ) {
        let valid = encode(&header, &frames);
        for (index, value, how) in changes {
            let mut bytes = valid.clone();
            let index = index.index(bytes.len());
            match how {
                0 => bytes[index] ^= 1 << (value % 8),
                1 => bytes[index] = value,
                2 => bytes.truncate(index),
                _ => bytes.insert(index, value),
            }
            check(&bytes)?;
        }
    }

    #[test]
    fn random_bytes_are_an_error_or_encode_to_themselves(
        mut head in proptest::collection::vec(any::<u8>(), 32..=32),
        frames in proptest::collection::vec(
            (1..=7u8, proptest::collection::vec(prop_oneof![0..6u8, any::<u8>()], 0..80)), 0..3),
        tail in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        // Frames of random bodies with lengths that fit, or nothing would get past the first.
        for (kind, body) in frames {
            head.push(kind);
            head.extend_from_slice(&(body.len() as u16).to_le_bytes());
            head.extend_from_slice(&body);
        }
        check(&head)?;
        head.extend_from_slice(&tail);
        check(&head)?;
    }

    #[test]
    fn a_purge_survives_the_wire(op in any::<u16>(), body in proptest::collection::vec(any::<u8>(), 0..60)) {
        let message = WireMessage { seq: 1, age_ms: 0, issued_ms: 0, op, body: &body };
        let purge = message.purge();
        prop_assert_eq!(purge.op(), (op, &body[..]));
        let known = matches!(purge, Purge::Digest(_));
        prop_assert_eq!(known, op == Purge::OP_DIGEST && body.len() == 32);
    }
}

fn error(frames: &[u8]) -> WireError {
    let mut bytes = vec![0; wire::HEADER_BYTES];
    bytes.extend_from_slice(frames);
    Datagram::parse(&bytes).expect_err("not a datagram")
}

#[test]
fn each_prefix_of_a_datagram_is_an_error_or_ends_between_frames() {
    let stream = StreamId::default();
    let frames = [
        Plain::Challenge([1; 16], "a".into(), "b".into()),
        Plain::Data(
            1,
            stream,
            vec![Message {
                seq: 9,
                age_ms: 300,
                issued_ms: 7,
                op: 1,
                body: vec![1; 32],
            }],
        ),
        Plain::Floor(1, stream, 300),
    ];
    let header = Header {
        node: NodeId(1),
        instance: 2,
        to: 3,
        counter: 4,
    };
    let mut borders = vec![wire::HEADER_BYTES];
    for count in 1..=frames.len() {
        borders.push(encode(&header, &frames[..count]).len());
    }
    let bytes = encode(&header, &frames);
    for len in 0..=bytes.len() {
        let parsed = Datagram::parse(&bytes[..len]);
        assert_eq!(parsed.is_ok(), borders.contains(&len), "{len} bytes");
    }
}

#[test]
fn forms_that_are_not_the_shortest_are_refused() {
    // A floor of seq 1 whose varint takes two bytes.
    let mut floor = vec![6, 27, 0, 0];
    floor.extend_from_slice(&[0; 24]);
    floor.extend_from_slice(&[0x81, 0x00]);
    assert_eq!(error(&floor), WireError::Varint);
    // A varint of more than 64 bits.
    let mut digest = vec![4, 13, 0, 0];
    digest.extend_from_slice(&[0xff; 9]);
    digest.extend_from_slice(&[0x02, 0, 0]);
    assert_eq!(error(&digest), WireError::Varint);
    // Neighbouring runs of one kind are one run.
    let mut digest = vec![4, 33, 0, 0, 1, 0, 0];
    digest.extend_from_slice(&[0; 24]);
    digest.extend_from_slice(&[0, 1, 2, (1 << 2) | 1, (1 << 2) | 1]);
    assert_eq!(error(&digest), WireError::OutOfRange("run kind"));
    // Adjacent ranges of a solicit are one range.
    let mut solicit = vec![5, 32, 0, 0, 0, 0];
    solicit.extend_from_slice(&[0; 24]);
    solicit.extend_from_slice(&[2, 1, 0, 1, 0]);
    assert_eq!(error(&solicit), WireError::OutOfRange("range start"));
}

#[test]
fn names_are_bounded_and_printable() {
    let challenge = |name: &[u8]| {
        let mut frame = vec![1, (16 + 2 + name.len()) as u8, 0];
        frame.extend_from_slice(&[0; 16]);
        frame.push(name.len() as u8);
        frame.extend_from_slice(name);
        frame.push(0);
        frame
    };
    let parse = |frame: Vec<u8>| {
        let mut bytes = vec![0; wire::HEADER_BYTES];
        bytes.extend_from_slice(&frame);
        Datagram::parse(&bytes).is_ok()
    };
    assert!(parse(challenge("ö".repeat(NAME_BYTES_MAX / 2).as_bytes())));
    assert!(!parse(challenge(&[b'a'; NAME_BYTES_MAX + 1])));
    assert!(!parse(challenge(b"a\nb")));
    assert!(!parse(challenge("\u{9b}31m".as_bytes())));
    assert!(!parse(challenge(b"\xff")));
    // A long name is cut where a character ends, not inside.
    let mut out = vec![0; wire::HEADER_BYTES];
    let name = format!("a{}", "ö".repeat(NAME_BYTES_MAX));
    Challenge {
        nonce: [0; 16],
        name: &name,
        site: "",
    }
    .encode(&mut out);
    let datagram = Datagram::parse(&out).expect("valid");
    let Some(Frame::Challenge(read)) = datagram.frames().next() else {
        panic!("a challenge");
    };
    assert_eq!(read.name.len(), NAME_BYTES_MAX - 1);
}

#[test]
fn numbers_beyond_the_last_seq_are_refused() {
    let stream = StreamId::default();
    let header = Header {
        node: NodeId(0),
        instance: 0,
        to: 0,
        counter: 0,
    };
    let parse = |frame: Plain| Datagram::parse(&encode(&header, &[frame])).is_ok();
    let message = |seq| {
        let body = vec![];
        let (age_ms, issued_ms, op) = (0, 0, 1);
        Plain::Data(
            0,
            stream,
            vec![Message {
                seq,
                age_ms,
                issued_ms,
                op,
                body,
            }],
        )
    };
    assert!(parse(message(SEQ_MAX)) && !parse(message(SEQ_MAX + 1)));
    assert!(
        parse(Plain::Floor(0, stream, SEQ_MAX)) && !parse(Plain::Floor(0, stream, SEQ_MAX + 1))
    );
    let solicit = |range| Plain::Solicit(0, 0, 0, vec![(stream, vec![range])]);
    assert!(parse(solicit(1..=SEQ_MAX)) && !parse(solicit(1..=SEQ_MAX + 1)));
    let entry = |start, len| {
        let runs = vec![(RunKind::Held, len)];
        let entry = Entry {
            stream,
            flags: 1,
            start,
            runs,
        };
        Plain::Digest(0, 1, (0, 0), vec![entry])
    };
    // Runs reach as far as seqs do, or a node that holds the last one could not say so.
    assert!(parse(entry(SEQ_MAX, 1)) && !parse(entry(SEQ_MAX, 2)));
    assert!(parse(entry(1, SEQ_MAX)) && !parse(entry(2, SEQ_MAX)));
}
