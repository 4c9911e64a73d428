//! How long messages are held: by age, by bytes, and across a restart.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::RngCore;

use crate::bounds::{
    FORGET_RETENTIONS, GIVE_UP_RETENTIONS, MESSAGE_BYTES_MAX, SEQ_MAX, STREAMS_MAX,
};
use crate::core::Core;
use crate::id::StreamId;
use crate::ranges::{RangeSet, total, width};
use crate::store::{Lost, Store};
use crate::stream::Stream;
use crate::time::Time;

/// Rounds for which a stream without anything in it is remembered, so that a peer whose clock is a
/// little behind does not bring it back.
const LINGER_ROUNDS: u64 = 1_000;

/// Messages evicted of one stream before the next oldest is looked at.
const EVICT_BATCH_MAX: u64 = 64;

/// How often what is too old is looked for in the time of a retention: each 4 s if that is a day.
const EXPIRE_PER_RETENTION: u32 = 20_000;

/// Such batches in a round: 260,000 messages a second.
const EVICT_BATCHES_ROUND: usize = 1_024;

/// What has expired here of a stream, for who was away, and therefore for the node's next life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The stream.
    pub stream: StreamId,
    /// All messages below this seq have.
    pub below: u64,
    /// When the last of them was born.
    pub born: Time,
}

