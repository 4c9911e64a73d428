//! The keeper: a thread that rewrites frozen tails as segments, and removes what holds nothing any more.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::store::Held;
use powderhorn_protocol::time::Time;

use crate::batch::{BLOCK_BYTES, BatchWriter};
use crate::clock::Anchor;
use crate::expired::{self, Gone};
use crate::files::Kind;
use crate::footer::{Block, Footer, StreamBlocks};
use crate::format;
use crate::index::{Frozen, Segment};
use crate::shared::{Shared, Stop, count};

/// A hole in the seqs that ends a block: what is said of a part of a block is as if it had none.
const HOLE_MAX: u64 = 256;

/// The longest time within a block, in microseconds: it expires as a whole.
const SPAN_US_MAX: i64 = 600_000_000;

/// Written at once at most.
const WRITE_BYTES: usize = 1 << 20;

/// Works until it is told to end.
pub fn run(shared: &Shared) {
    let mut noted = Gone::default();
    loop {
        let (number, sweep, gone, stop) = {
            let mut jobs = shared.jobs.lock();
            while jobs.seal.is_empty() && !jobs.sweep && jobs.gone.is_none() && !jobs.stop {
                shared.jobs_wake.wait(&mut jobs);
            }
            (
                jobs.seal.pop_front(),
                std::mem::take(&mut jobs.sweep),
                jobs.gone.take(),
                jobs.stop,
            )
        };
        // Before the last of what it tells of is removed.
        if let Some(gone) = gone.filter(|gone| *gone != noted) {
            if note_expired(shared, &gone) {
                noted = gone;
            }
        }
        if stop {
            return;
        }
        if sweep {
            self::sweep(shared);
        }
        if let Some(Err(error)) = number.map(|number| seal(shared, number)) {
            let dir = shared.files.dir().display();
            shared.fail(format!("cannot write to {dir}: {error}"));
        }
    }
}

/// Writes what has expired; whether that was possible. A disk that fails has failed without that, too.
fn note_expired(shared: &Shared, gone: &Gone) -> bool {
    if shared.lock.lock().is_none() || shared.stopping() == Stop::Abandon {
        return false;
    }
    let anchor = shared.conversion.anchor(&*shared.options.clock);
    let in_place = shared.check_in_place();
    let written = in_place.and_then(|()| expired::write(&shared.files, &anchor, gone));
    if let Err(error) = &written {
        count(&shared.counts.write_errors, 1);
        let dir = shared.files.dir().display();
        log::warn!("journal: what has expired cannot be noted in {dir}: {error}");
    }
    written.is_ok()
}

fn sweep(shared: &Shared) {
    // What was given up while it is sealed has a segment only then.
    let _alone = shared.sealing.lock();
    let (doomed, litter) = {
        let mut index = shared.index.lock();
        let mut doomed = std::mem::take(&mut index.doomed);
        // A tail whose log is still being written is dealt with when it is to be sealed.
        doomed.retain(|number| {
            index
                .segments
                .get(number)
                .is_none_or(|segment| segment.sealed && !segment.leaving)
        });
        for &number in &doomed {
            index.set_leaving(number, true);
        }
        (doomed, std::mem::take(&mut index.litter))
    };
    drop(litter);
    for number in doomed {
        let removed = shared.remove_files(number);
        let mut index = shared.index.lock();
        if let Err(error) = removed {
            // It goes when room is needed.
            log::warn!("journal: {error}");
            index.set_leaving(number, false);
        } else {
            index.segments.remove(&number);
        }
    }
}

/// Counts anew what is in the directory: people remove files, and a failure leaves some in any state.
pub fn recount(shared: &Shared) -> io::Result<Vec<(u64, Kind, u64)>> {
    // Nobody else counts meanwhile.
    let _alone = shared.sealing.lock();
    let files = shared.files.list()?;
    let bytes = files.iter().map(|(.., bytes)| bytes).sum();
    shared.counts.disk_bytes.store(bytes, Ordering::Relaxed);
    Ok(files)
}

