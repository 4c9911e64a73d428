//! Measures Powderhorn beside what it is compared with, in one run on one machine.
//!
//! ```text
//! powderhorn-bench engine [--objects 100000,1000000] [--runs 5] [--only urls,bans,keys,hits,memory,fleet] [--out DIR]
//! powderhorn-bench soak [--purges 100000000] [--assert] [--out DIR]
//! powderhorn-bench soak-varnish [--purges 10000000] [--assert] [--out DIR]
//! powderhorn-bench journal [--purges 86400000] [--runs 5] [--only day,fsync,wait,varnish] [--out DIR]
//! ```
//!
//! `engine` starts real varnishds; what they are told is in `servers.rs`, and what is measured in one
//! file of `engine/` per group of rows. The soaks send very many purges and look whether the last cost
//! what the first did: `soak` in this process, through decoder, core and engine; `soak-varnish` through
//! two varnishds. `journal` holds a day's purges on disk,
//! and has varnishds purge with and without that.
//!
//! Rows go to a table and to `DIR/<bench>.jsonl` (default: target/bench). The VMOD is found next to this
//! program or in `POWDERHORN_VMOD`. With --assert a soak fails when it finds a drift.
#![forbid(unsafe_code)]

mod engine;
mod journal;
mod load;
mod origin;
mod report;
mod servers;
mod soak;
mod stats;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "usage: powderhorn-bench engine|soak|soak-varnish|journal [--objects N,N] [--runs N] \
                     [--only GROUP,GROUP] [--purges N] [--assert] [--out DIR]";

/// What was asked for on the command line.
pub struct Arguments {
    /// Sizes of the caches that are measured.
    pub objects: Vec<u64>,
    /// How often each row is measured.
    pub runs: usize,
    /// Groups of rows; empty for all.
    pub only: Vec<String>,
    /// Purges of a soak, or held in the journal.
    pub purges: Option<u64>,
    /// Whether a soak fails when it finds a drift.
    pub assert: bool,
    /// Where the results go.
    pub out: PathBuf,
}

impl Arguments {
    /// Whether a group of rows is asked for.
    pub fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == group)
    }

    /// Refuses groups that a benchmark does not have.
    pub fn check_only(&self, groups: &[&str]) -> Result<(), String> {
        let unknown = self
            .only
            .iter()
            .find(|only| !groups.contains(&only.as_str()));
        unknown.map_or(Ok(()), |unknown| {
            Err(format!("no such group of rows: {unknown}"))
        })
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    if command == "journal-part" {
        // Only the benchmark of the journal itself calls this.
        return match journal::run_part(&words.collect::<Vec<_>>()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("powderhorn-bench: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let arguments = match parse(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("powderhorn-bench: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let result = match command.as_str() {
        "engine" => engine::run(&arguments),
        "soak" => soak::core::run(&arguments),
        "soak-varnish" => soak::varnish::run(&arguments),
        "journal" => journal::run(&arguments),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("powderhorn-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, Box<dyn Error>> {
    let mut arguments = Arguments {
        objects: vec![100_000, 1_000_000],
        runs: 5,
        only: Vec::new(),
        purges: None,
        assert: false,
        out: "target/bench".into(),
    };
    while let Some(word) = words.next() {
        if word == "--assert" {
            arguments.assert = true;
            continue;
        }
        let value = words.next().ok_or(format!("{word} wants a value"))?;
        match word.as_str() {
            "--objects" => {
                let sizes = value.split(',').map(str::parse).collect::<Result<_, _>>();
                arguments.objects = sizes.map_err(|e| format!("--objects {value}: {e}"))?;
            }
            "--runs" => arguments.runs = value.parse().map_err(|e| format!("--runs: {e}"))?,
            "--only" => arguments.only = value.split(',').map(str::to_owned).collect(),
            "--purges" => {
                let purges = value.parse().map_err(|e| format!("--purges: {e}"))?;
                arguments.purges = Some(purges);
            }
            "--out" => arguments.out = value.into(),
            _ => return Err(format!("{word} is not known").into()),
        }
    }
    if arguments.runs == 0 || arguments.objects.iter().any(|&n| n < 10_000) {
        return Err("at least one run, and caches of 10,000 objects or more".into());
    }
    Ok(arguments)
}
