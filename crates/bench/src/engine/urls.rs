//! Purges by URL: rate and latency of PURGE through the VMOD, against varnishd's own and against
//! `std.ban()`.

use std::error::Error;

use super::sides::{Pair, compare};
use super::{Bench, thousands};
use crate::load::{self, Shape};
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
        "8 × 16",
        Shape {
            connections: 8,
            depth: 16,
        },
    ),
];

/// Ways to purge through the VMOD: with the shipped VCL, which hands on what varnishd's own purge has
/// just done; and by the function alone, which does it itself.
const SHIPPED: (&str, &str) = ("PURGE", "PURGE");
const CALL: (&str, &str) = ("purge()", "PURGEURL");

/// Adds the rows.
pub fn run(bench: &mut Bench<'_>) -> Result<(), Box<dyn Error>> {
    let runs = bench.arguments.runs;
    for &objects in &bench.arguments.objects {
        let ours = Server::start(Side::Powderhorn, &Options::default())?;
        let stock = Server::start(Side::Stock, &Options::default())?;
        for server in [&ours, &stock] {
            server.fill(objects, |n, url, _| *url = format!("/o/{n}"))?;
            server.expect_objects(objects)?;
        }
        for ((how, method), (shape_name, shape)) in [
            (SHIPPED, SHAPES[0]),
            (SHIPPED, SHAPES[1]),
            (SHIPPED, SHAPES[2]),
            (CALL, SHAPES[0]),
            (CALL, SHAPES[2]),
        ] {
            for present in [true, false] {
                let state = if present { "present" } else { "absent" };
                let cached = thousands(objects);
                let pair = Pair {
                    what: format!("{how}, {cached} cached, {state}, {shape_name}"),
                    ours: &ours,
                    theirs: &stock,
                    against: "own PURGE",
                };
                // Cached objects are purged one after the other, never the same twice.
                let count = PURGES.min(objects / runs as u64);
                compare(&mut bench.report, &pair, runs, |run, server| {
                    let method = if server.is(Side::Powderhorn) {
                        method
                    } else {
                        "PURGE"
                    };
                    let first = run as u64 * count;
                    let path = if present { "o" } else { "absent" };
                    load::run(server.addr(), shape, count, |n, out| {
                        load::request(out, method, &format!("/{path}/{}", first + n), &[]);
                    })
                })?;
                if present {
                    let gone = count * runs as u64;
                    for server in [&ours, &stock] {
                        server.fill(gone, |n, url, _| *url = format!("/o/{n}"))?;
                        server.expect_objects(objects)?;
                    }
                }
            }
        }
        // Last, because the bans stay.
        for (shape_name, shape) in SHAPES {
            let cached = thousands(objects);
            let pair = Pair {
                what: format!("PURGE or ban of a URL, {cached} cached, {shape_name}"),
                ours: &ours,
                theirs: &stock,
                against: "std.ban()",
            };
            compare(&mut bench.report, &pair, runs, |run, server| {
                let method = if server.is(Side::Powderhorn) {
                    "PURGE"
                } else {
                    "BAN"
                };
                let first = run as u64 * BANS;
                load::run(server.addr(), shape, BANS, |n, out| {
                    load::request(out, method, &format!("/o/{}", first + n), &[]);
                })
            })?;
        }
    }
    bench
        .report
        .say("  8 × 16: 8 connections, 16 requests under way on each")?;
    Ok(())
}
