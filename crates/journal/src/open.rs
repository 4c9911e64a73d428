//! What a start does: it reads the footers of the segments, and the logs that were not rewritten yet.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use powderhorn_protocol::id::StreamId;
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::time::Time;

use crate::Recovered;
use crate::batch::{self, Batch};
use crate::clock::{Anchor, Conversion};
use crate::files::{Files, Kind};
use crate::footer::{Block, Footer, StreamBlocks};
use crate::format::{self, Found, Frames, HEADER_BYTES, Header, TRAILER_BYTES};
use crate::index::{Index, Part, Segment};

/// Larger files are not read: a tail of the smallest messages, each written alone, takes a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A file as it was read; nothing of it is on this boot's clock yet.
enum Loaded {
    Segment {
        footer: Footer,
        bytes: u64,
    },
    Log {
        batches: Vec<Batch>,
        /// Where to go on in it. Not in one whose torn end has messages: to cut that off would lose them.
        end: Option<u64>,
        /// Bytes behind that.
        torn: u64,
    },
}

/// What a start found.
#[derive(Default)]
pub struct Loading {
    files: BTreeMap<u64, Loaded>,
    /// Files that cannot be read, which take room all the same, and the bytes of those that are damaged: others may be
    /// read another time.
    unreadable: BTreeMap<u64, Option<u64>>,
    /// For what was removed for want of room: the boot of each segment, and its last birth.
    pub evicted: Vec<([u8; 16], Time)>,
    /// The largest number of all files.
    last: u64,
    pub recovered: Recovered,
    pub disk_bytes: u64,
}

/// What goes on from there.
pub struct Start {
    pub index: Index,
    /// Frozen tails that are to be sealed.
    pub unsealed: Vec<u64>,
    /// The log to go on with, and after how many bytes.
    pub log: Option<(u64, u64)>,
}

impl Loading {
    /// Reads the directory. An error is one of all of it, and nothing was changed then; a file that cannot be read is
    /// damage.
    pub fn read(files: &Files) -> io::Result<Loading> {
        files.check_version()?;
        let mut loading = Loading::default();
        let listed = files.list()?;
        let is_segment = |number: u64| {
            let segment =
                |&(other, kind, _): &(u64, Kind, u64)| (other, kind) == (number, Kind::Segment);
            listed.iter().any(segment)
        };
        let is_sealed =
            |&(number, kind, _): &(u64, Kind, u64)| kind == Kind::Log && is_segment(number);
        // A log that became a segment is looked at last, as it may go if the segment can be read.
        let first = listed.iter().filter(|file| !is_sealed(file));
        let last = listed.iter().filter(|file| is_sealed(file));
        for &(number, kind, bytes) in first.chain(last) {
            let path = files.path(number, kind);
            loading.last = loading.last.max(number);
            let leftover = match kind {
                Kind::Unfinished => true,
                Kind::Log => matches!(loading.files.get(&number), Some(Loaded::Segment { .. })),
                Kind::Segment => false,
            };
            if leftover && files.remove(&path).is_ok() {
                continue;
            }
            loading.disk_bytes += bytes;
            let loaded = match kind {
                _ if bytes > FILE_BYTES_MAX => {
                    Err(io::Error::other("it is too large for one of ours"))
                }
                Kind::Segment => loading.read_segment(files, &path, bytes),
                Kind::Log if !leftover => loading.read_log(files, &path),
                _ => continue,
            };
            match loaded {
                Ok(loaded) => {
                    loading.unreadable.remove(&number);
                    loading.files.insert(number, loaded);
                }
                Err(error) => {
                    loading.recovered.damaged += 1;
                    let damaged = error.raw_os_error().is_none().then_some(bytes);
                    let before = loading.unreadable.get(&number).copied();
                    let both = before.map_or(damaged, |before| Some(before? + damaged?));
                    loading.unreadable.insert(number, both);
                    log::error!("journal: {} cannot be read: {error}", path.display());
                }
            }
        }
        if let Some((number, Loaded::Log { torn, .. })) = loading.files.last_key_value() {
            // It is cut off when the log is gone on with.
            let torn = if *number == loading.last { *torn } else { 0 };
            loading.disk_bytes = loading.disk_bytes.saturating_sub(torn);
        }
        Ok(loading)
    }

