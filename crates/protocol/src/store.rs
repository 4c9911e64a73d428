//! Where held messages are kept. The core decides what is held and for how long; a [`Store`] only
//! keeps it, in memory here, on disk elsewhere.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::bounds::HELD_OVERHEAD_BYTES;
use crate::id::{MessageId, StreamId};
use crate::purge::Purge;
use crate::ranges::RangeSet;
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

/// Messages that a store has let go unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The stream that they are of.
    pub stream: StreamId,
    /// Their seqs. What else is among them is not to be said to be held either.
    pub seqs: RangeSet,
    /// When the last of them was born.
    pub born_max: Time,
}

/// Keeps messages by id. All calls return without waiting for a disk.
pub trait Store {
    /// Keeps `message`; replaces nothing (the core inserts an id once). What a store does when it
    /// can keep no more is its own affair: messages may be [`Fetch::Gone`] later, and [`Store::poll_lost`] says which.
    fn insert(&mut self, id: MessageId, message: Held);
    /// Reads a message.
    fn get(&mut self, id: MessageId) -> Fetch;
    /// Says that these messages are about to be read, for a store that has to fetch them.
    fn prefetch(&mut self, _stream: StreamId, _seqs: RangeInclusive<u64>) {}
    /// Drops all messages of `stream` below `seq`.
    fn remove_below(&mut self, stream: StreamId, seq: u64);
    /// What the store has let go for want of room since it was asked last, a stream at a time, so that nobody goes on
    /// saying that it is held. Asked for once a round, until there is none.
    fn poll_lost(&mut self) -> Option<Lost> {
        None
    }
    /// Bytes kept, overheads included: what the retention's byte bound is compared with.
    fn bytes(&self) -> u64;
    /// The oldest message of `stream` still kept: its seq and time of birth.
    fn oldest(&self, stream: StreamId) -> Option<(u64, Time)>;
    /// The largest seq kept of `stream` whose message was born before `time`, given that messages
    /// of a stream are born in the order of their seqs (small errors of age apart). Its cost may
    /// grow with the logarithm of what is kept, not more.
    fn last_born_before(&self, stream: StreamId, time: Time) -> Option<(u64, Time)>;
}

/// Messages of a stream that stand together: 64 seqs. A stream's messages come in the order of their seqs
/// and go in it, so most of them are put at the end of a chunk, and go with all of it.
const CHUNK_LOG2: u32 = 6;

/// Messages by the low bits of their seqs, ascending.
type Chunk = Vec<(u8, Held)>;

/// A store that forgets with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// By the high bits of the messages' seqs. No chunk is empty.
    streams: BTreeMap<StreamId, BTreeMap<u64, Chunk>>,
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

/// Where a message is: the number of its chunk, and its number in that.
fn place(seq: u64) -> (u64, u8) {
    (seq >> CHUNK_LOG2, (seq & ((1 << CHUNK_LOG2) - 1)) as u8)
}

fn seq_at((chunk, low): (u64, u8)) -> u64 {
    (chunk << CHUNK_LOG2) | u64::from(low)
}

fn find(chunk: &Chunk, low: u8) -> Result<usize, usize> {
    match chunk.last() {
        Some((last, _)) if *last < low => Err(chunk.len()),
        _ => chunk.binary_search_by_key(&low, |(low, _)| *low),
    }
}

impl Store for MemoryStore {
    fn insert(&mut self, id: MessageId, message: Held) {
        let (number, low) = place(id.seq);
        let chunk = self.streams.entry(id.stream).or_default();
        let chunk = chunk.entry(number).or_default();
        self.bytes += cost(&message);
        match find(chunk, low) {
            Err(at) => chunk.insert(at, (low, message)),
            Ok(at) => {
                if let Some((_, old)) = chunk.get_mut(at) {
                    self.bytes -= cost(old);
                    *old = message;
                }
            }
        }
    }

    fn get(&mut self, id: MessageId) -> Fetch {
        let (number, low) = place(id.seq);
        let chunk = self.streams.get(&id.stream);
        let chunk = chunk.and_then(|stream| stream.get(&number));
        let held = chunk.and_then(|chunk| chunk.get(find(chunk, low).ok()?));
        held.map_or(Fetch::Gone, |(_, held)| Fetch::Held(held.clone()))
    }

