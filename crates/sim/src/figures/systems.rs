//! The other systems of the talk and the slides on the same work: a central broker over TCP, broadcast
//! with acknowledgements, a graph of responsibility with reminders, Plumtree, a tree of two layers, and
//! ours. [`crate::systems`] says what each does and where it is simpler than what it stands for.
//!
//! The curves show the share of deliveries that came later than a time. One that was never made is
//! later than any, so a curve that ends above the bottom has lost something. The pictures show what
//! the choices of [`Kind`] come to; `g_systems_table.json` has all numbers of each system in each case.

use std::path::Path;

use serde::Serialize;

use super::{Effort, FigureError};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, PlotError, Series};
use crate::systems::cases::{self, Case, Fault, Load};
use crate::systems::link::Window;
use crate::systems::talk::{self, HeadOfLine};
use crate::systems::{Kind, Outcome, Sample};

const SEED: u64 = 1;
const TALK: &str = "the talk \"Prototypes, Papers, and Production\"";
const SLIDES: &str =
    "the slides \"Bimodal Multicast And Cache Invalidation\": \"every server sends an ack\"";

/// All numbers.
#[derive(Serialize)]
struct Table<'a> {
    purges_per_second: f64,
    nodes: usize,
    seed: u64,
    outcomes: &'a [Outcome],
    /// The talk's example: one packet lost at 1,000 messages a second.
    head_of_line: [(&'static str, HeadOfLine); 3],
}

/// Draws the figure and writes the table.
pub fn draw(out: &Path, effort: Effort) -> Result<(), FigureError> {
    let load = Load::new(effort.pick(25.0, 125.0));
    let cases = cases::cases(effort == Effort::Quick);
    let mut outcomes = Vec::new();
    for case in &cases {
        for kind in Kind::ALL {
            outcomes.push(cases::run(kind, case, &load, SEED));
        }
    }
    let head_of_line = [
        (talk::AS_IN_THE_TALK, talk::over_tcp(Window::Free)),
        ("TCP", talk::over_tcp(Window::Reno)),
        ("ours", talk::over_ours()),
    ];
    let mut panels = Vec::new();
    for case in &cases {
        let of = |outcome: &&Outcome| outcome.case == case.name;
        let title = match case.fault {
            Fault::None | Fault::Loss(_) => case.name.to_owned(),
            Fault::Cut | Fault::DeadNode | Fault::DeadHub => {
                format!("{} for {} s", case.name, case.lasts)
            }
        };
        panels.push(latencies(title, outcomes.iter().filter(of)));
    }
    // The first panel's legend is that of all: there it hides nothing.
    let listed = panels
        .iter_mut()
        .skip(1)
        .flat_map(|panel| &mut panel.series);
    listed.for_each(|series| series.unlisted = true);
    for (fault, what, word) in [
        (Fault::Cut, "A site cut off", "cut off"),
        (Fault::DeadNode, "A dead node", "dead"),
    ] {
        let of = |outcome: &&Outcome, case: &Case| outcome.case == case.name;
        for case in cases.iter().filter(|case| case.fault == fault) {
            let of: Vec<&Outcome> = outcomes.iter().filter(|one| of(one, case)).collect();
            let title = match fault {
                Fault::DeadNode => format!("{what}: kept for others (dashed: ours, for anybody)"),
                _ => format!("{what}: kept for who has not confirmed"),
            };
            let label = "messages, at the worst node";
            let mut kept = over_time(&title, label, case, word, &of, |sample| sample.memory);
            let ours = of.iter().find(|outcome| outcome.system == Kind::Ours);
            if let Some(ours) = ours.filter(|_| fault == Fault::DeadNode) {
                let points = points(ours, |sample| sample.stored);
                let name = "ours, for anybody: a day's";
                let series = Series::new(name, Mark::Dashed, Colour::Blue, points);
                kept.series.push(series.unlisted());
            }
            fit(&mut kept, label);
            panels.push(kept);
            if fault == Fault::DeadNode {
                let label = "datagrams/s, of the worst node";
                let title = format!("{what}: sent");
                let mut sent = over_time(&title, label, case, word, &of, |s| s.datagrams);
                fit(&mut sent, label);
                panels.push(sent);
            }
        }
    }
    let figure = Figure {
        name: "g_systems".to_owned(),
        title: "The other systems of the talk on the same work".to_owned(),
        note: format!(
            "20 nodes in New York, London, San Jose and Tokyo, {} purges/s at random. Latency: a \
             curve that ends above the bottom has lost purges.",
            load.purges_per_second
        ),
        panels,
        checks: checks(&outcomes, &head_of_line),
    };
    figure.write(out)?;
    let table = Table {
        purges_per_second: load.purges_per_second,
        nodes: cases::NODES,
        seed: SEED,
        outcomes: &outcomes,
        head_of_line,
    };
    let path = out.join("g_systems_table.json");
    let write = |text: String| std::fs::write(&path, text);
    serde_json::to_string_pretty(&table)
        .map_err(std::io::Error::from)
        .and_then(write)
        .map_err(|source| PlotError::Write {
            path: path.clone(),
            source,
        })?;
    Ok(())
}

fn colour(kind: Kind) -> Colour {
    match kind {
        Kind::Ours => Colour::Blue,
        Kind::Broker => Colour::Vermilion,
        Kind::Acks => Colour::Green,
        Kind::Responsibility => Colour::Purple,
        Kind::Plumtree => Colour::Orange,
        Kind::Sprinkler => Colour::Sky,
    }
}

/// The share of deliveries that came later than each time.
fn latencies<'a>(title: String, outcomes: impl Iterator<Item = &'a Outcome>) -> Panel {
    let mut panel = Panel::new(
        title,
        Axis::log("latency, ms", 1.0, 1e6),
        Axis::log("share of deliveries that are later", 1e-6, 1.0),
    );
    panel.legend = Corner::TopRight;
    let mut series: Vec<Series> = outcomes.map(later).collect();
    // Ours is drawn over the others.
    series.reverse();
    panel.series = series;
    panel
}

