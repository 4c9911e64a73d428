//! What a node pays for the size of its fleet, and what the size does to latency.
//!
//! Each point is a fleet of production cores that all know each other. Every node issues purges, which
//! is the worst case for digests: as many streams as nodes. Such fleets are quadratic in memory and time,
//! so beyond some thousands of nodes the curves go on as a fit, drawn dashed and named so in the JSON.

use std::path::Path as FilePath;
use std::time::Duration;

use powderhorn_protocol::bounds::{DIGEST_PARTS_MAX, PLAINTEXT_BYTES_MAX};
use powderhorn_protocol::config::Config;
use rand::Rng;

use super::{Effort, FigureError, footprint};
use crate::fleet::{Fleet, NodeSpec, START};
use crate::net::{Network, Path, WIRE_OVERHEAD_BYTES};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Series};
use crate::record::Recorder;

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
    /// How long purges are issued.
    pub lasts: Duration,
    /// Settings of all nodes; name and site are filled in.
    pub config: Config,
}

/// What came of it. Rates are means over all nodes and the time in which purges were issued.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Nodes.
    pub nodes: usize,
    /// Datagrams that a node sends in a second.
    pub datagrams: f64,
    /// Bytes that a node sends in a second: seal, UDP and IPv4 included.
    pub bytes: f64,
    /// Of these, bytes of everything but digests, solicits, repairs and challenges.
    pub dissemination_bytes: f64,
    /// Plaintext bytes of the digests that a node sends in a round when all is known everywhere.
    pub digest_bytes: f64,
    /// Datagrams that a node sends in a round when nothing was ever issued; of fleets of 200 nodes or fewer.
    pub idle_datagrams: Option<f64>,
    /// Of these, questions to peers that were not heard for long; each is answered with one more.
    pub idle_questions: Option<f64>,
    /// Latency at all nodes but the issuer.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p95_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// Share of messages received that came as repairs.
    pub recovered: f64,
    /// Share of (purge, node) pairs applied in the end.
    pub coverage: f64,
}

/// Within a site.
const NEAR: Duration = Duration::from_micros(100);
/// All sessions are proven by then.
const WARM_UP: Duration = Duration::from_secs(4);
/// Rounds over which nodes are watched that have nothing to do.
const IDLE_ROUNDS: u32 = 100;
/// Larger fleets are not watched while they have nothing to do.
const IDLE_NODES_MAX: usize = 200;

/// Rounds after which idle nodes do what they will do for ever: a peer that was not heard for twice as many
/// rounds as there are peers is asked whether it is still there.
///
/// `None` for large fleets: that would be a thousand rounds and more in which nothing else happens.
fn rounds_to_settle(nodes: usize) -> Option<u32> {
    (nodes <= IDLE_NODES_MAX).then_some(3 * nodes as u32)
}

impl Load {
    fn fleet(&self, seed: u64) -> Fleet {
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
        let idle = rounds_to_settle(self.nodes).map_or(0, |settle| settle + IDLE_ROUNDS);
        let from = START + WARM_UP + self.config.round * idle;
        let bin = Duration::from_secs(3_600);
        let record = Recorder::of_all(self.nodes, from, bin);
        let net = Network::new(site_of, paths);
        Fleet::new(seed, specs.collect(), net, record)
    }

