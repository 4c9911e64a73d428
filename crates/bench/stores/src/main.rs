//! The journal beside stores that it could have been built on: fjall, redb, heed (LMDB).
//!
//! ```text
//! cargo run --release -- DIR [MESSAGES]
//! ```
//!
//! Each gets the same: URL purges of five streams, a thousand to a commit, without fsync; then ranges of 30 messages at
//! random, then the older half of each stream goes. Each runs in a process of its own, and its row says how many
//! messages a second went in, how long a range took, how long the older half took to go, anonymous memory at
//! most, and bytes on disk for each message before and after the half went.

mod stores;

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::stores::{Message, STREAMS};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Messages to a commit.
const LOT: u64 = 1_000;
/// Messages of a range, and how many ranges are read.
const RANGE: u64 = 30;
const RANGES: u64 = 5_000;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [dir] => all(dir, "10000000"),
        [dir, messages] => all(dir, messages),
        [dir, messages, store] => one(Path::new(dir), messages.parse()?, store),
        _ => Err("usage: powderhorn-bench-stores DIR [MESSAGES]".into()),
    }
}

fn all(dir: &str, messages: &str) -> Result<()> {
    println!("{messages} messages\n");
    println!(
        "| store | appended/s | 30 in a row, p50/p99 µs | older half gone | resident MB | bytes each | after the half went |"
    );
    println!("|---|---|---|---|---|---|---|");
    for store in stores::NAMES {
        let status = Command::new(std::env::current_exe()?)
            .args([dir, messages, store])
            .stderr(Stdio::inherit())
            .status()?;
        if !status.success() {
            println!("| {store} | failed | | | | | |");
        }
    }
    Ok(())
}

fn one(dir: &Path, messages: u64, name: &str) -> Result<()> {
    let dir = dir.join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir)?;
    let mut store = stores::open(name, &dir)?;
    let rng = &mut StdRng::seed_from_u64(1);
    let mut next = [1u64; STREAMS as usize];
    let mut most = 0.0f64;
    let begin = Instant::now();
    let mut lot = Vec::new();
    for n in 0..messages {
        let stream = rng.random_range(0..STREAMS);
        let seq = next[stream as usize];
        next[stream as usize] += 1;
        let mut digest = [0; 32];
        rng.fill_bytes(&mut digest);
        lot.push(Message {
            stream,
            seq,
            born_us: n * 1_000,
            digest,
        });
        if lot.len() as u64 == LOT || n + 1 == messages {
            store.append(&lot)?;
            lot.clear();
            if (n + 1) % (100 * LOT) == 0 {
                most = most.max(resident_mb());
            }
        }
    }
    store.settle()?;
    let rate = messages as f64 / begin.elapsed().as_secs_f64();
    let bytes = bytes_in(&dir)? as f64 / messages as f64;
    let mut times = Vec::new();
    for _ in 0..RANGES {
        let stream = rng.random_range(0..STREAMS);
        let last = next[stream as usize] - 1;
        let first = rng.random_range(1..last - RANGE);
        let begin = Instant::now();
        let count = store.range(stream, first, RANGE)?;
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        if count != RANGE {
            return Err(format!("{name}: {count} of {RANGE} messages of {stream}:{first}").into());
        }
    }
    times.sort_by(f64::total_cmp);
    most = most.max(resident_mb());
    let begin = Instant::now();
    let expired = match store.remove_halves(&next)? {
        true => format!("{:.3} s", begin.elapsed().as_secs_f64()),
        false => "by whole files".into(),
    };
    most = most.max(resident_mb());
    store.settle()?;
    let after = bytes_in(&dir)? as f64 / messages as f64;
    drop(store);
    let quantile = |q: f64| times[((times.len() - 1) as f64 * q) as usize];
    println!(
        "| {name} | {rate:.0} | {:.0} / {:.0} | {expired} | {most:.0} | {bytes:.1} | {after:.1} |",
        quantile(0.5),
        quantile(0.99)
    );
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Bytes that the files take, holes apart.
fn bytes_in(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        // A file may go while they are counted.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        sum += if metadata.is_dir() {
            bytes_in(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(sum)
}

/// Anonymous memory of this process; 0 if the kernel does not say.
fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| {
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<f64>()
            .ok()
    });
    kilobytes.unwrap_or(0.0) * 1024.0 / 1e6
}
