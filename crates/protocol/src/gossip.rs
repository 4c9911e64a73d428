//! Anti-entropy: digest, solicit, repair.
//!
//! Each round a node sends a *digest* to one random peer: for some streams, which messages it holds
//! and which it lacks. The receiver *solicits* what it lacks itself (pull), after a moment's delay
//! in which it may still come, and sends what the digest's sender lacks (push). Both answers are
//! *repairs*: ordinary data, to one peer. A solicit must come back while the digest that it answers
//! is still current: a node that is too slow to answer in time mends itself at its own next
//! rounds, not at the cost of others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use std::time::Duration;

use rand::RngCore;

use crate::bounds::{
    ACTIVE_ROUNDS, DIGEST_PARTS_MAX, DIGESTS_REMEMBERED, MENTION_RETENTIONS, NEWS_SHARE_PERCENT,
    OLDEST_SHARE_PERCENT, PLAINTEXT_BYTES_MAX, PUSH_SLACK, READY_MAX, REORDER_DELAY,
    REPAIR_RANGES_MAX, REPEAT_MAX, RTT_GUESS, SOLICIT_JITTER, SOLICIT_MESSAGES_MAX,
    SOLICIT_RANGES_MAX, STORE_RETRY,
};
use crate::core::{Core, To, Transmit, wire_message};
use crate::id::{MessageId, StreamId};
use crate::peer::{Peer, PeerId};
use crate::ranges::{RangeSet, total, width};
use crate::store::{Fetch, Store};
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{
    self, Data, DataWriter, Digest, DigestEntry, EntryWriter, Floor, RunKind, Solicit,
};

/// Bytes that a URL purge takes as a repair: what turns budgets of bytes into numbers of messages.
const MESSAGE_BYTES_TYPICAL: u64 = 40;

/// URL purges that fit into a datagram of repairs.
const REPAIRS_IN_DATAGRAM: u64 = 30;

/// Digests waiting to be sent, answers to others' included.
const DIGEST_ANSWERS_MAX: usize = 64;

/// Room for entries in a digest datagram: what header, frame head, flags and three varints leave.
const DIGEST_ENTRIES_BYTES: usize =
    PLAINTEXT_BYTES_MAX - wire::HEADER_BYTES - wire::FRAME_HEAD_BYTES - 1 - 3 * 10;

/// An entry is not begun in less: it should say something beside its stream's name.
const ENTRY_BYTES_MIN: usize = EntryWriter::OVERHEAD_BYTES + 24;

/// More streams than all parts of a digest have room for.
const DIGEST_ENTRIES_MAX: usize = DIGEST_PARTS_MAX * PLAINTEXT_BYTES_MAX / wire::STREAM_ID_BYTES;

/// A solicit that waits for its moment.
#[derive(Debug)]
pub(crate) struct PendingSolicit {
    pub due: Time,
    round: u64,
    /// When the digest came that it answers.
    heard: Time,
    wants: BTreeMap<StreamId, RangeSet>,
}

/// How much may still be picked.
#[derive(Clone, Copy)]
struct Allowance {
    ranges: usize,
    messages: u64,
}

/// Picks from `newest` (descending ranges) until the allowance, less the share of the oldest, is
/// used up, and then from `oldest` (ascending ranges) as much as is left.
fn pick(
    allowance: Allowance,
    newest: impl Iterator<Item = RangeInclusive<u64>>,
    oldest: impl Iterator<Item = RangeInclusive<u64>>,
) -> RangeSet {
    let mut picked = RangeSet::new();
    let share = |n: u64| n - n * OLDEST_SHARE_PERCENT / 100;
    let mut left = Allowance {
        ranges: share(allowance.ranges as u64) as usize,
        messages: share(allowance.messages),
    };
    let mut exhausted = true;
    for range in newest {
        if left.ranges == 0 || left.messages == 0 {
            exhausted = false;
            break;
        }
        let take = width(&range).min(left.messages);
        picked.insert_range(*range.end() - (take - 1)..=*range.end());
        left.ranges -= 1;
        left.messages -= take;
        exhausted = take == width(&range);
    }
    if exhausted {
        return picked;
    }
    left.ranges += allowance.ranges - share(allowance.ranges as u64) as usize;
    left.messages += allowance.messages - share(allowance.messages);
    for range in oldest {
        if left.ranges == 0 || left.messages == 0 {
            break;
        }
        let take = width(&range).min(left.messages);
        picked.insert_range(*range.start()..=*range.start() + (take - 1));
        left.ranges -= 1;
        left.messages -= take;
    }
    picked
}

