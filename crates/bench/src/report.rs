//! How results are shown and kept: a table for people, a line of JSON for each row.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::stats::{median, range};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More is: rates.
    More,
    /// Less is: times and bytes.
    Less,
}

/// What was measured, and of what it was.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is.
    pub metric: String,
    /// Of the values.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Ours, one of each run.
    pub ours: Vec<f64>,
    /// Whose values ours are compared with, and these; nothing if there is nobody to compare with.
    pub against: Option<(&'static str, Vec<f64>)>,
}

impl Row {
    /// Above 1 if we are better.
    fn ratio(&self) -> Option<f64> {
        let (_, theirs) = self.against.as_ref()?;
        let (ours, theirs) = (median(&self.ours), median(theirs));
        Some(match self.better {
            Better::More => ours / theirs,
            Better::Less => theirs / ours,
        })
    }
}

/// A report that grows row by row; what is there already is on disk, too.
pub struct Report {
    bench: &'static str,
    json: File,
    text: File,
}

impl Report {
    /// Makes `<dir>/<bench>.jsonl` and `<dir>/<bench>.txt`, and prints the header.
    pub fn new(bench: &'static str, dir: &Path, about: &str) -> io::Result<Report> {
        std::fs::create_dir_all(dir)?;
        let path = |end: &str| -> PathBuf { dir.join(format!("{bench}.{end}")) };
        let mut report = Report {
            bench,
            json: File::create(path("jsonl"))?,
            text: File::create(path("txt"))?,
        };
        report.say(&header())?;
        report.say(about)?;
        report.say(&format!(
            "Ratio > 1: we are better. Medians of n in one run; least and most of ours in brackets.\n\n\
             {:<74} {:>11} {:<9} {:>11} {:<14} {:>8} {:>4}",
            "", "ours", "", "theirs", "", "ratio", "n"
        ))?;
        Ok(report)
    }

    /// Adds a row.
    pub fn row(&mut self, row: &Row) -> io::Result<()> {
        let value = median(&row.ours);
        let (least, most) = range(&row.ours);
        let ratio = row.ratio();
        let theirs = row.against.as_ref().map(|(_, values)| median(values));
        let name = row.against.as_ref().map(|(name, _)| *name);
        let (metric, unit) = (&row.metric, row.unit);
        self.say(&format!(
            "{metric:<74} {:>11} {unit:<9} {:>11} {:<14} {:>8} {:>4}  [{} … {}]",
            short(value),
            theirs.map_or(String::new(), short),
            name.unwrap_or("-"),
            ratio.map_or(String::new(), |ratio| format!("{ratio:.3}")),
            row.ours.len(),
            short(least),
            short(most)
        ))?;
        let line = json!({
            "bench": self.bench,
            "metric": metric,
            "value": number(value),
            "unit": unit,
            "against": name,
            "against_value": theirs.map_or(Value::Null, number),
            "ratio": ratio.map_or(Value::Null, number),
            "n": row.ours.len(),
            "min": number(least),
            "max": number(most),
        });
        writeln!(self.json, "{line}")
    }

    /// Says something beside the rows.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        // A reader who has gone away does not end a run of half an hour.
        let _ = writeln!(io::stdout(), "{text}");
        writeln!(self.text, "{text}")
    }
}

/// JSON knows no infinity.
fn number(value: f64) -> Value {
    let rounded = if value.abs() < 100.0 {
        (value * 1e4).round() / 1e4
    } else {
        value.round()
    };
    json!(rounded)
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The machine, the commit and the versions.
fn header() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("processor not known (no /proc)", |model| {
            model.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let system = rustix::system::uname();
    let commit = std::env::var("POWDERHORN_COMMIT").unwrap_or_default();
    let commit = if commit.is_empty() {
        "not known"
    } else {
        &commit
    };
    let first_line = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        let output = output.map_or(Vec::new(), |o| [o.stdout, o.stderr].concat());
        let text = String::from_utf8_lossy(&output).into_owned();
        text.lines().next().unwrap_or("not there").to_owned()
    };
    format!(
        "{model}, {cores} cores, {} {}\npowderhorn {} (commit {commit}), {}, varnish-modules {}",
        system.sysname().to_string_lossy(),
        system.release().to_string_lossy(),
        env!("CARGO_PKG_VERSION"),
        first_line("varnishd", &["-V"]),
        first_line("dpkg-query", &["-W", "-f", "${Version}", "varnish-modules"]),
    )
}
