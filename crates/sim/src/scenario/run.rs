//! A run of a scenario: its purges, its faults at their times, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use powderhorn_protocol::time::Time;
use rand::Rng;
use serde::Serialize;

use super::parts::What;
use super::{Scenario, ScenarioError, Wrong};
use crate::fleet::{Apply, Fleet, NodeSpec, START};
use crate::net::{Change, Network, Pairs, RuleId, Traffic};
use crate::record::{Recorder, Summary};

/// Least share of the purges that were to be issued: where next to none was, little was shown of the
/// rest.
const ISSUED_SHARE_MIN: f64 = 0.1;
/// Fewest purges that a group with a mark receives: of fewer, the 99th percentile is the latest of all.
const RECEIVED_MIN: u64 = 100;
/// How many steps a run takes, in virtual time; after each it is told how much is done.
const STEPS: u32 = 1_000;
/// Shortest such step: less than what the clock counts would not move it.
const STEP_MIN: Duration = Duration::from_micros(1);

/// On which side of its limit a mark is met; the limit itself will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// No more than the limit.
    AtMost,
    /// No less than the limit.
    AtLeast,
}

/// A mark, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was asked for.
    pub what: String,
    /// Whether the limit is the most or the least.
    pub bound: Bound,
    /// How much.
    pub limit: f64,
    /// What it was.
    pub got: f64,
    /// Whether that will do.
    pub ok: bool,
}

impl fmt::Display for Check {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.bound {
            Bound::AtMost => "at most",
            Bound::AtLeast => "at least",
        };
        let Check {
            what, limit, got, ..
        } = self;
        write!(to, "{what}: must be {bound} {limit}, was {got}")
    }
}

/// How a run went.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// Of all that was sent and applied, and when: the same for the same seed and commit.
    pub trace: String,
    /// Events that happened.
    pub events: u64,
    /// Virtual time, in s.
    pub virtual_s: f64,
    /// Nodes.
    pub nodes: usize,
    /// Purges issued.
    pub issued: u64,
    /// Purges that could not be issued because their node was down.
    pub not_issued: u64,
    /// Share of (purge, node) pairs applied, of those where the node could hold the object.
    pub coverage: f64,
    /// Purges that were only where memory was lost.
    pub lost_with_issuer: u64,
    /// The network.
    pub traffic: Traffic,
    /// What each group did.
    pub groups: Vec<Summary>,
    /// Marks.
    pub checks: Vec<Check>,
    /// What may never happen, if it did.
    pub violation: Option<String>,
}

impl Report {
    /// Whether all is as it should be.
    pub fn passed(&self) -> bool {
        self.violation.is_none() && self.missed().next().is_none()
    }

    /// The marks that were missed.
    pub fn missed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.ok)
    }
}

/// What is done to the fleet at a time.
enum Action {
    Begin(usize),
    End(usize),
}

impl Scenario {
    /// The fleet at the beginning of a run.
    fn fleet(&self, seed: u64) -> Result<Fleet, Wrong> {
        let site_of = self.site_of();
        let settings = self.config.settings();
        let specs = site_of
            .iter()
            .enumerate()
            .map(|(node, site)| NodeSpec::numbered(node, &self.site[*site].name, settings.clone()));
        let (names, group_of) = self.groups()?;
        let record = Recorder::new(names, group_of, START + self.warm_up.0, self.bin.0);
        let net = Network::new(site_of.clone(), self.paths()?);
        Ok(Fleet::new(seed, specs.collect(), net, record))
    }

    /// Runs it. `progress` is told the share that is done, now and then.
    pub fn run(
        &self,
        seed: u64,
        progress: &mut dyn FnMut(f64),
    ) -> Result<(Report, Fleet), ScenarioError> {
        let done = self.play(seed, progress);
        done.map_err(|wrong| wrong.within(&self.file))
    }

    fn play(&self, seed: u64, progress: &mut dyn FnMut(f64)) -> Result<(Report, Fleet), Wrong> {
        let mut fleet = self.fleet(seed)?;
        let begin = START + self.warm_up.0;
        let end = begin + self.duration.0;
        let mut timeline: Vec<(Time, usize, Action)> = Vec::new();
        for (at, fault) in self.fault.iter().enumerate() {
            let from = begin + fault.at.0;
            timeline.push((from, at, Action::Begin(at)));
            if let Some(lasts) = fault.lasts {
                timeline.push((from + lasts.0, at, Action::End(at)));
            }
        }
        // What ends when its like begins at the same node ends before that.
        timeline.sort_by_key(|(time, at, action)| (*time, matches!(action, Action::Begin(_)), *at));
        let mut timeline = timeline.into_iter().peekable();
        let mut traffic = Purges::new(self, begin);
        let mut world = Faults {
            scenario: self,
            rules: BTreeMap::new(),
        };
        let whole = self.warm_up.0 + self.duration.0 + self.drain.0;
        let mut clock = Clock {
            step: (whole / STEPS).max(STEP_MIN),
            whole,
            progress,
        };
        while fleet.violation.is_none() {
            let fault = timeline.peek().map_or(Time::NEVER, |(time, _, _)| *time);
            let next = traffic.next.min(fault);
            if next >= end {
                break;
            }
            clock.run_until(&mut fleet, next);
            if fault <= traffic.next {
                if let Some((_, _, action)) = timeline.next() {
                    world.act(&mut fleet, &mut traffic, action)?;
                }
            } else {
                traffic.issue(&mut fleet);
            }
        }
        clock.run_until(&mut fleet, end);
        // What was to end later ends now, or the fleet could not come to rest.
        for (_, _, action) in timeline {
            if let Action::End(_) = action {
                world.act(&mut fleet, &mut traffic, action)?;
            }
        }
        let deadline = fleet.now + self.drain.0;
        while fleet.incomplete() > 0 && fleet.now < deadline && fleet.violation.is_none() {
            let step = Duration::from_millis(100).min(deadline.since(fleet.now));
            let next = fleet.now + step;
            clock.run_until(&mut fleet, next);
        }
        progress(1.0);
        let report = self.report(seed, &fleet, traffic.refused);
        Ok((report, fleet))
    }

