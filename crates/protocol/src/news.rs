//! News: how far each node has got.
//!
//! A digest says what one node holds, to one peer. Whether a purge is *everywhere* cannot be seen from
//! that, nor who is behind. So each digest that has room brings news: the sender's own *standing* and those
//! it has heard of, the newest first. In a few rounds each node knows of each other how far it had got a
//! few seconds ago.
//!
//! A standing says what the node has issued, and before which time everything that anybody has issued is
//! applied at it. The second follows from the first: who has applied all that a node's news said it
//! had issued has everything which that node issued before it told so, in this life or, as far as it holds that, in
//! earlier ones. Ages are counted on the way as those
//! of messages are, and rather too large than too small: a round trip for each hop. So "everything older
//! than this is applied everywhere" is never said too early, and gets older by itself where news stays away.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use rand::RngCore;

use crate::bounds::{
    EVIDENCE_ROUNDS, NEWS_BODY_BYTES_MAX, NEWS_STALE_MIN, NEWS_STALE_PEER, PLAINTEXT_BYTES_MAX,
    SEQ_MAX,
};
use crate::core::Core;
use crate::id::{Epoch, NodeId, StreamId};
use crate::peer::PeerId;
use crate::ranges::total;
use crate::store::Store;
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{self, Earlier, Lacking, News, Standing};

/// Bytes of the shortest entry: node, age, length, body.
const ENTRY_BYTES_MIN: usize = 8 + 1 + 1 + 6;

/// What is left of a frame's room for entries: its head and the sender's wall clock go off.
const FRAME_OVERHEAD_BYTES: usize = wire::FRAME_HEAD_BYTES + 10;

/// What a node told last, as it came, to be passed on. It is seldom looked into.
#[derive(Debug)]
struct Told {
    body: [u8; NEWS_BODY_BYTES_MAX],
    len: usize,
}

impl Told {
    fn body(&self) -> &[u8] {
        self.body.get(..self.len).unwrap_or_default()
    }

    /// Nothing that cannot be decoded is taken in.
    fn standing(&self) -> Standing {
        Standing::decode(self.body()).unwrap_or_default()
    }
}

/// What a node had issued at a time, by its news.
#[derive(Clone, Copy, Debug)]
struct Issued {
    born: Time,
    /// [`Standing::stream`], and its last seq.
    stream: u16,
    last: u64,
    earlier: Option<Earlier>,
}

impl Issued {
    fn new(born: Time, standing: &Standing) -> Issued {
        Issued {
            born,
            stream: standing.stream,
            last: standing.issued,
            earlier: standing.earlier,
        }
    }

    /// Whether all of it is applied here, of these streams of the node.
    fn is_applied(&self, streams: &BTreeMap<StreamId, Stream>, node: NodeId) -> bool {
        // Most nodes issue nothing, and streams take long to look up.
        let mut present = None;
        if self.last > 0 {
            let mut latest = streams.range(StreamId::all_of(node)).rev();
            present = latest.find(|(id, _)| id.epoch.random as u16 == self.stream);
            if !present.is_some_and(|(_, stream)| stream.is_applied_to(self.last)) {
                return false;
            }
        }
        let Some(earlier) = self.earlier else {
            return true;
        };
        let first = Epoch {
            stamp: earlier.stamp,
            random: 0,
        };
        let end = present.map_or(*StreamId::all_of(node).end(), |(id, _)| *id);
        let applied = streams
            .range(StreamId { node, epoch: first }..)
            .take_while(|(id, _)| **id <= end)
            .filter(|(id, _)| present.is_none_or(|(present, _)| *id != present))
            .filter(|(_, stream)| stream.is_applied_to(stream.top));
        let applied = applied.map(|(_, stream)| stream.top);
        applied.fold(0, u64::saturating_add) >= earlier.issued
    }
}

/// What was told of nodes that are peers. Each round looks at all times, and at little else: they stand
/// apart.
#[derive(Debug, Default)]
struct Board {
    /// The place of each in the other fields.
    places: Places,
    nodes: Vec<NodeId>,
    /// When each told what it told last, or a little before.
    born: Vec<Time>,
    /// Everything that the node issued before this is applied here; [`NEVER_APPLIED`] if that was never so.
    applied_until: Vec<Time>,
    told: Vec<Told>,
}

#[expect(
    clippy::disallowed_types,
    reason = "nobody iterates over it; and its order is that of the ids in each run"
)]
type Places = std::collections::HashMap<NodeId, usize, BuildHasherDefault<ByItself>>;

/// A node's id is a hash as it is, of its name. Only peers are looked up, so nobody else chooses it.
#[derive(Debug, Default)]
struct ByItself(u64);

