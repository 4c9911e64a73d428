//! Where each message is. New ones are in memory, in the *active tail*. A tail that is full is frozen and
//! written as a segment; it stays in memory until the next one is written too, so that what is recent is
//! always at hand. Of older segments only the places of their blocks are in memory.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::store::{Fetch, Held, Lost};
use powderhorn_protocol::time::Time;

use crate::cache::{BlockKey, Cache};
use crate::footer::Block;
use crate::messages::{Messages, estimate};

/// Tails that are not in a segment yet, besides the active one. Beyond, the oldest is given up: this many
/// fill up only when the disk has failed.
pub const UNSEALED_MAX: usize = 6;

/// Most blocks of a segment that are read because they will be asked for: some 3,000 messages.
const PREFETCH_MAX: usize = 16;

/// Messages of one stream in a tail or segment.
#[derive(Debug)]
pub struct Part {
    /// The number of the tail or segment.
    pub number: u64,
    /// What is below was removed.
    pub below: u64,
    first: u64,
    last: u64,
    /// Of what was not removed.
    bytes: u64,
    /// Where they are on disk, when they are.
    blocks: Box<[Block]>,
    /// The first of the blocks that is not removed as a whole.
    start: usize,
    /// The messages themselves, while they are kept in memory.
    memory: Option<Arc<Messages>>,
}

impl Part {
    pub fn in_memory(number: u64, messages: Arc<Messages>) -> Part {
        Part {
            number,
            below: 0,
            first: messages.first().map_or(0, |(seq, _)| seq),
            last: messages.last_seq().unwrap_or(0),
            bytes: messages.bytes(),
            blocks: Box::default(),
            start: 0,
            memory: Some(messages),
        }
    }

    pub fn on_disk(number: u64, blocks: Vec<Block>) -> Part {
        Part {
            number,
            below: 0,
            first: blocks.first().map_or(0, |block| block.first),
            last: blocks.last().map_or(0, Block::last),
            bytes: blocks.iter().map(|block| block.bytes_kept(0)).sum(),
            blocks: blocks.into(),
            start: 0,
            memory: None,
        }
    }

    fn kept(&self) -> &[Block] {
        self.blocks.get(self.start..).unwrap_or(&[])
    }

    /// Removes what is below `below`; how many bytes went.
    fn remove_below(&mut self, below: u64) -> u64 {
        if below <= self.below.max(self.first) {
            self.below = self.below.max(below);
            return 0;
        }
        let old = std::mem::replace(&mut self.below, below);
        let mut freed = 0;
        if !self.blocks.is_empty() {
            while let Some(block) = self.blocks.get(self.start) {
                freed += block.bytes_kept(old) - block.bytes_kept(below);
                if block.last() >= below {
                    break;
                }
                self.start += 1;
            }
        } else if let Some(messages) = &self.memory {
            let gone = messages.from(old).take_while(|(seq, _)| *seq < below);
            freed = gone.map(|(_, held)| estimate(held)).sum();
        }
        self.bytes = self.bytes.saturating_sub(freed);
        freed
    }

    fn is_removed(&self) -> bool {
        self.below > self.last
    }

    fn oldest(&self) -> Option<(u64, Time)> {
        if let Some(messages) = &self.memory {
            let (seq, held) = messages.from(self.below).next()?;
            return Some((*seq, held.born));
        }
        let block = self.kept().first()?;
        Some((block.first.max(self.below), block.born_min))
    }

    fn last_born_before(&self, time: Time) -> Option<(u64, Time)> {
        if let Some(messages) = &self.memory {
            let found = messages.last_born_before(time);
            return found.filter(|(seq, _)| *seq >= self.below);
        }
        let count = self.kept().partition_point(|block| block.born_max() < time);
        let block = self.kept().get(count.checked_sub(1)?)?;
        Some((block.last(), block.born_max()))
    }

    /// What is in it, and the last birth, for when it goes. Of a block all seqs from its first to its last.
    fn lost(&self) -> Option<(RangeSet, Time)> {
        if let Some(messages) = &self.memory {
            let mut seqs = messages.ranges();
            seqs.remove_below(self.below);
            let births = messages.from(self.below).map(|(_, held)| held.born);
            return Some((seqs, births.max()?));
        }
        let kept = self.kept().iter();
        let seqs = kept
            .clone()
            .map(|block| block.first.max(self.below)..=block.last());
        Some((seqs.collect(), kept.map(Block::born_max).max()?))
    }

