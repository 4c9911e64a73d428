//! Counters of the core. Each drop and each giving-up has one.

macro_rules! stats {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// What happened since the core was made. All only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[doc = $help])+ pub $name: u64,)+
        }

        impl Stats {
            /// Name, explanation and value of each counter.
            pub fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($help),+).trim_start(), self.$name),)+]
            }
        }
    };
}

stats! {
    /// Purges issued at this node.
    issued,
    /// Purges refused because too many issued ones waited to be sent.
    issue_refused_busy,
    /// Purges refused because they were too large for a message.
    issue_refused_large,
    /// Messages first received by dissemination.
    received,
    /// Messages first received as a repair.
    recovered,
    /// Messages received that were known already.
    duplicates,
    /// Messages skipped because the cache is younger than they are, or because they had expired.
    skipped,
    /// Messages left aside because too many waited to be applied; they stay wanted.
    deferred,
    /// Messages larger than a message may be, by a peer of another version: not taken.
    oversized,
    /// Messages of an op that this version does not know: held and relayed, not applied.
    unsupported,
    /// Messages of streams beyond the number that is kept track of.
    streams_refused,
    /// Purges applied to the cache.
    applied,
    /// Purges that the cache failed to apply; each is tried again.
    apply_failed,
    /// Messages dropped by age.
    expired,
    /// Messages dropped because the retention's bytes ran out.
    evicted,
    /// Messages that expired everywhere we know of before this node had seen them.
    lost,
    /// Times that the cache was flushed because messages had expired everywhere before they came.
    flushed,
    /// Datagrams received, of whatever kind.
    datagrams_in,
    /// Datagrams handed to the driver; one that goes to all peers counts once.
    datagrams_out,
    /// Datagrams that are not of the format.
    malformed,
    /// Datagrams of a peer id that was never added or is removed.
    strangers,
    /// Datagrams that this very process sent: a peer's address is its own.
    reflected,
    /// Datagrams meant for another instance, e.g. for this node before its restart.
    misdirected,
    /// Datagrams of sessions that have not echoed a nonce yet.
    unproven,
    /// Datagrams whose counter was used before or is older than the replay window.
    replayed,
    /// Frames of types that this version does not know.
    frames_unknown,
    /// Sessions proven: peers met, and met again after their restart.
    sessions,
    /// Challenges sent.
    challenges,
    /// Rounds.
    rounds,
    /// Rounds without any peer to gossip with.
    rounds_alone,
    /// Digest datagrams sent.
    digests_out,
    /// Digest datagrams received.
    digests_in,
    /// Solicits sent.
    solicits_out,
    /// Messages asked for.
    solicited,
    /// Solicits received.
    solicits_in,
    /// Solicits not answered because the digest they answer is too long ago.
    solicits_stale,
    /// Messages sent as repairs.
    repairs_out,
    /// Bytes sent as repairs.
    repair_bytes_out,
    /// Messages not sent as repairs because a round's budget was used up.
    repairs_over_budget,
    /// Messages not repaired because they were sent to that peer a moment ago.
    repairs_repeated,
    /// Floors sent: "what you ask for is older than you want", or "is gone, and younger".
    floors_out,
    /// Questions sent who has applied what; one that goes to all peers counts once.
    asks_out,
    /// Such questions received.
    asks_in,
    /// Receipts given up for others that were read later, or refused because all were waited for.
    receipts_given_up,
    /// Messages asked about by peers and forgotten unanswered, because too many were; they ask again.
    asks_dropped,
    /// Datagrams of receipts sent.
    receipts_out,
    /// Datagrams of receipts received.
    receipts_in,
    /// Times that one node id was found to be used by two live processes.
    duplicate_nodes,
    /// Own streams opened because another process spoke as this node.
    reopened,
    /// Events dropped because nobody took them.
    events_dropped,
}
