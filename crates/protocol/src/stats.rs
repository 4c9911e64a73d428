//! Counters of the core. Each drop and each giving-up has one.

/// What happened since the core was made. All only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Purges issued at this node.
    pub issued: u64,
    /// Purges refused because too many issued ones waited to be sent.
    pub issue_refused_busy: u64,
    /// Purges refused because they were too large for a message.
    pub issue_refused_large: u64,
    /// Messages first received by dissemination.
    pub received: u64,
    /// Messages first received as a repair.
    pub recovered: u64,
    /// Messages received that were known already.
    pub duplicates: u64,
    /// Messages skipped because the cache is younger than they are, or because they had expired.
    pub skipped: u64,
    /// Messages left aside because too many waited to be applied; they stay wanted.
    pub deferred: u64,
    /// Messages larger than a message may be, by a peer of another version: not taken.
    pub oversized: u64,
    /// Messages of an op that this version does not know: held and relayed, not applied.
    pub unsupported: u64,
    /// Messages of streams beyond the number that is kept track of.
    pub streams_refused: u64,
    /// Purges applied to the cache.
    pub applied: u64,
    /// Purges that the cache failed to apply; each is tried again.
    pub apply_failed: u64,
    /// Messages dropped by age.
    pub expired: u64,
    /// Messages dropped because the retention's bytes ran out.
    pub evicted: u64,
    /// Messages that expired everywhere we know of before this node had seen them.
    pub lost: u64,
    /// Datagrams received, of whatever kind.
    pub datagrams_in: u64,
    /// Datagrams handed to the driver; one that goes to all peers counts once.
    pub datagrams_out: u64,
    /// Datagrams that are not of the format.
    pub malformed: u64,
    /// Datagrams of a peer id that was never added or is removed.
    pub strangers: u64,
    /// Datagrams that this very process sent: a peer's address is its own.
    pub reflected: u64,
    /// Datagrams meant for another instance, e.g. for this node before its restart.
    pub misdirected: u64,
    /// Datagrams of sessions that have not echoed a nonce yet.
    pub unproven: u64,
    /// Datagrams whose counter was used before or is older than the replay window.
    pub replayed: u64,
    /// Frames of types that this version does not know.
    pub frames_unknown: u64,
    /// Sessions proven: peers met, and met again after their restart.
    pub sessions: u64,
    /// Challenges sent.
    pub challenges: u64,
    /// Rounds.
    pub rounds: u64,
    /// Rounds without any peer to gossip with.
    pub rounds_alone: u64,
    /// Digest datagrams sent.
    pub digests_out: u64,
    /// Digest datagrams received.
    pub digests_in: u64,
    /// Solicits sent.
    pub solicits_out: u64,
    /// Messages asked for.
    pub solicited: u64,
    /// Solicits received.
    pub solicits_in: u64,
    /// Solicits not answered because the digest they answer is too long ago.
    pub solicits_stale: u64,
    /// Messages sent as repairs.
    pub repairs_out: u64,
    /// Bytes sent as repairs.
    pub repair_bytes_out: u64,
    /// Messages not sent as repairs because a round's budget was used up.
    pub repairs_over_budget: u64,
    /// Messages not repaired because they were sent to that peer a moment ago.
    pub repairs_repeated: u64,
    /// Floors sent: "what you ask for is older than you want".
    pub floors_out: u64,
    /// Own streams opened because another process spoke as this node.
    pub reopened: u64,
    /// Events dropped because nobody took them.
    pub events_dropped: u64,
}
