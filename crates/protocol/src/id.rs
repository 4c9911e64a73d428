//! Names on the wire: nodes, epochs, streams, messages.
//!
//! A *stream* is what one node issued between two starts of its cache: (node id, epoch). Inside a
//! stream messages are numbered 1, 2, 3 … without gaps, so that a million of them are one range.
//! The text forms are what VCL, logs and operators see, and what [`str::parse`] reads back.

use std::fmt;
use std::str::FromStr;

use crate::bounds::{IDS_MAX, SEQ_MAX};

/// A node's id: the first eight bytes of `SHA-256(node name)`, computed by the driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

/// One life of a node's stream. Uniqueness rests on `random`, never on the clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// `max(last stamp + 1, wall clock in ms)`: orders the epochs of one node for people.
    pub stamp: u64,
    /// 64 random bits.
    pub random: u64,
}

/// (node id, epoch): the sequence of purges that one node issued in one epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId {
    /// Who issues the stream's messages.
    pub node: NodeId,
    /// Which life of that node.
    pub epoch: Epoch,
}

impl StreamId {
    /// The streams of all epochs of a node, for maps that are ordered by them.
    pub fn all_of(node: NodeId) -> std::ops::RangeInclusive<StreamId> {
        let last = Epoch {
            stamp: u64::MAX,
            random: u64::MAX,
        };
        let first = Epoch::default();
        StreamId { node, epoch: first }..=StreamId { node, epoch: last }
    }
}

/// A message's id: its stream and its place in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The stream the message belongs to.
    pub stream: StreamId,
    /// 1 for the stream's first message, without gaps.
    pub seq: u64,
}

/// The ids of messages that were issued together: one, or consecutive ones of a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageIds {
    /// The stream the messages belong to.
    pub stream: StreamId,
    /// The first one's place in it.
    pub first: u64,
    /// The last one's place in it, at least `first`.
    pub last: u64,
}

impl MessageIds {
    /// The first id.
    pub fn first(&self) -> MessageId {
        MessageId {
            stream: self.stream,
            seq: self.first,
        }
    }

    /// What [`fmt::Display`] writes.
    pub fn text(&self) -> Text {
        let mut text = Text::new();
        text.stream(self.stream);
        text.push(b':');
        text.decimal(self.first);
        if self.last != self.first {
            text.push(b'-');
            text.decimal(self.last);
        }
        text
    }

    /// The ids, ascending.
    pub fn iter(&self) -> impl Iterator<Item = MessageId> + use<> {
        let stream = self.stream;
        (self.first..=self.last).map(move |seq| MessageId { stream, seq })
    }
}

impl From<MessageId> for MessageIds {
    fn from(id: MessageId) -> Self {
        MessageIds {
            stream: id.stream,
            first: id.seq,
            last: id.seq,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// `node.stamp.random`, each in hexadecimal, e.g. `00c0ffee00c0ffee.19aa1b2c3d4.0123456789abcdef`.
impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Text::new();
        text.stream(*self);
        f.write_str(text.as_str())
    }
}

/// The stream, a colon and the sequence number in decimal.
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MessageIds::from(*self).text().as_str())
    }
}

/// A [`MessageId`], and for several a hyphen and the last sequence number.
impl fmt::Display for MessageIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

/// The text of ids, written by hand: every purge's answer has one, and formatting it took a seventh of
/// the purge.
#[derive(Clone, Debug)]
pub struct Text {
    bytes: [u8; Text::BYTES_MAX],
    len: usize,
}

impl Text {
    /// Longest text: `node.stamp.random:first-last`.
    pub const BYTES_MAX: usize = 16 + 1 + 16 + 1 + 16 + 1 + 20 + 1 + 20;

    fn new() -> Self {
        Text {
            bytes: [0; Text::BYTES_MAX],
            len: 0,
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Nothing but ASCII was written.
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn digits(&mut self, mut number: u64, base: u64, count: usize) {
        let digits = &mut self.bytes[self.len..self.len + count];
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
        }
        self.len += count;
    }

    fn stream(&mut self, stream: StreamId) {
        let Epoch { stamp, random } = stream.epoch;
        self.digits(stream.node.0, 16, 16);
        self.push(b'.');
        self.digits(stamp, 16, (16 - stamp.leading_zeros() as usize / 4).max(1));
        self.push(b'.');
        self.digits(random, 16, 16);
    }

    fn decimal(&mut self, number: u64) {
        self.digits(
            number,
            10,
            number.checked_ilog10().unwrap_or(0) as usize + 1,
        );
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:016x}", self.stamp, self.random)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for MessageIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an id in the form that [`MessageId`]'s `Display` writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a purge id (node.stamp.random:seq): {0:?}")]
pub struct ParseIdError(String);

