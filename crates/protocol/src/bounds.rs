//! Every bound of the protocol, with its reason. What an operator may change is in
//! [`crate::config::Config`]; what is here is part of the protocol or of its safety.

use std::time::Duration;

/// Largest UDP payload: IPv6's minimum MTU (1280) less the IPv6 and UDP headers, so that no
/// datagram of ours is ever fragmented.
pub const DATAGRAM_BYTES_MAX: usize = 1_232;

/// What sealing adds: version 1, key id 4, nonce 24, authentication tag 16.
pub const SEAL_BYTES: usize = 45;

/// Largest plaintext that fits into a sealed datagram.
pub const PLAINTEXT_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - SEAL_BYTES;

/// Largest encoded message (id, ages, op): fits into a datagram beside the header, with room for
/// what a later version may add to a datagram. Larger ones are refused where they are issued.
pub const MESSAGE_BYTES_MAX: usize = 1_100;

/// Longest surrogate key: the longest that fits into a message of its own, rounded down.
pub const KEY_BYTES_MAX: usize = 1_024;

/// Largest sequence number. Nobody counts this far, and sums stay clear of overflow: even a run of
/// all numbers has a length that two bits fit beside.
pub const SEQ_MAX: u64 = (1 << 62) - 2;

/// Longest node or site name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// Streams known at once. Each start of each node opens one, and they stay for the retention:
/// this is 80 restarts of each of 200 nodes in a day.
pub const STREAMS_MAX: usize = 16_384;

/// Messages received but not yet applied, over all streams. Beyond, new ones are left where they
/// came from: they stay wanted and anti-entropy brings them when the cache has caught up.
pub const READY_MAX: u64 = 1_000_000;

/// Messages issued here and not yet sent out. Beyond, an issue is refused, with an error.
pub const OUTBOX_MAX: u64 = 65_536;

/// Earlier messages repeated in a data datagram with room left: a burst loss of this many single
/// datagrams is mended by the next one.
pub const REDUNDANT_MESSAGES_MAX: u64 = 8;

/// Messages older than this are not repeated in later data datagrams.
pub const REDUNDANT_AGE_MAX: Duration = Duration::from_secs(2);

/// One datagram in this many is a digest, a solicit or a repair, if there is one to send, however
/// many purges wait to be disseminated.
pub const GOSSIP_TURN_ONE_IN: u64 = 8;

/// Digest datagrams to the chosen peer in one round. More than one only while more streams are
/// active than fit into one.
pub const DIGEST_PARTS_MAX: usize = 4;

/// A stream that changed within this many rounds, or has gaps, goes into a digest before the quiet ones. Who missed
/// the last message of a stream has to hear of it in this time, or waits until the stream's turn among the quiet
/// ones comes; more active streams have room less often. With 200 nodes that issue ten purges a second and
/// half of everything lost, the very last came after 32 s with eight rounds, and after 19 s with twelve or twenty; with 30 % lost or
/// less twenty were slower than twelve.
pub const ACTIVE_ROUNDS: u32 = 12;

/// For so many rounds what may be too old for this cache is only asked for, and not claimed to be missing.
pub const PULL_ALONE_ROUNDS: u64 = 2;

/// Ranges asked for in one solicit: what fits into its datagram.
pub const SOLICIT_RANGES_MAX: usize = 256;

/// Messages asked from one peer at once. With URL purges (about 40 bytes) this is what one peer's
/// repair budget of a round can answer.
pub const SOLICIT_MESSAGES_MAX: u64 = 3_300;

/// Ranges queued for repair to one peer; further ones wait for its next digest.
pub const REPAIR_RANGES_MAX: usize = 1_024;

/// Share of each repair or solicit that goes to the oldest messages, in percent: the newest are
/// the most useful, but the oldest are the closest to being lost.
pub const OLDEST_SHARE_PERCENT: u64 = 20;

/// How long a gap may be plain reordering, before it is asked for.
pub const REORDER_DELAY: Duration = Duration::from_millis(4);

/// Random extra delay of each solicit: receivers that miss the same datagram must not all ask at
/// the same moment.
pub const SOLICIT_JITTER: Duration = Duration::from_millis(4);

/// Round trip assumed for a peer that was never measured.
pub const RTT_GUESS: Duration = Duration::from_millis(30);

/// Shortest time within which the same thing is not asked or repaired twice.
pub const REPEAT_MIN: Duration = Duration::from_millis(20);

/// Longest such time, for peers whose measured round trip is absurd.
pub const REPEAT_MAX: Duration = Duration::from_secs(4);

/// Slack when a message younger than a round trip is held to be still on its way.
pub const PUSH_SLACK: Duration = Duration::from_millis(10);

/// A repair that the store has not at hand is looked for again after this.
pub const STORE_RETRY: Duration = Duration::from_millis(2);

/// A failed apply is tried again after this.
pub const APPLY_RETRY: Duration = Duration::from_millis(100);

