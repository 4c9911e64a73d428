//! `powderhorn-sim converge`: one point of a convergence curve, as one line of JSON.
//!
//! Left to itself it answers as the calculator of Powderhorn's authors does: the paper's recurrence
//! for 100 nodes, one of which holds the message, after 10 rounds.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::recurrence::Recurrence;
use crate::rounds::{CHAIN_NODES_MAX, Chain, Choice, Exchange, Legs, Start, simulate_telling};

/// Most nodes, rounds and runs that are accepted: far beyond what anybody waits for.
const NODES_MAX: u32 = 10_000_000;
const ROUNDS_MAX: u64 = 1_000_000_000;
const RUNS_MAX: u32 = 100_000_000;

/// Share of nodes that hold a message after some rounds of gossip.
#[derive(Args, Clone, Debug)]
pub struct ConvergeArgs {
    /// Nodes in the fleet, at least 2.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub nodes: u32,
    /// Nodes that hold the message at first: a number, or a share of all as in 1%.
    #[arg(long, value_name = "K", default_value = "1")]
    pub holders: String,
    /// Datagrams of the first dissemination that carry the message to each of the others.
    /// 0: it fails, only the holders have it; 1: one broadcast; 9: with the latest 8 repeated.
    #[arg(long, value_name = "C", default_value_t = 0)]
    pub copies: u32,
    /// Probability that a datagram is lost, from 0 to less than 1.
    #[arg(
        long,
        value_name = "E",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub loss: f64,
    /// Rounds of gossip.
    #[arg(long, value_name = "R", default_value_t = 10)]
    pub rounds: u64,
    /// Datagrams per gossip: 1 as in the paper's analysis, 3 for digest, solicit and repair.
    #[arg(long, value_name = "L", default_value_t = 1)]
    pub legs: u8,
    /// A digest is answered with what its receiver lacks only (the default).
    #[arg(long, conflicts_with = "push_pull")]
    pub push: bool,
    /// A digest is also answered with what its sender lacks.
    #[arg(long)]
    pub push_pull: bool,
    /// Further solicits to the origin, per round and node that lacks the message.
    #[arg(long, value_name = "G", default_value_t = 0.0)]
    pub solicits: f64,
    /// Among whom a node chooses its peer. Default: all for the recurrence with one leg, as the
    /// authors' curves do; else others.
    #[arg(long, value_name = "WHOM")]
    pub choice: Option<ChoiceArg>,
    /// The recurrence of averages (the default).
    #[arg(long, conflicts_with_all = ["runs", "exact"])]
    pub recurrence: bool,
    /// The average of this many simulated runs.
    #[arg(long, value_name = "M", conflicts_with = "exact")]
    pub runs: Option<u32>,
    /// The expectation over all runs, from the Markov chain of the number of holders.
    #[arg(long)]
    pub exact: bool,
    /// Seed of the simulated runs.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
}

/// Among whom a node chooses its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ChoiceArg {
    /// All nodes, itself included: β = 1/N.
    All,
    /// The other nodes: β = 1/(N − 1).
    Others,
}

/// An argument that makes no sense. Nothing was computed.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ConvergeError {
    /// Too few or too many nodes.
    #[error("--nodes {0}: must be 2 to {most}", most = NODES_MAX)]
    Nodes(u32),
    /// Not a number, or none that fits the nodes.
    #[error("--holders {0}: must be a number from 1 to --nodes, or a share of them as in 1%")]
    Holders(String),
    /// Part of a holder.
    #[error("--holders {0}: is not a whole number of nodes, which only the recurrence understands")]
    HoldersNotWhole(String),
    /// Not a probability, or nothing would ever arrive.
    #[error("--loss {0}: must be at least 0 and less than 1")]
    Loss(f64),
    /// Too many rounds.
    #[error("--rounds {0}: must be at most {most}", most = ROUNDS_MAX)]
    Rounds(u64),
    /// Neither of the two exchanges.
    #[error("--legs {0}: must be 1 or 3")]
    Legs(u8),
    /// Negative, or not a number.
    #[error("--solicits {0}: must be a number, at least 0")]
    Solicits(f64),
    /// No runs, or too many.
    #[error("--runs {0}: must be 1 to {most}", most = RUNS_MAX)]
    Runs(u32),
    /// The chain takes fewer nodes than the other models.
    #[error("--nodes {0}: must be at most {most} with --exact", most = CHAIN_NODES_MAX)]
    ExactNodes(u32),
}

