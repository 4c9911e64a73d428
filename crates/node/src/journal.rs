//! The journal, as the node uses it: where messages are held, and who waits for the disk.

use std::sync::Arc;
use std::time::Duration;

use log::Level;
use powderhorn_journal::{
    Counters, Journal, JournalStore, OpenError, Options, Recovered, State, Wait,
};
use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::store::{Fetch, Held, Lost, MemoryStore, Store};
use powderhorn_protocol::time::Time;
use serde::Serialize;

use crate::config::Config;
use crate::node::{Node, Shared};
use crate::notices::Notices;
use crate::sys;

/// How long the end of a node waits for the disk.
pub(crate) const SHUTDOWN_WAIT: Duration = Duration::from_millis(200);

/// How often it is noted what has expired.
pub(crate) const NOTE_EXPIRED: Duration = Duration::from_secs(60);

/// Where messages are held.
pub(crate) enum NodeStore {
    Memory(MemoryStore),
    Journal(Box<JournalStore>),
}

macro_rules! either {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            NodeStore::Memory($inner) => $call,
            NodeStore::Journal($inner) => $call,
        }
    };
}

impl Store for NodeStore {
    fn insert(&mut self, id: MessageId, message: Held) {
        either!(self, store => store.insert(id, message));
    }

    fn get(&mut self, id: MessageId) -> Fetch {
        either!(self, store => store.get(id))
    }

    fn prefetch(&mut self, stream: StreamId, seqs: std::ops::RangeInclusive<u64>) {
        if let NodeStore::Journal(store) = self {
            Store::prefetch(&mut **store, stream, seqs);
        }
    }

    fn remove_below(&mut self, stream: StreamId, seq: u64) {
        either!(self, store => store.remove_below(stream, seq));
    }

    fn poll_lost(&mut self) -> Option<Lost> {
        either!(self, store => store.poll_lost())
    }

    fn bytes(&self) -> u64 {
        either!(self, store => store.bytes())
    }

    fn oldest(&self, stream: StreamId) -> Option<(u64, Time)> {
        either!(self, store => store.oldest(stream))
    }

    fn last_born_before(&self, stream: StreamId, time: Time) -> Option<(u64, Time)> {
        either!(self, store => store.last_born_before(stream, time))
    }
}

/// What a node begins with.
pub(crate) struct Begin {
    pub store: NodeStore,
    pub journal: Option<Journal>,
    pub recovered: Recovered,
}

/// How a journal is kept, if there is to be one.
fn options(config: &Config) -> Option<Options> {
    Some(Options {
        bytes_max: config.journal.bytes,
        retention: config.limits.retention,
        fsync: config.journal.fsync,
        ..Options::new(config.journal.dir.as_ref()?)
    })
}

/// The core's settings. What it may hold is the journal's affair where there is one.
pub(crate) fn core_config(config: &Config) -> powderhorn_protocol::config::Config {
    let journal = options(config).map(|options| options.retention_bytes());
    powderhorn_protocol::config::Config {
        retention_bytes: journal.unwrap_or(config.limits.retention_bytes),
        ..config.for_core()
    }
}

/// Opens the journal, if there is to be one. A disk that does not work is no reason not to start.
pub(crate) fn open(config: &Config, notices: &Notices) -> Result<Begin, OpenError> {
    let Some(options) = options(config) else {
        return Ok(Begin {
            store: NodeStore::Memory(MemoryStore::new()),
            journal: None,
            recovered: Recovered::default(),
        });
    };
    let dir = options.dir.clone();
    let (store, journal, recovered) = Journal::open(options)?;
    let held: u64 = recovered.streams.values().map(|held| held.count()).sum();
    if recovered.damaged > 0 || recovered.torn_bytes > 0 {
        let text = format!(
            "the journal in {} was damaged in {} places and had {} unfinished bytes: what others have \
             of it is fetched from the fleet",
            dir.display(),
            recovered.damaged,
            recovered.torn_bytes
        );
        notices.say(Level::Warn, text);
    }
    // What a journal that failed has is not known; its failure is told by itself.
    if journal.counters().state == State::Ok {
        notices.say(
            Level::Info,
            format!("{held} purges of earlier lives are in the journal"),
        );
    }
    Ok(Begin {
        store: NodeStore::Journal(Box::new(store)),
        journal: Some(journal),
        recovered,
    })
}

