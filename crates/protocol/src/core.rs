//! The state machine: what goes in, what comes out, and the clockwork. What is done with it is in the modules of
//! each part: see the crate's documentation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::{Rng, RngCore};

use crate::absence::Flush;
use crate::bounds::{
    CHALLENGE_ANSWER_MIN, EVENTS_MAX, GOSSIP_TURN_ONE_IN, MESSAGE_BYTES_MAX, OUTBOX_MAX,
    PLAINTEXT_BYTES_MAX, REPEAT_MAX, STREAMS_MAX,
};
use crate::config::Config;
use crate::id::{Epoch, MessageId, NodeId, StreamId};
use crate::news::Newsroom;
use crate::peer::{PeerId, Peers};
use crate::ranges::width;
use crate::receipts::Receipts;
use crate::repair::PendingSolicit;
use crate::roster::Roster;
use crate::session::SessionId;
use crate::stats::Stats;
use crate::store::Store;
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{Datagram, Frame, Header};

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
    /// How far streams had got of which nothing was lacking when they were forgotten; the oldest first.
    pub(crate) forgotten: BTreeMap<(Epoch, NodeId), u64>,
    pub(crate) peers: Peers,
    /// The same peers by what they are at the moment.
    pub(crate) roster: Roster,
    counter: u64,
    /// When any peer was last heard.
    pub(crate) heard: Option<Time>,
    pub(crate) round: u64,
    next_round: Time,
    /// When to look next for what is too old.
    pub(crate) expire_at: Time,
    /// Last seq of the own stream that was disseminated.
    pub(crate) sent: u64,
    /// What is left of this round's repairs to all peers, in bytes.
    pub(crate) repair_left: u64,
    /// Peers with a challenge or an echo to send.
    pub(crate) control: BTreeSet<PeerId>,
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
    pub(crate) gaps_due: BTreeSet<(Time, StreamId)>,
    pub(crate) ready: BTreeSet<StreamId>,
    pub(crate) ready_count: u64,
    pub(crate) last_delivered: Option<StreamId>,
    pub(crate) retrying: BTreeSet<StreamId>,
    pub(crate) retry_at: Time,
    pub(crate) reopenings: u32,
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
            forgotten: BTreeMap::new(),
            peers: Peers::default(),
            roster: Roster::default(),
            counter: 0,
            heard: None,
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

    /// What is held, for the node's next life.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Takes a datagram that `from` sent, opened but not looked into, and that came just now: what may
    /// have waited for more than [`STANDSTILL`](crate::bounds::STANDSTILL) is not to be handed over.
    /// Whatever is in it: it is counted, and bytes that are not of the format change nothing.
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
                        // Who asks in a session that is live here has none of its own (any more), and so no name of this node.
                        // That it may ask only for a sign of life must not have the two ask each other for ever.
                        let lately = |sent| now.since(sent) < REPEAT_MAX;
                        if live && !peer.challenge_sent.is_some_and(lately) {
                            peer.challenge_now = true;
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
            self.heard = Some(now);
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
        self.tick_flush(now);
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
            let mut stream = Stream::new(self.round);
            if let Some(top) = self.forgotten.remove(&(id.epoch, id.node)) {
                stream.top = top;
                stream.skip(top);
            }
            self.streams.insert(id, stream);
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

    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The stream that this node's purges go to.
    pub fn own_stream(&self) -> StreamId {
        self.own
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
