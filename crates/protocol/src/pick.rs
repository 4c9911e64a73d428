//! What is taken of ranges that there is no room or no budget for: the newest first, and a share of the oldest, so
//! that nothing is left behind for ever.

use std::ops::RangeInclusive;

use crate::bounds::OLDEST_SHARE_PERCENT;
use crate::ranges::{RangeSet, width};
use crate::wire;

/// How much may still be picked.
#[derive(Clone, Copy)]
pub(crate) struct Allowance {
    pub ranges: usize,
    pub messages: u64,
}

/// Picks from `newest` (descending ranges) until the allowance, less the share of the oldest, is
/// used up, and then from `oldest` (ascending ranges) as much as is left.
pub(crate) fn pick(
    allowance: Allowance,
    newest: impl Iterator<Item = RangeInclusive<u64>>,
    oldest: impl Iterator<Item = RangeInclusive<u64>>,
) -> RangeSet {
    let mut picked = RangeSet::new();
    let share = |n: u64| n - n * OLDEST_SHARE_PERCENT / 100;
    let mut left = Allowance {
        ranges: share(allowance.ranges as u64) as usize,
        messages: share(allowance.messages),
    };
    let mut exhausted = true;
    for range in newest {
        if left.ranges == 0 || left.messages == 0 {
            exhausted = false;
            break;
        }
        let take = width(&range).min(left.messages);
        picked.insert_range(*range.end() - (take - 1)..=*range.end());
        left.ranges -= 1;
        left.messages -= take;
        exhausted = take == width(&range);
    }
    if exhausted {
        return picked;
    }
    left.ranges += allowance.ranges - share(allowance.ranges as u64) as usize;
    left.messages += allowance.messages - share(allowance.messages);
    for range in oldest {
        if left.ranges == 0 || left.messages == 0 {
            break;
        }
        let take = width(&range).min(left.messages);
        picked.insert_range(*range.start()..=*range.start() + (take - 1));
        left.ranges -= 1;
        left.messages -= take;
    }
    picked
}

/// The `count` largest numbers of a set.
pub(crate) fn newest(set: &RangeSet, mut count: u64) -> RangeSet {
    let mut newest = RangeSet::new();
    for range in set.iter().rev() {
        let take = width(&range).min(count);
        if take == 0 {
            break;
        }
        newest.insert_range(*range.end() - (take - 1)..=*range.end());
        count -= take;
    }
    newest
}

/// Drops ranges from the middle, between the newest and the share of the oldest, until the rest
/// fits, as `bytes` of it says, into `room`.
pub(crate) fn shrink(
    mut ranges: RangeSet,
    room: usize,
    bytes: impl Fn(&RangeSet) -> usize,
) -> RangeSet {
    while !ranges.is_empty() && bytes(&ranges) > room {
        let keep = ranges.range_count() * 3 / 4;
        let oldest = keep * OLDEST_SHARE_PERCENT as usize / 100;
        let mut kept: RangeSet = ranges.iter().rev().take(keep - oldest).collect();
        kept.extend(ranges.iter().take(oldest));
        ranges = kept;
    }
    ranges
}

/// The same for a solicit's or an ask's entry.
pub(crate) fn shrink_entry(ranges: RangeSet, room: usize) -> RangeSet {
    shrink(ranges, room, |ranges| {
        wire::solicit_entry_bytes(ranges.iter())
    })
}