impl<S: Store, R: RngCore> Core<S, R> {
    // ---- digest ----

    /// Builds this round's digest for `peer`: active streams first, then quiet ones in the room that
    /// is left. What does not fit comes first in the next one.
    pub(crate) fn build_digests(&mut self, now: Time, id: PeerId) {
        let since = self.active_since();
        let (mut active, mut quiet) = (Vec::new(), Vec::new());
        let mention = now - self.config.retention.saturating_mul(MENTION_RETENTIONS);
        let spoken_of = |stream: &Stream| {
            // Of a stream without a birth nothing has come here; once it has been skipped, others may
            // speak of it.
            let over = stream.held.is_empty()
                && match stream.last_born {
                    Some(born) => born < mention,
                    None => !stream.has_gaps(),
                };
            stream.top > 0 && !over
        };
        for (&id, stream) in self.streams.iter().filter(|(_, stream)| spoken_of(stream)) {
            // Who was in a digest longest ago is first in this one; then who changed last.
            let turn = (stream.digested, u64::MAX - stream.changed, id);
            if stream.changed >= since || stream.has_gaps() {
                active.push(turn);
            } else {
                quiet.push(turn);
            }
        }
        let active = first_turns(active);
        let quiet = first_turns(quiet);
        // A part's share is kept for the quiet streams, however busy the fleet is: who was away
        // hears of them in no other way.
        let mut room = DIGEST_PARTS_MAX * DIGEST_ENTRIES_BYTES - DIGEST_ENTRIES_BYTES / 4;
        let mut parts: Vec<Vec<u8>> = vec![Vec::with_capacity(DIGEST_ENTRIES_BYTES)];
        let mut named = 0;
        for (index, &id) in active.iter().enumerate() {
            // Streams with thousands of gaps do not crowd out the others.
            let share = (room / (active.len() - index)).max(ENTRY_BYTES_MIN);
            let part = parts.last().map_or(0, Vec::len);
            if DIGEST_ENTRIES_BYTES - part < ENTRY_BYTES_MIN {
                if parts.len() == DIGEST_PARTS_MAX {
                    break;
                }
                parts.push(Vec::with_capacity(DIGEST_ENTRIES_BYTES));
            }
            let before = parts.iter().map(Vec::len).sum::<usize>();
            if room < ENTRY_BYTES_MIN || !self.put_entry(id, share, parts.last_mut()) {
                break;
            }
            room = room.saturating_sub(parts.iter().map(Vec::len).sum::<usize>() - before);
            named += 1;
        }
        // So is half a part for the news.
        let news = self.news_bytes();
        let kept = news.min(DIGEST_ENTRIES_BYTES * NEWS_SHARE_PERCENT / 100);
        for id in quiet {
            let part = parts.last().map_or(0, Vec::len);
            let left = DIGEST_ENTRIES_BYTES.saturating_sub(part + kept);
            if left < ENTRY_BYTES_MIN || !self.put_entry(id, left, parts.last_mut()) {
                break;
            }
        }
        // Only a digest in one part can be seen to leave a stream out.
        let asks = parts.len() == 1 && named == active.len();
        let flags = if asks { Digest::ASKS } else { 0 };
        for entries in parts {
            self.queue_digest(now, id, flags, entries);
        }
    }

    /// Appends the entry of a stream to a part, in at most `share` bytes; whether there was room.
    fn put_entry(&mut self, id: StreamId, share: usize, part: Option<&mut Vec<u8>>) -> bool {
        let round = self.round;
        let (Some(part), Some(stream)) = (part, self.streams.get_mut(&id)) else {
            return false;
        };
        let left = DIGEST_ENTRIES_BYTES.saturating_sub(part.len());
        if left < ENTRY_BYTES_MIN {
            return false;
        }
        stream.digested = round;
        digest_entry(id, stream, left.min(share)).encode(part);
        true
    }

