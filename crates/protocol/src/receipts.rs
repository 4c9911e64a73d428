//! Receipts: who has applied a message.
//!
//! Nobody acknowledges unasked: an answer of each node to each purge would come down on the node that
//! issued it all at once. Who wants to know *asks* all peers, in the same datagram as the purge if it is
//! a new one. A peer answers with ranges, for all that was asked of it lately in one datagram, at a random
//! moment of the time that the asker can bear; and again for what it applies later. What stays
//! unanswered is asked again of those who are missing, more and more slowly.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::RngCore;

use crate::bounds::{
    APPLIED_REMEMBERED, ASK_AGAIN_MAX, ASK_AGAIN_MIN, ASK_KEPT, ASK_RANGES_MAX, ASK_SPREAD_MAX,
    ASK_SPREAD_PEER, PLAINTEXT_BYTES_MAX, RECEIPT_KEPT, RECEIPTS_MAX, SEQ_MAX,
};
use crate::core::{Core, To, Transmit};
use crate::id::{MessageId, MessageIds, StreamId};
use crate::peer::{Peer, PeerId};
use crate::pick::{shrink, shrink_entry};
use crate::ranges::{RangeSet, width};
use crate::store::{Fetch, Store};
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{self, Ask, Fate};

/// Room for entries in a datagram of asks or receipts.
const ENTRIES_BYTES: usize = PLAINTEXT_BYTES_MAX - wire::HEADER_BYTES - wire::FRAME_HEAD_BYTES - 10;

/// Messages applied within so many microseconds of each other are told as one: receipts are for people.
const SAME_MOMENT_US: i64 = 1_000;

/// Moments told of one stream: as many as fit into a datagram. In a storm of purges they are longer, or answers would
/// come later than questions.
const MOMENTS_MAX: usize = 24;

/// What is known of messages' way through the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The messages.
    pub ids: MessageIds,
    /// When the first of them was issued, if they are still held here.
    pub born: Option<Time>,
    /// Whether this node itself has applied all of them.
    pub applied_here: bool,
    /// Whether it has applied, or does not want, each of them.
    pub done_here: bool,
    /// All peers, in the order of their numbers.
    pub peers: Vec<PeerReceipt>,
}

/// What a peer has said of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerReceipt {
    /// The peer.
    pub peer: PeerId,
    /// What became of the messages there.
    pub state: ReceiptState,
    /// From issue to application, of the last of them: on this node's clock, right to within a
    /// round trip. `None` if the peer did not remember, or nobody knows when they were issued.
    pub latency: Option<Duration>,
}

/// See [`PeerReceipt::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptState {
    /// Not heard of, or not of all.
    Missing,
    /// All are applied, or not wanted there.
    Applied,
    /// None is wanted there: they are older than its cache, or have expired.
    NotWanted,
    /// Some are of an op that this peer does not know.
    Unsupported,
}

impl Receipt {
    /// How many nodes owe nothing any more, this one included.
    pub fn done(&self) -> usize {
        let done = |peer: &&PeerReceipt| {
            matches!(peer.state, ReceiptState::Applied | ReceiptState::NotWanted)
        };
        usize::from(self.done_here) + self.peers.iter().filter(done).count()
    }
}

/// What the core keeps for receipts.
#[derive(Debug)]
pub(crate) struct Receipts {
    /// What is asked for here, by (stream, first, last).
    open: BTreeMap<(StreamId, u64, u64), Open>,
    /// What all peers are to be asked with the next datagram to all.
    to_all: BTreeMap<StreamId, RangeSet>,
    /// What single peers are to be asked again.
    again: BTreeMap<PeerId, BTreeMap<StreamId, RangeSet>>,
    /// Peers who ask, and what they are still to be told.
    asked: BTreeMap<PeerId, Asked>,
    /// What was applied last, and when.
    applied: VecDeque<(Time, MessageId)>,
    /// When something is due; never later than it is.
    pub next: Time,
}

#[derive(Debug)]
struct Open {
    born: Option<Time>,
    /// How many wait for it: it is not given up for others then.
    pins: u32,
    read: Time,
    ask_at: Time,
    pause: Duration,
    answers: BTreeMap<PeerId, Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    answered: RangeSet,
    applied: bool,
    unsupported: bool,
    /// When the last of them was applied, on this node's clock.
    at: Option<Time>,
}

#[derive(Debug)]
struct Asked {
    wants: BTreeMap<StreamId, RangeSet>,
    spread: Duration,
    /// When to answer; `NEVER` while there is nothing to say.
    due: Time,
    until: Time,
}

