//! A day's messages in the journal: how fast they go in, what they take on disk and in memory, how long a
//! start takes, and how long a repair that is read from disk, while others come; and what purges in varnishd
//! cost with it.
//!
//! Each part without varnishd runs in a process of its own, so that what it takes in memory is its own too.

mod parts;
mod varnish;

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Arguments;
use crate::report::{Better, Report, Row};

pub use parts::run as run_part;

/// 1,000 a second.
const DAY: u64 = 86_400_000;
/// Fewer leave nothing to be repaired from disk, as the newest 2 million may be in memory.
const PURGES_MIN: u64 = 4_000_000;
/// Streams that the messages come from.
const STREAMS: [u64; 2] = [5, 200];
/// Bytes on disk that a day may take, and then some: nothing is to be evicted.
const BYTES_MAX: u64 = 8 << 30;
/// Messages for the rows with fsync, whose rate is the disk's.
const FSYNC_MESSAGES: u64 = 2_000_000;

type Group = fn(&mut Report, &Path, &Arguments) -> Result<(), Box<dyn Error>>;

const GROUPS: [(&str, Group); 4] = [
    ("day", days),
    ("fsync", fsync),
    ("wait", wait),
    ("varnish", varnish::run),
];

/// Runs all groups of rows, or those asked for.
pub fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    arguments.check_only(&GROUPS.map(|(name, _)| name))?;
    let messages = messages(arguments);
    if messages < PURGES_MIN {
        return Err(format!("--purges: at least {PURGES_MIN}, not {messages}").into());
    }
    let about = format!(
        "{messages} URL purges, as many milliseconds apart, held in the journal. Resident: anonymous memory of a process that\n\
         does nothing else. Cold: after the page cache has let go of the files. A repair: 30 messages in a row that are not\n\
         in memory, from the first question until all of them are there, while 10,000 a second are appended. PURGE: of absent\n\
         objects, in a varnishd with the shipped VCL and nobody to gossip with, beside one that differs in its [journal]."
    );
    let mut report = Report::new("journal", &arguments.out, &about)?;
    let dir = std::path::absolute(&arguments.out)?.join("journal-state");
    for (name, group) in GROUPS {
        if arguments.wants(name) {
            // What an interrupted run has left is nothing to start with.
            let _ = std::fs::remove_dir_all(&dir);
            let result = group(&mut report, &dir, arguments);
            let _ = std::fs::remove_dir_all(&dir);
            result?;
        }
    }
    Ok(true)
}

fn messages(arguments: &Arguments) -> u64 {
    arguments.purges.unwrap_or(DAY)
}

fn days(report: &mut Report, dir: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    for streams in STREAMS {
        day(report, dir, streams, messages(arguments), arguments.runs)?;
    }
    Ok(())
}

fn fsync(report: &mut Report, dir: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let messages = messages(arguments).min(FSYNC_MESSAGES).to_string();
    let filled = part(dir, &["fill", "5", &messages, "fsync"])?;
    let metric = "append with fsync, 5 streams".into();
    row(report, metric, "/s", Better::More, &filled["rates"], None)
}

fn wait(report: &mut Report, dir: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    for sync in ["page-cache", "fsync"] {
        let waited = part(dir, &["wait", &arguments.runs.to_string(), sync])?;
        for quantile in ["p50", "p99"] {
            let metric = format!("one message until it is written, {sync}, {quantile}");
            row(report, metric, "µs", Better::Less, &waited[quantile], None)?;
        }
    }
    Ok(())
}

fn day(
    report: &mut Report,
    dir: &Path,
    streams: u64,
    messages: u64,
    runs: usize,
) -> Result<(), Box<dyn Error>> {
    let of = format!("{streams} streams");
    let filled = part(
        dir,
        &[
            "fill",
            &streams.to_string(),
            &messages.to_string(),
            "page-cache",
        ],
    )?;
    let mark = |value| Some(("mark", value));
    let rate = format!("append, {of}");
    row(
        report,
        rate,
        "/s",
        Better::More,
        &filled["rates"],
        mark(200_000.0),
    )?;
    let bytes = format!("on disk, of a message, {of}");
    row(
        report,
        bytes,
        "B",
        Better::Less,
        &filled["bytes_each"],
        mark(64.0),
    )?;
    let resident = format!("resident at most while all are appended, {of}");
    row(
        report,
        resident,
        "MB",
        Better::Less,
        &filled["resident_mb"],
        mark(300.0),
    )?;
    for cold in ["cold", "warm"] {
        let mut starts: Vec<Value> = Vec::new();
        let mut resident: Vec<Value> = Vec::new();
        for _ in 0..runs {
            let started = part(dir, &["start", cold])?;
            if started["messages"].as_u64() != Some(messages) {
                return Err(format!("not all are held again: {started}").into());
            }
            starts.push(started["seconds"].clone());
            resident.push(started["resident_mb"].clone());
        }
        let metric = format!("start, {cold}, {of}");
        row(report, metric, "s", Better::Less, &starts.into(), mark(5.0))?;
        let metric = format!("resident after a start, {cold}, {of}");
        row(
            report,
            metric,
            "MB",
            Better::Less,
            &resident.into(),
            mark(300.0),
        )?;
    }
    for cold in ["warm", "cold"] {
        let repairs = part(dir, &["repair", cold, &runs.to_string()])?;
        for quantile in ["p50", "p99"] {
            let metric = format!("repair from disk, {cold}, {quantile}, {of}");
            row(report, metric, "µs", Better::Less, &repairs[quantile], None)?;
        }
    }
    Ok(())
}

fn row(
    report: &mut Report,
    metric: String,
    unit: &'static str,
    better: Better,
    values: &Value,
    mark: Option<(&'static str, f64)>,
) -> Result<(), Box<dyn Error>> {
    let one = std::slice::from_ref(values);
    let values = values.as_array().map_or(one, Vec::as_slice);
    let ours: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
    // Without /proc nobody knows what is resident.
    let Some(ours) = ours else {
        return Ok(report.say(&format!("{metric}: not known"))?);
    };
    report.row(&Row {
        metric,
        unit,
        better,
        ours,
        against: mark.map(|(name, value)| (name, vec![value])),
    })?;
    Ok(())
}

/// Runs a part in a process of its own; what it found.
fn part(dir: &Path, words: &[&str]) -> Result<Value, Box<dyn Error>> {
    let output = Command::new(std::env::current_exe()?)
        .arg("journal-part")
        .arg(dir)
        .args(words)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("journal-part {words:?}: {}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
