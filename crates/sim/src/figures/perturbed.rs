//! Members that sleep, an experiment of *Bimodal Multicast* (Birman et al., 1999), with the production core.
//!
//! A quarter of the members sleep most of the time, in units of 100 ms; one member multicasts 100
//! messages a second. The paper shows that the others' throughput does not suffer, and how many messages
//! are retransmitted. What a sleeper misses depends on its socket: the kernel keeps some megabytes for
//! it, so that it misses nothing; in the paper buffers ran over. Both are shown.

use std::path::Path as FilePath;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::troubled::{
    AFFECTED, LEAST_LIMIT, PAPER, SECOND, Setting, UNAFFECTED, cut, each_step, least, mean,
};
use super::{Effort, FigureError};
use crate::net::{Nodes, Pairs};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Series};

/// Draws the figure.
pub fn draw(out: &FilePath, effort: Effort) -> Result<(), FigureError> {
    Ok(perturbed_figure(effort).write(out)?)
}

/// What the socket of a sleeping member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// Keeps what arrives, as the kernel does.
    Keeps,
    /// Loses it, as a socket does that is full.
    Loses,
}

/// What came of a run with perturbed members.
#[derive(Clone, Debug)]
pub struct Perturbed {
    /// Members.
    pub nodes: usize,
    /// Purges applied by an unperturbed receiver in each second.
    pub unaffected: Vec<f64>,
    /// The same of a perturbed one.
    pub affected: Vec<f64>,
    /// Messages sent as repairs by a member, of those multicast.
    pub repaired: f64,
    /// 95th percentile of latency at unperturbed and at perturbed receivers, in ms.
    pub p95_ms: [f64; 2],
    /// Share of (purge, node) pairs applied in the end.
    pub coverage: f64,
}

/// Share of the time that a perturbed member sleeps.
const ASLEEP: f64 = 0.75;
const UNIT: Duration = Duration::from_millis(100);
const EACH: Duration = Duration::from_millis(10);

/// Runs `seconds` with a quarter of `nodes` members perturbed: 100 purges/s, rounds of 100 ms.
pub fn perturbed(nodes: usize, socket: Socket, seconds: usize) -> Perturbed {
    let troubled = nodes / 4;
    let mut fleet = Setting {
        nodes,
        troubled,
        round: UNIT,
        limits: [LEAST_LIMIT, LEAST_LIMIT * 4],
        bin: SECOND,
    }
    .fleet();
    let mut chance = StdRng::seed_from_u64(nodes as u64);
    let begin = fleet.now;
    let mut rule = None;
    for unit in 0..seconds as u32 * 10 {
        let mut asleep = vec![false; nodes];
        for (node, asleep) in asleep.iter_mut().enumerate().skip(nodes - troubled) {
            *asleep = chance.random_bool(ASLEEP);
            if *asleep {
                fleet.freeze(node);
            } else {
                fleet.thaw(node);
            }
        }
        if socket == Socket::Loses {
            rule.take()
                .into_iter()
                .for_each(|rule| fleet.net.remove_rule(rule));
            let pairs = Pairs::Between {
                from: Nodes::new(nodes, |_| true),
                to: Nodes::new(nodes, |node| asleep[node]),
                both: false,
            };
            rule = Some(fleet.net.add_rule(pairs, cut()));
        }
        for tick in 0..10 {
            fleet.run_until(begin + UNIT * unit + EACH * tick);
            fleet.issue(0);
        }
    }
    fleet.run_until(begin + SECOND * seconds as u32);
    let kept = |group| {
        let mut values = each_step(&fleet.record, group, |span| span.applied as f64);
        values.resize(seconds, 0.0);
        values
    };
    let (unaffected, affected) = (kept(UNAFFECTED), kept(AFFECTED));
    let p95 = |group| fleet.record.whole(group).latency.quantile_ms(0.95);
    let p95_ms = [p95(UNAFFECTED), p95(AFFECTED)];
    let cores = (0..nodes).filter_map(|node| fleet.core(node));
    let repairs: u64 = cores.map(|core| core.stats().repairs_out).sum();
    let repaired = repairs as f64 / (nodes as u64 * fleet.issued()) as f64;
    fleet.net.remove_all_rules();
    (0..nodes).for_each(|node| fleet.thaw(node));
    fleet.run(Duration::from_secs(20));
    assert_eq!(fleet.violation, None, "a run of the figures broke a rule");
    Perturbed {
        nodes,
        unaffected,
        affected,
        repaired,
        p95_ms,
        coverage: fleet.coverage(),
    }
}

