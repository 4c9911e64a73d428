//! Latency by receiving site in a healthy network, as in the slides' "End-to-End Latency".
//!
//! The scenario is `scenarios/wan.toml`. The upper panels are the slide's: linear axes, one site each.
//! There nearly everything is one hump at each way's length. The lower ones have the logarithm of the
//! same, where the other hump shows that makes the multicast bimodal: what was lost, and came as a
//! repeat or as a repair.

use std::path::Path;
use std::time::Duration;

use super::{Effort, FigureError};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Rule, Series};
use crate::record::{Histogram, Recorder};
use crate::scenario::{Report, Scenario};
use crate::span::Span;

const SCENARIO: &str = include_str!("../../scenarios/wan.toml");
const SLIDE: &str = "the slides, \"End-to-End Latency\": 95th percentile";
const BLOG: &str = "the blog post on building a fast and reliable purging system: loss below 0.1 %";

struct Place {
    group: &'static str,
    title: &'static str,
    colour: Colour,
    slide_p95_ms: f64,
    /// What the scenario has as the way to there that decides the slide's percentile.
    way_ms: f64,
}

const PLACES: [Place; 4] = [
    Place {
        group: "nyc",
        title: "New York",
        colour: Colour::Blue,
        slide_p95_ms: 42.0,
        way_ms: 40.0,
    },
    Place {
        group: "london",
        title: "London",
        colour: Colour::Vermilion,
        slide_p95_ms: 74.0,
        way_ms: 73.0,
    },
    Place {
        group: "sanjose",
        title: "San Jose",
        colour: Colour::Green,
        slide_p95_ms: 83.0,
        way_ms: 82.5,
    },
    Place {
        group: "tokyo",
        title: "Tokyo",
        colour: Colour::Purple,
        slide_p95_ms: 133.0,
        way_ms: 132.5,
    },
];

/// Draws the figure.
pub fn draw(out: &Path, effort: Effort) -> Result<(), FigureError> {
    let mut scenario = Scenario::parse("scenarios/wan.toml", SCENARIO)?;
    scenario.duration = Span(Duration::from_secs(effort.pick(60, 3_600)));
    let (report, fleet) = scenario.run(1, &mut |_| ())?;
    let measured: Vec<(&Place, Histogram)> = PLACES
        .iter()
        .map(|place| (place, received(&fleet.record, place.group)))
        .collect();
    let mut panels: Vec<Panel> = measured.iter().map(|(at, got)| linear(at, got)).collect();
    panels.push(both_humps(&measured));
    panels.push(later_than(&measured));
    let figure = Figure {
        name: "c_latency".to_owned(),
        title: "End-to-end latency by receiving site, in a healthy network".to_owned(),
        note: format!(
            "20 nodes of the production core at five sites (Frankfurt not drawn), 125 purges/s, \
             0.08 % lost, {:.0} min, {} purges.",
            scenario.duration.0.as_secs_f64() / 60.0,
            report.issued
        ),
        panels,
        checks: checks(&report, &fleet.record, &measured),
    };
    Ok(figure.write(out)?)
}

fn received(record: &Recorder, group: &str) -> Histogram {
    let at = record.groups().iter().position(|name| name == group);
    at.map(|at| record.whole(at).latency).unwrap_or_default()
}

fn linear(place: &Place, got: &Histogram) -> Panel {
    let x = Axis::linear("latency, ms", 0.0, 160.0);
    let shares = [0.5, 0.95, 0.99].map(|share| got.quantile_ms(share));
    let [p50, p95, p99] = shares;
    let title = format!(
        "{}: p50 {p50:.0}, p95 {p95:.0}, p99 {p99:.0} ms",
        place.title
    );
    let mut panel = Panel::new(title, x, Axis::linear("share in each ms", 0.0, 0.5));
    panel.legend = Corner::TopRight;
    let density = got.density(1.0, 160.0);
    let area = Series::new("ours", Mark::Area, place.colour, density.clone()).unlisted();
    let line = Series::new("ours", Mark::Line, place.colour, density);
    let slide = Series::new(
        format!("the slides' p95: {:.0} ms", place.slide_p95_ms),
        Mark::Crosses,
        Colour::Black,
        [(place.slide_p95_ms, 0.0)],
    );
    panel.series = vec![
        area.unit("share/ms"),
        line.unit("share/ms"),
        slide.unit("share/ms"),
    ];
    panel.rules = shares.map(|ms| Rule::Upright(ms, String::new())).to_vec();
    panel
}

fn both_humps(measured: &[(&Place, Histogram)]) -> Panel {
    let x = Axis::linear("latency, ms", 0.0, 600.0);
    let y = Axis::log("share in each ms", 1e-8, 1.0);
    let mut panel = Panel::new("Both humps: what was lost comes later", x, y);
    panel.legend = Corner::TopRight;
    // The two ends of the world; all four would hide each other.
    for (place, got) in [&measured[0], &measured[3]] {
        let density = got.density(10.0, 600.0);
        let line = Series::new(place.title, Mark::Step, place.colour, density);
        panel.series.push(line.unit("share/ms"));
    }
    panel
}

fn later_than(measured: &[(&Place, Histogram)]) -> Panel {
    let x = Axis::linear("latency, ms", 0.0, 1_000.0);
    let y = Axis::log("share that takes longer", 1e-7, 1.0);
    let mut panel = Panel::new("What share takes longer", x, y);
    panel.legend = Corner::TopRight;
    for (place, got) in measured {
        let mut left = 1.0;
        let points = got
            .density(1.0, 1_000.0)
            .into_iter()
            .map(|(middle, share)| {
                left -= share;
                (middle + 0.5, left)
            });
        // Below one in all there is nothing but rounding.
        let least = 0.5 / got.count().max(1) as f64;
        let points = points.take_while(|(_, left)| *left > least);
        let line = Series::new(place.title, Mark::Line, place.colour, points);
        panel.series.push(line.unit("share"));
    }
    panel
}

fn checks(report: &Report, record: &Recorder, measured: &[(&Place, Histogram)]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |what: String, unit: &str, ours: f64, reference: f64, source: &str| {
        checks.push(Check::new(what, unit, ours, reference, source));
    };
    for (place, got) in measured {
        let p95 = got.quantile_ms(0.95);
        let what = format!("p95 at {}", place.title);
        check(what, "ms", p95, place.slide_p95_ms, SLIDE);
        check(
            format!("p95 at {}, at most the one-way delay and 2 ms", place.title),
            "ms",
            p95,
            place.way_ms + 2.0,
            "our mark: the scenario's delay and 2 ms",
        );
    }
    let all = record.all();
    let recovered = all.recovered as f64 / all.latency.count().max(1) as f64;
    check(
        "received as repairs, of all received".to_owned(),
        "%",
        recovered * 100.0,
        0.1,
        BLOG,
    );
    check(
        "purges applied, of all that should be".to_owned(),
        "%",
        report.coverage * 100.0,
        100.0,
        "our mark: each purge on each node",
    );
    checks
}
