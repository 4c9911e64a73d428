//! The expected course of an epidemic, round by round, with a residual that stays exact.
//!
//! This is the recurrence of appendix A.6 of *Bimodal Multicast* (Birman et al., 1999), which the
//! authors of Powderhorn drew their convergence curves from. Of `N` nodes, `s` hold a message and
//! `r` lack it. In one round each holder tells one node, so that a given node is told by a given
//! holder with probability `p = β(1 − ε)`: `β` the probability of being chosen, `ε` of a loss. A
//! node that lacks the message still lacks it afterwards with probability `qˢ`, `q = 1 − p`, so on
//! average
//!
//! ```text
//! k = r(1 − qˢ),   s ← s + k,   r ← r − k
//! ```
//!
//! Where nodes crash, with probability `τ` in a round, `s` and `r` are first multiplied by `1 − τ`.
//! The paper leaves the solicitation and the retransmission out; here the same recurrence also
//! takes the real exchange of three datagrams, push-pull and further solicits: they only change the
//! factor by which `r` shrinks (see [`Exchange`]).
//!
//! The recurrence is for averages. It puts the average number of holders where the real number
//! belongs, and so errs where chance decides much: while there are few holders. [`crate::rounds`]
//! has the same model with chance in it.
//!
//! What the authors looked for, the share of nodes without the message after tens of thousands of
//! rounds, is as small as 10⁻³⁴⁹: below any `f64`, and `1 − s/N` stops at 10⁻¹⁵ long before.
//! Therefore the state is the logarithm of `r`, to which each round adds one term.

use std::f64::consts::LOG10_E;

use crate::rounds::{Exchange, Start};

/// The state of the recurrence after some rounds.
#[derive(Clone, Debug)]
pub struct Recurrence {
    exchange: Exchange,
    crash: f64,
    alive: f64,
    holders: f64,
    ln_lacking: Sum,
}

impl Recurrence {
    /// Before the first round, with the expected number of holders.
    pub fn new(exchange: Exchange, start: Start) -> Self {
        let (nodes, holders) = (f64::from(exchange.nodes), start.holders);
        let mut ln_lacking = Sum::new((nodes - holders).ln());
        if start.copies > 0 {
            ln_lacking.add(f64::from(start.copies) * exchange.loss.ln());
        }
        Recurrence {
            exchange,
            crash: 0.0,
            alive: nodes,
            holders: start.expected_holders(&exchange),
            ln_lacking,
        }
    }

    /// The same with crashes: the share of nodes, holders or not, that is lost in each round.
    pub fn with_crashes(self, crash: f64) -> Self {
        Recurrence { crash, ..self }
    }

    /// Plays `rounds` rounds.
    pub fn advance(&mut self, rounds: u64) {
        for _ in 0..rounds {
            self.round();
        }
    }

    fn round(&mut self) {
        if self.crash > 0.0 {
            self.alive *= 1.0 - self.crash;
            self.holders *= 1.0 - self.crash;
            self.ln_lacking.add((-self.crash).ln_1p());
        }
        let ln_missed = self.exchange.ln_missed(self.holders);
        let lacking = self.lacking();
        self.ln_lacking.add(ln_missed);
        // Each is used where it loses no digits.
        self.holders = if lacking > self.alive / 2.0 {
            self.holders + lacking * -ln_missed.exp_m1()
        } else {
            self.alive - self.lacking()
        };
    }

    /// Nodes that hold the message.
    pub fn holders(&self) -> f64 {
        self.holders
    }

    /// Nodes that lack the message (the paper's susceptible processes).
    pub fn lacking(&self) -> f64 {
        self.ln_lacking.value().exp()
    }

    /// Share of the nodes alive that hold the message.
    pub fn coverage(&self) -> f64 {
        self.holders / self.alive
    }

    /// Logarithm to base 10 of the share of the nodes alive that lack the message: exact however
    /// small the share is; minus infinity when none lacks it.
    pub fn residual_log10(&self) -> f64 {
        (self.ln_lacking.value() - self.alive.ln()) * LOG10_E
    }
}

/// Rounds until the share of nodes without the message is at most `residual`; none if that takes
/// more than `rounds_max`.
pub fn rounds_until(
    exchange: Exchange,
    start: Start,
    residual: f64,
    rounds_max: u64,
) -> Option<u64> {
    let mut recurrence = Recurrence::new(exchange, start);
    (0..=rounds_max).find(|rounds| {
        if *rounds > 0 {
            recurrence.advance(1);
        }
        recurrence.residual_log10() <= residual.log10()
    })
}

/// A sum of many terms that carries its rounding error along (Neumaier's): 80,000 plain additions
/// would cost four of the sixteen digits.
#[derive(Clone, Copy, Debug)]
struct Sum {
    sum: f64,
    error: f64,
}

impl Sum {
    fn new(first: f64) -> Self {
        Sum {
            sum: first,
            error: 0.0,
        }
    }

    fn add(&mut self, term: f64) {
        let sum = self.sum + term;
        if sum.is_finite() {
            let (large, small) = if self.sum.abs() >= term.abs() {
                (self.sum, term)
            } else {
                (term, self.sum)
            };
            self.error += (large - sum) + small;
        }
        self.sum = sum;
    }

    fn value(&self) -> f64 {
        self.sum + self.error
    }
}
