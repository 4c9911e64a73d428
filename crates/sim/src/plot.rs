//! The one place that draws: figures of one or more panels, as SVG, with their numbers as JSON.
//!
//! A [`Figure`] is plain data. [`Figure::write`] puts `<name>.svg` and `<name>.json` into a folder:
//! the picture, and every point that is in it together with the values that are checked against
//! somebody else's, so that a reader can see how near they are and where those come from.
//!
//! The axes are laid out here rather than by plotters: few labels, 10⁻⁶ for small shares, and lines
//! that end at the frame are what these figures need.

use std::fs;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

mod axis;
mod clip;
mod panel;

pub use axis::Axis;

/// Size of all figures; one with more than two panels is taller.
const WIDTH: u32 = 1_000;
const HEIGHT: u32 = 600;
/// Height of one row of panels where there are several.
const ROW_HEIGHT: u32 = 430;
/// What title and note take above the panels.
const HEAD: u32 = 62;

const TITLE_PX: f64 = 18.0;
const TEXT_PX: f64 = 12.5;
/// Plotters takes the height of a line and writes letters that are this much smaller.
const LINE_EM: f64 = 1.24;

const INK: RGBColor = RGBColor(0x33, 0x37, 0x3d);

/// Colours that readers with any kind of colour vision can tell apart (Okabe and Ito's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// The first choice, for our own curve.
    Blue,
    /// The second, for what ours is compared with.
    Vermilion,
    /// The third.
    Green,
    /// The fourth.
    Purple,
    /// The fifth.
    Orange,
    /// The sixth.
    Sky,
    /// For what is in the background.
    Grey,
    /// For values of others: the seeds of this project, the paper.
    Black,
}

impl Colour {
    /// The six for curves, in the order in which they are best used.
    pub const CURVES: [Colour; 6] = [
        Colour::Blue,
        Colour::Vermilion,
        Colour::Green,
        Colour::Purple,
        Colour::Orange,
        Colour::Sky,
    ];

    fn rgb(self) -> RGBColor {
        match self {
            Colour::Blue => RGBColor(0x00, 0x72, 0xb2),
            Colour::Vermilion => RGBColor(0xd5, 0x5e, 0x00),
            Colour::Green => RGBColor(0x00, 0x9e, 0x73),
            Colour::Purple => RGBColor(0xb8, 0x5c, 0x94),
            Colour::Orange => RGBColor(0xe6, 0x9f, 0x00),
            Colour::Sky => RGBColor(0x56, 0xb4, 0xe9),
            Colour::Grey => RGBColor(0x8a, 0x8d, 0x91),
            Colour::Black => RGBColor(0x1a, 0x1a, 0x1a),
        }
    }
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line through the points.
    Line,
    /// The same, dashed.
    Dashed,
    /// A line that keeps its height until the next point.
    Step,
    /// Small discs.
    Dots,
    /// Crosses, for values of others.
    Crosses,
    /// A shaded area down to the bottom of the panel.
    Area,
    /// A shaded area between two lines: the points of one forth, those of the other back.
    Band,
}

/// Points that belong together.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend and the JSON call it.
    pub name: String,
    /// Left out of the legend, where another series speaks for it.
    pub unlisted: bool,
    /// Unit of the values, for the JSON: "%", "ms", "purges/s".
    pub unit: String,
    /// How it is drawn.
    pub mark: Mark,
    /// In which colour.
    pub colour: Colour,
    /// x and y in the units of the axes.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A series; its unit is that of the panel's y axis unless [`Series::unit`] says otherwise.
    pub fn new(
        name: impl Into<String>,
        mark: Mark,
        colour: Colour,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        Series {
            name: name.into(),
            unlisted: false,
            unit: String::new(),
            mark,
            colour,
            points: points.into_iter().collect(),
        }
    }

    /// The shaded area between `low` and `high` above each x.
    pub fn band(
        name: impl Into<String>,
        colour: Colour,
        points: impl IntoIterator<Item = (f64, f64, f64)>,
    ) -> Self {
        let points: Vec<_> = points.into_iter().collect();
        let forth = points.iter().map(|&(x, low, _)| (x, low));
        let back = points.iter().rev().map(|&(x, _, high)| (x, high));
        Series::new(name, Mark::Band, colour, forth.chain(back))
    }

    /// Leaves it out of the legend.
    pub fn unlisted(self) -> Self {
        Series {
            unlisted: true,
            ..self
        }
    }

    /// Says the unit of the values.
    pub fn unit(self, unit: impl Into<String>) -> Self {
        Series {
            unit: unit.into(),
            ..self
        }
    }
}

