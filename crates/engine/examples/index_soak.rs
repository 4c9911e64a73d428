//! Does the index get slower or bigger with age? A cache of about a million objects with 1 to 10 keys of
//! 100,000 each; objects come and go, keys are purged, hard and soft, present and absent. Each operation
//! is timed on its own.
//!
//! `cargo run --release -p powderhorn-engine --example index_soak -- [OPERATIONS] [--assert]`
//!
//! OPERATIONS is 10,000,000 unless given. Each tenth of them is cut into a hundred blocks, and printed is
//! the median of the blocks' quantiles: a neighbour on the machine who is busy for some seconds does not
//! count as age. What the machine itself does is in the column "chase", the time of one dependent read
//! from a table of 64 MB. Row 0 is not compared: in a cache that was just filled what belongs together
//! still stands together, which is luck that the first few million operations use up.
//!
//! With `--assert` the exit code is 1 if p95 or p99 of the last tenth is more than 1.1 times that of the
//! first, or if the index has grown by more than a tenth.

use std::process::ExitCode;
use std::time::Instant;

use powderhorn_engine::index::{Index, ObjectId};
use powderhorn_engine::keys::{KeyHash, KeyHasher};
use powderhorn_protocol::time::Time;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const OBJECTS: usize = 1_000_000;
const KEYS: u64 = 100_000;
const KEYS_EACH_MAX: usize = 10;
const TENTHS: u64 = 10;
const BLOCKS: u64 = 100;
/// The operations of row 0.
const MIXING: u64 = 4_000_000;
const RATIO_MAX: f64 = 1.1;

