//! One message, round by round: by chance on every node, or as the distribution of the number of
//! holders.
//!
//! The model of the paper's analysis, with the exchange as it really is. Each of `N` nodes chooses
//! in each round one peer, uniformly, and gossips to it, holder or not. All act on what was held
//! when the round began: what comes in a round is passed on from the next. Each datagram is lost
//! with the same probability, independently.
//!
//! What one gossip does is up to four datagrams:
//!
//! ```text
//! the chooser holds the message, the chosen lacks it:   digest →   ← solicit   repair →   (push)
//! the chooser lacks it, the chosen holds it:            digest →   ← repair               (pull)
//! ```
//!
//! The paper knows the first only and counts its three datagrams as one (*one leg*). Powderhorn's
//! digest also says what the sender lacks, and so the second comes for free (*push-pull*).
//!
//! [`simulate`] plays it with a random number for every datagram that matters. [`Chain`] computes
//! what that converges to: all nodes are alike, so the number of holders is a Markov chain, and its
//! distribution can be had to full precision also where a simulation would need 10¹² runs.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

mod chain;

pub use chain::{CHAIN_NODES_MAX, Chain};

/// Datagrams that must all arrive for one gossip to mend one miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legs {
    /// The paper's analysis: digest, solicit and repair are one message.
    One,
    /// Digest, solicit and repair are three datagrams, each of which may be lost.
    Three,
}

/// Among whom a node chooses its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Among all `N` nodes, itself included: β = 1/N, as in the curves of Powderhorn's authors.
    All,
    /// Among the others: β = 1/(N − 1), as a real node does.
    Others,
}

/// What happens in one round, and how likely it is to work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exchange {
    /// Nodes in the fleet, at least 2.
    pub nodes: u32,
    /// Probability that a datagram is lost, 0 to 1.
    pub loss: f64,
    /// Datagrams that one gossip needs.
    pub legs: Legs,
    /// A digest is also answered with what its sender lacks.
    pub push_pull: bool,
    /// Among whom a peer is chosen.
    pub choice: Choice,
    /// How often in a round a node that lacks the message asks its origin for it, beside the
    /// gossip: two datagrams, solicit and repair. It need not be whole. The production core does so
    /// when it sees a gap in a stream, a few milliseconds after what it missed, and up to four times
    /// in a round (the answers of 30 ms round trips allow no more).
    pub solicits_per_round: f64,
}

impl Exchange {
    /// The paper's exchange: one leg, push only, nobody asks twice.
    pub fn of_the_paper(nodes: u32, loss: f64) -> Self {
        Exchange {
            nodes,
            loss,
            legs: Legs::One,
            push_pull: false,
            choice: Choice::All,
            solicits_per_round: 0.0,
        }
    }

    /// The real exchange of digest, solicit and repair.
    pub fn real(nodes: u32, loss: f64, push_pull: bool) -> Self {
        Exchange {
            legs: Legs::Three,
            push_pull,
            choice: Choice::Others,
            ..Self::of_the_paper(nodes, loss)
        }
    }

    /// β, the probability that a node chooses a given other one.
    pub fn chosen(&self) -> f64 {
        match self.choice {
            Choice::All => 1.0 / f64::from(self.nodes),
            Choice::Others => 1.0 / f64::from(self.nodes - 1),
        }
    }

    /// Probability that a holder's gossip mends the miss of the node that it chose.
    pub fn push(&self) -> f64 {
        match self.legs {
            Legs::One => 1.0 - self.loss,
            Legs::Three => (1.0 - self.loss).powi(3),
        }
    }

    /// Probability that a node's own miss is mended by its gossip to a holder.
    pub fn pull(&self) -> f64 {
        match (self.push_pull, self.legs) {
            (false, _) => 0.0,
            (true, Legs::One) => 1.0 - self.loss,
            (true, Legs::Three) => (1.0 - self.loss).powi(2),
        }
    }

    /// ln of the probability that none of a round's extra solicits works.
    fn ln_unsolicited(&self) -> f64 {
        if self.solicits_per_round > 0.0 {
            self.solicits_per_round * (-(1.0 - self.loss).powi(2)).ln_1p()
        } else {
            0.0
        }
    }

    /// ln of the probability that a node that lacks the message gets it in a round neither by its
    /// own gossip nor by its own solicits.
    fn ln_unpulled(&self, holders: f64) -> f64 {
        let pulled = (holders * self.chosen() * self.pull()).min(1.0);
        (-pulled).ln_1p() + self.ln_unsolicited()
    }

