//! A peer made by hand: it proves its session like any other and then says whatever it is told to.

use powderhorn_protocol::bounds::PLAINTEXT_BYTES_MAX;
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::time::Time;
use powderhorn_protocol::wire::{
    self, DataWriter, Datagram, EntryWriter, Frame, Header, RunKind, Standing, WireMessage,
};
use powderhorn_protocol::{PeerId, To, Transmit};

use super::TestCore;

pub struct Puppet {
    pub peer: PeerId,
    pub node: NodeId,
    pub instance: u64,
    pub counter: u64,
    /// What the core sent to this peer, in order.
    pub inbox: Vec<Vec<u8>>,
}

impl Puppet {
    pub fn new(peer: u32) -> Puppet {
        Puppet {
            peer: PeerId(peer),
            node: NodeId(0xbad0_0000 + u64::from(peer)),
            instance: 0x1234_0000 + u64::from(peer),
            counter: 0,
            inbox: Vec::new(),
        }
    }

    /// Adds itself to the core as a peer and proves its session.
    pub fn join(peer: u32, core: &mut TestCore, now: Time) -> Puppet {
        Puppet::join_at(peer, core, now, "")
    }

    /// The same, as a peer of a site.
    pub fn join_at(peer: u32, core: &mut TestCore, now: Time, site: &str) -> Puppet {
        let mut puppet = Puppet::new(peer);
        core.add_peer(now, puppet.peer, site);
        puppet.prove(core, now);
        puppet
    }

    /// Answers the core's challenge.
    /// A stream that it may issue.
    pub fn stream(&self) -> StreamId {
        StreamId {
            node: self.node,
            epoch: Epoch {
                stamp: 1,
                random: 1,
            },
        }
    }

    /// Tells its news.
    pub fn report(&mut self, core: &mut TestCore, now: Time, standing: &Standing) {
        let (node, mut body) = (self.node, Vec::new());
        standing.encode(&mut body);
        self.say(core, now, |out| {
            let mut entries = Vec::new();
            wire::put_news_entry(&mut entries, node, 0, &body);
            wire::put_news(out, 0, &entries);
        });
    }

    pub fn prove(&mut self, core: &mut TestCore, now: Time) {
        let sessions = core.stats().sessions;
        self.take(core, now);
        let nonce = self
            .inbox
            .iter()
            .rev()
            .find_map(|bytes| challenge_in(bytes))
            .expect("a peer without a session is challenged");
        let echo = self.datagram(|out| wire::put_echo(out, nonce));
        core.handle_datagram(now, self.peer, &echo);
        assert_eq!(core.stats().sessions, sessions + 1, "the session is proven");
    }

    /// A datagram of this peer's session.
    pub fn datagram(&mut self, frames: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        self.counter += 1;
        let mut out = Vec::new();
        Header {
            node: self.node,
            instance: self.instance,
            to: 0,
            counter: self.counter,
        }
        .encode(&mut out);
        frames(&mut out);
        out
    }

    pub fn say(&mut self, core: &mut TestCore, now: Time, frames: impl FnOnce(&mut Vec<u8>)) {
        let bytes = self.datagram(frames);
        core.handle_datagram(now, self.peer, &bytes);
    }

    /// Says that it is there.
    pub fn ping(&mut self, core: &mut TestCore, now: Time) {
        self.say(core, now, |_| {});
    }

    /// Sends one message.
    pub fn tell(&mut self, core: &mut TestCore, now: Time, id: MessageId, tell: Tell<'_>) {
        self.say(core, now, |out| put_message(out, id, tell));
    }

    pub fn digest(&mut self, core: &mut TestCore, now: Time, round: u64, entries: &[EntryWriter]) {
        self.say(core, now, |out| {
            wire::put_digest(out, 0, round, (0, 0), |out| {
                entries.iter().for_each(|entry| entry.encode(out));
            });
        });
    }

    pub fn solicit(
        &mut self,
        core: &mut TestCore,
        now: Time,
        round: u64,
        stream: StreamId,
        ranges: &[std::ops::RangeInclusive<u64>],
    ) {
        let mut entries = Vec::new();
        wire::put_solicit_entry(&mut entries, stream, ranges.iter().cloned());
        self.say(core, now, |out| {
            wire::put_solicit(out, round, 0, u64::MAX >> 1, &entries);
        });
    }

    /// Takes what the core sends, keeps what is for this peer and drops the rest.
    pub fn take(&mut self, core: &mut TestCore, now: Time) -> usize {
        let before = self.inbox.len();
        for transmit in drain(core, now) {
            if transmit.to == To::All || transmit.to == To::Peer(self.peer) {
                self.inbox.push(transmit.payload);
            }
        }
        self.inbox.len() - before
    }

    /// How many messages the core has sent to this peer as repairs.
    pub fn repaired(&self) -> Vec<MessageId> {
        self.inbox
            .iter()
            .filter_map(|bytes| Datagram::parse(bytes).ok())
            .flat_map(|datagram| super::repairs_in(&datagram).collect::<Vec<_>>())
            .map(|(id, _)| id)
            .collect()
    }
}

/// What a hand-made message says.
#[derive(Clone, Copy)]
pub struct Tell<'a> {
    pub repair: bool,
    pub age_ms: u64,
    pub issued_ms: u64,
    pub op: u16,
    pub body: &'a [u8],
}

impl Default for Tell<'_> {
    fn default() -> Self {
        Tell {
            repair: false,
            age_ms: 0,
            issued_ms: 0,
            op: powderhorn_protocol::purge::Purge::OP_DIGEST,
            body: &[7; 32],
        }
    }
}

pub fn put_message(out: &mut Vec<u8>, id: MessageId, tell: Tell<'_>) {
    let mut writer = DataWriter::new(out, PLAINTEXT_BYTES_MAX, id.stream, u8::from(tell.repair));
    let pushed = writer.push(&WireMessage {
        seq: id.seq,
        age_ms: tell.age_ms,
        issued_ms: tell.issued_ms,
        op: tell.op,
        body: tell.body,
    });
    assert!(pushed, "a message fits into a datagram");
    writer.finish();
}

/// A digest entry that claims to hold `range` and to know of nothing else.
pub fn holds(stream: StreamId, range: std::ops::RangeInclusive<u64>) -> EntryWriter {
    let len = range.end() - range.start() + 1;
    claims(stream, *range.start(), vec![(RunKind::Held, len)])
}

/// A digest entry of some runs, with nothing said about what comes after them.
pub fn claims(stream: StreamId, start: u64, runs: Vec<(RunKind, u64)>) -> EntryWriter {
    EntryWriter {
        stream,
        flags: 0,
        start,
        runs,
    }
}

pub fn challenge_in(bytes: &[u8]) -> Option<[u8; 16]> {
    let datagram = Datagram::parse(bytes).ok()?;
    datagram.frames().find_map(|frame| match frame {
        Frame::Challenge(challenge) => Some(challenge.nonce),
        _ => None,
    })
}

/// Everything that the core has to send.
pub fn drain(core: &mut TestCore, now: Time) -> Vec<Transmit> {
    let mut transmits = Vec::new();
    while let Some(transmit) = core.poll_transmit(now) {
        assert!(
            transmit.payload.len() <= PLAINTEXT_BYTES_MAX,
            "a datagram fits"
        );
        if let Err(error) = Datagram::parse(&transmit.payload) {
            panic!("a core sent what it would not take: {error}");
        }
        transmits.push(transmit);
        assert!(transmits.len() < 1_000_000, "the core talks without end");
    }
    transmits
}
