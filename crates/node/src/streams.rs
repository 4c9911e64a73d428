//! Streams, for people and for programs.

use powderhorn_protocol::ranges::RangeSet;
use serde::Serialize;

use crate::node::Node;
use crate::status::shown_names;

/// Ranges shown of a stream: the newest; a stream in trouble may have thousands.
const RANGES_MAX: usize = 64;

/// A stream, as this node sees it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamStatus {
    /// Its id.
    pub stream: String,
    /// The name of the node that issues it; its address while that is not known; empty if it is no peer.
    pub node: String,
    /// Whether this node's purges go to it.
    pub own: bool,
    /// Nothing below is held or wanted.
    pub floor: u64,
    /// The largest number that anybody has claimed; 0 for none.
    pub top: u64,
    /// Messages held.
    pub held: u64,
    /// Messages applied.
    pub applied: u64,
    /// Messages known to exist and not received yet.
    pub lacking: u64,
    /// Messages of kinds that this version does not know.
    pub unsupported: u64,
    /// Ranges of messages held, first and last of each, ascending: the newest 64.
    pub held_ranges: Vec<(u64, u64)>,
    /// Ranges of messages applied, likewise.
    pub applied_ranges: Vec<(u64, u64)>,
    /// Older ranges, held or applied, that are not shown.
    pub ranges_left_out: usize,
}

impl Node {
    /// All streams that are known, in the order of their ids.
    pub fn streams(&self) -> Vec<StreamStatus> {
        let core = self.shared.core.lock();
        let names = shown_names(&self.shared, &core);
        core.streams()
            .map(|view| {
                let (held_ranges, held_more) = newest(view.held);
                let (applied_ranges, applied_more) = newest(view.seen);
                StreamStatus {
                    stream: view.id.to_string(),
                    node: names.get(&view.id.node).cloned().unwrap_or_default(),
                    own: view.own,
                    floor: view.floor,
                    top: view.top,
                    held: view.held.count(),
                    applied: view.seen.count(),
                    lacking: view.wanted,
                    unsupported: view.unsupported.count(),
                    held_ranges,
                    applied_ranges,
                    ranges_left_out: held_more + applied_more,
                }
            })
            .collect()
    }
}

/// The newest ranges of a set, ascending, and how many others there are.
fn newest(set: &RangeSet) -> (Vec<(u64, u64)>, usize) {
    let ranges = set.iter().rev().take(RANGES_MAX);
    let mut shown: Vec<_> = ranges.map(|range| (*range.start(), *range.end())).collect();
    shown.reverse();
    (shown, set.range_count().saturating_sub(RANGES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ranges_are_shown() {
        let mut set = RangeSet::new();
        let total = RANGES_MAX as u64 + 3;
        (1..=total).for_each(|n| set.insert_range(n * 10..=n * 10 + 1));
        let (shown, more) = newest(&set);
        assert_eq!((shown.len(), more), (RANGES_MAX, 3));
        assert_eq!(shown.first(), Some(&(40, 41)));
        assert_eq!(shown.last(), Some(&(total * 10, total * 10 + 1)));
    }
}
