//! Streams that are older than the retention or than a cache: what has expired or is too old is lacked by nobody,
//! whoever restarts and joins meanwhile.

mod common;

use common::aging::{RETENTION, config, purge_for, wanted};
use common::puppet::{Puppet, Tell, put_message};
use common::{Apply, Fleet, ms, secs};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{Epoch, MessageId, StreamId};
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::{Core, Identity, Outcome, PeerId};
use rand::SeedableRng;
use rand::rngs::StdRng;

#[test]
fn who_restarts_with_a_journal_lacks_nothing_that_expired_before() {
    let mut fleet = Fleet::new(1, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0], 150);
    // The old stream: nobody disseminates it any more.
    fleet.restart(0);
    purge_for(&mut fleet, &[0], 5);
    fleet.restart_with_journal(3);
    fleet.run(secs(10));
    assert_eq!(wanted(&fleet.nodes[3].core), 0);
    fleet.run(secs(3 * RETENTION));
    assert_eq!(fleet.stats(3).lost, 0);
}

#[test]
fn who_joins_lacks_nothing_that_is_older_than_all_that_is_held() {
    let mut fleet = Fleet::new(3, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0], 50);
    fleet.run(secs(RETENTION + 60));
    // All before has expired; this one is young enough for the joiner.
    let young = fleet.issue(0);
    fleet.run(secs(5));
    fleet.restart(3);
    fleet.run(secs(15));
    assert!(fleet.nodes[3].applied.contains_key(&young));
    assert_eq!(wanted(&fleet.nodes[3].core), 0);
}

#[test]
fn restarts_of_all_others_do_not_hide_what_expires_later() {
    let mut fleet = Fleet::new(40, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0, 1], 150);
    fleet.cut(&[3], &[0, 1, 2], true);
    purge_for(&mut fleet, &[0, 1], 20);
    for index in 0..3 {
        fleet.restart_with_journal(index);
        fleet.run(secs(5));
    }
    fleet.run(secs(RETENTION + 30));
    fleet.cut(&[3], &[0, 1, 2], false);
    purge_for(&mut fleet, &[0, 1], 80);
    // What it has missed cannot be had any more: one flush makes up for that.
    assert_eq!(fleet.nodes[3].flushes.len(), 1);
}

#[test]
fn nothing_is_ready_between_a_flush_that_failed_and_the_next_try() {
    let mut fleet = Fleet::new(5, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0, 1, 2], 20);
    fleet.cut(&[3], &[0, 1, 2], true);
    purge_for(&mut fleet, &[0, 1, 2], 2 * RETENTION);
    fleet.nodes[3].apply = Apply::Queue {
        len: 0,
        each: ms(1),
    };
    fleet.cut(&[3], &[0, 1, 2], false);
    purge_for(&mut fleet, &[0, 1, 2], 60);
    let now = fleet.now;
    let core = &mut fleet.nodes[3].core;
    let mut flushes = 0;
    while let Some(delivery) = core.poll_delivery(now) {
        let flush = delivery.id.seq == 0;
        flushes += u32::from(flush);
        let outcome = if flush {
            Outcome::Failed
        } else {
            Outcome::Applied
        };
        core.handle_applied(now, delivery.id, outcome);
    }
    assert_eq!(flushes, 1);
    for (after, ready) in [(0, 0), (1, 0), (500, 0), (999, 0), (1_000, 1)] {
        core.handle_timeout(now + ms(after));
        assert_eq!(core.ready_count(), ready, "{after} ms after it failed");
        if ready == 0 {
            assert_eq!(core.poll_delivery(now + ms(after)), None);
        }
    }
    assert!(core.poll_delivery(now + secs(1)).is_some());
}

#[test]
fn what_is_older_than_the_cache_leaves_no_gaps_behind() {
    let now = common::start_of_time() + secs(100_000);
    let mut core = common::make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(7, &mut core, now);
    let stream = StreamId {
        node: puppet.node,
        ..StreamId::default()
    };
    // Each second one of many, all from before the cache.
    for seq in (1..2_000).step_by(2) {
        let tell = Tell {
            age_ms: 700_000,
            ..Tell::default()
        };
        puppet.say(&mut core, now, |out| {
            put_message(out, MessageId { stream, seq }, tell)
        });
    }
    assert_eq!(wanted(&core), 0);
    assert_eq!(core.stats().skipped, 1_999);
}

/// A node that was silent for so long that all it had issued is forgotten issues again, in the same stream.
#[test]
fn what_was_applied_long_ago_is_not_lacking_when_its_node_issues_again() {
    let mut fleet = Fleet::new(7, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0], 5);
    // One of them is cut off for all that time.
    fleet.cut(&[3], &[0, 1, 2], true);
    fleet.run(secs(4 * RETENTION + 300));
    // Another has it taken from its list of peers for a while.
    fleet.nodes[1].core.remove_peer(PeerId(0));
    fleet.run(secs(60));
    let now = fleet.now;
    fleet.nodes[1].core.add_peer(now, PeerId(0), "");
    fleet.run(secs(10));
    let late = fleet.issue(0);
    fleet.run(secs(20));
    fleet.cut(&[3], &[0, 1, 2], false);
    fleet.run(secs(60));
    for node in &fleet.nodes {
        assert_eq!(node.flushes.len(), 0);
        assert_eq!(wanted(&node.core), 0);
        assert!(node.applied.contains_key(&late));
    }
}

