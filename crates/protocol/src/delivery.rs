//! From the store to the cache: what is handed out, what became of it, and what is known of a message.

use std::ops::Bound;
use std::time::Duration;

use rand::RngCore;

use crate::absence::Flush;
use crate::bounds::APPLY_RETRY;
use crate::core::Core;
use crate::id::{MessageId, MessageIds};
use crate::purge::Purge;
use crate::ranges::width;
use crate::store::{Fetch, Store};
use crate::time::Time;

/// Where the store has to fetch one message it has to fetch those behind it as well: they are put off together, this
/// many seqs at a time. One by one 100,000 of them, after a restart, took 6 to 19 ms under the core's lock; so 0.13 ms.
const FETCH_SEQS: u64 = 2_048;

/// So many times they are asked for in one go: some 12 MB of URL purges, which the store can have at hand at once.
const FETCHES_MAX: usize = 64;

/// A purge for the cache. It is in flight until [`Core::handle_applied`] says what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message's id. The seq is 0 for a flush that nobody issued: this node was away for so long
    /// that purges it has missed cannot be had any more.
    pub id: MessageId,
    /// What to purge. [`Purge::Unknown`] only if an earlier life's store held it (see [`Core::restore`]).
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

impl<S: Store, R: RngCore> Core<S, R> {
    /// The next purge for the cache, if one waits. Streams take turns.
    pub fn poll_delivery(&mut self, now: Time) -> Option<Delivery> {
        if let Some(flush) = self.poll_flush(now) {
            return Some(flush);
        }
        let mut fetches = 0;
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
                Fetch::Pending => {
                    fetches += 1;
                    self.put_off(now, id, fetches <= FETCHES_MAX);
                }
                Fetch::Gone => {
                    // The store lost it before it was applied: wanted from the fleet again.
                    stream.held.remove(seq);
                    stream.known.remove(seq);
                }
            }
        }
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

    /// Leaves a message, and those behind it, for when the store has them at hand; `fetch`: and asks for them.
    fn put_off(&mut self, now: Time, id: MessageId, fetch: bool) {
        let window = id.seq..=id.seq + (FETCH_SEQS - 1);
        if fetch {
            self.store.prefetch(id.stream, window.clone());
        }
        if let Some(stream) = self.streams.get_mut(&id.stream) {
            for range in stream.ready.within(window.clone()) {
                self.ready_count = self.ready_count.saturating_sub(width(&range));
                stream.retry.insert_range(range);
            }
            stream.ready.remove_range(window);
            if stream.ready.is_empty() {
                self.ready.remove(&id.stream);
            }
        }
        self.retry(now, id);
    }

    fn retry(&mut self, now: Time, id: MessageId) {
        if let Some(stream) = self.streams.get_mut(&id.stream) {
            stream.retry.insert(id.seq);
            self.retrying.insert(id.stream);
            self.retry_at = self.retry_at.min(now + APPLY_RETRY);
        }
    }

    /// How many messages wait to be handed to the cache.
    pub fn ready_count(&self) -> u64 {
        self.ready_count + u64::from(self.flush == Flush::Ready)
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
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ops::RangeInclusive;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::config::Config;
    use crate::core::Identity;
    use crate::id::{Epoch, NodeId, StreamId};
    use crate::ranges::RangeSet;
    use crate::store::Held;

    /// A store that has what it was asked to fetch at hand at the next retry; of the rest it counts the reads.
    #[derive(Default)]
    struct OnDisk {
        asked: RangeSet,
        at_hand: RangeSet,
        reads: Cell<usize>,
    }

    impl Store for OnDisk {
        fn insert(&mut self, _: MessageId, _: Held) {}
        fn get(&mut self, id: MessageId) -> Fetch {
            self.reads.set(self.reads.get() + 1);
            if !self.at_hand.contains(id.seq) {
                return Fetch::Pending;
            }
            Fetch::Held(Held {
                born: Time::from_us(0),
                issued_ms: 0,
                purge: Purge::Everything,
            })
        }
        fn prefetch(&mut self, _: StreamId, seqs: RangeInclusive<u64>) {
            self.asked.insert_range(seqs);
        }
        fn remove_below(&mut self, _: StreamId, _: u64) {}
        fn bytes(&self) -> u64 {
            0
        }
        fn oldest(&self, _: StreamId) -> Option<(u64, Time)> {
            None
        }
        fn last_born_before(&self, _: StreamId, _: Time) -> Option<(u64, Time)> {
            None
        }
    }

    /// Whoever took purges out after a restart looked for each of them in turn, under the lock, ten times a second.
    #[test]
    fn what_is_on_disk_is_put_off_by_the_thousand() {
        const COUNT: u64 = 100_000;
        let identity = Identity {
            node: NodeId(1),
            instance: 1,
            stamp: 2,
        };
        let begin = Time::from_us(0);
        let rng = StdRng::seed_from_u64(1);
        let mut core = Core::new(
            identity,
            Config::default(),
            OnDisk::default(),
            rng,
            begin,
            begin,
        );
        let stream = StreamId {
            node: NodeId(1),
            epoch: Epoch {
                stamp: 1,
                random: 1,
            },
        };
        core.restore(stream, &RangeSet::from_iter([1..=COUNT]));
        // The last one came a moment ago.
        core.store.at_hand.insert(COUNT);
        let mut now = begin;
        let mut delivered = Vec::new();
        for _ in 0..10 {
            core.store.reads.set(0);
            let before = delivered.len();
            while let Some(delivery) = core.poll_delivery(now) {
                core.handle_applied(now, delivery.id, Outcome::Applied);
                delivered.push(delivery.id.seq);
            }
            let vain = core.store.reads.get() - (delivered.len() - before);
            assert!(vain <= 50, "{vain} reads in vain");
            assert_eq!(core.ready_count(), 0);
            core.store.at_hand = std::mem::take(&mut core.store.asked);
            core.store.at_hand.insert(COUNT);
            now = now + APPLY_RETRY;
            core.handle_timeout(now);
        }
        assert_eq!(delivered.len() as u64, COUNT);
        delivered.sort_unstable();
        delivered.dedup();
        assert_eq!(delivered.len() as u64, COUNT);
    }
}
