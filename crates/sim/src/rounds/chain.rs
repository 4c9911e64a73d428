//! The number of holders as a Markov chain.

use super::{Exchange, Start};

/// Most nodes that [`Chain`] takes: its cost grows with their cube.
pub const CHAIN_NODES_MAX: u32 = 2_000;

/// The number of holders as a Markov chain.
pub struct Chain {
    nodes: usize,
    /// `step[s][j]`: probability that a round that begins with `s` holders brings `j` more.
    step: Vec<Vec<f64>>,
    /// Probability of each number of holders.
    distribution: Vec<f64>,
}

/// Probabilities below this are dropped: they are far below all that is read off, and arithmetic on
/// the smallest numbers is slow.
const NEGLIGIBLE: f64 = 1e-290;

impl Chain {
    /// The chain before its first round.
    ///
    /// # Panics
    /// If there are more nodes than [`CHAIN_NODES_MAX`]; part of a holder is ignored.
    pub fn new(exchange: &Exchange, start: Start) -> Self {
        assert!(exchange.nodes <= CHAIN_NODES_MAX, "too many for a chain");
        let (nodes, whole) = (exchange.nodes as usize, start.holders as usize);
        let mut distribution = vec![0.0; nodes + 1];
        let reached = binomial(nodes - whole, start.reached(exchange.loss));
        distribution[whole..].copy_from_slice(&reached);
        let step = (0..=nodes).map(|s| new_holders(exchange, s)).collect();
        Chain {
            nodes,
            step,
            distribution,
        }
    }

    /// Plays `rounds` rounds.
    pub fn advance(&mut self, mut rounds: u64) {
        // A few rounds one by one; for many, two, four, eight … rounds are made into one.
        if rounds <= self.nodes as u64 {
            (0..rounds).for_each(|_| self.distribution = apply(&self.step, &self.distribution));
            return;
        }
        let mut step = self.step.clone();
        loop {
            if rounds & 1 == 1 {
                self.distribution = apply(&step, &self.distribution);
            }
            rounds >>= 1;
            if rounds == 0 {
                return;
            }
            step = (0..=self.nodes)
                .map(|s| {
                    let mut later = vec![0.0; self.nodes + 1];
                    later[s..].copy_from_slice(&step[s]);
                    apply(&step, &later).split_off(s)
                })
                .collect();
        }
    }

    /// Sends it to all that lack it, each of whom misses that with probability `lost`.
    pub fn send(&mut self, lost: f64) {
        let reached = |s: usize| binomial(self.nodes - s, 1.0 - lost);
        let step: Vec<_> = (0..=self.nodes).map(reached).collect();
        self.distribution = apply(&step, &self.distribution);
    }

    /// Probability of each number of holders, from 0 to all nodes.
    pub fn distribution(&self) -> &[f64] {
        &self.distribution
    }

    /// Expected share of nodes without the message.
    pub fn residual(&self) -> f64 {
        let lacking = |(s, p): (usize, &f64)| p * (self.nodes - s) as f64;
        let sum: f64 = self.distribution.iter().enumerate().map(lacking).sum();
        sum / self.nodes as f64
    }

    /// Standard deviation of the share of nodes without the message.
    pub fn stddev(&self) -> f64 {
        let mean = self.residual();
        let square = |(s, p): (usize, &f64)| {
            p * ((self.nodes - s) as f64 / self.nodes as f64 - mean).powi(2)
        };
        let sum: f64 = self.distribution.iter().enumerate().map(square).sum();
        sum.sqrt()
    }
}

/// One step of a distribution over numbers of holders.
fn apply(step: &[Vec<f64>], distribution: &[f64]) -> Vec<f64> {
    let mut after = vec![0.0; distribution.len()];
    for (s, &probability) in distribution.iter().enumerate() {
        if probability > NEGLIGIBLE {
            for (after, more) in after[s..].iter_mut().zip(&step[s]) {
                *after += probability * more;
            }
        }
    }
    after
}

/// Probabilities of 0, 1, 2 … new holders in a round that begins with `holders`.
fn new_holders(exchange: &Exchange, holders: usize) -> Vec<f64> {
    let lacking = exchange.nodes as usize - holders;
    // First those that help themselves, each for itself; then the holders' gossip one by one, which
    // is wasted on a node that has got the message in this round already.
    let pulled = -exchange.ln_unpulled(holders as f64).exp_m1();
    let mut new = binomial(lacking, pulled);
    for _ in 0..holders {
        for had in (0..=lacking).rev() {
            let hits = |had: usize| exchange.push() * exchange.chosen() * (lacking - had) as f64;
            let stays = new[had] * (1.0 - hits(had));
            let comes = if had > 0 {
                new[had - 1] * hits(had - 1)
            } else {
                0.0
            };
            new[had] = stays + comes;
        }
    }
    new.iter_mut()
        .filter(|p| **p < NEGLIGIBLE)
        .for_each(|p| *p = 0.0);
    new
}

/// Probabilities of 0 to `trials` successes.
fn binomial(trials: usize, probability: f64) -> Vec<f64> {
    let mut successes = vec![0.0; trials + 1];
    successes[0] = 1.0;
    for trial in 0..trials {
        for had in (0..=trial).rev() {
            successes[had + 1] += successes[had] * probability;
            successes[had] *= 1.0 - probability;
        }
    }
    successes
}

// ---- one node in real time ----
