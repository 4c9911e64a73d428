//! How long a purge is missing that one node did not get, in rounds: the figure that push-pull is
//! for. `cargo test --release --test recovery -- --ignored --nocapture` measures with more trials
//! and prints.

mod common;

use std::time::Duration;

use common::{Fleet, Link, disseminates, ms, secs};
use powderhorn_protocol::config::Config;
use rand::Rng;

struct Figures {
    rounds: Vec<f64>,
}

impl Figures {
    fn of(rounds: impl Iterator<Item = f64>) -> Figures {
        let mut rounds: Vec<f64> = rounds.collect();
        rounds.sort_by(f64::total_cmp);
        Figures { rounds }
    }

    fn at(&self, share: f64) -> f64 {
        let index = (self.rounds.len() as f64 * share).ceil() as usize;
        self.rounds[index.clamp(1, self.rounds.len()) - 1]
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} trials, rounds until recovered: p50 {:.3} p90 {:.3} p99 {:.3} p99.9 {:.3} max {:.3}",
            self.rounds.len(),
            self.at(0.5),
            self.at(0.9),
            self.at(0.99),
            self.at(0.999),
            self.at(1.0),
        );
    }
}

/// A fleet in which everybody has heard of everybody's stream.
fn warm_fleet(seed: u64, count: usize) -> Fleet {
    let mut fleet = Fleet::new(seed, count, &Config::default());
    fleet.all_links(Link {
        delay: ms(1),
        jitter: ms(1),
        ..Link::default()
    });
    fleet.settle();
    for index in 0..count {
        fleet.issue(index);
    }
    fleet.run(secs(5));
    assert!(fleet.converged());
    fleet
}

/// Issues a purge at `from` that does not reach `victim` at once, and waits until it has; in rounds.
fn lose_one(fleet: &mut Fleet, from: usize, victim: usize) -> f64 {
    let start = fleet.now;
    // Only what is disseminated is lost, and nothing later repeats it.
    fleet.filter = Some(Box::new(move |_, to, bytes| {
        to != victim || !disseminates(bytes)
    }));
    let id = fleet.issue(from);
    let found = fleet.run_until(start + secs(30), |fleet| {
        fleet.nodes[victim].applied.contains_key(&id)
    });
    assert!(found, "seed {}: {id} was never recovered", fleet.seed);
    fleet.filter = None;
    fleet.now.since(start).as_secs_f64() / Config::default().round.as_secs_f64()
}

/// Single purges, each kept from one random node, a while after each other, and nothing else.
fn lone_losses(seed: u64, count: usize, trials: usize, idle: Duration) -> Figures {
    let mut fleet = warm_fleet(seed, count);
    let trial = |_| {
        let pause = fleet.random().random_range(0..=2 * idle.as_micros() as u64);
        fleet.run(Duration::from_micros(pause));
        let from = fleet.random().random_range(0..count);
        let victim = (from + fleet.random().random_range(1..count)) % count;
        lose_one(&mut fleet, from, victim)
    };
    Figures::of((0..trials).map(trial))
}

/// The same with purges that are the first of their node, which has just started: who misses one
/// has never heard of its stream.
fn first_losses(seed: u64, count: usize, trials: usize) -> Figures {
    let trial = |trial| {
        let mut fleet = warm_fleet(seed + trial as u64, count);
        fleet.restart(0);
        let pause = fleet.random().random_range(2_000..3_000);
        fleet.run(ms(pause));
        lose_one(&mut fleet, 0, 1)
    };
    Figures::of((0..trials).map(trial))
}

#[test]
fn a_lone_loss_among_5_is_mended_within_about_a_round() {
    let figures = lone_losses(1, 5, 2_000, ms(300));
    figures.print("5 nodes");
    assert!(figures.at(0.999) <= 1.2, "p99.9 is {}", figures.at(0.999));
}

#[test]
fn the_loss_of_a_first_purge_is_mended_as_fast() {
    let figures = first_losses(2, 5, 300);
    figures.print("5 nodes, first purges");
    assert!(figures.at(0.999) <= 1.2, "p99.9 is {}", figures.at(0.999));
}

#[test]
fn a_lone_loss_among_100_is_mended_within_about_a_round() {
    let figures = lone_losses(3, 100, 40, ms(50));
    figures.print("100 nodes");
    // With so few trials the worst of them: the figures are measured by the test below.
    assert!(figures.at(1.0) <= 1.25, "the worst is {}", figures.at(1.0));
}

#[test]
#[ignore = "measures; takes minutes"]
fn figures_of_lone_losses() {
    for (count, trials) in [(5, 20_000), (20, 5_000), (100, 2_000)] {
        let what = format!("{count} nodes");
        lone_losses(4, count, trials, ms(300)).print(&what);
    }
    first_losses(5, 5, 5_000).print("5 nodes, first purges");
    first_losses(6, 50, 200).print("50 nodes, first purges");
}
