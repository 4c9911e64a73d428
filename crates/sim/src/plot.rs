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
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;
use serde_json::{Value, json};

mod axis;

pub use axis::Axis;
use axis::Ticks;

/// Size of all figures; one with more than two panels is taller.
const WIDTH: u32 = 1_000;
const HEIGHT: u32 = 600;
/// Height of one row of panels where there are several.
const ROW_HEIGHT: u32 = 430;
/// What title and note take above the panels.
const HEAD: u32 = 62;

const TITLE_PX: f64 = 18.0;
const PANEL_TITLE_PX: f64 = 14.0;
const TEXT_PX: f64 = 12.5;
/// Width of an average character, in parts of its height, in the widest of the usual fonts. There
/// is nobody to ask: the reader's browser chooses the font.
const CHARACTER_EM: f64 = 0.56;
/// Plotters takes the height of a line and writes letters that are this much smaller.
const LINE_EM: f64 = 1.24;

const INK: RGBColor = RGBColor(0x33, 0x37, 0x3d);
const FAINT: RGBColor = RGBColor(0xe4, 0xe4, 0xe0);
const SHADE: RGBColor = RGBColor(0xf0, 0xee, 0xe6);

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
        }
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
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Figure {
    /// Writes `<name>.svg` and `<name>.json` into the folder `out`, which is made if need be.
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
        )
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

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Ticks, Ticks>>;

impl Panel {
    fn draw(&self, cell: &Area<'_>) -> Drawn {
        let (width, height) = cell.dim_in_pixel();
        let mut chart = ChartBuilder::on(cell)
            .margin_left(12)
            .margin_right(36)
            .margin_top(34)
            .margin_bottom(12)
            .x_label_area_size(46)
            .y_label_area_size(72)
            .build_cartesian_2d(
                self.x.ticks(width as usize / 75),
                self.y.ticks(height as usize / 45),
            )?;
        let title = text(PANEL_TITLE_PX, INK).pos(Pos::new(HPos::Left, VPos::Top));
        cell.draw_text(&self.title, &title, (84, 8))?;
        for (from, to, _) in &self.spans {
            let (from, to) = (self.x.place(*from), self.x.place(*to));
            let corners = [(from.clamp(0.0, 1.0), 0.0), (to.clamp(0.0, 1.0), 1.0)];
            chart.draw_series([Rectangle::new(corners, SHADE.filled())])?;
        }
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .label_style(text(TEXT_PX, INK))
            .axis_desc_style(text(TEXT_PX, INK))
            .x_desc(self.x.label.as_str())
            .y_desc(self.y.label.as_str())
            .draw()?;
        self.draw_rules(&mut chart)?;
        for series in &self.series {
            self.draw_series(&mut chart, series)?;
        }
        let (xs, ys) = chart.plotting_area().get_pixel_range();
        let (left, top) = cell.get_base_pixel();
        let frame = (xs.start - left, ys.start - top, xs.end - left, ys.end - top);
        self.draw_words(cell, frame)?;
        self.draw_legend(cell, frame)
    }

    fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.place(x), self.y.place(y))
    }

    fn draw_series(&self, chart: &mut Chart<'_, '_>, series: &Series) -> Drawn {
        let colour = series.colour.rgb();
        let places = |points: &[(f64, f64)]| -> Vec<_> {
            points.iter().map(|point| self.place(*point)).collect()
        };
        let inside =
            |&(x, y): &(f64, f64)| (-0.001..=1.001).contains(&x) && (-0.001..=1.001).contains(&y);
        match series.mark {
            Mark::Line | Mark::Dashed | Mark::Step => {
                let mut points = places(&series.points);
                if series.mark == Mark::Step {
                    points = stairs(&points);
                }
                for run in within_frame(&points) {
                    let style = colour.stroke_width(2);
                    if series.mark == Mark::Dashed {
                        chart.draw_series(DashedLineSeries::new(run, 6, 4, style))?;
                    } else {
                        chart.draw_series([PathElement::new(run, style)])?;
                    }
                }
            }
            Mark::Dots => {
                let points = places(&series.points).into_iter().filter(inside);
                chart.draw_series(points.map(|at| Circle::new(at, 3, colour.filled())))?;
            }
            Mark::Crosses => {
                let points = places(&series.points).into_iter().filter(inside);
                let style = colour.stroke_width(2);
                chart.draw_series(points.map(|at| Cross::new(at, 5, style)))?;
            }
            Mark::Area | Mark::Band => {
                let clamp = |(x, y): (f64, f64)| (x.clamp(0.0, 1.0), y.clamp(0.0, 1.0));
                let mut points: Vec<_> = places(&series.points).into_iter().map(clamp).collect();
                if let (Mark::Area, [first, .., last]) = (series.mark, points.as_slice()) {
                    let ground = [(last.0, 0.0), (first.0, 0.0)];
                    points.extend(ground);
                }
                chart.draw_series([Polygon::new(points, colour.mix(0.18))])?;
            }
        }
        Ok(())
    }

    fn draw_rules(&self, chart: &mut Chart<'_, '_>) -> Drawn {
        for rule in &self.rules {
            let ends = match rule {
                Rule::Across(y, _) => [(0.0, self.y.place(*y)), (1.0, self.y.place(*y))],
                Rule::Upright(x, _) => [(self.x.place(*x), 0.0), (self.x.place(*x), 1.0)],
            };
            for run in within_frame(&ends) {
                let style = Colour::Grey.rgb().stroke_width(1);
                chart.draw_series(DashedLineSeries::new(run, 3, 3, style))?;
            }
        }
        Ok(())
    }

    /// The words of rules and spans, in pixels of the cell.
    fn draw_words(&self, cell: &Area<'_>, (left, top, right, bottom): Frame) -> Drawn {
        let at_x = |x: f64| left + (f64::from(right - left) * self.x.place(x)).round() as i32;
        let at_y = |y: f64| bottom - (f64::from(bottom - top) * self.y.place(y)).round() as i32;
        let words = |words: &str, at: (i32, i32), h: HPos, v: VPos| {
            let style = text(TEXT_PX - 1.0, INK).pos(Pos::new(h, v));
            cell.draw_text(words, &style, at)
        };
        for (from, to, word) in &self.spans {
            let middle = (at_x(*from).max(left) + at_x(*to).min(right)) / 2;
            words(word, (middle, top + 3), HPos::Center, VPos::Top)?;
        }
        for rule in &self.rules {
            match rule {
                Rule::Across(y, word) => {
                    words(word, (right - 4, at_y(*y) - 2), HPos::Right, VPos::Bottom)?;
                }
                // On the side that has more room.
                Rule::Upright(x, word) if self.x.place(*x) > 0.5 => {
                    words(word, (at_x(*x) - 4, top + 4), HPos::Right, VPos::Top)?;
                }
                Rule::Upright(x, word) => {
                    words(word, (at_x(*x) + 4, top + 4), HPos::Left, VPos::Top)?;
                }
            }
        }
        Ok(())
    }

    fn draw_legend(&self, cell: &Area<'_>, (left, top, right, bottom): Frame) -> Drawn {
        let named = || self.series.iter().filter(|series| !series.unlisted);
        let Some(longest) = named().map(|series| series.name.chars().count()).max() else {
            return Ok(());
        };
        const LINE: i32 = 18;
        const SAMPLE: i32 = 26;
        let width = SAMPLE + 18 + (longest as f64 * TEXT_PX * CHARACTER_EM) as i32;
        let height = LINE * named().count() as i32 + 8;
        let (x, y) = match self.legend {
            Corner::TopLeft => (left + 8, top + 8),
            Corner::TopRight => (right - width - 8, top + 8),
            Corner::BottomLeft => (left + 8, bottom - height - 8),
            Corner::BottomRight => (right - width - 8, bottom - height - 8),
        };
        let corners = [(x, y), (x + width, y + height)];
        cell.draw(&Rectangle::new(corners, WHITE.mix(0.88).filled()))?;
        cell.draw(&Rectangle::new(corners, FAINT.stroke_width(1)))?;
        for (index, series) in named().enumerate() {
            let middle = y + 4 + LINE * index as i32 + LINE / 2;
            let (from, to) = (x + 8, x + 8 + SAMPLE);
            let colour = series.colour.rgb();
            match series.mark {
                Mark::Line | Mark::Step => {
                    let ends = vec![(from, middle), (to, middle)];
                    cell.draw(&PathElement::new(ends, colour.stroke_width(2)))?;
                }
                Mark::Dashed => {
                    for start in [from, from + 10, from + 20] {
                        let ends = vec![(start, middle), (start + 6, middle)];
                        cell.draw(&PathElement::new(ends, colour.stroke_width(2)))?;
                    }
                }
                Mark::Dots => {
                    cell.draw(&Circle::new(
                        (from + SAMPLE / 2, middle),
                        3,
                        colour.filled(),
                    ))?;
                }
                Mark::Crosses => {
                    let style = colour.stroke_width(2);
                    cell.draw(&Cross::new((from + SAMPLE / 2, middle), 5, style))?;
                }
                Mark::Area | Mark::Band => {
                    let corners = [(from, middle - 5), (to, middle + 5)];
                    cell.draw(&Rectangle::new(corners, colour.mix(0.25).filled()))?;
                }
            }
            let style = text(TEXT_PX, INK).pos(Pos::new(HPos::Left, VPos::Center));
            cell.draw_text(&series.name, &style, (to + 7, middle))?;
        }
        Ok(())
    }
}