    /// Runs it.
    pub fn measure(&self, seed: u64) -> Measured {
        let mut fleet = self.fleet(seed);
        let nodes = self.nodes as f64;
        let stat = |fleet: &Fleet, of: fn(&powderhorn_protocol::stats::Stats) -> u64| -> f64 {
            let cores = (0..fleet.len()).filter_map(|node| fleet.core(node));
            cores.map(|core| of(core.stats())).sum::<u64>() as f64
        };
        fleet.run(WARM_UP);
        let idle = rounds_to_settle(self.nodes).map(|settle| {
            fleet.run(self.config.round * settle);
            let asked = stat(&fleet, |stats| stats.challenges);
            let before = fleet.net.traffic.datagrams;
            fleet.run(self.config.round * IDLE_ROUNDS);
            let each = 1.0 / nodes / f64::from(IDLE_ROUNDS);
            let sent = (fleet.net.traffic.datagrams - before) as f64;
            (
                sent * each,
                (stat(&fleet, |stats| stats.challenges) - asked) * each,
            )
        });

        let before = fleet.net.traffic;
        let begin = fleet.now;
        let origins = self.origins.clamp(1, self.nodes);
        let purges = (self.rate * self.lasts.as_secs_f64()).ceil() as u32;
        for number in 0..purges {
            fleet.run_until(begin + Duration::from_secs_f64(f64::from(number) / self.rate));
            let origin = fleet.rng.random_range(0..origins) * self.nodes / origins;
            fleet.issue(origin);
        }
        fleet.run_until(begin + self.lasts);
        let sent = fleet.net.traffic;
        let per_node_second = 1.0 / nodes / self.lasts.as_secs_f64();
        let bytes = (sent.bytes - before.bytes) as f64 * per_node_second;

        let deadline = fleet.now + Duration::from_secs(120);
        while fleet.incomplete() > 0 && fleet.now < deadline {
            fleet.run(self.config.round);
        }
        let (last, digests) = (fleet.net.traffic, stat(&fleet, |stats| stats.digests_out));
        fleet.run(self.config.round * 4);
        let digests = stat(&fleet, |stats| stats.digests_out) - digests;
        let bytes_quiet = (fleet.net.traffic.bytes - last.bytes) as f64;
        let digest_bytes = (bytes_quiet - digests * WIRE_OVERHEAD_BYTES as f64) / (4.0 * nodes);
        assert_eq!(fleet.violation, None, "a run of the figures broke a rule");

        let all = fleet.record.all();
        let received = all.latency.count().max(1) as f64;
        let gossip_bytes = digest_bytes / self.config.round.as_secs_f64()
            + stat(&fleet, |stats| stats.repair_bytes_out) / nodes / self.lasts.as_secs_f64();
        Measured {
            nodes: self.nodes,
            datagrams: (sent.datagrams - before.datagrams) as f64 * per_node_second,
            bytes,
            dissemination_bytes: (bytes - gossip_bytes).max(0.0),
            digest_bytes,
            idle_datagrams: idle.map(|(sent, _)| sent),
            idle_questions: idle.map(|(_, asked)| asked),
            p50_ms: all.latency.quantile_ms(0.5),
            p95_ms: all.latency.quantile_ms(0.95),
            p99_ms: all.latency.quantile_ms(0.99),
            recovered: all.recovered as f64 / received,
            coverage: fleet.coverage(),
        }
    }
}

/// Memory for peers, in bytes.
pub fn peers_bytes(nodes: usize, replay_window: u64) -> f64 {
    nodes.saturating_sub(1) as f64 * (PEER_BYTES + replay_window as f64 / 8.0)
}

const RATE: f64 = 125.0;
const LOSS: f64 = 0.02;
const SITE_NODES: usize = 20;

fn load(nodes: usize, sites: usize) -> Load {
    Load {
        nodes,
        sites,
        rate: RATE,
        origins: nodes,
        loss: LOSS,
        delay: Duration::from_millis(40),
        lasts: Duration::from_secs(if nodes > 500 { 8 } else { 30 }),
        config: Config {
            replay_window: 256,
            ..Config::default()
        },
    }
}

/// y = a + b ln x through points, by least squares.
pub fn logarithmic_fit(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len().max(1) as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|(x, _)| x.ln()), mean(&|(_, y)| *y));
    let xy = mean(&|(at, value)| (at.ln() - x) * (value - y));
    let xx = mean(&|(at, _)| (at.ln() - x).powi(2));
    let b = if xx > 0.0 { xy / xx } else { 0.0 };
    (y - b * x, b)
}