fn hex(text: &str, digits_max: usize) -> Option<u64> {
    let valid = (1..=digits_max).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if valid {
        u64::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

impl FromStr for StreamId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let mut parts = text.split('.');
        let mut next = || parts.next().and_then(|part| hex(part, 16));
        let (node, stamp, random) = (next(), next(), next());
        match (node, stamp, random, parts.next()) {
            (Some(node), Some(stamp), Some(random), None) => Ok(StreamId {
                node: NodeId(node),
                epoch: Epoch { stamp, random },
            }),
            _ => Err(ParseIdError(text.chars().take(100).collect())),
        }
    }
}

fn seq(text: &str) -> Option<u64> {
    let valid = (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let seq = valid.then(|| text.parse().ok()).flatten();
    seq.filter(|seq| (1..=SEQ_MAX).contains(seq))
}

impl FromStr for MessageId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let ids: MessageIds = text.parse()?;
        if text.contains('-') {
            return Err(ParseIdError(text.chars().take(100).collect()));
        }
        Ok(MessageId {
            stream: ids.stream,
            seq: ids.first,
        })
    }
}

impl FromStr for MessageIds {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = || ParseIdError(text.chars().take(100).collect());
        let (stream, seqs) = text.split_once(':').ok_or_else(error)?;
        let (first, last) = seqs.split_once('-').unwrap_or((seqs, seqs));
        let (first, last) = seq(first).zip(seq(last)).ok_or_else(error)?;
        if last < first || last - first >= IDS_MAX {
            return Err(error());
        }
        Ok(MessageIds {
            stream: stream.parse().map_err(|_| error())?,
            first,
            last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let stream = StreamId {
            node: NodeId(0xc0ffee),
            epoch: Epoch {
                stamp: 0x19a_a1b2_c3d4,
                random: 7,
            },
        };
        let id = MessageId {
            stream,
            seq: SEQ_MAX,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(
            id.to_string(),
            "0000000000c0ffee.19aa1b2c3d4.0000000000000007:4611686018427387902"
        );
    }

    #[test]
    fn several_ids_read_back_what_they_print() {
        let ids = MessageIds {
            stream: StreamId::default(),
            first: 7,
            last: 9,
        };
        assert_eq!(ids.to_string().parse(), Ok(ids));
        assert!(ids.to_string().ends_with(":7-9"));
        assert_eq!(ids.iter().count(), 3);
        assert!(ids.to_string().parse::<MessageId>().is_err());
        let most = MessageIds {
            last: 7 + IDS_MAX - 1,
            ..ids
        };
        assert_eq!(most.to_string().parse(), Ok(most));
        let one = MessageIds { last: 7, ..ids };
        assert_eq!(one.to_string().parse(), Ok(one));
        assert!(one.to_string().ends_with(":7"));
        for text in [
            "a.b.c:7-6",
            "a.b.c:7-",
            "a.b.c:-7",
            "a.b.c:0-7",
            "a.b.c:7-7-7",
            "a.b.c:1-65537",
            "a.b.c:1-4611686018427387902",
        ] {
            assert!(text.parse::<MessageIds>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_and_the_shortest_ids_are_written_whole() {
        let ids = |all: u64, first, last| MessageIds {
            stream: StreamId {
                node: NodeId(all),
                epoch: Epoch {
                    stamp: all,
                    random: all,
                },
            },
            first,
            last,
        };
        let f = "f".repeat(16);
        assert_eq!(
            ids(u64::MAX, u64::MAX - 1, u64::MAX).to_string(),
            format!("{f}.{f}.{f}:18446744073709551614-18446744073709551615")
        );
        let zeros = "0".repeat(16);
        assert_eq!(ids(0, 0, 0).to_string(), format!("{zeros}.0.{zeros}:0"));
        for stamp in (0..64).map(|bit| (1u64 << bit) - u64::from(bit % 3 == 0)) {
            let id = StreamId {
                epoch: Epoch { stamp, random: 1 },
                ..StreamId::default()
            };
            let expected = format!("{zeros}.{stamp:x}.0000000000000001");
            assert_eq!(id.to_string(), expected);
            let id = MessageId {
                stream: StreamId::default(),
                seq: stamp,
            };
            assert!(id.to_string().ends_with(&format!(":{stamp}")));
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in [
            "",
            ":",
            "a.b.c:0",
            "a.b.c",
            "a.b:1",
            "a.b.c.d:1",
            "a.b.c:+1",
            "A.b.c:1",
            "a.b.c:99999999999999999999",
        ] {
            assert!(text.parse::<MessageId>().is_err(), "{text}");
        }
    }
}