/// Left, top, right, bottom.
type Frame = (i32, i32, i32, i32);

/// Corners of a line that keeps its height until the next point.
fn stairs(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut stairs = Vec::with_capacity(points.len() * 2);
    for &(x, y) in points {
        if let Some(&(_, before)) = stairs.last() {
            stairs.push((x, before));
        }
        stairs.push((x, y));
    }
    stairs
}

/// The parts of a line that lie in the unit square.
fn within_frame(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
    for pair in points.windows(2) {
        let Some((from, to)) = clip(pair[0], pair[1]) else {
            continue;
        };
        match runs.last_mut().filter(|run| run.last() == Some(&from)) {
            Some(run) => run.push(to),
            None => runs.push(vec![from, to]),
        }
    }
    runs
}

/// The part of a segment that lies in the unit square (Liang and Barsky's).
fn clip(from: (f64, f64), to: (f64, f64)) -> Option<((f64, f64), (f64, f64))> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (mut first, mut last) = (0.0, 1.0);
    for (along, room) in [
        (-dx, from.0),
        (dx, 1.0 - from.0),
        (-dy, from.1),
        (dy, 1.0 - from.1),
    ] {
        if along == 0.0 && room < 0.0 {
            return None;
        } else if along < 0.0 {
            first = f64::max(first, room / along);
        } else if along > 0.0 {
            last = f64::min(last, room / along);
        }
    }
    // The ends themselves are kept as they are, so that neighbours are seen to touch.
    let at = |part: f64| match part {
        0.0 => from,
        1.0 => to,
        part => (from.0 + part * dx, from.1 + part * dy),
    };
    (first <= last).then(|| (at(first), at(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_the_frame() {
        let runs = within_frame(&[(0.0, 0.5), (0.5, 0.5), (1.0, 1.5), (1.5, 0.5)]);
        assert_eq!(runs, [[(0.0, 0.5), (0.5, 0.5), (0.75, 1.0)]]);
        assert_eq!(within_frame(&[(0.0, 2.0), (1.0, 2.0)]).len(), 0);
    }

    #[test]
    fn stairs_keep_their_height() {
        let stairs = stairs(&[(0.0, 0.1), (0.5, 0.9)]);
        assert_eq!(stairs, [(0.0, 0.1), (0.5, 0.1), (0.5, 0.9)]);
    }
}