impl ConvergeArgs {
    /// How many runs it is averaged over; 0 if it is computed.
    pub fn count(&self) -> u64 {
        self.runs.unwrap_or(0).into()
    }
}

/// Computes the point. The answer has `coverage`, `residual` (1 − coverage; null where no `f64` is
/// that small) and `residual_log10`, which is exact however small (null when nothing is lacking).
/// `each` is called after each of the runs.
pub fn run(args: &ConvergeArgs, each: &mut dyn FnMut()) -> Result<Value, ConvergeError> {
    let (exchange, start) = model(args)?;
    let mut answer = json!({
        "nodes": args.nodes,
        "holders": start.holders,
        "copies": args.copies,
        "loss": args.loss,
        "rounds": args.rounds,
        "legs": args.legs,
        "exchange": if args.push_pull { "push-pull" } else { "push" },
        "solicits": args.solicits,
        "choice": match exchange.choice {
            Choice::All => "all",
            Choice::Others => "others",
        },
    });
    let result = if let Some(runs) = args.runs {
        let rounds = [args.rounds];
        let summary = simulate_telling(&exchange, start, &rounds, runs, args.seed, each)[0];
        json!({
            "model": "monte-carlo",
            "runs": runs,
            "seed": args.seed,
            "coverage": summary.coverage(),
            "residual": summary.residual,
            "residual_log10": summary.residual.log10(),
            "stddev": summary.stddev,
            "stderr": summary.stderr(),
        })
    } else if args.exact {
        let mut chain = Chain::new(&exchange, start);
        chain.advance(args.rounds);
        let residual = chain.residual();
        json!({
            "model": "exact",
            "coverage": 1.0 - residual,
            "residual": residual,
            "residual_log10": residual.log10(),
            "stddev": chain.stddev(),
        })
    } else {
        let mut recurrence = Recurrence::new(exchange, start);
        recurrence.advance(args.rounds);
        let log10 = recurrence.residual_log10();
        let residual = 10f64.powf(log10);
        json!({
            "model": "recurrence",
            "coverage": recurrence.coverage(),
            "residual": (residual.is_normal() || log10 == f64::NEG_INFINITY).then_some(residual),
            "residual_log10": log10,
        })
    };
    if let (Some(answer), Some(result)) = (answer.as_object_mut(), result.as_object()) {
        answer.extend(result.clone());
    }
    Ok(answer)
}

fn model(args: &ConvergeArgs) -> Result<(Exchange, Start), ConvergeError> {
    if !(2..=NODES_MAX).contains(&args.nodes) {
        return Err(ConvergeError::Nodes(args.nodes));
    }
    if args.exact && args.nodes > CHAIN_NODES_MAX {
        return Err(ConvergeError::ExactNodes(args.nodes));
    }
    if !(0.0..1.0).contains(&args.loss) {
        return Err(ConvergeError::Loss(args.loss));
    }
    if args.rounds > ROUNDS_MAX {
        return Err(ConvergeError::Rounds(args.rounds));
    }
    if !args.solicits.is_finite() || args.solicits < 0.0 {
        return Err(ConvergeError::Solicits(args.solicits));
    }
    if let Some(runs) = args.runs.filter(|runs| !(1..=RUNS_MAX).contains(runs)) {
        return Err(ConvergeError::Runs(runs));
    }
    let legs = match args.legs {
        1 => Legs::One,
        3 => Legs::Three,
        other => return Err(ConvergeError::Legs(other)),
    };
    let averages = args.runs.is_none() && !args.exact;
    let choice = match args.choice {
        Some(ChoiceArg::All) => Choice::All,
        Some(ChoiceArg::Others) => Choice::Others,
        None if averages && legs == Legs::One => Choice::All,
        None => Choice::Others,
    };
    let exchange = Exchange {
        nodes: args.nodes,
        loss: args.loss,
        legs,
        push_pull: args.push_pull,
        choice,
        solicits_per_round: args.solicits,
    };
    let start = Start {
        holders: holders(args, averages)?,
        copies: args.copies,
    };
    Ok((exchange, start))
}

