//! The network: what becomes of a datagram between two nodes.
//!
//! A path is what the two nodes' sites say (delay, jitter, loss), changed by the rules that hold at the
//! moment: more loss, another delay, a limited rate, a cut. A rule names the nodes that it is from and to.

use std::collections::BTreeMap;
use std::time::Duration;

use powderhorn_protocol::time::Time;
use rand::Rng;
use rand::rngs::StdRng;

/// What a path does to datagrams.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// One way, at least.
    pub delay: Duration,
    /// Mean of what comes on top, distributed exponentially: queues along the way. Datagrams overtake
    /// each other by it.
    pub jitter: Duration,
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// Share that arrive twice.
    pub duplicate: f64,
    /// Share that are held up by `reorder_delay`, and so overtaken.
    pub reorder: f64,
    /// How long those are held up.
    pub reorder_delay: Duration,
    /// Share that arrive with wrong bytes. The seal does not open then, so nothing of them counts.
    pub corrupt: f64,
    /// Bytes a second from one node to another; 0 for no limit.
    pub rate: u64,
}

impl Default for Path {
    fn default() -> Self {
        Path {
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_delay: Duration::from_millis(20),
            corrupt: 0.0,
            rate: 0,
        }
    }
}

/// Bytes that may wait for a path of limited rate; what comes then is lost, as in a router.
pub const RATE_QUEUE_BYTES: u64 = 256 << 10;
/// What a datagram takes on the wire besides its plaintext: the seal, UDP and IPv4.
pub const WIRE_OVERHEAD_BYTES: usize = powderhorn_protocol::bounds::SEAL_BYTES + 8 + 20;

/// A set of nodes, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes(Vec<bool>);

impl Nodes {
    /// Those of `count` nodes that `wanted` says.
    pub fn new(count: usize, wanted: impl Fn(usize) -> bool) -> Self {
        Nodes((0..count).map(wanted).collect())
    }

    /// Whether a node is one of them.
    pub fn has(&self, node: usize) -> bool {
        self.0.get(node).copied().unwrap_or(false)
    }

    /// Their numbers.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let numbered = self.0.iter().enumerate();
        numbered.filter(|(_, is)| **is).map(|(node, _)| node)
    }
}

/// What a rule changes. What is `None` stays as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// Nothing gets through.
    pub cut: bool,
    /// Taken instead of the path's.
    pub delay: Option<Duration>,
    /// Taken instead of the path's.
    pub jitter: Option<Duration>,
    /// A second chance of being lost, after the path's own.
    pub loss: Option<f64>,
    /// Taken instead of the path's.
    pub duplicate: Option<f64>,
    /// Taken instead of the path's.
    pub reorder: Option<f64>,
    /// Taken instead of the path's.
    pub corrupt: Option<f64>,
    /// Taken instead of the path's.
    pub rate: Option<u64>,
}

/// Which pairs of nodes a rule is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Pairs {
    /// From the ones to the others, and with `both` also back.
    Between {
        /// The ones.
        from: Nodes,
        /// The others.
        to: Nodes,
        /// Both directions.
        both: bool,
    },
    /// All pairs but those of neighbours: node n and node n + 1, the last and the first.
    NotInRing(usize),
}

impl Pairs {
    fn has(&self, from: usize, to: usize) -> bool {
        match self {
            Pairs::Between {
                from: ones,
                to: others,
                both,
            } => (ones.has(from) && others.has(to)) || (*both && ones.has(to) && others.has(from)),
            Pairs::NotInRing(count) => {
                let step = from.abs_diff(to);
                step != 1 && step + 1 != *count
            }
        }
    }
}

/// Names a rule, so that it can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// What becomes of one datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// When it arrives, and when its copy does.
    pub arrivals: [Option<Time>; 2],
    /// It arrives with wrong bytes.
    pub corrupt: bool,
}

