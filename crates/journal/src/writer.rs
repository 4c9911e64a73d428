//! The writer: one thread that appends to the log whatever has gathered while it wrote the last lot.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::batch::{BATCH_BYTES, BatchWriter};
use crate::files::{Files, Kind};
use crate::format;
use crate::keeper;
use crate::shared::{Entry, Shared, Stop, count};

/// Written at once at most.
const WRITE_BYTES: usize = 1 << 20;

/// How often the writer looks whether its file is still where a start will look for it.
const LOOK: Duration = Duration::from_secs(1);

/// The file that is appended to.
pub struct Log {
    pub file: File,
    pub path: PathBuf,
    /// Up to here it is whole.
    pub bytes: u64,
}

impl Log {
    /// Makes the log of a tail.
    pub fn create(shared: &Shared, number: u64) -> io::Result<Log> {
        let path = shared.files.path(number, Kind::Log);
        shared.check_in_place()?;
        let header = format::header();
        let bytes = header.len() as u64;
        shared.take_room(bytes)?;
        let file = shared.files.create(&path)?;
        shared.files.write_at(&file, &path, 0, &header)?;
        if shared.options.fsync {
            shared.files.sync(&file, &path)?;
            shared.files.sync_dir()?;
        }
        Ok(Log { file, path, bytes })
    }
}

/// The thread's own.
pub struct Writer<'a> {
    shared: &'a Shared,
    /// Of the tail that is being written.
    number: u64,
    log: Option<Log>,
    looked: Instant,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub fn new(shared: &'a Shared, number: u64, log: Option<Log>) -> Self {
        Writer {
            shared,
            number,
            log,
            looked: Instant::now(),
            buffer: Vec::new(),
        }
    }

    /// Works until it is told to end.
    pub fn run(&mut self) {
        let mut entries = Vec::new();
        loop {
            entries.clear();
            match self.shared.take(&mut entries) {
                Ok(position) => match self.write(&entries) {
                    Ok(()) => self.shared.written(position),
                    Err(error) => {
                        let dir = self.shared.files.dir().display();
                        self.shared.fail(format!("cannot write to {dir}: {error}"));
                    }
                },
                Err(Stop::No) => {
                    self.log = None;
                    // At the end one more try is made, also by a journal that is broken.
                    match self.shared.wait_to_retry() {
                        Stop::No if self.shared.is_broken() => {}
                        Stop::No | Stop::Drain => self.try_again(),
                        Stop::Abandon => {}
                    }
                }
                Err(stop) => {
                    if stop == Stop::Drain && self.shared.has_failed() {
                        self.try_again();
                    }
                    return;
                }
            }
            if entries.capacity() > 4 * 65_536 {
                entries = Vec::new();
            }
        }
    }

    fn write(&mut self, entries: &[Entry]) -> io::Result<()> {
        let anchor = self.shared.conversion.anchor(&*self.shared.options.clock);
        let mut batch: Option<BatchWriter> = None;
        let mut messages = 0;
        for entry in entries {
            match entry {
                Entry::Message(id, held) => {
                    let writer =
                        batch.get_or_insert_with(|| BatchWriter::begin(&mut self.buffer, &anchor));
                    writer.push(&mut self.buffer, *id, held);
                    messages += 1;
                    if writer.bytes(&self.buffer) >= BATCH_BYTES {
                        if let Some(batch) = batch.take() {
                            batch.end(&mut self.buffer);
                        }
                        if self.buffer.len() >= WRITE_BYTES {
                            self.flush(false)?;
                        }
                    }
                }
                Entry::Close(number) => {
                    if let Some(batch) = batch.take() {
                        batch.end(&mut self.buffer);
                    }
                    self.flush(true)?;
                    self.log = None;
                    self.number = number + 1;
                    self.shared.seal(*number);
                }
            }
        }
        if let Some(batch) = batch {
            batch.end(&mut self.buffer);
        }
        self.flush(true)?;
        count(&self.shared.counts.appended, messages);
        Ok(())
    }

    /// Appends what is in the buffer; `last`: and makes it as durable as is asked for.
    fn flush(&mut self, last: bool) -> io::Result<()> {
        let result = self.append(last);
        self.buffer.clear();
        if result.is_err() {
            // What may stand behind the last whole batch is no damage, and a start should not call it so.
            if let Some(log) = self.log.take() {
                let _ = log.file.set_len(log.bytes);
            }
        }
        result
    }

    fn append(&mut self, last: bool) -> io::Result<()> {
        let shared = self.shared;
        let bytes = self.buffer.len() as u64;
        if bytes > 0 {
            shared.take_room(bytes)?;
            let log = match &mut self.log {
                Some(log) => log,
                none => none.insert(Log::create(shared, self.number)?),
            };
            shared
                .files
                .write_at(&log.file, &log.path, log.bytes, &self.buffer)?;
            log.bytes += bytes;
            count(&shared.counts.bytes_written, bytes);
        }
        let Some(log) = self.log.as_ref().filter(|_| last) else {
            return Ok(());
        };
        if shared.options.fsync {
            shared.files.sync(&log.file, &log.path)?;
        }
        if self.looked.elapsed() > LOOK {
            self.looked = Instant::now();
            if !Files::is_at(&log.file, &log.path)? {
                return Err(Files::moved(&log.path));
            }
        }
        Ok(())
    }

    /// Puts all that is in memory only on disk, as segments, and goes on from there.
    fn try_again(&mut self) {
        let shared = self.shared;
        let attached = keeper::attach(shared).and_then(|()| shared.store_unwritten_stamp());
        let sealed = attached.and_then(|()| {
            // What is frozen goes first: if the disk does not take that, the active tail stays what it is.
            let unsealed = shared.index.lock().unsealed();
            unsealed
                .iter()
                .try_for_each(|&number| keeper::seal(shared, number))
        });
        let ready = sealed.and_then(|()| {
            let (position, unsealed) = {
                let mut index = shared.index.lock();
                let mut queue = shared.queue.lock();
                index.freeze();
                queue.entries.clear();
                queue.failed = shared.is_broken();
                self.number = index.number;
                (queue.position, index.unsealed())
            };
            unsealed
                .iter()
                .try_for_each(|&number| keeper::seal(shared, number))?;
            self.log = Some(Log::create(shared, self.number)?);
            keeper::recount(shared)?;
            Ok(position)
        });
        match ready {
            Ok(position) => shared.recovered(position),
            Err(error) => {
                let dir = shared.files.dir().display();
                shared.fail(format!("cannot use {dir}: {error}"));
            }
        }
    }
}
