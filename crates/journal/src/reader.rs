//! The reader: a thread that reads the blocks that are asked for, so that nobody else waits for a disk.

use std::fs::File;
use std::io;

use powderhorn_protocol::store::Held;

use crate::batch;
use crate::cache::Request;
use crate::files::Kind;
use crate::format;
use crate::shared::{Shared, Stop, count};

/// Segments held open while there is something to read.
const FILES_MAX: usize = 16;

/// Works until it is told to end.
pub fn run(shared: &Shared) {
    let mut files: Vec<(u64, File)> = Vec::new();
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
        let mut index = shared.index.lock();
        match result {
            Ok(messages) => {
                count(&shared.counts.blocks_read, 1);
                index.cache.done(request.key, Some(messages.into()));
            }
            Err(error) => {
                index.cache.done(request.key, None);
                // It may have been removed meanwhile, which is no damage.
                if index.segments.contains_key(&request.key.number) {
                    index.damaged(request.stream, request.key);
                    drop(index);
                    count(&shared.counts.damaged, 1);
                    let path = shared.files.path(request.key.number, Kind::Segment);
                    log::error!(
                        "journal: a block of {} at byte {} is lost, messages {} to {} of {}: {error}",
                        path.display(),
                        request.key.offset,
                        request.block.first,
                        request.block.last(),
                        request.stream
                    );
                }
            }
        }
    }
}

fn read(
    shared: &Shared,
    files: &mut Vec<(u64, File)>,
    request: &Request,
) -> io::Result<Vec<(u64, Held)>> {
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
    let batch = batch.ok_or_else(|| io::Error::other("its checksum does not match"))?;
    let mut messages = Vec::with_capacity(batch.messages.len());
    for (id, mut held) in batch.messages {
        if id.stream == request.stream {
            held.born = shared.conversion.born(&batch.anchor.boot_id, held.born);
            messages.push((id.seq, held));
        }
    }
    messages.sort_by_key(|(seq, _)| *seq);
    Ok(messages)
}