    fn queue_digest(&mut self, now: Time, to: PeerId, flags: u8, mut entries: Vec<u8>) {
        let round = self.round;
        let Some(peer) = self.peers.get(to) else {
            return;
        };
        let echo = peer.digest_heard.map_or((0, 0), |(heard_round, heard)| {
            (heard_round, now.since(heard).as_micros() as u64)
        });
        let instance = peer.instance();
        if self.digests_sent.len() == DIGESTS_REMEMBERED {
            self.digests_sent.pop_front();
        }
        self.digests_sent.push_back((round, to, now));
        let mut payload = self.datagram(instance);
        wire::put_digest(&mut payload, flags, round, echo, |out| {
            out.append(&mut entries)
        });
        self.put_news(now, &mut payload);
        self.digests.push_back((to, payload));
    }

    /// When the digest of `round` was last sent to `peer`, if that is remembered.
    fn digest_sent(&self, peer: PeerId, round: u64) -> Option<Time> {
        let sent = self.digests_sent.iter().rev();
        sent.filter(|(r, to, _)| *r == round && *to == peer)
            .map(|(_, _, at)| *at)
            .next()
    }

    /// Streams that changed in this round or later are active.
    fn active_since(&self) -> u64 {
        self.round.saturating_sub(u64::from(ACTIVE_ROUNDS))
    }

    /// Tells a peer, whose digest asks for that, of streams that changed here lately and that it
    /// did not name: it does not know that there is something to miss.
    fn tell_unnamed(&mut self, now: Time, to: PeerId, settled: Time, digest: &Digest<'_>) {
        let since = self.active_since();
        let named: BTreeSet<StreamId> = digest.entries().map(|entry| entry.stream).collect();
        let unnamed = self.streams.iter().filter(|(id, stream)| {
            stream.changed >= since && !stream.held.is_empty() && !named.contains(id)
        });
        // What is younger than a round trip may be on its way to the peer right now.
        let unnamed: Vec<StreamId> = unnamed
            .map(|(&id, _)| id)
            .filter(|&id| self.store.last_born_before(id, settled).is_some())
            .take(DIGEST_ENTRIES_BYTES / ENTRY_BYTES_MIN)
            .collect();
        let mut entries = Vec::new();
        for id in unnamed {
            if !self.put_entry(id, usize::MAX, Some(&mut entries)) {
                break;
            }
        }
        // One a peer at a time: a driver that does not send must not pile them up.
        if !entries.is_empty() && self.digests.len() < DIGEST_ANSWERS_MAX {
            self.queue_digest(now, to, 0, entries);
        }
    }

    pub(crate) fn poll_digest(&mut self) -> Option<Transmit> {
        let (peer, payload) = self.digests.pop_front()?;
        self.stats.digests_out += 1;
        Some(Transmit {
            to: To::Peer(peer),
            payload,
        })
    }