fn main() -> ExitCode {
    let mut operations = 10_000_000;
    let mut assert = false;
    for argument in std::env::args().skip(1) {
        match (argument.as_str(), argument.parse()) {
            ("--assert", _) => assert = true,
            (_, Ok(n)) => operations = n,
            _ => {
                eprintln!("usage: index_soak [OPERATIONS] [--assert]");
                return ExitCode::from(2);
            }
        }
    }

    let mut cache = Cache::new();
    while cache.live.len() < OBJECTS {
        cache.insert();
    }
    let counts = cache.index.counts();
    println!(
        "{} objects, {} pairs, {} entries for keys; {operations} operations",
        counts.objects, counts.pairs, counts.keys
    );
    println!(
        "ns/op:    p50     p95     p99      max   max of an insert      op/s  chase  index MB  resident MB"
    );
    let mut chase = Chase::new(&mut cache.rng);
    let mut rows = Vec::new();
    for tenth in 0..=TENTHS {
        let per_block = if tenth == 0 {
            MIXING
        } else {
            operations / TENTHS
        } / BLOCKS;
        let mut blocks: [Vec<f64>; 4] = Default::default();
        let (mut n, mut sum, mut max) = (0, 0, 0);
        cache.inserts_max = 0;
        for _ in 0..BLOCKS {
            cache.all.clear();
            while cache.all.n < per_block.max(1) {
                cache.step();
            }
            for (block, q) in blocks.iter_mut().zip([0.5, 0.95, 0.99]) {
                block.push(cache.all.quantile(q));
            }
            blocks[3].push(chase.run());
            n += cache.all.n;
            sum += cache.all.sum;
            max = max.max(cache.all.max);
        }
        let [p50, p95, p99, chased] = blocks.map(median);
        let bytes = cache.index.counts().memory_bytes;
        println!(
            "{tenth:>5} {p50:>8.0} {p95:>7.0} {p99:>7.0} {max:>8} {:>18} {:>9.0} {chased:>6.0} {:>9.1} {:>12.1}",
            cache.inserts_max,
            n as f64 * 1e9 / sum as f64,
            bytes as f64 / 1e6,
            resident() as f64 / 1e6,
        );
        if tenth > 0 {
            rows.push(([p95, p99, chased], bytes));
        }
    }
    let (Some((first, bytes_first)), Some((last, bytes_last))) = (rows.first(), rows.last()) else {
        return ExitCode::FAILURE;
    };
    let [p95, p99, chased] = [0, 1, 2].map(|n| last[n] / first[n]);
    let growth = *bytes_last as f64 / *bytes_first as f64;
    println!(
        "last tenth / first: p95 {p95:.3}, p99 {p99:.3}, chase {chased:.3}, memory {growth:.3}"
    );
    if assert && p95.max(p99).max(growth) > RATIO_MAX {
        eprintln!("more than {RATIO_MAX}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Reads of which each needs the one before: how fast the machine's memory is at the moment.
struct Chase {
    next: Vec<u32>,
    at: u32,
}

impl Chase {
    const READS: u32 = 5_000;

    /// One cycle through the whole table, in random order (Sattolo's algorithm).
    fn new(rng: &mut SmallRng) -> Self {
        let mut next: Vec<u32> = (0..16 << 20).collect();
        for n in (1..next.len()).rev() {
            next.swap(n, rng.random_range(0..n));
        }
        Chase { next, at: 0 }
    }

    /// Nanoseconds for one read.
    fn run(&mut self) -> f64 {
        let begun = Instant::now();
        for _ in 0..Self::READS {
            self.at = self.next[self.at as usize];
        }
        std::hint::black_box(self.at);
        begun.elapsed().as_nanos() as f64 / f64::from(Self::READS)
    }
}

/// The index, and what a cache would know of its objects. All of its own memory is made at the start.
struct Cache {
    index: Index,
    hasher: KeyHasher,
    rng: SmallRng,
    now: i64,
    /// Objects by number: where each stands in `live`.
    place: Vec<u32>,
    live: Vec<u32>,
    /// Numbers that are free. The last one that was freed is the next to be used, as allocators do it.
    vacant: Vec<u32>,
    keys: Vec<KeyHash>,
    killed: Vec<ObjectId>,
    all: Histogram,
    inserts_max: u64,
}

const FIRST_ADDRESS: u64 = 0x7f00_0000_0000;
const OBJECT_BYTES: u64 = 176;

fn address(n: u32) -> ObjectId {
    ObjectId(FIRST_ADDRESS + u64::from(n) * OBJECT_BYTES)
}

impl Cache {
    fn new() -> Self {
        let room = OBJECTS * 3 / 2;
        let mut rng = SmallRng::seed_from_u64(1);
        Cache {
            index: Index::new(),
            hasher: KeyHasher::new(rng.random()),
            rng,
            now: 0,
            place: vec![u32::MAX; room],
            live: Vec::with_capacity(room),
            vacant: (0..room as u32).rev().collect(),
            keys: Vec::with_capacity(KEYS_EACH_MAX),
            killed: Vec::with_capacity(OBJECTS),
            all: Histogram::new(),
            inserts_max: 0,
        }
    }

    fn step(&mut self) {
        self.now += 1;
        match self.rng.random_range(0..1000) {
            0..2 => self.purge(KEYS, true),
            2..4 => self.purge(KEYS, false),
            // Keys that no object has.
            4..20 => self.purge(u64::MAX, true),
            _ => {
                let lacking = (OBJECTS as f64 - self.live.len() as f64) / (OBJECTS as f64 / 20.0);
                if self.rng.random_bool((0.5 + lacking).clamp(0.2, 0.8)) {
                    self.insert();
                } else {
                    let at = self.rng.random_range(0..self.live.len());
                    self.remove(self.live[at]);
                }
            }
        }
    }

    fn key(&mut self, keys: u64) -> KeyHash {
        let n: u64 = self.rng.random_range(0..keys);
        self.hasher.hash(&n.to_le_bytes())
    }

    fn insert(&mut self) {
        self.keys.clear();
        for _ in 0..self.rng.random_range(1..=KEYS_EACH_MAX) {
            let key = self.key(KEYS);
            self.keys.push(key);
        }
        let Some(n) = self.vacant.pop() else { return };
        let begun = Instant::now();
        let inserted = self
            .index
            .insert(address(n), Time::from_us(self.now), &self.keys);
        self.inserts_max = self.inserts_max.max(self.all.record(begun));
        inserted.expect("the number is vacant");
        self.place[n as usize] = self.live.len() as u32;
        self.live.push(n);
    }

    fn remove(&mut self, n: u32) {
        let begun = Instant::now();
        let known = self.index.remove(address(n));
        self.all.record(begun);
        assert!(known, "the number is live");
        let place = self.place[n as usize] as usize;
        self.live.swap_remove(place);
        if let Some(moved) = self.live.get(place) {
            self.place[*moved as usize] = place as u32;
        }
        self.vacant.push(n);
    }

    fn purge(&mut self, keys: u64, hard: bool) {
        let key = self.key(keys);
        let mut killed = std::mem::take(&mut self.killed);
        let begun = Instant::now();
        self.index
            .purge_key(key, Time::from_us(self.now), hard, &mut |object| {
                killed.push(object);
            });
        self.all.record(begun);
        for object in killed.drain(..) {
            if hard {
                self.remove(((object.0 - FIRST_ADDRESS) / OBJECT_BYTES) as u32);
            }
        }
        self.killed = killed;
    }
}

/// Nanoseconds, in buckets of 1/128 of an octave.
struct Histogram {
    buckets: Vec<u64>,
    n: u64,
    sum: u64,
    max: u64,
}

impl Histogram {
    const PER_OCTAVE: f64 = 128.0;

    fn new() -> Self {
        Histogram {
            buckets: vec![0; 64 * Self::PER_OCTAVE as usize],
            n: 0,
            sum: 0,
            max: 0,
        }
    }

    fn clear(&mut self) {
        self.buckets.fill(0);
        (self.n, self.sum, self.max) = (0, 0, 0);
    }

    fn record(&mut self, begun: Instant) -> u64 {
        let ns = begun.elapsed().as_nanos() as u64;
        self.buckets[((ns.max(1) as f64).log2() * Self::PER_OCTAVE) as usize] += 1;
        self.n += 1;
        self.sum += ns;
        self.max = self.max.max(ns);
        ns
    }

    fn quantile(&self, q: f64) -> f64 {
        let mut left = (q * self.n as f64) as u64;
        for (bucket, n) in self.buckets.iter().enumerate() {
            if *n > left {
                return (bucket as f64 / Self::PER_OCTAVE).exp2();
            }
            left -= n;
        }
        self.max as f64
    }
}

/// Bytes resident, from /proc/self/statm; 0 where there is none.
fn resident() -> u64 {
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * 4096)
}
