//! The rows that need varnishds: one file per group, each run for itself, so that one that fails
//! (an old VMOD, a missing competitor) leaves the others.

mod bans;
pub mod fleet;
mod hits;
mod keys;
mod memory;
pub mod sides;
mod urls;

use std::error::Error;
use std::time::Instant;

use crate::Arguments;
use crate::report::Report;

/// What each group gets.
pub struct Bench<'a> {
    /// What was asked for.
    pub arguments: &'a Arguments,
    /// Where the rows go.
    pub report: Report,
}

type Group = fn(&mut Bench<'_>) -> Result<(), Box<dyn Error>>;

const GROUPS: [(&str, Group); 6] = [
    ("urls", urls::run),
    ("bans", bans::run),
    ("keys", keys::run),
    ("hits", hits::run),
    ("memory", memory::run),
    ("fleet", fleet::run),
];

const ABOUT: &str = "\
All sides: one varnishd each with the same parameters and storage, filled with the same small objects; one\n\
client thread on the same machine; sides take turns, and the one that begins changes from run to run.";

/// Runs all groups, or those asked for; false if one failed.
pub fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    arguments.check_only(&GROUPS.map(|(name, _)| name))?;
    let mut bench = Bench {
        arguments,
        report: Report::new("engine", &arguments.out, ABOUT)?,
    };
    let mut all = true;
    for (name, group) in GROUPS {
        if !arguments.wants(name) {
            continue;
        }
        let begin = Instant::now();
        if let Err(error) = group(&mut bench) {
            bench.report.say(&format!("! {name}: left out: {error}"))?;
            all = false;
        }
        eprintln!("[{name}: {:.0} s]", begin.elapsed().as_secs_f64());
    }
    Ok(all)
}

/// A number of objects for people: 100,000.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
