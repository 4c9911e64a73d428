//! The three convergence curves of Powderhorn's authors, and what they said of the number of
//! servers.
//!
//! They are in the talk "Prototypes, Papers, and Production" and were drawn by the calculator in
//! github.com/brucespang/bimodal (js/convergence.js), which is the paper's recurrence for 100 nodes
//! of which 1 % hold the message at first. Beside the recurrence stands the same model with chance
//! in it: the recurrence is the more hopeful of the two, because it cannot be unlucky at first.

use std::path::Path;

use super::{Effort, FigureError};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Rule, Series};
use crate::recurrence::Recurrence;
use crate::rounds::{Chain, Choice, Exchange, Start, Summary, simulate};

const NODES: u32 = 100;
const ONE: Start = Start {
    holders: 1.0,
    copies: 0,
};
const SHARE: &str = "servers with the message, %";
const TALK: &str = "the talk \"Prototypes, Papers, and Production\"";
const CALCULATOR: &str =
    "js/convergence.js of github.com/brucespang/bimodal, at the talk's setting";
const SIMULATED: &str = "a simulation of the same model made before this one";

/// Coverage in percent by the paper's recurrence, from `holders` on.
pub fn coverage_percent(nodes: u32, holders: f64, loss: f64, rounds: u64) -> f64 {
    let exchange = Exchange::of_the_paper(nodes, loss);
    let mut state = Recurrence::new(exchange, Start::holders(holders));
    state.advance(rounds);
    state.coverage() * 100.0
}

/// The model for chance: one leg, push, and nobody gossips to itself.
fn by_chance(nodes: u32, loss: f64) -> Exchange {
    Exchange {
        choice: Choice::Others,
        ..Exchange::of_the_paper(nodes, loss)
    }
}

/// Draws the figure.
pub fn draw(out: &Path, effort: Effort) -> Result<(), FigureError> {
    let runs = effort.pick(200, 10_000);
    let rounds: Vec<u64> = (0..=25).collect();
    let lossless = simulate(&by_chance(NODES, 0.0), ONE, &rounds, runs, 1);
    let half = simulate(&by_chance(NODES, 0.5), ONE, &rounds, runs, 2);
    let figure = Figure {
        name: "a_convergence".to_owned(),
        title: "The convergence curves of Powderhorn's authors".to_owned(),
        note: format!(
            "One message per gossip, push, 100 servers, one of which holds the message at first; \
             bands: mean ± standard deviation of {runs} simulated runs."
        ),
        panels: vec![
            few_rounds(&lossless, &half),
            many_rounds(),
            by_servers(effort),
            spread(),
        ],
        checks: checks(&lossless[10], &half[10]),
    };
    Ok(figure.write(out)?)
}

fn few_rounds(lossless: &[Summary], half: &[Summary]) -> Panel {
    let x = Axis::linear("rounds of gossip", 0.0, 25.0);
    let mut panel = Panel::new(
        "10 rounds are enough, unless half is lost",
        x,
        Axis::percent(SHARE),
    );
    for (name, loss, colour, simulated) in [
        ("no loss", 0.0, Colour::Blue, lossless),
        ("50 % lost", 0.5, Colour::Vermilion, half),
    ] {
        let band = simulated.iter().map(|summary| {
            let percent = |coverage: f64| (coverage * 100.0).clamp(0.0, 100.0);
            let (mean, stddev) = (summary.coverage(), summary.stddev);
            (
                summary.rounds as f64,
                percent(mean - stddev),
                percent(mean + stddev),
            )
        });
        let line = (0..=25).map(|n| (n as f64, coverage_percent(NODES, 1.0, loss, n)));
        let band = Series::band(format!("{name}, simulated"), colour, band).unit("%");
        panel.series.push(band);
        panel
            .series
            .push(Series::new(name, Mark::Line, colour, line).unit("%"));
    }
    let said = [(10.0, 97.0), (10.0, 40.0)];
    let said = Series::new("the talk: 97 %, 40 %", Mark::Crosses, Colour::Black, said);
    panel.series.push(said.unit("%"));
    panel
}

