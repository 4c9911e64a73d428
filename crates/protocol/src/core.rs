//! The state machine: what goes in, what comes out, and the clockwork. How nodes compare and mend
//! what they hold is in the module `gossip`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use rand::{Rng, RngCore};

use crate::absence::Flush;
use crate::bounds::{
    APPLY_RETRY, CHALLENGE_ANSWER_MIN, CHALLENGE_INTERVAL_MAX, CHALLENGE_INTERVAL_MIN, EVENTS_MAX,
    EXPLORE_ONE_IN, FORGET_RETENTIONS, GIVE_UP_RETENTIONS, GOSSIP_TURN_ONE_IN, MESSAGE_BYTES_MAX,
    OUTBOX_MAX, PEER_SILENT_MIN, PLAINTEXT_BYTES_MAX, READY_MAX, REDUNDANT_AGE_MAX,
    REDUNDANT_MESSAGES_MAX, REOPENINGS_MAX, REORDER_DELAY, SEQ_MAX, SOLICIT_JITTER, STREAMS_MAX,
};
use crate::config::Config;
use crate::gossip::PendingSolicit;
use crate::id::{Epoch, MessageId, MessageIds, NodeId, StreamId};
use crate::news::Newsroom;
use crate::peer::{Peer, PeerId, Peers, Session};
use crate::purge::Purge;
use crate::ranges::{RangeSet, total, width};
use crate::receipts::Receipts;
use crate::roster::Roster;
use crate::session::{ReplayWindow, SessionId};
use crate::stats::Stats;
use crate::store::{Fetch, Held, Store};
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{self, Data, DataWriter, Datagram, Frame, Header, WireMessage};

/// Rounds for which a stream without anything in it is remembered, so that a peer whose clock is a
/// little behind does not bring it back.
const LINGER_ROUNDS: u64 = 1_000;

/// Messages evicted of one stream before the next oldest is looked at.
const EVICT_BATCH_MAX: u64 = 64;

/// How long a silent peer has to answer challenges before it is held to be down.
const PATIENCE: Duration = Duration::from_millis(PEER_SILENT_MIN.as_millis() as u64 / 2);

/// How often what is too old is looked for in the time of a retention: each 4 s if that is a day.
const EXPIRE_PER_RETENTION: u32 = 20_000;

/// Rounds, for each peer, in which a peer is heard if nothing is lost: two cycles at most lie between two
/// digests of it to one peer, and three in ten of its rounds go elsewhere.
const QUIET_ROUNDS_PEER: u32 = 3;

/// Rounds between two looks for node ids that are used twice.
const DUPLICATES_ONE_IN: u64 = 20;

/// Such batches in a round: 260,000 messages a second.
const EVICT_BATCHES_ROUND: usize = 1_024;

/// How often a peer that has fallen silent is challenged.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Who this node is in this life of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// 64 random bits, new at each start of the process and not 0.
    pub instance: u64,
    /// The epoch's stamp: `max(last stamp + 1, wall clock in ms)`.
    pub stamp: u64,
}

/// To whom a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To every peer that was added.
    All,
    /// To one peer.
    Peer(PeerId),
}

/// A datagram to be sealed and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// To whom.
    pub to: To,
    /// At most [`PLAINTEXT_BYTES_MAX`] bytes.
    pub payload: Vec<u8>,
}

/// A purge for the cache. It is in flight until [`Core::handle_applied`] says what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message's id. The seq is 0 for a flush that nobody issued: this node was away for so long
    /// that purges it has missed cannot be had any more.
    pub id: MessageId,
    /// What to purge; never [`Purge::Unknown`].
    pub purge: Purge,
    /// Time since its issue, as far as its holders know.
    pub age: Duration,
    /// When it was handed out; it arrived then or a little before.
    pub arrival: Time,
    /// Wall-clock time of its issue on the origin's clock, in ms since 1970. For latency figures
    /// only.
    pub issued_wall_ms: u64,
}

/// What became of a purge that was handed to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cache holds nothing that it asked to remove.
    Applied,
    /// Not done; it is handed out again after a moment.
    Failed,
    /// This cache cannot do it, now or later. Reported, not tried again.
    Unsupported,
}

/// Why a purge was not issued. Nothing has changed and nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PurgeError {
    /// Larger than a message may be.
    #[error("the purge takes {0} bytes as a message; at most {MESSAGE_BYTES_MAX} fit")]
    TooLarge(usize),
    /// Purges are issued faster than they can be sent. Try again.
    #[error("{OUTBOX_MAX} purges wait to be sent; try again")]
    Busy,
    /// There is nothing to issue.
    #[error("no purge to issue")]
    Nothing,
    /// Not a purge of this version.
    #[error("op {0} is not known to this version")]
    Unsupported(u16),
}

/// What an operator should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer's session was proven for the first time, or it is heard again.
    PeerUp(PeerId),
    /// Nothing is heard of a peer any more.
    PeerDown(PeerId),
    /// A peer has started again.
    PeerRestarted(PeerId),
    /// Two live processes use one node id: the peers, or this node itself and the peer.
    DuplicateNode {
        /// The id that both use.
        node: NodeId,
        /// One of them; `None` for this node.
        first: Option<PeerId>,
        /// The other.
        second: PeerId,
    },
    /// Another process has issued messages, or a later epoch, as this node; this node goes on with
    /// a stream of its own.
    Reopened {
        /// The stream that is left behind; its messages stay held.
        from: StreamId,
        /// The stream that this node's next purges go to.
        to: StreamId,
    },
    /// A message of an op that this version does not know has come: held and relayed.
    UnsupportedOp(MessageId, u16),
    /// This node was away for too long: its cache has been flushed.
    TooLongAway {
        /// Messages that it lacked and that have expired everywhere.
        messages: u64,
    },
    /// The first message of a stream beyond the number kept track of.
    TooManyStreams(StreamId),
}

/// What this node knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Applied to the cache here.
    Seen,
    /// Received, and waiting for the cache.
    Held,
    /// Received, of an op that is not known here.
    Unsupported,
    /// Not wanted: older than the cache, or expired.
    Skipped,
    /// Not received.
    Unknown,
}

