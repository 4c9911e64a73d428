//! The four incidents that Powderhorn's authors tell of, replayed with the production core.
//!
//! Each is a scenario file. Drawn is what the slides draw: purges applied per second and node, repairs
//! per second and node, and the 95th percentile of latency, for nodes that the fault is about and
//! others; a purge counts at the time at which it was applied. The marks are checked at the file's rate
//! and at 1,000 purges/s, there with the limits on repairs that [`crate::size`] recommends.

use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::{Effort, FigureError};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Must, Panel, Series};
use crate::record::{self, Histogram, Recorder};
use crate::scenario::{Report, Scenario, ScenarioError};
use crate::size::repair_budgets;
use crate::span::Span;

/// The highest rate that the marks are for, in purges/s.
const FAST: f64 = 1_000.0;
/// How long after the end of a fault all that is older must have arrived, in s.
const HEALED_S: f64 = 30.0;

const WORLD: &str = include_str!("../../scenarios/worlds/four-sites.toml");

struct Incident {
    name: &'static str,
    file: &'static str,
    title: &'static str,
    /// What the slides or the blog post say came of it.
    said: &'static str,
    /// Groups of the scenario that are drawn; the first is the one that it is about.
    groups: &'static [(&'static str, Colour)],
    /// A word for each fault, in the order of the file.
    faults: &'static [&'static str],
    /// What is asked of the first group during each fault, with the percentile and the latency in s.
    marks: &'static [(&'static str, f64, f64)],
    /// Times are divided by this for the run at 1,000 purges/s; the marks do not depend on them.
    hurry: f64,
    /// Nothing gets to the first group for a while: what comes afterwards goes far beyond the rate.
    cut_off: bool,
}

const INCIDENTS: [Incident; 4] = [
    Incident {
        name: "firewall",
        file: include_str!("../../scenarios/firewall.toml"),
        title: "Firewall: two servers of a site cut off from everything outside it",
        said: "the blog post and the slides: throughput unchanged, p95 about 10 s",
        groups: &[
            ("affected", Colour::Vermilion),
            ("neighbours", Colour::Green),
            ("unaffected", Colour::Blue),
        ],
        faults: &["cut"],
        marks: &[("p95", 0.95, 3.0), ("max", 1.0, 10.0)],
        hurry: 10.0,
        cut_off: false,
    },
    Incident {
        name: "nyc-london",
        file: include_str!("../../scenarios/nyc-london.toml"),
        title: "New York and London cannot reach each other",
        said: "the slides: recovered purges fill the gap",
        groups: &[
            ("london", Colour::Vermilion),
            ("nyc", Colour::Green),
            ("unaffected", Colour::Blue),
        ],
        faults: &["cut"],
        marks: &[("p95", 0.95, 5.0)],
        hurry: 10.0,
        cut_off: false,
    },
    Incident {
        name: "apac-loss",
        file: include_str!("../../scenarios/apac-loss.toml"),
        title: "Loss at a site, up to 30 %",
        said: "the slides: no noticeable difference in throughput",
        groups: &[
            ("affected", Colour::Vermilion),
            ("unaffected", Colour::Blue),
        ],
        faults: &["15 %", "30 %"],
        marks: &[("p99", 0.99, 2.0)],
        hurry: 10.0,
        cut_off: false,
    },
    Incident {
        name: "ddos",
        file: include_str!("../../scenarios/ddos.toml"),
        title: "Attack on a site: 65 % lost for 8 minutes, later all",
        said: "the blog post: eight minutes, all recovered, p95 below one minute",
        groups: &[("victim", Colour::Vermilion), ("unaffected", Colour::Blue)],
        faults: &["65 % lost", "cut off"],
        marks: &[("p95", 0.95, 60.0)],
        hurry: 1.0,
        cut_off: true,
    },
];