impl Receipts {
    pub fn new() -> Self {
        Receipts {
            open: BTreeMap::new(),
            to_all: BTreeMap::new(),
            again: BTreeMap::new(),
            asked: BTreeMap::new(),
            applied: VecDeque::new(),
            next: Time::NEVER,
        }
    }

    pub fn forget_peer(&mut self, peer: PeerId) {
        self.asked.remove(&peer);
        self.again.remove(&peer);
        for open in self.open.values_mut() {
            open.answers.remove(&peer);
        }
    }

    /// A peer is another one now, or is new: what an earlier life of it said is forgotten, and it is asked.
    pub fn turn_peer(&mut self, now: Time, peer: PeerId) {
        for open in self.open.values_mut() {
            open.answers.remove(&peer);
            open.ask_at = open.ask_at.min(ask_time(now + ASK_AGAIN_MIN));
            self.next = self.next.min(open.ask_at);
        }
    }

    fn reckon_next(&mut self) {
        let asks = self.open.values().map(|open| open.ask_at);
        let answers = self.asked.values().map(|asked| asked.due.min(asked.until));
        self.next = asks.chain(answers).min().unwrap_or(Time::NEVER);
    }
}

impl Open {
    /// What a peer has not answered yet.
    fn unanswered(&self, peer: PeerId, messages: &RangeInclusive<u64>) -> RangeSet {
        let mut open = RangeSet::new();
        open.insert_range(messages.clone());
        if let Some(answer) = self.answers.get(&peer) {
            open.remove_all(&answer.answered);
        }
        open
    }
}

impl<S: Store, R: RngCore> Core<S, R> {
    /// Asks all peers for receipts of messages, and goes on asking those that do not answer until the
    /// receipt is given up for others that were read later. With `pin` it is not, until
    /// [`Core::unpin_receipt`]. Whether there is room for it.
    pub fn ask_receipt(&mut self, now: Time, ids: MessageIds, pin: bool) -> bool {
        let key = (ids.stream, ids.first, ids.last);
        if ids.first == 0 || ids.first > ids.last || ids.last > SEQ_MAX {
            return false;
        }
        if !self.receipts.open.contains_key(&key) {
            if self.receipts.open.len() >= RECEIPTS_MAX {
                self.stats.receipts_given_up += 1;
                let unpinned = self.receipts.open.iter().filter(|(_, open)| open.pins == 0);
                let Some((&oldest, _)) = unpinned.min_by_key(|(_, open)| open.read) else {
                    return false;
                };
                self.receipts.open.remove(&oldest);
            }
            let rtt = self.peers.values().map(Peer::rtt_or_guess).max();
            let pause = (self.ask_spread() * 2)
                .max(rtt.unwrap_or_default() * 2)
                .max(ASK_AGAIN_MIN);
            let open = Open {
                born: None,
                pins: 0,
                read: now,
                ask_at: ask_time(now + pause),
                pause,
                answers: BTreeMap::new(),
            };
            self.receipts.next = self.receipts.next.min(open.ask_at);
            self.receipts.open.insert(key, open);
            if !self.peers.is_empty() {
                let asks = self.receipts.to_all.entry(ids.stream).or_default();
                asks.insert_range(ids.first..=ids.last);
            }
        }
        if let Some(open) = self.receipts.open.get_mut(&key) {
            // It may have come since, or the store had to fetch it.
            if let (None, Fetch::Held(held)) = (open.born, self.store.get(ids.first())) {
                open.born = Some(held.born);
            }
            open.read = now;
            open.pins = open.pins.saturating_add(u32::from(pin));
        }
        true
    }

    /// Takes a pin back.
    pub fn unpin_receipt(&mut self, ids: MessageIds) {
        let key = (ids.stream, ids.first, ids.last);
        if let Some(open) = self.receipts.open.get_mut(&key) {
            open.pins = open.pins.saturating_sub(1);
        }
    }

    /// What is known by now of a receipt that was asked for; `None` if it was not, or was given up.
    pub fn receipt(&self, ids: MessageIds) -> Option<Receipt> {
        let open = self.receipts.open.get(&(ids.stream, ids.first, ids.last))?;
        let messages = width(&(ids.first..=ids.last));
        let of_peer = |peer: PeerId| {
            let answer = open.answers.get(&peer);
            let state = match answer {
                Some(answer) if answer.unsupported => ReceiptState::Unsupported,
                Some(answer) if answer.answered.count() < messages => ReceiptState::Missing,
                Some(answer) if answer.applied => ReceiptState::Applied,
                Some(_) => ReceiptState::NotWanted,
                None => ReceiptState::Missing,
            };
            let at = answer.and_then(|answer| answer.at);
            PeerReceipt {
                peer,
                state,
                latency: open.born.zip(at).map(|(born, at)| at.since(born)),
            }
        };
        Some(Receipt {
            ids,
            born: open.born,
            applied_here: self.all_seen(ids),
            done_here: self.owes_nothing(ids),
            peers: self.peers.keys().map(of_peer).collect(),
        })
    }