/// A stream, as [`Core::streams`] shows it.
#[derive(Clone, Copy, Debug)]
pub struct StreamView<'a> {
    /// Its id.
    pub id: StreamId,
    /// Whether this node's purges go to it.
    pub own: bool,
    /// Nothing below is held or wanted.
    pub floor: u64,
    /// The largest seq that anybody has claimed; 0 for none.
    pub top: u64,
    /// Messages held.
    pub held: &'a RangeSet,
    /// Messages applied.
    pub seen: &'a RangeSet,
    /// Messages of unknown ops.
    pub unsupported: &'a RangeSet,
    /// How many messages are known to exist and are wanted.
    pub wanted: u64,
    /// Since when something of it has been wanted, or received and not applied, as the rounds saw it.
    pub lacking_since: Option<Time>,
    /// How many of its messages came as repairs, not by dissemination.
    pub recovered: u64,
}

/// A peer, as [`Core::peers`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its number.
    pub id: PeerId,
    /// Its proven session, if any.
    pub session: Option<SessionId>,
    /// Its own name, once it has told it.
    pub name: String,
    /// Its own site, once it has told it.
    pub site: String,
    /// When something valid was heard of it.
    pub heard: Option<Time>,
    /// Whether it is held to be up.
    pub up: bool,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// By how many ms its wall clock is ahead of this node's, within half a round trip; `None` if one of
    /// them is not told.
    pub clock_skew_ms: Option<i64>,
    /// When its last digest came.
    pub digest_heard: Option<Time>,
    /// When its session was proven.
    pub proven: Option<Time>,
}

/// One node of a fleet. See the crate's documentation for how it works and
/// [`Core::handle_timeout`] for how to drive it.
#[derive(Debug)]
pub struct Core<S, R> {
    pub(crate) config: Config,
    pub(crate) node: NodeId,
    instance: u64,
    pub(crate) own: StreamId,
    /// When the own stream was opened.
    pub(crate) opened: Time,
    /// Messages born before this cannot concern anything in the cache.
    pub(crate) born_min: Time,
    /// Of the cache, because this node was away for too long.
    pub(crate) flush: Flush,
    /// When the last one began.
    pub(crate) flushed_at: Option<Time>,
    pub(crate) store: S,
    pub(crate) rng: R,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) peers: Peers,
    /// The same peers by what they are at the moment.
    pub(crate) roster: Roster,
    counter: u64,
    pub(crate) round: u64,
    next_round: Time,
    /// When to look next for what is too old.
    expire_at: Time,
    /// Last seq of the own stream that was disseminated.
    sent: u64,
    /// What is left of this round's repairs to all peers, in bytes.
    pub(crate) repair_left: u64,
    /// Peers with a challenge or an echo to send.
    control: BTreeSet<PeerId>,
    /// Digest datagrams of this round.
    pub(crate) digests: VecDeque<(PeerId, Vec<u8>)>,
    /// The latest digests sent: round, to whom, when.
    pub(crate) digests_sent: VecDeque<(u64, PeerId, Time)>,
    pub(crate) solicits: BTreeMap<PeerId, PendingSolicit>,
    /// Peers with repairs or floors to send.
    pub(crate) repairing: BTreeSet<PeerId>,
    /// Peers whose repairs the store is fetching,
    pub(crate) awaiting: BTreeSet<PeerId>,
    /// and when to look again.
    pub(crate) awaited_at: Time,
    /// The peer that the last repair went to: peers take turns.
    pub(crate) last_repaired: Option<PeerId>,
    gaps_due: BTreeSet<(Time, StreamId)>,
    ready: BTreeSet<StreamId>,
    ready_count: u64,
    last_delivered: Option<StreamId>,
    retrying: BTreeSet<StreamId>,
    retry_at: Time,
    reopenings: u32,
    pub(crate) receipts: Receipts,
    pub(crate) news: Newsroom,
    pub(crate) stats: Stats,
    events: VecDeque<Event>,
}

impl<S: Store, R: RngCore> Core<S, R> {
    /// A node without peers. `cache_started` is when the cache came up empty: purges from long
    /// before that are skipped. `rng` should be seeded from the operating system, except where a
    /// run is to be repeated.
    pub fn new(
        identity: Identity,
        config: Config,
        store: S,
        mut rng: R,
        now: Time,
        cache_started: Time,
    ) -> Self {
        let config = usable(config);
        let own = StreamId {
            node: identity.node,
            epoch: Epoch {
                stamp: identity.stamp,
                random: rng.next_u64(),
            },
        };
        let born_min = cache_started - config.join_margin;
        let mut core = Core {
            node: identity.node,
            instance: identity.instance,
            own,
            opened: now,
            born_min,
            flush: Flush::None,
            flushed_at: None,
            store,
            rng,
            streams: BTreeMap::from([(own, Stream::new(0))]),
            peers: Peers::default(),
            roster: Roster::default(),
            counter: 0,
            round: 0,
            next_round: now,
            expire_at: now,
            sent: 0,
            repair_left: config.repair_bytes_all,
            control: BTreeSet::new(),
            digests: VecDeque::new(),
            digests_sent: VecDeque::new(),
            last_repaired: None,
            solicits: BTreeMap::new(),
            repairing: BTreeSet::new(),
            awaiting: BTreeSet::new(),
            awaited_at: Time::NEVER,
            gaps_due: BTreeSet::new(),
            ready: BTreeSet::new(),
            ready_count: 0,
            last_delivered: None,
            retrying: BTreeSet::new(),
            retry_at: Time::NEVER,
            reopenings: 0,
            receipts: Receipts::new(),
            news: Newsroom::default(),
            stats: Stats::default(),
            events: VecDeque::new(),
            config,
        };
        core.next_round = now + core.jittered_round();
        core
    }

    /// Goes on with other settings: all but name, site, join margin and replay window, which stay.
    pub fn set_config(&mut self, now: Time, config: Config) {
        let before = &self.config;
        self.config = usable(Config {
            name: before.name.clone(),
            site: before.site.clone(),
            join_margin: before.join_margin,
            replay_window: before.replay_window,
            ..config
        });
        self.next_round = self.next_round.min(now + self.config.round);
        self.expire_at = now;
    }

