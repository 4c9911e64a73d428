//! Sets of sequence numbers, kept as ranges.
//!
//! Streams are numbered without gaps, so what a node has of a million messages is a handful of
//! ranges. The cost of every operation here depends on the number of ranges, never on the numbers
//! in them: ranges come off the wire and may be as wide as `u64`.

use std::collections::{BTreeMap, btree_map};
use std::ops::RangeInclusive;

/// A set of `u64`, stored as maximal, disjoint, non-adjacent ranges in ascending order.
///
/// Every argument range may be inverted (`5..=4`): it is then empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Ranges,
}

/// First number of a range → its last number. Most sets are one range, in a stream that lacks nothing: that
/// is kept in place, for a fleet of many streams asks each of them again and again.
#[derive(Clone, Debug)]
enum Ranges {
    UpToOne(Option<(u64, u64)>),
    Many(BTreeMap<u64, u64>),
}

impl Ranges {
    fn len(&self) -> usize {
        match self {
            Ranges::UpToOne(one) => usize::from(one.is_some()),
            Ranges::Many(map) => map.len(),
        }
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.starting_in(0..=u64::MAX)
    }

    /// Those whose first number is in `window`, which is not inverted.
    fn starting_in(&self, window: RangeInclusive<u64>) -> RangesIter<'_> {
        match self {
            Ranges::UpToOne(one) => {
                RangesIter::UpToOne(one.filter(|(first, _)| window.contains(first)))
            }
            Ranges::Many(map) => RangesIter::Many(map.range(window)),
        }
    }

    /// The one with the largest first number `≤ n`.
    fn at_or_below(&self, n: u64) -> Option<(u64, u64)> {
        match self {
            Ranges::UpToOne(one) => one.filter(|(first, _)| *first <= n),
            Ranges::Many(map) => map.range(..=n).next_back().map(|(&lo, &hi)| (lo, hi)),
        }
    }

    fn insert(&mut self, first: u64, last: u64) {
        match self {
            Ranges::UpToOne(Some(one)) if one.0 != first => {
                *self = Ranges::Many(BTreeMap::from([*one, (first, last)]));
            }
            Ranges::UpToOne(one) => *one = Some((first, last)),
            Ranges::Many(map) => {
                map.insert(first, last);
            }
        }
    }

    fn remove(&mut self, first: u64) {
        match self {
            Ranges::UpToOne(one) => *one = one.filter(|one| one.0 != first),
            // It stays a map until it is empty: a set that has had gaps will have more.
            Ranges::Many(map) => {
                map.remove(&first);
                if map.is_empty() {
                    *self = Ranges::default();
                }
            }
        }
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Ranges::UpToOne(None)
    }
}

impl PartialEq for Ranges {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Ranges {}

enum RangesIter<'a> {
    UpToOne(Option<(u64, u64)>),
    Many(btree_map::Range<'a, u64, u64>),
}

impl Iterator for RangesIter<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        match self {
            RangesIter::UpToOne(one) => one.take(),
            RangesIter::Many(range) => range.next().map(|(&lo, &hi)| (lo, hi)),
        }
    }
}

impl DoubleEndedIterator for RangesIter<'_> {
    fn next_back(&mut self) -> Option<(u64, u64)> {
        match self {
            RangesIter::UpToOne(one) => one.take(),
            RangesIter::Many(range) => range.next_back().map(|(&lo, &hi)| (lo, hi)),
        }
    }
}

impl RangeSet {
    /// The empty set.
    pub const fn new() -> Self {
        RangeSet {
            ranges: Ranges::UpToOne(None),
        }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.len() == 0
    }

    /// How many ranges the set consists of: its cost in memory.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// How many numbers are in the set; saturates at `u64::MAX`. Linear in the ranges.
    pub fn count(&self) -> u64 {
        total(self.iter())
    }

    /// The smallest number in the set.
    pub fn first(&self) -> Option<u64> {
        self.ranges.iter().next().map(|(lo, _)| lo)
    }

    /// The largest number in the set.
    pub fn last(&self) -> Option<u64> {
        self.ranges.iter().next_back().map(|(_, hi)| hi)
    }

    /// Whether `n` is in the set.
    pub fn contains(&self, n: u64) -> bool {
        self.range_at_or_below(n)
            .is_some_and(|range| *range.end() >= n)
    }

    /// The range with the largest first number that is `≤ n`, whether or not it reaches `n`.
    pub fn range_at_or_below(&self, n: u64) -> Option<RangeInclusive<u64>> {
        self.ranges.at_or_below(n).map(|(lo, hi)| lo..=hi)
    }

