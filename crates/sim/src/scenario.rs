//! Scenarios: a fleet, its network, its purges and what goes wrong when, as a TOML file.
//!
//! The files of this crate are in `scenarios/`; each says by itself what it is about. A run is decided by
//! the file and the seed, and ends with checks: each purge applied on each node that could hold the
//! object, and the marks that the file sets.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::time::Duration;

use powderhorn_protocol::config::Config;
use powderhorn_protocol::time::Time;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::fleet::{Apply, Fleet, NodeSpec, START};
use crate::net::{Change, Network, Nodes, Pairs, Path, RuleId, Traffic};
use crate::record::{Recorder, Summary};
use crate::span::{Signed, Span};

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not TOML, or has keys or values that mean nothing here.
    #[error("{path}: {source}")]
    Toml {
        /// Which.
        path: String,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// It asks for something that cannot be.
    #[error("{key}: {problem}")]
    Invalid {
        /// The key, as in `fault[2].nodes`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn invalid(key: impl Into<String>, problem: impl Into<String>) -> ScenarioError {
    ScenarioError::Invalid {
        key: key.into(),
        problem: problem.into(),
    }
}

/// A scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it shows, for people.
    #[serde(default)]
    pub about: String,
    /// Before anything is measured: sessions are proven, round trips learnt.
    #[serde(default = "ten_seconds")]
    pub warm_up: Span,
    /// How long purges are issued and measured.
    pub duration: Span,
    /// How long the fleet has afterwards to apply what is still missing.
    #[serde(default = "a_minute")]
    pub drain: Span,
    /// Steps of what is measured over time.
    #[serde(default = "ten_seconds")]
    pub bin: Span,
    /// Settings of all nodes.
    #[serde(default)]
    pub config: NodeConfig,
    /// Between any two nodes, where no `path` says otherwise.
    #[serde(default)]
    pub network: PathSpec,
    /// Between nodes of one site, where `network` says otherwise.
    #[serde(default)]
    pub local: PathSpec,
    /// The sites.
    pub site: Vec<SiteSpec>,
    /// Between two sites, in both directions.
    #[serde(default)]
    pub path: Vec<SitePath>,
    /// The purges.
    pub traffic: TrafficSpec,
    /// What goes wrong.
    #[serde(default)]
    pub fault: Vec<Fault>,
    /// Groups to be told apart in what is measured; the sites, if there are none. Nodes of no group are
    /// the group "others".
    #[serde(default)]
    pub group: BTreeMap<String, Vec<String>>,
    /// Marks.
    #[serde(default)]
    pub expect: Vec<Expect>,
}

/// See [`Config`]; what is not given is as there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    round: Option<Span>,
    own_site_percent: Option<u32>,
    repair_bytes_peer: Option<u64>,
    repair_bytes_all: Option<u64>,
    retention: Option<Span>,
    retention_bytes: Option<u64>,
    join_margin: Option<Span>,
    replay_window: Option<u64>,
}

/// See [`Path`]; what is not given is as there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathSpec {
    delay: Option<Span>,
    jitter: Option<Span>,
    loss: Option<f64>,
    duplicate: Option<f64>,
    reorder: Option<f64>,
    corrupt: Option<f64>,
    rate: Option<u64>,
}

/// A site.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteSpec {
    name: String,
    nodes: usize,
    /// Its share of the purges, against the other sites' shares.
    #[serde(default = "one")]
    weight: f64,
}

/// Between two sites.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePath {
    between: [String; 2],
    set: PathSpec,
}

/// The purges.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficSpec {
    /// In all of the fleet, at random times (a Poisson process).
    pub purges_per_second: f64,
    /// Nodes that purges are issued at: so many of them, spread over the sites; all by default.
    pub origins: Option<usize>,
}

/// Something goes wrong, from `at` on, for a while or to the end.
#[derive(Clone, Debug, Deserialize)]
pub struct Fault {
    /// From the beginning of `duration` on.
    at: Span,
    #[serde(rename = "for")]
    lasts: Option<Span>,
    #[serde(flatten)]
    what: What,
}

