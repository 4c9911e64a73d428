//! Two experiments of *Bimodal Multicast* (Birman et al., 1999), run with the production core.
//!
//! *Perturbed members.* A quarter of the members sleep most of the time, in units of 100 ms; one member
//! multicasts 100 messages a second. The paper shows that the others' throughput does not suffer, and
//! how many messages are retransmitted. What a sleeper misses depends on its socket: the kernel keeps
//! some megabytes for it, so that it misses nothing; in the paper buffers ran over. Both are shown.
//!
//! *Bursts of loss* (figure 14). Every 20 s three in ten members lose 50 messages. With a limit on
//! retransmissions the others' throughput is steady. Our messages are so small that 50 of them fit into
//! two datagrams, so the same is shown for what a limit is needed for here: members that come back from
//! a minute's outage at 1,000 purges/s and have little CPU time to spare.

use std::path::Path as FilePath;
use std::time::Duration;

use powderhorn_protocol::config::Config;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Effort, FigureError};
use crate::fleet::{Fleet, NodeSpec, START};
use crate::net::{Change, Network, Nodes, Pairs, Path};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Series};
use crate::record::{Recorder, Span};

const PAPER: &str = "Bimodal Multicast, ACM TOCS 17(2), 1999";
/// Sessions are proven by then.
const WARM_UP: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);
/// The least limit that the core takes is two datagrams a round: some 60 purges. The paper's 10 KB were
/// 10 messages.
const LEAST_LIMIT: u64 = 2_400;
const NO_LIMIT: u64 = 1 << 30;

/// Draws both figures.
pub fn draw(out: &FilePath, effort: Effort) -> Result<(), FigureError> {
    perturbed_figure(effort).write(out)?;
    bursts_figure(effort).write(out)?;
    Ok(())
}

/// Groups of a run: who multicasts, who has no trouble, who has.
const NAMES: [&str; 3] = ["sender", "unaffected", "affected"];
const UNAFFECTED: usize = 1;
const AFFECTED: usize = 2;

/// A fleet at one place, whose first node multicasts and whose last ones have trouble.
fn fleet(nodes: usize, troubled: usize, round: Duration, limit: u64) -> Fleet {
    let specs = (0..nodes).map(|node| NodeSpec {
        config: Config {
            name: format!("node-{node}"),
            round,
            repair_bytes_peer: limit,
            repair_bytes_all: limit.saturating_mul(4).min(NO_LIMIT),
            replay_window: 4_096,
            ..Config::default()
        },
        peers: None,
        boot_ahead: Duration::from_secs(node as u64 * 1_009),
    });
    let path = Path {
        delay: Duration::from_millis(1),
        jitter: Duration::from_micros(300),
        ..Path::default()
    };
    let group_of = (0..nodes).map(|node| match node {
        0 => 0,
        node if node + troubled >= nodes => AFFECTED,
        _ => UNAFFECTED,
    });
    let names = NAMES.map(str::to_owned).to_vec();
    let record = Recorder::new(names, group_of.collect(), START + WARM_UP, SECOND);
    let net = Network::flat(nodes, path);
    let mut fleet = Fleet::new(1, specs.collect(), net, record);
    fleet.run(WARM_UP);
    fleet
}

fn cut() -> Change {
    Change {
        cut: true,
        ..Change::default()
    }
}

/// What each node of a group did per second of a run.
fn per_second(record: &Recorder, group: usize, of: impl Fn(&Span) -> f64) -> Vec<f64> {
    let nodes = record.nodes_of(group).max(1) as f64;
    let spans = record.spans(group).iter();
    spans.map(|span| of(span) / nodes).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

// ---- perturbed members ----

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
    let mut fleet = fleet(nodes, troubled, UNIT, LEAST_LIMIT);
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
        let mut values = per_second(&fleet.record, group, |span| span.applied as f64);
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
                checks.push(Check {
                    what: format!("{what}, {at}"),
                    unit: unit.to_owned(),
                    ours,
                    reference,
                    source: source.to_owned(),
                });
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

// ---- bursts of loss ----

/// Members that hear nothing for a while, again and again.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    /// Members; three in ten are affected.
    pub nodes: usize,
    /// Purges per second, all from one member.
    pub rate: u32,
    /// Time between two rounds of gossip.
    pub round: Duration,
    /// Bytes of repairs to one peer in a round; to all, four times that.
    pub limit: u64,
    /// How long the affected hear nothing.
    pub outage: Duration,
    /// From one outage to the next; the first is in the middle of it.
    pub every: Duration,
    /// CPU time that each datagram takes at an affected member.
    pub slow: Duration,
    /// How long it all goes on, in s.
    pub seconds: usize,
}

