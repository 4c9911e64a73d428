//! Messages of one stream in memory, by seq.

use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::store::Held;
use powderhorn_protocol::time::Time;

/// Messages that stand together. They come in about the order of their seqs and go in it, so most are put
/// at the end of the last chunk, and one that comes late moves no more than a chunk.
const CHUNK_MAX: usize = 128;

/// Messages by ascending seq.
#[derive(Debug, Default)]
pub struct Messages {
    /// None is empty.
    chunks: std::collections::VecDeque<Vec<(u64, Held)>>,
    /// As [`estimate`] has them.
    bytes: u64,
}

/// What a message takes, about, as the store counts it until it is in a block.
pub fn estimate(held: &Held) -> u64 {
    8 + held.purge.op().1.len() as u64
}

impl Messages {
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn first(&self) -> Option<(u64, Time)> {
        let (seq, held) = self.chunks.front()?.first()?;
        Some((*seq, held.born))
    }

    pub fn last_seq(&self) -> Option<u64> {
        self.chunks.back()?.last().map(|(seq, _)| *seq)
    }

    /// Estimated bytes of all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first chunk that reaches `seq`.
    fn chunk_at(&self, seq: u64) -> usize {
        if self.last_seq().is_none_or(|last| last < seq) {
            return self.chunks.len();
        }
        self.chunks
            .partition_point(|chunk| chunk.last().is_none_or(|(last, _)| *last < seq))
    }

    /// Adds a message; what was there under its seq.
    pub fn insert(&mut self, seq: u64, held: Held) -> Option<Held> {
        self.bytes += estimate(&held);
        let at = self.chunk_at(seq);
        if at == self.chunks.len() {
            match self.chunks.back_mut() {
                Some(last) if last.len() < CHUNK_MAX => last.push((seq, held)),
                _ => self.chunks.push_back(vec![(seq, held)]),
            }
            return None;
        }
        let chunk = &mut self.chunks[at];
        match chunk.binary_search_by_key(&seq, |(seq, _)| *seq) {
            Ok(place) => {
                let old = std::mem::replace(&mut chunk[place].1, held);
                self.bytes -= estimate(&old);
                Some(old)
            }
            Err(place) => {
                chunk.insert(place, (seq, held));
                if chunk.len() > CHUNK_MAX {
                    let upper = chunk.split_off(CHUNK_MAX / 2);
                    self.chunks.insert(at + 1, upper);
                }
                None
            }
        }
    }

    pub fn get(&self, seq: u64) -> Option<&Held> {
        let chunk = self.chunks.get(self.chunk_at(seq))?;
        let place = chunk.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        chunk.get(place).map(|(_, held)| held)
    }

    /// The messages from `seq` on.
    pub fn from(&self, seq: u64) -> impl Iterator<Item = &(u64, Held)> {
        let at = self.chunk_at(seq);
        let inside = self
            .chunks
            .get(at)
            .map_or(0, |chunk| chunk.partition_point(|(other, _)| *other < seq));
        let chunks = self.chunks.range(at.min(self.chunks.len())..);
        chunks.flatten().skip(inside)
    }

    /// Takes out what is below `seq`; how many bytes that were.
    pub fn remove_below(&mut self, seq: u64) -> u64 {
        let before = self.bytes;
        while let Some(chunk) = self.chunks.front_mut() {
            let gone = chunk.partition_point(|(other, _)| *other < seq);
            let bytes = chunk.iter().take(gone).map(|(_, held)| estimate(held));
            self.bytes -= bytes.sum::<u64>();
            if gone < chunk.len() {
                chunk.drain(..gone);
                break;
            }
            self.chunks.pop_front();
        }
        before - self.bytes
    }

    /// The last message that was born before `time`, if all are born in the order of their seqs.
    pub fn last_born_before(&self, time: Time) -> Option<(u64, Time)> {
        let begun =
            |chunk: &Vec<(u64, Held)>| chunk.first().is_some_and(|(_, held)| held.born < time);
        let chunk = self
            .chunks
            .get(self.chunks.partition_point(begun).checked_sub(1)?)?;
        let count = chunk.partition_point(|(_, held)| held.born < time);
        let (seq, held) = chunk.get(count.checked_sub(1)?)?;
        Some((*seq, held.born))
    }

    pub fn ranges(&self) -> RangeSet {
        let mut ranges = RangeSet::new();
        let mut run: Option<(u64, u64)> = None;
        for (seq, _) in self.from(0) {
            match &mut run {
                Some((_, last)) if *last + 1 == *seq => *last = *seq,
                _ => {
                    if let Some((first, last)) = run.replace((*seq, *seq)) {
                        ranges.insert_range(first..=last);
                    }
                }
            }
        }
        if let Some((first, last)) = run {
            ranges.insert_range(first..=last);
        }
        ranges
    }
}
