//! Two varnishds that do the same in turns.

use std::error::Error;

use crate::load::{LoadError, Run};
use crate::report::{Better, Report, Row};
use crate::servers::Server;

/// What is compared with what.
pub struct Pair<'a> {
    /// What is done, for people.
    pub what: String,
    /// Ours.
    pub ours: &'a Server,
    /// The other one.
    pub theirs: &'a Server,
    /// What that is, for people.
    pub against: &'static str,
}

/// Rates, latencies and, where it can be known, CPU time of one side.
#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    cpu: Vec<f64>,
}

/// Has both sides do the same `rounds` times, in turns, and adds rows for rate, p50, p99 and varnishd's
/// CPU time for one request.
pub fn compare(
    report: &mut Report,
    pair: &Pair<'_>,
    rounds: usize,
    measure: impl Fn(usize, &Server) -> Result<Run, LoadError>,
) -> Result<(), Box<dyn Error>> {
    let mut figures = [Figures::default(), Figures::default()];
    for round in 0..rounds {
        for (side, server) in turns(round, (0, pair.ours), (1, pair.theirs)) {
            let before = server.cpu()?;
            let mut run = measure(round, server)?;
            let figures = &mut figures[side];
            if let (Some(before), Some(after)) = (before, server.cpu()?) {
                let used = after.saturating_sub(before).as_secs_f64();
                figures.cpu.push(used * 1e6 / run.latencies.len() as f64);
            }
            figures.rate.push(run.rate());
            figures.p50.push(run.latencies.quantile_us(0.5));
            figures.p99.push(run.latencies.quantile_us(0.99));
        }
    }
    let [our, their] = figures;
    let rows = [
        ("", "/s", Better::More, our.rate, their.rate),
        (": p50", "µs", Better::Less, our.p50, their.p50),
        (": p99", "µs", Better::Less, our.p99, their.p99),
        (": CPU of varnishd", "µs", Better::Less, our.cpu, their.cpu),
    ];
    for (end, unit, better, ours, theirs) in rows {
        if !ours.is_empty() {
            report.row(&Row {
                metric: format!("{}{end}", pair.what),
                unit,
                better,
                ours,
                against: Some((pair.against, theirs)),
            })?;
        }
    }
    Ok(())
}

/// Both sides' turns of a round, ours first in every other one.
pub fn turns<T>(round: usize, ours: T, theirs: T) -> [T; 2] {
    if round % 2 == 0 {
        [ours, theirs]
    } else {
        [theirs, ours]
    }
}
