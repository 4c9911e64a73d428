//! What the core keeps its messages in, and the handle that everybody else has.

use std::fs::File;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use powderhorn_protocol::Expired;
use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::store::{Fetch, Held, Lost, Store};
use powderhorn_protocol::time::Time;

use crate::clock::{Anchor, Conversion};
use crate::expired::Gone;
use crate::files::{Files, Kind};
use crate::format::{self, HEADER_BYTES};
use crate::open::Loading;
use crate::shared::{Shared, Stop, count};
use crate::writer::{Log, Writer};
use crate::{
    Counters, OpenError, Options, Recovered, State, Wait, expired, keeper, reader, since, stamp,
};

/// The threads' names.
const WRITER: &str = "journal-writer";
const KEEPER: &str = "journal-keeper";
const READER: &str = "journal-reader";

/// How long the end of the last handle waits for what is not written yet.
const CLOSE_MAX: Duration = Duration::from_secs(10);

/// The store for a core, under the core's lock. No call waits for a disk.
pub struct JournalStore {
    handle: Arc<Handle>,
}

/// A handle to a journal. Clones are handles to the same one; when the last is dropped, and the store,
/// what is queued is written and the journal is closed.
#[derive(Clone)]
pub struct Journal {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_stop(Stop::Drain);
        self.shared.wait_for_end(CLOSE_MAX);
    }
}

impl Journal {
    /// Opens the journal in a directory and starts its threads. A disk that cannot be used is no error, nor are
    /// files of another version, which are left alone: the state is [`State::Failed`] then, and messages are kept in
    /// memory.
    pub fn open(options: Options) -> Result<(JournalStore, Journal, Recovered), OpenError> {
        let mut options = options;
        options.bytes_max = options.bytes_max.max(Options::BYTES_MIN);
        let files = Files::new(options.dir.clone(), options.faults.clone());
        let mut failed = files.make_dir().err();
        let mut lock: Option<File> = None;
        let mut loading = None;
        match files.lock() {
            Ok(Some(file)) => match Loading::read(&files) {
                Ok(found) => (lock, loading) = (Some(file), Some(found)),
                Err(error) => failed = Some(error),
            },
            Ok(None) => return Err(OpenError::Locked { path: options.dir }),
            Err(error) => failed = Some(failed.unwrap_or(error)),
        }
        // A directory that comes late may have files in it, which are not to be overwritten.
        let late = loading.is_none();
        let mut loading = loading.unwrap_or_default();
        let begin = Anchor::at_start(&*options.clock);
        let mut conversion = Conversion::new(begin, options.retention);
        loading.note_anchors(&mut conversion);
        loading.evict(&files, options.bytes_max);
        let gone = if late {
            Ok(None)
        } else {
            expired::read(&files)
        };
        if let Ok(Some((anchor, _))) = &gone {
            conversion.note(anchor);
        }
        let now = conversion.start();
        if !late && conversion.has_earlier_boots() {
            conversion.set_since(since::first_start(&files, &now));
        }
        let disk_bytes = loading.disk_bytes;
        let evicted = loading.evicted.len() as u64;
        let (mut start, mut recovered) =
            loading.build(&conversion, options.tail_bytes(), options.cache_bytes);
        match gone {
            Ok(Some((anchor, mut gone))) => {
                let born = |born| conversion.born_before(&anchor.boot_id, born);
                let evicted_born = gone.evicted_born.map(born);
                recovered.evicted_born = recovered.evicted_born.max(evicted_born);
                for expired in &mut gone.expired {
                    expired.born = born(expired.born);
                }
                recovered.expired = gone.expired;
            }
            Ok(None) => {}
            Err(error) => {
                recovered.damaged += 1;
                let dir = options.dir.display();
                log::error!("journal: what has expired cannot be read in {dir}: {error}");
            }
        }
        if late {
            start.index.number = now.wall_ms;
            // Whoever wrote the rest, what can be read of this has never done harm: it only keeps epochs in order.
            recovered.last_stamp = stamp::read(&files).unwrap_or(None);
        } else {
            match stamp::read(&files) {
                Ok(stamp) => recovered.last_stamp = stamp,
                Err(error) => {
                    recovered.damaged += 1;
                    let dir = options.dir.display();
                    log::error!("journal: the last epoch in {dir} cannot be read: {error}");
                }
            }
        }
        let number = start.index.number;
        let shared = Shared::new(options, files, conversion, start.index, lock);
        count(&shared.counts.disk_bytes, disk_bytes);
        count(&shared.counts.damaged, recovered.damaged);
        count(&shared.counts.segments_evicted, evicted);
        if evicted > 0 {
            // What is gone now is found to be gone by no later start.
            shared.note_expired(Gone {
                expired: recovered.expired.clone(),
                evicted_born: recovered.evicted_born,
            });
        }
        let log = match (failed, start.log) {
            (Some(error), _) => Err(error),
            (None, Some((number, whole))) => reopen(&shared, number, whole),
            (None, None) => Log::create(&shared, number),
        };
        start
            .unsealed
            .iter()
            .for_each(|&number| shared.seal(number));
        let log = match log {
            Ok(log) => Some(log),
            Err(error) => {
                let dir = shared.files.dir().display();
                shared.fail(format!("cannot use {dir}: {error}"));
                None
            }
        };
        let shared = Arc::new(shared);
        spawn(&shared, WRITER, move |shared| {
            Writer::new(shared, number, log).run();
        })?;
        let handle = Arc::new(Handle {
            shared: shared.clone(),
        });
        spawn(&shared, KEEPER, keeper::run)?;
        spawn(&shared, READER, reader::run)?;
        let store = JournalStore {
            handle: handle.clone(),
        };
        Ok((store, Journal { handle }, recovered))
    }

