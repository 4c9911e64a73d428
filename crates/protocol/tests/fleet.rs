//! Five nodes in memory, on networks of all kinds of badness: every purge reaches every cache.

mod common;

use common::{Apply, Fleet, Link, ms, secs};
use powderhorn_protocol::bounds::STANDSTILL;
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

/// Purges at every node before, during and after a cut; what it ends with is an exact fleet.
fn through_a_cut(seed: u64, cut: impl Fn(&mut Fleet, bool)) -> Fleet {
    let mut fleet = Fleet::new(seed, COUNT, &Config::default());
    fleet.all_links(Link {
        loss: 0.02,
        delay: ms(2),
        jitter: ms(5),
        ..Link::default()
    });
    fleet.settle();
    issue_at_random(&mut fleet, 50, 2_000);
    fleet.converge(secs(10));
    cut(&mut fleet, true);
    issue_at_random(&mut fleet, 300, 50_000);
    fleet.run(secs(5));
    fleet
}

fn heal(mut fleet: Fleet, cut: impl Fn(&mut Fleet, bool)) {
    cut(&mut fleet, false);
    issue_at_random(&mut fleet, 50, 2_000);
    fleet.converge(secs(30));
    fleet.assert_applied_once();
}

#[test]
fn halves_that_were_apart_agree_after_the_heal() {
    let cut = |fleet: &mut Fleet, on| fleet.cut(&[0, 1], &[2, 3, 4], on);
    let fleet = through_a_cut(1, cut);
    // Each half has all of its own and nothing of the other's.
    for index in 0..COUNT {
        let near = |other: usize| (index < 2) == (other < 2);
        let lacking = fleet.lacking(index);
        assert!(!lacking.is_empty());
        assert!(
            lacking.iter().all(|id| !near(fleet.issued[id].2)),
            "node {index} lacks what was issued on its side"
        );
    }
    heal(fleet, cut);
}

#[test]
fn a_cut_in_one_direction_between_two_nodes_is_bridged_by_the_others() {
    let fleet = through_a_cut(2, |fleet, on| fleet.link_mut(0, 1).cut = on);
    assert!(fleet.converged(), "others hand on what 0 cannot tell 1");
    fleet.assert_applied_once();
}

#[test]
fn a_node_that_hears_nothing_catches_up_after_the_heal() {
    let deafen = |fleet: &mut Fleet, on| {
        for other in 1..COUNT {
            fleet.link_mut(other, 0).cut = on;
        }
    };
    let fleet = through_a_cut(3, deafen);
    assert!(!fleet.lacking(0).is_empty());
    // It is heard by the others all the time.
    assert!((1..COUNT).all(|index| fleet.lacking(index).is_empty()));
    heal(fleet, deafen);
}

#[test]
fn a_node_that_nobody_hears_is_heard_after_the_heal() {
    let gag = |fleet: &mut Fleet, on| {
        for other in 1..COUNT {
            fleet.link_mut(0, other).cut = on;
        }
    };
    let fleet = through_a_cut(4, gag);
    // The others' dissemination still reaches it.
    assert!(fleet.lacking(0).len() < 20, "{}", fleet.lacking(0).len());
    assert!((1..COUNT).all(|index| !fleet.lacking(index).is_empty()));
    heal(fleet, gag);
}

#[test]
fn one_node_cut_off_and_healed_agrees() {
    let cut = |fleet: &mut Fleet, on| fleet.cut(&[2], &[0, 1, 3, 4], on);
    heal(through_a_cut(5, cut), cut);
}

#[test]
fn total_loss_for_two_minutes_is_mended_after_it() {
    let cut = |fleet: &mut Fleet, on| {
        let loss = if on { 1.0 } else { 0.0 };
        fleet.all_links(Link {
            loss,
            ..Link::default()
        });
    };
    let mut fleet = through_a_cut(6, cut);
    fleet.run(secs(120));
    let down =
        |e: &powderhorn_protocol::Event| matches!(e, powderhorn_protocol::Event::PeerDown(_));
    for node in &fleet.nodes {
        assert_eq!(node.events.iter().filter(|e| down(e)).count(), COUNT - 1);
    }
    cut(&mut fleet, false);
    let time = fleet.converge(secs(30));
    // One round in eight, and a challenge every eight seconds, try who is held to be down.
    assert!(time < secs(10), "{time:?}");
    fleet.assert_applied_once();
}

#[test]
fn a_frozen_node_holds_nobody_up_and_catches_up() {
    let mut fleet = Fleet::new(1, COUNT, &Config::default());
    fleet.settle();
    fleet.freeze(3);
    issue_at_random(&mut fleet, 400, 2_000);
    fleet.run(ms(50));
    for index in [0, 1, 2, 4] {
        assert!(fleet.lacking(index).is_empty(), "node {index}");
    }
    assert_eq!(fleet.lacking(3).len(), 400);
    fleet.run(STANDSTILL - secs(1));
    // Nobody spent repairs on it.
    assert_eq!(fleet.traffic.repaired, 0);
    fleet.thaw(3);
    fleet.converge(secs(5));
    fleet.assert_applied_once();
    // What its socket kept was enough, and it did not answer what was long ago.
    assert_eq!(fleet.stats(3).recovered, 0);
}

#[test]
fn a_frozen_node_whose_socket_kept_nothing_catches_up() {
    let mut fleet = Fleet::new(2, COUNT, &Config::default());
    fleet.settle();
    fleet.freeze(3);
    fleet.filter = Some(Box::new(|_, to, _| to != 3));
    issue_at_random(&mut fleet, 400, 20_000);
    fleet.run(secs(60));
    fleet.filter = None;
    fleet.thaw(3);
    fleet.converge(secs(10));
    fleet.assert_applied_once();
    assert_eq!(fleet.stats(3).recovered, 400);
}

#[test]
fn no_purge_of_a_restarted_node_is_taken_for_a_duplicate() {
    let mut fleet = Fleet::new(9, COUNT, &Config::default());
    fleet.all_links(bad_network());
    fleet.settle();
    let mut own = std::collections::BTreeSet::new();
    for life in 0..4 {
        for _ in 0..20 {
            let id = fleet.issue(2);
            assert_eq!(id.stream.node, common::node_id(2));
            own.insert(id.stream);
            fleet.run(ms(3));
        }
        assert_eq!(own.len(), life + 1, "each life has a stream of its own");
        fleet.converge(secs(20));
        fleet.restart(2);
        // At once, before anybody has proven the new session.
    }
    assert_eq!(fleet.nodes[0].applied.len(), 80);
    fleet.assert_applied_once();
}

#[test]
fn what_a_node_issued_and_told_one_peer_survives_its_end() {
    let mut fleet = Fleet::new(10, COUNT, &Config::default());
    fleet.settle();
    let warm = fleet.issue(0);
    fleet.run(secs(1));
    for other in 2..COUNT {
        fleet.link_mut(0, other).cut = true;
    }
    let id = fleet.issue(0);
    fleet.run(ms(1));
    fleet.stop(0);
    assert!(fleet.nodes[1].applied.contains_key(&id));
    fleet.converge(secs(10));
    assert!(fleet.nodes[4].applied.contains_key(&warm));
    assert!(fleet.nodes[4].applied.contains_key(&id));
}

#[test]
fn a_node_without_peers_only_applies_its_own() {
    let mut fleet = Fleet::new(11, 1, &Config::default());
    for _ in 0..100 {
        fleet.issue(0);
    }
    fleet.run(secs(10));
    assert!(fleet.converged());
    assert_eq!(fleet.traffic.datagrams, 0);
    assert!(fleet.stats(0).rounds_alone > 30);
}