/// What came of them.
#[derive(Clone, Debug)]
pub struct BurstsSeen {
    /// Purges applied by an unaffected receiver in each second.
    pub unaffected: Vec<f64>,
    /// The same of an affected one.
    pub affected: Vec<f64>,
    /// Of those, the ones that were not older than a second.
    pub fresh: Vec<f64>,
    /// Datagrams sent in the fleet.
    pub datagrams: u64,
    /// Share of (purge, node) pairs applied in the end.
    pub coverage: f64,
}

/// Runs them.
pub fn bursts(setting: Bursts) -> BurstsSeen {
    let Bursts { nodes, seconds, .. } = setting;
    let troubled = nodes * 3 / 10;
    let mut fleet = fleet(nodes, troubled, setting.round, setting.limit);
    for node in nodes - troubled..nodes {
        fleet.set_slow(node, setting.slow);
    }
    let begin = fleet.now;
    let each = SECOND / setting.rate;
    let mut rule = None;
    for tick in 0..seconds as u32 * setting.rate {
        let at = each * tick;
        let phase = Duration::from_micros((at.as_micros() % setting.every.as_micros()) as u64);
        let from = setting.every / 2;
        let out = from <= phase && phase < from + setting.outage;
        fleet.run_until(begin + at);
        match rule {
            None if out => {
                let pairs = Pairs::Between {
                    from: Nodes::new(nodes, |_| true),
                    to: Nodes::new(nodes, |node| node + troubled >= nodes),
                    both: false,
                };
                rule = Some(fleet.net.add_rule(pairs, cut()));
            }
            Some(id) if !out => {
                fleet.net.remove_rule(id);
                rule = None;
            }
            _ => {}
        }
        fleet.issue(0);
    }
    fleet.run_until(begin + SECOND * seconds as u32);
    let kept = |group, of: fn(&Span) -> f64| {
        let mut values = per_second(&fleet.record, group, of);
        values.resize(seconds, 0.0);
        values
    };
    let applied = |span: &Span| span.applied as f64;
    let fresh = |span: &Span| {
        let within = span.latency.density(1e3, 1e3);
        let share: f64 = within.iter().map(|(_, share)| share * 1e3).sum();
        share * span.latency.count() as f64
    };
    let (unaffected, affected) = (kept(UNAFFECTED, applied), kept(AFFECTED, applied));
    let fresh = kept(AFFECTED, fresh);
    let datagrams = fleet.net.traffic.datagrams;
    fleet.net.remove_all_rules();
    fleet.run(Duration::from_secs(120));
    assert_eq!(fleet.violation, None, "a run of the figures broke a rule");
    BurstsSeen {
        unaffected,
        affected,
        fresh,
        datagrams,
        coverage: fleet.coverage(),
    }
}

impl Bursts {
    /// The paper's figure 14, with its limit or none.
    pub fn of_the_paper(limited: bool) -> Bursts {
        Bursts {
            nodes: 35,
            rate: 100,
            round: Duration::from_millis(100),
            limit: if limited { LEAST_LIMIT } else { NO_LIMIT },
            outage: Duration::from_millis(500),
            every: Duration::from_secs(20),
            slow: Duration::ZERO,
            seconds: 120,
        }
    }

    /// A minute's outage at 1,000 purges/s, of members whose CPU can take twice that; our default limit or
    /// none.
    pub fn of_slow_members(limited: bool) -> Bursts {
        Bursts {
            nodes: 35,
            rate: 1_000,
            round: Duration::from_millis(250),
            limit: if limited { 128 << 10 } else { NO_LIMIT },
            outage: Duration::from_secs(60),
            every: Duration::from_secs(150),
            slow: Duration::from_micros(500),
            seconds: 190,
        }
    }
}