fn many_rounds() -> Panel {
    let x = Axis::linear("rounds of gossip", 0.0, 80_000.0);
    let y = Axis::linear("log₁₀ of the share without it", -360.0, 10.0);
    let mut panel = Panel::new("99 % lost, for 80,000 rounds", x, y);
    panel.legend = Corner::BottomLeft;
    let every = 1_000;
    let course = |choice| {
        let exchange = Exchange {
            choice,
            ..Exchange::of_the_paper(NODES, 0.99)
        };
        let mut state = Recurrence::new(exchange, ONE);
        let mut points = vec![(0.0, state.residual_log10())];
        for n in 1..=80 {
            state.advance(every);
            points.push(((n * every) as f64, state.residual_log10()));
        }
        points
    };
    let unit = "log10 of a share";
    panel.series = vec![
        Series::new("β = 1/N", Mark::Line, Colour::Blue, course(Choice::All)).unit(unit),
        Series::new(
            "β = 1/(N − 1)",
            Mark::Dashed,
            Colour::Vermilion,
            course(Choice::Others),
        )
        .unit(unit),
        Series::new(
            "1 − s/N in doubles",
            Mark::Line,
            Colour::Grey,
            in_doubles(every),
        )
        .unit(unit),
        Series::new(
            "the talk: twelve nines",
            Mark::Crosses,
            Colour::Black,
            [(80_000.0, -12.0)],
        )
        .unit(unit),
    ];
    panel
}

/// The same as plain arithmetic has it: it ends at the rounding error.
fn in_doubles(every: u64) -> Vec<(f64, f64)> {
    let (nodes, q) = (f64::from(NODES), 1.0 - 0.01 / f64::from(NODES));
    let (mut s, mut r) = (1.0, nodes - 1.0);
    let mut points = Vec::new();
    for round in 0..=80 * every {
        if round % every == 0 {
            points.push((round as f64, (1.0 - s / nodes).log10()));
        }
        let k = r * (1.0 - f64::powf(q, s));
        s += k;
        r -= k;
    }
    points
}

fn by_servers(effort: Effort) -> Panel {
    let x = Axis::log("servers", 10.0, 10_000.0);
    let mut panel = Panel::new(
        "After 10 rounds, by the number of servers",
        x,
        Axis::percent(SHARE),
    );
    panel.legend = Corner::BottomLeft;
    let sizes: Vec<u32> = (0..=60)
        .map(|n| 10f64.powf(1.0 + f64::from(n) / 20.0).round() as u32)
        .collect();
    let curve = |holders: &dyn Fn(u32) -> f64| -> Vec<_> {
        let point = |&n: &u32| (f64::from(n), coverage_percent(n, holders(n), 0.0, 10));
        sizes.iter().map(point).collect()
    };
    let share = curve(&|n| f64::from(n) / 100.0);
    let one = curve(&|_| 1.0);
    let simulated = |share: bool| -> Vec<_> {
        let runs = effort.pick(20, 1_000);
        let point = |n: u32| {
            let holders = if share { f64::from(n / 100) } else { 1.0 };
            let start = Start::holders(holders);
            let summary = simulate(&by_chance(n, 0.0), start, &[10], runs, u64::from(n))[0];
            (f64::from(n), summary.coverage() * 100.0)
        };
        [100, 200, 500, 1_000, 2_000, 5_000].map(point).to_vec()
    };
    panel.series = vec![
        Series::new("1 % hold it at first", Mark::Line, Colour::Blue, share).unit("%"),
        Series::new("1 %, simulated", Mark::Dots, Colour::Blue, simulated(true))
            .unit("%")
            .unlisted(),
        Series::new("one holds it at first", Mark::Line, Colour::Vermilion, one).unit("%"),
        Series::new(
            "one, simulated",
            Mark::Dots,
            Colour::Vermilion,
            simulated(false),
        )
        .unit("%")
        .unlisted(),
    ];
    panel.rules = vec![Rule::Across(97.0, String::new())];
    panel
}