    /// All ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u64>> + '_ {
        self.ranges.iter().map(|(lo, hi)| lo..=hi)
    }

    /// The parts of the set inside `window`, ascending.
    pub fn within(
        &self,
        window: RangeInclusive<u64>,
    ) -> impl DoubleEndedIterator<Item = RangeInclusive<u64>> + '_ {
        let (lo, hi) = window.into_inner();
        // A range that begins before the window may reach into it.
        let straddling = self
            .range_at_or_below(lo)
            .filter(|range| lo <= hi && *range.end() >= lo)
            .map(|range| lo..=(*range.end()).min(hi));
        let from = if lo < hi { lo + 1 } else { u64::MAX };
        let to = if lo < hi { hi } else { u64::MAX };
        let inside = self
            .ranges
            .starting_in(from..=to)
            .filter(move |_| lo < hi)
            .map(move |(first, last)| first..=last.min(hi));
        straddling.into_iter().chain(inside)
    }

    /// The parts of `window` that are not in the set, ascending.
    pub fn gaps(
        &self,
        window: RangeInclusive<u64>,
    ) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let (lo, hi) = window.into_inner();
        let mut covered = self.within(lo..=hi);
        let mut next = if lo <= hi { Some(lo) } else { None };
        std::iter::from_fn(move || {
            while let Some(start) = next {
                match covered.next() {
                    Some(range) => {
                        next = range.end().checked_add(1).filter(|&n| n <= hi);
                        if *range.start() > start {
                            return Some(start..=*range.start() - 1);
                        }
                    }
                    None => {
                        next = None;
                        return Some(start..=hi);
                    }
                }
            }
            None
        })
    }

    /// The parts of `window` that are not in the set, descending.
    pub fn gaps_rev(
        &self,
        window: RangeInclusive<u64>,
    ) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let (lo, hi) = window.into_inner();
        let mut covered = self.within(lo..=hi).rev();
        let mut next = if lo <= hi { Some(hi) } else { None };
        std::iter::from_fn(move || {
            while let Some(end) = next {
                match covered.next() {
                    Some(range) => {
                        next = range.start().checked_sub(1).filter(|&n| n >= lo);
                        if *range.end() < end {
                            return Some(*range.end() + 1..=end);
                        }
                    }
                    None => {
                        next = None;
                        return Some(lo..=end);
                    }
                }
            }
            None
        })
    }

    /// Adds one number; whether it was new.
    pub fn insert(&mut self, n: u64) -> bool {
        if self.contains(n) {
            return false;
        }
        self.insert_range(n..=n);
        true
    }

    /// Adds all numbers of `range`.
    pub fn insert_range(&mut self, range: RangeInclusive<u64>) {
        let (mut lo, mut hi) = range.into_inner();
        if lo > hi {
            return;
        }
        // Merge with the range before, if it overlaps or touches.
        if let Some((first, last)) = self.ranges.at_or_below(lo) {
            if last >= hi {
                return;
            }
            if last >= lo.saturating_sub(1) {
                lo = first;
            }
        }
        // Swallow every range that begins inside or right after.
        while let Some((first, last)) = self.ranges.starting_in(lo..=hi.saturating_add(1)).next() {
            hi = hi.max(last);
            self.ranges.remove(first);
        }
        self.ranges.insert(lo, hi);
    }

    /// Removes all numbers of `range`.
    pub fn remove_range(&mut self, range: RangeInclusive<u64>) {
        let (lo, hi) = range.into_inner();
        if lo > hi {
            return;
        }
        let before = lo.checked_sub(1).and_then(|n| self.ranges.at_or_below(n));
        if let Some((first, last)) = before {
            if last >= lo {
                self.ranges.insert(first, lo - 1);
                if last > hi {
                    self.ranges.insert(hi + 1, last);
                    return;
                }
            }
        }
        while let Some((first, last)) = self.ranges.starting_in(lo..=hi).next() {
            self.ranges.remove(first);
            if last > hi {
                self.ranges.insert(hi + 1, last);
                return;
            }
        }
    }

    /// Removes all numbers of another set.
    pub fn remove_all(&mut self, other: &RangeSet) {
        for range in other.iter() {
            self.remove_range(range);
        }
    }

    /// Removes one number; whether it was there.
    pub fn remove(&mut self, n: u64) -> bool {
        let there = self.contains(n);
        if there {
            self.remove_range(n..=n);
        }
        there
    }

    /// Removes every number `< n`.
    pub fn remove_below(&mut self, n: u64) {
        if let Some(hi) = n.checked_sub(1) {
            self.remove_range(0..=hi);
        }
    }

    /// Removes and returns the smallest number.
    pub fn pop_first(&mut self) -> Option<u64> {
        let (lo, hi) = self.ranges.iter().next()?;
        self.ranges.remove(lo);
        if lo < hi {
            self.ranges.insert(lo + 1, hi);
        }
        Some(lo)
    }
}

impl Extend<RangeInclusive<u64>> for RangeSet {
    fn extend<I: IntoIterator<Item = RangeInclusive<u64>>>(&mut self, ranges: I) {
        for range in ranges {
            self.insert_range(range);
        }
    }
}

impl FromIterator<RangeInclusive<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u64>>>(ranges: I) -> Self {
        let mut set = RangeSet::new();
        set.extend(ranges);
        set
    }
}

/// How many numbers are in disjoint ranges; saturates at `u64::MAX`.
pub fn total(ranges: impl Iterator<Item = RangeInclusive<u64>>) -> u64 {
    ranges.fold(0, |sum: u64, range| sum.saturating_add(width(&range)))
}

/// How many numbers are in `range`; saturates at `u64::MAX`.
pub fn width(range: &RangeInclusive<u64>) -> u64 {
    if range.is_empty() {
        0
    } else {
        (range.end() - range.start()).saturating_add(1)
    }
}

/// Prints as `1-5,7,9-10`; `-` when empty.
impl std::fmt::Display for RangeSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (i, range) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}