/// Draws a figure for each incident.
pub fn draw(out: &Path, effort: Effort) -> Result<(), FigureError> {
    let mut written = Ok(());
    for incident in &INCIDENTS {
        let run = Run::new(incident, None, effort.pick(20.0, 1.0))?;
        let mut checks = run.checks(incident);
        if effort == Effort::Full {
            checks.extend(Run::new(incident, Some(FAST), incident.hurry)?.checks(incident));
        }
        let figure = Figure {
            name: format!("d_{}", incident.name.replace('-', "_")),
            title: incident.title.to_owned(),
            note: format!(
                "{} nodes of the production core, {} purges/s, default settings. Said of the real \
                 one: {}.",
                run.report.nodes,
                run.rate,
                said_what(incident.said)
            ),
            panels: run.panels(incident),
            checks,
        };
        // A mark that one misses is no reason not to draw the next.
        written = written.and(figure.write(out));
    }
    Ok(written?)
}

/// Without the source, which the JSON names.
fn said_what(said: &str) -> &str {
    said.split_once(": ").map_or(said, |(_, what)| what)
}

/// A finished run and what the file says of it.
struct Run {
    report: Report,
    record: Recorder,
    rate: f64,
    bin_s: f64,
    end_s: f64,
    /// Begin and end of each fault, in s.
    faults: Vec<(f64, f64)>,
}

impl Run {
    /// Runs a scenario file, with another rate if wanted and all its times divided by `hurry`.
    fn new(incident: &Incident, rate: Option<f64>, hurry: f64) -> Result<Run, FigureError> {
        let name = format!("scenarios/{}.toml", incident.name);
        let text = hurried(incident.file, hurry);
        let mut scenario = parse(&name, &text)?;
        if let Some(rate) = rate {
            // As `powderhorn-sim size` says for it; at the files' rate that is the defaults.
            let (peer, all) = repair_budgets(rate);
            scenario.config.limit_repairs(peer as u64, all as u64);
            scenario.traffic.purges_per_second = rate;
        }
        let (report, fleet) = scenario.run(1, &mut |_| ())?;
        Ok(Run {
            report,
            rate: scenario.traffic.purges_per_second,
            bin_s: scenario.bin.0.as_secs_f64(),
            end_s: scenario.duration.0.as_secs_f64(),
            faults: faults(&text),
            record: fleet.record,
        })
    }

    fn group(&self, name: &str) -> (&[record::Span], f64) {
        let mut groups = self.record.groups().iter();
        match groups.position(|group| group == name) {
            Some(at) => {
                let nodes = self.record.nodes_of(at).max(1);
                (self.record.spans(at), nodes as f64)
            }
            None => (&[], 1.0),
        }
    }

    /// Numbers of the bins that lie wholly in a span of time.
    fn bins(&self, (from, to): (f64, f64)) -> std::ops::Range<usize> {
        (from / self.bin_s).ceil() as usize..(to / self.bin_s).floor() as usize
    }

    fn latency(&self, group: &str, during: (f64, f64)) -> Histogram {
        let (spans, _) = self.group(group);
        let mut sum = Histogram::default();
        for span in self.bins(during).filter_map(|bin| spans.get(bin)) {
            sum.merge(&span.latency);
        }
        sum
    }

    /// Purges that a node of the group applied, against those that were issued in the fleet.
    fn throughput(&self, group: &str, during: (f64, f64)) -> f64 {
        let (spans, nodes) = self.group(group);
        let bins = self.bins(during);
        let in_bins = |spans: &[record::Span], of: fn(&record::Span) -> u64| -> u64 {
            bins.clone().filter_map(|bin| spans.get(bin).map(of)).sum()
        };
        let applied = in_bins(spans, |span| span.applied) as f64 / nodes;
        let groups = 0..self.record.groups().len();
        let issued: u64 = groups
            .map(|at| in_bins(self.record.spans(at), |span| span.issued))
            .sum();
        applied / issued.max(1) as f64
    }

    /// How long after `heal` (in s) something that was issued before it can have been applied at last, by
    /// the bins' maxima.
    fn last_straggler_s(&self, heal: f64) -> f64 {
        let mut last: f64 = 0.0;
        for group in 0..self.record.groups().len() {
            for (bin, span) in self.record.spans(group).iter().enumerate() {
                let (begin, end) = (bin as f64 * self.bin_s, (bin + 1) as f64 * self.bin_s);
                if begin >= heal && span.latency.max_ms() / 1e3 >= begin - heal {
                    last = last.max(end - heal);
                }
            }
        }
        last
    }