fn bursts_figure(effort: Effort) -> Figure {
    let shorter = |setting: Bursts| match effort {
        Effort::Full => setting,
        Effort::Quick => Bursts {
            nodes: 10,
            seconds: setting.seconds / 4,
            every: setting.every / 4,
            outage: setting.outage / 4,
            ..setting
        },
    };
    let of_the_paper = [true, false].map(|limit| bursts(shorter(Bursts::of_the_paper(limit))));
    let slow = [true, false].map(|limit| bursts(shorter(Bursts::of_slow_members(limit))));
    let kinds = [("limited", Colour::Blue), ("no limit", Colour::Vermilion)];
    let panel = |title: &str, seen: &[BurstsSeen; 2], of: fn(&BurstsSeen) -> &Vec<f64>, most| {
        let seconds = of(&seen[0]).len() as f64;
        let x = Axis::linear("time, s", 0.0, seconds);
        let mut panel = Panel::new(
            title,
            x,
            Axis::linear("purges/s applied by a member", 0.0, most),
        );
        for ((name, colour), seen) in kinds.into_iter().zip(seen).rev() {
            let points = of(seen).iter().enumerate();
            let points = points.map(|(second, value)| (second as f64 + 0.5, *value));
            let series = Series::new(name, Mark::Line, colour, points);
            panel.series.push(series.unit("purges/s"));
        }
        panel
    };
    let panels = vec![
        panel(
            "Figure 14: unaffected members",
            &of_the_paper,
            |seen| &seen.unaffected,
            160.0,
        ),
        panel(
            "Figure 14: affected members",
            &of_the_paper,
            |seen| &seen.affected,
            160.0,
        ),
        panel(
            "A minute's outage, slow members: unaffected members",
            &slow,
            |seen| &seen.unaffected,
            1_600.0,
        ),
        panel(
            "The same: affected members, purges not older than 1 s",
            &slow,
            |seen| &seen.fresh,
            1_600.0,
        ),
    ];
    Figure {
        name: "e_burst_loss".to_owned(),
        title: "Bursts of loss, with and without a limit on repairs".to_owned(),
        note: format!(
            "35 members, 3 in 10 affected. Above: 50 of 100 purges/s lost, limit {LEAST_LIMIT} bytes. Below: \
             60 s at 1,000/s lost, CPU 0.5 ms a datagram, limit 128 KiB."
        ),
        panels,
        checks: burst_checks(&of_the_paper, &slow),
    }
}

fn burst_checks(of_the_paper: &[BurstsSeen; 2], slow: &[BurstsSeen; 2]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |what: String, unit: &str, ours: f64, reference: f64, source: &str| {
        checks.push(Check::new(what, unit, ours, reference, source));
    };
    let steady = format!("{PAPER}, Fig. 14: throughput stays steady with the limit");
    let not_limited = "the same run without a limit";
    for (name, seen, rate) in [
        ("figure 14", of_the_paper, 100.0),
        ("slow members after an outage", slow, 1_000.0),
    ] {
        check(
            format!("{name}: unaffected members' worst second, limited"),
            "purges/s",
            least(&seen[0].unaffected),
            rate,
            &steady,
        );
        check(
            format!("{name}: unaffected members' worst second, no limit"),
            "purges/s",
            least(&seen[1].unaffected),
            rate,
            &steady,
        );
        check(
            format!("{name}: affected members, seconds below 80 % of fresh purges, limited"),
            "s",
            seconds_below(&seen[0].fresh, rate * 0.8),
            seconds_below(&seen[1].fresh, rate * 0.8),
            not_limited,
        );
        check(
            format!("{name}: datagrams, limited"),
            "datagrams",
            seen[0].datagrams as f64,
            seen[1].datagrams as f64,
            not_limited,
        );
        for (limit, seen) in ["limited", "no limit"].into_iter().zip(seen) {
            check(
                format!("{name}: purges applied in the end, of all that should be, {limit}"),
                "%",
                seen.coverage * 100.0,
                100.0,
                "our mark: each purge on each node",
            );
        }
    }
    checks
}

/// How many of these seconds are below a value.
pub fn seconds_below(values: &[f64], limit: f64) -> f64 {
    values.iter().filter(|value| **value < limit).count() as f64
}