/// Makes and locks the directory, if that was not possible at the start, or if it is elsewhere by now.
pub fn attach(shared: &Shared) -> io::Result<()> {
    let in_place = shared.in_place()?;
    let mut locked = None;
    if !in_place {
        shared.files.make_dir()?;
        locked = shared.files.lock()?;
        if locked.is_none() {
            return Err(io::Error::other("another process uses it"));
        }
        shared.files.check_version()?;
    }
    let files = recount(shared)?;
    if !in_place {
        add_late(shared, &files)?;
        *shared.lock.lock() = locked;
    }
    give_up_missing(shared, &files);
    Ok(())
}

/// What is in the directory was not read at the start, and now it is too late for that; but it takes room.
fn add_late(shared: &Shared, files: &[(u64, Kind, u64)]) -> io::Result<()> {
    let mut index = shared.index.lock();
    let first = index
        .segments
        .first_key_value()
        .map_or(index.number, |(&number, _)| number);
    if files.last().is_some_and(|&(number, ..)| number >= first) {
        let later = "it has files of a later time, which are not read before Varnish is restarted";
        return Err(io::Error::other(later));
    }
    for &(number, kind, _) in files {
        if kind != Kind::Unfinished && !index.segments.contains_key(&number) {
            log::warn!(
                "journal: {} came late: its messages are not held before the next start",
                shared.files.path(number, kind).display()
            );
            let segment = Segment {
                parts: 1,
                sealed: true,
                leaving: false,
            };
            index.add_segment(number, segment);
        }
    }
    Ok(())
}

/// What was in files that somebody has removed is written again, if it is in memory as well, and else held no more.
fn give_up_missing(shared: &Shared, files: &[(u64, Kind, u64)]) {
    let (given_up, litter) = {
        let mut index = shared.index.lock();
        let there: BTreeSet<u64> = files.iter().map(|&(number, ..)| number).collect();
        let missing = index
            .segments
            .keys()
            .filter(|&number| !there.contains(number));
        let missing: Vec<u64> = missing.copied().collect();
        let given_up = missing
            .iter()
            .filter(|&&number| index.has_lost_file(number));
        (given_up.count(), std::mem::take(&mut index.litter))
    };
    drop(litter);
    if given_up > 0 {
        count(&shared.counts.damaged, given_up as u64);
        log::error!(
            "journal: {given_up} segments in {} were removed by somebody: what was in them is held no more",
            shared.files.dir().display()
        );
    }
}

/// Rewrites a frozen tail as a segment, and removes its log.
pub fn seal(shared: &Shared, number: u64) -> io::Result<()> {
    let _alone = shared.sealing.lock();
    let frozen = {
        let mut index = shared.index.lock();
        match index.segments.get(&number) {
            Some(segment) if !segment.sealed => {}
            Some(_) => return Ok(()),
            None => {
                drop(index);
                shared.remove_log(number);
                return Ok(());
            }
        }
        let frozen = index.frozen(number);
        if frozen.streams.is_empty() {
            index.give_up(number);
            drop(index);
            shared.remove_log(number);
            return Ok(());
        }
        frozen
    };
    shared.check_in_place()?;
    let (bytes, footer) = match write_segment(shared, number, &frozen) {
        Ok(written) => written,
        Err(error) => {
            let _ = shared.remove_file(number, Kind::Unfinished);
            return Err(error);
        }
    };
    count(&shared.counts.bytes_written, bytes);
    let blocks = footer.streams.into_iter();
    let blocks = blocks.map(|entry| (entry.stream, entry.blocks)).collect();
    let mut index = shared.index.lock();
    let memory = index.sealed(number, blocks);
    if index
        .segments
        .get(&number)
        .is_some_and(|segment| segment.parts == 0)
    {
        index.doomed.push(number);
        shared.sweep();
    }
    drop(index);
    drop(memory);
    shared.remove_log(number);
    Ok(())
}