    pub(crate) fn handle_digest(&mut self, now: Time, from: PeerId, digest: Digest<'_>) {
        self.stats.digests_in += 1;
        let jitter = self.jitter(SOLICIT_JITTER);
        let echoed = self.digest_sent(from, digest.echo_round);
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        peer.hop = echoed.map(|sent| {
            let delay = Duration::from_micros(digest.echo_delay_us);
            now.since(sent).saturating_sub(delay)
        });
        if let Some(hop) = peer.hop {
            peer.sample_rtt(hop);
        }
        peer.digest_heard = Some((digest.round, now));
        let (in_transit, own_stamp) = (peer.rtt_or_guess() + PUSH_SLACK, self.own.epoch.stamp);

        // First learn how far each stream goes; then what is lacking is shared out over streams.
        let mut stamp_heard = 0;
        let mut lacking = 0u64;
        let mut pushable = 0u64;
        for entry in digest.entries() {
            let held_top = entry
                .runs()
                .filter(|(kind, _)| *kind == RunKind::Held)
                .map(|(_, range)| *range.end())
                .last();
            if entry.stream == self.own {
                let top = self.streams.get(&self.own).map_or(0, |stream| stream.top);
                if held_top.is_some_and(|held| held > top) {
                    stamp_heard = stamp_heard.max(own_stamp);
                }
            } else if entry.stream.node == self.node && entry.stream.epoch.stamp > own_stamp {
                stamp_heard = stamp_heard.max(entry.stream.epoch.stamp);
            }
            self.note_expired(now, from, &entry);
            let Some(held_top) = held_top else {
                pushable += u64::from(self.streams.contains_key(&entry.stream));
                continue;
            };
            let own = entry.stream == self.own;
            let round = self.round;
            let Some(stream) = self.stream(entry.stream) else {
                continue;
            };
            pushable += 1;
            if !own && held_top > stream.top && held_top >= stream.floor {
                stream.top = held_top;
                stream.changed = round;
            }
            lacking += u64::from(stream.has_gaps());
        }
        if stamp_heard > 0 {
            self.reopen(now, stamp_heard);
        }

        let mut wants = BTreeMap::new();
        let shares = lacking.max(1);
        let pull = Allowance {
            ranges: (SOLICIT_RANGES_MAX as u64 / shares).max(4) as usize,
            messages: (SOLICIT_MESSAGES_MAX / shares).max(16),
        };
        let shares = pushable.max(1);
        let push = Allowance {
            ranges: (REPAIR_RANGES_MAX as u64 / shares).max(4) as usize,
            messages: (self.config.repair_bytes_peer / MESSAGE_BYTES_TYPICAL / shares).max(16),
        };
        for entry in digest.entries() {
            let Some(stream) = self.streams.get(&entry.stream) else {
                continue;
            };
            if stream.has_gaps() {
                let held = runs_of(entry.runs(), RunKind::Held);
                let newest = held.iter().rev().flat_map(|range| stream.wanted_rev(range));
                let oldest = held.iter().flat_map(|range| stream.wanted(range));
                let picked = pick(pull, newest, oldest);
                if !picked.is_empty() {
                    wants.insert(entry.stream, picked);
                }
            }
            let missing = runs_of(entry.runs(), RunKind::Missing);
            let held = |range| stream.held.within(range).next().is_some();
            if !missing.iter().any(held) {
                continue;
            }
            // What is younger than this may be on its way to the peer right now.
            let Some((settled, _)) = self.store.last_born_before(entry.stream, now - in_transit)
            else {
                continue;
            };
            let upto = |range: RangeInclusive<u64>| *range.start()..=settled.min(*range.end());
            let newest = missing
                .iter()
                .rev()
                .flat_map(|range| stream.held.within(upto(range)).rev());
            let oldest = missing
                .iter()
                .flat_map(|range| stream.held.within(upto(range)));
            let picked = pick(push, newest, oldest);
            self.queue_repair(now, from, entry.stream, picked);
        }
        if digest.flags & Digest::ASKS != 0 {
            self.tell_unnamed(now, from, now - in_transit, &digest);
        }
        if !wants.is_empty() {
            let due = now + REORDER_DELAY + jitter;
            let pending = PendingSolicit {
                due,
                round: digest.round,
                heard: now,
                wants,
            };
            match self.solicits.get_mut(&from) {
                // Another part of the same digest, or a gap that is about to be asked for.
                Some(before) => {
                    (before.round, before.heard) = (pending.round, pending.heard);
                    before.due = before.due.min(pending.due);
                    for (stream, wanted) in pending.wants {
                        let wants = before.wants.entry(stream).or_default();
                        wants.extend(wanted.iter());
                    }
                }
                None => {
                    self.solicits.insert(from, pending);
                }
            }
        }
    }

    // ---- solicit ----

    /// Asks the origin of a stream for what dissemination did not bring.
    pub(crate) fn solicit_gaps(&mut self, now: Time, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(origin) = stream.origin else { return };
        // The answer may be lost as well. Ask again, more and more slowly, until a round would have
        // come to pass; from there on it is the rounds' affair.
        let rtt = self.peers.get(origin).map_or(RTT_GUESS, Peer::rtt_or_guess);
        stream.gap_delay = (stream.gap_delay * 2).max(rtt * 2);
        let again = stream.gap_delay < self.config.round.max(rtt * 4) && stream.has_gaps();
        if again {
            self.arm_gap(now, id);
        }
        if self.ready_count() >= READY_MAX {
            return;
        }
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let allowance = Allowance {
            ranges: SOLICIT_RANGES_MAX,
            messages: SOLICIT_MESSAGES_MAX,
        };
        let all = 0..=u64::MAX;
        let picked = pick(
            allowance,
            stream.wanted_rev(all.clone()),
            stream.wanted(all),
        );
        if picked.is_empty() || !self.peers.contains(origin) {
            return;
        }
        match self.solicits.get_mut(&origin) {
            Some(pending) => {
                let wants = pending.wants.entry(id).or_default();
                wants.extend(picked.iter());
            }
            None => {
                let wants = BTreeMap::from([(id, picked)]);
                let pending = PendingSolicit {
                    due: now,
                    round: 0,
                    heard: now,
                    wants,
                };
                self.solicits.insert(origin, pending);
            }
        }
    }