    /// The block that may have `seq`.
    fn block(&self, seq: u64) -> Option<Block> {
        let count = self.kept().partition_point(|block| block.first <= seq);
        let block = self.kept().get(count.checked_sub(1)?)?;
        (block.last() >= seq && block.bytes > 0).then_some(*block)
    }
}

#[derive(Debug, Default)]
struct Stream {
    active: Messages,
    /// Ascending by number.
    parts: VecDeque<Part>,
}

/// A tail that was frozen, or its segment.
#[derive(Debug, Default)]
pub struct Segment {
    /// Streams that have something in it that was not removed.
    pub parts: u32,
    /// Whether it is in a segment on disk.
    pub sealed: bool,
    /// Its files are being removed.
    pub leaving: bool,
}

/// What is to become a segment.
pub struct Frozen {
    /// Its messages, by stream; those below the seq were removed meanwhile.
    pub streams: Vec<(StreamId, u64, Arc<Messages>)>,
    /// What was removed from earlier ones before it was frozen.
    pub removed: Vec<(StreamId, u64)>,
}

/// All that is known of all messages.
pub struct Index {
    streams: BTreeMap<StreamId, Stream>,
    /// All but the active tail.
    pub segments: BTreeMap<u64, Segment>,
    /// The number of the active tail.
    pub number: u64,
    /// Estimated bytes of the active tail.
    active_bytes: u64,
    /// A tail with more is frozen.
    tail_bytes: u64,
    bytes: u64,
    /// Removed from earlier segments since the last tail was frozen.
    removed: BTreeMap<StreamId, u64>,
    /// The same of the tails that were frozen and are not sealed.
    removed_before: BTreeMap<u64, Vec<(StreamId, u64)>>,
    /// Nothing in these is held any more.
    pub doomed: Vec<u64>,
    /// Tails that nothing is held of any more, for the keeper to drop: nobody is to be kept waiting for that.
    pub litter: Vec<Arc<Messages>>,
    /// Whether there is a keeper who does.
    pub tidy: bool,
    pub cache: Cache,
    /// Messages given up because the disk would not have them.
    pub dropped: u64,
    /// What was given up, and the last birth, until the core has heard of it.
    lost: BTreeMap<StreamId, (RangeSet, Time)>,
}