/// Writes a whole segment and puts it in its place, durably: its log goes next.
fn write_segment(shared: &Shared, number: u64, frozen: &Frozen) -> io::Result<(u64, Footer)> {
    let files = &shared.files;
    let unfinished = files.path(number, Kind::Unfinished);
    let file = files.create(&unfinished)?;
    let mut offset = 0u64;
    let mut out = SegmentWriter {
        anchor: shared.conversion.anchor(&*shared.options.clock),
        buffer: format::header().to_vec(),
        flushed: 0,
    };
    let mut flush = |out: &mut SegmentWriter| {
        let bytes = out.buffer.len() as u64;
        shared.take_room(bytes)?;
        files.write_at(&file, &unfinished, offset, &out.buffer)?;
        offset += bytes;
        out.buffer.clear();
        out.flushed = offset;
        io::Result::Ok(())
    };
    let mut streams = Vec::new();
    for (stream, below, messages) in &frozen.streams {
        let mut blocks = Vec::new();
        let mut rest = messages.from(*below).peekable();
        while rest.peek().is_some() {
            blocks.push(out.block(*stream, &mut rest)?);
            if out.buffer.len() >= WRITE_BYTES {
                flush(&mut out)?;
            }
        }
        let mut ranges = messages.ranges();
        ranges.remove_below(*below);
        streams.push(StreamBlocks {
            stream: *stream,
            ranges,
            blocks,
        });
    }
    let footer = Footer {
        anchor: out.anchor,
        streams,
        removed: frozen.removed.clone(),
    };
    let footer_at = out.offset();
    footer.write(&mut out.buffer);
    out.buffer.extend_from_slice(&format::trailer(footer_at));
    flush(&mut out)?;
    files.sync(&file, &unfinished)?;
    shared.check_in_place()?;
    files.rename(&unfinished, &files.path(number, Kind::Segment))?;
    files.sync_dir()?;
    Ok((offset, footer))
}

struct SegmentWriter {
    anchor: Anchor,
    buffer: Vec<u8>,
    flushed: u64,
}

impl SegmentWriter {
    fn offset(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Writes the next block of a stream.
    fn block<'m>(
        &mut self,
        stream: StreamId,
        rest: &mut std::iter::Peekable<impl Iterator<Item = &'m (u64, Held)>>,
    ) -> io::Result<Block> {
        let offset = u32::try_from(self.offset()).map_err(io::Error::other)?;
        let mut batch = BatchWriter::begin(&mut self.buffer, &self.anchor);
        // First seq, last seq, earliest and latest birth.
        let mut span: Option<(u64, u64, Time, Time)> = None;
        loop {
            let fits = |(seq, held): &&(u64, Held)| {
                span.is_none_or(|(first, last, born_min, born_max)| {
                    let born = held.born.max(born_max).as_us();
                    seq - last <= HOLE_MAX
                        && seq - first <= u64::from(u32::MAX)
                        && born.saturating_sub(held.born.min(born_min).as_us()) <= SPAN_US_MAX
                })
            };
            let Some((seq, held)) = rest.next_if(fits) else {
                break;
            };
            let (seq, born) = (*seq, held.born);
            batch.push(&mut self.buffer, MessageId { stream, seq }, held);
            span = Some(
                span.map_or((seq, seq, born, born), |(first, _, born_min, born_max)| {
                    (first, seq, born_min.min(born), born_max.max(born))
                }),
            );
            if batch.bytes(&self.buffer) >= BLOCK_BYTES {
                break;
            }
        }
        let bytes = batch.end(&mut self.buffer);
        let (first, last, born_min, born_max) = span.unwrap_or_default();
        Ok(Block {
            first,
            born_min,
            offset,
            span: (last - first) as u32,
            born_span: born_max.as_us().saturating_sub(born_min.as_us()) as u32,
            bytes: bytes as u32,
        })
    }
}
