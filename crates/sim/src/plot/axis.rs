//! Axes: from a value to a place between 0 and 1, and the ticks on the way.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

/// One axis of a panel.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it shows, with its unit: "rounds", "latency, ms".
    pub label: String,
    from: f64,
    to: f64,
    scale: Scale,
}

impl Axis {
    /// An axis in even steps from one value to another.
    pub fn linear(label: impl Into<String>, from: f64, to: f64) -> Self {
        Axis {
            label: label.into(),
            from,
            to: if to > from { to } else { from + 1.0 },
            scale: Scale::Linear,
        }
    }

    /// An axis on which each decade is as long as the next. Both ends are above 0.
    pub fn log(label: impl Into<String>, from: f64, to: f64) -> Self {
        let from = from.max(f64::MIN_POSITIVE);
        Axis {
            label: label.into(),
            from,
            to: if to > from { to } else { from * 10.0 },
            scale: Scale::Log,
        }
    }

    /// Shares from 0 to 100 %.
    pub fn percent(label: impl Into<String>) -> Self {
        Self::linear(label, 0.0, 100.0)
    }

    /// Where a value lies: 0 at the beginning, 1 at the end, outside of these beyond.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Log => {
                let ln = value.max(f64::MIN_POSITIVE).ln();
                (ln - self.from.ln()) / (self.to.ln() - self.from.ln())
            }
        }
    }

    /// At most about `most` ticks, as places and labels.
    pub(super) fn ticks(&self, most: usize) -> Ticks {
        let values = match self.scale {
            Scale::Linear => self.linear_ticks(most),
            Scale::Log => self.log_ticks(most),
        };
        let label = |&value: &f64| match self.scale {
            Scale::Linear => plain(value, self.to - self.from),
            Scale::Log if self.from < 1e-3 || self.to > 1e7 => power(value),
            Scale::Log => plain(value, value),
        };
        let ticks = values.iter().map(|v| (self.place(*v), label(v)));
        Ticks(ticks.collect())
    }

    fn linear_ticks(&self, most: usize) -> Vec<f64> {
        let rough = (self.to - self.from) / most.max(1) as f64;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * decade);
        let step = step.into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(10.0 * decade);
        let first = (self.from / step - 1e-9).ceil() as i64;
        let last = (self.to / step + 1e-9).floor() as i64;
        (first..=last).map(|n| n as f64 * step).collect()
    }

    fn log_ticks(&self, most: usize) -> Vec<f64> {
        let first = (self.from.log10() - 1e-9).ceil() as i32;
        let last = (self.to.log10() + 1e-9).floor() as i32;
        let decades = (last - first + 1).max(1) as usize;
        let within = |v: &f64| (-1e-9..1.0 + 1e-9).contains(&self.place(*v));
        if decades * 3 <= most {
            return (first - 1..=last)
                .flat_map(|n| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(n)))
                .filter(within)
                .collect();
        }
        let stride = decades.div_ceil(most.max(1));
        (first..=last)
            .step_by(stride)
            .map(|n| 10f64.powi(n))
            .collect()
    }
}

/// Decimals as the distance between values asks for, thousands apart.
fn plain(value: f64, scale: f64) -> String {
    let decimals = (1.0 - scale.abs().max(1e-12).log10())
        .ceil()
        .clamp(0.0, 6.0) as usize;
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = text.find('.').unwrap_or(text.len());
    let start = usize::from(text.starts_with('-'));
    let mut at = digits;
    while at > start + 3 {
        at -= 3;
        text.insert(at, ',');
    }
    text.replace('-', "−")
}

/// 10⁻⁶, 2·10⁻⁶.
fn power(value: f64) -> String {
    let exponent = (value.log10() + 1e-9).floor();
    let mantissa = (value / 10f64.powf(exponent)).round();
    let raised = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32('⁰' as u32 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    };
    let exponent: String = format!("{exponent:.0}").chars().map(raised).collect();
    match mantissa {
        1.0 => format!("10{exponent}"),
        _ => format!("{mantissa:.0}·10{exponent}"),
    }
}

/// The ticks of an axis, as plotters wants them: a coordinate from 0 to 1 whose key points are ours.
#[derive(Clone, Debug)]
pub(super) struct Ticks(Vec<(f64, String)>);

impl Ranged for Ticks {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (from, to): (i32, i32)) -> i32 {
        from + (f64::from(to - from) * place).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Plotters asks for bold lines with labels, and again for light ones between them.
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.0.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..1.0
    }
}

impl ValueFormatter<f64> for Ticks {
    fn format_ext(&self, place: &f64) -> String {
        let tick = self.0.iter().find(|(tick, _)| tick == place);
        tick.map_or(String::new(), |(_, label)| label.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis, most: usize) -> Vec<String> {
        axis.ticks(most)
            .0
            .into_iter()
            .map(|(_, label)| label)
            .collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(
            labels(Axis::linear("x", 0.0, 25.0), 6),
            ["0", "5", "10", "15", "20", "25"]
        );
        assert_eq!(
            labels(Axis::linear("x", 0.0, 1.0), 5),
            ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        );
        let large = labels(Axis::linear("x", -350.0, 80_000.0), 5);
        assert_eq!(large, ["0", "20,000", "40,000", "60,000", "80,000"]);
        assert_eq!(labels(Axis::linear("x", -2.0, 0.0), 2), ["−2", "−1", "0"]);
    }

    #[test]
    fn log_ticks_are_decades() {
        assert_eq!(
            labels(Axis::log("x", 1.0, 1e4), 6),
            ["1", "10", "100", "1,000", "10,000"]
        );
        assert_eq!(
            labels(Axis::log("x", 1e-12, 1.0), 5),
            ["10⁻¹²", "10⁻⁹", "10⁻⁶", "10⁻³", "10⁰"]
        );
        assert_eq!(labels(Axis::log("x", 1.0, 10.0), 8), ["1", "2", "5", "10"]);
        assert_eq!(
            labels(Axis::log("x", 0.5, 20.0), 8),
            ["0.5", "1", "2", "5", "10", "20"]
        );
    }
}
