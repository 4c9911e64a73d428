//! Too long away: a flush on evidence, once, and never without.

mod common;

use common::aging::{RETENTION, config, cut_off, flushes, purge_for, wanted};
use common::{Fleet, ms, secs};
use powderhorn_protocol::Event;
use powderhorn_protocol::id::MessageId;
use powderhorn_protocol::store::{Held, MemoryStore, Store};

/// Of each node no more is kept than how far it had got, and a newcomer hears of nothing.
fn assert_nobody_speaks_of_streams(fleet: &mut Fleet) {
    for node in &fleet.nodes {
        assert!(node.core.streams().count() <= fleet.nodes.len());
        assert!(node.core.streams().all(|stream| stream.held.is_empty()));
    }
    fleet.restart(0);
    fleet.run(secs(60));
    assert_eq!(fleet.nodes[0].core.streams().count(), 1);
}

fn excuse_all(fleet: &mut Fleet) {
    let all: Vec<_> = fleet.issued.keys().copied().collect();
    all.into_iter().for_each(|id| fleet.excuse(id));
}

#[test]
fn who_missed_what_has_expired_everywhere_flushes_once() {
    for seed in 0..5 {
        let mut fleet = Fleet::new(seed, 6, &config());
        fleet.settle();
        purge_for(&mut fleet, &[0, 1, 2], 20);
        cut_off(&mut fleet, 5, true);
        purge_for(&mut fleet, &[0, 1, 2], 2 * RETENTION);
        assert_eq!(flushes(&fleet), [0; 6], "alone is no evidence");
        cut_off(&mut fleet, 5, false);
        purge_for(&mut fleet, &[0, 1, 2], 40);
        assert_eq!(flushes(&fleet), [0, 0, 0, 0, 0, 1], "seed {seed}");
        let node = &fleet.nodes[5];
        assert_eq!(node.core.stats().flushed, 1);
        assert_eq!(wanted(&node.core), 0);
        let told = node.events.iter().filter_map(|event| match event {
            Event::TooLongAway { messages } => Some(*messages),
            _ => None,
        });
        let told: Vec<u64> = told.collect();
        assert!(told.len() == 1 && told[0] > 10, "{told:?}");
        // Afterwards it is a node like any other.
        excuse_all(&mut fleet);
        purge_for(&mut fleet, &[0, 1, 2, 5], 10);
        fleet.converge(secs(10));
        fleet.run(secs(2 * RETENTION));
        assert_eq!(flushes(&fleet), [0, 0, 0, 0, 0, 1]);
    }
}

/// All that it missed has expired, and nothing has happened since: the floors alone tell.
#[test]
fn a_fleet_that_has_gone_quiet_still_tells() {
    let mut fleet = Fleet::new(11, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0], 20);
    cut_off(&mut fleet, 3, true);
    purge_for(&mut fleet, &[0], 20);
    fleet.run(secs(RETENTION + 30));
    assert_eq!(fleet.nodes[0].core.held_bytes(), 0);
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_eq!(flushes(&fleet), [0, 0, 0, 1]);
    assert_eq!(wanted(&fleet.nodes[3].core), 0);
}

/// A stream that began and ended while it was away: it knows nothing of it but what is said.
#[test]
fn a_stream_that_was_never_heard_of_counts() {
    let mut fleet = Fleet::new(12, 4, &config());
    fleet.settle();
    fleet.run(secs(3 * RETENTION));
    cut_off(&mut fleet, 3, true);
    fleet.run(secs(5));
    fleet.restart(1);
    fleet.run(secs(20));
    purge_for(&mut fleet, &[1], 10);
    fleet.run(secs(RETENTION + 20));
    assert_eq!(fleet.nodes[0].core.held_bytes(), 0);
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_eq!(flushes(&fleet), [0, 0, 0, 1]);
    fleet.run(secs(4 * RETENTION));
    assert_eq!(flushes(&fleet), [0, 0, 0, 1], "and once only");
}

