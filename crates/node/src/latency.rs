//! How long the fleet's purges took from their issue until they were applied here, for each node that
//! issues any.
//!
//! Measured with wall clocks, so it is as right as they are; nothing depends on it. Purges that are older
//! than this process say how long it was away, not how fast the fleet is: they do not count.

use std::collections::BTreeMap;
use std::time::Duration;

use powderhorn_protocol::id::NodeId;
use powderhorn_protocol::time::Time;
use serde::Serialize;

/// Upper ends of the buckets, in ms. The last one has no end.
pub(crate) const BUCKETS_MS: [u64; 17] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000,
    3_600_000,
];

/// What is shown as recent happened within the last one or two of these.
const RECENT: Duration = Duration::from_secs(300);

/// Nodes that latencies are kept of, one after the other in the life of a process; those of further ones count
/// together.
const NODES_MAX: usize = 4_096;

/// Latencies, counted by buckets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    pub buckets: [u64; BUCKETS_MS.len() + 1],
    pub sum_ms: u64,
    max_ms: u64,
}

impl Histogram {
    fn note(&mut self, ms: u64) {
        let bucket = BUCKETS_MS.partition_point(|end| *end < ms);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum_ms = self.sum_ms.saturating_add(ms);
        self.max_ms = self.max_ms.max(ms);
    }

    pub fn add(&mut self, other: &Histogram) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        self.sum_ms = self.sum_ms.saturating_add(other.sum_ms);
        self.max_ms = self.max_ms.max(other.max_ms);
    }

    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The latency that `share` of them do not exceed, evenly spread within its bucket.
    fn quantile(&self, share: f64) -> f64 {
        let rank = share * self.count() as f64;
        let mut below = 0.0;
        for (index, &count) in self.buckets.iter().enumerate() {
            let start = index.checked_sub(1).and_then(|i| BUCKETS_MS.get(i));
            let start = start.copied().unwrap_or(0) as f64;
            let end = BUCKETS_MS.get(index).copied().unwrap_or(u64::MAX);
            let end = end.min(self.max_ms) as f64;
            if count > 0 && below + count as f64 >= rank {
                return start + (end - start).max(0.0) * (rank - below) / count as f64;
            }
            below += count as f64;
        }
        self.max_ms as f64
    }
}

/// Latencies of the last five to ten minutes, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 95 % of them took no longer.
    pub p95_ms: f64,
    /// The longest.
    pub max_ms: u64,
}

#[derive(Debug, Default)]
struct OfNode {
    site: String,
    all: Histogram,
    /// Of the present turn, and of the one before.
    recent: [Histogram; 2],
    /// Number of the present turn.
    turn: u64,
}

impl OfNode {
    fn turn_to(&mut self, turn: u64) {
        if turn > self.turn {
            let last = std::mem::take(&mut self.recent[0]);
            let next = turn == self.turn + 1;
            self.recent[1] = if next { last } else { Histogram::default() };
            self.turn = turn;
        }
    }
}

/// Latencies of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Latencies(BTreeMap<NodeId, OfNode>);

fn turn_at(now: Time) -> u64 {
    now.as_us().max(0) as u64 / RECENT.as_micros() as u64
}

impl Latencies {
    /// Notes that a purge of `node` was applied so many ms after its issue.
    pub fn note(&mut self, now: Time, node: NodeId, ms: u64) {
        let full = self.0.len() >= NODES_MAX && !self.0.contains_key(&node);
        let node = if full { NodeId::default() } else { node };
        let of_node = self.0.entry(node).or_default();
        of_node.turn_to(turn_at(now));
        of_node.all.note(ms);
        of_node.recent[0].note(ms);
    }

    /// Notes where a node is. It stays there when it leaves the fleet.
    pub fn locate(&mut self, node: NodeId, site: &str) {
        if let Some(of_node) = self.0.get_mut(&node).filter(|of| of.site != site) {
            of_node.site = site.to_owned();
        }
    }

    /// The latest of a node; `None` if there were none.
    pub fn recent(&mut self, now: Time, node: NodeId) -> Option<Latency> {
        let of_node = self.0.get_mut(&node)?;
        of_node.turn_to(turn_at(now));
        let mut recent = of_node.recent[0].clone();
        recent.add(&of_node.recent[1]);
        (recent.count() > 0).then(|| Latency {
            p50_ms: recent.quantile(0.5),
            p95_ms: recent.quantile(0.95),
            max_ms: recent.max_ms,
        })
    }

    /// All since the start, by the site of the issuer.
    pub fn by_site(&self) -> BTreeMap<&str, Histogram> {
        let mut sites: BTreeMap<&str, Histogram> = BTreeMap::new();
        for of_node in self.0.values() {
            sites.entry(&of_node.site).or_default().add(&of_node.all);
        }
        sites
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_their_buckets() {
        let mut all = Latencies::default();
        let (node, now) = (NodeId(7), Time::from_us(1));
        assert_eq!(all.recent(now, node), None);
        for ms in (0..100).chain([4_000]) {
            all.note(now, node, ms);
        }
        let latency = all.recent(now, node).expect("noted");
        assert!((40.0..60.0).contains(&latency.p50_ms), "{latency:?}");
        assert!((80.0..100.0).contains(&latency.p95_ms), "{latency:?}");
        assert_eq!(latency.max_ms, 4_000);
    }

    #[test]
    fn what_is_recent_passes_and_the_rest_stays() {
        let mut all = Latencies::default();
        let node = NodeId(7);
        let at = |turns: u64| Time::from_us(1) + RECENT * turns as u32;
        all.note(at(0), node, 3);
        assert!(all.recent(at(1), node).is_some());
        assert_eq!(all.recent(at(2), node), None);
        all.note(at(9), node, 700_000_000);
        assert_eq!(all.recent(at(9), node).map(|l| l.max_ms), Some(700_000_000));
        all.locate(node, "fra");
        let sites = all.by_site();
        assert_eq!(sites.get("fra").map(Histogram::count), Some(2));
    }

    #[test]
    fn memory_is_bounded() {
        let mut all = Latencies::default();
        (0..2 * NODES_MAX as u64).for_each(|n| all.note(Time::from_us(1), NodeId(n + 1), 1));
        assert!(all.0.len() <= NODES_MAX + 1);
        assert_eq!(
            all.by_site().values().map(Histogram::count).sum::<u64>(),
            2 * NODES_MAX as u64
        );
    }
}
