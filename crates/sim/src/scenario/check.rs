//! What a scenario may ask for: nothing that no run could come to the end of, nothing that would change
//! nothing, and nothing that is not what it reads as.

use std::time::Duration;

use super::parts::{Fault, What};
use super::{Expect, Scenario, Wrong, select};
use crate::net::Nodes;

/// Most nodes of a fleet: each knows all others, so that memory and time grow with the square.
pub(super) const NODES_MAX: usize = 10_000;
/// Highest rate of all of a fleet, in purges/s: the clock's steps are microseconds.
const RATE_MAX: f64 = 1e6;
/// Most purges that one node issues at once: nothing else happens in the fleet between the first and the
/// last of them.
const BURST_MAX: u64 = 1_000_000;
/// Most times that a purge comes to a cache in a run, which is purges times nodes: about an hour of one
/// core. A fleet has two nodes, so that purges can be numbered in 32 bits.
const APPLIED_MAX: f64 = 1e9;
/// Longest run, in virtual time: three times what nodes can be told to remember.
const TIME_MAX: Duration = Duration::from_secs(100 * 86_400);
/// Most rounds of all nodes in a run: nodes that have nothing to say still say so, and these are some
/// hours of one core.
const ROUNDS_MAX: f64 = 1e9;
/// Shortest step of what is measured over time.
const BIN_MIN: Duration = Duration::from_millis(1);
/// Most such steps in a run: each takes memory for each group.
const BINS_MAX: f64 = 1e6;
/// Fewest nodes of which a ring leaves some without a path to each other.
const RING_MIN: usize = 4;

impl Scenario {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        select::sites(&self.site)?;
        if self.nodes() < 2 {
            return Err(Wrong::new("site", "a fleet has two nodes or more"));
        }
        self.check_times()?;
        self.config.check()?;
        self.check_traffic()?;
        self.paths()?;
        let (names, group_of) = self.groups()?;
        for at in 0..self.fault.len() {
            self.check_fault(at)?;
        }
        self.check_overlaps()?;
        for (at, expect) in self.expect.iter().enumerate() {
            if let Some(group) = &expect.group {
                let key = format!("expect[{at}].group");
                let Some(group) = names.iter().position(|name| name == group) else {
                    return Err(Wrong::new(key, "no such group"));
                };
                if !group_of.contains(&group) {
                    return Err(Wrong::new(key, "no node is in that group"));
                }
            }
            self.check_limits(at, expect)?;
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), Wrong> {
        let duration = self.duration.0;
        if duration.is_zero() {
            return Err(Wrong::new("duration", "must be more than nothing"));
        }
        self.check_length()?;
        if self.bin.0 < BIN_MIN {
            let problem = format!("must be {BIN_MIN:?} or more, not {:?}", self.bin.0);
            return Err(Wrong::new("bin", problem));
        }
        let bins = (duration + self.drain.0).as_secs_f64() / self.bin.0.as_secs_f64();
        if bins > BINS_MAX {
            let problem = format!(
                "duration and drain are {bins:.0} steps of {:?}, more than {BINS_MAX}",
                self.bin.0
            );
            return Err(Wrong::new("bin", problem));
        }
        for (at, fault) in self.fault.iter().enumerate() {
            if fault.at.0 >= duration {
                let problem = format!(
                    "is {:?} after the beginning of duration, which lasts {duration:?}: it would never happen",
                    fault.at.0
                );
                return Err(Wrong::new(format!("fault[{at}].at"), problem));
            }
        }
        Ok(())
    }

    /// The longest part of a run that is too long is named.
    fn check_length(&self) -> Result<(), Wrong> {
        let mut parts = [
            ("warm_up", self.warm_up.0),
            ("duration", self.duration.0),
            ("drain", self.drain.0),
        ];
        parts.sort_by_key(|(_, span)| *span);
        let longest = parts[2].0;
        let whole: Duration = parts.iter().map(|(_, span)| *span).sum();
        if whole > TIME_MAX {
            let problem =
                format!("warm_up, duration and drain are {whole:?} in all, more than {TIME_MAX:?}");
            return Err(Wrong::new(longest, problem));
        }
        let round = self.config.settings().round;
        let rounds = whole.div_duration_f64(round) * self.nodes() as f64;
        if rounds > ROUNDS_MAX {
            let problem = format!(
                "{whole:?} in all with {} nodes are {rounds:.0} rounds of {round:?}, more than {ROUNDS_MAX}",
                self.nodes()
            );
            return Err(Wrong::new(longest, problem));
        }
        Ok(())
    }

    fn check_traffic(&self) -> Result<(), Wrong> {
        let nodes = self.nodes();
        let rate = self.traffic.purges_per_second;
        let key = "traffic.purges_per_second";
        if !(rate > 0.0 && rate <= RATE_MAX) {
            let problem = format!("must be more than 0 and at most {RATE_MAX}, not {rate}");
            return Err(Wrong::new(key, problem));
        }
        if let Some(origins) = self.traffic.origins {
            if !(1..=nodes).contains(&origins) {
                return Err(Wrong::new(
                    "traffic.origins",
                    format!("must be 1 to {nodes}, the number of nodes, not {origins}"),
                ));
            }
        }
        let mut purges = rate * self.duration.0.as_secs_f64();
        let fits = |key: &str, purges: f64| {
            if purges * nodes as f64 <= APPLIED_MAX {
                return Ok(());
            }
            let problem =
                format!("{purges:.0} purges to {nodes} nodes, more than {APPLIED_MAX} in all");
            Err(Wrong::new(key, problem))
        };
        fits(key, purges)?;
        for (at, fault) in self.fault.iter().enumerate() {
            if let What::Burst { purges: each, .. } = fault.what {
                let (nodes, _) = self.fault_nodes(at)?;
                purges += each as f64 * nodes.iter().count() as f64;
                let key = format!("fault[{at}].purges");
                if !(1..=BURST_MAX).contains(&each) {
                    let problem = format!("must be 1 to {BURST_MAX}, not {each}");
                    return Err(Wrong::new(key, problem));
                }
                fits(&key, purges)?;
            }
        }
        Ok(())
    }