/// What the network has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Datagrams that were sent.
    pub datagrams: u64,
    /// Their bytes on the wire: seal, UDP and IPv4 included.
    pub bytes: u64,
    /// Lost: by chance, by a cut, or because a path's rate was used up.
    pub lost: u64,
    /// Arrived with wrong bytes.
    pub corrupted: u64,
}

/// The network of a fleet.
pub struct Network {
    /// Each node's site.
    site_of: Vec<usize>,
    /// By (site of the sender, site of the receiver).
    paths: Vec<Vec<Path>>,
    rules: BTreeMap<RuleId, (Pairs, Change)>,
    next_rule: u64,
    /// When a path of limited rate is free again, by (from, to).
    busy: BTreeMap<(usize, usize), Time>,
    /// What was seen.
    pub traffic: Traffic,
}

impl Network {
    /// A network between nodes of these sites; `paths` by the sites of sender and receiver.
    pub fn new(site_of: Vec<usize>, paths: Vec<Vec<Path>>) -> Self {
        Network {
            site_of,
            paths,
            rules: BTreeMap::new(),
            next_rule: 0,
            busy: BTreeMap::new(),
            traffic: Traffic::default(),
        }
    }

    /// All nodes at one place.
    pub fn flat(count: usize, path: Path) -> Self {
        Network::new(vec![0; count], vec![vec![path]])
    }

    /// A node's site.
    pub fn site_of(&self, node: usize) -> usize {
        self.site_of[node]
    }

    /// From now on the rule holds.
    pub fn add_rule(&mut self, pairs: Pairs, change: Change) -> RuleId {
        let id = RuleId(self.next_rule);
        self.next_rule += 1;
        self.rules.insert(id, (pairs, change));
        id
    }

    /// From now on it does not.
    pub fn remove_rule(&mut self, id: RuleId) {
        self.rules.remove(&id);
    }

    /// From now on none does.
    pub fn remove_all_rules(&mut self) {
        self.rules.clear();
    }

    /// Every path is what its sites say, and that is perfect but for the delay.
    pub fn calm(&mut self) {
        self.remove_all_rules();
        for path in self.paths.iter_mut().flatten() {
            *path = Path {
                delay: path.delay,
                ..Path::default()
            };
        }
    }