    /// What has been inserted up to now is written when this position is.
    pub fn position(&self) -> u64 {
        self.handle.shared.queue.lock().position
    }

    /// Waits until all that was inserted before `position` is written. The writer does not wait for more
    /// messages then.
    pub fn wait(&self, position: u64, timeout: Duration) -> Wait {
        self.handle.shared.wait(position, timeout)
    }

    /// Whether the journal works.
    pub fn state(&self) -> State {
        self.handle.shared.state()
    }

    /// What an operator sees.
    pub fn counters(&self) -> Counters {
        let shared = &self.handle.shared;
        let counts = &shared.counts;
        let state = shared.state();
        let index = shared.index.lock();
        let sealed = index.segments.values().filter(|segment| segment.sealed);
        Counters {
            state,
            appended: counts.appended.load(Ordering::Relaxed),
            bytes_written: counts.bytes_written.load(Ordering::Relaxed),
            disk_bytes: counts.disk_bytes.load(Ordering::Relaxed),
            held_bytes: index.bytes(),
            segments: sealed.count() as u64,
            unsealed: index.unsealed().len() as u64,
            damaged: counts.damaged.load(Ordering::Relaxed),
            write_errors: counts.write_errors.load(Ordering::Relaxed),
            dropped: index.dropped,
            segments_evicted: counts.segments_evicted.load(Ordering::Relaxed),
            blocks_read: counts.blocks_read.load(Ordering::Relaxed),
        }
    }

    /// When the oldest message that is held was born, about. Whoever needs messages waits meanwhile, so it is not for each
    /// second: 10 to 25 ms with 10,000 streams in 18 segments.
    pub fn oldest_born(&self) -> Option<Time> {
        self.handle.shared.index.lock().oldest_born()
    }

    /// Puts the stamp of a new epoch on disk, also for the time after a power cut: to be called before the
    /// epoch's first message is issued. An error leaves the old stamp; it is tried again when the disk works again.
    pub fn store_stamp(&self, stamp: u64) -> std::io::Result<()> {
        self.handle.shared.store_stamp(stamp)
    }

    /// Has it noted what has expired here of all streams, and when the youngest message was born for which there was no
    /// room, in place of what was noted before. Waits for no disk.
    pub fn note_expired(&self, expired: Vec<Expired>, evicted_born: Option<Time>) {
        self.handle.shared.note_expired(Gone {
            expired,
            evicted_born,
        });
    }

