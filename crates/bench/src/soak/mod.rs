//! Very many purges: does the last one cost what the first did?
//!
//! Each tenth of a soak is cut into blocks, and what counts is the median of the blocks' quantiles: a
//! neighbour on the machine who is busy for some seconds is not age.

pub mod core;
pub mod varnish;

use std::error::Error;

use crate::report::{Better, Report, Row};
use crate::stats::{Samples, median};

/// Parts of a tenth that quantiles are taken of.
pub const BLOCKS: u64 = 100;
/// How much more the last tenth may take than the first.
const RATIO_MAX: f64 = 1.1;
/// How much more memory there may be at the end than after the first tenth.
const GROWTH_MAX: f64 = 1.05;

/// Of these there is one for each block. The last is not compared: one pause of the machine makes it.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];
/// Those that are compared.
const COMPARED: [usize; 2] = [1, 2];

/// What a tenth of a soak took.
#[derive(Clone, Debug)]
pub struct Tenth {
    /// For each kind of sample and each quantile: of the blocks, in µs.
    quantiles: Vec<[Vec<f64>; QUANTILES.len()]>,
    /// Purges a second of real time.
    pub rate: f64,
    /// Memory by process, in bytes: at its end, or the most in it.
    pub resident: Vec<Option<u64>>,
}

impl Tenth {
    /// With so many kinds of samples.
    pub fn new(kinds: usize) -> Tenth {
        Tenth {
            quantiles: vec![Default::default(); kinds],
            rate: 0.0,
            resident: Vec::new(),
        }
    }

    /// Adds a block, which has samples of each kind, and empties it.
    pub fn block(&mut self, samples: &mut [Samples]) {
        for (quantiles, samples) in self.quantiles.iter_mut().zip(samples) {
            if samples.len() > 0 {
                for (values, (_, q)) in quantiles.iter_mut().zip(QUANTILES) {
                    values.push(samples.quantile_us(q));
                }
            }
            samples.clear();
        }
    }

    fn value(&self, kind: usize, at: usize) -> f64 {
        let values = &self.quantiles[kind][at];
        match QUANTILES[at].1 {
            1.0 => values.iter().copied().fold(0.0, f64::max),
            _ => median(values),
        }
    }
}

/// Shows the tenths and adds rows that compare the last with the first; whether there is no drift.
/// `kinds` names the samples, `processes` whose memory it is.
pub fn judge(
    report: &mut Report,
    kinds: &[&str],
    processes: &[&str],
    tenths: &[Tenth],
) -> Result<bool, Box<dyn Error>> {
    let (Some(first), Some(last)) = (tenths.first(), tenths.last()) else {
        return Err("no tenths".into());
    };
    for (kind, name) in kinds.iter().enumerate() {
        report.say(&format!(
            "\n{name}, µs\ntenth        p50       p95       p99       max"
        ))?;
        for (n, tenth) in tenths.iter().enumerate() {
            let values = (0..QUANTILES.len()).map(|at| format!(" {:>9.3}", tenth.value(kind, at)));
            report.say(&format!("{:>5}  {}", n + 1, values.collect::<String>()))?;
        }
    }
    report.say(&format!(
        "\ntenth   purges/s   memory in MB: {}",
        processes.join(", ")
    ))?;
    for (n, tenth) in tenths.iter().enumerate() {
        let memory = tenth.resident.iter().map(|bytes| {
            bytes.map_or("   not known".into(), |bytes| {
                format!(" {:>9.1}", bytes as f64 / 1e6)
            })
        });
        let memory: String = memory.collect();
        report.say(&format!("{:>5} {:>10.0}  {memory}", n + 1, tenth.rate))?;
    }
    report.say("")?;
    let mut fine = true;
    let mut compare = |report: &mut Report, metric: String, unit, last: f64, first: f64, most| {
        fine &= last <= first * most;
        report.row(&Row {
            metric,
            unit,
            better: Better::Less,
            ours: vec![last],
            against: Some(("first tenth", vec![first])),
        })
    };
    for (kind, name) in kinds.iter().enumerate() {
        for at in COMPARED {
            let metric = format!("{name}: {} of the last tenth", QUANTILES[at].0);
            let (last, first) = (last.value(kind, at), first.value(kind, at));
            compare(report, metric, "µs", last, first, RATIO_MAX)?;
        }
    }
    for (at, name) in processes.iter().enumerate() {
        let memory = |tenth: &Tenth| tenth.resident.get(at).copied().flatten();
        if let (Some(last), Some(first)) = (memory(last), memory(first)) {
            let metric = format!("memory of {name} in the last tenth");
            let (last, first) = (last as f64 / 1e6, first as f64 / 1e6);
            compare(report, metric, "MB", last, first, GROWTH_MAX)?;
        }
    }
    report.row(&Row {
        metric: "purges a second, of the tenths".into(),
        unit: "/s",
        better: Better::More,
        ours: tenths.iter().map(|tenth| tenth.rate).collect(),
        against: None,
    })?;
    Ok(fine)
}
