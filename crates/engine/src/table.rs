//! A hash table that never stops to grow: linear hashing (Litwin 1980) over the entries of a slab.
//!
//! A table that doubles copies everything at once, with the shard's lock held: a stall of tens of
//! milliseconds at a million objects. This one adds one bucket with one insertion, by splitting the
//! chain of one other bucket, and takes buckets away likewise. The buckets stand in chunks that do
//! not move; the entries of a bucket are a chain through the slab.

use crate::slab::{NIL, Slab, Slot};

/// Buckets in a chunk, and the fewest that a table has.
const CHUNK: u32 = 1024;

const CHUNK_LOG2: u32 = CHUNK.trailing_zeros();

/// A slab's entry that a table can find. The table keeps its chains in the entry's link.
pub trait Hashed: Slot {
    /// The entry's hash, the same for as long as it is in the table. All of its bits must be good.
    fn hash(&self) -> u32;
}

/// The buckets.
pub struct Table {
    chunks: Vec<Box<[u32]>>,
    /// Buckets in use, at least [`CHUNK`].
    buckets: u32,
    /// The next power of two, minus 1.
    mask: u32,
    len: u32,
}

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Table {
            chunks: vec![vacant_chunk()],
            buckets: CHUNK,
            mask: CHUNK - 1,
            len: 0,
        }
    }

    /// Bytes that the buckets and their directory take.
    pub fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK as usize * size_of::<u32>()
            + self.chunks.capacity() * size_of::<Box<[u32]>>()
    }

    /// The entry with this hash that `is` says yes to, or [`NIL`].
    pub fn find<T: Hashed>(&self, slab: &Slab<T>, hash: u32, is: impl Fn(&T) -> bool) -> u32 {
        let mut at = *self.head(self.bucket(hash));
        while at != NIL {
            let entry = &slab[at];
            if is(entry) {
                return at;
            }
            at = entry.link();
        }
        NIL
    }

    /// Adds a slab's entry, which must not be in the table.
    pub fn insert<T: Hashed>(&mut self, slab: &mut Slab<T>, at: u32) {
        let bucket = self.bucket(slab[at].hash());
        self.push(slab, bucket, at);
        self.len += 1;
        if self.len > self.buckets {
            self.split(slab);
        }
    }

    /// Takes out a slab's entry, which must be in the table.
    pub fn remove<T: Hashed>(&mut self, slab: &mut Slab<T>, at: u32) {
        let bucket = self.bucket(slab[at].hash());
        let after = slab[at].link();
        let mut before = *self.head(bucket);
        if before == at {
            *self.head_mut(bucket) = after;
        } else {
            while before != NIL && slab[before].link() != at {
                before = slab[before].link();
            }
            debug_assert_ne!(before, NIL, "the entry is not in the table");
            if before == NIL {
                return;
            }
            slab[before].set_link(after);
        }
        self.len -= 1;
        // Two for one, so that the buckets keep up with entries that all go.
        for _ in 0..2 {
            if self.buckets > CHUNK && self.len < self.buckets / 2 {
                self.merge(slab);
            }
        }
    }

    fn bucket(&self, hash: u32) -> u32 {
        let bucket = hash & self.mask;
        if bucket < self.buckets {
            bucket
        } else {
            bucket & (self.mask >> 1)
        }
    }

    fn head(&self, bucket: u32) -> &u32 {
        &self.chunks[(bucket >> CHUNK_LOG2) as usize][(bucket & (CHUNK - 1)) as usize]
    }

    fn head_mut(&mut self, bucket: u32) -> &mut u32 {
        &mut self.chunks[(bucket >> CHUNK_LOG2) as usize][(bucket & (CHUNK - 1)) as usize]
    }

    fn push<T: Hashed>(&mut self, slab: &mut Slab<T>, bucket: u32, at: u32) {
        let head = self.head_mut(bucket);
        slab[at].set_link(*head);
        *head = at;
    }

    /// Adds a bucket, which takes its entries from the one that shares all bits but the highest.
    fn split<T: Hashed>(&mut self, slab: &mut Slab<T>) {
        let new = self.buckets;
        if new == u32::MAX {
            return;
        }
        if (new >> CHUNK_LOG2) as usize == self.chunks.len() {
            self.chunks.push(vacant_chunk());
        }
        self.set_buckets(new + 1);
        let old = new & (self.mask >> 1);
        let mut at = std::mem::replace(self.head_mut(old), NIL);
        while at != NIL {
            let after = slab[at].link();
            let bucket = self.bucket(slab[at].hash());
            self.push(slab, bucket, at);
            at = after;
        }
    }

    /// Takes the last bucket away.
    fn merge<T: Hashed>(&mut self, slab: &mut Slab<T>) {
        let last = self.buckets - 1;
        let mut at = std::mem::replace(self.head_mut(last), NIL);
        self.set_buckets(last);
        while at != NIL {
            let after = slab[at].link();
            let bucket = self.bucket(slab[at].hash());
            self.push(slab, bucket, at);
            at = after;
        }
        // A whole chunk stays in reserve, so that a wavering number of entries does not allocate.
        if self.chunks.len() > last.div_ceil(CHUNK) as usize + 1 {
            self.chunks.pop();
        }
    }

    fn set_buckets(&mut self, buckets: u32) {
        self.buckets = buckets;
        self.mask = buckets
            .checked_next_power_of_two()
            .map_or(u32::MAX, |p| p - 1);
    }
}

