//! What the index costs in memory: the growth of this process's resident set, per pair of an object and a
//! key, in three mixes. Each mix runs in a process of its own, so that none finds memory that another
//! has left.
//!
//! `cargo run --release -p powderhorn-engine --example index_memory`

use std::process::{Command, ExitCode};

use powderhorn_engine::index::{Index, ObjectId};
use powderhorn_engine::keys::KeyHasher;
use powderhorn_protocol::time::Time;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const MIXES: [(&str, u64, usize, u64); 3] = [
    ("one key on 100,000 objects", 100_000, 1, 1),
    (
        "10 keys of 100,000 on each of 1,000,000 objects",
        1_000_000,
        10,
        100_000,
    ),
    (
        "one key of its own on each of 1,000,000 objects",
        1_000_000,
        1,
        u64::MAX,
    ),
];

fn main() -> ExitCode {
    if let Some(mix) = std::env::args().nth(1) {
        let mix = mix.parse().ok().and_then(|n: usize| MIXES.get(n));
        let Some((name, objects, keys, distinct)) = mix else {
            eprintln!("usage: index_memory");
            return ExitCode::from(2);
        };
        measure(name, *objects, *keys, *distinct);
        return ExitCode::SUCCESS;
    }
    let Ok(me) = std::env::current_exe() else {
        eprintln!("cannot find this program");
        return ExitCode::FAILURE;
    };
    for mix in 0..MIXES.len() {
        match Command::new(&me).arg(mix.to_string()).status() {
            Ok(status) if status.success() => {}
            other => {
                eprintln!("mix {mix}: {other:?}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn measure(name: &str, objects: u64, keys_each: usize, distinct: u64) {
    let mut rng = StdRng::seed_from_u64(1);
    let hasher = KeyHasher::new(rng.random());
    let mut keys = Vec::with_capacity(keys_each);
    let before = resident();
    let index = Index::new();
    for n in 0..objects {
        keys.clear();
        while keys.len() < keys_each {
            let key = if distinct == u64::MAX {
                n
            } else {
                rng.random_range(0..distinct)
            };
            let key = hasher.hash(format!("key-{key}").as_bytes());
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        // As far apart as objcores are, so that the index does not gain from neat addresses.
        let object = ObjectId(0x7f00_0000_0000 + n * 176);
        if let Err(error) = index.insert(object, Time::from_us(n as i64), &keys) {
            eprintln!("object {n}: {error}");
            return;
        }
    }
    let counts = index.counts();
    let per_pair = |bytes: u64| bytes as f64 / counts.pairs as f64;
    println!(
        "{name}: {} objects, {} pairs, {} entries for keys: {:.1} B resident per pair ({:.1} B by the index's own count)",
        counts.objects,
        counts.pairs,
        counts.keys,
        per_pair(resident().saturating_sub(before)),
        per_pair(counts.memory_bytes),
    );
}

/// Bytes resident, from /proc/self/statm; 0 where there is none.
fn resident() -> u64 {
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * 4096)
}