    /// What becomes of a datagram of so many bytes of plaintext that is sent now.
    pub fn send(
        &mut self,
        now: Time,
        from: usize,
        to: usize,
        plaintext_bytes: usize,
        rng: &mut StdRng,
    ) -> Fate {
        let bytes = (plaintext_bytes + WIRE_OVERHEAD_BYTES) as u64;
        self.traffic.datagrams += 1;
        self.traffic.bytes += bytes;
        let mut path = self.paths[self.site_of[from]][self.site_of[to]];
        let mut lost = path.loss > 0.0 && rng.random_bool(path.loss);
        for (pairs, change) in self.rules.values() {
            if !pairs.has(from, to) {
                continue;
            }
            lost |= change.cut;
            if let Some(loss) = change.loss {
                lost |= rng.random_bool(loss);
            }
            path.delay = change.delay.unwrap_or(path.delay);
            path.jitter = change.jitter.unwrap_or(path.jitter);
            path.duplicate = change.duplicate.unwrap_or(path.duplicate);
            path.reorder = change.reorder.unwrap_or(path.reorder);
            path.corrupt = change.corrupt.unwrap_or(path.corrupt);
            path.rate = change.rate.unwrap_or(path.rate);
        }
        let mut leaves = now;
        if path.rate > 0 && !lost {
            let free = self.busy.entry((from, to)).or_insert(now);
            leaves = leaves.max(*free);
            let queued = leaves.since(now).as_secs_f64() * path.rate as f64;
            lost = queued > RATE_QUEUE_BYTES as f64;
            if !lost {
                leaves = leaves + Duration::from_secs_f64(bytes as f64 / path.rate as f64);
                *free = leaves;
            }
        }
        if lost {
            self.traffic.lost += 1;
            return Fate::default();
        }
        let mut fate = Fate {
            corrupt: path.corrupt > 0.0 && rng.random_bool(path.corrupt),
            ..Fate::default()
        };
        self.traffic.corrupted += u64::from(fate.corrupt);
        let twice = path.duplicate > 0.0 && rng.random_bool(path.duplicate);
        for arrival in &mut fate.arrivals[..1 + usize::from(twice)] {
            let mut delay = path.delay;
            if !path.jitter.is_zero() {
                let share = -rng.random_range(f64::MIN_POSITIVE..1.0).ln();
                delay += path.jitter.mul_f64(share);
            }
            if path.reorder > 0.0 && rng.random_bool(path.reorder) {
                delay += path.reorder_delay;
            }
            *arrival = Some(leaves + delay);
        }
        fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const NOW: Time = Time::from_us(0);

    fn only(count: usize, nodes: &[usize]) -> Nodes {
        Nodes::new(count, |node| nodes.contains(&node))
    }

    fn arrives(net: &mut Network, from: usize, to: usize, rng: &mut StdRng) -> bool {
        net.send(NOW, from, to, 100, rng).arrivals[0].is_some()
    }

    #[test]
    fn a_cut_is_one_way_unless_it_is_both_ways() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut net = Network::flat(3, Path::default());
        let cut = Change {
            cut: true,
            ..Change::default()
        };
        for both in [false, true] {
            let (from, to) = (only(3, &[0]), only(3, &[1]));
            let rule = net.add_rule(Pairs::Between { from, to, both }, cut);
            assert!(!arrives(&mut net, 0, 1, rng));
            assert_eq!(arrives(&mut net, 1, 0, rng), !both);
            assert!(arrives(&mut net, 0, 2, rng));
            net.remove_rule(rule);
            assert!(arrives(&mut net, 0, 1, rng));
        }
    }

    #[test]
    fn a_ring_leaves_each_node_two_neighbours() {
        let rng = &mut StdRng::seed_from_u64(1);
        let mut net = Network::flat(5, Path::default());
        let cut = Change {
            cut: true,
            ..Change::default()
        };
        net.add_rule(Pairs::NotInRing(5), cut);
        for from in 0..5 {
            let reached: Vec<usize> = (0..5)
                .filter(|to| *to != from && arrives(&mut net, from, *to, rng))
                .collect();
            let mut expected = vec![(from + 1) % 5, (from + 4) % 5];
            expected.sort_unstable();
            assert_eq!(reached, expected);
        }
    }

    #[test]
    fn losses_add_up_and_a_rate_delays_and_then_drops() {
        let rng = &mut StdRng::seed_from_u64(1);
        let path = Path {
            loss: 0.5,
            ..Path::default()
        };
        let mut net = Network::flat(2, path);
        let all = || only(2, &[0, 1]);
        let pairs = || Pairs::Between {
            from: all(),
            to: all(),
            both: false,
        };
        let loss = Change {
            loss: Some(0.5),
            ..Change::default()
        };
        net.add_rule(pairs(), loss);
        let got = (0..10_000).filter(|_| arrives(&mut net, 0, 1, rng)).count();
        assert!((2_200..2_800).contains(&got), "{got} of 10,000 at 75 %");
        net.calm();
        let slow = Change {
            rate: Some(100_000),
            ..Change::default()
        };
        net.add_rule(pairs(), slow);
        let mut last = NOW;
        let mut sent = 0;
        while let Some(arrival) = net.send(NOW, 0, 1, 927, rng).arrivals[0] {
            assert!(arrival > last);
            last = arrival;
            sent += 1;
        }
        // 1,000 bytes each, a hundred a second, 256 KiB in the queue.
        assert!((262..=264).contains(&sent), "{sent} were queued");
        assert!((2.6..2.7).contains(&last.since(NOW).as_secs_f64()));
    }
}