/// A straight dashed line across a panel, with a word to it.
#[derive(Clone, Debug)]
pub enum Rule {
    /// At a y.
    Across(f64, String),
    /// At an x.
    Upright(f64, String),
}

/// The corner that has room for the legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corner {
    /// Top left.
    TopLeft,
    /// Top right.
    TopRight,
    /// Bottom left.
    BottomLeft,
    /// Bottom right.
    BottomRight,
}

/// One pair of axes with what is drawn on them.
#[derive(Clone, Debug)]
pub struct Panel {
    /// A short title.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Drawn in this order, the later over the earlier.
    pub series: Vec<Series>,
    /// Times that are shaded, such as an incident: from, to and a word.
    pub spans: Vec<(f64, f64, String)>,
    /// Values that are marked.
    pub rules: Vec<Rule>,
    /// Where the legend goes.
    pub legend: Corner,
}

impl Panel {
    /// An empty panel with its legend at the bottom right.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Panel {
            title: title.into(),
            x,
            y,
            series: Vec::new(),
            spans: Vec::new(),
            rules: Vec::new(),
            legend: Corner::BottomRight,
        }
    }
}

/// A value of ours beside somebody else's.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was measured or computed, with its setting.
    pub what: String,
    /// The unit of both.
    pub unit: String,
    /// Our value.
    pub ours: f64,
    /// The other value.
    pub reference: f64,
    /// Where the other value comes from.
    pub source: String,
    /// What ours must be, if it is a mark and not only for comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Must>,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Must {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Check {
    /// See the fields.
    pub fn new(
        what: impl Into<String>,
        unit: &str,
        ours: f64,
        reference: f64,
        source: &str,
    ) -> Self {
        Check {
            what: what.into(),
            unit: unit.to_owned(),
            ours,
            reference,
            source: source.to_owned(),
            mark: None,
        }
    }

    /// Whether it is a mark that was missed. Nothing that is not a number meets any.
    pub fn is_missed(&self) -> bool {
        let met = match self.mark {
            None => true,
            Some(Must::AtMost(most)) => self.ours <= most,
            Some(Must::AtLeast(least)) => self.ours >= least,
        };
        !met
    }
}

/// A picture and its numbers.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of the files.
    pub name: String,
    /// What the picture shows.
    pub title: String,
    /// One line below the title: the setting.
    pub note: String,
    /// One or two side by side, or more in rows of two.
    pub panels: Vec<Panel>,
    /// What is held against others' values.
    pub checks: Vec<Check>,
}