    /// Whether this node has applied, or does not want, each of these messages. The cost does not grow with their
    /// number.
    pub fn owes_nothing(&self, ids: MessageIds) -> bool {
        let Some(stream) = self.streams.get(&ids.stream) else {
            return false;
        };
        let owed = [
            &stream.ready,
            &stream.retry,
            &stream.in_flight,
            &stream.unsupported,
        ];
        let nothing = |unseen: RangeInclusive<u64>| {
            let unseen = stream.floor.max(*unseen.start())..=*unseen.end();
            unseen.is_empty()
                || (stream.known.gaps(unseen.clone()).next().is_none()
                    && owed
                        .iter()
                        .all(|set| set.within(unseen.clone()).next().is_none()))
        };
        stream.seen.gaps(ids.first..=ids.last).all(nothing)
    }

    /// How many nodes owe nothing any more, this one included: [`Receipt::done`] without the rest.
    pub fn receipt_done(&self, ids: MessageIds) -> usize {
        let here = usize::from(self.owes_nothing(ids));
        let open = self.receipts.open.get(&(ids.stream, ids.first, ids.last));
        let messages = width(&(ids.first..=ids.last));
        let done = |(_, answer): &(&PeerId, &Answer)| {
            !answer.unsupported && answer.answered.count() >= messages
        };
        here + open.map_or(0, |open| open.answers.iter().filter(done).count())
    }

    /// The time over which peers are to spread their answers: the more there are, the longer.
    fn ask_spread(&self) -> Duration {
        let peers = u32::try_from(self.peers.len()).unwrap_or(u32::MAX);
        ASK_SPREAD_PEER.saturating_mul(peers).min(ASK_SPREAD_MAX)
    }

    /// Notes that a message has been applied, for those who asked and those who will.
    pub(crate) fn note_applied(&mut self, now: Time, id: MessageId) {
        if self.receipts.applied.len() >= APPLIED_REMEMBERED {
            self.receipts.applied.pop_front();
        }
        self.receipts.applied.push_back((now, id));
        self.answer_soon(now, id);
    }

    /// Has those who asked for this message told what became of it.
    pub(crate) fn answer_soon(&mut self, now: Time, id: MessageId) {
        if self.receipts.asked.is_empty() {
            return;
        }
        let waits = |asked: &Asked| {
            let wanted = asked.wants.get(&id.stream);
            asked.due == Time::NEVER && wanted.is_some_and(|wanted| wanted.contains(id.seq))
        };
        let waiting = self.receipts.asked.iter().filter(|(_, asked)| waits(asked));
        let waiting: Vec<(PeerId, Duration)> =
            waiting.map(|(&peer, asked)| (peer, asked.spread)).collect();
        for (peer, spread) in waiting {
            let due = now + self.jitter(spread);
            if let Some(asked) = self.receipts.asked.get_mut(&peer) {
                asked.due = due;
            }
            self.receipts.next = self.receipts.next.min(due);
        }
    }

    pub(crate) fn handle_ask(&mut self, now: Time, from: PeerId, ask: Ask<'_>) {
        self.stats.asks_in += 1;
        let spread = Duration::from_micros(ask.spread_us).min(ASK_SPREAD_MAX);
        let due = now + self.jitter(spread);
        let asked = self.receipts.asked.entry(from).or_insert_with(|| Asked {
            wants: BTreeMap::new(),
            spread,
            due,
            until: now,
        });
        asked.spread = spread;
        // Not sooner for each new question, or many would make them all at once.
        if asked.due == Time::NEVER {
            asked.due = due;
        }
        asked.until = now + ASK_KEPT;
        let new = ask
            .entries()
            .map(|entry| entry.ranges().count())
            .sum::<usize>();
        let before: usize = asked.wants.values().map(RangeSet::range_count).sum();
        if before + new > ASK_RANGES_MAX {
            // What cannot be answered must not stand in the way of what can; it is asked again.
            let dropped = asked.wants.values().map(RangeSet::count);
            let dropped = dropped.fold(0, u64::saturating_add);
            self.stats.asks_dropped = self.stats.asks_dropped.saturating_add(dropped);
            asked.wants.clear();
        }
        for entry in ask.entries() {
            let wants = asked.wants.entry(entry.stream).or_default();
            wants.extend(entry.ranges());
        }
        self.receipts.next = self.receipts.next.min(asked.due);
    }

