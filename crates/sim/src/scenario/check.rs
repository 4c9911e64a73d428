//! What a scenario may ask for.

use std::time::Duration;

use super::parts::What;
use super::{Scenario, Wrong, select};

/// Most nodes of a fleet: each knows all others, so that memory and time grow with the square.
pub(super) const NODES_MAX: usize = 10_000;
/// Highest rate of all of a fleet, in purges/s: the clock's steps are microseconds.
const RATE_MAX: f64 = 1e6;
/// Shortest step of what is measured over time.
const BIN_MIN: Duration = Duration::from_millis(1);
/// Most such steps in a run: each takes memory for each group.
const BINS_MAX: f64 = 1e6;

impl Scenario {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if self.nodes() < 2 {
            return Err(Wrong::new("site", "a fleet has two nodes or more"));
        }
        select::sites(&self.site)?;
        self.check_times()?;
        self.config.check()?;
        let rate = self.traffic.purges_per_second;
        if !(rate > 0.0 && rate <= RATE_MAX) {
            return Err(Wrong::new(
                "traffic.purges_per_second",
                format!("must be more than 0 and at most {RATE_MAX}, not {rate}"),
            ));
        }
        if let Some(origins) = self.traffic.origins {
            let nodes = self.nodes();
            if !(1..=nodes).contains(&origins) {
                return Err(Wrong::new(
                    "traffic.origins",
                    format!("must be 1 to {nodes}, the number of nodes, not {origins}"),
                ));
            }
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
                    return Err(Wrong::new(format!("expect[{at}].group"), "no such group"));
                }
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), Wrong> {
        let duration = self.duration.0;
        if duration.is_zero() {
            return Err(Wrong::new("duration", "must be more than nothing"));
        }
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
}
