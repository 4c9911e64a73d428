//! The fence: which fetches a purge has overtaken.
//!
//! A purge that arrives while a fetch is in flight finds no object to kill; the object that the fetch
//! makes afterwards holds what the purge was sent against. So each purge leaves its cutoff here, under
//! the hash of what it names, *before* it searches the cache; and each object that goes in looks here
//! *after* it was registered in the index. Whichever of the two comes second sees the other.
//!
//! The record is a fixed array, bucket → latest cutoff, one for hard purges and one for soft ones. It
//! never forgets, never grows, and costs the same at any rate of purges. What it costs instead is that
//! objects that share a bucket with a recent purge die for nothing. With B buckets, λ purges a second
//! that name k things each, and an object that has h hashes (its digest and its keys) and took d
//! seconds to fetch:
//!
//! > p = 1 − (1 − 1/B)^(λ·k·d·h) ≈ λ·k·d·h / B
//!
//! With the default of 2¹⁹ buckets, 1,000 purges a second, 200 ms per fetch and 5 keys: 0.23 %, each of
//! them one fetch more than needed. Only what happens during a fetch counts, for every object is newer
//! than the purges before its fetch.

use std::sync::atomic::{AtomicI64, Ordering};

use powderhorn_protocol::time::Time;

/// The default of [`Fence::new`]: 8 MiB.
pub const BUCKETS_LOG2: u32 = 19;

/// The most that [`Fence::new`] takes: 1 GiB.
pub const BUCKETS_LOG2_MAX: u32 = 26;

/// What the purges that came during its fetch want done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Its TTL is to end now; grace and keep stay.
    Soft,
    /// It is to go.
    Hard,
}

/// The latest cutoff for each bucket of hashes. See the module's documentation.
pub struct Fence {
    hard: Box<[AtomicI64]>,
    soft: Box<[AtomicI64]>,
}

/// No purge yet.
const NEVER: i64 = i64::MIN;

impl Fence {
    /// A fence of 2^`buckets_log2` buckets (at most 2^[`BUCKETS_LOG2_MAX`]), 16 bytes each.
    pub fn new(buckets_log2: u32) -> Self {
        let row = || {
            std::iter::repeat_with(|| AtomicI64::new(NEVER))
                .take(1 << buckets_log2.min(BUCKETS_LOG2_MAX))
                .collect()
        };
        Fence {
            hard: row(),
            soft: row(),
        }
    }

    /// Notes a purge of whatever has this hash. To be called before the cache is searched.
    ///
    /// A bucket never goes back to an earlier cutoff: a purge that arrives late does not open the
    /// fence for what a later one closed it to.
    pub fn record(&self, hash: u64, soft: bool, cutoff: Time) {
        let row = if soft { &self.soft } else { &self.hard };
        // Sequential consistency, here and in `verdict`: of a purge that records and then searches,
        // and a fetch that registers and then asks, one must see the other.
        self.bucket(row, hash)
            .fetch_max(cutoff.as_us(), Ordering::SeqCst);
    }

    /// What is to become of an object with this hash whose fetch began at `started`. An object with
    /// several hashes (digest, keys) gets the greatest of their verdicts. To be called after the
    /// object was registered.
    pub fn verdict(&self, hash: u64, started: Time) -> Verdict {
        // A fetch cannot have begun before the first point there is.
        let started = started.as_us().max(NEVER + 1);
        let reached = |row: &[AtomicI64]| self.bucket(row, hash).load(Ordering::SeqCst) >= started;
        if reached(&self.hard) {
            Verdict::Hard
        } else if reached(&self.soft) {
            Verdict::Soft
        } else {
            Verdict::Keep
        }
    }

    /// Number of buckets.
    pub fn buckets(&self) -> usize {
        self.hard.len()
    }

    /// Bytes that the fence takes, from its beginning to its end.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.hard) + size_of_val(&*self.soft)
    }

    fn bucket<'a>(&self, row: &'a [AtomicI64], hash: u64) -> &'a AtomicI64 {
        // Both rows have a power of two of buckets.
        &row[hash as usize & (row.len() - 1)]
    }
}

impl Default for Fence {
    fn default() -> Self {
        Fence::new(BUCKETS_LOG2)
    }
}
