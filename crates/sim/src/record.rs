//! What is measured: latencies and rates, by groups of nodes, over all of a run and over time.

use std::time::Duration;

use powderhorn_protocol::time::Time;
use serde::Serialize;

/// How a purge came to a node's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was issued there: no latency.
    Issued,
    /// From another node.
    Received,
}

/// Buckets for each doubling of a latency: a quantile is off by 1.6 % at most.
const BUCKETS_PER_OCTAVE: u64 = 64;

/// Latencies, in buckets that are as wide as a 64th of their octave.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u32>,
    total: u64,
    max_us: u64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&mut self, latency: Duration) {
        let us = latency.as_micros() as u64;
        let bucket = bucket(us);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max_us = self.max_us.max(us);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest, in ms.
    pub fn max_ms(&self) -> f64 {
        self.max_us as f64 / 1e3
    }

    /// The latency, in ms, that a share `q` of all does not exceed; 0 if there are none.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let rank = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            sum += u64::from(*count);
            if sum >= rank {
                return (upper_us(bucket).min(self.max_us)) as f64 / 1e3;
            }
        }
        self.max_ms()
    }

    /// (latency in ms, share of all for each ms) of buckets that are `width` ms wide, up to `end` ms.
    pub fn density(&self, width: f64, end: f64) -> Vec<(f64, f64)> {
        let mut bins = vec![0.0; (end / width).ceil() as usize];
        for (bucket, count) in self.counts.iter().enumerate() {
            // Spread evenly over the bins that a bucket covers.
            let (from, to) = (lower_us(bucket) as f64 / 1e3, upper_us(bucket) as f64 / 1e3);
            let mut at = from;
            while at < to {
                let bin = (at / width) as usize;
                let next = ((bin + 1) as f64 * width).min(to);
                if let Some(bin) = bins.get_mut(bin) {
                    *bin += f64::from(*count) * (next - at) / (to - from);
                }
                at = next.max(at + 1e-9);
            }
        }
        let scale = 1.0 / (self.total.max(1) as f64 * width);
        let middle = |bin: usize| (bin as f64 + 0.5) * width;
        bins.iter()
            .enumerate()
            .map(|(bin, n)| (middle(bin), n * scale))
            .collect()
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Histogram) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (to, from) in self.counts.iter_mut().zip(&other.counts) {
            *to += from;
        }
        self.total += other.total;
        self.max_us = self.max_us.max(other.max_us);
    }
}

fn bucket(us: u64) -> usize {
    if us < BUCKETS_PER_OCTAVE {
        return us as usize;
    }
    let octave = us.ilog2() - BUCKETS_PER_OCTAVE.ilog2();
    let within = (us >> octave) - BUCKETS_PER_OCTAVE;
    ((u64::from(octave) + 1) * BUCKETS_PER_OCTAVE + within) as usize
}

/// The least latency of a bucket, in µs.
fn lower_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < BUCKETS_PER_OCTAVE {
        return bucket;
    }
    let octave = bucket / BUCKETS_PER_OCTAVE - 1;
    (BUCKETS_PER_OCTAVE + bucket % BUCKETS_PER_OCTAVE) << octave
}

fn upper_us(bucket: usize) -> u64 {
    lower_us(bucket + 1)
}

/// What happened to a group in a span of time.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// Purges issued at its nodes.
    pub issued: u64,
    /// Purges applied by its nodes, their own included.
    pub applied: u64,
    /// Messages that came as repairs.
    pub recovered: u64,
    /// Latencies of what its nodes received.
    pub latency: Histogram,
}

impl Span {
    fn merge(&mut self, other: &Span) {
        self.issued += other.issued;
        self.applied += other.applied;
        self.recovered += other.recovered;
        self.latency.merge(&other.latency);
    }
}

/// Collects what a fleet reports.
pub struct Recorder {
    group_of: Vec<usize>,
    names: Vec<String>,
    from: Time,
    bin: Duration,
    /// By group, then by time.
    spans: Vec<Vec<Span>>,
    datagrams: Vec<u64>,
    bytes: Vec<u64>,
}

/// What a group did in all of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The group.
    pub group: String,
    /// Purges issued at its nodes.
    pub issued: u64,
    /// Purges applied by its nodes.
    pub applied: u64,
    /// Messages that came as repairs.
    pub recovered: u64,
    /// Latency from issue to the cache.
    pub p50_ms: f64,
    /// See `p50_ms`.
    pub p95_ms: f64,
    /// See `p50_ms`.
    pub p99_ms: f64,
    /// See `p50_ms`.
    pub max_ms: f64,
}