impl Index {
    pub fn new(number: u64, tail_bytes: u64, cache_bytes: u64) -> Index {
        Index {
            streams: BTreeMap::new(),
            segments: BTreeMap::new(),
            number,
            active_bytes: 0,
            tail_bytes,
            bytes: 0,
            removed: BTreeMap::new(),
            removed_before: BTreeMap::new(),
            doomed: Vec::new(),
            litter: Vec::new(),
            tidy: true,
            cache: Cache::new(cache_bytes),
            dropped: 0,
            lost: BTreeMap::new(),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps a message in the active tail; whether that is full now.
    pub fn insert(&mut self, id: MessageId, held: Held) -> bool {
        let bytes = estimate(&held);
        // Of a block that went all seqs count as lost: this one may have been none of them, or have come again.
        if let Some((lost, _)) = self.lost.get_mut(&id.stream) {
            lost.remove(id.seq);
        }
        let stream = self.streams.entry(id.stream).or_default();
        if let Some(old) = stream.active.insert(id.seq, held) {
            self.bytes = self.bytes.saturating_sub(estimate(&old));
        }
        self.bytes += bytes;
        self.active_bytes += bytes;
        self.active_bytes >= self.tail_bytes
    }

    /// Freezes the active tail, if there is anything in it; its number.
    pub fn freeze(&mut self) -> Option<u64> {
        let number = self.freeze_all()?;
        let unsealed = self.unsealed();
        if unsealed.len() > UNSEALED_MAX {
            if let Some(&oldest) = unsealed.first() {
                self.dropped += self.give_up(oldest);
                self.doomed.push(oldest);
            }
        }
        Some(number)
    }

    /// The same, however many are frozen: for a start, which has read them from disk.
    pub fn freeze_all(&mut self) -> Option<u64> {
        if self.active_bytes == 0 {
            return None;
        }
        let number = self.number;
        let mut segment = Segment::default();
        for stream in self
            .streams
            .values_mut()
            .filter(|stream| !stream.active.is_empty())
        {
            let messages = Arc::new(std::mem::take(&mut stream.active));
            stream.parts.push_back(Part::in_memory(number, messages));
            segment.parts += 1;
        }
        if segment.parts == 0 {
            self.doomed.push(number);
        }
        self.segments.insert(number, segment);
        let removed = std::mem::take(&mut self.removed).into_iter().collect();
        self.removed_before.insert(number, removed);
        self.number += 1;
        self.active_bytes = 0;
        Some(number)
    }

    /// The frozen tails that are in no segment yet, oldest first.
    pub fn unsealed(&self) -> Vec<u64> {
        let unsealed = self.segments.iter().filter(|(_, segment)| !segment.sealed);
        unsealed.map(|(&number, _)| number).collect()
    }

    /// What there is of a frozen tail.
    pub fn frozen(&self, number: u64) -> Frozen {
        let part = |stream: &Stream| {
            let part = stream
                .parts
                .iter()
                .rev()
                .find(|part| part.number == number)?;
            Some((part.below, part.memory.clone()?))
        };
        let streams = self.streams.iter();
        let streams = streams.filter_map(|(&id, stream)| {
            let (below, messages) = part(stream)?;
            Some((id, below, messages))
        });
        Frozen {
            streams: streams.collect(),
            removed: self
                .removed_before
                .get(&number)
                .cloned()
                .unwrap_or_default(),
        }
    }

    /// The tail's segment is on disk: `blocks` are by stream. What need not be in memory any more is for the caller
    /// to drop, who should hold no lock then: with 16 MiB that takes a while.
    #[must_use]
    pub fn sealed(
        &mut self,
        number: u64,
        blocks: Vec<(StreamId, Vec<Block>)>,
    ) -> Vec<Arc<Messages>> {
        for (id, blocks) in blocks {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            let part = stream
                .parts
                .iter_mut()
                .rev()
                .find(|part| part.number == number);
            let Some(part) = part else { continue };
            let mut sealed = Part::on_disk(number, blocks);
            sealed.remove_below(part.below);
            sealed.memory = part.memory.take();
            self.bytes = self.bytes.saturating_sub(part.bytes) + sealed.bytes;
            *part = sealed;
        }
        self.removed_before.remove(&number);
        self.segments
            .entry(number)
            .and_modify(|segment| segment.sealed = true);
        self.forget_memory(number)
    }

    /// Of the sealed ones before `number` nothing stays in memory.
    fn forget_memory(&mut self, number: u64) -> Vec<Arc<Messages>> {
        let mut memory = Vec::new();
        for stream in self.streams.values_mut() {
            for part in stream
                .parts
                .iter_mut()
                .rev()
                .skip_while(|part| part.number >= number)
            {
                if !part.blocks.is_empty() {
                    match part.memory.take() {
                        Some(messages) => memory.push(messages),
                        None => break,
                    }
                }
            }
        }
        memory
    }

    /// Nothing was removed yet in this life: what a start took out is not noted again.
    pub fn forget_removals(&mut self) {
        self.removed.clear();
    }

    /// Adds what a start found in a segment.
    pub fn add_segment(&mut self, number: u64, segment: Segment) {
        self.segments.insert(number, segment);
    }

    /// Adds a part of a segment. Segments come in ascending order.
    pub fn add_part(&mut self, id: StreamId, part: Part) {
        if let Some(segment) = self.segments.get_mut(&part.number) {
            segment.parts += 1;
        }
        self.bytes += part.bytes;
        self.streams.entry(id).or_default().parts.push_back(part);
    }

    /// Finds a message. What is on disk only is asked for, and there at a later call.
    pub fn get(&mut self, id: MessageId) -> Fetch {
        let Some(stream) = self.streams.get(&id.stream) else {
            return Fetch::Gone;
        };
        if let Some(held) = stream.active.get(id.seq) {
            return Fetch::Held(held.clone());
        }
        for part in stream.parts.iter().rev() {
            if id.seq < part.below.max(part.first) || id.seq > part.last {
                continue;
            }
            if let Some(messages) = &part.memory {
                match messages.get(id.seq) {
                    Some(held) => return Fetch::Held(held.clone()),
                    None => continue,
                }
            }
            let Some(block) = part.block(id.seq) else {
                continue;
            };
            let key = BlockKey {
                stream: id.stream,
                number: part.number,
                offset: block.offset,
            };
            match self.cache.get(key) {
                Some(messages) => {
                    let place = messages.binary_search_by_key(&id.seq, |(seq, _)| *seq);
                    if let Some((_, held)) = place.ok().and_then(|place| messages.get(place)) {
                        return Fetch::Held(held.clone());
                    }
                }
                None if self.cache.closed => {}
                None => {
                    self.cache.ask(key, block);
                    return Fetch::Pending;
                }
            }
        }
        Fetch::Gone
    }

    /// Has the blocks read that may have these messages and are on disk only.
    pub fn prefetch(&mut self, id: StreamId, seqs: RangeInclusive<u64>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        for part in stream.parts.iter().filter(|part| part.memory.is_none()) {
            let kept = part.kept();
            let from = kept.partition_point(|block| block.last() < *seqs.start());
            let wanted = kept.iter().skip(from);
            let wanted = wanted.take_while(|block| block.first <= *seqs.end() && block.bytes > 0);
            for block in wanted.take(PREFETCH_MAX) {
                let key = BlockKey {
                    stream: id,
                    number: part.number,
                    offset: block.offset,
                };
                self.cache.ask(key, *block);
            }
        }
    }

    /// The reader found that a block cannot be read.
    pub fn damaged(&mut self, key: BlockKey) {
        let Some(stream) = self.streams.get_mut(&key.stream) else {
            return;
        };
        let Some(part) = stream
            .parts
            .iter_mut()
            .find(|part| part.number == key.number)
        else {
            return;
        };
        let below = part.below;
        let blocks = part.blocks.iter_mut();
        for block in blocks.filter(|block| block.offset == key.offset) {
            let lost = block.bytes_kept(below);
            block.bytes = 0;
            part.bytes = part.bytes.saturating_sub(lost);
            self.bytes = self.bytes.saturating_sub(lost);
        }
    }

    pub fn remove_below(&mut self, id: StreamId, seq: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let bytes = &mut self.bytes;
        *bytes = bytes.saturating_sub(stream.active.remove_below(seq));
        if !stream.parts.is_empty() {
            let removed = self.removed.entry(id).or_default();
            *removed = seq.max(*removed);
        }
        let (segments, doomed) = (&mut self.segments, &mut self.doomed);
        stream.parts.retain_mut(|part| {
            *bytes = bytes.saturating_sub(part.remove_below(seq));
            if part.is_removed() {
                release(segments, doomed, part.number);
                self.litter.extend(part.memory.take());
            }
            !part.is_removed()
        });
        if stream.parts.is_empty() && stream.active.is_empty() {
            self.streams.remove(&id);
        }
    }

    /// Whether there is something for the keeper to remove.
    pub fn is_littered(&mut self) -> bool {
        if !self.tidy {
            self.litter.clear();
        }
        !self.doomed.is_empty() || !self.litter.is_empty()
    }

    /// Forgets a whole tail or segment; how many messages that were, if it was in memory.
    pub fn give_up(&mut self, number: u64) -> u64 {
        let mut in_memory = 0;
        self.streams.retain(|&id, stream| {
            stream.parts.retain_mut(|part| {
                if part.number != number {
                    return true;
                }
                self.bytes = self.bytes.saturating_sub(part.bytes);
                if let Some((seqs, born_max)) = part.lost() {
                    if part.memory.is_some() {
                        in_memory += seqs.count();
                    }
                    let entry = self.lost.entry(id);
                    let (lost, last) = entry.or_insert((RangeSet::new(), born_max));
                    lost.extend(seqs.iter());
                    *last = born_max.max(*last);
                }
                self.litter.extend(part.memory.take());
                false
            });
            !stream.parts.is_empty() || !stream.active.is_empty()
        });
        self.removed_before.remove(&number);
        self.segments.remove(&number);
        in_memory
    }

    /// The file of a tail or segment is gone. What is in memory is to be sealed, again or for the first time; what is not
    /// is given up: whether it was.
    pub fn has_lost_file(&mut self, number: u64) -> bool {
        let parts = self.streams.values().flat_map(|stream| &stream.parts);
        let mut parts = parts.filter(|part| part.number == number);
        let in_memory = parts.all(|part| part.memory.is_some());
        if in_memory {
            self.segments
                .entry(number)
                .and_modify(|segment| segment.sealed = false);
        } else {
            self.give_up(number);
        }
        !in_memory
    }

    /// What was given up of a stream, once.
    pub fn poll_lost(&mut self) -> Option<Lost> {
        let (stream, (seqs, born_max)) = self.lost.pop_first()?;
        Some(Lost {
            stream,
            seqs,
            born_max,
        })
    }

    /// The oldest segment that is on disk, which is about to be removed from there.
    pub fn begin_to_remove(&mut self) -> Option<u64> {
        let mut sealed = self
            .segments
            .iter_mut()
            .filter(|(_, segment)| segment.sealed && !segment.leaving);
        let (&number, segment) = sealed.next()?;
        segment.leaving = true;
        Some(number)
    }

    pub fn set_leaving(&mut self, number: u64, leaving: bool) {
        self.segments
            .entry(number)
            .and_modify(|segment| segment.leaving = leaving);
    }

    pub fn oldest(&self, id: StreamId) -> Option<(u64, Time)> {
        let stream = self.streams.get(&id)?;
        let parts = stream.parts.iter().filter_map(Part::oldest);
        parts
            .chain(stream.active.first())
            .min_by_key(|(seq, _)| *seq)
    }

    pub fn last_born_before(&self, id: StreamId, time: Time) -> Option<(u64, Time)> {
        let stream = self.streams.get(&id)?;
        let parts = stream
            .parts
            .iter()
            .filter_map(|part| part.last_born_before(time));
        let active = stream.active.last_born_before(time);
        parts.chain(active).max_by_key(|(seq, _)| *seq)
    }

    /// The oldest birth of all, about.
    pub fn oldest_born(&self) -> Option<Time> {
        let streams = self.streams.keys();
        streams.filter_map(|&id| Some(self.oldest(id)?.1)).min()
    }
}

/// A stream has nothing in the segment any more.
fn release(segments: &mut BTreeMap<u64, Segment>, doomed: &mut Vec<u64>, number: u64) {
    if let Some(segment) = segments.get_mut(&number) {
        segment.parts = segment.parts.saturating_sub(1);
        if segment.parts == 0 {
            doomed.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use powderhorn_protocol::purge::Purge;

    use super::*;

    /// A frozen tail of the messages of one stream with these seqs, and its block.
    fn freeze(index: &mut Index, seqs: RangeInclusive<u64>) -> (u64, Block) {
        let stream = StreamId::default();
        for seq in seqs.clone() {
            let held = Held {
                born: Time::from_us(0),
                issued_ms: 0,
                purge: Purge::Everything,
            };
            index.insert(MessageId { stream, seq }, held);
        }
        let block = Block {
            first: *seqs.start(),
            born_min: Time::from_us(0),
            offset: 12,
            span: (seqs.end() - seqs.start()) as u32,
            born_span: 0,
            bytes: 1_000,
        };
        (index.freeze().expect("a tail"), block)
    }

    /// The core then took for lost what it had just been given.
    #[test]
    fn what_is_held_again_is_not_lost() {
        let (stream, mut index) = (StreamId::default(), Index::new(1, 1 << 20, 0));
        let (number, _) = freeze(&mut index, 1..=3);
        index.give_up(number);
        freeze(&mut index, 2..=2);
        let lost = index.poll_lost().map(|lost| (lost.stream, lost.seqs));
        assert_eq!(lost, Some((stream, [1..=1, 3..=3].into_iter().collect())));
        assert_eq!(index.poll_lost(), None);
    }

    fn memory(index: &Index) -> Vec<std::sync::Weak<Messages>> {
        let parts = index.streams.values().flat_map(|stream| &stream.parts);
        let memory = parts.filter_map(|part| part.memory.as_ref());
        memory.map(Arc::downgrade).collect()
    }

    /// To drop 16 MiB took 30 ms, for which all waited who wanted something of the index.
    #[test]
    fn what_is_in_memory_is_not_dropped_under_the_lock() {
        let (stream, mut index) = (StreamId::default(), Index::new(1, 1 << 20, 0));
        let (first, block) = freeze(&mut index, 1..=300);
        let one = memory(&index);
        // It stays until the next one is sealed, too.
        let gone = index.sealed(first, vec![(stream, vec![block])]);
        assert!(gone.is_empty() && memory(&index).len() == 1);
        let (second, block) = freeze(&mut index, 301..=600);
        let gone = index.sealed(second, vec![(stream, vec![block])]);
        assert_eq!((gone.len(), memory(&index).len()), (1, 1));
        assert!(one[0].upgrade().is_some());
        drop(gone);
        assert!(one[0].upgrade().is_none());
        // What is given up or removed as a whole is left to the keeper,
        let two = memory(&index);
        index.give_up(second);
        freeze(&mut index, 601..=900);
        let three = memory(&index);
        index.remove_below(stream, 901);
        assert!(index.is_littered() && memory(&index).is_empty());
        assert!(two[0].upgrade().is_some() && three[0].upgrade().is_some());
        // if there is one.
        (index.tidy, index.doomed) = (false, Vec::new());
        assert!(!index.is_littered());
        assert!(two[0].upgrade().is_none() && three[0].upgrade().is_none());
        assert_eq!(index.bytes(), 0);
    }
}
