//! The parts of the benchmark of the journal. Each prints what it found as an object of JSON.

use std::error::Error;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use powderhorn_journal::{
    Clock, Journal, JournalStore, Options, Recovered, State, SystemClock, Wait,
};
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::store::{Fetch, Held, Store};
use powderhorn_protocol::time::Time;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};

use super::BYTES_MAX;
use crate::stats::Samples;

/// Inserted between two looks at how far the journal is.
const LOT: u64 = 1_000;
/// The inserts stay so far ahead of the writer at most.
const AHEAD: u64 = 20_000;
/// Logs that may wait to be rewritten: beyond, the inserts wait.
const UNSEALED: u64 = 3;
/// Messages of a repair: what fits into a datagram.
const REPAIR: u64 = 30;
/// Repairs of a run, and single messages that are waited for.
const REPAIRS: u64 = 2_000;
/// Messages that may be in memory still.
const RECENT: u64 = 2_000_000;

/// `DIR fill STREAMS MESSAGES fsync|page-cache`, `DIR start cold|warm`, `DIR repair cold|warm RUNS`,
/// `DIR wait RUNS fsync|page-cache`
pub fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let found = match words[..] {
        [dir, "fill", streams, messages, sync] => fill(
            dir.as_ref(),
            streams.parse()?,
            messages.parse()?,
            sync == "fsync",
        )?,
        [dir, "wait", runs, sync] => wait(dir.as_ref(), runs.parse()?, sync == "fsync")?,
        [dir, "start", cold] => start(dir.as_ref(), cold == "cold")?,
        [dir, "repair", cold, runs] => repair(dir.as_ref(), cold == "cold", runs.parse()?)?,
        _ => return Err("no such part".into()),
    };
    println!("{found}");
    Ok(())
}

fn open(dir: &Path, fsync: bool) -> Result<(JournalStore, Journal, Recovered), Box<dyn Error>> {
    let options = Options {
        bytes_max: BYTES_MAX,
        fsync,
        // Those of the bench's first messages are a day old already.
        retention: Duration::from_secs(2 * 86_400),
        ..Options::new(dir)
    };
    Ok(Journal::open(options)?)
}

fn stream(n: u64) -> StreamId {
    StreamId {
        node: NodeId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        epoch: Epoch {
            stamp: 1_700_000_000_000,
            random: n,
        },
    }
}

fn message(rng: &mut StdRng, born: Time, issued_ms: u64) -> Held {
    let mut digest = [0; 32];
    rng.fill_bytes(&mut digest);
    Held {
        born,
        issued_ms,
        purge: Purge::Digest(digest),
    }
}

/// A day's messages as fast as they go in, a millisecond apart.
fn fill(dir: &Path, streams: u64, messages: u64, fsync: bool) -> Result<Value, Box<dyn Error>> {
    let _ = std::fs::remove_dir_all(dir);
    let (mut store, journal, _) = open(dir, fsync)?;
    let rng = &mut StdRng::seed_from_u64(1);
    let begin = SystemClock.boot() - Duration::from_millis(messages);
    let mut next = vec![1u64; usize::try_from(streams)?];
    let (mut rates, mut resident) = (Vec::new(), resident_mb());
    let fifth = messages.div_ceil(5);
    let mut lap = Instant::now();
    for n in 0..messages {
        let of = rng.random_range(0..next.len());
        let id = MessageId {
            stream: stream(of as u64),
            seq: next[of],
        };
        next[of] += 1;
        store.insert(id, message(rng, begin + Duration::from_millis(n), n));
        if (n + 1) % LOT == 0 || n + 1 == messages {
            let waited = journal.wait(
                journal.position().saturating_sub(AHEAD),
                Duration::from_secs(60),
            );
            if waited != Wait::Written {
                return Err(format!("not written: {waited:?}").into());
            }
            if (n + 1) % (100 * LOT) == 0 {
                while journal.counters().unsealed > UNSEALED {
                    std::thread::sleep(Duration::from_millis(1));
                }
                resident = resident.map(|most| resident_mb().unwrap_or(0.0).max(most));
            }
        }
        if (n + 1) % fifth == 0 || n + 1 == messages {
            let waited = journal.wait(journal.position(), Duration::from_secs(60));
            if waited != Wait::Written {
                return Err(format!("not written: {waited:?}").into());
            }
            let count = (n % fifth) + 1;
            rates.push(count as f64 / lap.elapsed().as_secs_f64());
            lap = Instant::now();
        }
    }
    while journal.counters().unsealed > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let counters = journal.counters();
    if counters.dropped > 0 || counters.state != State::Ok || counters.segments_evicted > 0 {
        return Err(format!("not all are held: {counters:?}").into());
    }
    Ok(json!({
        "rates": rates,
        "bytes_each": counters.disk_bytes as f64 / messages as f64,
        "resident_mb": resident,
    }))
}