    /// Adds a peer and challenges it at once. A `peer` that is there already is replaced.
    pub fn add_peer(&mut self, now: Time, peer: PeerId, site: &str) {
        self.remove_peer(peer);
        let own_site = !site.is_empty() && site == self.config.site;
        let nonce = self.nonce();
        let mut state = Peer::new(own_site, nonce, now);
        state.challenge_now = true;
        self.roster.add(peer, &state);
        self.peers.insert(peer, state);
        self.control.insert(peer);
    }

    /// Forgets a peer. What it issued stays held until it expires.
    pub fn remove_peer(&mut self, peer: PeerId) {
        if let Some(state) = self.peers.remove(peer) {
            self.roster.remove(peer, &state);
            if let Some(session) = &state.session {
                self.forget_news(session.id.node);
            }
        }
        self.control.remove(&peer);
        self.repairing.remove(&peer);
        self.solicits.remove(&peer);
        self.digests.retain(|(to, _)| *to != peer);
        self.receipts.forget_peer(peer);
    }

    /// Issues one purge: see [`Core::handle_purges`].
    pub fn handle_purge(&mut self, now: Time, purge: Purge) -> Result<MessageId, PurgeError> {
        Ok(self.handle_purges(now, [purge])?.first())
    }

    /// Issues purges that belong together, all or none: consecutive messages, which are held at
    /// once, go out with the next datagrams, and are in flight with the caller, who says by
    /// [`Core::handle_applied`] what became of each in the local cache.
    pub fn handle_purges(
        &mut self,
        now: Time,
        purges: impl IntoIterator<Item = Purge, IntoIter: ExactSizeIterator + Clone>,
    ) -> Result<MessageIds, PurgeError> {
        let purges = purges.into_iter();
        for purge in purges.clone() {
            if let Purge::Unknown { op, .. } = purge {
                return Err(PurgeError::Unsupported(op));
            }
            let bytes = purge.message_bytes_max();
            if bytes > MESSAGE_BYTES_MAX {
                self.stats.issue_refused_large += 1;
                return Err(PurgeError::TooLarge(bytes));
            }
        }
        let count = purges.len() as u64;
        if count == 0 {
            return Err(PurgeError::Nothing);
        }
        let round = self.round;
        let stream = self
            .streams
            .entry(self.own)
            .or_insert_with(|| Stream::new(round));
        stream.young_from = Some(1);
        if (stream.top - self.sent).saturating_add(count) > OUTBOX_MAX {
            self.stats.issue_refused_busy += 1;
            return Err(PurgeError::Busy);
        }
        let ids = MessageIds {
            stream: self.own,
            first: stream.top + 1,
            last: stream.top + count,
        };
        stream.top = ids.last;
        for set in [&mut stream.known, &mut stream.held, &mut stream.in_flight] {
            set.insert_range(ids.first..=ids.last);
        }
        stream.changed = round;
        stream.last_born = Some(now);
        if self.peers.is_empty() {
            // There is nobody to send them to, now or later: who joins asks for them.
            self.sent = ids.last;
        }
        let issued_ms = now.since(self.opened).as_millis() as u64;
        for (id, purge) in ids.iter().zip(purges) {
            self.store.insert(
                id,
                Held {
                    born: now,
                    issued_ms,
                    purge,
                },
            );
        }
        self.stats.issued += count;
        Ok(ids)
    }

    /// Holds again what an earlier life of this node held of a stream, all of which is in the store. It
    /// is offered to peers under its old ids; what is young enough goes to the cache as well, and the
    /// rest is skipped. Call it before anything is heard of the stream.
    pub fn restore(&mut self, id: StreamId, held: &RangeSet) {
        let too_old = self.store.last_born_before(id, self.born_min);
        let newest = self.store.last_born_before(id, Time::NEVER);
        let Some((first, last)) = held.first().zip(held.last()) else {
            return;
        };
        let Some(stream) = self.stream(id) else {
            return;
        };
        let young_from = too_old.map_or(first, |(seq, _)| seq + 1);
        stream.top = stream.top.max(last);
        stream.last_born = stream.last_born.max(newest.map(|(_, born)| born));
        if young_from <= last {
            // Of what comes after messages that are all too old nothing is known.
            stream.note_young(young_from);
        }
        let mut ready = 0;
        for range in held.iter() {
            stream.known.insert_range(range.clone());
            stream.held.insert_range(range.clone());
            let young = young_from.max(*range.start())..=*range.end();
            if !young.is_empty() {
                ready += width(&young);
                stream.ready.insert_range(young);
            }
        }
        if ready > 0 {
            self.ready.insert(id);
            self.ready_count += ready;
        }
    }

    /// What is held, for the node's next life.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Takes the cache's answer for a message in flight; any other id is ignored.
    pub fn handle_applied(&mut self, now: Time, id: MessageId, outcome: Outcome) {
        if id.seq == 0 && id.stream.node == self.node {
            self.handle_flushed(now, outcome);
            return;
        }
        let Some(stream) = self.streams.get_mut(&id.stream) else {
            return;
        };
        if !stream.in_flight.remove(id.seq) {
            return;
        }
        match outcome {
            Outcome::Applied => {
                stream.seen.insert(id.seq);
                self.stats.applied += 1;
                self.note_applied(now, id);
            }
            Outcome::Failed if stream.held.contains(id.seq) => {
                self.stats.apply_failed += 1;
                self.retry(now, id);
            }
            Outcome::Failed => {
                // It is no longer held: wanted from the fleet again.
                self.stats.apply_failed += 1;
                stream.known.remove(id.seq);
            }
            Outcome::Unsupported => {
                stream.unsupported.insert(id.seq);
                self.stats.unsupported += 1;
                self.answer_soon(now, id);
            }
        }
    }

    fn retry(&mut self, now: Time, id: MessageId) {
        if let Some(stream) = self.streams.get_mut(&id.stream) {
            stream.retry.insert(id.seq);
            self.retrying.insert(id.stream);
            self.retry_at = self.retry_at.min(now + APPLY_RETRY);
        }
    }

