//! Entries of one kind by number: 32 bits instead of a pointer's 64, in chunks that never move.
//!
//! A vector would copy millions of entries whenever it grows, with the shard's lock held; here growth
//! costs one chunk. A chunk whose last entry goes is given back, but for one that waits for the next
//! entry: a number of entries that wavers around a chunk's border must not allocate each time.

use std::ops;

/// The number of no entry.
pub const NIL: u32 = u32::MAX;

/// Entries in a chunk. With entries of 20, 24 and 28 bytes a chunk is a whole number of pages.
pub const CHUNK: u32 = 1024;

const CHUNK_LOG2: u32 = CHUNK.trailing_zeros();

/// Chunks at most, so that no entry's number is [`NIL`].
const CHUNKS_MAX: usize = (u32::MAX >> CHUNK_LOG2) as usize;

/// What a slab can hold: something with a 32-bit link to another of its kind, which the slab uses
/// while the entry is vacant.
pub trait Slot: Copy {
    /// What a vacant entry holds.
    const VACANT: Self;
    /// The link.
    fn link(&self) -> u32;
    /// Sets the link.
    fn set_link(&mut self, link: u32);
}

/// What is known of a chunk besides its entries.
struct Place {
    /// Entries in use.
    used: u32,
    /// Entries from here on have never been used: they need not be threaded on the list of vacant
    /// ones when the chunk is made.
    fresh: u32,
    /// First of the vacant entries below `fresh`, as a number within the chunk.
    vacant: u32,
    /// Neighbours on the list of chunks with room, or the next place without a chunk.
    before: u32,
    after: u32,
}

/// Entries by number.
pub struct Slab<T> {
    /// An empty slice where a chunk was given back.
    chunks: Vec<Box<[T]>>,
    places: Vec<Place>,
    /// First chunk with room.
    roomy: u32,
    /// First place without a chunk.
    hole: u32,
    /// Chunks without an entry that were not given back: 0 or 1.
    empty: u32,
    resident: usize,
    len: u32,
}

impl<T: Slot> Slab<T> {
    /// Without a chunk at first.
    pub fn new() -> Self {
        Slab {
            chunks: Vec::new(),
            places: Vec::new(),
            roomy: NIL,
            hole: NIL,
            empty: 0,
            resident: 0,
            len: 0,
        }
    }

    /// Entries in use.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// One more than the largest number that an entry may have now.
    pub fn end(&self) -> u32 {
        (self.chunks.len() as u32) << CHUNK_LOG2
    }

    /// The entry, vacant or not; `None` if its chunk was given back or never made.
    pub fn peek(&self, at: u32) -> Option<&T> {
        self.chunks
            .get((at >> CHUNK_LOG2) as usize)?
            .get((at & (CHUNK - 1)) as usize)
    }

    /// Bytes that the chunks and their directory take.
    pub fn memory_bytes(&self) -> usize {
        self.resident * CHUNK as usize * size_of::<T>()
            + self.chunks.capacity() * size_of::<Box<[T]>>()
            + self.places.capacity() * size_of::<Place>()
    }

    /// Stores `entry`; `None`, and nothing changed, if there are no more numbers.
    pub fn alloc(&mut self, entry: T) -> Option<u32> {
        if self.roomy == NIL {
            self.add_chunk()?;
        }
        let chunk = self.roomy;
        let place = &mut self.places[chunk as usize];
        let slot = if place.vacant == NIL {
            place.fresh += 1;
            place.fresh - 1
        } else {
            let slot = place.vacant;
            place.vacant = self.chunks[chunk as usize][slot as usize].link();
            slot
        };
        if place.used == 0 {
            self.empty -= 1;
        }
        place.used += 1;
        if place.used == CHUNK {
            self.unlist(chunk);
        }
        self.chunks[chunk as usize][slot as usize] = entry;
        self.len += 1;
        Some((chunk << CHUNK_LOG2) | slot)
    }