/// Draws the figure.
pub fn draw(out: &FilePath, effort: Effort) -> Result<(), FigureError> {
    let sizes: &[usize] = effort.pick(&[5, 10, 20, 50], &[5, 10, 20, 50, 100, 200, 500, 1_000]);
    let flat: Vec<Measured> = sizes.iter().map(|&n| load(n, 1).measure(1)).collect();
    let in_sites = |&n: &usize| load(n, n.div_ceil(SITE_NODES)).measure(2);
    let sites: Vec<Measured> = sizes.iter().map(in_sites).collect();
    let kinds = [
        ("one flat fleet", &flat, Colour::Blue),
        ("sites of 20", &sites, Colour::Vermilion),
    ];
    let panel = |title: &str, y: Axis, most: f64, of: &dyn Fn(&Measured) -> Option<f64>| {
        let mut panel = Panel::new(title, size_axis(), y);
        panel.legend = Corner::TopLeft;
        for (name, measured, colour) in kinds {
            let points: Vec<_> = measured
                .iter()
                .filter_map(|m| of(m).map(|value| (m.nodes as f64, value)))
                .collect();
            let fitted = beyond(&points, most);
            let (measured, fit) = (format!("{name}, measured"), format!("{name}, fitted"));
            let dots = Series::new(&measured, Mark::Dots, colour, points.clone());
            let mut line = Series::new(measured, Mark::Line, colour, points);
            let mut dashed = Series::new(fit, Mark::Dashed, colour, fitted);
            // The first panel's legend is that of all: there it hides nothing.
            line.unlisted = title != "Datagrams";
            dashed.unlisted = line.unlisted;
            panel.series.extend([line, dots.unlisted(), dashed]);
        }
        panel
    };
    let mut checks = checks(&flat, &sites);
    let memory = memory(effort, &mut checks)?;
    let panels = vec![
        panel(
            "Datagrams",
            Axis::linear("datagrams/s sent by a node", 0.0, 250.0),
            f64::INFINITY,
            &|m| Some(m.datagrams),
        ),
        panel(
            "Bytes on the wire",
            Axis::linear("kB/s sent by a node", 0.0, 80.0),
            f64::INFINITY,
            &|m| Some(m.bytes / 1e3),
        ),
        panel(
            "Digests, every node an origin",
            Axis::linear("bytes of digests in a round", 0.0, 6_000.0),
            (DIGEST_PARTS_MAX * PLAINTEXT_BYTES_MAX) as f64,
            &|m| Some(m.digest_bytes),
        ),
        panel(
            "Latency, 40 ms one way, 2 % lost",
            Axis::linear("p99, ms", 0.0, 500.0),
            f64::INFINITY,
            &|m| Some(m.p99_ms),
        ),
        memory,
        panel(
            "Nothing ever issued",
            Axis::linear("datagrams sent by a node in a round", 0.0, 2.0),
            f64::INFINITY,
            &|m| m.idle_datagrams,
        ),
    ];
    let largest = sizes.last().copied().unwrap_or(0);
    let figure = Figure {
        name: "f_cost".to_owned(),
        title: "What a node pays for the size of its fleet".to_owned(),
        note: format!(
            "Production cores that all know each other, {RATE} purges/s, issued at all nodes. Measured to N = \
             {largest}; dashed: a model."
        ),
        panels,
        checks,
    };
    Ok(figure.write(out)?)
}

fn size_axis() -> Axis {
    Axis::log("nodes", 5.0, 10_000.0)
}

/// The curve beyond the last measured point, by a fit of the last four, up to what can be.
fn beyond(points: &[(f64, f64)], most: f64) -> Vec<(f64, f64)> {
    let (a, b) = logarithmic_fit(&points[points.len().saturating_sub(4)..]);
    let measured = points.last().map_or(0.0, |(x, _)| *x);
    let sizes = [500.0, 1_000.0, 2_000.0, 3_000.0, 5_000.0, 7_000.0, 10_000.0];
    let fitted = sizes.into_iter().filter(|size| *size > measured);
    let curve = fitted.map(|size| (size, (a + b * f64::ln(size)).clamp(0.0, most)));
    let last = points.last().copied().into_iter();
    last.chain(curve).collect()
}