impl<S: Store, R: RngCore> Core<S, R> {
    /// Drops what is too old, and the oldest while the store is too large.
    pub(crate) fn expire(&mut self, now: Time) {
        while let Some(lost) = self.store.poll_lost() {
            self.note_lost(&lost);
        }
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
                if below > seq {
                    stream.note_gone(seq, born, self.round);
                }
                if stream.wanted(0..=below - 1).next().is_none() {
                    stream.raise_floor(below, born);
                    stream.floor_lost = false;
                } else if stream.dropped.is_none() {
                    stream.dropped = Some((below - 1, born));
                }
            }
            if let Some((seq, born)) = stream.dropped.filter(|(_, born)| *born < give_up) {
                let below = stream
                    .first_unapplied()
                    .map_or(seq + 1, |first| first.min(seq + 1));
                let lost = stream.raise_floor(below, born);
                stream.floor_lost = lost > 0;
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
            // A node that is there may go on with its stream after any silence: to who has forgotten it, all that it
            // issued before would be lacking.
            let mut later = self.streams.range(id..=*StreamId::all_of(id.node).end());
            let latest = later.nth(1).is_none() || self.is_present(id);
            if !latest || !self.roster.has_node(id.node) {
                self.forget_stream(id);
            } else if let Some(stream) = self.streams.get_mut(&id) {
                // Nor at once when it is taken out of the list of peers, by mistake or for a moment.
                stream.mentioned = self.round;
                // What is lacking of it can be had no more, and what could not be applied is told no more.
                let lost = stream.skip(stream.top);
                self.stats.lost = self.stats.lost.saturating_add(lost);
                stream.unsupported = RangeSet::new();
            }
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
            let Some((first, born)) = self.store.oldest(id) else {
                continue;
            };
            // What has not been applied is not given up, or it would have to be fetched again.
            let pinned = stream.first_unapplied().unwrap_or(u64::MAX);
            let batch = (excess / MESSAGE_BYTES_MAX as u64 + 1).min(EVICT_BATCH_MAX);
            // Nor is anything said of what has not come, or was not even issued yet.
            let last = stream.held.last().map_or(first, |last| last.max(first));
            let below = first.saturating_add(batch).min(pinned).min(last + 1);
            if below > first {
                self.stats.evicted += drop_held(&mut self.store, id, stream, below);
                stream.evicted_below = stream.evicted_below.max(below);
                stream.note_gone(below - 1, born, self.round);
                let left = self.store.oldest(id).map(|(_, born)| born);
                // What is left says it otherwise, and better: a store knows births only about.
                if let Some(born) = stream.last_born.filter(|_| left.is_none()) {
                    stream.note_older(below, born);
                }
                self.news.evicted_born = self.news.evicted_born.max(left.or(stream.last_born));
                oldest.extend(left.map(|born| Reverse((born, id))));
            }
        }
    }

    /// The store had no room for these: they are evicted like those that the core's own bound takes. What of them
    /// was not applied yet is found to be gone when it is its turn, and then wanted again.
    fn note_lost(&mut self, lost: &Lost) {
        let Some(stream) = self.streams.get_mut(&lost.stream) else {
            return;
        };
        let Some(last) = lost.seqs.last() else { return };
        let held = lost.seqs.iter().flat_map(|range| stream.held.within(range));
        let evicted = total(held);
        if evicted == 0 {
            return;
        }
        self.stats.evicted += evicted;
        stream.held.remove_all(&lost.seqs);
        stream.evicted_below = stream.evicted_below.max(last + 1);
        stream.note_older(last + 1, lost.born_max);
        self.news.evicted_born = self.news.evicted_born.max(Some(lost.born_max));
    }

    fn forget_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            // Who keeps messages for longer speaks of it still, and here nothing of it is missed.
            if stream.top > 0 && !stream.has_gaps() {
                self.forgotten.insert((id.epoch, id.node), stream.top);
                if self.forgotten.len() > STREAMS_MAX {
                    self.forgotten.pop_first();
                }
            }
            self.ready_count = self.ready_count.saturating_sub(stream.ready.count());
            self.ready.remove(&id);
            self.retrying.remove(&id);
            if let Some(due) = stream.gap_due {
                self.gaps_due.remove(&(due, id));
            }
            self.store.remove_below(id, u64::MAX);
        }
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
        // What was missed in between may be too old as well.
        let after = too_old.map_or(first, |(seq, _)| seq + 1);
        let young_from = held.within(after..=last).next();
        let young_from = young_from.map_or(after, |range| *range.start());
        if let Some((seq, _)) = too_old {
            stream.skip(seq);
        }
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

    /// What has expired here of all streams, as far as others are told of it.
    pub fn expired(&self, now: Time) -> impl Iterator<Item = Expired> + '_ {
        let mention = self.mentioned_since(now);
        let told = move |stream: &Stream| stream.is_spoken_of(mention) && !stream.floor_lost;
        let streams = self.streams.iter().filter(move |(_, stream)| told(stream));
        streams.filter_map(|(&id, stream)| {
            Some(Expired {
                stream: id,
                below: stream.floor,
                born: stream.floor_born?,
            })
        })
    }

    /// Tells of what had expired in an earlier life of this node, after all of [`Core::restore`].
    pub fn restore_expired(&mut self, expired: &Expired) {
        let round = self.round;
        let Some(stream) = self.stream(expired.stream) else {
            return;
        };
        // What a crash has brought back expires again.
        let held = stream.held.first().unwrap_or(SEQ_MAX);
        let below = expired.below.min(held).max(1);
        stream.raise_floor(below, expired.born);
        stream.note_gone(below - 1, expired.born, round);
        stream.top = stream.top.max(below - 1);
        stream.last_born = stream.last_born.max(Some(expired.born));
    }

    /// When the youngest message was born, about, that was dropped for want of room, until that would have expired as
    /// well.
    pub fn evicted_born(&self, now: Time) -> Option<Time> {
        let evicted = self.news.evicted_born;
        evicted.filter(|born| now.since(*born) < self.config.retention)
    }

    /// Tells that an earlier life of this node had no room for what was born up to `born`.
    pub fn restore_evicted(&mut self, born: Option<Time>) {
        self.news.evicted_born = self.news.evicted_born.max(born);
    }
}