    fn report(&self, seed: u64, fleet: &Fleet, not_issued: u64) -> Report {
        let groups = fleet.record.summaries();
        let issued = fleet.issued();
        let share = issued as f64 / (issued + not_issued).max(1) as f64;
        let mut checks = vec![
            Check {
                what: "coverage".into(),
                bound: Bound::AtLeast,
                limit: 1.0,
                got: fleet.coverage(),
                ok: fleet.incomplete() == 0,
            },
            // A flush settles what it makes up for: coverage alone would not tell that purges never came.
            Check {
                what: "caches flushed".into(),
                bound: Bound::AtMost,
                limit: 0.0,
                got: fleet.flushed as f64,
                ok: fleet.flushed == 0,
            },
            Check {
                what: "issued, of what was to be".into(),
                bound: Bound::AtLeast,
                limit: ISSUED_SHARE_MIN,
                got: share,
                ok: share >= ISSUED_SHARE_MIN,
            },
        ];
        for expect in &self.expect {
            let groups = fleet.record.groups().iter();
            let whole = match &expect.group {
                None => fleet.record.all(),
                Some(name) => groups
                    .enumerate()
                    .find(|(_, group)| *group == name)
                    .map(|(at, _)| fleet.record.whole(at))
                    .unwrap_or_default(),
            };
            let of = expect.group.as_deref().unwrap_or("all");
            let latency = &whole.latency;
            let received = latency.count();
            checks.push(Check {
                what: format!("{of}: purges received"),
                bound: Bound::AtLeast,
                limit: RECEIVED_MIN as f64,
                got: received as f64,
                ok: received >= RECEIVED_MIN,
            });
            for (what, limit, got) in [
                ("p50", expect.p50_ms_max, latency.quantile_ms(0.5)),
                ("p95", expect.p95_ms_max, latency.quantile_ms(0.95)),
                ("p99", expect.p99_ms_max, latency.quantile_ms(0.99)),
                ("max", expect.ms_max, latency.max_ms()),
            ] {
                if let Some(limit) = limit {
                    checks.push(Check {
                        what: format!("{of}: {what}, ms"),
                        bound: Bound::AtMost,
                        limit,
                        got,
                        ok: got <= limit && received > 0,
                    });
                }
            }
        }
        Report {
            scenario: self.name.clone(),
            seed,
            trace: format!("{:016x}", fleet.trace()),
            events: fleet.events(),
            virtual_s: fleet.now.since(START).as_secs_f64(),
            nodes: fleet.len(),
            issued,
            not_issued,
            coverage: fleet.coverage(),
            lost_with_issuer: fleet.lost_with_issuer,
            traffic: fleet.net.traffic,
            groups,
            checks,
            violation: fleet.violation.clone(),
        }
    }
}
/// Moves a fleet on in time and tells how far it is: a long wait without purges is seen to go by.
struct Clock<'a> {
    whole: Duration,
    step: Duration,
    progress: &'a mut dyn FnMut(f64),
}

impl Clock<'_> {
    fn run_until(&mut self, fleet: &mut Fleet, end: Time) {
        let mut told = self.steps(fleet);
        while fleet.now < end && fleet.violation.is_none() {
            let next = fleet.now + self.step;
            fleet.run_until(next.min(end));
            let steps = self.steps(fleet);
            if steps > told {
                told = steps;
                (self.progress)(f64::from(steps) / f64::from(STEPS));
            }
        }
    }

    fn steps(&self, fleet: &Fleet) -> u32 {
        let done = fleet.now.since(START).div_duration_f64(self.whole);
        (done * f64::from(STEPS)) as u32
    }
}

/// The purges of a run.
struct Purges {
    /// When the next one is due.
    next: Time,
    mean: Option<Duration>,
    /// Nodes, each with the sum of its weight and those before it.
    origins: Vec<(f64, usize)>,
    refused: u64,
}

