//! What the model of the real exchange says of dissemination, held against the production core.

use std::time::Duration;

use powderhorn_protocol::bounds::{REDUNDANT_AGE_MAX, REPEAT_MIN};
use powderhorn_protocol::config::Config;
use powderhorn_sim::figures::exchange::{COPIES, repeated};
use powderhorn_sim::fleet::{Fleet, NodeSpec, START};
use powderhorn_sim::net::{Change, Network, Nodes, Pairs, Path};
use powderhorn_sim::record::Recorder;
use powderhorn_sim::rounds::{Exchange, Start};

const NODES: usize = 100;
const DELAY: Duration = Duration::from_millis(1);

fn fleet(seed: u64, config: &Config, loss: f64) -> Fleet {
    let specs = (0..NODES).map(|node| NodeSpec::numbered(node, "", config.clone()));
    let path = Path {
        delay: DELAY,
        ..Path::default()
    };
    let record = Recorder::of_all(NODES, START, Duration::from_secs(3_600));
    let mut fleet = Fleet::new(seed, specs.collect(), Network::flat(NODES, path), record);
    // All sessions are proven.
    fleet.run(Duration::from_secs(4));
    let all = Nodes::new(NODES, |_| true);
    let lossy = Change {
        loss: Some(loss),
        ..Change::default()
    };
    fleet.net.add_rule(
        Pairs::Between {
            from: all.clone(),
            to: all,
            both: false,
        },
        lossy,
    );
    fleet
}

/// Share of nodes without the first of `purges` that follow each other at once, after they have come, once for
/// each of `runs` messages.
fn residuals(loss: f64, purges: u32, runs: u32) -> Vec<f64> {
    // No round comes in between, and no gap is asked for as yet.
    let config = Config {
        round: Duration::from_secs(3_600),
        replay_window: 256,
        ..Config::default()
    };
    let mut fleet = fleet(1, &config, loss);
    let mut residuals = Vec::new();
    for run in 0..runs {
        let origin = run as usize % NODES;
        let first = fleet.issue(origin).and_then(Result::ok).expect("a purge");
        for _ in 1..purges {
            fleet.run(Duration::from_micros(100));
            fleet.issue(origin).and_then(Result::ok).expect("a purge");
        }
        fleet.run(DELAY + Duration::from_micros(100));
        residuals.push(f64::from(fleet.missing(first)) / NODES as f64);
        // What is older than this is not repeated any more.
        fleet.run(REDUNDANT_AGE_MAX);
    }
    assert_eq!(fleet.violation, None);
    residuals
}

#[test]
fn dissemination_reaches_as_many_as_the_model_says() {
    for (loss, purges) in [
        (0.1, 1),
        (0.3, 1),
        (0.3, 3),
        (0.5, 1),
        (0.5, COPIES),
        (0.9, 1),
        (0.9, COPIES),
        (0.9, 2 * COPIES),
    ] {
        let residuals = residuals(loss, purges, 200);
        let (mean, stderr) = mean_and_stderr(&residuals);
        let start = Start {
            holders: 1.0,
            copies: purges.min(COPIES),
        };
        let exchange = Exchange::real(NODES as u32, loss, true);
        let model = 1.0 - start.expected_holders(&exchange) / NODES as f64;
        assert!(
            (mean - model).abs() <= 3.0 * stderr,
            "{loss} lost, {purges} purges: {mean} ± {stderr}, and by the model {model}"
        );
    }
}

/// Nodes' rounds are not in step, what comes in one is passed on in the same one, and gaps are asked for at once: so the
/// production core may be a little better than the model, and no worse than chance allows.
#[test]
fn the_first_rounds_leave_as_few_as_the_model_says() {
    const RATE: f64 = 6.25;
    const ROUNDS: u64 = 2;
    const LEAD: usize = 20;
    for loss in [0.3, 0.5, 0.9] {
        let config = Config {
            replay_window: 256,
            ..Config::default()
        };
        let mut shares = [const { Vec::new() }; ROUNDS as usize + 1];
        for seed in 0..3 {
            let mut fleet = fleet(seed, &config, loss);
            let each = Duration::from_secs_f64(1.0 / RATE);
            let begin = fleet.now;
            // When to look at which message, after how many rounds.
            let mut looks = Vec::new();
            for message in 0..120 {
                let issued = begin + each * message;
                looks.push((issued, message, None));
                for rounds in 0..=ROUNDS {
                    // What is asked for at the end of the last round comes a little later.
                    let late = if rounds > 0 { REPEAT_MIN } else { DELAY };
                    let time = config.round * rounds as u32 + DELAY + late;
                    looks.push((issued + time, message, Some(rounds)));
                }
            }
            looks.sort();
            let mut numbers = Vec::new();
            for (time, message, rounds) in looks {
                fleet.run_until(time);
                match rounds {
                    None => numbers.push(fleet.issue(0).and_then(Result::ok).expect("a purge")),
                    Some(rounds) if message as usize >= LEAD => {
                        let missing = fleet.missing(numbers[message as usize]);
                        shares[rounds as usize].push(f64::from(missing) / NODES as f64);
                    }
                    Some(_) => {}
                }
            }
        }
        for (rounds, shares) in (0..).zip(&shares) {
            let (mean, stderr) = mean_and_stderr(shares);
            let model = repeated(loss, RATE, rounds).residual();
            assert!(
                mean <= model + 3.0 * stderr && mean >= model * 0.7 - 3.0 * stderr,
                "{loss} lost, after {rounds} rounds: {mean} ± {stderr}, and by the model {model}"
            );
        }
    }
}

fn mean_and_stderr(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}