/// Replay windows for which memory is measured, with the sizes: the default's memory is mostly windows.
const WINDOWS: [(u64, &[usize], Colour); 2] = [
    (65_536, &[10, 20, 50, 100, 200], Colour::Purple),
    (256, &[10, 20, 50, 100, 200, 500, 1_000], Colour::Green),
];
/// Purges that each of twenty nodes holds for the measurement of a held one.
const HELD: u32 = 20_000;

fn memory(effort: Effort, checks: &mut Vec<Check>) -> Result<Panel, FigureError> {
    let mut panel = Panel::new(
        "Memory for peers, nothing held",
        size_axis(),
        Axis::log("MB of a node", 0.001, 10_000.0),
    );
    panel.legend = Corner::TopLeft;
    let sizes = (0..=33).map(|n| 5.0 * 10f64.powf(f64::from(n) / 10.0));
    let sizes: Vec<f64> = sizes.map(f64::round).collect();
    for (window, measured, colour) in WINDOWS {
        let most = effort.pick(50, usize::MAX);
        let mut points = Vec::new();
        for &nodes in measured.iter().filter(|nodes| **nodes <= most) {
            let got = footprint::measure(nodes, window, 0)?;
            points.push((nodes as f64, got.node_bytes / 1e6));
            checks.push(Check::new(
                format!(
                    "resident memory of a node among {nodes}, replay_window {window}, measured"
                ),
                "MB",
                got.node_bytes / 1e6,
                peers_bytes(nodes, window) / 1e6,
                "computed: what a peer takes, at most",
            ));
        }
        let model = sizes.iter();
        let model = model.map(|&n| (n, peers_bytes(n as usize, window) / 1e6));
        let name = format!("replay_window {window}, measured");
        let dots = Series::new(name, Mark::Dots, colour, points);
        let name = format!("replay_window {window}, computed");
        let line = Series::new(name, Mark::Dashed, colour, model);
        panel.series.extend([line, dots]);
    }
    let held = footprint::measure(20, 256, HELD)?.held_bytes;
    checks.push(Check::new(
        "resident memory for each purge of a URL that is held, measured",
        "bytes",
        held,
        HELD_BYTES,
        "what retention_bytes is charged for it",
    ));
    Ok(panel)
}

fn checks(flat: &[Measured], sites: &[Measured]) -> Vec<Check> {
    let mut checks = Vec::new();
    for (kind, measured) in [("one flat fleet", flat), ("sites of 20", sites)] {
        for m in measured {
            let mut check = |what: &str, unit: &str, ours: f64, reference: f64, source: &str| {
                checks.push(Check {
                    what: format!("{what}, {kind} of {} nodes, measured", m.nodes),
                    unit: unit.to_owned(),
                    ours,
                    reference,
                    source: source.to_owned(),
                });
            };
            if let Some(sent) = m.idle_datagrams {
                check(
                    "datagrams sent by a node in a round when nothing happens, at most",
                    "datagrams",
                    sent,
                    1.0,
                    "our mark at 200 nodes; what is more are questions to peers that were long silent, \
                     and their answers",
                );
            }
            if let Some(asked) = m.idle_questions {
                check(
                    "of these, questions to peers that were long silent",
                    "datagrams",
                    asked,
                    0.0,
                    "no other value",
                );
            }
            check(
                "purges applied in the end, of all that should be",
                "%",
                m.coverage * 100.0,
                100.0,
                "our mark: each purge on each node",
            );
            check(
                "datagrams/s sent by a node, against one for each purge",
                "datagrams/s",
                m.datagrams,
                RATE * (m.nodes - 1) as f64 / m.nodes as f64,
                "each purge to each other node in a datagram of its own",
            );
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithm_is_found_again() {
        let points = [10.0, 100.0, 1_000.0].map(|x: f64| (x, 3.0 + 2.0 * x.ln()));
        let (a, b) = logarithmic_fit(&points);
        assert!((a - 3.0).abs() < 1e-9 && (b - 2.0).abs() < 1e-9, "{a}, {b}");
    }
}