    pub(crate) fn handle_receipts(&mut self, now: Time, from: PeerId, all: wire::Receipts<'_>) {
        self.stats.receipts_in += 1;
        let rtt = self
            .peers
            .get(from)
            .map_or(Duration::ZERO, Peer::rtt_or_guess);
        let arrived_from = now - rtt / 2;
        for entry in all.entries() {
            if matches!(entry.fate, Fate::Reserved(_)) {
                continue;
            }
            let at = entry
                .since_us
                .map(|since| arrived_from - Duration::from_micros(since));
            let of_stream = (entry.stream, 0, 0)..=(entry.stream, u64::MAX, u64::MAX);
            for (&(_, first, last), open) in self.receipts.open.range_mut(of_stream) {
                for range in entry.ranges() {
                    let part = first.max(*range.start())..=last.min(*range.end());
                    if part.is_empty() {
                        continue;
                    }
                    let answer = open.answers.entry(from).or_default();
                    answer.answered.insert_range(part);
                    answer.applied |= entry.fate == Fate::Applied;
                    answer.unsupported |= entry.fate == Fate::Unsupported;
                    answer.at = answer.at.max(at);
                }
            }
        }
    }

    /// Asks again what was not answered, and forgets those who ask no more.
    pub(crate) fn tick_receipts(&mut self, now: Time) {
        if now < self.receipts.next {
            return;
        }
        let receipts = &mut self.receipts;
        receipts
            .asked
            .retain(|_, asked| asked.until > now && !asked.wants.is_empty());
        receipts
            .open
            .retain(|_, open| open.pins > 0 || now.since(open.read) < RECEIPT_KEPT);
        let due = receipts
            .open
            .iter_mut()
            .filter(|(_, open)| open.ask_at <= now);
        for (&(stream, first, last), open) in due {
            open.ask_at = Time::NEVER;
            for peer in self.peers.keys() {
                let unanswered = open.unanswered(peer, &(first..=last));
                if unanswered.is_empty() {
                    continue;
                }
                open.ask_at = ask_time(now + open.pause);
                let again = receipts.again.entry(peer).or_default();
                again.entry(stream).or_default().extend(unanswered.iter());
            }
            open.pause = (open.pause * 2).min(ASK_AGAIN_MAX);
        }
        receipts.reckon_next();
    }

    /// Appends what all peers are to be asked to a datagram that goes to all of them, if it fits.
    pub(crate) fn put_asks(&mut self, payload: &mut Vec<u8>) {
        let room = PLAINTEXT_BYTES_MAX.saturating_sub(payload.len());
        let room = room.saturating_sub(wire::FRAME_HEAD_BYTES + 10);
        let mut to_all = std::mem::take(&mut self.receipts.to_all);
        let entries = take_entries(&mut to_all, room);
        self.receipts.to_all = to_all;
        if !entries.is_empty() {
            self.stats.asks_out += 1;
            wire::put_ask(payload, self.ask_spread().as_micros() as u64, &entries);
        }
    }

    pub(crate) fn poll_receipts(&mut self, now: Time) -> Option<Transmit> {
        // With the purges that are asked about, if they wait to be sent.
        if !self.receipts.to_all.is_empty() && !self.has_unsent() {
            let mut payload = self.datagram(0);
            self.put_asks(&mut payload);
            return Some(Transmit {
                to: To::All,
                payload,
            });
        }
        self.poll_ask_again().or_else(|| self.poll_answer(now))
    }

    fn poll_ask_again(&mut self) -> Option<Transmit> {
        while let Some((peer, mut asks)) = self.receipts.again.pop_first() {
            // Who is down would not hear it; when it is up, it is asked at the next turn.
            let Some(state) = self.peers.get(peer).filter(|peer| peer.up) else {
                continue;
            };
            let instance = state.instance();
            let entries = take_entries(&mut asks, ENTRIES_BYTES);
            let mut payload = self.datagram(instance);
            wire::put_ask(&mut payload, self.ask_spread().as_micros() as u64, &entries);
            self.stats.asks_out += 1;
            return Some(Transmit {
                to: To::Peer(peer),
                payload,
            });
        }
        None
    }