    fn read_segment(&mut self, files: &Files, path: &Path, bytes: u64) -> io::Result<Loaded> {
        let file = files.open(path)?;
        let read = |at: u64, len: u64| -> io::Result<Vec<u8>> {
            let mut out = vec![0; usize::try_from(len).map_err(io::Error::other)?];
            files.read_at(&file, path, at, &mut out)?;
            Ok(out)
        };
        if bytes >= (HEADER_BYTES + TRAILER_BYTES) as u64 {
            let trailer_at = bytes - TRAILER_BYTES as u64;
            let at = format::read_trailer(&read(trailer_at, TRAILER_BYTES as u64)?);
            if let Some(at) = at.filter(|at| *at < trailer_at) {
                let frame = read(at, trailer_at - at)?;
                let payload = format::read_frame(&frame);
                if let Some(footer) = payload.and_then(|payload| Footer::read(payload, at)) {
                    return Ok(Loaded::Segment { footer, bytes });
                }
            }
        }
        log::error!(
            "journal: the footer of {} is damaged: reading all of it",
            path.display()
        );
        self.recovered.damaged += 1;
        let content = files.read_all(path)?;
        let scan = self.scan(path, &content);
        let footer =
            footer_of(&scan.batches).ok_or_else(|| io::Error::other("nothing in it is whole"))?;
        Ok(Loaded::Segment { footer, bytes })
    }

    fn read_log(&mut self, files: &Files, path: &Path) -> io::Result<Loaded> {
        let content = files.read_all(path)?;
        let scan = self.scan(path, &content);
        Ok(Loaded::Log {
            batches: scan
                .batches
                .into_iter()
                .map(|(_, _, batch)| batch)
                .collect(),
            end: scan.end,
            torn: scan.end.map_or(0, |end| content.len() as u64 - end),
        })
    }

    fn scan(&mut self, path: &Path, content: &[u8]) -> Scan {
        let mut scan = Scan {
            batches: Vec::new(),
            end: Some(content.len() as u64),
        };
        if format::read_header(content) == Header::Damaged && content.len() >= HEADER_BYTES {
            self.damage(path, 0, HEADER_BYTES, 0);
        }
        for found in Frames::new(content, HEADER_BYTES) {
            match found {
                Found::Frame(start, payload) => {
                    let bytes = format::FRAME_HEAD_BYTES + payload.len();
                    if let Some(batch) = batch::read_batch(payload) {
                        scan.batches.push((start, bytes, batch));
                    }
                }
                Found::Damage(start, bytes) => {
                    let saved = scan.salvage(start, bytes);
                    self.damage(path, start, bytes.len(), saved);
                }
                Found::Unsearched(start, bytes) => {
                    let saved = scan.salvage(start, bytes);
                    // What would be appended behind it is not found by its frames at the next start.
                    scan.end = (saved == 0).then_some(start as u64);
                    self.damage(path, start, bytes.len(), saved);
                }
                Found::Torn(start, bytes) => {
                    let saved = scan.salvage(start, bytes);
                    scan.end = (saved == 0).then_some(start as u64);
                    self.recovered.torn_bytes += bytes.len() as u64;
                    log::warn!(
                        "journal: the last {} bytes of {} were never finished, or are damaged: {saved} messages \
                         in them are whole",
                        bytes.len(),
                        path.display()
                    );
                }
            }
        }
        scan
    }

    fn damage(&mut self, path: &Path, at: usize, bytes: usize, saved: usize) {
        self.recovered.damaged += 1;
        log::error!(
            "journal: among {bytes} bytes of {} from byte {at} on some are damaged: {saved} messages in them \
             are whole, what else was there is lost",
            path.display()
        );
    }