impl Hasher for ByItself {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

const NEVER_APPLIED: Time = Time::from_us(i64::MIN);

impl Board {
    fn place(&self, node: NodeId) -> Option<usize> {
        self.places.get(&node).copied()
    }

    /// Who has told something since a time, and when: places.
    fn since(&self, oldest: Time) -> Vec<(Reverse<Time>, u32)> {
        let times = self.born.iter().enumerate();
        let young = times.filter(|(_, born)| **born >= oldest);
        young
            .map(|(at, born)| (Reverse(*born), at as u32))
            .collect()
    }

    /// Whether it is the stream that its node's news is about.
    fn is_present(&self, id: StreamId) -> bool {
        let told = self.place(id.node).and_then(|at| self.told.get(at));
        told.is_some_and(|told| told.standing().stream == id.epoch.random as u16)
    }

    /// Whether its node's news is about another one.
    fn is_past(&self, id: StreamId) -> bool {
        self.place(id.node).is_some() && !self.is_present(id)
    }

    fn insert(&mut self, node: NodeId) -> usize {
        let place = self.nodes.len();
        self.places.insert(node, place);
        self.nodes.push(node);
        self.born.push(NEVER_APPLIED);
        self.applied_until.push(NEVER_APPLIED);
        self.told.push(Told {
            body: [0; NEWS_BODY_BYTES_MAX],
            len: 0,
        });
        place
    }

    fn remove(&mut self, node: NodeId) {
        let Some(place) = self.places.remove(&node) else {
            return;
        };
        self.nodes.swap_remove(place);
        self.born.swap_remove(place);
        self.applied_until.swap_remove(place);
        self.told.swap_remove(place);
        // The last one has taken its place.
        if let Some(&moved) = self.nodes.get(place) {
            self.places.insert(moved, place);
        }
    }
}

/// What is known of the nodes of the fleet.
#[derive(Debug, Default)]
pub(crate) struct Newsroom {
    board: Board,
    /// What is not applied here yet, of what older news told of these.
    awaited: BTreeMap<NodeId, Issued>,
    /// Streams of which something was lacking or not applied at the last round.
    lacking: Vec<StreamId>,
    /// What the driver says of this node: flags of [`Standing`].
    health: u8,
    /// The wall clock, as the driver last told it: at this time it was so many ms.
    wall: Option<(Time, u64)>,
    /// The age of the oldest news that there was room for in the last digest.
    fitted_age: Duration,
    /// The youngest message that was dropped for want of room was born then, or a little later.
    pub evicted_born: Option<Time>,
}

/// What is known of a node's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewsView {
    /// The node.
    pub node: NodeId,
    /// How old the news is, rather too much than too little.
    pub age: Duration,
    /// What it told then.
    pub standing: Standing,
}

impl Stream {
    /// Whether all that is known is that somebody has no more what may be older than the cache: mostly it is, and
    /// soon that is told.
    fn is_only_asked_about(&self, round: u64) -> bool {
        self.top == self.gone_top
            && self.young_from.is_none()
            && self.last_born.is_none()
            && round < self.changed + EVIDENCE_ROUNDS
    }

    /// Whether all up to `seq` is applied here, or not wanted.
    fn is_applied_to(&self, seq: u64) -> bool {
        seq < self.floor
            || (self.known.gaps(self.floor..=seq).next().is_none()
                && self.first_unapplied().is_none_or(|first| first > seq)
                && self.unsupported.first().is_none_or(|first| first > seq))
    }
}

impl<S: Store, R: RngCore> Core<S, R> {
    /// Says how this node is, by flags of [`Standing`]; the fleet is told.
    pub fn set_health(&mut self, flags: u8) {
        self.news.health = flags & Standing::FLAGS_KNOWN;
    }

    /// Says what the wall clock shows, in ms since 1970, so that peers can tell by how much it is off. For
    /// the operator's eyes only; nothing depends on it.
    pub fn set_wall(&mut self, now: Time, wall_ms: u64) {
        self.news.wall = Some((now, wall_ms));
    }

    /// What the wall clock shows at `now`; 0 if nobody has told.
    fn wall_ms(&self, now: Time) -> u64 {
        let wall = self.news.wall;
        wall.map_or(0, |(at, ms)| ms + now.since(at).as_millis() as u64)
    }

    /// How old news may be: see [`crate::bounds::NEWS_STALE_MIN`].
    pub fn news_stale(&self) -> Duration {
        NEWS_STALE_MIN + NEWS_STALE_PEER.saturating_mul(self.peers.len() as u32)
    }