    /// Makes the entry vacant. It must be in use.
    pub fn free(&mut self, at: u32) {
        let (chunk, slot) = (at >> CHUNK_LOG2, at & (CHUNK - 1));
        let place = &mut self.places[chunk as usize];
        let mut vacant = T::VACANT;
        vacant.set_link(place.vacant);
        self.chunks[chunk as usize][slot as usize] = vacant;
        place.vacant = slot;
        place.used -= 1;
        self.len -= 1;
        if place.used == CHUNK - 1 {
            self.list(chunk);
        }
        if self.places[chunk as usize].used == 0 {
            if self.empty == 0 {
                self.empty = 1;
            } else {
                self.give_back(chunk);
            }
        }
    }

    fn add_chunk(&mut self) -> Option<()> {
        let chunk = if self.hole != NIL {
            let chunk = self.hole;
            self.hole = self.places[chunk as usize].after;
            chunk
        } else {
            if self.chunks.len() >= CHUNKS_MAX {
                return None;
            }
            self.chunks.push(Box::default());
            self.places.push(Place {
                used: 0,
                fresh: 0,
                vacant: NIL,
                before: NIL,
                after: NIL,
            });
            self.chunks.len() as u32 - 1
        };
        self.chunks[chunk as usize] = vec![T::VACANT; CHUNK as usize].into_boxed_slice();
        let place = &mut self.places[chunk as usize];
        place.fresh = 0;
        place.vacant = NIL;
        self.resident += 1;
        self.empty += 1;
        self.list(chunk);
        Some(())
    }

    fn give_back(&mut self, chunk: u32) {
        self.unlist(chunk);
        self.chunks[chunk as usize] = Box::default();
        self.places[chunk as usize].after = self.hole;
        self.hole = chunk;
        self.resident -= 1;
    }

    /// Puts a chunk on the list of those with room.
    fn list(&mut self, chunk: u32) {
        let first = self.roomy;
        if let Some(first) = self.places.get_mut(first as usize) {
            first.before = chunk;
        }
        let place = &mut self.places[chunk as usize];
        place.before = NIL;
        place.after = first;
        self.roomy = chunk;
    }

    fn unlist(&mut self, chunk: u32) {
        let place = &self.places[chunk as usize];
        let (before, after) = (place.before, place.after);
        match self.places.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.roomy = after,
        }
        if let Some(after) = self.places.get_mut(after as usize) {
            after.before = before;
        }
    }
}

impl<T> ops::Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, at: u32) -> &T {
        &self.chunks[(at >> CHUNK_LOG2) as usize][(at & (CHUNK - 1)) as usize]
    }
}

impl<T> ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.chunks[(at >> CHUNK_LOG2) as usize][(at & (CHUNK - 1)) as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Word(u32);

    impl Slot for Word {
        const VACANT: Word = Word(NIL);
        fn link(&self) -> u32 {
            self.0
        }
        fn set_link(&mut self, link: u32) {
            self.0 = link;
        }
    }

    proptest! {
        #[test]
        fn keeps_what_was_stored(steps in prop::collection::vec((any::<bool>(), 1usize..1500), 1..20)) {
            let mut slab = Slab::new();
            let mut model = BTreeMap::new();
            let mut next = 0;
            for (grow, n) in steps {
                for _ in 0..n {
                    if grow {
                        let at = slab.alloc(Word(next)).unwrap();
                        prop_assert!(model.insert(at, next).is_none());
                        next += 1;
                    } else if let Some((at, word)) = model.pop_first() {
                        prop_assert_eq!(slab[at], Word(word));
                        slab.free(at);
                    }
                }
                prop_assert_eq!(slab.len() as usize, model.len());
                prop_assert!(model.iter().all(|(at, word)| slab[*at] == Word(*word)));
            }
        }
    }

    #[test]
    fn gives_memory_back() {
        let mut slab = Slab::new();
        let all: Vec<u32> = (0..100 * CHUNK)
            .map(|n| slab.alloc(Word(n)).unwrap())
            .collect();
        let full = slab.memory_bytes();
        for at in &all {
            slab.free(*at);
        }
        assert_eq!(slab.resident, 1);
        assert!(slab.memory_bytes() < full / 10);
        for n in 0..100 * CHUNK {
            slab.alloc(Word(n)).unwrap();
        }
        assert_eq!(slab.memory_bytes(), full);
        assert_eq!(slab.end(), 100 * CHUNK);
    }
}