fn spread() -> Panel {
    let x = Axis::percent(SHARE);
    let y = Axis::linear("share of runs, %", 0.0, 30.0);
    let mut panel = Panel::new("How the runs differ after 10 rounds", x, y);
    panel.legend = Corner::TopLeft;
    for (name, loss, colour) in [
        ("no loss", 0.0, Colour::Blue),
        ("50 % lost", 0.5, Colour::Vermilion),
    ] {
        let mut chain = Chain::new(&by_chance(NODES, loss), ONE);
        chain.advance(10);
        // With 100 servers, a server is a percent.
        let points = chain.distribution().iter().enumerate();
        let points: Vec<_> = points.map(|(s, p)| (s as f64, p * 100.0)).collect();
        panel.series.push(
            Series::new(name, Mark::Area, colour, points.clone())
                .unit("%")
                .unlisted(),
        );
        panel
            .series
            .push(Series::new(name, Mark::Line, colour, points).unit("%"));
    }
    panel
}

fn checks(lossless: &Summary, half: &Summary) -> Vec<Check> {
    let percent = |what: &str, ours: f64, reference: f64, source: &str| {
        Check::new(what, "%", ours, reference, source)
    };
    let mut checks = vec![
        percent(
            "10 rounds, no loss",
            coverage_percent(NODES, 1.0, 0.0, 10),
            97.0,
            TALK,
        ),
        percent(
            "10 rounds, 50 % lost",
            coverage_percent(NODES, 1.0, 0.5, 10),
            40.0,
            TALK,
        ),
        percent(
            "10 rounds, no loss",
            coverage_percent(NODES, 1.0, 0.0, 10),
            96.5190856144,
            CALCULATOR,
        ),
        percent(
            "10 rounds, 51 % lost",
            coverage_percent(NODES, 1.0, 0.51, 10),
            37.2238337830,
            CALCULATOR,
        ),
        percent(
            "10 rounds, 50 % lost",
            coverage_percent(NODES, 1.0, 0.5, 10),
            38.95,
            CALCULATOR,
        ),
        percent(
            "simulated mean, no loss",
            lossless.coverage() * 100.0,
            96.7,
            SIMULATED,
        ),
        percent(
            "simulated standard deviation, no loss",
            lossless.stddev * 100.0,
            2.0,
            SIMULATED,
        ),
        percent(
            "simulated mean, 50 % lost",
            half.coverage() * 100.0,
            37.9,
            SIMULATED,
        ),
        percent(
            "simulated standard deviation, 50 % lost",
            half.stddev * 100.0,
            15.5,
            SIMULATED,
        ),
    ];
    for (nodes, holders, reference) in [
        (20, 0.2, 97.0),
        (10_000, 100.0, 96.4),
        (200, 1.0, 91.1),
        (1_000, 1.0, 56.0),
    ] {
        let what = format!("10 rounds, no loss, {holders} of {nodes} servers hold it at first");
        let ours = coverage_percent(nodes, holders, 0.0, 10);
        checks.push(percent(&what, ours, reference, CALCULATOR));
    }
    for (choice, beta) in [(Choice::All, "1/N"), (Choice::Others, "1/(N − 1)")] {
        let exchange = Exchange {
            choice,
            ..Exchange::of_the_paper(NODES, 0.99)
        };
        let mut state = Recurrence::new(exchange, ONE);
        state.advance(80_000);
        let what = format!("share without it after 80,000 rounds, 99 % lost, β = {beta}");
        let source = format!("{TALK}: 99.9999999999 %");
        checks.push(Check::new(
            &what,
            "log10",
            state.residual_log10(),
            -12.0,
            &source,
        ));
    }
    checks
}