fn vacant_chunk() -> Box<[u32]> {
    vec![NIL; CHUNK as usize].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy)]
    struct Entry {
        value: u32,
        link: u32,
    }

    impl Slot for Entry {
        const VACANT: Entry = Entry {
            value: 0,
            link: NIL,
        };
        fn link(&self) -> u32 {
            self.link
        }
        fn set_link(&mut self, link: u32) {
            self.link = link;
        }
    }

    impl Hashed for Entry {
        fn hash(&self) -> u32 {
            mix(self.value)
        }
    }

    fn mix(value: u32) -> u32 {
        (u64::from(value).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
    }

    proptest! {
        #[test]
        fn finds_exactly_what_is_in_it(steps in prop::collection::vec((any::<bool>(), 1usize..4000), 1..12)) {
            let mut table = Table::new();
            let mut slab = Slab::new();
            let mut model = BTreeMap::new();
            let mut next = 0;
            let find = |table: &Table, slab: &Slab<Entry>, value| {
                table.find(slab, mix(value), |entry| entry.value == value)
            };
            for (grow, n) in steps {
                for _ in 0..n {
                    if grow {
                        let at = slab.alloc(Entry { value: next, link: NIL }).unwrap();
                        table.insert(&mut slab, at);
                        model.insert(next, at);
                        next += 1;
                    } else if let Some((value, at)) = model.pop_first() {
                        table.remove(&mut slab, at);
                        slab.free(at);
                        prop_assert_eq!(find(&table, &slab, value), NIL);
                    }
                }
                for (value, at) in &model {
                    prop_assert_eq!(find(&table, &slab, *value), *at);
                }
                prop_assert!(table.len <= table.buckets.max(CHUNK));
                prop_assert!(table.buckets == CHUNK || table.len + 2 >= table.buckets / 2);
            }
        }
    }

    #[test]
    fn gives_buckets_back() {
        let mut table = Table::new();
        let mut slab = Slab::new();
        let all: Vec<u32> = (0..200_000)
            .map(|value| {
                let at = slab.alloc(Entry { value, link: NIL }).unwrap();
                table.insert(&mut slab, at);
                at
            })
            .collect();
        assert_eq!(table.buckets, 200_000);
        for at in all {
            table.remove(&mut slab, at);
            slab.free(at);
        }
        assert_eq!(table.buckets, CHUNK);
        assert!(table.chunks.len() <= 2);
    }
}
