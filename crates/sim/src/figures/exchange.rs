//! The real exchange: three datagrams that may each be lost, push against push-pull, and what the
//! production core adds to it.
//!
//! All curves are expectations over all runs, from the Markov chain of the number of holders among
//! 100 nodes. The analysis of the paper counts digest, solicit and repair as one message; with 30 %
//! loss, each for itself, 34 % of gossips work rather than 70 %. Three things make up for that: the
//! first dissemination has reached most nodes before the first round; a digest also says what its
//! sender lacks, which is two datagrams instead of three; and the production core does not rely on
//! the rounds alone.

use std::ops::Range;
use std::path::Path;

use powderhorn_protocol::bounds::{REDUNDANT_AGE_MAX, REDUNDANT_MESSAGES_MAX};

use super::{Effort, FigureError};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Rule, Series};
use crate::recurrence::{Recurrence, rounds_until};
use crate::rounds::{Chain, Choice, Exchange, Start, lone_miss_quantile};

const NODES: u32 = 100;
/// Losses in percent that are drawn.
const LOSSES: [f64; 6] = [0.1, 10.0, 30.0, 50.0, 90.0, 99.0];
const SOURCE: &str = "a computation of the same recurrence made before this one";

/// Rounds of 250 ms, the default, in a day, which is how long messages are held by default. The
/// authors' day had 80,000 rounds.
pub const ROUNDS_OF_A_DAY: u64 = 345_600;

/// How often a message is in the datagrams that disseminate it when the node goes on issuing: once
/// itself, and in the next eight ([`REDUNDANT_MESSAGES_MAX`]).
pub const COPIES: u32 = 1 + REDUNDANT_MESSAGES_MAX as u32;

/// Datagrams with a message, the first one included, that have left when `rounds` rounds of 250 ms are over, if the
/// origin goes on issuing `purges_per_second`: a purge's datagram repeats the last eight of 2 s.
fn copies_by(rounds: u64, purges_per_second: f64) -> u32 {
    const ROUND_SECONDS: f64 = 0.25;
    let time = (rounds as f64 * ROUND_SECONDS).min(REDUNDANT_AGE_MAX.as_secs_f64());
    let later = (time * purges_per_second) as u32;
    1 + later.min(COPIES - 1)
}

/// Coverage after 10 rounds among 100 nodes, by the recurrence, in percent: loss in percent, one
/// holder and one leg, one holder and three legs, three legs after a broadcast.
pub const TABLE: [(f64, f64, f64, Option<f64>); 5] = [
    (0.1, 96.75, 96.70, None),
    (10.0, 93.1, 78.3, Some(99.993)),
    (30.0, 74.4, 16.9, Some(98.62)),
    (50.0, 39.8, 3.2, Some(77.8)),
    (99.0, 1.1, 1.0, Some(2.0)),
];

/// Rounds to a residual of 10⁻⁶ after a broadcast to 200 nodes: loss in percent, push, push-pull.
pub const ROUNDS_TO_A_MILLIONTH: [(f64, u64, u64); 3] =
    [(30.0, 38, 13), (50.0, 111, 34), (90.0, 15_885, 1_440)];

/// Push-pull after a broadcast, as far as `rounds`, of an origin that goes on issuing. That gaps are asked for at
/// once is left out: the production core gains little by it where much is lost.
pub fn repeated(loss: f64, purges_per_second: f64, rounds: u64) -> Chain {
    let mut chain = Chain::new(&Exchange::real(NODES, loss, true), Start::broadcast());
    advance(&mut chain, loss, purges_per_second, 0..rounds);
    chain
}

/// Plays these rounds, in each of which the origin sends some of its copies.
fn advance(chain: &mut Chain, loss: f64, purges_per_second: f64, mut rounds: Range<u64>) {
    let copies = |round| copies_by(round, purges_per_second);
    while !rounds.is_empty() && copies(rounds.start) < copies(u64::MAX) {
        chain.advance(1);
        let sent = copies(rounds.start + 1) - copies(rounds.start);
        chain.send(loss.powf(f64::from(sent)));
        rounds.start += 1;
    }
    chain.advance(rounds.end - rounds.start);
}