    fn panels(&self, incident: &Incident) -> Vec<Panel> {
        let minutes = |bin: usize| (bin as f64 + 0.5) * self.bin_s / 60.0;
        let curve = |name: &str, of: &dyn Fn(&record::Span, f64) -> f64| -> Vec<(f64, f64)> {
            let (spans, nodes) = self.group(name);
            let last = (self.end_s / self.bin_s) as usize;
            let spans = spans.iter().take(last).enumerate();
            let points = spans.map(|(bin, span)| (minutes(bin), of(span, nodes)));
            points.filter(|(_, value)| !value.is_nan()).collect()
        };
        let panel = |title: &str, y: Axis, of: &dyn Fn(&record::Span, f64) -> f64| {
            let mut panel = Panel::new(title, self.time(), y);
            panel.spans = self.shades(incident);
            panel.legend = Corner::BottomLeft;
            // The nodes that it is about over the others.
            for (name, colour) in incident.groups.iter().rev() {
                let mut line = Series::new(*name, Mark::Line, *colour, curve(name, of));
                // The first panel's legend is that of all: there it hides nothing.
                line.unlisted = title != "Throughput";
                panel.series.push(line);
            }
            panel
        };
        let rate = |count: u64, nodes: f64| count as f64 / self.bin_s / nodes;
        let applied = match incident.cut_off {
            true => Axis::log("purges/s applied by a node", 1.0, self.rate * 1e3),
            false => Axis::linear("purges/s applied by a node", 0.0, self.rate * 1.6),
        };
        let recovered = match incident.cut_off {
            true => Axis::log("repairs/s received by a node", 0.01, self.rate * 1e3),
            false => {
                let all = incident
                    .groups
                    .iter()
                    .flat_map(|(name, _)| curve(name, &|span, nodes| rate(span.recovered, nodes)));
                let most = all.map(|(_, y)| y).fold(1.0, f64::max);
                Axis::linear("repairs/s received by a node", 0.0, most * 1.4)
            }
        };
        let seconds = |span: &record::Span, share: f64| match span.latency.count() {
            0 => f64::NAN,
            _ => span.latency.quantile_ms(share) / 1e3,
        };
        let latency = |label: &str| Axis::log(label, 0.001, 1_000.0);
        let mut panels = vec![
            panel("Throughput", applied, &|span, nodes| {
                rate(span.applied, nodes)
            }),
            panel("Recovered", recovered, &|span, nodes| {
                rate(span.recovered, nodes)
            }),
            panel("Latency", latency("p95 of latency, s"), &|span, _| {
                seconds(span, 0.95)
            }),
        ];
        let (first, _) = incident.groups[0];
        let mut all = Panel::new(
            format!("Latency of the group \"{first}\""),
            self.time(),
            latency("latency, s"),
        );
        all.spans = self.shades(incident);
        // No latency is that long before something happens.
        all.legend = Corner::TopLeft;
        let shares = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];
        for ((name, share), colour) in shares.into_iter().zip(Colour::CURVES) {
            let points = curve(first, &|span, _| seconds(span, share));
            all.series
                .push(Series::new(name, Mark::Line, colour, points));
        }
        panels.push(all);
        panels
    }

    fn time(&self) -> Axis {
        Axis::linear("time, min", 0.0, self.end_s / 60.0)
    }

    fn shades(&self, incident: &Incident) -> Vec<(f64, f64, String)> {
        let faults = self.faults.iter().zip(incident.faults);
        faults
            .map(|(&(from, to), word)| (from / 60.0, to / 60.0, (*word).to_owned()))
            .collect()
    }

    fn checks(&self, incident: &Incident) -> Vec<Check> {
        let mut checks = Vec::new();
        let at = format!("at {} purges/s", self.rate);
        let mut check =
            |what: String, unit: &str, ours: f64, reference: f64, source: &str, must| {
                let what = format!("{what}, {at}");
                let mut check = Check::new(&what, unit, ours, reference, source);
                check.mark = must;
                checks.push(check);
            };
        check(
            "purges applied, of all that should be".to_owned(),
            "%",
            self.report.coverage * 100.0,
            100.0,
            "our mark: each purge on each node",
            Some(Must::AtLeast(100.0)),
        );
        let (first, _) = incident.groups[0];
        for (&(from, to), word) in self.faults.iter().zip(incident.faults) {
            let of_the_cut = incident.cut_off && *word == "cut off";
            if !of_the_cut {
                let latency = self.latency(first, (from, to));
                for &(name, share, most) in incident.marks {
                    check(
                        format!("{first}: {name} of latency while {word}, at most"),
                        "s",
                        latency.quantile_ms(share) / 1e3,
                        most,
                        incident.said,
                        Some(Must::AtMost(most)),
                    );
                }
                check(
                    format!("{first}: throughput while {word}, of what was issued"),
                    "share",
                    self.throughput(first, (from, to)),
                    1.0,
                    incident.said,
                    None,
                );
            }
            check(
                format!("after {word}: all that is older has arrived, at most"),
                "s",
                self.last_straggler_s(to),
                HEALED_S,
                "our mark",
                Some(Must::AtMost(HEALED_S)),
            );
            check(
                format!("unaffected: throughput while {word}, of what was issued"),
                "share",
                self.throughput("unaffected", (from, to)),
                1.0,
                "our mark: within 5 %",
                Some(Must::AtLeast(0.95)),
            );
            check(
                format!("unaffected: p95 of latency while {word}, against before"),
                "s",
                self.latency("unaffected", (from, to)).quantile_ms(0.95) / 1e3,
                self.latency("unaffected", (0.0, self.faults[0].0))
                    .quantile_ms(0.95)
                    / 1e3,
                "the same run before the incident",
                None,
            );
        }
        checks
    }
}

