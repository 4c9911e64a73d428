//! What a scenario file is made of, as it stands there.

use std::time::Duration;

use powderhorn_protocol::bounds::OWN_SITE_PERCENT_MAX;
use powderhorn_protocol::config::Config;
use serde::Deserialize;

use super::Wrong;
use crate::net::{Change, Path};
use crate::span::{Signed, Span};

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// See [`Config`]; what is not given is as there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    pub(super) round: Option<Span>,
    pub(super) own_site_percent: Option<u32>,
    pub(super) repair_bytes_peer: Option<u64>,
    pub(super) repair_bytes_all: Option<u64>,
    pub(super) retention: Option<Span>,
    pub(super) retention_bytes: Option<u64>,
    pub(super) join_margin: Option<Span>,
    pub(super) replay_window: Option<u64>,
    pub(super) news: Option<bool>,
}

/// See [`Path`]; what is not given is as there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathSpec {
    pub(super) delay: Option<Span>,
    pub(super) jitter: Option<Span>,
    pub(super) loss: Option<f64>,
    pub(super) duplicate: Option<f64>,
    pub(super) reorder: Option<f64>,
    pub(super) corrupt: Option<f64>,
    pub(super) rate: Option<u64>,
}

/// A site.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteSpec {
    pub(super) name: String,
    pub(super) nodes: usize,
    /// Its share of the purges, against the other sites' shares.
    #[serde(default = "one")]
    pub(super) weight: f64,
}

/// Between two sites.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePath {
    pub(super) between: [String; 2],
    pub(super) set: PathSpec,
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
    pub(super) at: Span,
    #[serde(rename = "for")]
    pub(super) lasts: Option<Span>,
    #[serde(flatten)]
    pub(super) what: What,
}

/// What goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum What {
    /// Nothing gets from the ones to the others, nor back unless it is one way.
    Cut {
        from: Vec<String>,
        to: Vec<String>,
        #[serde(default)]
        one_way: bool,
    },
    /// Each node has two neighbours left.
    Ring {},
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
    pub(super) group: Option<String>,
    pub(super) p50_ms_max: Option<f64>,
    pub(super) p95_ms_max: Option<f64>,
    pub(super) p99_ms_max: Option<f64>,
    pub(super) ms_max: Option<f64>,
}

fn one() -> f64 {
    1.0
}
pub(super) fn ten_seconds() -> Span {
    Span(Duration::from_secs(10))
}
pub(super) fn a_minute() -> Span {
    Span(Duration::from_secs(60))
}

impl Expect {
    /// Its limits, in ms, each with its key.
    pub(super) fn limits(&self) -> [(&'static str, Option<f64>); 4] {
        [
            ("p50_ms_max", self.p50_ms_max),
            ("p95_ms_max", self.p95_ms_max),
            ("p99_ms_max", self.p99_ms_max),
            ("ms_max", self.ms_max),
        ]
    }
}

impl NodeConfig {
    /// Limits repairs, in bytes a round, where the file does not.
    pub fn limit_repairs(&mut self, peer: u64, all: u64) {
        self.repair_bytes_peer.get_or_insert(peer);
        self.repair_bytes_all.get_or_insert(all);
    }

    /// Values are those that a node's configuration file may have.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        let spans = [
            ("round", self.round, 20 * MS, MINUTE),
            ("retention", self.retention, MINUTE, MONTH),
            ("join_margin", self.join_margin, Duration::ZERO, MONTH),
        ];
        for (name, given, least, most) in spans {
            let Some(Span(given)) = given else { continue };
            if given < least || given > most {
                let problem = format!("must be {least:?} to {most:?}, not {given:?}");
                return Err(Wrong::new(format!("config.{name}"), problem));
            }
        }
        let percent = self.own_site_percent.map(u64::from);
        let numbers = [
            (
                "own_site_percent",
                percent,
                0,
                u64::from(OWN_SITE_PERCENT_MAX),
            ),
            (
                "repair_bytes_peer",
                self.repair_bytes_peer,
                4 << 10,
                1 << 30,
            ),
            ("repair_bytes_all", self.repair_bytes_all, 4 << 10, 1 << 30),
            ("retention_bytes", self.retention_bytes, 1 << 20, 64 << 30),
            ("replay_window", self.replay_window, 1_024, 16_777_216),
        ];
        for (name, given, least, most) in numbers {
            let Some(given) = given else { continue };
            if given < least || given > most {
                let problem = format!("must be {least} to {most}, not {given}");
                return Err(Wrong::new(format!("config.{name}"), problem));
            }
        }
        Ok(())
    }

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
            news: self.news.unwrap_or(base.news),
            ..base
        }
    }
}

impl PathSpec {
    /// What this one says, and what it leaves open as the other says.
    pub(super) fn or(&self, other: &PathSpec) -> PathSpec {
        PathSpec {
            delay: self.delay.or(other.delay),
            jitter: self.jitter.or(other.jitter),
            loss: self.loss.or(other.loss),
            duplicate: self.duplicate.or(other.duplicate),
            reorder: self.reorder.or(other.reorder),
            corrupt: self.corrupt.or(other.corrupt),
            rate: self.rate.or(other.rate),
        }
    }

    /// What is set to something: that it says anything, and shares that are shares.
    pub(super) fn check_set(&self, key: &str) -> Result<(), Wrong> {
        let PathSpec {
            delay,
            jitter,
            loss,
            duplicate,
            reorder,
            corrupt,
            rate,
        } = self;
        let spans = delay.is_some() || jitter.is_some();
        let shares =
            loss.is_some() || duplicate.is_some() || reorder.is_some() || corrupt.is_some();
        if !(spans || shares || rate.is_some()) {
            return Err(Wrong::new(key, "sets nothing"));
        }
        self.check(key)
    }

    pub(super) fn check(&self, key: &str) -> Result<(), Wrong> {
        let shares = [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
        ];
        for (name, share) in shares {
            if share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
                return Err(Wrong::new(
                    format!("{key}.{name}"),
                    "a share is from 0 to 1",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn over(&self, base: Path) -> Path {
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

    pub(super) fn change(&self) -> Change {
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
