//! What an operator may change about the protocol.

use std::time::Duration;

/// Settings of one node. Nodes of a fleet may differ in all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This node's name, at most [`crate::bounds::NAME_BYTES_MAX`] bytes; told to peers so that
    /// their status can show it.
    pub name: String,
    /// The group of near nodes that this one belongs to; empty for none.
    pub site: String,
    /// Time between two digests to a random peer. Shorter recovers faster and costs more datagrams:
    /// a lost purge is mended within about one round. Default 250 ms.
    pub round: Duration,
    /// Share of rounds that go to a peer of the own site, in percent. Uniform choice lets a few
    /// nodes that only their site can reach wait long. At most [`crate::bounds::OWN_SITE_PERCENT_MAX`]; default 30.
    pub own_site_percent: u32,
    /// Bytes of repairs sent to one peer in one round. Default 128 KiB.
    pub repair_bytes_peer: u64,
    /// Bytes of repairs sent to all peers in one round. Default 512 KiB.
    pub repair_bytes_all: u64,
    /// How long a message is held and can be given to peers that missed it: the longest absence
    /// that anti-entropy alone mends. Default one day.
    pub retention: Duration,
    /// Bytes of messages held. When they run out the oldest go first, and the retention is shorter
    /// than asked for. Default 256 MiB.
    pub retention_bytes: u64,
    /// A purge older than the cache plus this is skipped: nothing in the cache can predate it by
    /// more (a shield may hold an object that much longer). Default 10 minutes.
    pub join_margin: Duration,
    /// Datagrams by which one may be overtaken and still be accepted, per peer. Rounded up to a
    /// multiple of 64. Must exceed a peer's datagram rate times the round trip. Default 65,536
    /// (8 KiB of memory per peer).
    pub replay_window: u64,
    /// Whether digests bring news. It decides nothing, so a simulation of thousands of nodes that asks for nobody's
    /// standing may do without. Default true.
    pub news: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: String::new(),
            site: String::new(),
            round: Duration::from_millis(250),
            own_site_percent: 30,
            repair_bytes_peer: 128 << 10,
            repair_bytes_all: 512 << 10,
            retention: Duration::from_secs(24 * 3_600),
            retention_bytes: 256 << 20,
            join_margin: Duration::from_secs(600),
            replay_window: 65_536,
            news: true,
        }
    }
}
