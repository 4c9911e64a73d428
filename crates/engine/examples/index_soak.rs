//! Does the index get slower or bigger with age? A cache of about a million objects with 1 to 10 keys of
//! 100,000 each; objects come and go, keys are purged, hard and soft, present and absent. Each operation
//! is timed on its own.
//!
//! `cargo run --release -p powderhorn-engine --example index_soak -- [OPERATIONS] [--assert]`
//!
//! OPERATIONS is 10,000,000 unless given. Each tenth of them is cut into a hundred blocks, and printed is
//! the median of the blocks' quantiles. The time of an operation is the time of its cache misses, which
//! depends on who else is busy on the machine; so after each block a twentieth as many operations go to
//! a second cache, the control, that stays young, after as many that bring it back to the processor's
//! caches. What the control has lost, too, is not age.
//!
//! Row 0 is not compared. In a cache that was just filled, what belongs together still stands together in
//! memory: luck that the first few million operations use up. The control has been through them as well.
//!
//! With `--assert` the exit code is 1 if p95 or p99 of the last tenth is more than 1.1 times that of the
//! first, measured by the control, or if the index has grown by more than a tenth.

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

    let mut cache = Cache::new(1);
    let mut control = Cache::new(2);
    let counts = cache.index.counts();
    println!(
        "{} objects, {} pairs, {} entries for keys; {operations} operations",
        counts.objects, counts.pairs, counts.keys
    );
    println!(
        "ns/op:    p50     p95     p99      max  insert's max     op/s  control's p95     p99  index MB  resident MB"
    );
    let mut rows = Vec::new();
    for tenth in 0..=TENTHS {
        let (per_block, control_per_block) = if tenth == 0 {
            (MIXING / BLOCKS, MIXING / BLOCKS)
        } else {
            let per_block = operations / TENTHS / BLOCKS;
            (per_block, (per_block / 20).max(3_000))
        };
        let mut quantiles: [Vec<f64>; 5] = Default::default();
        let (mut n, mut sum, mut max) = (0, 0, 0);
        cache.inserts_max = 0;
        for _ in 0..BLOCKS {
            cache.block(per_block);
            control.block(control_per_block);
            control.block(control_per_block);
            let (all, control) = (&cache.all, &control.all);
            let row = [
                all.quantile(0.5),
                all.quantile(0.95),
                all.quantile(0.99),
                control.quantile(0.95),
                control.quantile(0.99),
            ];
            for (quantiles, q) in quantiles.iter_mut().zip(row) {
                quantiles.push(q);
            }
            n += all.n;
            sum += all.sum;
            max = max.max(all.max);
        }
        let [p50, p95, p99, control_p95, control_p99] = quantiles.map(median);
        let bytes = cache.index.counts().memory_bytes;
        println!(
            "{tenth:>5} {p50:>8.0} {p95:>7.0} {p99:>7.0} {max:>8} {:>13} {:>8.0} {control_p95:>14.0} {control_p99:>7.0} {:>9.1} {:>12.1}",
            cache.inserts_max,
            n as f64 * 1e9 / sum as f64,
            bytes as f64 / 1e6,
            resident() as f64 / 1e6,
        );
        if tenth > 0 {
            rows.push(([p95, p99, control_p95, control_p99], bytes));
        }
    }
    let (Some((first, bytes_first)), Some((last, bytes_last))) = (rows.first(), rows.last()) else {
        return ExitCode::FAILURE;
    };
    let [p95, p99, control_p95, control_p99] = [0, 1, 2, 3].map(|n| last[n] / first[n]);
    let growth = *bytes_last as f64 / *bytes_first as f64;
    println!(
        "last tenth / first: p95 {p95:.3}, p99 {p99:.3}; the control's p95 {control_p95:.3}, p99 {control_p99:.3}"
    );
    let (p95, p99) = (p95 / control_p95, p99 / control_p99);
    println!("by the control: p95 {p95:.3}, p99 {p99:.3}; memory {growth:.3}");
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
    /// A cache that was just filled.
    fn new(seed: u64) -> Self {
        let room = OBJECTS * 3 / 2;
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut cache = Cache {
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
        };
        while cache.live.len() < OBJECTS {
            cache.insert();
        }
        cache
    }

    /// Times this many operations.
    fn block(&mut self, operations: u64) {
        self.all.clear();
        while self.all.n < operations.max(1) {
            self.step();
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