/// Takes what is held of a stream below `below` out of the store; how many that were.
fn drop_held(store: &mut impl Store, id: StreamId, stream: &mut Stream, below: u64) -> u64 {
    let count = total(stream.held.within(0..=below.saturating_sub(1)));
    stream.held.remove_below(below);
    store.remove_below(id, below);
    count
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::config::Config;
    use crate::core::Identity;
    use crate::delivery::Outcome;
    use crate::id::{MessageId, NodeId};
    use crate::purge::Purge;
    use crate::store::{Fetch, Held, MemoryStore};

    /// A store that says of what was put into this field that it has lost it.
    #[derive(Default)]
    struct Losing(MemoryStore, Option<Lost>);

    impl Store for Losing {
        fn insert(&mut self, id: MessageId, message: Held) {
            self.0.insert(id, message);
        }
        fn get(&mut self, id: MessageId) -> Fetch {
            self.0.get(id)
        }
        fn remove_below(&mut self, stream: StreamId, seq: u64) {
            self.0.remove_below(stream, seq);
        }
        fn poll_lost(&mut self) -> Option<Lost> {
            self.1.take()
        }
        fn bytes(&self) -> u64 {
            self.0.bytes()
        }
        fn oldest(&self, stream: StreamId) -> Option<(u64, Time)> {
            self.0.oldest(stream)
        }
        fn last_born_before(&self, stream: StreamId, time: Time) -> Option<(u64, Time)> {
            self.0.last_born_before(stream, time)
        }
    }

    /// Its digests said that it was held, and its news told of a retention that there was not.
    #[test]
    fn what_the_store_has_lost_is_evicted() {
        let identity = Identity {
            node: NodeId(1),
            instance: 1,
            stamp: 1,
        };
        // A reboot was not long ago: what an earlier life held was born before it.
        let begin = Time::from_us(-60_000_000);
        let rng = StdRng::seed_from_u64(1);
        let store = Losing::default();
        let mut core = Core::new(identity, Config::default(), store, rng, begin, begin);
        let stream = core.own;
        for n in 0..10 {
            let now = begin + Duration::from_secs(n);
            let id = core.handle_purge(now, Purge::Everything).expect("room");
            core.handle_applied(now, id, Outcome::Applied);
        }
        let seqs = RangeSet::from_iter([3..=4, 7..=7, 20..=30]);
        let now = begin + Duration::from_secs(20);
        let born_max = begin + Duration::from_secs(6);
        core.store.1 = Some(Lost {
            stream,
            seqs,
            born_max,
        });
        core.expire(now);
        let own = &core.streams[&stream];
        let held: Vec<_> = own.held.iter().collect();
        assert_eq!(held, [1..=2, 5..=6, 8..=10]);
        // What is silent below is dropped for want of room, and nothing of it is wanted again.
        assert_eq!((own.evicted_below, own.has_gaps()), (31, false));
        assert_eq!(core.stats.evicted, 3);
        assert_eq!(core.standing(now).retention_ms, Some(14_000));
        // Nor is less of it said when what comes before is dropped for want of room, too.
        core.config.retention_bytes = core.store.bytes() - 1;
        core.expire(now);
        let own = &core.streams[&stream];
        assert_eq!((own.held.first(), own.evicted_below), (Some(2), 31));
        // What was dropped before in any case is no news.
        let seqs = RangeSet::from_iter([3..=4]);
        core.store.1 = Some(Lost {
            stream,
            seqs,
            born_max: now,
        });
        core.expire(now);
        assert_eq!(core.standing(now).retention_ms, Some(14_000));
    }

    /// With many nodes, each of which issues little, whole streams go, and the full retention was told.
    #[test]
    fn streams_that_go_as_a_whole_are_told_of() {
        let identity = Identity {
            node: NodeId(1),
            instance: 1,
            stamp: 1,
        };
        let begin = Time::from_us(0);
        let held = RangeSet::from_iter([1..=1]);
        let mut store = MemoryStore::new();
        let streams = (2..102).map(|node| StreamId {
            node: NodeId(node),
            epoch: crate::id::Epoch {
                stamp: 1,
                random: 1,
            },
        });
        for (stream, age) in streams.clone().zip((3_601..=3_700).rev()) {
            let message = Held {
                born: begin - Duration::from_secs(age),
                issued_ms: 0,
                purge: Purge::Everything,
            };
            store.insert(MessageId { stream, seq: 1 }, message);
        }
        let config = Config {
            retention_bytes: store.bytes() / 2,
            ..Config::default()
        };
        let mut core = Core::new(
            identity,
            config,
            store,
            StdRng::seed_from_u64(1),
            begin,
            begin,
        );
        streams.for_each(|stream| core.restore(stream, &held));
        core.expire(begin);
        assert_eq!(core.stats.evicted, 50);
        assert_eq!(core.standing(begin).retention_ms, Some(3_651_000));
    }
}