    /// Each fault changes something, and does so for as long as it says.
    fn check_fault(&self, at: usize) -> Result<(), Wrong> {
        let fault = &self.fault[at];
        let wrong = |of: &str, problem: &str| Err(Wrong::new(format!("fault[{at}]{of}"), problem));
        let (from, to) = self.fault_nodes(at)?;
        if fault.lasts.is_some_and(|lasts| lasts.0.is_zero()) {
            return wrong(".for", "must be more than nothing");
        }
        match &fault.what {
            What::Cut { .. } | What::Path { .. } if !apart(&from, &to) => {
                return wrong(".to", "there is no path from a node to itself");
            }
            What::Path { set, .. } => {
                set.check_set(&format!("fault[{at}].set"))?;
                if set.loss == Some(0.0) {
                    let problem = "comes on top of the path's own loss: 0 changes nothing";
                    return wrong(".set.loss", problem);
                }
            }
            What::Ring {} if self.nodes() < RING_MIN => {
                let problem = format!("fewer than {RING_MIN} nodes are all neighbours in a ring");
                return wrong("", &problem);
            }
            What::Bridge { .. }
                if !self
                    .halves(&from)
                    .iter()
                    .all(|half| half.iter().next().is_some()) =>
            {
                return wrong(".nodes", "leaves no nodes in one of the halves");
            }
            What::SlowNode { each, .. } | What::SlowCache { each, .. } if each.0.is_zero() => {
                return wrong(".each", "must be more than nothing");
            }
            What::WallClock { by, .. } if by.ms() == 0 => {
                return wrong(".by", "must be 1ms or more, forwards or backwards");
            }
            What::WallClock { .. } | What::Burst { .. } if fault.lasts.is_some() => {
                return wrong(".for", "this happens once and is not undone");
            }
            _ => {}
        }
        Ok(())
    }

    /// The end of a fault undoes it, and would undo any other of its kind at the same node.
    fn check_overlaps(&self) -> Result<(), Wrong> {
        let mut of_nodes: Vec<(usize, Undone, Nodes)> = Vec::new();
        for (at, fault) in self.fault.iter().enumerate() {
            let Some(undone) = Undone::by(&fault.what) else {
                continue;
            };
            let (nodes, _) = self.fault_nodes(at)?;
            for (other, of_other, others) in &of_nodes {
                let both = nodes.iter().find(|node| others.has(*node));
                let Some(node) = both.filter(|_| undone == *of_other) else {
                    continue;
                };
                if overlap(fault, &self.fault[*other]) {
                    let problem = format!(
                        "at {} this and fault[{other}] are at the same time, so that one would end the other",
                        self.name_of(node)
                    );
                    return Err(Wrong::new(format!("fault[{at}]"), problem));
                }
            }
            of_nodes.push((at, undone, nodes));
        }
        Ok(())
    }

    /// A mark has a limit, and one that can be missed.
    fn check_limits(&self, at: usize, expect: &Expect) -> Result<(), Wrong> {
        // Nothing is applied later than the end of a run.
        let most = (self.duration.0 + self.drain.0).as_secs_f64() * 1e3;
        let mut given = 0;
        for (name, limit) in expect.limits() {
            let Some(limit) = limit else { continue };
            given += 1;
            if !(limit > 0.0 && limit < most) {
                let problem = format!(
                    "must be more than 0 and less than {most}, as long as duration and drain, not {limit}"
                );
                return Err(Wrong::new(format!("expect[{at}].{name}"), problem));
            }
        }
        if given == 0 {
            let problem = "has no limit, so that it could not be missed";
            return Err(Wrong::new(format!("expect[{at}]"), problem));
        }
        Ok(())
    }
}

/// What the end of a fault sets back at its nodes.
#[derive(Clone, Copy, PartialEq)]
enum Undone {
    /// A start thaws, and what is not running cannot be frozen.
    Process,
    Cpu,
    Cache,
}

impl Undone {
    fn by(what: &What) -> Option<Undone> {
        match what {
            What::Crash { .. } | What::Freeze { .. } => Some(Undone::Process),
            What::SlowNode { .. } => Some(Undone::Cpu),
            What::SlowCache { .. } => Some(Undone::Cache),
            What::Cut { .. }
            | What::Ring {}
            | What::Bridge { .. }
            | What::Path { .. }
            | What::WallClock { .. }
            | What::Burst { .. } => None,
        }
    }
}

/// Whether two faults are at the same time; one that begins when the other ends is not.
fn overlap(one: &Fault, other: &Fault) -> bool {
    let before_end_of =
        |fault: &Fault, at| fault.lasts.is_none_or(|lasts| at < fault.at.0 + lasts.0);
    before_end_of(one, other.at.0) && before_end_of(other, one.at.0)
}

/// Whether any of the ones is another node than some of the others.
fn apart(ones: &Nodes, others: &Nodes) -> bool {
    let mut all = others.iter();
    let (first, second) = (all.next(), all.next());
    second.is_some() || ones.iter().any(|one| Some(one) != first)
}