    fn remove_below(&mut self, stream: StreamId, seq: u64) {
        let Some(chunks) = self.streams.get_mut(&stream) else {
            return;
        };
        let (number, low) = place(seq);
        while let Some(entry) = chunks.first_entry().filter(|entry| *entry.key() <= number) {
            let last = *entry.key() == number;
            if last && entry.get().last().is_some_and(|(at, _)| *at >= low) {
                let chunk = entry.into_mut();
                let gone = find(chunk, low).unwrap_or_else(|at| at);
                let freed: u64 = chunk.drain(..gone).map(|(_, held)| cost(&held)).sum();
                self.bytes -= freed;
                break;
            }
            let chunk = entry.remove();
            self.bytes -= chunk.iter().map(|(_, held)| cost(held)).sum::<u64>();
        }
        if chunks.is_empty() {
            self.streams.remove(&stream);
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn oldest(&self, stream: StreamId) -> Option<(u64, Time)> {
        let (&number, chunk) = self.streams.get(&stream)?.first_key_value()?;
        let (low, held) = chunk.first()?;
        Some((seq_at((number, *low)), held.born))
    }

    fn last_born_before(&self, stream: StreamId, time: Time) -> Option<(u64, Time)> {
        let chunks = self.streams.get(&stream)?;
        let (mut lo, mut hi) = (*chunks.first_key_value()?.0, *chunks.last_key_value()?.0);
        let mut found = None;
        // Halves the numbers of chunks, not the chunks: 56 steps at most. Then looks into one.
        while lo <= hi {
            let middle = lo + (hi - lo) / 2;
            let Some((&number, chunk)) = chunks.range(middle..=hi).next() else {
                match middle.checked_sub(1) {
                    Some(below) => hi = below,
                    None => break,
                }
                continue;
            };
            if chunk.first().is_some_and(|(_, held)| held.born < time) {
                found = Some((number, chunk));
                lo = number + 1;
            } else {
                match middle.checked_sub(1) {
                    Some(below) => hi = below,
                    None => break,
                }
            }
        }
        let (number, chunk) = found?;
        let count = chunk.partition_point(|(_, held)| held.born < time);
        let (low, held) = chunk.get(count.checked_sub(1)?)?;
        Some((seq_at((number, *low)), held.born))
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

    /// What the store does, done slowly.
    #[derive(Default)]
    struct Model(BTreeMap<u64, Held>);

    #[test]
    fn it_does_what_a_map_does() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};
        let rng = &mut StdRng::seed_from_u64(1);
        let stream = StreamId::default();
        for round in 0..200 {
            let (mut store, mut model) = (MemoryStore::new(), Model::default());
            let spread = 1 << rng.random_range(3..40);
            for _ in 0..rng.random_range(1..400) {
                let seq = rng.random_range(0..spread);
                match rng.random_range(0..10) {
                    0 => {
                        store.remove_below(stream, seq);
                        model.0 = model.0.split_off(&seq);
                    }
                    1 => {
                        let expected = model.0.get(&seq).cloned().map_or(Fetch::Gone, Fetch::Held);
                        assert_eq!(store.get(MessageId { stream, seq }), expected);
                    }
                    2 => {
                        let before = Time::from_us(rng.random_range(0..spread as i64 + 2));
                        let born = model.0.iter().filter(|(_, held)| held.born < before);
                        let expected = born.last().map(|(seq, held)| (*seq, held.born));
                        assert_eq!(store.last_born_before(stream, before), expected, "{round}");
                    }
                    _ => {
                        // Born in the order of their seqs.
                        store.insert(MessageId { stream, seq }, held(seq as i64));
                        model.0.insert(seq, held(seq as i64));
                    }
                }
                let oldest = model.0.first_key_value();
                let oldest = oldest.map(|(seq, held)| (*seq, held.born));
                assert_eq!(store.oldest(stream), oldest);
                let bytes: u64 = model.0.values().map(cost).sum();
                assert_eq!(store.bytes(), bytes);
            }
        }
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