    /// Notes the clocks of all that was found.
    pub fn note_anchors(&self, conversion: &mut Conversion) {
        for loaded in self.files.values() {
            match loaded {
                Loaded::Segment { footer, .. } => conversion.note(&footer.anchor),
                Loaded::Log { batches, .. } => {
                    batches
                        .iter()
                        .for_each(|batch| conversion.note(&batch.anchor));
                }
            }
        }
    }

    /// Removes the oldest segments of a directory that is larger than it may be now: what is said to be
    /// held is to be there. Damaged files go before them, as nothing in those is held.
    pub fn evict(&mut self, files: &Files, bytes_max: u64) {
        let disk_bytes = &mut self.disk_bytes;
        self.unreadable.retain(|&number, bytes| {
            let Some(bytes) = bytes.filter(|_| *disk_bytes > bytes_max) else {
                return true;
            };
            let paths = [Kind::Log, Kind::Segment].map(|kind| files.path(number, kind));
            if let Err(error) = paths.iter().try_for_each(|path| files.remove(path)) {
                log::warn!("journal: cannot remove {}: {error}", paths[1].display());
                return true;
            }
            log::info!("journal: {} goes, which is damaged", paths[1].display());
            *disk_bytes = disk_bytes.saturating_sub(bytes);
            false
        });
        while self.disk_bytes > bytes_max {
            let mut segments = self
                .files
                .iter()
                .filter_map(|(&number, loaded)| match loaded {
                    Loaded::Segment { bytes, .. } => Some((number, *bytes)),
                    Loaded::Log { .. } => None,
                });
            let Some((number, bytes)) = segments.next() else {
                return;
            };
            let path = files.path(number, Kind::Segment);
            if let Err(error) = files.remove(&path) {
                log::warn!("journal: cannot remove {}: {error}", path.display());
                return;
            }
            log::info!("journal: {} goes, as less may be held now", path.display());
            if let Some(Loaded::Segment { footer, .. }) = self.files.remove(&number) {
                let blocks = footer.streams.iter().flat_map(|entry| &entry.blocks);
                let born = blocks.map(Block::born_max).max();
                let boot_id = footer.anchor.boot_id;
                self.evicted.extend(born.map(|born| (boot_id, born)));
            }
            self.disk_bytes = self.disk_bytes.saturating_sub(bytes);
        }
    }

    /// Builds the index of what was found.
    pub fn build(
        self,
        conversion: &Conversion,
        tail_bytes: u64,
        cache_bytes: u64,
    ) -> (Start, Recovered) {
        let last = self.last;
        let mut start = Start {
            index: Index::new(last + 1, tail_bytes, cache_bytes),
            unsealed: Vec::new(),
            log: None,
        };
        let mut recovered = self.recovered;
        let evicted = self.evicted.iter();
        let evicted = evicted.map(|(boot_id, born)| conversion.born_before(boot_id, *born));
        recovered.evicted_born = evicted.max();
        let held = &mut recovered.streams;
        let index = &mut start.index;
        for (number, loaded) in self.files {
            match loaded {
                Loaded::Segment { footer, .. } => {
                    for (stream, below) in &footer.removed {
                        index.remove_below(*stream, *below);
                        held.entry(*stream)
                            .and_modify(|held| held.remove_below(*below));
                    }
                    add_segment(index, held, conversion, number, footer);
                }
                Loaded::Log { batches, end, .. } => {
                    index.number = number;
                    for batch in batches {
                        add_batch(index, held, conversion, batch);
                    }
                    if let Some(end) = end.filter(|_| number == last) {
                        start.log = Some((number, end));
                    } else {
                        // What a footer said is not said again, of more segments than it meant.
                        index.forget_removals();
                        start.unsealed.extend(index.freeze_all());
                        index.number = last + 1;
                    }
                }
            }
        }
        index.forget_removals();
        for number in self.unreadable.into_keys() {
            let segment = Segment {
                parts: 1,
                sealed: true,
                leaving: false,
            };
            index.add_segment(number, segment);
        }
        held.retain(|_, held| !held.is_empty());
        (start, recovered)
    }
}

/// What reading a whole file gives: each batch with the place and length of what it was found in.
struct Scan {
    batches: Vec<(usize, usize, Batch)>,
    /// Where a log goes on.
    end: Option<u64>,
}

