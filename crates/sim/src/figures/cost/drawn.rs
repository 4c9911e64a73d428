//! The picture of what a fleet costs: what was measured beside what is computed.

use std::path::Path as FilePath;
use std::time::Duration;

use powderhorn_protocol::config::Config;

use super::model::{Model, line_through};
use super::{HELD_BYTES, Idle, Load, Measured, peers_bytes};
use crate::figures::{Effort, FigureError, footprint};
use crate::net::WIRE_OVERHEAD_BYTES;
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Rule, Series};
use crate::recurrence::rounds_until;
use crate::rounds::{Exchange, Start};
use crate::span::Span;

const RATE: f64 = 125.0;
const LOSS: f64 = 0.02;
const SITE_NODES: usize = 20;
const DELAY: Duration = Duration::from_millis(40);
/// Larger idle fleets are measured at [`LOSS`] only.
const LOSSLESS_MAX: usize = 200;

fn load(nodes: usize, sites: usize) -> Load {
    Load {
        nodes,
        sites,
        rate: RATE,
        origins: nodes,
        loss: LOSS,
        delay: DELAY,
        lead: Duration::from_millis(2_500),
        lasts: Duration::from_secs(if nodes > 200 { 10 } else { 20 }),
        config: Config {
            replay_window: 256,
            ..Config::default()
        },
    }
}

/// Which point of the figure's curves.
#[derive(Clone, Debug, clap::Args)]
pub struct PointArgs {
    /// Nodes, all of which know each other and issue
    #[arg(long, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(2..=10_000))]
    nodes: usize,
    /// Nodes of a site; one flat fleet if there are none
    #[arg(long)]
    site_nodes: Option<usize>,
    /// For how long purges are measured; the figure does it for 20 s, or 10 s if there are more than 200 nodes
    #[arg(long)]
    lasts: Option<Span>,
    /// Decides all chance; the figure's is 1
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Measures a single point.
pub fn point(args: &PointArgs) -> Measured {
    let sites = args
        .site_nodes
        .map_or(1, |of| args.nodes.div_ceil(of.max(1)));
    let mut load = load(args.nodes, sites);
    if let Some(Span(lasts)) = args.lasts {
        load.lasts = lasts;
    }
    load.measure(args.seed)
}

/// All that was measured of one kind of fleet.
struct Kind {
    name: &'static str,
    colour: Colour,
    busy: Vec<Measured>,
    idle: Vec<Idle>,
    /// Of no more than [`LOSSLESS_MAX`] nodes.
    idle_lossless: Vec<Idle>,
}

impl Kind {
    fn measure(name: &'static str, colour: Colour, sizes: &[usize], sites: Sites) -> Kind {
        let load = |&nodes: &usize| load(nodes, sites(nodes));
        let lossless = |nodes| Load {
            loss: 0.0,
            ..load(nodes)
        };
        let small = sizes.iter().filter(|nodes| **nodes <= LOSSLESS_MAX);
        Kind {
            name,
            colour,
            busy: sizes.iter().map(|n| load(n).measure(1)).collect(),
            idle: sizes.iter().map(|n| load(n).idle(2)).collect(),
            idle_lossless: small.map(|n| lossless(n).idle(3)).collect(),
        }
    }