/// Reads an incident: all of them are in one world.
fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
    Scenario::parse_with(name, text, &|_| Ok(WORLD.to_owned()))
}

/// A scenario file with all its times but those of the network divided.
fn hurried(text: &str, by: f64) -> String {
    let mut file: Table = text.parse().expect("the crate's scenarios are TOML");
    let shorten = |table: &mut Table, key: &str| {
        if let Some(span) = span_of(table, key) {
            let us = (span.as_micros() as f64 / by).round();
            table.insert(key.to_owned(), Value::String(format!("{us}us")));
        }
    };
    shorten(&mut file, "duration");
    shorten(&mut file, "bin");
    if let Some(Value::Array(faults)) = file.get_mut("fault") {
        for fault in faults.iter_mut().filter_map(Value::as_table_mut) {
            shorten(fault, "at");
            shorten(fault, "for");
        }
    }
    file.to_string()
}

fn span_of(table: &Table, key: &str) -> Option<Duration> {
    let span: Span = table.get(key)?.as_str()?.parse().ok()?;
    Some(span.0)
}

/// Begin and end of each fault of a scenario file, in s.
fn faults(text: &str) -> Vec<(f64, f64)> {
    let file: Table = text.parse().expect("the crate's scenarios are TOML");
    let faults = file.get("fault").and_then(Value::as_array);
    let faults = faults.into_iter().flatten().filter_map(Value::as_table);
    let spans = faults.filter_map(|fault| {
        let begin = span_of(fault, "at")?;
        let end = begin + span_of(fault, "for")?;
        Some((begin.as_secs_f64(), end.as_secs_f64()))
    });
    spans.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hurried_file_is_the_same_scenario_in_less_time() {
        let all = INCIDENTS.iter().map(|incident| incident.file);
        for text in all {
            let whole = parse("whole", text).expect("a scenario");
            let text = hurried(text, 4.0);
            let quarter = parse("quarter", &text).expect("a scenario");
            assert_eq!(quarter.duration.0 * 4, whole.duration.0);
            assert_eq!(quarter.nodes(), whole.nodes());
            let last = faults(&text).last().copied().unwrap_or_default();
            assert!(last.1 > last.0 && last.1 <= quarter.duration.0.as_secs_f64());
        }
    }
}
