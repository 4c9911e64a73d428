//! One panel: its frame, its curves, the words on it and its legend.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Ticks;
use super::clip::{stairs, within_frame};
use super::{Area, Colour, Corner, Drawn, INK, Mark, Panel, Rule, Series, TEXT_PX, text};

const PANEL_TITLE_PX: f64 = 14.0;
/// Width of an average character, in parts of its height, in the widest of the usual fonts and of words with many
/// wide letters. There is nobody to ask: the reader's browser chooses the font.
const CHARACTER_EM: f64 = 0.6;
const FAINT: RGBColor = RGBColor(0xe4, 0xe4, 0xe0);
const SHADE: RGBColor = RGBColor(0xf0, 0xee, 0xe6);

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Ticks, Ticks>>;

impl Panel {
    pub(super) fn draw(&self, cell: &Area<'_>) -> Drawn {
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
