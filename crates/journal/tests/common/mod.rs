//! Directories, clocks and disks for tests.
#![allow(dead_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use powderhorn_journal::{
    Clock, Faults, Journal, JournalStore, Op, Options, Recovered, SystemClock, Wait,
};
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::store::{Fetch, Held, Store};
use powderhorn_protocol::time::Time;

pub const SECOND: Duration = Duration::from_secs(1);

/// A directory of its own that goes with the test.
pub struct Dir(pub PathBuf);

impl Dir {
    pub fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "powderhorn-journal-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        Dir(path)
    }

    pub fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths
            .filter(|path| path.extension().is_some_and(|end| end == ending))
            .collect();
        paths.sort();
        paths
    }

    pub fn bytes(&self) -> u64 {
        let entries = std::fs::read_dir(&self.0).unwrap();
        // A file may go while they are counted.
        entries
            .filter_map(|entry| Some(entry.unwrap().metadata().ok()?.len()))
            .sum()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Clocks that a test sets.
#[derive(Default)]
pub struct TestClock {
    pub boot_us: AtomicI64,
    pub wall_ms: AtomicU64,
    pub boot: AtomicU8,
}

impl TestClock {
    pub fn new() -> Arc<TestClock> {
        Arc::new(TestClock {
            boot_us: AtomicI64::new(1_000_000_000),
            wall_ms: AtomicU64::new(1_700_000_000_000),
            boot: AtomicU8::new(1),
        })
    }

    pub fn pass(&self, time: Duration) {
        self.boot_us
            .fetch_add(time.as_micros() as i64, Ordering::Relaxed);
        self.wall_ms
            .fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn boot(&self) -> Time {
        Time::from_us(self.boot_us.load(Ordering::Relaxed))
    }
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed)
    }
    fn boot_id(&self) -> [u8; 16] {
        [self.boot.load(Ordering::Relaxed); 16]
    }
}

/// A disk on which operations fail while they are listed here.
#[derive(Default)]
pub struct TestDisk {
    pub failing: std::sync::Mutex<Vec<(Op, i32)>>,
}

impl TestDisk {
    pub fn fail(&self, failing: &[(Op, i32)]) {
        *self.failing.lock().unwrap() = failing.to_vec();
    }
}

impl Faults for TestDisk {
    fn check(&self, op: Op, _: &Path) -> io::Result<()> {
        let failing = self.failing.lock().unwrap();
        match failing.iter().find(|(other, _)| *other == op) {
            Some((_, errno)) => Err(io::Error::from_raw_os_error(*errno)),
            None => Ok(()),
        }
    }
}

pub fn options(dir: &Dir) -> Options {
    Options {
        bytes_max: 64 << 20,
        retry: Duration::from_millis(50),
        ..Options::new(&dir.0)
    }
}

pub fn open(dir: &Dir) -> (JournalStore, Journal, Recovered) {
    Journal::open(options(dir)).unwrap()
}

pub fn stream(n: u64) -> StreamId {
    StreamId {
        node: NodeId(n),
        epoch: Epoch {
            stamp: 1_700_000_000_000 + n,
            random: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        },
    }
}

pub fn id(n: u64, seq: u64) -> MessageId {
    MessageId {
        stream: stream(n),
        seq,
    }
}

/// A message that can be told from all others.
pub fn message(id: MessageId, born: Time) -> Held {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&id.stream.node.0.to_le_bytes());
    digest[8..16].copy_from_slice(&id.seq.to_le_bytes());
    let purge = match id.seq % 10 {
        0 => Purge::Unknown {
            op: 999,
            body: vec![id.seq as u8; (id.seq % 700) as usize].into(),
        },
        1 => Purge::Everything,
        2 => Purge::SoftDigest(digest),
        _ => Purge::Digest(digest),
    };
    Held {
        born,
        issued_ms: id.seq * 3,
        purge,
    }
}

/// Inserts messages of a stream, born now.
pub fn insert(store: &mut impl Store, n: u64, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        store.insert(id(n, seq), message(id(n, seq), SystemClock.boot()));
    }
}

/// Inserts messages of one stream as fast as the keeper takes them.
pub fn fill(
    store: &mut JournalStore,
    journal: &Journal,
    dir: &Dir,
    seqs: std::ops::RangeInclusive<u64>,
) {
    for seq in seqs {
        store.insert(id(1, seq), message(id(1, seq), SystemClock.boot()));
        if seq % 500 == 0 {
            write(journal);
            until("few logs", || dir.files("log").len() <= 3);
        }
    }
}

/// Asks until the store has an answer.
pub fn get(store: &mut JournalStore, id: MessageId) -> Option<Held> {
    let started = Instant::now();
    loop {
        match store.get(id) {
            Fetch::Held(held) => return Some(held),
            Fetch::Gone => return None,
            Fetch::Pending => {
                assert!(started.elapsed() < 10 * SECOND, "{id} stays pending");
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
}

/// Has all written that was inserted.
pub fn write(journal: &Journal) {
    assert_eq!(journal.wait(journal.position(), 10 * SECOND), Wait::Written);
}

/// Waits for something to become true.
pub fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let started = Instant::now();
    while !true_now() {
        assert!(started.elapsed() < 10 * SECOND, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