    /// Takes a datagram that `from` sent, opened but not looked into. Whatever is in it: it is
    /// counted, and bytes that are not of the format change nothing.
    pub fn handle_datagram(&mut self, now: Time, from: PeerId, plaintext: &[u8]) {
        self.stats.datagrams_in += 1;
        let Ok(datagram) = Datagram::parse(plaintext) else {
            self.stats.malformed += 1;
            return;
        };
        let header = datagram.header;
        if header.node == self.node && header.instance == self.instance {
            self.stats.reflected += 1;
            if header.counter > self.counter {
                // This process never sent it: a copy of it did, made with its memory.
                self.instance = self.rng.next_u64().max(1);
                self.reopen(now, 0);
            }
            return;
        }
        if header.to != 0 && header.to != self.instance {
            self.stats.misdirected += 1;
            return;
        }
        let Some(peer) = self.peers.get_mut(from) else {
            self.stats.strangers += 1;
            return;
        };
        let sender = SessionId {
            node: header.node,
            instance: header.instance,
        };
        let mut live = false;
        if let Some(session) = peer.session.as_mut().filter(|session| session.id == sender) {
            if !session.window.accept(header.counter) {
                self.stats.replayed += 1;
                return;
            }
            live = true;
        }
        let mut refused = false;
        for frame in datagram.frames() {
            match frame {
                // These two work before a session is proven: they are how it gets proven.
                Frame::Challenge(challenge) => {
                    if let Some(peer) = self.peers.get_mut(from) {
                        peer.echo = Some((challenge.nonce, sender.instance));
                        if live || peer.session.is_none() {
                            peer.name = challenge.name.to_owned();
                            peer.site = challenge.site.to_owned();
                        }
                        self.control.insert(from);
                    }
                }
                Frame::Echo(nonce) => {
                    if !live {
                        live = self.handle_echo(now, from, nonce, sender, header.counter);
                    }
                }
                _ if !live => refused = true,
                Frame::Data(data) => self.handle_data(now, from, sender.node, data),
                Frame::Digest(digest) => self.handle_digest(now, from, digest),
                Frame::Solicit(solicit) => self.handle_solicit(now, from, solicit),
                Frame::Floor(floor) => self.handle_floor(floor),
                Frame::Ask(ask) => self.handle_ask(now, from, ask),
                Frame::Receipts(all) => self.handle_receipts(now, from, all),
                Frame::News(news) => self.handle_news(now, from, news),
                Frame::Unknown { .. } => self.stats.frames_unknown += 1,
            }
        }
        let quiet = self.quiet();
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        if refused {
            self.stats.unproven += 1;
        }
        if live {
            peer.heard = Some(now);
            if !peer.up {
                self.roster.set_up(from, peer, true);
                self.roster.check(from, peer, now + quiet);
                self.emit(Event::PeerUp(from));
            }
        } else if peer
            .challenge_sent
            .is_none_or(|sent| now.since(sent) >= CHALLENGE_ANSWER_MIN)
        {
            peer.challenge_now = true;
            self.control.insert(from);
        }
    }

    /// Takes a nonce back; whether that proved the sender's session.
    fn handle_echo(
        &mut self,
        now: Time,
        from: PeerId,
        nonce: [u8; 16],
        sender: SessionId,
        counter: u64,
    ) -> bool {
        // A session lives at one address. An echo that comes by way of another was turned there.
        let elsewhere = |id| id != from && self.peers.get(id).is_some_and(|peer| peer.up);
        if self.roster.with_session(sender).any(elsewhere) {
            return false;
        }
        let next_nonce = self.nonce();
        let size = self.config.replay_window;
        let Some(peer) = self.peers.get_mut(from).filter(|peer| peer.nonce == nonce) else {
            return false;
        };
        peer.nonce = next_nonce;
        // Which of several sendings is echoed cannot be told.
        if let (1, Some(sent)) = (peer.challenges_sent, peer.challenge_sent) {
            peer.sample_rtt(now.since(sent));
        }
        peer.challenges_sent = 0;
        let before = peer.session.as_ref().map(|session| session.id);
        let restarted = before.is_some_and(|before| before.node == sender.node);
        self.roster.prove(from, before, sender);
        if before != Some(sender) {
            self.receipts.forget_answers(now, from);
        }
        let window = ReplayWindow::new(size, counter);
        peer.session = Some(Session {
            id: sender,
            window,
            proven: now,
        });
        peer.digest_heard = None;
        peer.forget_repairs();
        peer.challenge_interval = CHALLENGE_INTERVAL_MIN;
        peer.challenge_due = now;
        self.stats.sessions += 1;
        if let Some(before) = before.filter(|before| before.node != sender.node) {
            self.forget_news(before.node);
        }
        if restarted {
            self.emit(Event::PeerRestarted(from));
        }
        if sender.node == self.node {
            self.emit(Event::DuplicateNode {
                node: sender.node,
                first: None,
                second: from,
            });
        }
        true
    }

    fn handle_data(&mut self, now: Time, from: PeerId, sender: NodeId, data: Data<'_>) {
        if data.stream == self.own {
            let top = self.streams.get(&self.own).map_or(0, |stream| stream.top);
            if data.messages().any(|message| message.seq > top) {
                self.reopen(now, 0);
                return;
            }
        }
        let Some(stream) = self.stream(data.stream) else {
            return;
        };
        if !data.repair() && data.stream.node == sender {
            stream.origin = Some(from);
        }
        let top = stream.top;
        for message in data.messages() {
            self.handle_message(now, data.stream, data.repair(), &message);
        }
        // A gap before what was just disseminated: ask its origin, unless it is mere reordering.
        if let Some(stream) = self.streams.get_mut(&data.stream) {
            let fresh_gap = stream.wanted(top + 1..=u64::MAX).next().is_some();
            if !data.repair() && fresh_gap && stream.origin.is_some() {
                stream.gap_delay = REORDER_DELAY;
                self.arm_gap(now, data.stream);
            }
        }
    }

    /// Has the gaps of a stream asked for after the stream's present delay.
    pub(crate) fn arm_gap(&mut self, now: Time, id: StreamId) {
        let jitter = self.jitter(SOLICIT_JITTER);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let due = now + stream.gap_delay + jitter;
        if stream.gap_due.is_none_or(|before| due < before) {
            if let Some(before) = stream.gap_due.replace(due) {
                self.gaps_due.remove(&(before, id));
            }
            self.gaps_due.insert((due, id));
        }
    }