    /// Tells a peer what became of what it asked for, as much as fits; the rest a moment later.
    fn poll_answer(&mut self, now: Time) -> Option<Transmit> {
        if now < self.receipts.next {
            return None;
        }
        let due = self
            .receipts
            .asked
            .iter()
            .find(|(_, asked)| asked.due <= now);
        let peer = *due?.0;
        let mut asked = self.receipts.asked.remove(&peer)?;
        asked.due = Time::NEVER;
        let mut entries = Vec::new();
        for (&id, wants) in &mut asked.wants {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            for (fate, since_us, ranges) in self.fates(now, id, stream, wants) {
                let room = ENTRIES_BYTES.saturating_sub(entries.len());
                let all = ranges.range_count();
                let ranges = shrink(ranges, room, |ranges| {
                    wire::receipt_entry_bytes(since_us, ranges.iter())
                });
                if ranges.range_count() < all {
                    asked.due = now + asked.spread;
                }
                if !ranges.is_empty() {
                    wire::put_receipt_entry(&mut entries, id, fate, since_us, ranges.iter());
                    wants.remove_all(&ranges);
                }
            }
        }
        asked.wants.retain(|_, wants| !wants.is_empty());
        self.receipts.asked.insert(peer, asked);
        self.receipts.reckon_next();
        if entries.is_empty() {
            return self.poll_answer(now);
        }
        let instance = self.peers.get(peer).map_or(0, Peer::instance);
        let mut payload = self.datagram(instance);
        wire::put_receipts(&mut payload, &entries);
        self.stats.receipts_out += 1;
        Some(Transmit {
            to: To::Peer(peer),
            payload,
        })
    }

    /// What became of those of `wants` that need no more doing, and how long ago.
    fn fates(
        &self,
        now: Time,
        id: StreamId,
        stream: &Stream,
        wants: &RangeSet,
    ) -> Vec<(Fate, Option<u64>, RangeSet)> {
        let mut settled = RangeSet::new();
        for range in wants.iter() {
            settled.insert_range(*range.start()..=(stream.floor - 1).min(*range.end()));
            settled.extend(stream.known.within(range));
        }
        for waiting in [&stream.ready, &stream.retry, &stream.in_flight] {
            settled.remove_all(waiting);
        }
        let mut fates = Vec::new();
        for (fate, set) in [
            (Fate::Applied, &stream.seen),
            (Fate::Unsupported, &stream.unsupported),
        ] {
            let these = settled.iter().flat_map(|range| set.within(range));
            let mut these: RangeSet = these.collect();
            settled.remove_all(&these);
            if fate == Fate::Applied {
                for (since_us, moment) in self.moments(now, id, &these) {
                    these.remove_all(&moment);
                    fates.push((fate, Some(since_us), moment));
                }
            }
            fates.push((fate, None, these));
        }
        fates.push((Fate::NotWanted, None, settled));
        fates.retain(|(.., ranges)| !ranges.is_empty());
        fates
    }

    /// Those of `these` of which it is remembered when they were applied, by how long ago that is.
    fn moments(&self, now: Time, id: StreamId, these: &RangeSet) -> Vec<(u64, RangeSet)> {
        let applied = self.receipts.applied.iter();
        let asked =
            |(_, message): &&(Time, MessageId)| message.stream == id && these.contains(message.seq);
        let applied: Vec<_> = applied.filter(asked).collect();
        let mut length = SAME_MOMENT_US;
        loop {
            let mut moments: BTreeMap<i64, (u64, RangeSet)> = BTreeMap::new();
            for (at, message) in &applied {
                let moment = moments.entry(at.as_us().div_euclid(length)).or_default();
                moment.0 = now.since(*at).as_micros() as u64;
                moment.1.insert(message.seq);
            }
            if moments.len() <= MOMENTS_MAX {
                return moments.into_values().collect();
            }
            length *= 2;
        }
    }
}

/// When to ask again at the earliest: at few moments, so that what many receipts lack goes in one datagram. In a storm
/// of purges each would have one of its own for each peer.
fn ask_time(at: Time) -> Time {
    let grid = ASK_AGAIN_MIN.as_micros() as i64;
    Time::from_us(at.as_us().saturating_add(grid - 1).div_euclid(grid) * grid)
}

/// Takes out of `asks` what fits into `room` bytes of entries.
fn take_entries(asks: &mut BTreeMap<StreamId, RangeSet>, room: usize) -> Vec<u8> {
    let mut entries = Vec::new();
    while let Some((stream, mut left)) = asks.pop_first() {
        let taken = shrink_entry(left.clone(), room.saturating_sub(entries.len()));
        left.remove_all(&taken);
        if !taken.is_empty() {
            wire::put_solicit_entry(&mut entries, stream, taken.iter());
        }
        if !left.is_empty() {
            asks.insert(stream, left);
            break;
        }
    }
    entries
}