/// What goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum What {
    /// Nothing gets from the ones to the others, nor back unless it is one way.
    Cut {
        from: Vec<String>,
        to: Vec<String>,
        #[serde(default)]
        one_way: bool,
    },
    /// Each node has two neighbours left.
    Ring,
    /// Two halves that only `nodes` can both talk to.
    Bridge { nodes: Vec<String> },
    /// Paths change.
    Path {
        from: Vec<String>,
        to: Vec<String>,
        #[serde(default)]
        one_way: bool,
        set: PathSpec,
    },
    /// Processes are gone until the end of the fault.
    Crash {
        nodes: Vec<String>,
        #[serde(default)]
        disk: bool,
    },
    /// Processes stand still until the end of the fault.
    Freeze { nodes: Vec<String> },
    /// Each datagram takes CPU time.
    SlowNode { nodes: Vec<String>, each: Span },
    /// Each purge takes the cache a while.
    SlowCache { nodes: Vec<String>, each: Span },
    /// The wall clock is set.
    WallClock { nodes: Vec<String>, by: Signed },
    /// Purges at once, at each of these nodes.
    Burst { nodes: Vec<String>, purges: u64 },
}

/// A mark.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// All nodes, if there is none.
    group: Option<String>,
    p50_ms_max: Option<f64>,
    p95_ms_max: Option<f64>,
    p99_ms_max: Option<f64>,
    ms_max: Option<f64>,
}

fn one() -> f64 {
    1.0
}
fn ten_seconds() -> Span {
    Span(Duration::from_secs(10))
}
fn a_minute() -> Span {
    Span(Duration::from_secs(60))
}

/// A mark, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was asked for.
    pub what: String,
    /// At most, or for shares of one: exactly.
    pub limit: f64,
    /// What it was.
    pub got: f64,
    /// Whether that will do.
    pub ok: bool,
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
        self.violation.is_none() && self.checks.iter().all(|check| check.ok)
    }
}

/// What is done to the fleet at a time.
enum Action {
    Begin(usize),
    End(usize),
}