    fn handle_message(&mut self, now: Time, id: StreamId, repair: bool, message: &WireMessage<'_>) {
        let (ready_count, round) = (self.ready_count, self.round);
        let oldest = self.born_min;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let seq = message.seq;
        if seq < stream.floor || stream.known.contains(seq) {
            self.stats.duplicates += 1;
            return;
        }
        if wire::MESSAGE_OVERHEAD_BYTES + message.body.len() > MESSAGE_BYTES_MAX {
            // It could not be given on as a repair.
            self.stats.oversized += 1;
            return;
        }
        stream.top = stream.top.max(seq);
        stream.changed = round;
        let born = now - Duration::from_millis(message.age_ms);
        stream.last_born = stream.last_born.max(Some(born));
        if born < oldest {
            stream.known.insert(seq);
            // A floor may have skipped as many as there are numbers.
            self.stats.skipped = self.stats.skipped.saturating_add(1);
            return;
        }
        if ready_count >= READY_MAX {
            self.stats.deferred += 1;
            return;
        }
        let purge = message.purge();
        stream.known.insert(seq);
        stream.held.insert(seq);
        // A stream that was opened late enough holds nothing that is too old.
        let opened = born - Duration::from_millis(message.issued_ms);
        stream.note_young(if opened >= oldest { 1 } else { seq });
        let message_id = MessageId { stream: id, seq };
        let unsupported_op = match purge {
            Purge::Unknown { op, .. } => Some(op),
            _ => None,
        };
        if unsupported_op.is_some() {
            stream.unsupported.insert(seq);
        } else {
            stream.ready.insert(seq);
            self.ready.insert(id);
            self.ready_count += 1;
        }
        // Whatever a peer says, no sum with it may overflow.
        let issued_ms = message.issued_ms.min(SEQ_MAX);
        self.store.insert(
            message_id,
            Held {
                born,
                issued_ms,
                purge,
            },
        );
        if repair {
            stream.recovered += 1;
            self.stats.recovered += 1;
        } else {
            self.stats.received += 1;
        }
        if let Some(op) = unsupported_op {
            self.stats.unsupported += 1;
            self.emit(Event::UnsupportedOp(message_id, op));
        }
    }

    /// The next purge for the cache, if one waits. Streams take turns.
    pub fn poll_delivery(&mut self, now: Time) -> Option<Delivery> {
        if let Some(flush) = self.poll_flush(now) {
            return Some(flush);
        }
        loop {
            let after = self
                .last_delivered
                .map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.ready.range((after, Bound::Unbounded)).next();
            let stream_id = *next.or_else(|| self.ready.first())?;
            self.last_delivered = Some(stream_id);
            let Some(stream) = self.streams.get_mut(&stream_id) else {
                self.ready.remove(&stream_id);
                continue;
            };
            let popped = stream.ready.pop_first();
            if stream.ready.is_empty() {
                self.ready.remove(&stream_id);
            }
            let Some(seq) = popped else { continue };
            self.ready_count = self.ready_count.saturating_sub(1);
            let id = MessageId {
                stream: stream_id,
                seq,
            };
            match self.store.get(id) {
                Fetch::Held(held) => {
                    stream.in_flight.insert(seq);
                    return Some(Delivery {
                        id,
                        purge: held.purge,
                        age: now.since(held.born),
                        arrival: now,
                        issued_wall_ms: stream_id.epoch.stamp.saturating_add(held.issued_ms),
                    });
                }
                Fetch::Pending => self.retry(now, id),
                Fetch::Gone => {
                    // The store lost it before it was applied: wanted from the fleet again.
                    stream.held.remove(seq);
                    stream.known.remove(seq);
                }
            }
        }
    }

    /// The next datagram to send, if there is one. Call until it says none.
    pub fn poll_transmit(&mut self, now: Time) -> Option<Transmit> {
        let transmit = self
            .poll_control(now)
            .or_else(|| self.poll_gossip_turn(now))
            .or_else(|| self.poll_dissemination(now))
            .or_else(|| self.poll_gossip(now))?;
        debug_assert!(transmit.payload.len() <= PLAINTEXT_BYTES_MAX);
        self.stats.datagrams_out += 1;
        Some(transmit)
    }

    /// Gossip's turn before dissemination: a flood of purges must not silence what mends its losses.
    fn poll_gossip_turn(&mut self, now: Time) -> Option<Transmit> {
        if self.counter % GOSSIP_TURN_ONE_IN == 0 {
            self.poll_gossip(now)
        } else {
            None
        }
    }

    fn poll_gossip(&mut self, now: Time) -> Option<Transmit> {
        self.poll_digest()
            .or_else(|| self.poll_solicit(now))
            .or_else(|| self.poll_receipts(now))
            .or_else(|| self.poll_repair(now))
    }

    fn poll_control(&mut self, now: Time) -> Option<Transmit> {
        while let Some(id) = self.control.pop_first() {
            let Some(peer) = self.peers.get_mut(id) else {
                continue;
            };
            let echo = peer.echo.take();
            let challenge = std::mem::take(&mut peer.challenge_now);
            let nonce = peer.nonce;
            // An echo is for the instance that asked, which may be newer than the proven one.
            let instance = echo.map_or(0, |(_, instance)| instance);
            if challenge {
                peer.challenge_sent = Some(now);
                peer.challenges_sent = peer.challenges_sent.saturating_add(1);
                self.stats.challenges += 1;
            }
            if echo.is_none() && !challenge {
                continue;
            }
            // A challenge may be for the peer's next life, so it is for whoever receives it.
            let mut payload = self.datagram(if challenge { 0 } else { instance });
            if let Some((nonce, _)) = echo {
                wire::put_echo(&mut payload, nonce);
            }
            if challenge {
                let (name, site) = (&self.config.name, &self.config.site);
                wire::Challenge { nonce, name, site }.encode(&mut payload);
            }
            return Some(Transmit {
                to: To::Peer(id),
                payload,
            });
        }
        None
    }