/// What became of purges that were issued here: whether they survive this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Journalled {
    /// They are on disk, or this node keeps no journal and is not asked to.
    Yes,
    /// They are in memory only, for this reason.
    No(Arc<str>),
}

impl Node {
    /// Waits until all that was issued before is on disk, for `journal.wait` at most. At once if there is no
    /// journal.
    pub fn wait_journalled(&self) -> Journalled {
        let Some(journal) = &self.shared.journal else {
            return Journalled::Yes;
        };
        let position = journal.position();
        let wait = self.shared.journal_wait;
        let outcome = match journal.wait(position, wait) {
            Wait::Written => return Journalled::Yes,
            Wait::Late => Arc::from(format!("not on disk after {} ms", wait.as_millis())),
            Wait::NotJournalled(reason) => reason,
        };
        let counter = &self.shared.counters.not_journalled;
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Journalled::No(outcome)
    }

    /// Whether a purge that is not on disk is to be answered as an error (`journal.require`).
    pub fn requires_journal(&self) -> bool {
        self.shared.config().journal.require
    }
}

/// The journal, for the status.
#[derive(Clone, Debug, Serialize)]
pub struct JournalStatus {
    /// The state directory.
    pub dir: String,
    /// "ok", or "failed": purges are held in memory only.
    pub state: &'static str,
    /// Why it failed; null if it has not.
    pub error: Option<String>,
    /// Bytes in the directory.
    pub disk_bytes: u64,
    /// Most bytes in it.
    pub bytes_max: u64,
    /// Age of the oldest purge that is held, in ms; null if there is none. While bytes are short this is the
    /// retention that there is.
    pub oldest_ms: Option<u64>,
}

impl Shared {
    /// Has the journal note what has expired, and what there was no room for, for the node's next life.
    pub(crate) fn note_expired(&self) {
        if let Some(journal) = &self.journal {
            let core = self.core.lock();
            let now = sys::boot_clock();
            let expired = core.expired(now).collect();
            let evicted_born = core.evicted_born(now);
            drop(core);
            journal.note_expired(expired, evicted_born);
        }
    }
}

impl JournalStatus {
    pub(crate) fn take(shared: &Shared, now: Time) -> Option<JournalStatus> {
        let journal = shared.journal.as_ref()?;
        let counters = journal.counters();
        let config = shared.config();
        let (state, error) = match counters.state {
            State::Ok => ("ok", None),
            State::Failed(reason) => ("failed", Some(reason.to_string())),
        };
        Some(JournalStatus {
            dir: config.journal.dir.as_ref()?.display().to_string(),
            state,
            error,
            disk_bytes: counters.disk_bytes,
            bytes_max: config.journal.bytes,
            oldest_ms: journal
                .oldest_born()
                .map(|born| now.since(born).as_millis() as u64),
        })
    }
}

/// Name, explanation, whether it only grows, and value of what the journal counts.
pub(crate) fn list(counters: &Counters) -> Vec<(&'static str, &'static str, bool, u64)> {
    vec![
        (
            "journal_failed",
            "Whether the journal does not work: 1 if purges are held in memory only.",
            false,
            u64::from(counters.state != State::Ok),
        ),
        (
            "journal_appended",
            "Purges written to the journal.",
            true,
            counters.appended,
        ),
        (
            "journal_bytes_written",
            "Bytes written by the journal.",
            true,
            counters.bytes_written,
        ),
        (
            "journal_disk_bytes",
            "Bytes in the state directory.",
            false,
            counters.disk_bytes,
        ),
        (
            "journal_segments",
            "Segments of the journal.",
            false,
            counters.segments,
        ),
        (
            "journal_damaged",
            "Damaged places found in the journal.",
            true,
            counters.damaged,
        ),
        (
            "journal_write_errors",
            "Times that the disk failed.",
            true,
            counters.write_errors,
        ),
        (
            "journal_dropped",
            "Purges given up because the disk had failed for too long.",
            true,
            counters.dropped,
        ),
        (
            "journal_segments_evicted",
            "Segments removed because the state directory was full.",
            true,
            counters.segments_evicted,
        ),
        (
            "journal_blocks_read",
            "Blocks read from disk for repairs.",
            true,
            counters.blocks_read,
        ),
    ]
}