#[test]
fn two_who_were_away_together_do_not_wait_for_each_other() {
    let mut fleet = Fleet::new(13, 6, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0, 1], 20);
    fleet.cut(&[4, 5], &[0, 1, 2, 3], true);
    purge_for(&mut fleet, &[0, 1], 2 * RETENTION);
    fleet.cut(&[4, 5], &[0, 1, 2, 3], false);
    purge_for(&mut fleet, &[0, 1], 60);
    assert_eq!(flushes(&fleet), [0, 0, 0, 0, 1, 1]);
}

#[test]
fn a_node_alone_never_flushes() {
    let mut fleet = Fleet::new(14, 1, &config());
    purge_for(&mut fleet, &[0], 20);
    fleet.run(secs(5 * RETENTION));
    purge_for(&mut fleet, &[0], 20);
    assert_eq!(flushes(&fleet), [0]);
}

#[test]
fn a_lone_survivor_never_flushes() {
    let mut fleet = Fleet::new(15, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0, 1, 2, 3], 20);
    // Its last datagrams reach nobody, so the others lack something when it goes.
    fleet.link_mut(1, 0).cut = true;
    fleet.issue(1);
    fleet.run(ms(1));
    for index in 1..4 {
        fleet.stop(index);
    }
    fleet.run(secs(2 * RETENTION + 50));
    assert_eq!(flushes(&fleet), [0; 4]);
    fleet.link_mut(1, 0).cut = false;
    for index in 1..4 {
        fleet.start(index);
    }
    excuse_all(&mut fleet);
    purge_for(&mut fleet, &[0, 1, 2, 3], 60);
    assert_eq!(flushes(&fleet), [0; 4]);
}

/// What it holds no longer is gone from it for want of room, not by age: others may have it.
#[test]
fn a_peer_with_little_room_is_no_evidence() {
    let mut configs = vec![config(); 3];
    configs[0].retention_bytes = 500;
    let mut fleet = Fleet::with_configs(16, configs);
    fleet.settle();
    purge_for(&mut fleet, &[0, 1], 20);
    cut_off(&mut fleet, 2, true);
    purge_for(&mut fleet, &[0, 1], 40);
    // The one that holds all of it is away while the other two meet.
    fleet.cut(&[1], &[0, 2], true);
    fleet.cut(&[0], &[2], false);
    fleet.run(secs(30));
    assert_eq!(flushes(&fleet), [0; 3]);
    fleet.cut(&[1], &[0, 2], false);
    fleet.converge(secs(20));
    assert_eq!(flushes(&fleet), [0; 3]);
}

#[test]
fn who_joins_with_an_empty_cache_never_flushes() {
    let mut fleet = Fleet::new(17, 4, &config());
    fleet.settle();
    fleet.stop(3);
    purge_for(&mut fleet, &[0, 1, 2], 2 * RETENTION);
    fleet.start(3);
    purge_for(&mut fleet, &[0, 1, 2], 60);
    fleet.restart(2);
    purge_for(&mut fleet, &[0, 1, 2], 60);
    assert_eq!(flushes(&fleet), [0; 4]);
}

/// As long as anybody who is heard holds it, it comes.
#[test]
fn one_who_keeps_longer_saves_the_others_a_flush() {
    let mut configs = vec![config(); 5];
    configs[2].retention = secs(100 * RETENTION);
    let mut fleet = Fleet::with_configs(18, configs);
    fleet.settle();
    purge_for(&mut fleet, &[0, 1], 20);
    cut_off(&mut fleet, 4, true);
    purge_for(&mut fleet, &[0, 1], RETENTION + 40);
    cut_off(&mut fleet, 4, false);
    purge_for(&mut fleet, &[0, 1], 60);
    assert_eq!(flushes(&fleet), [0; 5]);
    fleet.converge(secs(20));
}