/// One message, and waiting until it is written, over and over.
fn wait(dir: &Path, runs: usize, fsync: bool) -> Result<Value, Box<dyn Error>> {
    let _ = std::fs::remove_dir_all(dir);
    let (mut store, journal, _) = open(dir, fsync)?;
    let rng = &mut StdRng::seed_from_u64(4);
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    let mut seq = 0;
    for _ in 0..runs {
        let mut samples = Samples::default();
        for _ in 0..REPAIRS {
            seq += 1;
            let stream = stream(1);
            let held = message(rng, SystemClock.boot(), seq);
            let begin = Instant::now();
            store.insert(MessageId { stream, seq }, held);
            let waited = journal.wait(journal.position(), Duration::from_secs(60));
            samples.push(begin.elapsed());
            if waited != Wait::Written {
                return Err(format!("not written: {waited:?}").into());
            }
        }
        p50.push(samples.quantile_us(0.5));
        p99.push(samples.quantile_us(0.99));
    }
    Ok(json!({ "p50": p50, "p99": p99 }))
}

/// A start, as long as it takes until all can be served.
fn start(dir: &Path, cold: bool) -> Result<Value, Box<dyn Error>> {
    if cold {
        let_go(dir)?;
    }
    let begin = Instant::now();
    let (_store, _journal, recovered) = open(dir, false)?;
    let seconds = begin.elapsed().as_secs_f64();
    let messages: u64 = recovered.streams.values().map(|held| held.count()).sum();
    Ok(json!({
        "seconds": seconds,
        "messages": messages,
        "resident_mb": resident_mb(),
    }))
}

/// Repairs from disk, while others are appended.
fn repair(dir: &Path, cold: bool, runs: usize) -> Result<Value, Box<dyn Error>> {
    let (store, journal, recovered) = open(dir, false)?;
    let store = Arc::new(Mutex::new(store));
    let stop = Arc::new(AtomicBool::new(false));
    let appender = {
        let (store, stop) = (store.clone(), stop.clone());
        std::thread::spawn(move || append(&store, &stop))
    };
    let all: u64 = recovered.streams.values().map(|held| held.count()).sum();
    let old = all.saturating_sub(RECENT) as f64 / all as f64;
    let streams: Vec<(StreamId, RangeInclusive<u64>)> = recovered
        .streams
        .iter()
        .filter_map(|(&stream, held)| {
            let last = (held.last()? as f64 * old) as u64;
            (last > REPAIR).then_some((stream, 1..=last - REPAIR))
        })
        .collect();
    let rng = &mut StdRng::seed_from_u64(2);
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        if cold {
            let_go(dir)?;
        }
        let mut samples = Samples::default();
        for _ in 0..REPAIRS {
            let (stream, range) = &streams[rng.random_range(0..streams.len())];
            let first = rng.random_range(range.clone());
            samples.push(one_repair(&store, *stream, first)?);
        }
        p50.push(samples.quantile_us(0.5));
        p99.push(samples.quantile_us(0.99));
    }
    stop.store(true, Ordering::Relaxed);
    let appended = appender.join().map_err(|_| "the appender panicked")?;
    let state = journal.state();
    if state != State::Ok || appended < 5_000.0 {
        return Err(format!("{state:?}, {appended} a second appended").into());
    }
    Ok(json!({ "p50": p50, "p99": p99 }))
}

fn one_repair(
    store: &Mutex<JournalStore>,
    stream: StreamId,
    first: u64,
) -> Result<Duration, Box<dyn Error>> {
    let begin = Instant::now();
    let mut seq = first;
    while seq < first + REPAIR {
        let fetch = {
            let mut store = store.lock().map_err(|_| "the appender panicked")?;
            if seq == first {
                store.prefetch(stream, first..=first + REPAIR - 1);
            }
            store.get(MessageId { stream, seq })
        };
        match fetch {
            Fetch::Held(_) => seq += 1,
            Fetch::Pending => std::thread::sleep(Duration::from_micros(20)),
            Fetch::Gone => return Err(format!("{stream}:{seq} is gone").into()),
        }
    }
    Ok(begin.elapsed())
}

/// 10,000 a second until it is told to stop; how many a second that were.
fn append(store: &Mutex<JournalStore>, stop: &AtomicBool) -> f64 {
    let rng = &mut StdRng::seed_from_u64(3);
    let begin = Instant::now();
    let mut done = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_millis() as u64 * 10;
        while done < due {
            done += 1;
            let id = MessageId {
                stream: stream(1_000_000 + std::process::id() as u64),
                seq: done,
            };
            let held = message(rng, SystemClock.boot(), done / 10);
            if let Ok(mut store) = store.lock() {
                store.insert(id, held);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    done as f64 / begin.elapsed().as_secs_f64()
}

/// Has the page cache let go of all files.
fn let_go(dir: &Path) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(dir)? {
        // A log may be rewritten meanwhile.
        let Ok(file) = File::open(entry?.path()) else {
            continue;
        };
        if file.metadata()?.is_file() {
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// Anonymous memory of this process; nothing if the kernel does not say.
fn resident_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}