fn later(outcome: &Outcome) -> Series {
    const PER_DECADE: i32 = 25;
    let count = outcome.latency.count() as f64;
    let all = count + outcome.lost_deliveries as f64;
    let mut points = Vec::new();
    for step in 0..=6 * PER_DECADE {
        let share = 10f64.powf(-f64::from(step) / f64::from(PER_DECADE));
        // What was lost is the latest.
        let rank = (1.0 - share) * all;
        if rank <= count && share * all >= 1.0 {
            points.push((outcome.latency.quantile_ms(rank / count).max(1.0), share));
        }
    }
    let end = match outcome.lost_deliveries {
        0 => (outcome.max_ms, 1e-6),
        lost => (1e6, lost as f64 / all),
    };
    if let Some(&(_, share)) = points.last().filter(|_| outcome.lost_deliveries > 0) {
        points.push((outcome.max_ms, share));
    }
    points.push((outcome.max_ms, end.1));
    points.push(end);
    Series::new(
        outcome.system.title(),
        Mark::Line,
        colour(outcome.system),
        points,
    )
    .unit("share")
}

fn points(outcome: &Outcome, of: fn(&Sample) -> u64) -> Vec<(f64, f64)> {
    let samples = outcome.samples.iter();
    samples
        .map(|sample| (sample.second as f64, of(sample) as f64))
        .collect()
}

fn over_time(
    title: &str,
    label: &str,
    case: &Case,
    word: &str,
    outcomes: &[&Outcome],
    of: fn(&Sample) -> u64,
) -> Panel {
    let x = Axis::linear("time, s", 0.0, case.seconds as f64);
    let mut panel = Panel::new(title, x, Axis::linear(label, 0.0, 1.0));
    let (from, to) = (case.at as f64, (case.at + case.lasts) as f64);
    panel.spans.push((from, to, word.to_owned()));
    for outcome in outcomes.iter().rev() {
        let kind = outcome.system;
        let series = Series::new(kind.title(), Mark::Line, colour(kind), points(outcome, of));
        panel.series.push(series.unlisted());
    }
    panel
}

/// An upright axis that holds all points.
fn fit(panel: &mut Panel, label: &str) {
    let points = panel.series.iter().flat_map(|series| &series.points);
    let most = points.map(|(_, y)| *y).fold(1.0, f64::max);
    panel.y = Axis::linear(label, 0.0, most * 1.08);
}

fn checks(outcomes: &[Outcome], head_of_line: &[(&'static str, HeadOfLine); 3]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |what: String, unit: &str, ours: f64, reference: f64, source: &str| {
        checks.push(Check::new(what, unit, ours, reference, source));
    };
    for (how, got) in head_of_line {
        let what = |of: &str| format!("one packet of 1,000/s lost 200 ms away, {how}: {of}");
        let (late, sum) = (got.messages as f64, got.sum_ms);
        check(what("latest"), "ms", got.most_ms, talk::TALK_DELAY_MS, TALK);
        check(what("late"), "messages", late, talk::TALK_MESSAGES, TALK);
        check(what("all delays"), "ms", sum, talk::TALK_SUM_MS, TALK);
        if *how == talk::AS_IN_THE_TALK {
            let meanwhile = what("sent until the lost one came, as the talk counts");
            let (sent, sum) = (got.meanwhile as f64, got.as_counted_ms());
            check(meanwhile, "messages", sent, talk::TALK_MESSAGES, TALK);
            let as_long = what("these times the longest delay, as the talk counts");
            check(as_long, "ms", sum, talk::TALK_SUM_MS, TALK);
        }
    }
    let healthy = |kind: Kind| {
        let of = |outcome: &&Outcome| outcome.system == kind && outcome.case == "healthy";
        outcomes.iter().find(of)
    };
    if let Some(acks) = healthy(Kind::Acks) {
        let what = "datagrams for each delivery, acknowledgements to the sender, healthy";
        check(
            what.to_owned(),
            "",
            acks.datagrams_per_delivery,
            2.0,
            SLIDES,
        );
    }
    if let Some(payloads) = healthy(Kind::Plumtree).and_then(|plum| plum.payloads_per_delivery) {
        let paper = "Epidemic Broadcast Trees, SRDS 2007: 9,999 payloads to 10,000 nodes";
        let what = "payloads for each delivery, Plumtree, healthy";
        check(what.to_owned(), "", payloads, 1.0, paper);
    }
    checks
}
