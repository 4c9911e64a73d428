//! Keeps every message that a node holds on disk, so that an acknowledged purge survives its node.
//!
//! [`Journal::open`] gives a [`JournalStore`], which the core keeps its messages in, a [`Journal`], by which
//! everybody else waits and looks, and what an earlier life [`Recovered`]. A message that is inserted is in memory
//! at once and on disk a moment later: one thread, the *writer*, appends to a *log* all that has gathered
//! while it wrote the last lot. When a log is full, another thread, the *keeper*, rewrites it as a *segment*, sorted by stream
//! and seq, with a footer that says what is where. A third, the *reader*, reads blocks of segments when the core
//! asks for what is no longer in memory. No call of the store ever waits for a disk.
//!
//! Without `fsync`, written means that the kernel has it: it survives the death of all processes, and the
//! last of it may be lost with the power. With it, it survives that as well.
//!
//! | module | what |
//! |---|---|
//! | `format`, `batch`, `footer` | the files, byte by byte |
//! | `index`, `messages`, `cache` | where each message is |
//! | `store`, `shared` | what the core and others call, and what they share with the threads |
//! | `writer`, `keeper`, `reader` | the three threads |
//! | `open`, `stamp`, `since`, `expired` | what a start finds |
//! | `clock` | ages across reboots |
//! | `files` | all that reaches a disk |
#![forbid(unsafe_code)]

mod batch;
mod cache;
mod clock;
mod expired;
mod files;
mod footer;
mod format;
mod index;
mod keeper;
mod messages;
mod open;
mod reader;
mod shared;
mod since;
mod stamp;
mod store;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use powderhorn_protocol::Expired;
use powderhorn_protocol::id::StreamId;
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::time::Time;

pub use crate::clock::{Clock, SystemClock, WALL_GRACE};
pub use crate::files::{Faults, Op};
pub use crate::store::{Journal, JournalStore};

/// How a journal is kept.
#[derive(Clone)]
pub struct Options {
    /// The state directory, made if it is not there.
    pub dir: PathBuf,
    /// Most bytes in the directory, at least [`Options::BYTES_MIN`]: when the core does not remove enough, the
    /// oldest segment goes.
    pub bytes_max: u64,
    /// How long messages are held: only for what the wall clock alone calls expired after a reboot.
    pub retention: Duration,
    /// Whether a message is written only when it survives a power cut.
    pub fsync: bool,
    /// How long a message waits for others to be written with it when nobody waits for it.
    pub linger: Duration,
    /// How often it is tried whether a disk that failed works again.
    pub retry: Duration,
    /// Bytes of blocks that were read, kept in memory.
    pub cache_bytes: u64,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Makes the disk fail, for tests.
    pub faults: Option<Arc<dyn Faults>>,
}

impl Options {
    /// The smallest bound on the directory.
    pub const BYTES_MIN: u64 = 4 << 20;

    /// The usual ones.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        Options {
            dir: dir.into(),
            bytes_max: 1 << 30,
            retention: Duration::from_secs(86_400),
            fsync: false,
            linger: Duration::from_millis(5),
            retry: Duration::from_secs(3),
            cache_bytes: 16 << 20,
            clock: Arc::new(SystemClock),
            faults: None,
        }
    }

    /// Bytes of messages after which a log is rewritten as a segment: as much stays in memory twice.
    fn tail_bytes(&self) -> u64 {
        (self.bytes_max / 32).min(16 << 20)
    }

    /// How many bytes of messages the core should hold at most, so that segments empty themselves before
    /// the directory reaches its bound: an eighth less.
    pub fn retention_bytes(&self) -> u64 {
        self.bytes_max - self.bytes_max / 8
    }
}

/// Why there is no journal. A disk that fails is no such reason, nor is a journal of another format: see
/// [`State::Failed`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing was changed.
    #[error("another process uses the state directory {}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is unlocked again.
    #[error("cannot start a thread for the journal: {0}")]
    Thread(#[from] io::Error),
}

/// What a start found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// For each stream the messages that are held.
    pub streams: BTreeMap<StreamId, RangeSet>,
    /// What had expired by then, but for the last minute.
    pub expired: Vec<Expired>,
    /// When the youngest message was born, about, for which there was no room by then, but for the last minute, or
    /// there is none now.
    pub evicted_born: Option<Time>,
    /// Places in files that were damaged, footers and whole files included.
    pub damaged: u64,
    /// Bytes at the ends of logs that were never finished.
    pub torn_bytes: u64,
    /// The last epoch's stamp.
    pub last_stamp: Option<u64>,
}

/// What became of messages that somebody waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// They are on disk.
    Written,
    /// Not within the time; they may be a moment later.
    Late,
    /// The disk would not have them: they are in memory only.
    NotJournalled(Arc<str>),
}

/// Whether the journal works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// What is inserted gets to the disk.
    Ok,
    /// It does not, for this reason; it is tried again each [`Options::retry`].
    Failed(Arc<str>),
}

/// What an operator sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Whether the journal works.
    pub state: State,
    /// Messages written to a log.
    pub appended: u64,
    /// Bytes written, to logs and segments.
    pub bytes_written: u64,
    /// Bytes in the directory.
    pub disk_bytes: u64,
    /// Bytes of the messages that are held, as the core counts them.
    pub held_bytes: u64,
    /// Segments on disk.
    pub segments: u64,
    /// Logs that are to be rewritten as segments.
    pub unsealed: u64,
    /// Damaged places found, at the start and since.
    pub damaged: u64,
    /// Times that the disk failed.
    pub write_errors: u64,
    /// Messages given up because the disk had failed for too long.
    pub dropped: u64,
    /// Segments removed because the directory was full.
    pub segments_evicted: u64,
    /// Blocks read to serve messages that are not in memory.
    pub blocks_read: u64,
}