    pub(crate) fn poll_solicit(&mut self, now: Time) -> Option<Transmit> {
        loop {
            let due = self.solicits.iter().find(|(_, pending)| pending.due <= now);
            let id = *due?.0;
            let pending = self.solicits.remove(&id)?;
            let Some(peer) = self.peers.get(id) else {
                continue;
            };
            let (instance, until) = (peer.instance(), now + peer.repeat_after());
            if self.ready_count() >= READY_MAX {
                continue;
            }
            let age_ms_max = now.since(self.oldest_wanted()).as_millis() as u64;
            let mut entries = Vec::new();
            let room = PLAINTEXT_BYTES_MAX - wire::HEADER_BYTES - wire::FRAME_HEAD_BYTES - 30;
            for (stream_id, picked) in pending.wants {
                let Some(stream) = self.streams.get_mut(&stream_id) else {
                    continue;
                };
                // In the meantime some may have come, or have been asked of somebody else.
                let wanted = picked.iter().flat_map(|range| stream.wanted(range));
                let mut wanted: RangeSet = wanted.collect();
                stream.subtract_asked(now, until, &mut wanted);
                let wanted = shrink_entry(wanted, room.saturating_sub(entries.len()));
                if !wanted.is_empty() {
                    stream.note_asked(&wanted);
                    self.stats.solicited = self.stats.solicited.saturating_add(wanted.count());
                    wire::put_solicit_entry(&mut entries, stream_id, wanted.iter());
                }
            }
            if entries.is_empty() {
                continue;
            }
            let mut payload = self.datagram(instance);
            let delay_us = now.since(pending.heard).as_micros() as u64;
            wire::put_solicit(&mut payload, pending.round, delay_us, age_ms_max, &entries);
            self.stats.solicits_out += 1;
            return Some(Transmit {
                to: To::Peer(id),
                payload,
            });
        }
    }

    pub(crate) fn handle_solicit(&mut self, now: Time, from: PeerId, solicit: Solicit<'_>) {
        self.stats.solicits_in += 1;
        let answered = self.digest_sent(from, solicit.round);
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        if solicit.round != 0 {
            // Current for as long as the round trip needs, and two rounds at least. While no round
            // trip is known, the first answer is taken to measure it.
            let rtt = peer.rtt.unwrap_or(REPEAT_MAX);
            let current = (rtt * 4).max(self.config.round * 2);
            match answered {
                Some(sent) if now.since(sent) <= current => {
                    let delay = Duration::from_micros(solicit.delay_us);
                    peer.sample_rtt(now.since(sent).saturating_sub(delay));
                }
                _ => {
                    self.stats.solicits_stale += 1;
                    return;
                }
            }
        }
        let cutoff = now - Duration::from_millis(solicit.age_ms_max);
        let shares = (solicit.entries().count() as u64).max(1);
        let allowance = Allowance {
            ranges: (REPAIR_RANGES_MAX as u64 / shares).max(4) as usize,
            messages: (self.config.repair_bytes_peer / MESSAGE_BYTES_TYPICAL / shares).max(16),
        };
        for entry in solicit.entries() {
            let Some(stream) = self.streams.get(&entry.stream) else {
                continue;
            };
            let young = first_young(&self.store, entry.stream, stream, cutoff);
            let asked_first = entry
                .ranges()
                .next()
                .map_or(u64::MAX, |range| *range.start());
            if asked_first < young {
                if let Some(peer) = self.peers.get_mut(from) {
                    peer.floors.insert(entry.stream, young);
                    self.repairing.insert(from);
                }
            }
            let mut asked = RangeSet::new();
            for range in entry.ranges() {
                asked.insert_range((*range.start()).max(young)..=*range.end());
            }
            let newest = asked
                .iter()
                .rev()
                .flat_map(|range| stream.held.within(range).rev());
            let oldest = asked.iter().flat_map(|range| stream.held.within(range));
            let picked = pick(allowance, newest, oldest);
            self.queue_repair(now, from, entry.stream, picked);
        }
    }