impl Scan {
    /// Takes what is whole in damaged bytes; how many messages that is.
    fn salvage(&mut self, start: usize, bytes: &[u8]) -> usize {
        let batches = batch::salvage(bytes);
        let saved = batches.iter().map(|batch| batch.messages.len()).sum();
        let found = batches.into_iter();
        self.batches
            .extend(found.map(|batch| (start, bytes.len(), batch)));
        saved
    }
}

fn add_segment(
    index: &mut Index,
    held: &mut BTreeMap<StreamId, RangeSet>,
    conversion: &Conversion,
    number: u64,
    footer: Footer,
) {
    let segment = Segment {
        parts: 0,
        sealed: true,
        leaving: false,
    };
    index.add_segment(number, segment);
    let boot_id = footer.anchor.boot_id;
    for mut entry in footer.streams {
        for block in &mut entry.blocks {
            let born_min = conversion.born_before(&boot_id, block.born_min);
            let born_max = conversion.born_before(&boot_id, block.born_max());
            block.born_min = born_min;
            block.born_span =
                u32::try_from(born_max.since(born_min).as_micros()).unwrap_or(u32::MAX);
        }
        let ranges = held.entry(entry.stream).or_default();
        entry
            .ranges
            .iter()
            .for_each(|range| ranges.insert_range(range));
        if !entry.blocks.is_empty() {
            index.add_part(entry.stream, Part::on_disk(number, entry.blocks));
        }
    }
}

fn add_batch(
    index: &mut Index,
    held: &mut BTreeMap<StreamId, RangeSet>,
    conversion: &Conversion,
    batch: Batch,
) {
    for (id, mut message) in batch.messages {
        message.born = conversion.born_before(&batch.anchor.boot_id, message.born);
        held.entry(id.stream).or_default().insert(id.seq);
        index.insert(id, message);
    }
}

/// The footer that a segment's blocks once had, less what is damaged, and less what had been removed
/// before: that is held again, and expires again.
fn footer_of(batches: &[(usize, usize, Batch)]) -> Option<Footer> {
    let anchor: Anchor = batches.first()?.2.anchor;
    let mut streams: BTreeMap<StreamId, StreamBlocks> = BTreeMap::new();
    for (offset, bytes, batch) in batches {
        // Of one stream, unless it is what was whole in several damaged blocks.
        let mut parts: BTreeMap<StreamId, Vec<(u64, Time)>> = BTreeMap::new();
        for (id, held) in &batch.messages {
            let part = parts.entry(id.stream).or_default();
            part.push((id.seq, held.born));
        }
        for (stream, part) in parts {
            let Some(block) = block_of(*offset, *bytes, &part) else {
                continue;
            };
            let entry = streams.entry(stream).or_insert_with(|| StreamBlocks {
                stream,
                ranges: RangeSet::new(),
                blocks: Vec::new(),
            });
            let before = entry.blocks.last();
            // The writer sorts them: what is out of order was not written by it.
            if before.is_none_or(|before| before.last() < block.first) {
                part.iter().for_each(|(seq, _)| {
                    entry.ranges.insert(*seq);
                });
                entry.blocks.push(block);
            }
        }
    }
    Some(Footer {
        anchor,
        streams: streams.into_values().collect(),
        removed: Vec::new(),
    })
}

/// What a footer says of these messages of one stream, which were found in these bytes.
fn block_of(offset: usize, bytes: usize, messages: &[(u64, Time)]) -> Option<Block> {
    let seqs = || messages.iter().map(|(seq, _)| *seq);
    let births = || messages.iter().map(|(_, born)| *born);
    let (first, last) = (seqs().min()?, seqs().max()?);
    let (born_min, born_max) = (births().min()?, births().max()?);
    Some(Block {
        first,
        born_min,
        offset: u32::try_from(offset).ok()?,
        span: u32::try_from(last - first).ok()?,
        born_span: u32::try_from(born_max.since(born_min).as_micros()).unwrap_or(u32::MAX),
        bytes: u32::try_from(bytes).ok()?,
    })
}
