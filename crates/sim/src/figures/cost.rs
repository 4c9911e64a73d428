//! What a node pays for the size of its fleet, and what the size does to latency.
//!
//! Each point is a fleet of production cores that all know each other. Every node issues purges, which
//! is the worst case for digests: as many streams as nodes. Such fleets are quadratic in memory and time,
//! so beyond a thousand nodes the curves go on as they are computed: [`model`].

use std::time::Duration;

use powderhorn_protocol::bounds::PEER_SILENT_MIN;
use powderhorn_protocol::config::Config;
use powderhorn_protocol::stats::Stats;
use powderhorn_protocol::time::Time;
use rand::Rng;
use serde::Serialize;

use crate::fleet::{Fleet, NodeSpec, START};
use crate::net::{Network, Path, WIRE_OVERHEAD_BYTES};
use crate::record::Recorder;

mod drawn;
pub mod model;

pub use drawn::{PointArgs, draw, point};

/// What a node keeps of a peer besides the replay window, in bytes, at most: by the peaks of resident
/// memory of idle fleets of 250 and 500 cores, which differ by 187,500 pairs.
pub const PEER_BYTES: f64 = 970.0;
/// What `retention_bytes` is charged for a held purge of a URL, rounded up; resident it is no more.
pub const HELD_BYTES: f64 = 130.0;

/// A fleet and its work.
#[derive(Clone, Debug)]
pub struct Load {
    /// Nodes.
    pub nodes: usize,
    /// Sites, each of about as many nodes.
    pub sites: usize,
    /// Purges per second in all of the fleet.
    pub rate: f64,
    /// Nodes that they are issued at, spread evenly.
    pub origins: usize,
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// One way between two nodes, of different sites if there are several.
    pub delay: Duration,
    /// How long purges are issued before what is measured, after the first one of each node.
    pub lead: Duration,
    /// How long purges are issued that are measured.
    pub lasts: Duration,
    /// Settings of all nodes; name and site are filled in.
    pub config: Config,
}

/// What came of it. Rates are means over all nodes and the time in which purges were issued.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// Nodes.
    pub nodes: usize,
    /// Datagrams that a node sends in a second.
    pub datagrams: f64,
    /// Bytes that a node sends in a second: seal, UDP and IPv4 included.
    pub bytes: f64,
    /// Of these, bytes of everything but digests, solicits, repairs and challenges.
    pub dissemination_bytes: f64,
    /// Datagrams of digests that a node sends in a round.
    pub digest_datagrams: f64,
    /// Their bytes, without seal, UDP and IPv4.
    pub digest_bytes: f64,
    /// Latency at all nodes but the issuer; what never came is later than anything.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p95_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// Share of messages received that came as repairs.
    pub recovered: f64,
    /// Share of (purge, node) pairs applied in the end.
    pub coverage: f64,
    /// How many latencies there are.
    pub deliveries: u64,
}

/// What a node sends in a round when nothing was ever issued.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Nodes.
    pub nodes: usize,
    /// Datagrams.
    pub datagrams: f64,
    /// Of these, questions to peers that were not heard for long; each is answered with one more.
    pub questions: f64,
}

/// Within a site.
const NEAR: Duration = Duration::from_micros(100);
/// All sessions are proven by then.
const WARM_UP: Duration = Duration::from_secs(4);
/// Each node issues its first purge within this.
const FIRSTS: Duration = Duration::from_secs(2);
/// Rounds over which idle nodes are watched, at least.
const IDLE_ROUNDS_MIN: u32 = 400;

/// Rounds after which a peer that was not heard is asked whether it is still there.
fn silence_rounds(nodes: usize, round: Duration) -> u32 {
    let patience = PEER_SILENT_MIN.as_secs_f64() / 2.0 / round.as_secs_f64();
    (3 * nodes.saturating_sub(1) as u32).max(patience.ceil() as u32)
}

impl Load {
    fn fleet(&self, seed: u64, from: Time) -> Fleet {
        let sites = self.sites.clamp(1, self.nodes);
        let site_of: Vec<usize> = (0..self.nodes).map(|n| n * sites / self.nodes).collect();
        let specs = site_of.clone().into_iter().enumerate();
        let specs = specs.map(|(node, site)| {
            NodeSpec::numbered(node, format!("site-{site}"), self.config.clone())
        });
        let path = |delay: Duration| Path {
            delay,
            jitter: delay / 20,
            loss: self.loss,
            ..Path::default()
        };
        let mut paths = vec![vec![path(self.delay); sites]; sites];
        if sites > 1 {
            for (site, row) in paths.iter_mut().enumerate() {
                row[site] = path(NEAR);
            }
        }
        let bin = Duration::from_secs(3_600);
        let record = Recorder::of_all(self.nodes, from, bin);
        let net = Network::new(site_of, paths);
        Fleet::new(seed, specs.collect(), net, record)
    }

