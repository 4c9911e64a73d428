//! The other systems that Powderhorn's authors built or read about, on the same work.
//!
//! Their talk "Prototypes, Papers, and Production" goes through them: a central broker over TCP, which
//! was their first version ([`broker`]); a graph of responsibility with reminders, their second
//! ([`responsibility`]); Plumtree ([`plumtree`]) and Sprinkler ([`sprinkler`]) among what they read. The
//! slides "Bimodal Multicast And Cache Invalidation" have one more, a broadcast that each server
//! acknowledges to the sender ([`acks`]). [`ours`] is the production core.
//!
//! Each is small, and has what decides how it behaves: what it sends, what it keeps, when it tries
//! again. All get the same purges, the same network and the same faults ([`cases`]), are driven by
//! events alone ([`world`]) and end as an [`Outcome`] of the same numbers.
//!
//! Where a choice was open it was made in favour of the other system, and the module says so.

use powderhorn_protocol::time::Time;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::net::WIRE_OVERHEAD_BYTES;
use crate::record::Histogram;

pub mod acks;
pub mod broker;
pub mod cases;
pub mod link;
pub mod ours;
pub mod plumtree;
pub mod responsibility;
pub mod sprinkler;
pub mod talk;
pub mod world;

/// A purge, by its number.
pub type Message = u32;

/// A purge on the wire: a digest of 32 bytes, and 16 for its id and age.
pub const MESSAGE_BYTES: usize = 48;
/// Only the id of one.
pub const ID_BYTES: usize = 16;
/// Messages that fit into a datagram or a segment.
pub const MESSAGES_PER_DATAGRAM: usize = 24;
/// A datagram without its messages: sealed like ours, and a header of 12 bytes.
pub const DATAGRAM_BYTES: usize = WIRE_OVERHEAD_BYTES + 12;

/// What a system does to the world. It is told the time and draws its chance from here, too.
pub struct Out<P, T> {
    /// The virtual time.
    pub now: Time,
    /// Chance of the system; the network has its own.
    pub rng: StdRng,
    sends: Vec<Sent<P>>,
    deliveries: Vec<(usize, Message)>,
    timers: Vec<(usize, Time, T)>,
}

struct Sent<P> {
    from: usize,
    to: usize,
    bytes: usize,
    packet: P,
}

impl<P, T> Out<P, T> {
    /// Sends a packet that takes so many bytes on the wire, all headers included.
    pub fn send(&mut self, from: usize, to: usize, bytes: usize, packet: P) {
        self.sends.push(Sent {
            from,
            to,
            bytes,
            packet,
        });
    }

    /// Gives a message to the node's cache. One that it has already does nothing.
    pub fn deliver(&mut self, node: usize, message: Message) {
        self.deliveries.push((node, message));
    }

    /// Has the node woken with `timer` at `at`, unless it crashes before.
    pub fn timer(&mut self, node: usize, at: Time, timer: T) {
        self.timers.push((node, at, timer));
    }
}

/// A way to bring messages from any node to all nodes: all nodes of it, each with its own state.
pub trait System {
    /// What its nodes send each other.
    type Packet: Clone;
    /// What it is woken for.
    type Timer;

    /// A message is issued at a node, whose cache has applied it.
    fn issue(&mut self, node: usize, message: Message, out: &mut Out<Self::Packet, Self::Timer>);

    /// A packet arrives at a node.
    fn handle(
        &mut self,
        node: usize,
        from: usize,
        packet: Self::Packet,
        out: &mut Out<Self::Packet, Self::Timer>,
    );

    /// It is time for what was asked for.
    fn handle_timer(
        &mut self,
        node: usize,
        timer: Self::Timer,
        out: &mut Out<Self::Packet, Self::Timer>,
    );

    /// A node's process ends. What it had in memory is gone.
    fn crash(&mut self, node: usize);

    /// It starts again, over an empty cache.
    fn start(&mut self, node: usize);

    /// Messages that a node keeps because a certain other node has not confirmed them, one for each
    /// such node.
    fn memory_messages(&self, node: usize) -> usize;

    /// Messages that a node keeps for whoever may ask, whether anybody lacks them or not.
    fn stored_messages(&self, _node: usize) -> usize {
        0
    }

    /// The node that most depends on.
    fn hub(&self) -> usize {
        0
    }
}

/// The systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The production core.
    Ours,
    /// A central broker over TCP.
    Broker,
    /// Broadcast with acknowledgements to the sender.
    Acks,
    /// A graph of responsibility with reminders.
    Responsibility,
    /// Epidemic broadcast trees.
    Plumtree,
    /// Two layers of reliable links.
    Sprinkler,
}

impl Kind {
    /// All of them, ours first.
    pub const ALL: [Kind; 6] = [
        Kind::Ours,
        Kind::Broker,
        Kind::Acks,
        Kind::Responsibility,
        Kind::Plumtree,
        Kind::Sprinkler,
    ];

    /// Its name in a legend.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::Broker => "broker, TCP (v0)",
            Kind::Acks => "acks to the sender",
            Kind::Responsibility => "reminders (v1)",
            Kind::Plumtree => "Plumtree",
            Kind::Sprinkler => "two-layer tree",
        }
    }
}

/// How a run of one system in one case went.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Which system.
    pub system: Kind,
    /// Which case.
    pub case: &'static str,
    /// Purges issued.
    pub issued: u64,
    /// Deliveries to nodes other than the origin, while purges were issued and measured.
    pub deliveries: u64,
    /// From issue to the other nodes' caches.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// See `p50_ms`.
    pub max_ms: f64,
    /// Purges that some node which may hold the object never got.
    pub lost_messages: u64,
    /// The same, counted once for each such node.
    pub lost_deliveries: u64,
    /// Datagrams or segments sent for each delivery.
    pub datagrams_per_delivery: f64,
    /// Bytes on the wire for each delivery, all headers included.
    pub bytes_per_delivery: f64,
    /// Purges in what arrived, for each delivery; not counted for ours.
    pub payloads_per_delivery: Option<f64>,
    /// The most that a node sent in a second.
    pub busiest_datagrams_per_second: u64,
    /// The most that a node kept for nodes that had not confirmed: see [`System::memory_messages`].
    pub memory_messages_max: u64,
    /// The most that a node kept for anybody: see [`System::stored_messages`].
    pub stored_messages_max: u64,
    /// Of all that happened: the same for the same seed and commit.
    pub trace: String,
    /// Each second: see [`Sample`].
    #[serde(skip)]
    pub samples: Vec<Sample>,
    /// Latencies.
    #[serde(skip)]
    pub latency: Histogram,
}

/// The worst node at a moment; each number may be another node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Seconds since measuring began.
    pub second: u64,
    /// See [`System::memory_messages`].
    pub memory: u64,
    /// See [`System::stored_messages`].
    pub stored: u64,
    /// Datagrams sent in the second before.
    pub datagrams: u64,
}