    /// ln of the probability that a node that lacks the message still lacks it after a round that
    /// began with `holders`.
    pub fn ln_missed(&self, holders: f64) -> f64 {
        holders * (-self.chosen() * self.push()).ln_1p() + self.ln_unpulled(holders)
    }
}

/// Who holds the message when the rounds begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// Nodes that hold it whatever is lost: 1 is the origin. A fraction makes sense for averages
    /// only.
    pub holders: f64,
    /// Datagrams to each of the others that carry the message, each lost like any other. 0: the
    /// dissemination fails, as the paper assumes; 1: one broadcast; 9: what the production core
    /// does for a node whose purges follow each other, each datagram repeating the latest eight.
    pub copies: u32,
}

impl Start {
    /// `holders` have it, and the dissemination failed.
    pub fn holders(holders: f64) -> Self {
        Start { holders, copies: 0 }
    }

    /// One node has it and has sent it to all others once.
    pub fn broadcast() -> Self {
        Start {
            holders: 1.0,
            copies: 1,
        }
    }

    /// Probability that dissemination brings the message to a given node.
    fn reached(&self, loss: f64) -> f64 {
        match self.copies {
            0 => 0.0,
            copies => 1.0 - loss.powf(f64::from(copies)),
        }
    }

    /// Average number of holders.
    pub fn expected_holders(&self, exchange: &Exchange) -> f64 {
        let others = f64::from(exchange.nodes) - self.holders;
        self.holders + others * self.reached(exchange.loss)
    }
}

// ---- by chance ----

/// What a number of simulated runs came to at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Rounds played.
    pub rounds: u64,
    /// Runs averaged over.
    pub runs: u32,
    /// Average share of nodes without the message.
    pub residual: f64,
    /// Standard deviation of that share between runs (of the sample, n − 1); 0 for one run.
    pub stddev: f64,
}

impl Summary {
    /// Average share of nodes with the message.
    pub fn coverage(&self) -> f64 {
        1.0 - self.residual
    }

    /// Standard error of the average.
    pub fn stderr(&self) -> f64 {
        self.stddev / f64::from(self.runs).sqrt()
    }
}

/// Plays `runs` runs and summarizes them after each of the given numbers of rounds, which ascend.
pub fn simulate(
    exchange: &Exchange,
    start: Start,
    rounds: &[u64],
    runs: u32,
    seed: u64,
) -> Vec<Summary> {
    simulate_telling(exchange, start, rounds, runs, seed, &mut || ())
}

/// The same; `each` is called after each run.
pub fn simulate_telling(
    exchange: &Exchange,
    start: Start,
    rounds: &[u64],
    runs: u32,
    seed: u64,
    each: &mut dyn FnMut(),
) -> Vec<Summary> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sums = vec![(0.0, 0.0); rounds.len()];
    for _ in 0..runs {
        let mut run = Run::new(exchange, start, &mut rng);
        for (&upto, (sum, squares)) in rounds.iter().zip(&mut sums) {
            run.play(upto);
            let residual = run.residual();
            *sum += residual;
            *squares += residual * residual;
        }
        each();
    }
    let count = f64::from(runs);
    let summary = |(&rounds, (sum, squares)): (&u64, (f64, f64))| Summary {
        rounds,
        runs,
        residual: sum / count,
        stddev: ((squares - sum * sum / count) / (count - 1.0).max(1.0))
            .max(0.0)
            .sqrt(),
    };
    rounds.iter().zip(sums).map(summary).collect()
}

/// One simulated run. Every node has one slot in each round; of the slots only those matter in
/// which no datagram would be lost, and [`Trials`] leaps from one of those to the next.
struct Run<'a> {
    exchange: &'a Exchange,
    rng: &'a mut StdRng,
    held: Vec<bool>,
    holders: u32,
    /// Got the message in this round, perhaps more than once.
    fresh: Vec<usize>,
    gossips: Trials,
    solicits: Trials,
}

impl<'a> Run<'a> {
    fn new(exchange: &'a Exchange, start: Start, rng: &'a mut StdRng) -> Self {
        let nodes = exchange.nodes as usize;
        let whole = start.holders as usize;
        let reached = start.reached(exchange.loss);
        let held: Vec<bool> = (0..nodes)
            .map(|node| node < whole || rng.random_bool(reached))
            .collect();
        let holders = held.iter().filter(|held| **held).count() as u32;
        let gossips = Trials::new(exchange.push().max(exchange.pull()), rng);
        let solicits = Trials::new(-exchange.ln_unsolicited().exp_m1(), rng);
        Run {
            exchange,
            rng,
            held,
            holders,
            fresh: Vec::new(),
            gossips,
            solicits,
        }
    }