    /// A line through what was measured.
    fn series(&self, points: Vec<(f64, f64)>) -> [Series; 2] {
        let name = format!("{}, measured", self.name);
        let dots = Series::new(&name, Mark::Dots, self.colour, points.clone());
        [
            Series::new(name, Mark::Line, self.colour, points),
            dots.unlisted(),
        ]
    }
}

type Sites = fn(usize) -> usize;

/// Draws the figure.
pub fn draw(out: &FilePath, effort: Effort) -> Result<(), FigureError> {
    let sizes: &[usize] = effort.pick(&[5, 10, 20, 50], &[5, 10, 20, 50, 100, 200, 500, 1_000]);
    let kinds = [
        Kind::measure("one flat fleet", Colour::Blue, sizes, |_| 1),
        Kind::measure("sites of 20", Colour::Vermilion, sizes, |nodes| {
            nodes.div_ceil(SITE_NODES)
        }),
    ];
    let mut checks = checks(&kinds);
    let panel = |title: &str, y: Axis, of: &dyn Fn(&Measured) -> f64| {
        let mut panel = Panel::new(title, size_axis(), y);
        for kind in &kinds {
            let points = kind.busy.iter().map(|m| (m.nodes as f64, of(m)));
            panel.series.extend(kind.series(points.collect()));
        }
        panel
    };
    let fitted = Fitted::new(&kinds);
    let model = fitted.model;
    let mut datagrams = panel(
        "Datagrams",
        Axis::linear("datagrams/s sent by a node", 0.0, 200.0),
        &|m| m.datagrams,
    );
    datagrams.series.push(computed(|n| fitted.datagrams(n)));
    let mut bytes = panel(
        "Bytes on the wire",
        Axis::linear("kB/s sent by a node", 0.0, 80.0),
        &|m| m.bytes / 1e3,
    );
    bytes.series.push(computed(|n| fitted.bytes(n) / 1e3));
    let mut digests = panel(
        "Digests, every node an origin",
        Axis::linear("bytes of digests in a round", 0.0, 6_000.0),
        &|m| m.digest_bytes,
    );
    digests.series.push(computed(|n| model.digest(n).bytes));
    digests.legend = Corner::TopLeft;
    let mut latency = panel(
        "Latency, 40 ms one way, 2 % lost",
        Axis::linear("p99, ms", 0.0, 500.0),
        &|m| m.p99_ms,
    );
    let bound = computed(p99_by_rounds_ms);
    latency.series.push(Series {
        name: "paper's recurrence".to_owned(),
        ..bound
    });
    let mut idle = Panel::new(
        "Nothing ever issued, 2 % lost",
        size_axis(),
        Axis::linear("datagrams sent by a node in a round", 0.0, 2.0),
    );
    for kind in &kinds {
        let points = kind.idle.iter().map(|m| (m.nodes as f64, m.datagrams));
        idle.series.extend(kind.series(points.collect()));
    }
    idle.rules.push(Rule::Across(1.0, "one digest".to_owned()));
    let largest = sizes.last().copied().unwrap_or(0);
    let memory = match memory(effort, &mut checks) {
        // Only /proc says how much memory a process has, and not every place has one.
        Err(FigureError::Footprint(why)) => {
            eprintln!("the panel on memory is left out: {why}");
            None
        }
        drawn => Some(drawn?),
    };
    let panels = [datagrams, bytes, digests, latency];
    let figure = Figure {
        name: "f_cost".to_owned(),
        title: "What a node pays for the size of its fleet".to_owned(),
        note: format!(
            "Production cores that all know each other, {RATE} purges/s, issued at all nodes. Measured to \
             {largest} nodes; dashed: computed."
        ),
        panels: panels.into_iter().chain(memory).chain([idle]).collect(),
        checks,
    };
    Ok(figure.write(out)?)
}

fn size_axis() -> Axis {
    Axis::log("nodes", 5.0, 10_000.0)
}

/// Sizes from 5 to 10,000, evenly along the axis.
fn all_sizes() -> impl Iterator<Item = f64> {
    (0..=66).map(|n| (5.0 * 2_000f64.powf(f64::from(n) / 66.0)).round())
}

fn computed(of: impl Fn(f64) -> f64) -> Series {
    let points = all_sizes().map(|nodes| (nodes, of(nodes)));
    Series::new("computed", Mark::Dashed, Colour::Black, points)
}

/// The model, with what it takes from the fleets that were measured.
struct Fitted {
    model: Model,
    /// Solicits, repairs and the like that a node sends in a second: of the largest fleets.
    mending: f64,
    /// Bytes of a datagram of dissemination: of the datagram, and of each message in it. Bytes of what
    /// mends losses are in it.
    datagram_bytes: (f64, f64),
}

impl Fitted {
    fn new(kinds: &[Kind]) -> Fitted {
        let config = Config::default();
        let model = Model {
            rate: RATE,
            round: config.round,
        };
        let each_second = 1.0 / config.round.as_secs_f64();
        let largest = kinds.iter().filter_map(|kind| kind.busy.last());
        let mending = largest.map(|m| {
            let digests = m.digest_datagrams * each_second;
            m.datagrams - digests - model.disseminated(m.nodes as f64)
        });
        let points = kinds.iter().flat_map(|kind| &kind.busy).map(|m| {
            let nodes = m.nodes as f64;
            let digests = m.digest_bytes + m.digest_datagrams * WIRE_OVERHEAD_BYTES as f64;
            let others = m.bytes - digests * each_second;
            (model.messages(nodes), others / model.disseminated(nodes))
        });
        Fitted {
            model,
            mending: mending.sum::<f64>() / kinds.len() as f64,
            datagram_bytes: line_through(&points.collect::<Vec<_>>()),
        }
    }