/// Draws the figure.
pub fn draw(out: &Path, effort: Effort) -> Result<(), FigureError> {
    let per_decade = effort.pick(4, 20);
    let figure = Figure {
        name: "b_exchange".to_owned(),
        title: "The real exchange: digest, solicit and repair, each of which may be lost"
            .to_owned(),
        note: "100 nodes, expectation over all runs; solid: push-pull, dashed: push alone, unless \
               the legend says otherwise."
            .to_owned(),
        panels: vec![
            one_holder(per_decade),
            after_broadcast(per_decade),
            redundancy(per_decade),
            a_day(per_decade),
        ],
        checks: checks(),
    };
    Ok(figure.write(out)?)
}

/// Expected share without the message at about `per_decade` rounds a decade, of an origin that issues so many purges/s
/// more.
fn course(
    exchange: &Exchange,
    start: Start,
    purges_per_second: f64,
    upto: f64,
    per_decade: u32,
) -> Vec<(f64, f64)> {
    let mut chain = Chain::new(exchange, start);
    let mut played = 0;
    let mut points = Vec::new();
    for n in 0.. {
        let rounds = 10f64.powf(f64::from(n) / f64::from(per_decade)).round();
        if rounds > upto {
            break;
        }
        if rounds as u64 > played {
            let next = played..rounds as u64;
            advance(&mut chain, exchange.loss, purges_per_second, next);
            played = rounds as u64;
            points.push((rounds, chain.residual()));
        }
    }
    points
}

fn rounds_axis() -> Axis {
    Axis::log("rounds of gossip", 1.0, 3e6)
}

fn residual_axis() -> Axis {
    Axis::log("share of nodes without it", 1e-12, 1.0)
}

/// Both exchanges at each loss.
fn both(panel: &mut Panel, start: Start, per_decade: u32, value: fn(f64) -> f64, unit: &str) {
    for (percent, colour) in LOSSES.into_iter().zip(Colour::CURVES) {
        for (push_pull, mark, name) in [
            (true, Mark::Line, format!("{percent} % lost")),
            (false, Mark::Dashed, format!("{percent} % lost, push")),
        ] {
            let exchange = Exchange::real(NODES, percent / 100.0, push_pull);
            let points = course(&exchange, start, 0.0, 3e6, per_decade);
            let points = points.into_iter().map(|(x, y)| (x, value(y)));
            let mut series = Series::new(name, mark, colour, points).unit(unit);
            series.unlisted = !push_pull;
            panel.series.push(series);
        }
    }
}

fn one_holder(per_decade: u32) -> Panel {
    let y = Axis::percent("nodes with the message, %");
    let mut panel = Panel::new(
        "One node holds it (colours as on the right)",
        rounds_axis(),
        y,
    );
    both(
        &mut panel,
        Start::holders(1.0),
        per_decade,
        |y| (1.0 - y) * 100.0,
        "%",
    );
    panel
        .series
        .iter_mut()
        .for_each(|series| series.unlisted = true);
    panel
}

fn after_broadcast(per_decade: u32) -> Panel {
    // The left panel has no room for it.
    let mut panel = Panel::new("After one broadcast", rounds_axis(), residual_axis());
    both(&mut panel, Start::broadcast(), per_decade, |y| y, "share");
    panel
}

fn redundancy(per_decade: u32) -> Panel {
    let title = "What our redundancy adds to push-pull";
    let mut panel = Panel::new(
        title,
        Axis::log("rounds of gossip", 1.0, 1e5),
        residual_axis(),
    );
    panel.legend = Corner::TopRight;
    for (percent, colour) in [
        (30.0, Colour::Green),
        (50.0, Colour::Purple),
        (90.0, Colour::Orange),
    ] {
        let loss = percent / 100.0;
        let exchange = Exchange::real(NODES, loss, true);
        let of = |rate| course(&exchange, Start::broadcast(), rate, 1e4, per_decade);
        let name = format!("{percent} %, plain");
        panel
            .series
            .push(Series::new(name, Mark::Dashed, colour, of(0.0)).unit("share"));
        let points = of(6.25);
        let name = format!("{percent} %, ours");
        panel
            .series
            .push(Series::new(name, Mark::Line, colour, points).unit("share"));
    }
    panel
}

