//! The same work for all systems: four sites, the same purges, and what goes wrong.
//!
//! Sites and delays are those of `scenarios/wan.toml`, with five nodes a site. Purges come at random
//! times (a Poisson process), at any node, most of them in New York. A node that is down issues nothing.

use std::time::Duration;

use powderhorn_protocol::time::Time;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::fleet::START;
use crate::net::{Change, Network, Nodes, Pairs, Path, RuleId};

use super::acks::Acks;
use super::broker::Broker;
use super::link::Window;
use super::ours::Ours;
use super::plumtree::Plumtree;
use super::responsibility::Responsibility;
use super::sprinkler::Sprinkler;
use super::world::World;
use super::{Kind, Outcome, Sample, System};

/// Nodes of each site.
pub const NODES_PER_SITE: usize = 5;
/// Their shares of the purges: New York, London, San Jose, Tokyo.
const WEIGHTS: [f64; 4] = [6.0, 3.0, 2.0, 0.5];
/// Nodes with a cache.
pub const NODES: usize = NODES_PER_SITE * WEIGHTS.len();
/// One way between sites, in ms.
const DELAYS_MS: [[u64; 4]; 4] = [
    [0, 35, 33, 80],
    [35, 0, 69, 115],
    [33, 69, 0, 52],
    [80, 115, 52, 0],
];
/// Tokyo, which the partition cuts off.
const CUT_SITE: usize = 3;
/// London's second node, which dies: neither a proxy nor the broker.
const DEAD_NODE: usize = NODES_PER_SITE + 1;
/// Before anything is measured, with purges: sessions are proven, trees have formed.
const WARM_UP: Duration = Duration::from_secs(10);
/// What a system has at the end to deliver what is missing: longer than TCP's timeout grows in any case.
const DRAIN: Duration = Duration::from_secs(180);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nothing but the network's 0.08 % of loss.
    None,
    /// This share is lost on all paths, all the time.
    Loss(f64),
    /// Tokyo and the rest cannot reach each other.
    Cut,
    /// An ordinary node's process is gone; it comes back with an empty cache.
    DeadNode,
    /// The same for the node that most depends on: the broker, a proxy, for the others any.
    DeadHub,
}

/// A fault with its times.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What is measured, in s.
    pub seconds: u64,
    /// What goes wrong.
    pub fault: Fault,
    /// From when on, in s of what is measured.
    pub at: u64,
    /// For how many s.
    pub lasts: u64,
}

/// How much work there is.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// In all of the fleet.
    pub purges_per_second: f64,
    /// How long ours keeps messages.
    pub retention: Duration,
}

impl Load {
    /// So many purges, and the retention that is ours by default.
    pub fn new(purges_per_second: f64) -> Self {
        Load {
            purges_per_second,
            retention: powderhorn_protocol::config::Config::default().retention,
        }
    }
}

/// The cases; the short ones have the same faults for a fifth of the time.
pub fn cases(short: bool) -> [Case; 5] {
    let case = |name, seconds, fault, at, lasts| match short {
        false => Case {
            name,
            seconds,
            fault,
            at,
            lasts,
        },
        true => Case {
            name,
            seconds: seconds / 5,
            fault,
            at: at / 5,
            lasts: lasts / 5,
        },
    };
    [
        case("healthy", 120, Fault::None, 0, 0),
        case("10 % loss", 120, Fault::Loss(0.1), 0, 120),
        case("a site cut off", 180, Fault::Cut, 30, 60),
        case("a dead node", 420, Fault::DeadNode, 30, 300),
        case("the hub dead", 180, Fault::DeadHub, 30, 60),
    ]
}

/// What can be driven.
pub trait Run {
    /// Issues a purge at a node, if that is up.
    fn issue(&mut self, node: usize);
    /// Runs until `end`.
    fn run_until(&mut self, end: Time);
    /// The network.
    fn net(&mut self) -> &mut Network;
    /// See [`System::hub`].
    fn hub(&self) -> usize;
    /// Ends a node's process.
    fn crash(&mut self, node: usize);
    /// Starts it again.
    fn start(&mut self, node: usize);
    /// The worst node at this moment, without what needs the past.
    fn sample(&self) -> Sample;
    /// Datagrams that each node has sent.
    fn sent(&self) -> Vec<u64>;
    /// What is sent and delivered from now on does not count, but for latencies and losses.
    fn stop_measuring(&mut self) {}
    /// Purges that some node lacks.
    fn incomplete(&self) -> u64;
    /// What came of it; the case and what samples say is still to be filled in.
    fn outcome(&self) -> Outcome;
}

/// The network: nodes by site, and one more, for a broker, in New York.
pub fn network() -> Network {
    let site_of = (0..NODES)
        .map(|node| node / NODES_PER_SITE)
        .chain([0])
        .collect();
    let path = |from: usize, to: usize| match from == to {
        true => Path {
            delay: Duration::from_micros(100),
            jitter: Duration::from_micros(60),
            ..Path::default()
        },
        false => Path {
            delay: Duration::from_millis(DELAYS_MS[from][to]),
            jitter: Duration::from_micros(1_500),
            loss: 0.0008,
            ..Path::default()
        },
    };
    let sites = 0..WEIGHTS.len();
    let row = |from| sites.clone().map(|to| path(from, to)).collect();
    Network::new(site_of, sites.clone().map(row).collect())
}

enum Action {
    Issue(usize),
    Begin,
    End,
    Second(u64),
}

