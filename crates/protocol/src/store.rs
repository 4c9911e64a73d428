//! Where held messages are kept. The core decides what is held and for how long; a [`Store`] only
//! keeps it, in memory here, on disk elsewhere.

use std::collections::BTreeMap;

use crate::bounds::HELD_OVERHEAD_BYTES;
use crate::id::{MessageId, StreamId};
use crate::purge::Purge;
use crate::time::Time;

/// A message as it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// When it was issued, on this node's boot clock: arrival less age.
    pub born: Time,
    /// Milliseconds from the opening of its stream to its issue, as the origin says.
    pub issued_ms: u64,
    /// What it asks of the cache.
    pub purge: Purge,
}

/// What a store answers to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// The message.
    Held(Held),
    /// The message is being read; ask again later. The core goes on with other work meanwhile.
    Pending,
    /// The message is not, or no longer, in the store.
    Gone,
}

/// Keeps messages by id. All calls return without waiting for a disk.
pub trait Store {
    /// Keeps `message`; replaces nothing (the core inserts an id once). What a store does when it
    /// can keep no more is its own affair: the message may be [`Fetch::Gone`] later.
    fn insert(&mut self, id: MessageId, message: Held);
    /// Reads a message.
    fn get(&mut self, id: MessageId) -> Fetch;
    /// Drops all messages of `stream` below `seq`.
    fn remove_below(&mut self, stream: StreamId, seq: u64);
    /// Bytes kept, overheads included: what the retention's byte bound is compared with.
    fn bytes(&self) -> u64;
    /// The oldest message of `stream` still kept: its seq and time of birth.
    fn oldest(&self, stream: StreamId) -> Option<(u64, Time)>;
    /// The largest seq kept of `stream` whose message was born before `time`, given that messages
    /// of a stream are born in the order of their seqs (small errors of age apart). Its cost may
    /// grow with the logarithm of what is kept, not more.
    fn last_born_before(&self, stream: StreamId, time: Time) -> Option<(u64, Time)>;
}

/// A store that forgets with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    streams: BTreeMap<StreamId, BTreeMap<u64, Held>>,
    bytes: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }
}

fn cost(message: &Held) -> u64 {
    HELD_OVERHEAD_BYTES + message.purge.op().1.len() as u64
}

impl Store for MemoryStore {
    fn insert(&mut self, id: MessageId, message: Held) {
        self.bytes += cost(&message);
        if let Some(old) = self
            .streams
            .entry(id.stream)
            .or_default()
            .insert(id.seq, message)
        {
            self.bytes -= cost(&old);
        }
    }

    fn get(&mut self, id: MessageId) -> Fetch {
        let held = self
            .streams
            .get(&id.stream)
            .and_then(|stream| stream.get(&id.seq));
        held.map_or(Fetch::Gone, |held| Fetch::Held(held.clone()))
    }

    fn remove_below(&mut self, stream: StreamId, seq: u64) {
        let Some(messages) = self.streams.get_mut(&stream) else {
            return;
        };
        while let Some(entry) = messages.first_entry().filter(|entry| *entry.key() < seq) {
            self.bytes -= cost(&entry.remove());
        }
        if messages.is_empty() {
            self.streams.remove(&stream);
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn oldest(&self, stream: StreamId) -> Option<(u64, Time)> {
        self.streams
            .get(&stream)?
            .first_key_value()
            .map(|(&seq, held)| (seq, held.born))
    }

    fn last_born_before(&self, stream: StreamId, time: Time) -> Option<(u64, Time)> {
        let messages = self.streams.get(&stream)?;
        let (mut lo, mut hi) = (
            *messages.first_key_value()?.0,
            *messages.last_key_value()?.0,
        );
        let mut found = None;
        // Halves the seqs, not the messages: 62 steps at most.
        while lo <= hi {
            let middle = lo + (hi - lo) / 2;
            let Some((&seq, held)) = messages.range(middle..=hi).next() else {
                hi = middle - 1;
                continue;
            };
            if held.born < time {
                found = Some((seq, held.born));
                lo = seq + 1;
            } else {
                hi = middle - 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(born: i64) -> Held {
        Held {
            born: Time::from_us(born),
            issued_ms: 0,
            purge: Purge::Digest([0; 32]),
        }
    }

    #[test]
    fn the_last_one_born_before_a_time_is_found_between_gaps() {
        let stream = StreamId::default();
        let mut store = MemoryStore::new();
        for seq in [3, 4, 9, 1000, 1 << 60] {
            store.insert(MessageId { stream, seq }, held(seq.min(2000) as i64));
        }
        let find = |t| {
            store
                .last_born_before(stream, Time::from_us(t))
                .map(|(seq, _)| seq)
        };
        assert_eq!(find(3), None);
        assert_eq!(find(4), Some(3));
        assert_eq!(find(10), Some(9));
        assert_eq!(find(1001), Some(1000));
        assert_eq!(find(3000), Some(1 << 60));
    }

    #[test]
    fn bytes_return_to_zero() {
        let stream = StreamId::default();
        let mut store = MemoryStore::new();
        for seq in 1..=10 {
            store.insert(MessageId { stream, seq }, held(0));
        }
        assert_eq!(store.bytes(), 10 * (HELD_OVERHEAD_BYTES + 32));
        store.remove_below(stream, 11);
        assert_eq!(store.bytes(), 0);
        assert_eq!(store.get(MessageId { stream, seq: 1 }), Fetch::Gone);
    }
}
