//! Five nodes in memory, on networks of all kinds of badness: every purge reaches every cache.

mod common;

use common::{Apply, Fleet, Link, ms, secs};
use powderhorn_protocol::config::Config;
use rand::Rng;

const COUNT: usize = 5;

/// Issues `count` purges at random nodes that are up, `every` apart on average.
fn issue_at_random(fleet: &mut Fleet, count: usize, every_us: u64) {
    for _ in 0..count {
        let index = loop {
            let index = fleet.random().random_range(0..COUNT);
            if fleet.nodes[index].up && !fleet.nodes[index].frozen {
                break index;
            }
        };
        fleet.issue(index);
        let pause = fleet.random().random_range(0..=2 * every_us);
        fleet.run(std::time::Duration::from_micros(pause));
    }
}

fn bad_network() -> Link {
    Link {
        loss: 0.2,
        dup: 0.1,
        delay: ms(2),
        jitter: ms(40),
        cut: false,
    }
}

fn run_on_a_bad_network(seed: u64) -> Fleet {
    let mut fleet = Fleet::new(seed, COUNT, &Config::default());
    fleet.all_links(bad_network());
    fleet.settle();
    issue_at_random(&mut fleet, 500, 2_000);
    fleet.converge(secs(30));
    fleet.assert_applied_once();
    fleet
}

#[test]
fn every_purge_reaches_every_node_through_loss_duplication_and_reordering() {
    for seed in 0..4 {
        let fleet = run_on_a_bad_network(seed);
        assert!(fleet.traffic.lost > 0 && fleet.sum(|s| s.recovered) > 0);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let (one, same, other) = (
        run_on_a_bad_network(7),
        run_on_a_bad_network(7),
        run_on_a_bad_network(8),
    );
    assert_eq!(one.trace(), same.trace());
    assert_eq!(one.traffic, same.traffic);
    assert_ne!(one.trace(), other.trace());
}

#[test]
fn a_clean_network_needs_no_repair() {
    let mut fleet = Fleet::new(1, COUNT, &Config::default());
    fleet.settle();
    issue_at_random(&mut fleet, 500, 2_000);
    fleet.run(secs(10));
    assert!(fleet.converged());
    assert_eq!(fleet.traffic.repaired, 0);
    fleet.assert_applied_once();
}

#[test]
fn apply_models_lose_nothing() {
    let each = ms(3);
    let models = [
        Apply::Delayed(ms(700)),
        Apply::Queue { len: 1, each },
        Apply::Refusing { len: 1, each },
        Apply::FailsOnce,
        Apply::Flaky(0.5),
    ];
    for (seed, model) in models.into_iter().enumerate() {
        let mut fleet = Fleet::new(seed as u64, COUNT, &Config::default());
        fleet.all_links(bad_network());
        for index in 1..COUNT {
            fleet.nodes[index].apply = model;
        }
        fleet.settle();
        for _ in 0..100 {
            fleet.issue(0);
            fleet.run(ms(1));
        }
        fleet.converge(secs(60));
        fleet.assert_applied_once();
    }
}