    /// What was issued and not yet sent, as much as fits, behind it the latest earlier messages.
    fn poll_dissemination(&mut self, now: Time) -> Option<Transmit> {
        let top = self.streams.get(&self.own)?.top;
        if self.sent >= top {
            return None;
        }
        if self.peers.is_empty() {
            self.sent = top;
            return None;
        }
        let first = self.sent + 1;
        let mut payload = self.datagram(0);
        self.sent = self.write_own(now, first, top, &mut payload);
        if self.sent == top {
            let from = self.redundant_from(now, first, PLAINTEXT_BYTES_MAX - payload.len());
            if from < first {
                payload.truncate(wire::HEADER_BYTES);
                self.sent = self.write_own(now, from, top, &mut payload);
            }
        }
        self.put_asks(&mut payload);
        Some(Transmit {
            to: To::All,
            payload,
        })
    }

    /// Whether messages of the own stream wait to be disseminated.
    pub(crate) fn has_unsent(&self) -> bool {
        let own = self.streams.get(&self.own);
        own.is_some_and(|stream| self.sent < stream.top)
    }

    /// Appends messages `first..=top` of the own stream, as many as fit; the last one dealt with.
    fn write_own(&mut self, now: Time, first: u64, top: u64, payload: &mut Vec<u8>) -> u64 {
        let stream = self.own;
        let mut writer = DataWriter::new(payload, PLAINTEXT_BYTES_MAX, stream, 0);
        let mut last = first - 1;
        for seq in first..=top {
            // One that was evicted since its issue is in this node's cache; the ones after it must
            // not wait for it.
            if let Fetch::Held(held) = self.store.get(MessageId { stream, seq }) {
                if !writer.push(&wire_message(now, seq, &held)) {
                    break;
                }
            }
            last = seq;
        }
        writer.finish();
        last
    }

    /// Where the latest messages before `first` begin that `room` bytes take.
    fn redundant_from(&mut self, now: Time, first: u64, mut room: usize) -> u64 {
        let mut from = first;
        let earliest = first.saturating_sub(REDUNDANT_MESSAGES_MAX).max(1);
        while from > earliest {
            let id = MessageId {
                stream: self.own,
                seq: from - 1,
            };
            let Fetch::Held(held) = self.store.get(id) else {
                break;
            };
            // More than the message can take, with its numbers at their longest.
            let bytes = held.purge.message_bytes_max();
            if bytes > room || now.since(held.born) > REDUNDANT_AGE_MAX {
                break;
            }
            room -= bytes;
            from -= 1;
        }
        from
    }

