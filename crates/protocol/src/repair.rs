//! Solicit and repair: who lacks something asks for it, and who holds it gives it, within a budget for each
//! round. The first half of the exchange, the digest, is in the module `gossip`.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};
use std::time::Duration;

use rand::RngCore;

use crate::bounds::{
    PLAINTEXT_BYTES_MAX, READY_MAX, REPAIR_RANGES_MAX, REPEAT_MAX, RTT_GUESS, SEQ_MAX,
    SOLICIT_MESSAGES_MAX, SOLICIT_RANGES_MAX, STORE_RETRY,
};
use crate::core::{Core, To, Transmit};
use crate::dissemination::wire_message;
use crate::id::{MessageId, StreamId};
use crate::peer::{Peer, PeerId};
use crate::pick::{Allowance, newest, pick, shrink_entry};
use crate::ranges::RangeSet;
use crate::store::{Fetch, Store};
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{self, Data, DataWriter, Floor, Solicit};

/// Bytes that a URL purge takes as a repair: what turns budgets of bytes into numbers of messages.
const MESSAGE_BYTES_TYPICAL: u64 = 40;

/// URL purges that fit into a datagram of repairs.
const REPAIRS_IN_DATAGRAM: u64 = 30;

/// A solicit that waits for its moment.
#[derive(Debug)]
pub(crate) struct PendingSolicit {
    pub due: Time,
    pub round: u64,
    /// When the digest came that it answers.
    pub heard: Time,
    pub wants: BTreeMap<StreamId, RangeSet>,
}

impl<S: Store, R: RngCore> Core<S, R> {
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

    /// What of a stream may be picked as repairs for a peer, if so many streams share what there is.
    pub(crate) fn repair_allowance(&self, streams: u64) -> Allowance {
        let shares = streams.max(1);
        Allowance {
            ranges: (REPAIR_RANGES_MAX as u64 / shares).max(4) as usize,
            messages: (self.config.repair_bytes_peer / MESSAGE_BYTES_TYPICAL / shares).max(16),
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
        let allowance = self.repair_allowance(solicit.entries().count() as u64);
        for entry in solicit.entries() {
            let Some(stream) = self.streams.get(&entry.stream) else {
                continue;
            };
            let young = first_young(&self.store, entry.stream, stream, cutoff);
            let asked_first = entry
                .ranges()
                .next()
                .map_or(u64::MAX, |range| *range.start());
            // Also if it was asked for nothing older: the asker may not have heard of that. A question that answers
            // no digest may have waited for any time, in which what it is about has grown older.
            let older = young > 1 && asked_first <= young;
            // And the other way round: it is gone here, and not older than the asker's cache. Its margin does
            // not count, in which there was nothing in the cache yet.
            let gone = stream.gone_young(cutoff + self.config.join_margin);
            let asked = |gone: RangeInclusive<u64>| {
                let mut ranges = entry.ranges();
                ranges.any(|range| range.start() <= gone.end() && gone.start() <= range.end())
            };
            let flags = if gone.is_some_and(asked) {
                Floor::YOUNG
            } else {
                0
            };
            if solicit.round != 0 && (older || flags != 0) {
                if let Some(peer) = self.peers.get_mut(from) {
                    let floor = Floor {
                        flags,
                        stream: entry.stream,
                        // Nobody takes a larger one, nor what else is in its datagram.
                        seq: young.min(SEQ_MAX),
                    };
                    peer.floors.insert(entry.stream, floor);
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

    /// Everything of the stream below the floor is older than this node has said it wants; what it asked for beyond is
    /// younger, or nothing is known of it there.
    pub(crate) fn handle_floor(&mut self, floor: Floor) {
        let Some(stream) = self.streams.get_mut(&floor.stream) else {
            return;
        };
        // Only as the answer to a question, and not beyond what is known to exist.
        let seq = floor.seq.min(stream.top.saturating_add(1));
        if floor.stream == self.own {
            return;
        }
        if seq > stream.floor && stream.asked_within(0..=seq) {
            let skipped = stream.skip_older(seq - 1, self.born_min);
            self.stats.skipped = self.stats.skipped.saturating_add(skipped);
        }
        if floor.flags & Floor::YOUNG != 0 {
            if let Some(asked) = stream.last_asked(seq) {
                stream.note_young(asked);
            }
        }
    }

    pub(crate) fn queue_repair(
        &mut self,
        now: Time,
        to: PeerId,
        stream: StreamId,
        mut picked: RangeSet,
    ) {
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
        while let Some((&stream, &floor)) = peer.floors.first_key_value() {
            if payload.len() + Floor::BYTES_MAX > PLAINTEXT_BYTES_MAX {
                return payload;
            }
            wire::Frame::Floor(floor).encode(&mut payload);
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

/// The first seq that may have been born at `cutoff` or later: everything below is known to be
/// older, be it held or not.
fn first_young(store: &impl Store, id: StreamId, stream: &Stream, cutoff: Time) -> u64 {
    let held = store
        .last_born_before(id, cutoff)
        .map_or(1, |(seq, _)| seq + 1);
    held.max(stream.first_young(cutoff))
}