impl Recorder {
    /// Counts what happens from `from` on, for groups of nodes, in steps of `bin`.
    pub fn new(names: Vec<String>, group_of: Vec<usize>, from: Time, bin: Duration) -> Self {
        Recorder {
            spans: vec![Vec::new(); names.len()],
            datagrams: vec![0; group_of.len()],
            bytes: vec![0; group_of.len()],
            group_of,
            names,
            from,
            bin: bin.max(Duration::from_micros(1)),
        }
    }

    /// All nodes together.
    pub fn of_all(count: usize, from: Time, bin: Duration) -> Self {
        Recorder::new(vec!["all".to_owned()], vec![0; count], from, bin)
    }

    fn span(&mut self, now: Time, node: usize) -> Option<&mut Span> {
        if now < self.from {
            return None;
        }
        let at = (now.since(self.from).as_micros() / self.bin.as_micros()) as usize;
        let spans = &mut self.spans[self.group_of[node]];
        if spans.len() <= at {
            spans.resize_with(at + 1, Span::default);
        }
        spans.get_mut(at)
    }

    pub(crate) fn issued(&mut self, now: Time, node: usize) {
        if let Some(span) = self.span(now, node) {
            span.issued += 1;
        }
    }

    pub(crate) fn applied(&mut self, now: Time, node: usize, latency: Duration, how: How) {
        if let Some(span) = self.span(now, node) {
            span.applied += 1;
            if how == How::Received {
                span.latency.add(latency);
            }
        }
    }

    pub(crate) fn recovered(&mut self, now: Time, node: usize, count: u64) {
        if let Some(span) = self.span(now, node) {
            span.recovered += count;
        }
    }

    pub(crate) fn sent(&mut self, now: Time, node: usize, datagrams: u64, bytes: u64) {
        if now >= self.from {
            self.datagrams[node] += datagrams;
            self.bytes[node] += bytes;
        }
    }

    /// The groups' names.
    pub fn groups(&self) -> &[String] {
        &self.names
    }

    /// A group's spans, each as long as was asked for; the last may not be full.
    pub fn spans(&self, group: usize) -> &[Span] {
        &self.spans[group]
    }

    /// Nodes of a group.
    pub fn nodes_of(&self, group: usize) -> usize {
        self.group_of.iter().filter(|of| **of == group).count()
    }

    /// All spans of a group as one.
    pub fn whole(&self, group: usize) -> Span {
        let mut sum = Span::default();
        self.spans[group].iter().for_each(|span| sum.merge(span));
        sum
    }

    /// All groups as one.
    pub fn all(&self) -> Span {
        let mut sum = Span::default();
        (0..self.names.len()).for_each(|group| sum.merge(&self.whole(group)));
        sum
    }

    /// Datagrams that left each node, and their bytes on the wire.
    pub fn sent_by(&self) -> (&[u64], &[u64]) {
        (&self.datagrams, &self.bytes)
    }

    /// What each group did.
    pub fn summaries(&self) -> Vec<Summary> {
        let groups = self.names.iter().enumerate();
        groups
            .map(|(group, name)| {
                let whole = self.whole(group);
                Summary {
                    group: name.clone(),
                    issued: whole.issued,
                    applied: whole.applied,
                    recovered: whole.recovered,
                    p50_ms: whole.latency.quantile_ms(0.5),
                    p95_ms: whole.latency.quantile_ms(0.95),
                    p99_ms: whole.latency.quantile_ms(0.99),
                    max_ms: whole.latency.max_ms(),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let mut histogram = Histogram::default();
        for us in 1..=100_000 {
            histogram.add(Duration::from_micros(us));
        }
        for (q, ms) in [(0.5, 50.0), (0.95, 95.0), (0.999, 99.9)] {
            let got = histogram.quantile_ms(q);
            assert!((got / ms - 1.0).abs() < 0.016, "{q}: {got} ms");
        }
        assert_eq!(histogram.max_ms(), 100.0);
        let density = histogram.density(1.0, 100.0);
        let sum: f64 = density.iter().map(|(_, share)| share).sum();
        assert!((sum - 1.0).abs() < 0.02, "{sum}");
        // The last bins share a bucket with what would come after them.
        let inner = &density[..98];
        assert!(inner.iter().all(|(_, share)| (share - 0.01).abs() < 0.002));
    }

    #[test]
    fn each_bucket_begins_where_the_last_one_ends() {
        for us in 0..100_000 {
            let at = bucket(us);
            assert!(lower_us(at) <= us && us < upper_us(at), "{us}");
        }
    }
}
