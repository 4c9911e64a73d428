//! What the store, the handles and the three threads share. Locks are taken in this order: index, queue,
//! progress.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use powderhorn_protocol::id::MessageId;
use powderhorn_protocol::store::Held;

use crate::clock::Conversion;
use crate::expired::Gone;
use crate::files::{Files, Kind};
use crate::index::Index;
use crate::messages::estimate;
use crate::{Options, State, Wait, stamp};

/// Messages that the writer has not taken yet. Beyond, the disk is too slow, which is a failure like any
/// other: they stay in their tails, in memory, and go to disk when it works again.
const QUEUE_MAX: usize = 500_000;

/// Bytes of them, which after a while are nowhere else in memory.
const QUEUE_BYTES_MAX: u64 = 64 << 20;

/// A disk that has not taken what it was given for so long has failed: one that hangs says nothing.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// So many do not wait for others to be written with them.
const BATCH_READY: usize = 2_048;

/// What the writer is to do.
pub enum Entry {
    Message(MessageId, Held),
    /// The tail with this number is frozen: its log ends.
    Close(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    No,
    /// Write what there is, then end.
    Drain,
    /// End, and write nothing: what a crash leaves.
    Abandon,
}

pub struct Queue {
    pub entries: Vec<Entry>,
    /// Of the messages among them.
    bytes: u64,
    /// Messages ever put in.
    pub position: u64,
    /// Since when the writer writes what it took last.
    writing: Option<Instant>,
    /// It was said that this takes too long.
    hangs: bool,
    /// Somebody waits for what is in here.
    hurry: bool,
    /// The writer sleeps until it is woken.
    asleep: bool,
    /// Nothing is put in: the writer could not write it.
    pub failed: bool,
    pub stop: Stop,
}

pub struct Progress {
    /// Of the messages put into the queue so many are on disk.
    pub written: u64,
    pub failed: Option<Arc<str>>,
    /// A thread has panicked: it stays failed, whatever the disk does.
    broken: bool,
    /// Threads that have not ended.
    pub threads: u32,
    /// The writer has ended.
    pub closed: bool,
}

/// What the keeper is to do.
#[derive(Default)]
pub struct Jobs {
    pub seal: std::collections::VecDeque<u64>,
    pub sweep: bool,
    /// What has expired, and what there was no room for, to be written.
    pub gone: Option<Gone>,
    pub stop: bool,
}

#[derive(Default)]
pub struct Counts {
    pub appended: AtomicU64,
    pub bytes_written: AtomicU64,
    pub disk_bytes: AtomicU64,
    pub damaged: AtomicU64,
    pub write_errors: AtomicU64,
    pub segments_evicted: AtomicU64,
    pub blocks_read: AtomicU64,
}

/// Adds to a counter.
pub fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Takes from a counter of what there is.
pub fn uncount(counter: &AtomicU64, by: u64) {
    let less = |value: u64| Some(value.saturating_sub(by));
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

pub struct Shared {
    pub options: Options,
    pub files: Files,
    pub conversion: Conversion,
    pub index: Mutex<Index>,
    pub reader_wake: Condvar,
    pub queue: Mutex<Queue>,
    queue_wake: Condvar,
    progress: Mutex<Progress>,
    progressed: Condvar,
    pub jobs: Mutex<Jobs>,
    pub jobs_wake: Condvar,
    /// One tail is sealed at a time, whoever does it; and nothing is removed meanwhile but for want of room.
    pub sealing: Mutex<()>,
    /// Held by who removes segments for want of room, so that no two are where one is enough.
    pub evicting: Mutex<()>,
    /// The lock on the directory, once it is there and has nothing in it that is not to be touched.
    pub lock: Mutex<Option<File>>,
    /// The last epoch's stamp, while it could not be written.
    stamp: Mutex<Option<u64>>,
    pub counts: Counts,
}

impl Shared {
    pub fn new(
        options: Options,
        files: Files,
        conversion: Conversion,
        index: Index,
        lock: Option<File>,
    ) -> Shared {
        Shared {
            options,
            files,
            conversion,
            index: Mutex::new(index),
            reader_wake: Condvar::new(),
            queue: Mutex::new(Queue {
                entries: Vec::new(),
                bytes: 0,
                position: 0,
                writing: None,
                hangs: false,
                hurry: false,
                asleep: false,
                failed: false,
                stop: Stop::No,
            }),
            queue_wake: Condvar::new(),
            progress: Mutex::new(Progress {
                written: 0,
                failed: None,
                broken: false,
                threads: 0,
                closed: false,
            }),
            progressed: Condvar::new(),
            jobs: Mutex::new(Jobs::default()),
            jobs_wake: Condvar::new(),
            sealing: Mutex::new(()),
            evicting: Mutex::new(()),
            lock: Mutex::new(lock),
            stamp: Mutex::new(None),
            counts: Counts::default(),
        }
    }

    /// Keeps a message, and has it written. Waits for no disk.
    pub fn insert(&self, id: MessageId, held: Held) {
        let index = &mut *self.index.lock();
        let full = index.insert(id, held.clone());
        let dropped = index.dropped;
        let closed = if full { index.freeze() } else { None };
        if index.dropped > dropped {
            let lost = index.dropped - dropped;
            log::error!(
                "journal: {lost} messages are given up: the disk does not keep up, or not at all"
            );
        }
        if index.is_littered() {
            self.sweep();
        }
        let mut queue = self.queue.lock();
        queue.position += 1;
        if queue.failed {
            return;
        }
        if queue.entries.len() >= QUEUE_MAX || queue.bytes >= QUEUE_BYTES_MAX {
            self.fail_locked(&mut queue, "the disk is slower than the messages".into());
            return;
        }
        queue.bytes += estimate(&held);
        queue.entries.push(Entry::Message(id, held));
        queue.entries.extend(closed.map(Entry::Close));
        if queue.asleep || queue.entries.len() >= BATCH_READY {
            queue.asleep = false;
            self.queue_wake.notify_one();
        }
    }

    /// For the writer: waits for something to write. `Ok` is the position that is reached when all of
    /// `entries` is written; `Err` is that there is nothing to write, since the disk failed or the end has come.
    pub fn take(&self, entries: &mut Vec<Entry>) -> Result<u64, Stop> {
        let mut queue = self.queue.lock();
        queue.writing = None;
        if std::mem::take(&mut queue.hangs) {
            log::warn!("journal: {} answers again", self.files.dir().display());
        }
        while queue.entries.is_empty() && queue.stop == Stop::No && !queue.failed {
            queue.asleep = true;
            self.queue_wake.wait(&mut queue);
            queue.asleep = false;
        }
        let deadline = Instant::now() + self.options.linger;
        let enough = |queue: &Queue| {
            queue.hurry
                || queue.failed
                || queue.stop != Stop::No
                || queue.entries.len() >= BATCH_READY
        };
        while !enough(&queue) && !self.queue_wake.wait_until(&mut queue, deadline).timed_out() {}
        queue.hurry = false;
        let drained = queue.entries.is_empty() && queue.stop == Stop::Drain;
        if queue.failed || queue.stop == Stop::Abandon || drained {
            return Err(queue.stop);
        }
        std::mem::swap(&mut queue.entries, entries);
        queue.bytes = 0;
        queue.writing = Some(Instant::now());
        Ok(queue.position)
    }

    /// For the writer: sleeps until it is time to try again, or the end has come.
    pub fn wait_to_retry(&self) -> Stop {
        let deadline = Instant::now() + self.options.retry;
        let mut queue = self.queue.lock();
        while queue.stop == Stop::No
            && !self.queue_wake.wait_until(&mut queue, deadline).timed_out()
        {}
        queue.stop
    }

    pub fn has_failed(&self) -> bool {
        self.queue.lock().failed
    }

    /// The disk would not have it: from now on messages are in memory only.
    pub fn fail(&self, reason: String) {
        self.fail_locked(&mut self.queue.lock(), reason);
    }

    fn fail_locked(&self, queue: &mut Queue, reason: String) {
        self.fail_both(queue, &mut self.progress.lock(), reason);
    }

    fn fail_both(&self, queue: &mut Queue, progress: &mut Progress, reason: String) {
        count(&self.counts.write_errors, 1);
        // They are in their tails as well.
        queue.entries = Vec::new();
        queue.bytes = 0;
        queue.failed = true;
        self.queue_wake.notify_one();
        if progress.broken {
            return;
        }
        if progress.failed.is_none() {
            log::error!("journal: {reason}; purges go on from memory, and a crash would lose them");
        }
        progress.failed = Some(reason.into());
        self.progressed.notify_all();
    }

    /// A thread has panicked. What it did nobody does now, so no try that goes well makes up for it.
    pub fn break_down(&self, thread: &str) {
        let reason =
            format!("the thread {thread} has panicked, and the journal stops until the next start");
        let mut queue = self.queue.lock();
        // Under one lock: a try to write that goes well in between would have it count as sound.
        let mut progress = self.progress.lock();
        // It is told, also if the disk has failed before.
        progress.failed = None;
        self.fail_both(&mut queue, &mut progress, reason);
        progress.broken = true;
        queue.writing = None;
    }

    pub fn is_broken(&self) -> bool {
        self.progress.lock().broken
    }

    /// So many of the queue's messages are on disk.
    pub fn written(&self, position: u64) {
        let mut progress = self.progress.lock();
        progress.written = progress.written.max(position);
        self.progressed.notify_all();
    }

    /// The disk works again.
    pub fn recovered(&self, position: u64) {
        let mut progress = self.progress.lock();
        progress.written = progress.written.max(position);
        if !progress.broken && progress.failed.take().is_some() {
            log::warn!(
                "journal: {} can be written again",
                self.files.dir().display()
            );
        }
        self.progressed.notify_all();
    }

    pub fn wait(&self, position: u64, timeout: Duration) -> Wait {
        let deadline = Instant::now() + timeout;
        if self.progress.lock().written < position {
            let mut queue = self.queue.lock();
            if !queue.hurry && !queue.entries.is_empty() {
                queue.hurry = true;
                self.queue_wake.notify_one();
            }
            if let Some(reason) = self.hangs(&mut queue) {
                return Wait::NotJournalled(reason);
            }
        }
        let mut progress = self.progress.lock();
        loop {
            if progress.written >= position {
                return Wait::Written;
            }
            if let Some(reason) = &progress.failed {
                return Wait::NotJournalled(reason.clone());
            }
            if progress.closed {
                return Wait::NotJournalled("the journal is closed".into());
            }
            if self
                .progressed
                .wait_until(&mut progress, deadline)
                .timed_out()
            {
                return if progress.written >= position {
                    Wait::Written
                } else {
                    Wait::Late
                };
            }
        }
    }

    pub fn state(&self) -> State {
        let hangs = self.hangs(&mut self.queue.lock());
        let failed = self.progress.lock().failed.clone();
        failed.or(hangs).map_or(State::Ok, State::Failed)
    }

    /// Why the disk is as good as failed, while it does not answer.
    fn hangs(&self, queue: &mut Queue) -> Option<Arc<str>> {
        let since = queue.writing?.elapsed();
        if since < ANSWER_MAX {
            return None;
        }
        let dir = self.files.dir().display();
        if !std::mem::replace(&mut queue.hangs, true) {
            count(&self.counts.write_errors, 1);
            log::error!(
                "journal: {dir} does not answer; a crash would lose what is purged meanwhile"
            );
        }
        Some(format!("{dir} has not answered for {} s", since.as_secs()).into())
    }

    pub fn seal(&self, number: u64) {
        self.jobs.lock().seal.push_back(number);
        self.jobs_wake.notify_one();
    }

    /// Whether the directory that is locked is the one that is used.
    pub fn in_place(&self) -> io::Result<bool> {
        let lock = self.lock.lock();
        let at = |lock| Files::is_at(lock, self.files.dir());
        Ok(lock.as_ref().map(at).transpose()?.unwrap_or(false))
    }

    /// An error if it is not: there may be another process's files under the same names.
    pub fn check_in_place(&self) -> io::Result<()> {
        if self.in_place()? {
            return Ok(());
        }
        Err(Files::moved(self.files.dir()))
    }

    /// Has the files removed that hold nothing any more.
    pub fn sweep(&self) {
        let mut jobs = self.jobs.lock();
        if !jobs.sweep {
            jobs.sweep = true;
            self.jobs_wake.notify_one();
        }
    }

    /// Has it written what has expired, and what there was no room for.
    pub fn note_expired(&self, gone: Gone) {
        self.jobs.lock().gone = Some(gone);
        self.jobs_wake.notify_one();
    }

    /// Removes the files of a tail or segment.
    pub fn remove_files(&self, number: u64) -> io::Result<()> {
        self.remove_file(number, Kind::Log)?;
        self.remove_file(number, Kind::Segment)
    }

    /// Removes a file; that it is not there is no error.
    pub fn remove_file(&self, number: u64, kind: Kind) -> io::Result<()> {
        self.check_in_place()?;
        let path = self.files.path(number, kind);
        let removed = match std::fs::metadata(&path) {
            Ok(metadata) => self.files.remove(&path).map(|()| metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => Err(error),
        };
        let bytes = removed.map_err(|error| {
            io::Error::other(format!("cannot remove {}: {error}", path.display()))
        })?;
        uncount(&self.counts.disk_bytes, bytes);
        Ok(())
    }

    /// The same, of what only takes room.
    pub fn remove_log(&self, number: u64) {
        if let Err(error) = self.remove_file(number, Kind::Log) {
            log::warn!("journal: {error}");
        }
    }

    /// Removes the oldest segments until so many more bytes fit into the directory, in which they count before they are
    /// there, so that nobody else takes the room meanwhile. What cannot be removed stays held, and takes its room. After
    /// an error of this, or of the write, all is counted anew when it is tried again.
    pub fn take_room(&self, bytes: u64) -> io::Result<()> {
        let disk_bytes = &self.counts.disk_bytes;
        let is_full = || disk_bytes.load(Ordering::Relaxed) > self.options.bytes_max;
        count(disk_bytes, bytes);
        if !is_full() {
            return Ok(());
        }
        // What another thread is removing may be enough for both.
        let _alone = self.evicting.lock();
        while is_full() {
            let Some(oldest) = self.index.lock().begin_to_remove() else {
                return Ok(());
            };
            let removed = self.remove_files(oldest);
            let mut index = self.index.lock();
            if let Err(error) = removed {
                index.set_leaving(oldest, false);
                return Err(error);
            }
            index.give_up(oldest);
            let litter = std::mem::take(&mut index.litter);
            drop(index);
            drop(litter);
            count(&self.counts.segments_evicted, 1);
            log::info!("journal: the directory is full, its oldest messages go");
        }
        Ok(())
    }

    /// Tells all threads to end.
    pub fn begin_stop(&self, stop: Stop) {
        {
            let mut queue = self.queue.lock();
            if queue.stop == Stop::No {
                queue.stop = stop;
            }
            self.queue_wake.notify_one();
        }
        self.jobs.lock().stop = true;
        self.jobs_wake.notify_one();
        let _index = self.index.lock();
        self.reader_wake.notify_one();
    }

    pub fn stopping(&self) -> Stop {
        self.queue.lock().stop
    }

    pub fn store_stamp(&self, stamp: u64) -> io::Result<()> {
        let mut unwritten = self.stamp.lock();
        *unwritten = Some(stamp);
        if self.lock.lock().is_none() {
            let reason = self.progress.lock().failed.clone();
            let reason = reason.unwrap_or_else(|| "the journal is closed".into());
            return Err(io::Error::other(&*reason));
        }
        stamp::write(&self.files, stamp)?;
        *unwritten = None;
        Ok(())
    }

    /// Tries again to write the stamp that could not be written.
    pub fn store_unwritten_stamp(&self) -> io::Result<()> {
        let mut unwritten = self.stamp.lock();
        if let Some(stamp) = *unwritten {
            stamp::write(&self.files, stamp)?;
            *unwritten = None;
        }
        Ok(())
    }

    pub fn thread_begins(&self) {
        self.progress.lock().threads += 1;
    }

    pub fn thread_ended(&self, writer: bool) {
        let mut progress = self.progress.lock();
        progress.threads -= 1;
        progress.closed |= writer;
        self.progressed.notify_all();
        if progress.threads == 0 {
            // The directory may have another owner now.
            *self.lock.lock() = None;
        }
    }

    /// Waits until all threads have ended; whether they have.
    pub fn wait_for_end(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut progress = self.progress.lock();
        while progress.threads > 0 {
            if self
                .progressed
                .wait_until(&mut progress, deadline)
                .timed_out()
            {
                return progress.threads == 0;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Anchor;

    fn shared() -> Shared {
        let options = Options::new("/nonexistent");
        let files = Files::new(options.dir.clone(), None);
        let now = Anchor::at_start(&*options.clock);
        let conversion = Conversion::new(now, options.retention);
        Shared::new(options, files, conversion, Index::new(1, 1 << 20, 0), None)
    }

    /// The writer's try to write went well just when the keeper had failed and was not yet marked as gone: the journal
    /// then counted as sound for good.
    #[test]
    fn no_try_that_goes_well_makes_up_for_a_thread_that_is_gone() {
        for _ in 0..3_000 {
            let shared = shared();
            let began = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    began.wait();
                    while !shared.is_broken() {
                        shared.recovered(0);
                    }
                    shared.recovered(0);
                });
                began.wait();
                shared.break_down("keeper");
            });
            assert_ne!(shared.state(), State::Ok);
        }
    }
}
