//! Streams that are older than the retention or than a cache: what has expired or is too old is lacked by nobody,
//! whoever restarts and joins meanwhile.

mod common;

use common::aging::{RETENTION, config, purge_for, wanted};
use common::puppet::{Puppet, Tell, put_message};
use common::{Apply, Fleet, ms, secs};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::{Outcome, PeerId};

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
    fleet.thaw(0);
    fleet.converge(secs(20));
}
