//! What happens in a second, over the last ten.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use powderhorn_protocol::id::NodeId;
use powderhorn_protocol::time::Time;
use serde::Serialize;

/// Seconds that rates are taken over, and one more, as there is a sample a second.
const SAMPLES: usize = 11;

/// Rates over a shorter time would jump.
const SPAN_MIN: Duration = Duration::from_millis(500);

/// Counts at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub at: Time,
    pub issued: u64,
    pub received: u64,
    pub recovered: u64,
    pub duplicates: u64,
    pub applied: u64,
    /// Datagrams that were not of this fleet: of strangers, or with a seal that does not open.
    pub refused: u64,
    pub kernel_drops: u64,
    /// Of each origin, what came as a repair.
    pub recovered_of: BTreeMap<NodeId, u64>,
}

/// What happens in a second, over the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Purges issued here.
    pub issued: f64,
    /// Purges of others that came by dissemination.
    pub received: f64,
    /// Purges of others that came as repairs.
    pub recovered: f64,
    /// Purges that came again.
    pub duplicates: f64,
    /// Purges applied to this cache.
    pub applied: f64,
    /// Datagrams of strangers, and such whose seal does not open.
    pub refused: f64,
    /// Datagrams that the kernel dropped because a socket's buffer was full.
    pub kernel_drops: f64,
}

/// The samples of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Samples(VecDeque<Sample>);

impl Samples {
    pub fn push(&mut self, sample: Sample) {
        if self.0.len() >= SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// Rates now, and for each origin the purges of it that come as repairs in a second.
    pub fn rates(&self) -> (Rates, BTreeMap<NodeId, f64>) {
        let ends = self.0.front().zip(self.0.back());
        let ends = ends.filter(|(first, last)| last.at.since(first.at) >= SPAN_MIN);
        let Some((first, last)) = ends else {
            return Default::default();
        };
        let seconds = last.at.since(first.at).as_secs_f64();
        let rate = |of: fn(&Sample) -> u64| of(last).saturating_sub(of(first)) as f64 / seconds;
        let rates = Rates {
            issued: rate(|sample| sample.issued),
            received: rate(|sample| sample.received),
            recovered: rate(|sample| sample.recovered),
            duplicates: rate(|sample| sample.duplicates),
            applied: rate(|sample| sample.applied),
            refused: rate(|sample| sample.refused),
            kernel_drops: rate(|sample| sample.kernel_drops),
        };
        let of_node = last.recovered_of.iter().map(|(&node, &count)| {
            let before = first.recovered_of.get(&node).copied().unwrap_or(0);
            (node, count.saturating_sub(before) as f64 / seconds)
        });
        (rates, of_node.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_ten_seconds() {
        let mut samples = Samples::default();
        assert_eq!(samples.rates().0, Rates::default());
        for second in 0..100u64 {
            // Idle for a minute, then ten a second.
            let applied = second.saturating_sub(60) * 10;
            samples.push(Sample {
                at: Time::from_us(second as i64 * 1_000_000),
                applied,
                recovered_of: BTreeMap::from([(NodeId(1), applied / 2)]),
                ..Sample::default()
            });
        }
        let (rates, of_node) = samples.rates();
        assert_eq!((rates.applied, rates.issued), (10.0, 0.0));
        assert_eq!(of_node.get(&NodeId(1)), Some(&5.0));
    }
}
