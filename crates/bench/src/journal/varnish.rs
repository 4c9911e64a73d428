//! PURGE through varnishd and the shipped VCL, which answers when the journal has the purge, beside the same
//! without a journal.

use std::error::Error;
use std::path::Path;

use crate::Arguments;
use crate::engine::sides::{Pair, compare};
use crate::load::{self, Shape};
use crate::report::Report;
use crate::servers::{Options, Server, Side};

/// Purges of one measurement.
const PURGES: u64 = 10_000;
/// Bytes that a purge has in the journal at least: its digest.
const BYTES_LEAST: u64 = 32;

const SHAPES: [(&str, Shape); 2] = [
    ("1 connection", Shape::ONE),
    (
        "8 connections",
        Shape {
            connections: 8,
            depth: 1,
        },
    ),
];

/// Adds the rows. State goes below `dir`, which is to be on a disk: a temporary directory may be in memory.
pub fn run(report: &mut Report, dir: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let none = start(dir, "none", "dir = \"\"")?;
    for (what, fsync) in [("page cache", "never"), ("fsync", "always")] {
        let state = dir.join(format!("state-{fsync}"));
        std::fs::create_dir_all(&state)?;
        // A purge that is not in the journal ends the run: it is answered with 503.
        let journal = format!(
            "dir = \"{}\"\nfsync = \"{fsync}\"\nwait = \"10s\"\nrequire = true",
            state.display()
        );
        let ours = start(dir, fsync, &journal)?;
        for (shape_name, shape) in SHAPES {
            let pair = Pair {
                what: format!("PURGE, journal with {what}, {shape_name}"),
                ours: &ours,
                theirs: &none,
                against: "no journal",
            };
            compare(report, &pair, arguments.runs, |run, server| {
                let first = run as u64 * PURGES;
                load::run(server.addr(), shape, PURGES, |n, out| {
                    load::request(out, "PURGE", &format!("/absent/{}", first + n), &[]);
                })
            })?;
        }
        let purged = PURGES * (SHAPES.len() * arguments.runs) as u64;
        let mut held = 0;
        for entry in std::fs::read_dir(&state)? {
            held += entry?.metadata()?.len();
        }
        if held < purged * BYTES_LEAST {
            return Err(format!("{purged} purges, and {held} bytes in the journal").into());
        }
    }
    Ok(())
}

/// A single node with this `[journal]`.
fn start(dir: &Path, name: &str, journal: &str) -> Result<Server, Box<dyn Error>> {
    std::fs::create_dir_all(dir)?;
    let config = dir.join(format!("{name}.toml"));
    std::fs::write(&config, format!("[journal]\n{journal}\n"))?;
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    Ok(Server::start(Side::Powderhorn, &options)?)
}