/// A figure could not be written. Files that were written before stay.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// The folder or a file could not be written.
    #[error("{path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The drawing itself failed.
    #[error("drawing {name}: {reason}")]
    Draw {
        /// The figure.
        name: String,
        /// What plotters says.
        reason: String,
    },
    /// The figure was written, and shows that something is not as it must be.
    #[error("{name}: {what}")]
    Missed {
        /// The figure.
        name: String,
        /// Which marks, and what was measured.
        what: String,
    },
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Figure {
    /// Writes `<name>.svg` and `<name>.json` into the folder `out`, which is made if need be. Marks that were
    /// missed are an error, once both are written.
    pub fn write(&self, out: &Path) -> Result<(), PlotError> {
        let put = |path: PathBuf, text: &str| {
            fs::write(&path, text).map_err(|source| PlotError::Write { path, source })
        };
        fs::create_dir_all(out).map_err(|source| PlotError::Write {
            path: out.to_owned(),
            source,
        })?;
        let svg = self.svg().map_err(|error| PlotError::Draw {
            name: self.name.clone(),
            reason: error.to_string(),
        })?;
        put(out.join(format!("{}.svg", self.name)), &svg)?;
        put(
            out.join(format!("{}.json", self.name)),
            &format!("{:#}\n", Compact(&self.json())),
        )?;
        let missed = self.checks.iter().filter(|check| check.is_missed());
        let missed: Vec<String> = missed
            .map(|check| {
                format!(
                    "{}: {} {}, which misses the mark",
                    check.what, check.ours, check.unit
                )
            })
            .collect();
        if missed.is_empty() {
            return Ok(());
        }
        Err(PlotError::Missed {
            name: self.name.clone(),
            what: missed.join("; "),
        })
    }

    fn json(&self) -> Value {
        let series = |panel: &Panel| -> Vec<Value> {
            let series = panel.series.iter().map(|series| {
                let unit = if series.unit.is_empty() {
                    &panel.y.label
                } else {
                    &series.unit
                };
                json!({
                    "panel": panel.title,
                    "name": series.name,
                    "x": panel.x.label,
                    "unit": unit,
                    "points": series.points,
                })
            });
            series.collect()
        };
        json!({
            "figure": self.name,
            "title": self.title,
            "note": self.note,
            "series": self.panels.iter().flat_map(series).collect::<Vec<_>>(),
            "checks": self.checks,
        })
    }

    fn svg(&self) -> Result<String, Box<dyn std::error::Error>> {
        let rows = self.panels.len().div_ceil(2).max(1);
        let height = match rows {
            1 => HEIGHT,
            rows => HEAD + ROW_HEIGHT * rows as u32,
        };
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
            root.fill(&WHITE)?;
            let (head, body) = root.split_vertically(HEAD);
            let bold = ("sans-serif", TITLE_PX * LINE_EM)
                .into_font()
                .style(FontStyle::Bold);
            head.draw_text(&self.title, &bold.color(&INK), (20, 12))?;
            head.draw_text(&self.note, &text(TEXT_PX, INK), (20, 38))?;
            let cells = body.split_evenly((rows, self.panels.len().clamp(1, 2)));
            for (panel, cell) in self.panels.iter().zip(&cells) {
                panel.draw(cell)?;
            }
            root.present()?;
        }
        Ok(svg)
    }
}

/// JSON with one line per member of the outer arrays: points would fill a line each otherwise.
struct Compact<'a>(&'a Value);

impl std::fmt::Display for Compact<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(members) = self.0.as_object() else {
            return write!(f, "{}", self.0);
        };
        for (index, (key, value)) in members.iter().enumerate() {
            let key = Value::from(key.as_str());
            f.write_str(if index == 0 { "{\n" } else { ",\n" })?;
            match value.as_array().filter(|items| !items.is_empty()) {
                Some(items) => {
                    let items: Vec<String> = items.iter().map(Value::to_string).collect();
                    write!(f, "{key}:[\n{}\n]", items.join(",\n"))?;
                }
                None => write!(f, "{key}:{value}")?,
            }
        }
        f.write_str("\n}")
    }
}

fn text(px: f64, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", px * LINE_EM).into_font().color(&colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_mark_is_an_error_once_the_figure_is_written() {
        let out = std::env::temp_dir().join(format!("powderhorn-plot-{}", std::process::id()));
        let figure = |ours: f64, mark: Option<Must>| Figure {
            name: "marks".to_owned(),
            title: "Marks".to_owned(),
            note: String::new(),
            panels: Vec::new(),
            checks: vec![Check {
                mark,
                ..Check::new("latency", "s", ours, 2.0, "nobody")
            }],
        };
        for (ours, mark) in [
            (2.5, None),
            (2.0, Some(Must::AtMost(2.0))),
            (2.0, Some(Must::AtLeast(2.0))),
        ] {
            assert!(figure(ours, mark).write(&out).is_ok(), "{ours}, {mark:?}");
        }
        for (ours, mark) in [
            (2.5, Must::AtMost(2.0)),
            (1.5, Must::AtLeast(2.0)),
            (f64::NAN, Must::AtMost(2.0)),
        ] {
            let missed = figure(ours, Some(mark)).write(&out);
            let told = missed.expect_err("a missed mark").to_string();
            assert!(
                told.starts_with(&format!("marks: latency: {ours} s")),
                "{told}"
            );
            let json = fs::read_to_string(out.join("marks.json")).expect("was written");
            assert!(json.contains("\"mark\""), "{json}");
        }
        fs::remove_dir_all(&out).expect("was made");
    }
}