    /// Everything of the stream below the floor is older than this node has said it wants.
    pub(crate) fn handle_floor(&mut self, floor: Floor) {
        let Some(stream) = self.streams.get_mut(&floor.stream) else {
            return;
        };
        // Only as the answer to a question, and not beyond what is known to exist.
        let seq = floor.seq.min(stream.top.saturating_add(1));
        if floor.stream == self.own || seq <= stream.floor || !stream.asked_within(0..=seq - 1) {
            return;
        }
        let skipped = total(stream.wanted(0..=seq - 1));
        stream.known.insert_range(stream.floor..=seq - 1);
        stream.note_young(seq);
        self.stats.skipped = self.stats.skipped.saturating_add(skipped);
    }

    // ---- repair ----

    fn queue_repair(&mut self, now: Time, to: PeerId, stream: StreamId, mut picked: RangeSet) {
        let Some(peer) = self.peers.get_mut(to) else {
            return;
        };
        self.stats.repairs_repeated += peer.subtract_repaired(now, stream, &mut picked);
        let room = REPAIR_RANGES_MAX.saturating_sub(peer.repair_ranges());
        if picked.is_empty() || room == 0 {
            return;
        }
        let queue = peer.repair.entry(stream).or_default();
        for range in picked.iter().rev().take(room) {
            self.store.prefetch(stream, range.clone());
            queue.insert_range(range);
        }
        self.repairing.insert(to);
    }

    /// Has another try at what the store had not at hand. With the round it is forgotten: the peer asks
    /// again.
    pub(crate) fn retry_awaited(&mut self, round_is_over: bool) {
        self.awaited_at = Time::NEVER;
        for id in std::mem::take(&mut self.awaiting) {
            let Some(peer) = self.peers.get_mut(id) else {
                continue;
            };
            let awaited = std::mem::take(&mut peer.awaited);
            if round_is_over {
                continue;
            }
            for (stream, ranges) in awaited {
                let queue = peer.repair.entry(stream).or_default();
                queue.extend(ranges.iter());
            }
            self.repairing.insert(id);
        }
    }

    pub(crate) fn poll_repair(&mut self, now: Time) -> Option<Transmit> {
        loop {
            let after = self.last_repaired.map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.repairing.range((after, Bound::Unbounded)).next();
            let id = *next.or_else(|| self.repairing.first())?;
            self.last_repaired = Some(id);
            let round = self.round;
            let Some(peer) = self.peers.get_mut(id) else {
                self.repairing.remove(&id);
                continue;
            };
            let left = *peer.repair_left(round, self.config.repair_bytes_peer);
            let left = left.min(self.repair_left);
            if left < PLAINTEXT_BYTES_MAX as u64 && !peer.repair.is_empty() {
                let dropped: u64 = peer.repair.values().map(RangeSet::count).sum();
                self.stats.repairs_over_budget += dropped;
                peer.repair.clear();
            }
            if peer.repair.is_empty() && peer.floors.is_empty() {
                self.repairing.remove(&id);
                continue;
            }
            let instance = peer.instance();
            let payload = self.datagram(instance);
            let payload = self.fill_repair(now, id, payload);
            if payload.len() > wire::HEADER_BYTES {
                return Some(Transmit {
                    to: To::Peer(id),
                    payload,
                });
            }
        }
    }

