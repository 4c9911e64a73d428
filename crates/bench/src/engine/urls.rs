//! Purges by URL: rate and latency of PURGE through the VMOD, against varnishd's own and against
//! `std.ban()`.

use std::error::Error;

use super::{Bench, thousands, turns};
use crate::load::{self, Run, Shape};
use crate::report::{Better, Row};
use crate::servers::{Options, Server, Side};

/// Purges of one measurement.
const PURGES: u64 = 20_000;
/// Bans of one measurement. `std.ban()` looks through all earlier ones for the same, so more would
/// measure that.
const BANS: u64 = 2_000;

const SHAPES: [(&str, Shape); 3] = [
    ("1 connection", Shape::ONE),
    (
        "8 connections",
        Shape {
            connections: 8,
            depth: 1,
        },
    ),
    (
        "8 connections, 16 under way on each",
        Shape {
            connections: 8,
            depth: 16,
        },
    ),
];

/// Rates and latencies of one side.
#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Figures {
    fn add(&mut self, run: Run) {
        let mut run = run;
        self.rate.push(run.rate());
        self.p50.push(run.latencies.quantile_us(0.5));
        self.p99.push(run.latencies.quantile_us(0.99));
    }
}

/// Adds the rows.
pub fn run(bench: &mut Bench<'_>) -> Result<(), Box<dyn Error>> {
    for &objects in &bench.arguments.objects {
        let ours = Server::start(Side::Powderhorn, &Options::default())?;
        let stock = Server::start(Side::Stock, &Options::default())?;
        for server in [&ours, &stock] {
            server.fill(objects, |n, url, _| *url = format!("/o/{n}"))?;
            server.expect_objects(objects)?;
        }
        for (shape_name, shape) in SHAPES {
            for present in [true, false] {
                let state = if present { "present" } else { "absent" };
                let what = format!(
                    "PURGE, {} cached, {state}, {shape_name}",
                    thousands(objects)
                );
                // Cached objects are purged one after the other, never the same twice.
                let count = PURGES.min(objects / bench.arguments.runs as u64);
                compare(
                    bench,
                    &what,
                    |run, server| purges(server, run, shape, count, present),
                    &ours,
                    &stock,
                    "own PURGE",
                )?;
                if present {
                    let gone = count * bench.arguments.runs as u64;
                    for server in [&ours, &stock] {
                        server.fill(gone, |n, url, _| *url = format!("/o/{n}"))?;
                        server.expect_objects(objects)?;
                    }
                }
            }
        }
        // Last, because the bans stay.
        for (shape_name, shape) in SHAPES {
            let what = format!(
                "PURGE or ban of a URL, {} cached, {shape_name}",
                thousands(objects)
            );
            compare(
                bench,
                &what,
                |run, server| {
                    let method = if server.is(Side::Powderhorn) {
                        "PURGE"
                    } else {
                        "BAN"
                    };
                    let first = run as u64 * BANS;
                    load::run(server.addr(), shape, BANS, |n, out| {
                        load::request(out, method, &format!("/o/{}", first + n), &[]);
                    })
                },
                &ours,
                &stock,
                "std.ban()",
            )?;
        }
    }
    Ok(())
}

fn purges(
    server: &Server,
    run: usize,
    shape: Shape,
    count: u64,
    present: bool,
) -> Result<Run, load::LoadError> {
    let first = run as u64 * count;
    let path = if present { "o" } else { "absent" };
    load::run(server.addr(), shape, count, |n, out| {
        load::request(out, "PURGE", &format!("/{path}/{}", first + n), &[]);
    })
}

/// Has both sides do the same in turns, and adds rows for rate, p50 and p99.
pub fn compare(
    bench: &mut Bench<'_>,
    what: &str,
    measure: impl Fn(usize, &Server) -> Result<Run, load::LoadError>,
    ours: &Server,
    theirs: &Server,
    against: &'static str,
) -> Result<(), Box<dyn Error>> {
    let mut figures = [Figures::default(), Figures::default()];
    for run in 0..bench.arguments.runs {
        for (side, server) in turns(run, (0, ours), (1, theirs)) {
            figures[side].add(measure(run, server)?);
        }
    }
    let [our, their] = figures;
    let rows = [
        ("", "/s", Better::More, our.rate, their.rate),
        (": p50", "µs", Better::Less, our.p50, their.p50),
        (": p99", "µs", Better::Less, our.p99, their.p99),
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
    Ok(())
}
