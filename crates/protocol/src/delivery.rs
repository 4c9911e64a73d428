//! From the store to the cache: what is handed out, what became of it, and what is known of a message.

use std::ops::Bound;
use std::time::Duration;

use rand::RngCore;

use crate::absence::Flush;
use crate::bounds::APPLY_RETRY;
use crate::core::Core;
use crate::id::{MessageId, MessageIds};
use crate::purge::Purge;
use crate::store::{Fetch, Store};
use crate::time::Time;

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