    /// Fills a datagram with floors and repairs for `id`. At least one of what was queued is taken
    /// off the queue, so that the caller's loop ends.
    fn fill_repair(&mut self, now: Time, id: PeerId, mut payload: Vec<u8>) -> Vec<u8> {
        let round = self.round;
        let Some(peer) = self.peers.get_mut(id) else {
            return payload;
        };
        while let Some((&stream, &seq)) = peer.floors.first_key_value() {
            if payload.len() + wire::FRAME_HEAD_BYTES + wire::STREAM_ID_BYTES + 9
                > PLAINTEXT_BYTES_MAX
            {
                return payload;
            }
            wire::Frame::Floor(Floor { stream, seq }).encode(&mut payload);
            peer.floors.remove(&stream);
            self.stats.floors_out += 1;
        }
        let before = payload.len();
        let mut full = false;
        while !full && !peer.repair.is_empty() {
            // Streams take turns, and of each the newest go first.
            let after = peer.repaired_last.map_or(Bound::Unbounded, Bound::Excluded);
            let next = peer.repair.range((after, Bound::Unbounded)).next();
            let Some((&stream_id, _)) = next.or_else(|| peer.repair.first_key_value()) else {
                break;
            };
            peer.repaired_last = Some(stream_id);
            let Some(mut ranges) = peer.repair.remove(&stream_id) else {
                break;
            };
            let newest = newest(&ranges, REPAIRS_IN_DATAGRAM);
            let mut writer =
                DataWriter::new(&mut payload, PLAINTEXT_BYTES_MAX, stream_id, Data::REPAIR);
            let mut gone = Vec::new();
            for seq in newest.iter().flatten() {
                match self.store.get(MessageId {
                    stream: stream_id,
                    seq,
                }) {
                    Fetch::Held(held) => {
                        if !writer.push(&wire_message(now, seq, &held)) {
                            full = true;
                            break;
                        }
                        self.stats.repairs_out += 1;
                        peer.note_repaired(stream_id, seq);
                    }
                    Fetch::Gone => gone.push(seq),
                    // A moment later the store has it at hand.
                    Fetch::Pending => {
                        let awaited = peer.awaited.entry(stream_id).or_default();
                        awaited.insert(seq);
                        self.awaiting.insert(id);
                        self.awaited_at = self.awaited_at.min(now + STORE_RETRY);
                    }
                }
                ranges.remove(seq);
            }
            if writer.finish() == 0 && full && payload.len() == wire::HEADER_BYTES {
                // It fits into no datagram. Nothing that is taken in is so large.
                ranges.remove_all(&newest);
            }
            if let Some(stream) = self.streams.get_mut(&stream_id) {
                gone.iter()
                    .for_each(|&seq| stream.held.remove_range(seq..=seq));
            }
            if !ranges.is_empty() {
                peer.repair.insert(stream_id, ranges);
            }
        }
        let bytes = (payload.len() - before) as u64;
        let left = peer.repair_left(round, self.config.repair_bytes_peer);
        *left = left.saturating_sub(bytes);
        self.repair_left = self.repair_left.saturating_sub(bytes);
        self.stats.repair_bytes_out += bytes;
        payload
    }
}

/// The streams whose turn it is, as many as there can be in a digest at most.
fn first_turns(mut turns: Vec<(u64, u64, StreamId)>) -> Vec<StreamId> {
    if turns.len() > DIGEST_ENTRIES_MAX {
        turns.select_nth_unstable(DIGEST_ENTRIES_MAX);
        turns.truncate(DIGEST_ENTRIES_MAX);
    }
    turns.sort_unstable();
    turns.into_iter().map(|(.., id)| id).collect()
}

/// The first seq that may have been born at `cutoff` or later: everything below is known to be
/// older, be it held or not.
fn first_young(store: &impl Store, id: StreamId, stream: &Stream, cutoff: Time) -> u64 {
    let held = store
        .last_born_before(id, cutoff)
        .map_or(1, |(seq, _)| seq + 1);
    let floor = if stream.floor_born.is_some_and(|born| born < cutoff) {
        stream.floor
    } else {
        1
    };
    held.max(floor)
}

/// Drops ranges from the middle, between the newest and the share of the oldest, until the rest
/// fits, as `bytes` of it says, into `room`.
pub(crate) fn shrink(
    mut ranges: RangeSet,
    room: usize,
    bytes: impl Fn(&RangeSet) -> usize,
) -> RangeSet {
    while !ranges.is_empty() && bytes(&ranges) > room {
        let keep = ranges.range_count() * 3 / 4;
        let oldest = keep * OLDEST_SHARE_PERCENT as usize / 100;
        let mut kept: RangeSet = ranges.iter().rev().take(keep - oldest).collect();
        kept.extend(ranges.iter().take(oldest));
        ranges = kept;
    }
    ranges
}