fn a_day(per_decade: u32) -> Panel {
    let x = Axis::log("rounds of gossip", 1e2, 1e6);
    let mut panel = Panel::new(
        "99 % lost; dotted: 80,000 rounds, and a day's",
        x,
        residual_axis(),
    );
    panel.legend = Corner::BottomLeft;
    let curves = [
        ("push", Mark::Dashed, Colour::Grey, false, 0.0),
        ("push-pull", Mark::Dashed, Colour::Blue, true, 0.0),
        ("9 copies sent", Mark::Line, Colour::Green, true, 50.0),
    ];
    for (name, mark, colour, push_pull, rate) in curves {
        let exchange = Exchange::real(NODES, 0.99, push_pull);
        let points = course(&exchange, Start::broadcast(), rate, 1e6, per_decade);
        panel
            .series
            .push(Series::new(name, mark, colour, points).unit("share"));
    }
    panel.rules = vec![
        Rule::Upright(80_000.0, String::new()),
        Rule::Upright(ROUNDS_OF_A_DAY as f64, String::new()),
    ];
    panel
}

/// Coverage in percent by the recurrence after some rounds.
pub fn coverage_percent(exchange: Exchange, start: Start, rounds: u64) -> f64 {
    let mut state = Recurrence::new(exchange, start);
    state.advance(rounds);
    state.coverage() * 100.0
}

fn checks() -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |what: String, unit: &str, ours: f64, reference: f64, source: &str| {
        checks.push(Check::new(what, unit, ours, reference, source));
    };
    let one = Start::holders(1.0);
    for (percent, one_leg, three_legs, broadcast) in TABLE {
        let exchange = Exchange::real(NODES, percent / 100.0, false);
        let single = Exchange {
            choice: Choice::Others,
            ..Exchange::of_the_paper(NODES, percent / 100.0)
        };
        let what = |how: &str| format!("10 rounds, push, {percent} % lost, {how}");
        let ours = coverage_percent(single, one, 10);
        check(what("one holder, one leg"), "%", ours, one_leg, SOURCE);
        let ours = coverage_percent(exchange, one, 10);
        check(
            what("one holder, three legs"),
            "%",
            ours,
            three_legs,
            SOURCE,
        );
        if let Some(reference) = broadcast {
            let ours = coverage_percent(exchange, Start::broadcast(), 10);
            check(
                what("after a broadcast, three legs"),
                "%",
                ours,
                reference,
                SOURCE,
            );
        }
    }
    for (percent, push, push_pull) in ROUNDS_TO_A_MILLIONTH {
        for (both_ways, how, reference) in [(false, "push", push), (true, "push-pull", push_pull)] {
            let exchange = Exchange::real(200, percent / 100.0, both_ways);
            let rounds = rounds_until(exchange, Start::broadcast(), 1e-6, 1_000_000);
            let ours = rounds.map_or(f64::NAN, |rounds| rounds as f64);
            let what = format!("until 10⁻⁶ of 200 nodes lack it, {percent} % lost, {how}");
            check(what, "rounds", ours, reference as f64, SOURCE);
        }
    }
    for (push_pull, how, p95, p999, rounds_80k) in [
        (false, "push", 3.0, 6.9, 1.1),
        (true, "push-pull", 0.88, 1.0, 97.2),
    ] {
        let lossless = Exchange::real(200, 0.0, push_pull);
        for (name, share, reference) in [("p95", 0.95, p95), ("p99.9", 0.999, p999)] {
            let ours = lone_miss_quantile(&lossless, share);
            check(
                format!("lone miss mended, {name}, {how}"),
                "rounds",
                ours,
                reference,
                SOURCE,
            );
        }
        let exchange = Exchange::real(NODES, 0.99, push_pull);
        let what = format!("80,000 rounds, one holder, 99 % lost, {how}");
        check(
            what,
            "%",
            coverage_percent(exchange, one, 80_000),
            rounds_80k,
            SOURCE,
        );
    }
    // The twelve nines of the talk, and how the production core comes by them.
    let talk = "the talk \"Prototypes, Papers, and Production\": 99.9999999999 %";
    for (what, rate) in [
        ("push-pull after one broadcast", 0.0),
        ("the same, 9 copies sent, 125 purges/s of the fleet", 6.25),
        ("the same, 9 copies sent, 1,000 purges/s of the fleet", 50.0),
    ] {
        for rounds in [80_000, ROUNDS_OF_A_DAY] {
            let ours = repeated(0.99, rate, rounds).residual().log10();
            let what = format!("share without it, 99 % lost, {rounds} rounds, {what}");
            check(what, "log10", ours, -12.0, talk);
        }
    }
    checks
}