    /// What is known of the peers' nodes, in the order of their ids.
    pub fn news(&self, now: Time) -> impl Iterator<Item = NewsView> + '_ {
        let board = &self.news.board;
        let mut nodes = board.nodes.clone();
        nodes.sort_unstable();
        nodes.into_iter().filter_map(move |node| {
            let place = board.place(node)?;
            Some(NewsView {
                node,
                age: now.since(*board.born.get(place)?),
                standing: board.told.get(place)?.standing(),
            })
        })
    }

    /// Where this node stands.
    pub fn standing(&self, now: Time) -> Standing {
        let oldest = now - self.news_stale();
        let (mut nodes, mut complete) = (1, now);
        let board = &self.news.board;
        for (&born, &until) in board.born.iter().zip(&board.applied_until) {
            if born >= oldest {
                nodes += 1;
                complete = complete.min(until);
            }
        }
        let mut complete = (complete != NEVER_APPLIED).then_some(complete);
        let mut lacking: Option<Lacking> = None;
        let mut unsupported = false;
        for id in &self.news.lacking {
            let Some(stream) = self.streams.get(id) else {
                continue;
            };
            let count = total(stream.wanted(0..=u64::MAX)).saturating_add(stream.unapplied());
            let since = stream.lacking_since.unwrap_or(now);
            unsupported |= !stream.unsupported.is_empty();
            // What is not applied of any other stream may be of any age: who issued it may have told so little
            // because it had lost its past.
            let present = *id == self.own || board.is_present(*id);
            complete = complete.filter(|_| present);
            if count == 0 {
                continue;
            }
            complete = complete.map(|complete| complete.min(since));
            let since_ms = now.since(since).as_millis() as u64;
            let all = lacking.get_or_insert_default();
            all.count = all.count.saturating_add(count);
            if all.node == NodeId::default() || since_ms > all.since_ms {
                (all.node, all.since_ms) = (id.node, since_ms);
            }
        }
        let age_ms = |time: Time| now.since(time).as_millis() as u64;
        let unsupported = if unsupported {
            Standing::UNSUPPORTED
        } else {
            0
        };
        Standing {
            stream: self.own.epoch.random as u16,
            flags: self.news.health | unsupported,
            issued: self.issued_of_late(now),
            complete_ms: complete.map(age_ms),
            nodes,
            lacking,
            retention_ms: self.evicted_born(now).map(age_ms),
            earlier: self.earlier(),
        }
    }

    /// What is held of what this node issued before it started again.
    fn earlier(&self) -> Option<Earlier> {
        let streams = self.streams.range(StreamId::all_of(self.node));
        let streams = streams.filter(|(id, _)| **id != self.own);
        streams
            .filter_map(|(id, stream)| Some((id.epoch.stamp, stream.held.last()?)))
            .fold(None, |before, (stamp, last)| {
                let before = before.unwrap_or(Earlier { stamp, issued: 0 });
                Some(Earlier {
                    issued: before.issued.saturating_add(last),
                    ..before
                })
            })
    }

    /// The last seq of the own stream, while it is to be had: who has not got what has expired everywhere never
    /// will, and may not know the stream.
    fn issued_of_late(&self, now: Time) -> u64 {
        let own = self.streams.get(&self.own);
        let own = own.filter(|stream| {
            let expired = now - self.config.retention;
            !stream.held.is_empty() || stream.last_born.is_some_and(|born| born >= expired)
        });
        own.map_or(0, |stream| stream.top)
    }

    /// Looks, once a round, what is lacking, and whether what was awaited has come.
    pub(crate) fn survey(&mut self, now: Time) {
        if !self.config.news {
            return;
        }
        self.news.lacking.clear();
        for (&id, stream) in &mut self.streams {
            let lacks = stream.has_gaps() && !stream.is_only_asked_about(self.round);
            let unapplied = lacks || stream.first_unapplied().is_some();
            stream.lacking_since = unapplied.then(|| stream.lacking_since.unwrap_or(now));
            if unapplied || !stream.unsupported.is_empty() {
                self.news.lacking.push(id);
            }
        }
        let awaited: Vec<NodeId> = self.news.awaited.keys().copied().collect();
        awaited.into_iter().for_each(|node| self.settle(node));
    }

    /// Notes that something has been found to be lacking of what nobody's news may have told of, and does not wait for the
    /// next round.
    pub(crate) fn note_lacking(&mut self, now: Time, id: StreamId) {
        let round = self.round;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.lacking_since.is_none()
            && stream.has_gaps()
            && !stream.is_only_asked_about(round)
            && self.config.news
            && !self.news.board.is_present(id)
        {
            stream.lacking_since = Some(now);
            if !self.news.lacking.contains(&id) {
                self.news.lacking.push(id);
            }
        }
    }

    /// Notes up to when everything of a node is applied here, by what it has told.
    fn settle(&mut self, node: NodeId) {
        let board = &mut self.news.board;
        let Some(at) = board.place(node) else {
            return;
        };
        let (Some(told), Some(&born)) = (board.told.get(at), board.born.get(at)) else {
            return;
        };
        let Some(until) = board.applied_until.get_mut(at) else {
            return;
        };
        let latest = Issued::new(born, &told.standing());
        // What was awaited may have expired meanwhile.
        if latest.is_applied(&self.streams, node) {
            *until = born;
            self.news.awaited.remove(&node);
            return;
        }
        let awaited = self.news.awaited.entry(node).or_insert(latest);
        if awaited.is_applied(&self.streams, node) {
            *until = awaited.born.max(*until);
            *awaited = latest;
        }
    }

    pub(crate) fn handle_news(&mut self, now: Time, from: PeerId, news: News<'_>) {
        let own_wall_ms = self.wall_ms(now);
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        // It may have waited in a buffer, as long as the digest that it came with may have been under way.
        let hop = peer.hop.unwrap_or_default().max(peer.rtt_or_guess());
        if news.wall_ms > 0 && own_wall_ms > 0 {
            let there = news.wall_ms.min(SEQ_MAX) as i64 + hop.as_millis() as i64 / 2;
            peer.clock_skew_ms = Some(there - own_wall_ms.min(SEQ_MAX) as i64);
        }
        for entry in news.entries() {
            if entry.node == self.node {
                continue;
            }
            let born = now - Duration::from_millis(entry.age_ms) - hop;
            let at = match self.news.board.place(entry.node) {
                Some(at) => at,
                None if !self.roster.has_node(entry.node) => continue,
                None => self.news.board.insert(entry.node),
            };
            let board = &mut self.news.board;
            let (Some(told), Some(before)) = (board.told.get_mut(at), board.born.get_mut(at))
            else {
                continue;
            };
            if born <= *before {
                continue;
            }
            *before = born;
            told.len = entry.body.len().min(NEWS_BODY_BYTES_MAX);
            let kept = told.body.iter_mut().zip(entry.body);
            kept.for_each(|(kept, new)| *kept = *new);
            if !self.news.awaited.contains_key(&entry.node) {
                self.settle(entry.node);
            }
        }
    }

    /// Whether it is the stream that its node's news is about.
    pub(crate) fn is_present(&self, id: StreamId) -> bool {
        self.news.board.is_present(id)
    }

    /// Whether its node's news is about another one.
    pub(crate) fn is_past(&self, id: StreamId) -> bool {
        self.news.board.is_past(id)
    }

    /// Forgets the news of a node that is nobody's peer any more.
    pub(crate) fn forget_news(&mut self, node: NodeId) {
        if !self.roster.has_node(node) {
            self.news.board.remove(node);
            self.news.awaited.remove(&node);
        }
    }

    /// Bytes that all the news would take, more or less.
    pub(crate) fn news_bytes(&self) -> usize {
        if !self.config.news {
            return 0;
        }
        FRAME_OVERHEAD_BYTES + (1 + self.news.board.nodes.len()) * (ENTRY_BYTES_MIN + 8)
    }

    /// Appends a frame of news to a datagram, as much of it as there is room for: this node's own first, and
    /// then the newest. Old news is in nobody's way.
    pub(crate) fn put_news(&mut self, now: Time, payload: &mut Vec<u8>) {
        let room = PLAINTEXT_BYTES_MAX.saturating_sub(payload.len() + FRAME_OVERHEAD_BYTES);
        if room < ENTRY_BYTES_MIN || !self.config.news {
            return;
        }
        let mut entries = Vec::with_capacity(room);
        let mut body = Vec::with_capacity(NEWS_BODY_BYTES_MAX);
        self.standing(now).encode(&mut body);
        if wire::news_entry_bytes(0, &body) > room {
            return;
        }
        wire::put_news_entry(&mut entries, self.node, 0, &body);
        let fit = room / ENTRY_BYTES_MIN;
        // As old as the oldest that fitted last time, and a little older: mostly that is enough.
        let mut newest = self.news.board.since(now - self.news.fitted_age * 5 / 4);
        if newest.len() < fit {
            newest = self.news.board.since(now - self.news_stale());
        }
        if newest.len() > fit {
            newest.select_nth_unstable(fit);
            newest.truncate(fit);
        }
        newest.sort_unstable();
        let last = newest.last().map(|(Reverse(born), _)| now.since(*born));
        self.news.fitted_age = last.unwrap_or_default();
        let board = &self.news.board;
        for (Reverse(born), at) in newest {
            let (Some(told), Some(&node)) =
                (board.told.get(at as usize), board.nodes.get(at as usize))
            else {
                continue;
            };
            let age_ms = now.since(born).as_millis() as u64;
            let body = told.body();
            if entries.len() + wire::news_entry_bytes(age_ms, body) > room {
                break;
            }
            wire::put_news_entry(&mut entries, node, age_ms, body);
        }
        wire::put_news(payload, self.wall_ms(now), &entries);
    }
}