    /// When [`Core::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Time {
        let gap = self.gaps_due.first().map_or(Time::NEVER, |(due, _)| *due);
        let solicit = self
            .solicits
            .values()
            .map(|s| s.due)
            .min()
            .unwrap_or(Time::NEVER);
        let receipts = self.receipts.next;
        let flush = match self.flush {
            Flush::Due(at) => at,
            _ => Time::NEVER,
        };
        self.next_round
            .min(flush)
            .min(gap)
            .min(solicit)
            .min(receipts)
            .min(self.awaited_at)
            .min(self.retry_at)
    }

    /// Does what is due at `now`. The driver's loop: feed what came (`handle_*`), then take what
    /// goes (`poll_transmit`, `poll_delivery`, `poll_event`) until each says none, then wait for
    /// input or until `poll_timeout`.
    pub fn handle_timeout(&mut self, now: Time) {
        if now >= self.retry_at {
            self.retry_at = Time::NEVER;
            for id in std::mem::take(&mut self.retrying) {
                let Some(stream) = self.streams.get_mut(&id) else {
                    continue;
                };
                let retry = std::mem::take(&mut stream.retry);
                for range in retry.iter() {
                    self.ready_count += width(&range);
                    stream.ready.insert_range(range);
                }
                if !stream.ready.is_empty() {
                    self.ready.insert(id);
                }
            }
        }
        while let Some((due, id)) = self
            .gaps_due
            .first()
            .copied()
            .filter(|(due, _)| *due <= now)
        {
            self.gaps_due.remove(&(due, id));
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.gap_due = None;
            }
            self.solicit_gaps(now, id);
        }
        self.tick_receipts(now);
        if now >= self.awaited_at {
            self.retry_awaited(false);
        }
        if now >= self.next_round {
            self.tick(now);
        }
    }

    /// One round.
    fn tick(&mut self, now: Time) {
        self.round += 1;
        self.stats.rounds += 1;
        // After a pause of the process there is one round, not all those that were missed.
        self.next_round = now + self.jittered_round();
        self.repair_left = self.config.repair_bytes_all;
        self.retry_awaited(true);
        self.expire(now);
        self.check_peers(now);
        self.check_absence(now);
        self.survey(now);
        self.digests.clear();
        match self.choose_peer() {
            Some(peer) => self.build_digests(now, peer),
            None => self.stats.rounds_alone += 1,
        }
    }

    /// A peer not heard for longer than this is challenged: it gossips to each of its peers within that time,
    /// even if most rounds go to its own site or to peers that are down.
    fn quiet(&self) -> Duration {
        let round = self.config.round.saturating_mul(QUIET_ROUNDS_PEER);
        let gossip = round.saturating_mul(self.peers.len() as u32);
        gossip.max(PATIENCE)
    }

    fn check_peers(&mut self, now: Time) {
        let quiet = self.quiet();
        let mut events = Vec::new();
        for id in self.roster.due(now) {
            let Some(peer) = self.peers.get_mut(id) else {
                continue;
            };
            let silence = peer.heard.map_or(Duration::MAX, |heard| now.since(heard));
            if peer.up && silence > quiet + PATIENCE {
                self.roster.set_up(id, peer, false);
                peer.challenge_interval = CHALLENGE_INTERVAL_MIN;
                events.push(Event::PeerDown(id));
            }
            if peer.up && silence > quiet && now >= peer.challenge_due {
                peer.challenge_now = true;
                peer.challenge_due = now + PROBE_INTERVAL;
                self.control.insert(id);
            } else if !peer.up && now >= peer.challenge_due {
                peer.challenge_now = true;
                peer.challenge_due = now + peer.challenge_interval;
                peer.challenge_interval = (peer.challenge_interval * 2).min(CHALLENGE_INTERVAL_MAX);
                self.control.insert(id);
            }
            let next = match peer.heard.filter(|_| peer.up) {
                Some(heard) if silence <= quiet => heard + quiet,
                Some(heard) => peer.challenge_due.min(heard + quiet + PATIENCE),
                None => peer.challenge_due,
            };
            self.roster.check(id, peer, next);
        }
        if self.round % DUPLICATES_ONE_IN == 0 {
            self.find_duplicates(&mut events);
        }
        for event in events {
            self.emit(event);
        }
    }

    /// Two peers with one node id that were both heard after the other was proven both live.
    fn find_duplicates(&self, events: &mut Vec<Event>) {
        let up = |id: &PeerId| self.peers.get(*id).is_some_and(|peer| peer.up);
        for (node, mut ids) in self.roster.shared_nodes(self.node) {
            ids.retain(up);
            ids.sort_unstable();
            for pair in ids.windows(2) {
                if let [first, second] = *pair {
                    if self.both_live(first, second) {
                        events.push(Event::DuplicateNode {
                            node,
                            first: Some(first),
                            second,
                        });
                    }
                }
            }
            if node == self.node {
                events.extend(ids.iter().map(|&second| Event::DuplicateNode {
                    node,
                    first: None,
                    second,
                }));
            }
        }
    }

    fn both_live(&self, first: PeerId, second: PeerId) -> bool {
        let heard_after = |a: PeerId, b: PeerId| {
            let heard = self.peers.get(a).and_then(|peer| peer.heard);
            let proven = self.peers.get(b).and_then(|peer| peer.session.as_ref());
            heard
                .zip(proven)
                .is_some_and(|(heard, session)| heard > session.proven)
        };
        heard_after(first, second) && heard_after(second, first)
    }

    /// A random peer for this round: of the own site in a share of rounds, now and then one that is
    /// held to be down, so that the end of a cut is noticed.
    fn choose_peer(&mut self) -> Option<PeerId> {
        let explore = self.rng.random_ratio(1, EXPLORE_ONE_IN);
        let near = self
            .rng
            .random_ratio(self.config.own_site_percent.min(100), 100);
        let (roster, rng) = (&mut self.roster, &mut self.rng);
        let down = if explore { roster.down.pick(rng) } else { None };
        let near = if near { roster.near.pick(rng) } else { None };
        down.or(near)
            .or_else(|| roster.next_up(rng))
            .or_else(|| roster.down.pick(rng))
    }

    /// Drops what is too old, and the oldest while the store is too large.
    fn expire(&mut self, now: Time) {
        let cutoff = now - self.config.retention;
        let give_up = now - self.config.retention.saturating_mul(GIVE_UP_RETENTIONS);
        let forget = now - self.config.retention.saturating_mul(FORGET_RETENTIONS);
        let mut empty = Vec::new();
        let mut oldest = BinaryHeap::new();
        let full = self.store.bytes() > self.config.retention_bytes;
        if !full && now < self.expire_at {
            return;
        }
        self.expire_at = now + self.config.retention / EXPIRE_PER_RETENTION;
        for (&id, stream) in &mut self.streams {
            let old = self.store.oldest(id).filter(|(_, born)| *born < cutoff);
            if let Some((seq, born)) = old.and_then(|_| self.store.last_born_before(id, cutoff)) {
                // What was not applied yet is applied first, however late.
                let below = stream
                    .first_unapplied()
                    .map_or(seq + 1, |first| first.min(seq + 1));
                self.stats.expired += drop_held(&mut self.store, id, stream, below);
                if stream.wanted(0..=below - 1).next().is_none() {
                    stream.raise_floor(below, born);
                } else if stream.dropped.is_none() {
                    stream.dropped = Some((below - 1, born));
                }
            }
            if let Some((seq, born)) = stream.dropped.filter(|(_, born)| *born < give_up) {
                let below = stream
                    .first_unapplied()
                    .map_or(seq + 1, |first| first.min(seq + 1));
                let lost = stream.raise_floor(below, born);
                self.stats.lost = self.stats.lost.saturating_add(lost);
                stream.dropped = None;
            }
            if id != self.own
                && stream.held.is_empty()
                && stream.first_unapplied().is_none()
                // Others may hold what was dropped here for want of room, and offer it again; and who is
                // away should hear what has expired meanwhile.
                && stream.last_born.is_none_or(|born| born < forget)
                && self.round.saturating_sub(stream.mentioned) > LINGER_ROUNDS
            {
                empty.push(id);
            }
            if full {
                oldest.extend(self.store.oldest(id).map(|(_, born)| Reverse((born, id))));
            }
        }
        for id in empty {
            self.forget_stream(id);
        }
        // The oldest of all streams go first, a few at a time, and not so many that others have to wait.
        for _ in 0..EVICT_BATCHES_ROUND {
            let Some(Reverse((_, id))) = oldest.pop() else {
                break;
            };
            let excess = self
                .store
                .bytes()
                .saturating_sub(self.config.retention_bytes);
            let Some(stream) = self.streams.get_mut(&id).filter(|_| excess > 0) else {
                break;
            };
            let Some((first, _)) = self.store.oldest(id) else {
                continue;
            };
            // What has not been applied is not given up, or it would have to be fetched again.
            let pinned = stream.first_unapplied().unwrap_or(u64::MAX);
            let batch = (excess / MESSAGE_BYTES_MAX as u64 + 1).min(EVICT_BATCH_MAX);
            let below = first.saturating_add(batch).min(pinned);
            if below > first {
                self.stats.evicted += drop_held(&mut self.store, id, stream, below);
                stream.evicted_below = below;
                let left = self.store.oldest(id).map(|(_, born)| born);
                self.news.evicted_born = self.news.evicted_born.max(left);
                oldest.extend(self.store.oldest(id).map(|(_, born)| Reverse((born, id))));
            }
        }
    }

    fn forget_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.ready_count = self.ready_count.saturating_sub(stream.ready.count());
            self.ready.remove(&id);
            self.retrying.remove(&id);
            if let Some(due) = stream.gap_due {
                self.gaps_due.remove(&(due, id));
            }
            self.store.remove_below(id, u64::MAX);
        }
    }

    /// Opens another stream for this node's purges, because somebody else speaks as this node.
    pub(crate) fn reopen(&mut self, now: Time, stamp_heard: u64) {
        if self.reopenings >= REOPENINGS_MAX {
            return;
        }
        self.reopenings += 1;
        self.stats.reopened += 1;
        let from = self.own;
        let elapsed_ms = now.since(self.opened).as_millis() as u64;
        let stamp = from
            .epoch
            .stamp
            .saturating_add(elapsed_ms)
            .max(stamp_heard)
            .saturating_add(1);
        self.own.epoch = Epoch {
            stamp,
            random: self.rng.next_u64(),
        };
        self.opened = now;
        self.sent = 0;
        self.streams.insert(self.own, Stream::new(self.round));
        self.emit(Event::Reopened { from, to: self.own });
    }

    /// The state of a stream, made if there is room for one more.
    pub(crate) fn stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        if !self.streams.contains_key(&id) {
            if self.streams.len() >= STREAMS_MAX {
                self.stats.streams_refused += 1;
                if self.stats.streams_refused == 1 {
                    self.emit(Event::TooManyStreams(id));
                }
                return None;
            }
            self.streams.insert(id, Stream::new(self.round));
        }
        let round = self.round;
        let stream = self.streams.get_mut(&id)?;
        stream.mentioned = round;
        Some(stream)
    }

    /// A datagram with its header, for the frames to be appended.
    pub(crate) fn datagram(&mut self, to: u64) -> Vec<u8> {
        self.counter += 1;
        let mut payload = Vec::with_capacity(PLAINTEXT_BYTES_MAX);
        Header {
            node: self.node,
            instance: self.instance,
            to,
            counter: self.counter,
        }
        .encode(&mut payload);
        payload
    }

    /// Messages born before this are not wanted: the cache held nothing yet. How long messages are
    /// held here is another matter; what a peer still has is wanted, however old.
    pub(crate) fn oldest_wanted(&self) -> Time {
        self.born_min
    }

    pub(crate) fn jitter(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.rng.random_range(0..=max.as_micros() as u64))
    }

    /// The configured round, give or take a tenth: nodes started together must not stay in step.
    fn jittered_round(&mut self) -> Duration {
        self.config.round.mul_f64(self.rng.random_range(0.9..1.1))
    }

    fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }

    pub(crate) fn emit(&mut self, event: Event) {
        if let Event::DuplicateNode { .. } = event {
            self.stats.duplicate_nodes += 1;
        }
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
            self.stats.events_dropped += 1;
        }
        self.events.push_back(event);
    }

    /// The next thing that an operator should hear of.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What this node knows of a message.
    pub fn knows(&self, id: MessageId) -> Knowledge {
        let Some(stream) = self.streams.get(&id.stream) else {
            return Knowledge::Unknown;
        };
        if stream.seen.contains(id.seq) {
            Knowledge::Seen
        } else if stream.unsupported.contains(id.seq) {
            Knowledge::Unsupported
        } else if stream.in_flight.contains(id.seq)
            || stream.ready.contains(id.seq)
            || stream.retry.contains(id.seq)
        {
            Knowledge::Held
        } else if id.seq > 0 && (id.seq < stream.floor || stream.known.contains(id.seq)) {
            Knowledge::Skipped
        } else {
            Knowledge::Unknown
        }
    }

    /// Whether all of these messages are seen. The cost does not grow with their number.
    pub fn all_seen(&self, ids: MessageIds) -> bool {
        self.streams.get(&ids.stream).is_some_and(|stream| {
            let mut unseen = stream.seen.gaps(ids.first..=ids.last);
            unseen.next().is_none()
        })
    }

    /// All streams, in the order of their ids.
    pub fn streams(&self) -> impl Iterator<Item = StreamView<'_>> {
        self.streams.iter().map(|(&id, stream)| StreamView {
            id,
            own: id == self.own,
            floor: stream.floor,
            top: stream.top,
            held: &stream.held,
            seen: &stream.seen,
            unsupported: &stream.unsupported,
            wanted: total(stream.wanted(0..=u64::MAX)),
            lacking_since: stream.lacking_since,
            recovered: stream.recovered,
        })
    }

    /// How many messages of each stream came as repairs, in the order of the streams' ids.
    pub fn recovered(&self) -> impl Iterator<Item = (StreamId, u64)> + '_ {
        self.streams
            .iter()
            .map(|(&id, stream)| (id, stream.recovered))
    }

    /// All peers, in the order of their numbers.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.peers.iter().map(|(id, peer)| PeerView {
            id,
            session: peer.session.as_ref().map(|session| session.id),
            name: peer.name.clone(),
            site: peer.site.clone(),
            heard: peer.heard,
            up: peer.up,
            rtt: peer.rtt,
            clock_skew_ms: peer.clock_skew_ms,
            digest_heard: peer.digest_heard.map(|(_, heard)| heard),
            proven: peer.session.as_ref().map(|session| session.proven),
        })
    }

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The stream that this node's purges go to.
    pub fn own_stream(&self) -> StreamId {
        self.own
    }

    /// How many messages wait to be handed to the cache.
    pub fn ready_count(&self) -> u64 {
        self.ready_count + u64::from(matches!(self.flush, Flush::Due(_)))
    }

    /// Bytes of messages held, as the store counts them.
    pub fn held_bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// The counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// Settings that can be run with: a round of no length would spin, and a budget below one datagram would
/// repair nothing.
fn usable(mut config: Config) -> Config {
    config.round = config.round.max(Duration::from_millis(1));
    let budgets = [&mut config.repair_bytes_peer, &mut config.repair_bytes_all];
    for budget in budgets {
        *budget = (*budget).clamp(2 * PLAINTEXT_BYTES_MAX as u64, u64::MAX >> 8);
    }
    config
}

/// Takes what is held of a stream below `below` out of the store; how many that were.
fn drop_held(store: &mut impl Store, id: StreamId, stream: &mut Stream, below: u64) -> u64 {
    let count = total(stream.held.within(0..=below.saturating_sub(1)));
    stream.held.remove_below(below);
    store.remove_below(id, below);
    count
}

/// A held message as it travels at `now`.
pub(crate) fn wire_message(now: Time, seq: u64, held: &Held) -> WireMessage<'_> {
    let (op, body) = held.purge.op();
    let age_ms = now.since(held.born).as_millis() as u64;
    WireMessage {
        seq,
        age_ms,
        issued_ms: held.issued_ms,
        op,
        body,
    }
}