impl Purges {
    fn new(scenario: &Scenario, begin: Time) -> Self {
        let rate = scenario.traffic.purges_per_second;
        let nodes = scenario.nodes();
        let wanted = scenario.traffic.origins.unwrap_or(nodes).clamp(1, nodes);
        // One of each site in turn.
        let mut first = 0;
        let sites = scenario.site.iter().map(|site| {
            let begin = first;
            first += site.nodes;
            (begin..first)
                .map(|node| (site.weight, node))
                .collect::<Vec<_>>()
        });
        let sites: Vec<Vec<(f64, usize)>> = sites.collect();
        let most = sites.iter().map(Vec::len).max().unwrap_or(0);
        let turns = (0..most).flat_map(|turn| sites.iter().filter_map(move |site| site.get(turn)));
        let mut sum = 0.0;
        let origins = turns.take(wanted).map(|(weight, node)| {
            sum += weight.max(1e-9);
            (sum, *node)
        });
        Purges {
            next: if rate > 0.0 { begin } else { Time::NEVER },
            mean: (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate)),
            origins: origins.collect(),
            refused: 0,
        }
    }

    fn issue(&mut self, fleet: &mut Fleet) {
        let sum = self.origins.last().map_or(1.0, |(sum, _)| *sum);
        let at = fleet.rng.random_range(0.0..sum);
        let place = self.origins.partition_point(|(sum, _)| *sum <= at);
        if let Some((_, node)) = self.origins.get(place) {
            self.issue_at(fleet, *node);
        }
        let share = -fleet.rng.random_range(f64::MIN_POSITIVE..1.0).ln();
        if let Some(mean) = self.mean {
            self.next = self.next + mean.mul_f64(share);
        }
    }

    fn issue_at(&mut self, fleet: &mut Fleet, node: usize) {
        if !matches!(fleet.issue(node), Some(Ok(_))) {
            self.refused += 1;
        }
    }
}

/// What the faults have changed.
struct Faults<'a> {
    scenario: &'a Scenario,
    rules: BTreeMap<usize, Vec<RuleId>>,
}

impl Faults<'_> {
    fn act(
        &mut self,
        fleet: &mut Fleet,
        traffic: &mut Purges,
        action: Action,
    ) -> Result<(), Wrong> {
        match action {
            Action::Begin(at) => self.begin(fleet, traffic, at),
            Action::End(at) => self.end(fleet, at),
        }
    }

    fn begin(&mut self, fleet: &mut Fleet, traffic: &mut Purges, at: usize) -> Result<(), Wrong> {
        let (from, to) = self.scenario.fault_nodes(at)?;
        let cut = Change {
            cut: true,
            ..Change::default()
        };
        let mut rule = |pairs, change| {
            let id = fleet.net.add_rule(pairs, change);
            self.rules.entry(at).or_default().push(id);
        };
        match &self.scenario.fault[at].what {
            What::Cut { one_way, .. } => {
                let both = !one_way;
                rule(Pairs::Between { from, to, both }, cut);
            }
            What::Ring {} => rule(Pairs::NotInRing(self.scenario.nodes()), cut),
            What::Bridge { .. } => {
                let [from, to] = self.scenario.halves(&from);
                rule(
                    Pairs::Between {
                        from,
                        to,
                        both: true,
                    },
                    cut,
                );
            }
            What::Path { one_way, set, .. } => {
                let both = !one_way;
                rule(Pairs::Between { from, to, both }, set.change());
            }
            What::Crash { disk, .. } => from.iter().for_each(|node| fleet.crash(node, *disk)),
            What::Freeze { .. } => from.iter().for_each(|node| fleet.freeze(node)),
            What::SlowNode { each, .. } => {
                from.iter().for_each(|node| fleet.set_slow(node, each.0))
            }
            What::SlowCache { each, .. } => {
                let apply = Apply::Slow {
                    each: each.0,
                    queue: 64,
                };
                from.iter().for_each(|node| fleet.set_apply(node, apply));
            }
            What::WallClock { by, .. } => {
                from.iter()
                    .for_each(|node| fleet.jump_wall_clock(node, by.ms()));
            }
            What::Burst { purges, .. } => {
                for node in from.iter() {
                    (0..*purges).for_each(|_| traffic.issue_at(fleet, node));
                }
            }
        }
        Ok(())
    }

    fn end(&mut self, fleet: &mut Fleet, at: usize) -> Result<(), Wrong> {
        for rule in self.rules.remove(&at).unwrap_or_default() {
            fleet.net.remove_rule(rule);
        }
        let (nodes, _) = self.scenario.fault_nodes(at)?;
        match &self.scenario.fault[at].what {
            What::Crash { .. } => nodes.iter().for_each(|node| fleet.start(node)),
            What::Freeze { .. } => nodes.iter().for_each(|node| fleet.thaw(node)),
            What::SlowNode { .. } => {
                nodes
                    .iter()
                    .for_each(|node| fleet.set_slow(node, Duration::ZERO));
            }
            What::SlowCache { .. } => {
                nodes
                    .iter()
                    .for_each(|node| fleet.set_apply(node, Apply::Instant));
            }
            _ => {}
        }
        Ok(())
    }
}