fn perturbed_figure(effort: Effort) -> Figure {
    type Of = fn(&Perturbed) -> &Vec<f64>;
    let sizes: &[usize] = effort.pick(&[8, 16], &[8, 16, 32, 64, 96, 128]);
    let seconds = effort.pick(10, 60);
    let runs = |socket| -> Vec<Perturbed> {
        let run = |&nodes: &usize| perturbed(nodes, socket, seconds);
        sizes.iter().map(run).collect()
    };
    let (keeps, loses) = (runs(Socket::Keeps), runs(Socket::Loses));
    let members = || Axis::linear("members, a quarter of them perturbed", 0.0, 130.0);
    let curve = |runs: &[Perturbed], of: &dyn Fn(&Perturbed) -> f64| -> Vec<(f64, f64)> {
        runs.iter().map(|run| (run.nodes as f64, of(run))).collect()
    };
    let mut panel = Panel::new(
        "Throughput, mean",
        members(),
        Axis::linear("purges/s applied by a member", 0.0, 120.0),
    );
    let who: [(&str, Mark, Of); 2] = [
        ("unperturbed", Mark::Line, |run| &run.unaffected),
        ("perturbed", Mark::Dashed, |run| &run.affected),
    ];
    let sockets = [
        ("socket keeps", &keeps, Colour::Blue),
        ("socket loses", &loses, Colour::Vermilion),
    ];
    let mut panels = Vec::new();
    for (name, mark, of) in who {
        for (socket, runs, colour) in sockets {
            let points = curve(runs, &|run| mean(of(run)));
            let series = Series::new(format!("{name}, {socket}"), mark, colour, points);
            panel.series.push(series.unit("purges/s"));
        }
    }
    panels.push(panel);

    let mut panel = Panel::new(
        "Retransmissions",
        members(),
        Axis::linear("repairs sent by a member, % of the messages", 0.0, 40.0),
    );
    panel.legend = Corner::TopLeft;
    for (socket, runs, colour) in sockets {
        let points = curve(runs, &|run| run.repaired * 100.0);
        let series = Series::new(socket, Mark::Line, colour, points);
        panel.series.push(series.unit("%"));
    }
    let paper = [(16.0, 8.0), (128.0, 22.0)];
    let paper = Series::new("the paper", Mark::Crosses, Colour::Black, paper);
    panel.series.push(paper.unit("%"));
    panels.push(panel);

    let largest = sizes.last().copied().unwrap_or(0);
    let mut panel = Panel::new(
        format!("Throughput over time, {largest} members"),
        Axis::linear("time, s", 0.0, seconds as f64),
        Axis::linear("purges/s applied by a member", 0.0, 160.0),
    );
    for (name, mark, of) in who {
        for (socket, runs, colour) in sockets {
            let values = runs.last().map(|run| of(run).clone()).unwrap_or_default();
            let points = values.into_iter().enumerate();
            let points = points.map(|(second, value)| (second as f64 + 0.5, value));
            let series = Series::new(format!("{name}, {socket}"), mark, colour, points);
            panel.series.push(series.unit("purges/s").unlisted());
        }
    }
    panels.push(panel);

    let mut panel = Panel::new(
        "Latency",
        members(),
        Axis::log("p95 of latency, ms", 0.5, 1e4),
    );
    for (at, (name, mark, _)) in who.into_iter().enumerate() {
        for (socket, runs, colour) in sockets {
            let points = curve(runs, &|run| run.p95_ms[at]);
            let series = Series::new(format!("{name}, {socket}"), mark, colour, points);
            panel.series.push(series.unit("ms").unlisted());
        }
    }
    panels.push(panel);
    Figure {
        name: "e_perturbed".to_owned(),
        title: "A quarter of the members sleep three quarters of the time".to_owned(),
        note: format!(
            "Production core, 100 purges/s from one member, rounds and naps of 100 ms, at most {LEAST_LIMIT} \
             bytes of repairs to a peer in a round; {seconds} s."
        ),
        panels,
        checks: perturbed_checks(&keeps, &loses),
    }
}

fn perturbed_checks(keeps: &[Perturbed], loses: &[Perturbed]) -> Vec<Check> {
    let mut checks = Vec::new();
    for (socket, runs) in [("keeps", keeps), ("loses", loses)] {
        for run in runs {
            let nodes = run.nodes;
            let at = format!("{nodes} members, a sleeper's socket {socket} what arrives");
            let mut check = |what: &str, unit: &str, ours: f64, reference: f64, source: &str| {
                let what = format!("{what}, {at}");
                checks.push(Check::new(&what, unit, ours, reference, source));
            };
            let steady = format!("{PAPER}: stable throughput at 100 messages/s");
            check(
                "throughput of unperturbed members, mean",
                "purges/s",
                mean(&run.unaffected),
                100.0,
                &steady,
            );
            check(
                "throughput of unperturbed members, worst second",
                "purges/s",
                least(&run.unaffected),
                100.0,
                &steady,
            );
            let paper = [(16, 8.0), (128, 22.0)].into_iter();
            for (_, percent) in paper.filter(|(size, _)| *size == nodes) {
                check(
                    "repairs sent by a member, of the messages",
                    "%",
                    run.repaired * 100.0,
                    percent,
                    &format!("{PAPER}: retransmissions with 25 % perturbed"),
                );
            }
            check(
                "purges applied in the end, of all that should be",
                "%",
                run.coverage * 100.0,
                100.0,
                "our mark: each purge on each node",
            );
        }
    }
    checks
}