    /// Runs it.
    pub fn measure(&self, seed: u64) -> Measured {
        let lead = match self.lead {
            Duration::ZERO => Duration::ZERO,
            lead => FIRSTS + lead,
        };
        let begin = START + WARM_UP + lead;
        let mut fleet = self.fleet(seed, begin);
        fleet.weigh_digests = true;
        fleet.run(WARM_UP);
        if !lead.is_zero() {
            for node in 0..self.nodes {
                fleet.issue(node);
                fleet.run(FIRSTS / self.nodes as u32);
            }
            self.issue(&mut fleet, self.lead);
            fleet.run_until(begin);
        }
        let before = Sent::of(&fleet);
        self.issue(&mut fleet, self.lasts);
        fleet.run_until(begin + self.lasts);
        let sent = Sent::of(&fleet).since(&before);

        let deadline = fleet.now + Duration::from_secs(120);
        while fleet.incomplete() > 0 && fleet.now < deadline {
            fleet.run(self.config.round);
        }
        assert_eq!(fleet.violation, None, "a run of the figures broke a rule");

        let node_seconds = self.nodes as f64 * self.lasts.as_secs_f64();
        let node_rounds = node_seconds / self.config.round.as_secs_f64();
        let (bytes, digests) = (sent.bytes / node_seconds, sent.digests / node_rounds);
        let digest_bytes = sent.digest_bytes / node_rounds;
        let on_the_wire = digest_bytes + digests * WIRE_OVERHEAD_BYTES as f64;
        let gossip_bytes =
            on_the_wire / self.config.round.as_secs_f64() + sent.repair_bytes / node_seconds;
        let all = fleet.record.all();
        let deliveries = all.latency.count();
        let received = deliveries.max(1) as f64;
        // The issuer is among those that have it.
        let coverage = fleet.coverage();
        let nodes = self.nodes as f64;
        let arrived = 1.0 - (1.0 - coverage) * nodes / (nodes - 1.0).max(1.0);
        let latency_ms = |share: f64| {
            if share > arrived {
                return f64::INFINITY;
            }
            all.latency.quantile_ms(share / arrived)
        };
        Measured {
            nodes: self.nodes,
            datagrams: sent.datagrams / node_seconds,
            bytes,
            dissemination_bytes: (bytes - gossip_bytes).max(0.0),
            digest_datagrams: digests,
            digest_bytes,
            p50_ms: latency_ms(0.5),
            p95_ms: latency_ms(0.95),
            p99_ms: latency_ms(0.99),
            recovered: all.recovered as f64 / received,
            coverage,
            deliveries,
        }
    }

    /// Issues purges for so long, at the load's rate.
    fn issue(&self, fleet: &mut Fleet, lasts: Duration) {
        let begin = fleet.now;
        let origins = self.origins.clamp(1, self.nodes);
        let purges = (self.rate * lasts.as_secs_f64()).ceil() as u32;
        for number in 0..purges {
            fleet.run_until(begin + Duration::from_secs_f64(f64::from(number) / self.rate));
            let origin = fleet.rng.random_range(0..origins) * self.nodes / origins;
            fleet.issue(origin);
        }
    }

    /// Runs such a fleet without any work: first until peers that are long silent would have been asked
    /// twice over, and then for three such times more.
    pub fn idle(&self, seed: u64) -> Idle {
        let silence = silence_rounds(self.nodes, self.config.round);
        let rounds = (3 * silence).max(IDLE_ROUNDS_MIN);
        let mut fleet = self.fleet(seed, START);
        fleet.run(WARM_UP + self.config.round * (2 * silence));
        let before = Sent::of(&fleet);
        fleet.run(self.config.round * rounds);
        let sent = Sent::of(&fleet).since(&before);
        let each = 1.0 / self.nodes as f64 / f64::from(rounds);
        Idle {
            nodes: self.nodes,
            datagrams: sent.datagrams * each,
            questions: sent.challenges * each,
        }
    }
}

/// What all nodes together have sent.
struct Sent {
    datagrams: f64,
    bytes: f64,
    digests: f64,
    digest_bytes: f64,
    repair_bytes: f64,
    challenges: f64,
}

impl Sent {
    fn of(fleet: &Fleet) -> Sent {
        let sum = |of: fn(&Stats) -> u64| -> f64 {
            let cores = (0..fleet.len()).filter_map(|node| fleet.core(node));
            cores.map(|core| of(core.stats())).sum::<u64>() as f64
        };
        Sent {
            datagrams: fleet.net.traffic.datagrams as f64,
            bytes: fleet.net.traffic.bytes as f64,
            digests: sum(|stats| stats.digests_out),
            digest_bytes: fleet.digest_bytes as f64,
            repair_bytes: sum(|stats| stats.repair_bytes_out),
            challenges: sum(|stats| stats.challenges),
        }
    }

    fn since(&self, before: &Sent) -> Sent {
        Sent {
            datagrams: self.datagrams - before.datagrams,
            bytes: self.bytes - before.bytes,
            digests: self.digests - before.digests,
            digest_bytes: self.digest_bytes - before.digest_bytes,
            repair_bytes: self.repair_bytes - before.repair_bytes,
            challenges: self.challenges - before.challenges,
        }
    }
}

/// Memory for peers, in bytes.
pub fn peers_bytes(nodes: usize, replay_window: u64) -> f64 {
    nodes.saturating_sub(1) as f64 * (PEER_BYTES + replay_window as f64 / 8.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chance alone would leave some peer alone for long all the time: 0.13 questions a round.
    #[test]
    fn idle_nodes_send_their_digest_and_hardly_anything_else() {
        let idle = |nodes, sites, loss| {
            let load = Load {
                nodes,
                sites,
                rate: 1.0,
                origins: nodes,
                loss,
                delay: Duration::from_millis(40),
                lead: Duration::ZERO,
                lasts: Duration::ZERO,
                config: Config {
                    replay_window: 256,
                    ..Config::default()
                },
            };
            load.idle(1)
        };
        for (nodes, sites) in [(5, 1), (20, 1), (20, 4), (60, 3)] {
            let lossless = idle(nodes, sites, 0.0);
            assert!(lossless.datagrams < 1.01, "{lossless:?}");
            assert!(lossless.questions < 0.005, "{lossless:?}");
            let lossy = idle(nodes, sites, 0.02);
            assert!(lossy.datagrams < 1.02, "{lossy:?}");
        }
    }
}