    fn datagrams(&self, nodes: f64) -> f64 {
        let digests = self.model.digest(nodes).datagrams / self.model.round.as_secs_f64();
        self.model.disseminated(nodes) + digests + self.mending
    }

    fn bytes(&self, nodes: f64) -> f64 {
        let (head, message) = self.datagram_bytes;
        let datagram = head + message * self.model.messages(nodes);
        self.model.disseminated(nodes) * datagram + self.model.digest_wire_bytes(nodes)
    }
}

/// By the paper's recurrence: all wait for a whole round, and the exchange that mends takes three ways.
fn p99_by_rounds_ms(nodes: f64) -> f64 {
    let exchange = Exchange::real(nodes as u32, LOSS, true);
    let rounds = rounds_until(exchange, Start::broadcast(), 0.01, 1_000).unwrap_or(u64::MAX);
    (rounds as f64 * Config::default().round.as_secs_f64() + 3.0 * DELAY.as_secs_f64()) * 1e3
}

/// Replay windows for which memory is measured, with the sizes: the default's memory is mostly windows. Of
/// smaller fleets the simulator's own memory would be most of what is resident.
const WINDOWS: [(u64, &[usize], Colour); 2] = [
    (65_536, &[50, 100, 200], Colour::Purple),
    (256, &[50, 100, 200, 500, 1_000], Colour::Green),
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
                "computed: what its peers take; the rest is the node's own and the simulator's",
            ));
        }
        let model = all_sizes().map(|n| (n, peers_bytes(n as usize, window) / 1e6));
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

fn checks(kinds: &[Kind]) -> Vec<Check> {
    let mut checks = Vec::new();
    for kind in kinds {
        let lossless = kind.idle_lossless.iter().map(|m| (m, "nothing lost"));
        for (m, lost) in lossless.chain(kind.idle.iter().map(|m| (m, "2 % lost"))) {
            let of = format!("{} of {} nodes, {lost}, measured", kind.name, m.nodes);
            checks.push(Check::new(
                format!("datagrams sent by a node in a round when nothing happens, {of}"),
                "datagrams",
                m.datagrams,
                1.0,
                "our mark: one digest; what is more are questions to peers that were long silent",
            ));
            checks.push(Check::new(
                format!("of these, questions to peers that were long silent, {of}"),
                "datagrams",
                m.questions,
                0.0,
                "our mark: none while nothing is lost",
            ));
        }
        for m in &kind.busy {
            let of = format!("{} of {} nodes, measured", kind.name, m.nodes);
            checks.push(Check::new(
                format!("purges applied in the end, of all that should be, {of}"),
                "%",
                m.coverage * 100.0,
                100.0,
                "our mark: each purge on each node",
            ));
            checks.push(Check::new(
                format!("datagrams/s sent by a node, against one for each purge, {of}"),
                "datagrams/s",
                m.datagrams,
                RATE * (m.nodes - 1) as f64 / m.nodes as f64,
                "each purge to each other node in a datagram of its own",
            ));
            checks.push(Check::new(
                format!("latency at the 99th percentile, {of}"),
                "ms",
                m.p99_ms,
                p99_by_rounds_ms(m.nodes as f64),
                "computed: the paper's recurrence, push-pull, after one broadcast; its digests name all streams",
            ));
        }
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_that_are_measured_are_as_large_as_computed() {
        let model = Model {
            rate: RATE,
            round: Config::default().round,
        };
        for nodes in [5, 20, 60] {
            let measured = Load {
                lasts: Duration::from_secs(5),
                ..load(nodes, 1)
            };
            let measured = measured.measure(1);
            assert_eq!(measured.coverage, 1.0);
            let ratio = measured.digest_bytes / model.digest(nodes as f64).bytes;
            assert!((0.9..1.1).contains(&ratio), "{nodes} nodes: {ratio}");
        }
    }
}