    /// Goes on until `upto` rounds have been played.
    fn play(&mut self, upto: u64) {
        let nodes = u64::from(self.exchange.nodes);
        while self.holders < self.exchange.nodes {
            let round = self.gossips.next.min(self.solicits.next) / nodes;
            if round >= upto {
                break;
            }
            while self.gossips.next / nodes == round {
                self.gossip((self.gossips.next % nodes) as usize);
                self.gossips.advance(self.rng);
            }
            while self.solicits.next / nodes == round {
                self.fresh.push((self.solicits.next % nodes) as usize);
                self.solicits.advance(self.rng);
            }
            for node in self.fresh.drain(..) {
                self.holders += u32::from(!self.held[node]);
                self.held[node] = true;
            }
        }
    }

    fn gossip(&mut self, chooser: usize) {
        let nodes = self.held.len();
        let chosen = match self.exchange.choice {
            Choice::All => self.rng.random_range(0..nodes),
            Choice::Others => (chooser + self.rng.random_range(1..nodes)) % nodes,
        };
        let (works, gets) = match (self.held[chooser], self.held[chosen]) {
            (true, false) => (self.exchange.push(), chosen),
            (false, true) => (self.exchange.pull(), chooser),
            _ => return,
        };
        if self.rng.random::<f64>() * self.gossips.probability < works {
            self.fresh.push(gets);
        }
    }

    fn residual(&self) -> f64 {
        f64::from(self.exchange.nodes - self.holders) / f64::from(self.exchange.nodes)
    }
}

/// The successes in a long row of independent trials.
struct Trials {
    probability: f64,
    /// Index of the next success.
    next: u64,
}

impl Trials {
    fn new(probability: f64, rng: &mut StdRng) -> Self {
        let mut trials = Trials {
            probability,
            next: 0,
        };
        trials.next = trials.failures(rng);
        trials
    }

    fn advance(&mut self, rng: &mut StdRng) {
        self.next = self.next.saturating_add(1 + self.failures(rng));
    }

    /// Failures before a success: geometric, by inversion.
    fn failures(&self, rng: &mut StdRng) -> u64 {
        if self.probability <= 0.0 {
            return u64::MAX / 2;
        }
        if self.probability >= 1.0 {
            return 0;
        }
        let uniform = 1.0 - rng.random::<f64>();
        let failures = uniform.ln() / (-self.probability).ln_1p();
        (failures as u64).min(u64::MAX / 2)
    }
}

// ---- as a distribution ----

/// Probability that a node that alone lacks a message still lacks it after `time` rounds. Here the
/// rounds are not in step: each node gossips once a round, at a moment of its own. Only gossip
/// counts, no further solicits.
pub fn lone_miss_survival(exchange: &Exchange, time: f64) -> f64 {
    // By then a node has gossiped `whole` times, or once more with probability `part`.
    let (whole, part) = (time.floor(), time.fract());
    let fails = |p: f64| (1.0 - p).powf(whole) * (1.0 - part * p);
    let others = exchange.nodes as i32 - 1;
    let pull = exchange.pull() * f64::from(others) * exchange.chosen();
    fails(exchange.push() * exchange.chosen()).powi(others) * fails(pull)
}

/// Rounds after which a lone miss is mended with probability `share` (0.95: the 95th percentile).
pub fn lone_miss_quantile(exchange: &Exchange, share: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while lone_miss_survival(exchange, high) > 1.0 - share && high < 1e12 {
        (low, high) = (high, high * 2.0);
    }
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if lone_miss_survival(exchange, middle) > 1.0 - share {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The same by chance: the rounds that each of `runs` lone misses took, ascending.
pub fn lone_miss_times(exchange: &Exchange, runs: u32, seed: u64) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let others = exchange.nodes - 1;
    let push = exchange.push() * exchange.chosen();
    let pull = exchange.pull() * f64::from(others) * exchange.chosen();
    let mut first = |probability: f64| {
        let trials = Trials {
            probability,
            next: 0,
        };
        rng.random::<f64>() + trials.failures(&mut rng) as f64
    };
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let own = first(pull);
            (0..others).map(|_| first(push)).fold(own, f64::min)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}
