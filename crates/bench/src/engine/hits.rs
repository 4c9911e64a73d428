//! What having the VMOD costs those who only read: hits and misses per second with it and keys on the
//! objects, against the same varnishd without it.

use std::error::Error;
use std::time::{Duration, Instant};

use super::sides::{Pair, compare};
use super::{Bench, thousands};
use crate::load::{self, Client, Shape};
use crate::servers::{KEYS_HEADER, ORIGIN_HEADER, Options, Server, Side};

/// How long each measurement of hits takes.
const ROUND: Duration = Duration::from_secs(2);
/// Two rounds of each side for each run, because one per cent is little.
const ROUNDS_PER_RUN: usize = 2;
/// Misses of one measurement.
const MISSES: u64 = 40_000;
/// Surrogate keys of each object.
const KEYS: u64 = 5;

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
    let rounds = bench.arguments.runs * ROUNDS_PER_RUN;
    let shapes = [("8 connections", 8, 1), ("8 × 16", 8, 16)];
    for (name, connections, depth) in shapes {
        let shape = Shape { connections, depth };
        let cached = thousands(objects);
        let pair = Pair {
            what: format!("hits, {cached} cached with {KEYS} keys each, {name}"),
            ours: &ours,
            theirs: &stock,
            against: "no VMOD",
        };
        compare(&mut bench.report, &pair, rounds, |_, server| {
            let begin = Instant::now();
            let mut client = Client::connect(server.addr(), shape.connections)?;
            client.run_while(
                shape.depth,
                |_| begin.elapsed() < ROUND,
                // In an order that no cache likes.
                |n, out| {
                    let url = format!("/o/{}", n.wrapping_mul(2_654_435_761) % objects);
                    load::request(out, "GET", &url, &[]);
                },
            )
        })?;
    }
    let xkey = Server::start(Side::Xkey, &Options::default())?;
    for (against, theirs) in [("no VMOD", &stock), ("xkey", &xkey)] {
        let pair = Pair {
            what: format!("misses with {KEYS} keys each, from an origin, 32 × 4"),
            ours: &ours,
            theirs,
            against,
        };
        compare(&mut bench.report, &pair, rounds, |round, server| {
            let shape = Shape {
                connections: 32,
                depth: 4,
            };
            load::run(server.addr(), shape, MISSES, |n, out| {
                let url = format!("/{against}/{round}/{n}").replace(' ', "-");
                let headers = [(KEYS_HEADER, &*keys(n)), (ORIGIN_HEADER, "1")];
                load::request(out, "GET", &url, &headers);
            })
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