/// Quickest and slowest repetition of a challenge to a peer that has not answered.
pub const CHALLENGE_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// See [`CHALLENGE_INTERVAL_MIN`].
pub const CHALLENGE_INTERVAL_MAX: Duration = Duration::from_secs(8);

/// An unproven session's datagrams draw a challenge at most this often.
pub const CHALLENGE_ANSWER_MIN: Duration = Duration::from_millis(20);

/// A peer that was not heard for half of this, or for three times as many rounds as there are peers,
/// whichever is longer, is challenged each second; if that stays unanswered for half
/// of this, the peer is held to be down.
pub const PEER_SILENT_MIN: Duration = Duration::from_secs(5);

/// One round in this many goes to a peer that is held to be down, so that a healed cut is found.
pub const EXPLORE_ONE_IN: u32 = 8;

/// Own streams opened because somebody else spoke as this node, in one life of the process. Two
/// nodes that share a name would otherwise drive each other's epochs up for ever.
pub const REOPENINGS_MAX: u32 = 8;

/// Messages that an id may name where it is read: more than any purge takes. A question about all that a node will ever
/// issue would have every node answer for each of its purges.
pub const IDS_MAX: u64 = 65_536;

/// Receipts kept at once; of more, the one that was read longest ago is given up.
pub const RECEIPTS_MAX: usize = 1_024;

/// A receipt that nobody waits for is asked for until it was read this long ago.
pub const RECEIPT_KEPT: Duration = Duration::from_secs(60);

/// Ranges that one peer's questions for receipts may have open here.
pub const ASK_RANGES_MAX: usize = 256;

/// A question is answered, also for what is applied later, for so long; who still wants to know asks again.
pub const ASK_KEPT: Duration = Duration::from_secs(10);

/// The time over which answers are spread, for each peer that is asked: 4,000 datagrams a second then.
pub const ASK_SPREAD_PEER: Duration = Duration::from_micros(250);
/// The longest such time.
pub const ASK_SPREAD_MAX: Duration = Duration::from_millis(500);

/// What stays unanswered is asked again after this at least, doubling,
pub const ASK_AGAIN_MIN: Duration = Duration::from_millis(100);
/// and after this at most.
pub const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// Messages of which it is remembered when they were applied, for receipts: a second of a busy fleet.
pub const APPLIED_REMEMBERED: usize = 1_024;

/// After standing still for longer (stopped, swapped out, suspended) a driver drops what waited in its sockets: it
/// would count as younger than it is, and gossip brings it with its age.
pub const STANDSTILL: Duration = Duration::from_secs(5);

/// Events waiting for the driver; beyond, the oldest is dropped (and counted).
pub const EVENTS_MAX: usize = 1_024;

/// Digests remembered to tell whether a solicit answers one that is still current.
pub const DIGESTS_REMEMBERED: usize = 256;

/// A wanted message is given up when a later one of its stream was born this many retentions ago:
/// peers with a longer retention may still hold it for a while.
pub const GIVE_UP_RETENTIONS: u32 = 2;

/// A stream of which nothing is held is spoken of in digests until its last message was born this many
/// retentions ago, for those who are away;
pub const MENTION_RETENTIONS: u32 = 2;
/// and it is remembered for longer, or a peer that speaks of it still would make it new.
pub const FORGET_RETENTIONS: u32 = 3;

/// Largest share of rounds that go to the own site, in percent: who gossiped within its site only could neither mend the
/// others nor tell them that something has expired.
pub const OWN_SITE_PERCENT_MAX: u32 = 95;

/// Rounds for which members are listened to before a message is held to have expired everywhere.
pub const EVIDENCE_ROUNDS: u64 = 40;

/// Members that have to be heard by then, if so many are up; the message's origin is among them, if it is.
pub const EVIDENCE_MEMBERS: usize = 8;

/// What has expired anywhere is older than this, so a flush that began later has taken care of it. The
/// shortest retention.
pub const FLUSH_COVERS_MAX: Duration = Duration::from_secs(60);

/// A flush that failed is tried again after this.
pub const FLUSH_RETRY: Duration = Duration::from_secs(1);

/// Bytes charged for a held message besides its op: keys, times and the map's own overhead.
pub const HELD_OVERHEAD_BYTES: u64 = 96;

/// Largest body of a node's news: 91 bytes with all numbers at their longest, and room for what later
/// versions add. Most take 8 to 12, and 10 more after a start that is not long ago.
pub const NEWS_BODY_BYTES_MAX: usize = 96;

/// Share of a digest's datagram that is kept for news, in percent, if there is so much of it.
pub const NEWS_SHARE_PERCENT: usize = 50;

/// News older than this is no news: its node is not counted among those of whom is known how far they are.
pub const NEWS_STALE_MIN: Duration = Duration::from_secs(10);
/// For each peer it may be older by so much: a datagram takes the news of some fifty nodes.
pub const NEWS_STALE_PEER: Duration = Duration::from_millis(100);