    /// Writes what is queued and ends; whether that was done within `timeout`. What was not, still will be.
    pub fn shutdown(&self, timeout: Duration) -> bool {
        self.handle.shared.begin_stop(Stop::Drain);
        self.handle.shared.wait_for_end(timeout)
    }

    /// Ends as `kill -9` does, for tests: what is queued is not written.
    #[doc(hidden)]
    pub fn kill(&self) {
        self.handle.shared.begin_stop(Stop::Abandon);
        self.handle.shared.wait_for_end(CLOSE_MAX);
    }
}

impl JournalStore {
    fn wake_reader(&self, index: &mut crate::index::Index) {
        if index.cache.reader_idle && index.cache.has_requests() {
            index.cache.reader_idle = false;
            self.handle.shared.reader_wake.notify_one();
        }
    }
}

impl Store for JournalStore {
    fn insert(&mut self, id: MessageId, message: Held) {
        self.handle.shared.insert(id, message);
    }

    fn prefetch(&mut self, stream: StreamId, seqs: RangeInclusive<u64>) {
        let mut index = self.handle.shared.index.lock();
        index.prefetch(stream, seqs);
        self.wake_reader(&mut index);
    }

    fn get(&mut self, id: MessageId) -> Fetch {
        let mut index = self.handle.shared.index.lock();
        let fetch = index.get(id);
        if fetch == Fetch::Pending {
            self.wake_reader(&mut index);
        }
        fetch
    }

    fn remove_below(&mut self, stream: StreamId, seq: u64) {
        let mut index = self.handle.shared.index.lock();
        index.remove_below(stream, seq);
        if index.is_littered() {
            self.handle.shared.sweep();
        }
    }

    fn poll_lost(&mut self) -> Option<Lost> {
        self.handle.shared.index.lock().poll_lost()
    }

    fn bytes(&self) -> u64 {
        self.handle.shared.index.lock().bytes()
    }

    fn oldest(&self, stream: StreamId) -> Option<(u64, Time)> {
        self.handle.shared.index.lock().oldest(stream)
    }

    fn last_born_before(&self, stream: StreamId, time: Time) -> Option<(u64, Time)> {
        self.handle
            .shared
            .index
            .lock()
            .last_born_before(stream, time)
    }
}

/// Goes on with the log that the last life left.
fn reopen(shared: &Shared, number: u64, whole: u64) -> std::io::Result<Log> {
    let path = shared.files.path(number, Kind::Log);
    let file = shared.files.reopen(&path, whole)?;
    let mut bytes = whole;
    if whole < HEADER_BYTES as u64 {
        // The disk was full, or the power went, when it was made.
        let header = format::header();
        shared.files.write_at(&file, &path, 0, &header)?;
        bytes = header.len() as u64;
        count(&shared.counts.disk_bytes, bytes - whole);
    }
    if shared.options.fsync {
        // An earlier life may have been asked for less, or have died in between.
        shared.files.sync(&file, &path)?;
        shared.files.sync_dir()?;
    }
    Ok(Log { file, path, bytes })
}

/// Starts a thread. Whatever panics in it is the end of the journal, and of nothing else.
fn spawn(
    shared: &Arc<Shared>,
    name: &'static str,
    body: impl FnOnce(&Shared) + Send + 'static,
) -> Result<(), OpenError> {
    let inner = shared.clone();
    shared.thread_begins();
    let thread = std::thread::Builder::new().name(name.into());
    let result = thread.spawn(move || {
        if catch_unwind(AssertUnwindSafe(|| body(&inner))).is_err() {
            inner.break_down(name);
            let mut index = inner.index.lock();
            index.cache.closed |= name == READER;
            index.tidy &= name != KEEPER;
        }
        inner.thread_ended(name == WRITER);
    });
    if let Err(error) = result {
        shared.thread_ended(true);
        return Err(OpenError::Thread(error));
    }
    Ok(())
}
