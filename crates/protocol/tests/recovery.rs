//! How long a purge is missing that one node did not get, in rounds: the figure that push-pull is
//! for. `cargo test --release --test recovery -- --ignored --nocapture` measures with more trials
//! and prints.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::{Fleet, Link, disseminates, ms, secs};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::MessageId;
use rand::Rng;

struct Figures {
    rounds: Vec<f64>,
}

impl Figures {
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

/// Single purges, each kept from one random node, and nothing else going on. `idle` passes before
/// each, on average.
fn lone_losses(seed: u64, count: usize, trials: usize, idle: Duration, warm: bool) -> Figures {
    let config = Config::default();
    let round = config.round;
    let mut fleet = Fleet::new(seed, count, &config);
    fleet.all_links(Link {
        delay: ms(1),
        jitter: ms(1),
        ..Link::default()
    });
    fleet.settle();
    if warm {
        // Everybody has heard of every stream.
        for index in 0..count {
            fleet.issue(index);
        }
        fleet.run(secs(10));
        assert!(fleet.converged());
    }
    let deaf = Rc::new(RefCell::new(None));
    let deaf_to = Rc::clone(&deaf);
    // Only what is disseminated is lost, and not again when a later purge repeats it: there is none.
    fleet.filter = Some(Box::new(move |_, to, bytes| {
        *deaf_to.borrow() != Some(to) || !disseminates(bytes)
    }));
    let mut rounds = Vec::with_capacity(trials);
    for trial in 0..trials {
        let pause = fleet.random().random_range(0..=2 * idle.as_micros() as u64);
        fleet.run(Duration::from_micros(pause));
        let from = fleet.random().random_range(0..count);
        let victim = (from + fleet.random().random_range(1..count)) % count;
        *deaf.borrow_mut() = Some(victim);
        let start = fleet.now;
        let id: MessageId = fleet.issue(from);
        let found = fleet.run_until(start + secs(30), |fleet| {
            fleet.nodes[victim].applied.contains_key(&id)
        });
        assert!(found, "seed {seed}: trial {trial} was never recovered");
        rounds.push(fleet.now.since(start).as_secs_f64() / round.as_secs_f64());
        *deaf.borrow_mut() = None;
    }
    rounds.sort_by(f64::total_cmp);
    Figures { rounds }
}

#[test]
fn a_lone_loss_among_5_is_mended_within_about_a_round() {
    let figures = lone_losses(1, 5, 2_000, ms(300), true);
    figures.print("5 nodes");
    assert!(figures.at(0.999) <= 1.2, "p99.9 is {}", figures.at(0.999));
}

#[test]
#[ignore = "measures; takes minutes in a debug build"]
fn figures_of_lone_losses() {
    for (count, trials, idle) in [
        (5, 20_000, ms(300)),
        (20, 5_000, ms(300)),
        (100, 2_000, ms(300)),
        (5, 5_000, secs(4)),
        (100, 2_000, secs(4)),
    ] {
        lone_losses(2, count, trials, idle, true).print(&format!("{count} nodes, {idle:?} idle"));
    }
}