impl Scenario {
    /// Reads a file.
    pub fn read(path: &FilePath) -> Result<Scenario, ScenarioError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Read {
            path: name.clone(),
            source,
        })?;
        Scenario::parse(&name, &text)
    }

    /// Reads a file's text; `path` is for errors.
    pub fn parse(path: &str, text: &str) -> Result<Scenario, ScenarioError> {
        let scenario: Scenario = toml::from_str(text).map_err(|source| ScenarioError::Toml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Nodes of all sites.
    pub fn nodes(&self) -> usize {
        self.site.iter().map(|site| site.nodes).sum()
    }

    fn check(&self) -> Result<(), ScenarioError> {
        if self.nodes() < 2 {
            return Err(invalid("site", "a fleet has two nodes or more"));
        }
        if self.duration.0.is_zero() {
            return Err(invalid("duration", "must be more than nothing"));
        }
        let rate = self.traffic.purges_per_second;
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(invalid("traffic.purges_per_second", "must be a rate"));
        }
        self.paths()?;
        for (name, nodes) in &self.group {
            self.select(&format!("group.{name}"), nodes)?;
        }
        for at in 0..self.fault.len() {
            self.fault_nodes(at)?;
            if let What::Path { set, .. } = &self.fault[at].what {
                set.check(&format!("fault[{at}]"))?;
            }
        }
        for (at, expect) in self.expect.iter().enumerate() {
            if let Some(group) = &expect.group {
                if !self.groups()?.0.contains(group) {
                    return Err(invalid(format!("expect[{at}].group"), "no such group"));
                }
            }
        }
        Ok(())
    }

    fn paths(&self) -> Result<Vec<Vec<Path>>, ScenarioError> {
        self.network.check("network")?;
        self.local.check("local")?;
        let between = self.network.over(Path::default());
        let count = self.site.len();
        let mut paths = vec![vec![between; count]; count];
        for (at, row) in paths.iter_mut().enumerate() {
            row[at] = self.local.over(Path::default());
        }
        for (at, path) in self.path.iter().enumerate() {
            path.set.check(&format!("path[{at}]"))?;
            let find = |name: &String| {
                let mut sites = self.site.iter();
                sites.position(|site| site.name == *name).ok_or_else(|| {
                    invalid(format!("path[{at}].between"), format!("no site {name}"))
                })
            };
            let (one, other) = (find(&path.between[0])?, find(&path.between[1])?);
            for (from, to) in [(one, other), (other, one)] {
                paths[from][to] = path.set.over(paths[from][to]);
            }
        }
        Ok(paths)
    }

    fn site_of(&self) -> Vec<usize> {
        let sites = self.site.iter().enumerate();
        sites
            .flat_map(|(at, site)| std::iter::repeat_n(at, site.nodes))
            .collect()
    }

    /// Groups' names, and the group of each node.
    fn groups(&self) -> Result<(Vec<String>, Vec<usize>), ScenarioError> {
        if self.group.is_empty() {
            let names = self.site.iter().map(|site| site.name.clone()).collect();
            return Ok((names, self.site_of()));
        }
        let mut names = Vec::new();
        let mut group_of = vec![self.group.len(); self.nodes()];
        for (name, nodes) in &self.group {
            for node in self.select(&format!("group.{name}"), nodes)?.iter() {
                group_of[node] = names.len();
            }
            names.push(name.clone());
        }
        names.push("others".to_owned());
        Ok((names, group_of))
    }

    /// The nodes that words name: "*" all, "nyc" a site, "nyc/2" its third, "nyc/0-3" four of it, "!nyc" all
    /// but that.
    fn select(&self, key: &str, words: &[String]) -> Result<Nodes, ScenarioError> {
        let mut chosen = vec![false; self.nodes()];
        for word in words {
            let (not, name) = match word.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, word.as_str()),
            };
            let named = self.named(name).ok_or_else(|| {
                invalid(
                    key,
                    format!("{word:?} names no nodes (a site, site/0, site/0-3, * or !…)"),
                )
            })?;
            for (node, chosen) in chosen.iter_mut().enumerate() {
                *chosen |= named.contains(&node) != not;
            }
        }
        if !chosen.contains(&true) {
            return Err(invalid(key, "names no nodes"));
        }
        Ok(Nodes::new(chosen.len(), |node| chosen[node]))
    }

    fn named(&self, name: &str) -> Option<std::ops::Range<usize>> {
        if name == "*" {
            return Some(0..self.nodes());
        }
        let (site, which) = name.split_once('/').unwrap_or((name, ""));
        let at = self.site.iter().position(|known| known.name == site)?;
        let begin: usize = self.site[..at].iter().map(|site| site.nodes).sum();
        let count = self.site[at].nodes;
        if which.is_empty() {
            return (name == site).then_some(begin..begin + count);
        }
        let (first, last) = which.split_once('-').unwrap_or((which, which));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last && last < count).then_some(begin + first..begin + last + 1)
    }

    /// The nodes that a fault is about: from and to, or the same twice.
    fn fault_nodes(&self, at: usize) -> Result<(Nodes, Nodes), ScenarioError> {
        let key = |name: &str| format!("fault[{at}].{name}");
        match &self.fault[at].what {
            What::Cut { from, to, .. } | What::Path { from, to, .. } => Ok((
                self.select(&key("from"), from)?,
                self.select(&key("to"), to)?,
            )),
            What::Ring => {
                let all = Nodes::new(self.nodes(), |_| true);
                Ok((all.clone(), all))
            }
            What::Bridge { nodes }
            | What::Crash { nodes, .. }
            | What::Freeze { nodes }
            | What::SlowNode { nodes, .. }
            | What::SlowCache { nodes, .. }
            | What::WallClock { nodes, .. }
            | What::Burst { nodes, .. } => {
                let nodes = self.select(&key("nodes"), nodes)?;
                Ok((nodes.clone(), nodes))
            }
        }
    }

    /// The fleet at the beginning of a run.
    pub fn fleet(&self, seed: u64) -> Result<Fleet, ScenarioError> {
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
        timeline.sort_by_key(|(time, at, _)| (*time, *at));
        let mut timeline = timeline.into_iter().peekable();
        let mut traffic = Purges::new(self, begin);
        let mut world = World {
            scenario: self,
            rules: BTreeMap::new(),
        };
        let mut told = 0;
        let whole = (self.warm_up.0 + self.duration.0).as_secs_f64();
        while fleet.violation.is_none() {
            let fault = timeline.peek().map_or(Time::NEVER, |(time, _, _)| *time);
            let next = traffic.next.min(fault);
            if next >= end {
                break;
            }
            fleet.run_until(next);
            if fault <= traffic.next {
                if let Some((_, _, action)) = timeline.next() {
                    world.act(&mut fleet, &mut traffic, action)?;
                }
            } else {
                traffic.issue(&mut fleet);
            }
            let done = fleet.now.since(START).as_secs_f64() / whole;
            if (done * 1_000.0) as u64 > told {
                told = (done * 1_000.0) as u64;
                progress(done);
            }
        }
        fleet.run_until(end);
        // What was to end later ends now, or the fleet could not come to rest.
        for (_, _, action) in timeline {
            if let Action::End(_) = action {
                world.act(&mut fleet, &mut traffic, action)?;
            }
        }
        let deadline = fleet.now + self.drain.0;
        while fleet.incomplete() > 0 && fleet.now < deadline && fleet.violation.is_none() {
            let step = Duration::from_millis(100).min(deadline.since(fleet.now));
            fleet.run(step);
        }
        progress(1.0);
        let report = self.report(seed, &fleet, traffic.refused);
        Ok((report, fleet))
    }

    fn report(&self, seed: u64, fleet: &Fleet, not_issued: u64) -> Report {
        let groups = fleet.record.summaries();
        let mut checks = vec![Check {
            what: "coverage".into(),
            limit: 1.0,
            got: fleet.coverage(),
            ok: fleet.incomplete() == 0,
        }];
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
            for (what, limit, got) in [
                ("p50", expect.p50_ms_max, latency.quantile_ms(0.5)),
                ("p95", expect.p95_ms_max, latency.quantile_ms(0.95)),
                ("p99", expect.p99_ms_max, latency.quantile_ms(0.99)),
                ("max", expect.ms_max, latency.max_ms()),
            ] {
                if let Some(limit) = limit {
                    checks.push(Check {
                        what: format!("{of}: {what}, ms"),
                        limit,
                        got,
                        ok: got <= limit && latency.count() > 0,
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
            issued: fleet.issued(),
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

impl NodeConfig {
    /// A node's settings, all but its name and site.
    pub fn settings(&self) -> Config {
        let base = Config::default();
        let span = |given: Option<Span>, default| given.map_or(default, |span| span.0);
        Config {
            round: span(self.round, base.round),
            own_site_percent: self.own_site_percent.unwrap_or(base.own_site_percent),
            repair_bytes_peer: self.repair_bytes_peer.unwrap_or(base.repair_bytes_peer),
            repair_bytes_all: self.repair_bytes_all.unwrap_or(base.repair_bytes_all),
            retention: span(self.retention, base.retention),
            retention_bytes: self.retention_bytes.unwrap_or(base.retention_bytes),
            join_margin: span(self.join_margin, base.join_margin),
            // Enough for any rate that is simulated: 8 KiB a peer is much for thousands of nodes.
            replay_window: self.replay_window.unwrap_or(4_096),
            ..base
        }
    }
}

impl PathSpec {
    fn check(&self, key: &str) -> Result<(), ScenarioError> {
        let shares = [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
        ];
        for (name, share) in shares {
            if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
                return Err(invalid(format!("{key}.{name}"), "a share is from 0 to 1"));
            }
        }
        Ok(())
    }

    fn over(&self, base: Path) -> Path {
        Path {
            delay: self.delay.map_or(base.delay, |span| span.0),
            jitter: self.jitter.map_or(base.jitter, |span| span.0),
            loss: self.loss.unwrap_or(base.loss),
            duplicate: self.duplicate.unwrap_or(base.duplicate),
            reorder: self.reorder.unwrap_or(base.reorder),
            corrupt: self.corrupt.unwrap_or(base.corrupt),
            rate: self.rate.unwrap_or(base.rate),
            ..base
        }
    }

    fn change(&self) -> Change {
        Change {
            cut: false,
            delay: self.delay.map(|span| span.0),
            jitter: self.jitter.map(|span| span.0),
            loss: self.loss,
            duplicate: self.duplicate,
            reorder: self.reorder,
            corrupt: self.corrupt,
            rate: self.rate,
        }
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
struct World<'a> {
    scenario: &'a Scenario,
    rules: BTreeMap<usize, Vec<RuleId>>,
}

impl World<'_> {
    fn act(
        &mut self,
        fleet: &mut Fleet,
        traffic: &mut Purges,
        action: Action,
    ) -> Result<(), ScenarioError> {
        match action {
            Action::Begin(at) => self.begin(fleet, traffic, at),
            Action::End(at) => self.end(fleet, at),
        }
    }

    fn begin(
        &mut self,
        fleet: &mut Fleet,
        traffic: &mut Purges,
        at: usize,
    ) -> Result<(), ScenarioError> {
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
            What::Ring => rule(Pairs::NotInRing(self.scenario.nodes()), cut),
            What::Bridge { .. } => {
                let half =
                    |odd| Nodes::new(self.scenario.nodes(), |n| n % 2 == odd && !from.has(n));
                let (from, to) = (half(0), half(1));
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

    fn end(&mut self, fleet: &mut Fleet, at: usize) -> Result<(), ScenarioError> {
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