#[test]
fn nodes_of_one_retention_forget_in_peace() {
    let mut fleet = Fleet::new(19, 5, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0, 1, 2, 3, 4], 50);
    for _ in 0..10 {
        fleet.run(secs(RETENTION));
        fleet.restart(1);
    }
    assert_eq!(flushes(&fleet), [0; 5]);
    assert_nobody_speaks_of_streams(&mut fleet);
}

/// Nobody had room for all of a retention, so what was missed can be had from nobody, though nothing has
/// expired.
#[test]
fn what_was_dropped_everywhere_for_want_of_room_counts() {
    let mut small = config();
    small.retention_bytes = 3_000;
    let mut fleet = Fleet::new(31, 4, &small);
    fleet.settle();
    purge_for(&mut fleet, &[0, 1, 2], 20);
    cut_off(&mut fleet, 3, true);
    purge_for(&mut fleet, &[0], 5);
    purge_for(&mut fleet, &[1, 2], 60);
    // One of them is away when it is back: that one may have it.
    fleet.cut(&[2], &[0, 1, 3], true);
    fleet.cut(&[3], &[0, 1], false);
    purge_for(&mut fleet, &[0, 1], 60);
    assert_eq!(flushes(&fleet), [0; 4]);
    fleet.cut(&[2], &[0, 1, 3], false);
    purge_for(&mut fleet, &[0, 1, 2], 120);
    assert_eq!(flushes(&fleet)[3], 1);
    assert_eq!(wanted(&fleet.nodes[3].core), 0);
}

/// Who had no room any more has sent it before, and it is on its way to who says that it is not there.
#[test]
fn what_is_still_on_its_way_to_a_peer_is_not_gone() {
    let mut configs = vec![config(); 3];
    configs[0].retention_bytes = 500;
    let mut fleet = Fleet::with_configs(33, configs);
    fleet.settle();
    purge_for(&mut fleet, &[0], 5);
    fleet.link_mut(0, 1).delay = secs(20);
    cut_off(&mut fleet, 2, true);
    for _ in 0..20 {
        fleet.issue(0);
    }
    fleet.run(secs(1));
    fleet.cut(&[0], &[2], false);
    // For longer than evidence takes, node 0 says that it has no room, and then node 1 that it has nothing.
    fleet.run(secs(15));
    fleet.cut(&[1], &[2], false);
    fleet.converge(secs(30));
    assert_eq!(flushes(&fleet), [0; 3]);
}

/// What its journal kept is older than its cache, and what came after that has expired: neither concerns it.
#[test]
fn who_joins_with_a_journal_and_an_empty_cache_never_flushes() {
    let mut fleet = Fleet::new(21, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0], 20);
    let views = fleet.nodes[3].core.streams();
    let kept: Vec<_> = views.map(|view| (view.id, view.held.clone())).collect();
    fleet.stop(3);
    purge_for(&mut fleet, &[0], 20);
    fleet.run(secs(RETENTION + 30));
    purge_for(&mut fleet, &[0], 20);
    let born = fleet.now - secs(RETENTION + 70);
    let mut store = MemoryStore::new();
    for (stream, held) in &kept {
        for seq in held.iter().flatten() {
            let held = Held {
                born,
                issued_ms: 0,
                purge: common::purge_of(seq),
            };
            store.insert(
                MessageId {
                    stream: *stream,
                    seq,
                },
                held,
            );
        }
    }
    fleet.start_with_store(3, store, &kept);
    fleet.run(secs(60));
    assert_eq!(flushes(&fleet), [0; 4]);
}

/// What they heard of and never had: they must not remind each other of it for ever.
#[test]
fn nodes_that_joined_after_a_stream_forget_it() {
    let mut fleet = Fleet::new(22, 5, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0, 1, 2, 3, 4], 50);
    fleet.run(secs(40));
    fleet.restart(1);
    fleet.restart(2);
    fleet.run(secs(10 * RETENTION));
    assert_nobody_speaks_of_streams(&mut fleet);
}