/// The same for a solicit's or an ask's entry.
pub(crate) fn shrink_entry(ranges: RangeSet, room: usize) -> RangeSet {
    shrink(ranges, room, |ranges| {
        wire::solicit_entry_bytes(ranges.iter())
    })
}

/// The `count` largest numbers of a set.
fn newest(set: &RangeSet, mut count: u64) -> RangeSet {
    let mut newest = RangeSet::new();
    for range in set.iter().rev() {
        let take = width(&range).min(count);
        if take == 0 {
            break;
        }
        newest.insert_range(*range.end() - (take - 1)..=*range.end());
        count -= take;
    }
    newest
}

fn runs_of(runs: impl Iterator<Item = (RunKind, RangeInclusive<u64>)>, kind: RunKind) -> RangeSet {
    let runs = runs.filter(|(run, _)| *run == kind);
    runs.map(|(_, range)| range).collect()
}

/// What a digest says of a stream, in at most `bytes`. If not all of it fits, the entry covers the
/// newest part, and at the next turn the part before; it never claims what it did not look at.
fn digest_entry(id: StreamId, stream: &mut Stream, bytes: usize) -> EntryWriter {
    let bytes = bytes.saturating_sub(EntryWriter::OVERHEAD_BYTES);
    let older = stream
        .digest_below
        .filter(|&below| below > stream.floor && below <= stream.top);
    // The newest part and the older ones take turns.
    let from = match older {
        Some(below) if stream.digest_older => below - 1,
        _ => stream.top,
    };
    stream.digest_older = !stream.digest_older;
    let open = from == stream.top && stream.young_from.is_some();
    let mut runs: Vec<(RunKind, u64)> = Vec::new();
    let (mut used, mut next) = (0, from);
    let mut start = stream.floor;
    while next >= stream.floor {
        let (kind, first) = run_ending_at(stream, next);
        let len = next - first + 1;
        if open && runs.is_empty() && kind == RunKind::Missing {
            // The open end says it.
        } else if let Some(last) = runs.last_mut().filter(|last| last.0 == kind) {
            used += EntryWriter::run_bytes(last.1 + len) - EntryWriter::run_bytes(last.1);
            last.1 += len;
        } else {
            used += EntryWriter::run_bytes(len);
            if used > bytes {
                start = next + 1;
                break;
            }
            runs.push((kind, len));
        }
        next = first - 1;
    }
    // An older part moves the mark on; the newest sets it only where there is none.
    if from != stream.top || older.is_none() {
        stream.digest_below = Some(start).filter(|&start| start > stream.floor);
    }
    runs.reverse();
    let mut flags = if open { DigestEntry::OPEN } else { 0 };
    if start == stream.floor && stream.floor_born.is_some() {
        flags |= DigestEntry::EXPIRED_BELOW;
    }
    if stream.evicted_below > start {
        flags |= DigestEntry::EVICTED;
    }
    EntryWriter {
        stream: id,
        flags,
        start,
        runs,
    }
}

/// The kind of message `seq` and the first seq of the run of that kind that ends there.
fn run_ending_at(stream: &Stream, seq: u64) -> (RunKind, u64) {
    let held = stream.held.range_at_or_below(seq);
    if let Some(range) = held.as_ref().filter(|range| *range.end() >= seq) {
        return (RunKind::Held, (*range.start()).max(stream.floor));
    }
    let after_held = held
        .map_or(stream.floor, |range| range.end() + 1)
        .max(stream.floor);
    match stream.known.range_at_or_below(seq) {
        Some(range) if *range.end() >= seq => (RunKind::Silent, after_held.max(*range.start())),
        // `held` is part of `known`, so what is after the last known one is after the last held.
        known => {
            let first = known
                .map_or(stream.floor, |range| range.end() + 1)
                .max(stream.floor);
            match stream.young_from {
                Some(young) if young <= seq => (RunKind::Missing, first.max(young)),
                _ => (RunKind::Silent, first),
            }
        }
    }
}
