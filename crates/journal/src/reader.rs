//! The reader: a thread that reads the blocks that are asked for, so that nobody else waits for a disk.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use powderhorn_protocol::store::Held;

use crate::batch;
use crate::cache::{BlockKey, Request};
use crate::files::Kind;
use crate::format;
use crate::shared::{Shared, Stop, count};

/// Segments held open while there is something to read.
const FILES_MAX: usize = 16;

/// Damaged blocks that are remembered, so that one that is read again is not counted again: beyond, they are.
const DAMAGED_MAX: usize = 4_096;

/// Works until it is told to end.
pub fn run(shared: &Shared) {
    let mut files: Vec<(u64, File)> = Vec::new();
    let mut damaged: HashSet<BlockKey> = HashSet::new();
    // Whether the last read failed for a reason that is not the file's: it is told once.
    let mut failing = false;
    loop {
        let request = {
            let mut index = shared.index.lock();
            loop {
                if let Some(request) = index.cache.next_request() {
                    break request;
                }
                // A file that is open takes room when it has been removed.
                files.clear();
                if shared.stopping() != Stop::No {
                    return;
                }
                index.cache.reader_idle = true;
                shared.reader_wake.wait(&mut index);
                index.cache.reader_idle = false;
            }
        };
        if shared.stopping() != Stop::No {
            return;
        }
        let result = read(shared, &mut files, &request);
        let missing = result
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        // If all of the directory is elsewhere it may come back.
        let removed = missing && shared.in_place().unwrap_or(false);
        let mut index = shared.index.lock();
        match result {
            Ok((messages, whole)) => {
                count(&shared.counts.blocks_read, 1);
                let saved = messages.len();
                failing = false;
                index.cache.done(request.key, Some(messages.into()));
                drop(index);
                if !whole && damaged.insert(request.key) {
                    if damaged.len() > DAMAGED_MAX {
                        damaged.clear();
                    }
                    tell(shared, &request, &format!("{NO_FRAME}; {saved} are whole"));
                }
            }
            Err(error) if !is_damage(&error) && !removed => {
                // The messages stay held: whoever wants them asks again.
                index.cache.done(request.key, None);
                drop(index);
                count(&shared.counts.write_errors, 1);
                if !std::mem::replace(&mut failing, true) {
                    let path = shared.files.path(request.key.number, Kind::Segment);
                    log::error!("journal: cannot read {} now: {error}", path.display());
                }
            }
            Err(error) => {
                index.cache.done(request.key, None);
                // It may have been removed meanwhile, which is no damage.
                let segment = index.segments.get(&request.key.number);
                if segment.is_none_or(|segment| segment.leaving) {
                    continue;
                }
                if removed {
                    index.give_up(request.key.number);
                    let litter = std::mem::take(&mut index.litter);
                    drop(index);
                    drop(litter);
                    count(&shared.counts.damaged, 1);
                    let path = shared.files.path(request.key.number, Kind::Segment);
                    log::error!(
                        "journal: {} was removed by somebody: what was in it is held no more",
                        path.display()
                    );
                } else {
                    index.damaged(request.key);
                    drop(index);
                    tell(shared, &request, &format!("{error}; none is whole"));
                }
            }
        }
    }
}

/// Whether a block cannot be read because of what is on disk. Too many open files or too little memory pass.
fn is_damage(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    let kinds = [
        // Said here, of bytes that were read.
        io::ErrorKind::Other,
        io::ErrorKind::UnexpectedEof,
    ];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(EIO)
}

const NO_FRAME: &str = "its checksum does not match";

/// Counts and logs that a block is damaged.
fn tell(shared: &Shared, request: &Request, what: &str) {
    count(&shared.counts.damaged, 1);
    let path = shared.files.path(request.key.number, Kind::Segment);
    log::error!(
        "journal: a block of {} at byte {} is damaged, which has messages {} to {} of {}: {what}",
        path.display(),
        request.key.offset,
        request.block.first,
        request.block.last(),
        request.key.stream
    );
}

/// Reads a block: its messages, and whether that is all that was in it.
fn read(
    shared: &Shared,
    files: &mut Vec<(u64, File)>,
    request: &Request,
) -> io::Result<(Vec<(u64, Held)>, bool)> {
    let path = shared.files.path(request.key.number, Kind::Segment);
    let place = files
        .iter()
        .position(|(number, _)| *number == request.key.number);
    let opened = match place {
        Some(place) => files.remove(place),
        None => (request.key.number, shared.files.open(&path)?),
    };
    let mut bytes = vec![0; request.block.bytes as usize];
    let result = shared
        .files
        .read_at(&opened.1, &path, u64::from(request.key.offset), &mut bytes);
    files.push(opened);
    if files.len() > FILES_MAX {
        files.remove(0);
    }
    result?;
    let batch = format::read_frame(&bytes).and_then(batch::read_batch);
    let whole = batch.is_some();
    let batches = batch.map_or_else(|| batch::salvage(&bytes), |batch| vec![batch]);
    let mut messages = Vec::new();
    for batch in batches {
        messages.reserve(batch.messages.len());
        for (id, mut held) in batch.messages {
            if id.stream == request.key.stream {
                held.born = shared.conversion.born(&batch.anchor.boot_id, held.born);
                messages.push((id.seq, held));
            }
        }
    }
    if messages.is_empty() {
        return Err(io::Error::other(NO_FRAME));
    }
    messages.sort_by_key(|(seq, _)| *seq);
    Ok((messages, whole))
}
