//! What a hit costs after purges and after bans: each object's first hit, which is tested against all
//! bans that are newer than the object.

use std::error::Error;

use super::{Bench, thousands};
use crate::load::{self, Shape};
use crate::report::{Better, Row};
use crate::servers::{Options, Server, Side};

/// Hits of one measurement, each of another object.
const HITS: u64 = 2_000;
/// How many purges, or bans, come before the hits.
const STEPS: [u64; 3] = [0, 1_000, 10_000];

/// One connection for what a hit takes, eight for how many there are in a second.
const SHAPES: [Shape; 2] = [
    Shape::ONE,
    Shape {
        connections: 8,
        depth: 1,
    },
];

#[derive(Default)]
struct Figures {
    p50: Vec<f64>,
    p99: Vec<f64>,
    rate: Vec<f64>,
}

/// Adds the rows.
pub fn run(bench: &mut Bench<'_>) -> Result<(), Box<dyn Error>> {
    let objects = *bench.arguments.objects.iter().min().ok_or("no sizes")?;
    // Without the lurker, which would take the bans away while they are measured.
    let options = Options {
        params: vec![("ban_lurker_sleep", "0")],
        ..Options::default()
    };
    let ours = Server::start(Side::Powderhorn, &options)?;
    let theirs = Server::start(Side::Stock, &options)?;
    let mut figures: [[Figures; 2]; STEPS.len()] = Default::default();
    for server in [&ours, &theirs] {
        server.fill(objects, |n, url, _| *url = format!("/o/{n}"))?;
    }
    let mut done = 0;
    for (step, invalidations) in STEPS.into_iter().enumerate() {
        for (server, method) in [(&ours, "PURGE"), (&theirs, "BAN")] {
            // Nothing that is cached: both only leave their traces.
            load::run(server.addr(), Shape::ONE, invalidations - done, |n, out| {
                load::request(out, method, &format!("/absent/{}", done + n), &[]);
            })?;
        }
        done = invalidations;
        let runs = bench.arguments.runs as u64;
        let shapes = SHAPES.len() as u64;
        let hits = HITS.min(objects / (runs * shapes * STEPS.len() as u64));
        for run in 0..runs {
            for (side, server) in super::sides::turns(run as usize, (0, &ours), (1, &theirs)) {
                for (kind, shape) in SHAPES.into_iter().enumerate() {
                    // Objects that were not asked for since they were fetched.
                    let measurement = (step as u64 * runs + run) * shapes + kind as u64;
                    let first = measurement * hits;
                    let mut run = load::run(server.addr(), shape, hits, |n, out| {
                        load::request(out, "GET", &format!("/o/{}", first + n), &[]);
                    })?;
                    let figures = &mut figures[step][side];
                    if shape.connections == 1 {
                        figures.p50.push(run.latencies.quantile_us(0.5));
                        figures.p99.push(run.latencies.quantile_us(0.99));
                    } else {
                        figures.rate.push(run.rate());
                    }
                }
            }
        }
    }
    let measurements = (STEPS.len() * SHAPES.len() * bench.arguments.runs) as u64;
    let hits = HITS.min(objects / measurements) * measurements;
    for server in [&ours, &theirs] {
        server.wait_counter("MAIN.cache_hit", hits)?;
    }
    let bans = theirs.counter("MAIN.bans")?;
    if bans < STEPS[STEPS.len() - 1] {
        return Err(format!("only {bans} bans are live").into());
    }
    let base = crate::stats::median(&figures[0][0].p50);
    let their_base = crate::stats::median(&figures[0][1].p50);
    for (step, [our, their]) in STEPS.into_iter().zip(figures) {
        let what = format!("an object's first hit after {} purges", thousands(step));
        let against = ["0 bans", "1,000 live bans", "10,000 live bans"]
            [STEPS.iter().position(|&s| s == step).unwrap_or(0)];
        // What is below the resolution of the comparison counts as that.
        let added = |p50: &[f64], base: f64| p50.iter().map(|p| (p - base).max(1.0)).collect();
        let cost = Row {
            metric: format!("{what}: p50 above none, 1 µs at least"),
            unit: "µs",
            better: Better::Less,
            ours: added(&our.p50, base),
            against: Some((against, added(&their.p50, their_base))),
        };
        let rows = [
            (": p50", "µs", Better::Less, our.p50, their.p50),
            (": p99", "µs", Better::Less, our.p99, their.p99),
            (
                ", 8 connections",
                "hits/s",
                Better::More,
                our.rate,
                their.rate,
            ),
        ];
        for (end, unit, better, ours, theirs) in rows {
            bench.report.row(&Row {
                metric: format!("{what}{end}"),
                unit,
                better,
                ours,
                against: Some((against, theirs)),
            })?;
        }
        if step > 0 {
            bench.report.row(&cost)?;
        }
    }
    Ok(())
}