/// When what happens, from the seed alone: the same for each system.
fn timeline(case: &Case, load: &Load, seed: u64) -> Vec<(Time, Action)> {
    let rng = &mut StdRng::seed_from_u64(seed ^ 0x3c6e_f372);
    let begin = START + WARM_UP;
    let end = begin + Duration::from_secs(case.seconds);
    let mut timeline = Vec::new();
    for second in 0..=case.seconds {
        let at = begin + Duration::from_secs(second);
        timeline.push((at, Action::Second(second)));
    }
    if case.fault != Fault::None {
        let at = begin + Duration::from_secs(case.at);
        timeline.push((at, Action::Begin));
        timeline.push((at + Duration::from_secs(case.lasts), Action::End));
    }
    // Sessions of ours are proven in the first second.
    let mut now = START + Duration::from_secs(1);
    loop {
        let share = -rng.random_range(f64::MIN_POSITIVE..1.0).ln();
        now = now + Duration::from_secs_f64(share / load.purges_per_second);
        if now >= end {
            break;
        }
        let mut at = rng.random_range(0.0..WEIGHTS.iter().sum::<f64>());
        let site = WEIGHTS.iter().position(|weight| {
            at -= weight;
            at < 0.0
        });
        let site = site.unwrap_or(WEIGHTS.len() - 1);
        let node = site * NODES_PER_SITE + rng.random_range(0..NODES_PER_SITE);
        timeline.push((now, Action::Issue(node)));
    }
    timeline.sort_by_key(|(time, _)| *time);
    timeline
}

fn world<S: System + 'static>(
    kind: Kind,
    system: S,
    measured: (Time, Time),
    seed: u64,
) -> Box<dyn Run> {
    let nodes = (NODES, NODES.max(system.hub() + 1));
    Box::new(World::new(kind, system, nodes, network(), measured, seed))
}

/// Runs a system through a case.
pub fn run(kind: Kind, case: &Case, load: &Load, seed: u64) -> Outcome {
    let begin = START + WARM_UP;
    let end = begin + Duration::from_secs(case.seconds);
    let site_of: Vec<usize> = (0..NODES).map(|node| node / NODES_PER_SITE).collect();
    let measured = (begin, end);
    let mut run: Box<dyn Run> = match kind {
        Kind::Ours => Box::new(Ours::new(NODES, network(), begin, load.retention, seed)),
        Kind::Broker => world(kind, Broker::new(NODES, Window::Reno), measured, seed),
        Kind::Acks => world(kind, Acks::new(NODES), measured, seed),
        Kind::Responsibility => world(kind, Responsibility::new(&site_of), measured, seed),
        Kind::Plumtree => {
            let rng = &mut StdRng::seed_from_u64(seed ^ 0x510e_527f);
            world(kind, Plumtree::new(NODES, rng), measured, seed)
        }
        Kind::Sprinkler => world(kind, Sprinkler::new(&site_of), measured, seed),
    };
    let mut rule = None;
    let mut samples: Vec<Sample> = Vec::new();
    let mut sent = run.sent();
    for (time, action) in timeline(case, load, seed) {
        run.run_until(time);
        match action {
            Action::Issue(node) => run.issue(node),
            Action::Begin => rule = begin_fault(case.fault, run.as_mut()),
            Action::End => end_fault(case.fault, run.as_mut(), rule.take()),
            Action::Second(second) => {
                let now = run.sent();
                let each = now.iter().zip(&sent).map(|(now, then)| now - then);
                samples.push(Sample {
                    second,
                    datagrams: each.max().unwrap_or(0),
                    ..run.sample()
                });
                sent = now;
            }
        }
    }
    run.run_until(end);
    run.stop_measuring();
    let deadline = end + DRAIN;
    let mut now = end;
    while run.incomplete() > 0 && now < deadline {
        now = now + Duration::from_secs(1);
        run.run_until(now);
    }
    let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    Outcome {
        case: case.name,
        busiest_datagrams_per_second: most(|sample| sample.datagrams),
        memory_messages_max: most(|sample| sample.memory),
        stored_messages_max: most(|sample| sample.stored),
        samples,
        ..run.outcome()
    }
}

fn begin_fault(fault: Fault, run: &mut dyn Run) -> Option<RuleId> {
    let all = |wanted: fn(usize) -> bool| Nodes::new(NODES + 1, wanted);
    let pairs = |from, to| Pairs::Between {
        from,
        to,
        both: true,
    };
    match fault {
        Fault::None => None,
        Fault::Loss(loss) => {
            let change = Change {
                loss: Some(loss),
                ..Change::default()
            };
            let pairs = Pairs::Between {
                from: all(|_| true),
                to: all(|_| true),
                both: false,
            };
            Some(run.net().add_rule(pairs, change))
        }
        Fault::Cut => {
            let cut = Change {
                cut: true,
                ..Change::default()
            };
            let inside = |node: usize| (NODES_PER_SITE * CUT_SITE..NODES).contains(&node);
            let outside = |node: usize| !(NODES_PER_SITE * CUT_SITE..NODES).contains(&node);
            Some(run.net().add_rule(pairs(all(inside), all(outside)), cut))
        }
        Fault::DeadNode => {
            run.crash(DEAD_NODE);
            None
        }
        Fault::DeadHub => {
            run.crash(run.hub());
            None
        }
    }
}

fn end_fault(fault: Fault, run: &mut dyn Run, rule: Option<RuleId>) {
    if let Some(rule) = rule {
        run.net().remove_rule(rule);
    }
    match fault {
        Fault::DeadNode => run.start(DEAD_NODE),
        Fault::DeadHub => run.start(run.hub()),
        Fault::None | Fault::Loss(_) | Fault::Cut => {}
    }
}
