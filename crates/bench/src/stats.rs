//! Samples and what is said of them.

use std::time::Duration;

/// Latencies of one kind, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<u64>);

impl Samples {
    /// One more.
    pub fn push(&mut self, took: Duration) {
        self.0
            .push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What `count` of a kind took together: one sample, of their mean.
    pub fn push_shared(&mut self, took: Duration, count: u32) {
        self.push(took / count.max(1));
    }

    /// All of another lot.
    pub fn extend(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    /// Forgets all, and keeps the room for as many.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The quantile `q` of 0 to 1, in microseconds: the smallest sample that a share of `q` of all do
    /// not exceed. Not a number without samples.
    pub fn quantile_us(&mut self, q: f64) -> f64 {
        let n = self.0.len();
        if n == 0 {
            return f64::NAN;
        }
        let rank = ((n as f64 * q).ceil() as usize).clamp(1, n) - 1;
        let (_, &mut value, _) = self.0.select_nth_unstable(rank);
        value as f64 / 1e3
    }
}

/// The median; not a number of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match (n % 2, n) {
        (_, 0) => f64::NAN,
        (1, _) => sorted[n / 2],
        _ => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The smallest and the largest.
pub fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_and_the_last_is_the_largest() {
        let mut samples = Samples::default();
        for us in (1..=1_000).rev() {
            samples.push(Duration::from_micros(us));
        }
        assert_eq!(samples.quantile_us(0.5), 500.0);
        assert_eq!(samples.quantile_us(0.999), 999.0);
        assert_eq!(samples.quantile_us(1.0), 1_000.0);
        assert!(Samples::default().quantile_us(0.5).is_nan());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 3.0]), 3.0);
        assert!(median(&[]).is_nan());
    }
}
