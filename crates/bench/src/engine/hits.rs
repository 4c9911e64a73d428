//! What having the VMOD costs those who only read: hits and misses per second with it and keys on the
//! objects, against the same varnishd without it.

use std::error::Error;
use std::time::{Duration, Instant};

use super::{Bench, thousands, turns};
use crate::load::{self, Client, LoadError, Shape};
use crate::report::{Better, Row};
use crate::servers::{KEYS_HEADER, ORIGIN_HEADER, Options, Server, ServerError, Side};

/// How long each measurement of hits takes.
const ROUND: Duration = Duration::from_secs(2);
/// Two rounds of each side for each run, because one per cent is little.
const ROUNDS_PER_RUN: usize = 2;
/// Misses of one measurement.
const MISSES: u64 = 40_000;
/// Surrogate keys of each object.
const KEYS: u64 = 5;

/// Rates and, where it can be known, CPU time per request.
#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    cpu_us: Vec<f64>,
}

/// Adds the rows.
pub fn run(bench: &mut Bench<'_>) -> Result<(), Box<dyn Error>> {
    let objects = *bench.arguments.objects.iter().min().ok_or("no sizes")?;
    let ours = Server::start(Side::Powderhorn, &Options::default())?;
    let stock = Server::start(Side::Stock, &Options::default())?;
    for server in [&ours, &stock] {
        server.fill(objects, |n, url, keys| {
            *url = format!("/o/{n}");
            *keys = self::keys(n);
        })?;
        server.expect_objects(objects)?;
    }
    let shapes = [("", 8, 1), (", 16 under way on each", 8, 16)];
    for (name, connections, depth) in shapes {
        let shape = Shape { connections, depth };
        let what = format!(
            "hits, {} cached with {KEYS} keys each, 8 connections{name}",
            thousands(objects)
        );
        alternate(bench, &what, &ours, &stock, "no VMOD", |_, server| {
            let begin = Instant::now();
            let mut client = Client::connect(server.addr(), shape.connections)?;
            let run = client.run_while(
                shape.depth,
                |_| begin.elapsed() < ROUND,
                // In an order that no cache likes.
                |n, out| {
                    let url = format!("/o/{}", n.wrapping_mul(2_654_435_761) % objects);
                    load::request(out, "GET", &url, &[]);
                },
            )?;
            Ok((run.rate(), run.latencies.len()))
        })?;
    }
    let xkey = Server::start(Side::Xkey, &Options::default())?;
    for (against, theirs) in [("no VMOD", &stock), ("xkey", &xkey)] {
        let what = format!("misses with {KEYS} keys each, 32 connections, from an origin");
        alternate(bench, &what, &ours, theirs, against, |round, server| {
            let shape = Shape {
                connections: 32,
                depth: 4,
            };
            let run = load::run(server.addr(), shape, MISSES, |n, out| {
                let url = format!("/{against}/{round}/{n}").replace(' ', "-");
                let headers = [(KEYS_HEADER, &*keys(n)), (ORIGIN_HEADER, "1")];
                load::request(out, "GET", &url, &headers);
            })?;
            Ok((run.rate(), run.latencies.len()))
        })?;
    }
    Ok(())
}

fn keys(n: u64) -> String {
    let keys: Vec<_> = (0..KEYS)
        .map(|k| format!("key-{}", (n * KEYS + k) * 2_654_435_761 % 20_011))
        .collect();
    keys.join(" ")
}

fn alternate(
    bench: &mut Bench<'_>,
    what: &str,
    ours: &Server,
    theirs: &Server,
    against: &'static str,
    measure: impl Fn(usize, &Server) -> Result<(f64, usize), LoadError>,
) -> Result<(), Box<dyn Error>> {
    let mut figures = [Figures::default(), Figures::default()];
    for round in 0..bench.arguments.runs * ROUNDS_PER_RUN {
        for (side, server) in turns(round, (0, ours), (1, theirs)) {
            let cpu = cpu(server)?;
            let (rate, done) = measure(round, server)?;
            figures[side].rate.push(rate);
            if let (Some(before), Some(after)) = (cpu, self::cpu(server)?) {
                let used = after.saturating_sub(before);
                figures[side]
                    .cpu_us
                    .push(used.as_secs_f64() * 1e6 / done as f64);
            }
        }
    }
    let [our, their] = figures;
    bench.report.row(&Row {
        metric: what.to_owned(),
        unit: "/s",
        better: Better::More,
        ours: our.rate,
        against: Some((against, their.rate)),
    })?;
    if !our.cpu_us.is_empty() {
        bench.report.row(&Row {
            metric: format!("{what}: varnishd's CPU for one"),
            unit: "µs",
            better: Better::Less,
            ours: our.cpu_us,
            against: Some((against, their.cpu_us)),
        })?;
    }
    Ok(())
}

fn cpu(server: &Server) -> Result<Option<Duration>, ServerError> {
    server.cpu()
}