/// A count of at least one, or a share, which may come to part of a node where averages are asked
/// for: the paper's curves begin with 1 % of 20 nodes, too.
fn holders(args: &ConvergeArgs, averages: bool) -> Result<f64, ConvergeError> {
    let bad = || ConvergeError::Holders(args.holders.clone());
    let nodes = f64::from(args.nodes);
    let holders = match args.holders.strip_suffix('%') {
        Some(percent) => {
            let percent: f64 = percent.trim().parse().map_err(|_| bad())?;
            if !(percent > 0.0 && percent <= 100.0) {
                return Err(bad());
            }
            nodes * percent / 100.0
        }
        None => {
            let count: u32 = args.holders.parse().map_err(|_| bad())?;
            if !(1..=args.nodes).contains(&count) {
                return Err(bad());
            }
            f64::from(count)
        }
    };
    if !averages && holders.fract() != 0.0 {
        return Err(ConvergeError::HoldersNotWhole(args.holders.clone()));
    }
    Ok(holders)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ConvergeArgs,
    }

    fn converge(line: &str) -> Result<Value, ConvergeError> {
        let words = std::iter::once("converge").chain(line.split_whitespace());
        let args = Command::try_parse_from(words).expect("parses").args;
        run(&args, &mut || ())
    }

    fn message(line: &str) -> String {
        converge(line).expect_err("is refused").to_string()
    }

    #[test]
    fn mistakes_name_their_argument() {
        for (line, argument) in [
            ("--nodes 1", "--nodes 1"),
            ("--nodes 5000 --exact", "--nodes 5000"),
            ("--holders 0", "--holders 0"),
            ("--holders 101", "--holders 101"),
            ("--holders many", "--holders many"),
            ("--holders -1%", "--holders -1%"),
            ("--nodes 20 --holders 1% --runs 5", "--holders 1%"),
            ("--loss 1", "--loss 1"),
            ("--loss NaN", "--loss NaN"),
            ("--rounds 99999999999", "--rounds 99999999999"),
            ("--legs 2", "--legs 2"),
            ("--solicits inf", "--solicits inf"),
            ("--runs 0", "--runs 0"),
        ] {
            let line = line.replace(" -1%", "=-1%");
            assert!(message(&line).starts_with(argument), "{}", message(&line));
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "--push --push-pull",
            "--recurrence --runs 5",
            "--exact --runs 5",
        ] {
            let words = std::iter::once("converge").chain(line.split_whitespace());
            assert!(Command::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn a_residual_below_every_number_has_a_logarithm() {
        let answer = converge("--loss 0.99 --rounds 80000 --recurrence").expect("computes");
        assert_eq!(answer["model"], "recurrence");
        assert_eq!(answer["residual"], Value::Null);
        assert_eq!(
            answer["residual_log10"].as_f64().map(f64::round),
            Some(-345.0)
        );
        assert_eq!(answer["coverage"], 1.0);
    }

    #[test]
    fn nothing_lacking_has_no_logarithm() {
        let answer = converge("--holders 100 --exact").expect("computes");
        assert_eq!(answer["residual"], 0.0);
        assert_eq!(answer["residual_log10"], Value::Null);
    }

    #[test]
    fn the_same_seed_gives_the_same_line() {
        let line = "--loss 0.5 --runs 50 --seed 7";
        assert_eq!(converge(line), converge(line));
        let other = converge("--loss 0.5 --runs 50 --seed 8");
        assert_ne!(converge(line), other);
    }
}