/// It says how old a purge may be, and while it waits the purge grows older.
#[test]
fn a_question_that_waited_is_not_answered_by_a_floor() {
    let mut fleet = Fleet::new(9, 2, &config());
    fleet.settle();
    fleet.issue(0);
    fleet.run(secs(1));
    fleet.cut(&[0], &[1], true);
    for _ in 0..100 {
        fleet.issue(0);
        fleet.run(ms(1));
    }
    fleet.cut(&[0], &[1], false);
    fleet.issue(0);
    fleet.freeze(0);
    fleet.run(secs(60));
    fleet.thaw_unnoticed(0);
    fleet.converge(secs(20));
}

/// A digest was the last that was heard of them: nobody has them, and they must not be lacking for ever.
#[test]
fn the_last_purges_of_a_dead_life_are_given_up() {
    let mut fleet = Fleet::new(1, 3, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0], 5);
    fleet.filter = Some(Box::new(|from, _, bytes| {
        from != 0 || common::is_digest(bytes)
    }));
    for _ in 0..5 {
        fleet.issue(0);
    }
    fleet.run(secs(2));
    fleet.filter = None;
    fleet.restart(0);
    fleet.run(secs(4 * RETENTION + 400));
    for node in &fleet.nodes {
        assert_eq!(wanted(&node.core), 0);
        let complete = node.core.standing(fleet.now).complete_ms;
        assert!(complete.is_some_and(|ms| ms < 10_000), "{complete:?}");
    }
}

/// They were dropped for want of room before they were too old.
#[test]
fn purges_of_unknown_kinds_are_forgotten_with_their_stream() {
    let mut small = config();
    small.retention_bytes = 3_000;
    let mut fleet = Fleet::new(2, 3, &small);
    fleet.settle();
    let mut later = fleet.add_puppet(0, 50);
    fleet.run(secs(2));
    let epoch = Epoch {
        stamp: common::WALL_MS,
        random: 1,
    };
    let stream = StreamId {
        node: common::node_id(1),
        epoch,
    };
    let tell = Tell {
        op: 777,
        body: b"x",
        ..Tell::default()
    };
    let now = fleet.now;
    let core = &mut fleet.nodes[0].core;
    later.tell(core, now, MessageId { stream, seq: 1 }, tell);
    core.remove_peer(later.peer);
    purge_for(&mut fleet, &[2], 60);
    assert!(fleet.nodes[0].core.standing(fleet.now).flags != 0);
    fleet.run(secs(5 * RETENTION + 400));
    for node in &fleet.nodes {
        let standing = node.core.standing(fleet.now);
        assert_eq!(standing.flags, 0);
        assert!(standing.complete_ms.is_some_and(|ms| ms < 10_000));
    }
}

/// It has lost its disk, and its clock is behind: its present epoch sorts below its earlier one.
#[test]
fn a_silent_node_whose_clock_was_set_back_is_not_forgotten_either() {
    let mut fleet = Fleet::new(4, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0], 5);
    // Nobody speaks of that stream any more, and all remember it.
    fleet.run(secs(2 * RETENTION + 20));
    fleet.stop(0);
    let identity = Identity {
        node: common::node_id(0),
        instance: 4_711,
        stamp: common::WALL_MS / 2,
    };
    let (now, own) = (fleet.now, fleet.nodes[0].config.clone());
    let (store, rng) = (MemoryStore::new(), StdRng::seed_from_u64(9));
    fleet.nodes[0].core = Core::new(identity, own, store, rng, now, now);
    fleet.come_up_empty(0);
    fleet.run(secs(10));
    purge_for(&mut fleet, &[0], 5);
    fleet.run(secs(4 * RETENTION + 400));
    let late = fleet.issue(0);
    fleet.run(secs(60));
    for node in &fleet.nodes {
        assert!(node.applied.contains_key(&late));
        assert_eq!((wanted(&node.core), node.flushes.len()), (0, 0));
    }
}

/// Nobody holds what came before, so no digest would have it asked for.
#[test]
fn what_expired_before_a_cache_began_is_not_lacking() {
    let mut fleet = Fleet::new(10, 4, &config());
    fleet.settle();
    purge_for(&mut fleet, &[0], 24);
    fleet.run(secs(RETENTION + 30));
    fleet.restart(3);
    fleet.run(secs(30));
    fleet.issue(0);
    fleet.run(secs(30));
    assert_eq!(wanted(&fleet.nodes[3].core), 0);
}
