//! What can be had from nobody any more: who needs it hears so, whoever has started again meanwhile, and who does not
//! need it is left alone.

mod common;

use common::aging::{RETENTION, config, cut_off, flushes, purge_for, wanted};
use common::{Fleet, Link, is_digest, ms, secs, streams_of};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::wire::{Datagram, Frame};

/// Room for a few dozen messages.
fn small() -> Config {
    Config {
        retention: secs(10 * RETENTION),
        retention_bytes: 3_000,
        ..config()
    }
}

/// So many nodes that have met.
fn settled(seed: u64, count: usize, config: &Config) -> Fleet {
    let mut fleet = Fleet::new(seed, count, config);
    fleet.settle();
    fleet
}

fn issue(fleet: &mut Fleet, index: usize, count: usize) -> StreamId {
    let ids: Vec<MessageId> = (0..count)
        .map(|_| {
            fleet.run(secs(1));
            fleet.issue(index)
        })
        .collect();
    ids[0].stream
}

fn is_held(fleet: &Fleet, index: usize, stream: StreamId) -> bool {
    let mut views = fleet.nodes[index].core.streams();
    views.any(|view| view.id == stream && !view.held.is_empty())
}

/// Has node 1 issue until nobody of these has room for anything of a stream, and for all that came later.
fn evict(fleet: &mut Fleet, nodes: &[usize], stream: StreamId) {
    // Nothing is smaller, so each takes the room of one at most.
    fleet.run(secs(1));
    let later = fleet.issue_purge(1, Purge::Everything);
    while nodes.iter().any(|n| is_held(fleet, *n, stream)) {
        fleet.issue_purge(1, Purge::Everything);
        fleet.run(secs(1));
    }
    for &index in nodes {
        let mut views = fleet.nodes[index].core.streams();
        assert!(views.any(|view| view.id == later.stream && view.held.contains(later.seq)));
    }
}

fn complete(fleet: &Fleet, index: usize) -> bool {
    let standing = fleet.nodes[index].core.standing(fleet.now);
    wanted(&fleet.nodes[index].core) == 0 && standing.complete_ms.is_some_and(|ms| ms < 20_000)
}

fn has_floor(bytes: &[u8]) -> bool {
    let datagram = Datagram::parse(bytes).expect("a datagram");
    let mut frames = datagram.frames();
    frames.any(|frame| matches!(frame, Frame::Floor(_)))
}

/// So often each node has flushed by now, and nobody lacks anything any more.
fn assert_flushed_and_complete(fleet: &Fleet, expected: &[usize]) {
    assert_eq!(flushes(fleet), expected);
    for index in 0..fleet.nodes.len() {
        assert!(complete(fleet, index), "node {index}");
    }
}

/// All that it missed of a stream, and nothing else: no digest says any more that there is something held.
#[test]
fn what_was_missed_and_evicted_everywhere_counts() {
    let mut fleet = settled(3, 4, &small());
    purge_for(&mut fleet, &[0], 5);
    cut_off(&mut fleet, 3, true);
    let stream = issue(&mut fleet, 0, 5);
    evict(&mut fleet, &[0, 1, 2], stream);
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
}

/// The same of a stream that it has never heard of.
#[test]
fn a_new_stream_that_was_evicted_everywhere_counts() {
    let mut fleet = settled(4, 4, &small());
    fleet.run(secs(RETENTION));
    cut_off(&mut fleet, 3, true);
    fleet.restart(0);
    let stream = issue(&mut fleet, 0, 5);
    evict(&mut fleet, &[0, 1, 2], stream);
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
    // Whose cache came up empty after all that needs nothing of it.
    fleet.restart(2);
    fleet.run(secs(RETENTION));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
}

/// Of one is heard after the other that it is young. The evidence must not begin anew with each.
#[test]
fn many_that_expired_count_as_soon_as_one() {
    let mut fleet = settled(29, 4, &config());
    fleet.run(secs(RETENTION));
    cut_off(&mut fleet, 3, true);
    fleet.restart(0);
    // Members know of the end of what expired at one time.
    issue(&mut fleet, 0, 2);
    fleet.burst(0, 1_000);
    fleet.run(secs(RETENTION + 20));
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(30));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
}

/// For what followed it there was no room, which all would have to say, and one of them is gone.
#[test]
fn what_expired_counts_whatever_followed_it() {
    let config = Config {
        retention_bytes: 3_000,
        ..config()
    };
    let mut fleet = settled(30, 4, &config);
    fleet.run(secs(RETENTION));
    cut_off(&mut fleet, 3, true);
    fleet.restart(0);
    let stream = issue(&mut fleet, 0, 1);
    fleet.run(secs(RETENTION + 10));
    issue(&mut fleet, 0, 3);
    evict(&mut fleet, &[0, 1, 2], stream);
    fleet.stop(2);
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_eq!(flushes(&fleet), [0, 0, 0, 1]);
}

/// All have to say that they have not got it, and these know nothing of it: they have started again.
#[test]
fn who_has_started_again_says_that_it_has_nothing() {
    let mut fleet = settled(5, 5, &small());
    purge_for(&mut fleet, &[0, 1, 2], 20);
    cut_off(&mut fleet, 4, true);
    fleet.restart(0);
    let stream = issue(&mut fleet, 0, 5);
    evict(&mut fleet, &[0, 1, 2, 3], stream);
    // Of the node that issued it there is a new life, and that knows nothing of the old one either.
    fleet.restart(0);
    fleet.restart(2);
    fleet.run(secs(5));
    cut_off(&mut fleet, 4, false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 0, 1]);
}

/// Everybody else has started again since it expired, over journals.
#[test]
fn what_had_expired_before_all_others_started_again_counts() {
    let mut fleet = settled(17, 4, &config());
    purge_for(&mut fleet, &[0], 5);
    cut_off(&mut fleet, 3, true);
    issue(&mut fleet, 0, 5);
    fleet.run(secs(RETENTION + 20));
    for index in 0..3 {
        fleet.restart_with_journal(index);
        fleet.run(secs(2));
    }
    assert_eq!(fleet.nodes[2].core.expired(fleet.now).count(), 1);
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
    // And it is forgotten like any other.
    fleet.run(secs(3 * RETENTION + 300));
    assert_eq!(fleet.nodes[2].core.expired(fleet.now).count(), 0);
}

/// Who issued it has started again, and its new life knows nothing of the old one.
#[test]
fn members_are_believed_of_a_life_that_is_over() {
    let mut fleet = settled(6, 4, &config());
    purge_for(&mut fleet, &[0], 5);
    cut_off(&mut fleet, 3, true);
    issue(&mut fleet, 0, 5);
    fleet.run(secs(30));
    fleet.restart(0);
    fleet.run(secs(RETENTION + 30));
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
}

/// A digest told of it, it itself did not come; and then it expired, while the node was cut off.
#[test]
fn what_was_heard_of_and_never_came_counts() {
    for others in [1, 2] {
        let mut fleet = settled(6, 4, &config());
        fleet.run(secs(60));
        let victims: Vec<usize> = (4 - others..4).collect();
        let here: Vec<usize> = (0..4 - others).collect();
        let reached = here.len();
        fleet.filter = Some(Box::new(move |_, to, bytes| {
            to < reached || is_digest(bytes)
        }));
        fleet.issue(0);
        fleet.run(secs(3));
        fleet.filter = None;
        fleet.cut(&victims, &here, true);
        fleet.run(secs(RETENTION + 30));
        fleet.cut(&victims, &here, false);
        fleet.run(secs(60));
        let flushed: Vec<usize> = (0..4).map(|n| usize::from(n >= 4 - others)).collect();
        assert_eq!(flushes(&fleet), flushed);
        assert!((0..4).all(|n| complete(&fleet, n)));
    }
}

/// Nobody else has ever heard of it when they are back: they do not remind each other for ever.
#[test]
fn two_who_heard_of_it_give_it_up() {
    let mut fleet = settled(7, 4, &config());
    fleet.run(secs(60));
    fleet.filter = Some(Box::new(|_, to, bytes| to < 2 || is_digest(bytes)));
    fleet.issue(0);
    fleet.run(secs(3));
    fleet.filter = None;
    fleet.cut(&[2, 3], &[0, 1], true);
    fleet.run(secs(30));
    fleet.restart(0);
    fleet.restart(1);
    fleet.run(secs(5));
    fleet.cut(&[2, 3], &[0, 1], false);
    fleet.run(secs(60));
    // Who issued it may come back with its journal.
    assert_eq!(wanted(&fleet.nodes[2].core), 1);
    fleet.run(secs(3 * RETENTION + 300));
    assert_flushed_and_complete(&fleet, &[0; 4]);
}

/// A cache that was cut off when it came up: of what is issued meanwhile the first part expires, the rest comes.
#[test]
fn the_expired_head_of_a_living_stream_counts() {
    let mut fleet = settled(8, 4, &config());
    purge_for(&mut fleet, &[0], 30);
    fleet.run(secs(30));
    cut_off(&mut fleet, 3, true);
    fleet.restart(3);
    purge_for(&mut fleet, &[0], RETENTION * 3 / 2);
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
}

/// The cache is older than what has expired, and not by much.
#[test]
fn a_stream_that_expired_in_a_young_cache_counts() {
    let mut fleet = settled(9, 4, &config());
    cut_off(&mut fleet, 3, true);
    fleet.restart(3);
    fleet.run(secs(1));
    purge_for(&mut fleet, &[0], 5);
    fleet.run(secs(RETENTION + 30));
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
}

/// The other way round: it expired in its life, and is older than its cache all the same.
#[test]
fn what_expired_later_and_is_older_than_the_cache_does_not_count() {
    let mut fleet = settled(10, 4, &config());
    fleet.run(secs(30));
    purge_for(&mut fleet, &[0], 5);
    fleet.run(secs(RETENTION / 2));
    cut_off(&mut fleet, 3, true);
    fleet.restart(3);
    fleet.run(secs(RETENTION));
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0; 4]);
}

/// What has expired anywhere is older than a cache that has just come up: it does not even ask.
#[test]
fn who_has_just_come_up_takes_no_notice_of_what_has_expired() {
    let mut fleet = settled(16, 4, &config());
    purge_for(&mut fleet, &[0, 1, 2], 30);
    fleet.run(secs(RETENTION + 10));
    fleet.restart(3);
    fleet.run(secs(30));
    assert_eq!(fleet.nodes[3].core.streams().count(), 1);
    fleet.run(secs(60));
    assert!(complete(&fleet, 3));
}

/// Once its cache is older than what may have expired, it asks of all old streams whether they concern it.
#[test]
fn who_asks_what_has_expired_goes_on_saying_that_all_is_applied() {
    let long = Config {
        retention: secs(10 * RETENTION),
        ..config()
    };
    let mut fleet = settled(18, 5, &long);
    for n in 0..200 {
        fleet.issue(n % 4);
        fleet.run(ms(500));
        fleet.restart_with_journal(n % 4);
        fleet.run(ms(500));
    }
    fleet.run(long.retention);
    fleet.restart(4);
    fleet.all_links(Link {
        loss: 0.3,
        ..Link::default()
    });
    fleet.run(secs(6));
    for _ in 0..500 {
        fleet.run(ms(250));
        let standing = fleet.nodes[4].core.standing(fleet.now);
        let complete = standing.complete_ms;
        assert!(complete.is_some_and(|ms| ms < 20_000), "{complete:?}");
    }
    let asked = fleet.nodes[4].core.streams().count();
    assert!(asked > 150, "{asked}");
    assert_eq!(flushes(&fleet), [0; 5]);
}

/// After a long silence a node issues again; a cache that came up in between hears of that by a digest first.
#[test]
fn what_expired_in_a_silence_before_the_cache_does_not_count() {
    let mut fleet = settled(11, 4, &config());
    purge_for(&mut fleet, &[0], 1);
    fleet.run(secs(5 * RETENTION));
    fleet.restart(3);
    fleet.run(secs(4 * RETENTION));
    fleet.filter = Some(Box::new(|_, to, bytes| to != 3 || is_digest(bytes)));
    fleet.issue(0);
    fleet.run(ms(1500));
    fleet.filter = None;
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0; 4]);
}

/// Without journals, one node after another: the last one hears from those that had heard it, too.
#[test]
fn after_a_rolling_restart_nobody_lacks_what_is_older_than_the_caches() {
    let mut fleet = settled(12, 3, &config());
    purge_for(&mut fleet, &[0], 24);
    fleet.run(secs(30));
    fleet.issue(0);
    fleet.issue(0);
    fleet.run(secs(1));
    for index in [1, 2, 0] {
        fleet.restart(index);
        fleet.run(secs(5));
    }
    fleet.run(secs(30));
    assert_flushed_and_complete(&fleet, &[0; 3]);
}

/// Its journal has what came before and what came after; what it missed in between has expired everywhere, and its cache
/// is younger than all of it but the end.
#[test]
fn a_hole_in_the_journal_may_be_older_than_the_cache() {
    let mut configs = vec![config(); 3];
    configs[2].retention = secs(10 * RETENTION);
    let mut fleet = Fleet::with_configs(19, configs);
    fleet.settle();
    purge_for(&mut fleet, &[0], 10);
    cut_off(&mut fleet, 2, true);
    issue(&mut fleet, 0, 2);
    fleet.run(secs(RETENTION + 30));
    cut_off(&mut fleet, 2, false);
    issue(&mut fleet, 0, 2);
    fleet.run(secs(2));
    fleet.restart_with_journal(2);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0; 3]);
}

/// Some of them were not told so, but sent the newest of what is older.
#[test]
fn who_was_sent_something_older_passes_that_on_too() {
    let mut fleet = settled(14, 3, &config());
    purge_for(&mut fleet, &[0], 24);
    fleet.run(secs(30));
    fleet.filter = Some(Box::new(|_, _, bytes| !has_floor(bytes)));
    fleet.restart(1);
    fleet.run(secs(10));
    assert_eq!(wanted(&fleet.nodes[1].core), 0);
    fleet.filter = None;
    fleet.issue(0);
    fleet.issue(0);
    fleet.run(secs(1));
    fleet.stop(2);
    fleet.restart(0);
    fleet.run(secs(10));
    assert_eq!(wanted(&fleet.nodes[0].core), 0);
}

/// It knows that what came before is older, and nothing of what it lacks itself.
#[test]
fn who_lacks_it_too_does_not_say_that_it_is_younger() {
    let mut fleet = settled(23, 3, &config());
    purge_for(&mut fleet, &[0], 2);
    cut_off(&mut fleet, 0, true);
    issue(&mut fleet, 0, 1);
    fleet.run(secs(RETENTION + 20));
    fleet.restart_with_journal(2);
    cut_off(&mut fleet, 0, false);
    // For a while only the other one, which was away as well, is heard to answer.
    fleet.filter = Some(Box::new(|from, _, bytes| from != 0 || !has_floor(bytes)));
    fleet.run(secs(5));
    assert!(wanted(&fleet.nodes[2].core) > 0);
    fleet.filter = None;
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 1, 0]);
}

/// What is there no more was issued when this cache was not there yet, within the margin.
#[test]
fn what_was_evicted_and_is_hardly_older_than_the_cache_does_not_count() {
    let mut fleet = settled(15, 4, &small());
    cut_off(&mut fleet, 3, true);
    let stream = issue(&mut fleet, 0, 5);
    fleet.run(secs(1));
    fleet.restart(3);
    evict(&mut fleet, &[0, 1, 2], stream);
    fleet.run(secs(RETENTION));
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_eq!(flushes(&fleet), [0; 4]);
}

/// Its issuer died before anybody had it. Who gives it up first must not be taken for one who had had it.
#[test]
fn what_nobody_ever_had_makes_nobody_flush() {
    let mut configs = vec![config(); 4];
    // Clocks and messages are never quite alike: this one is earlier at giving up.
    configs[1].retention = secs(RETENTION * 9 / 10);
    let mut fleet = Fleet::with_configs(13, configs);
    fleet.settle();
    purge_for(&mut fleet, &[0], 5);
    cut_off(&mut fleet, 0, true);
    fleet.issue(0);
    fleet.run(secs(3));
    cut_off(&mut fleet, 0, false);
    fleet.issue(0);
    // Before it can answer.
    fleet.run(ms(1));
    fleet.stop(0);
    fleet.run(secs(1));
    assert!((1..4).all(|n| wanted(&fleet.nodes[n].core) == 1));
    fleet.run(secs(3 * RETENTION));
    assert_eq!(flushes(&fleet), [0; 4]);
    assert!((1..4).all(|n| wanted(&fleet.nodes[n].core) == 0));
}

/// More goes at once than there is of a stream. What it goes on with later is younger than all that.
#[test]
fn what_is_issued_after_an_eviction_is_not_taken_for_older() {
    let mut fleet = settled(17, 4, &small());
    let stream = fleet.issue(0).stream;
    fleet.run(secs(2));
    // Much more than there is room for, between two rounds.
    fleet.burst(1, 60);
    fleet.run(secs(30));
    assert!((0..4).all(|n| !is_held(&fleet, n, stream)));
    fleet.restart(3);
    fleet.run(secs(5));
    cut_off(&mut fleet, 3, true);
    fleet.run(secs(1));
    assert_eq!(fleet.issue(0).stream, stream);
    fleet.run(secs(5));
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(30));
    assert_eq!(fleet.lacking(3), []);
}

/// It goes on while its head expires, or is dropped for want of room: at each member a little more has gone in each round.
#[test]
fn the_head_of_a_busy_stream_counts() {
    for config in [config(), small()] {
        let mut fleet = settled(18, 4, &config);
        purge_for(&mut fleet, &[0], 30);
        cut_off(&mut fleet, 3, true);
        fleet.restart(3);
        let busy = |fleet: &mut Fleet, seconds: u64| {
            for _ in 0..4 * seconds {
                fleet.issue(0);
                fleet.run(ms(250));
            }
        };
        busy(&mut fleet, RETENTION * 3 / 2);
        cut_off(&mut fleet, 3, false);
        busy(&mut fleet, 60);
        assert_eq!(flushes(&fleet), [0, 0, 0, 1]);
        fleet.run(secs(5));
        assert!((0..4).all(|n| complete(&fleet, n)));
    }
}

/// That one is not older than the cache was the answer for another one, which has come meanwhile.
#[test]
fn an_answer_that_comes_late_is_not_taken_for_another() {
    let mut configs = vec![config(); 4];
    (configs[1].retention, configs[2].retention) = (secs(80), secs(190));
    let mut fleet = Fleet::with_configs(1, configs);
    fleet.link_mut(1, 3).delay = ms(800);
    fleet.settle();
    fleet.run(secs(70));
    fleet.issue(0);
    fleet.run(secs(60));
    cut_off(&mut fleet, 3, true);
    fleet.restart(3);
    fleet.run(secs(30));
    fleet.issue(0);
    fleet.run(secs(2));
    fleet.stop(0);
    fleet.run(secs(110));
    cut_off(&mut fleet, 3, false);
    // Node 2 holds the second one and is not asked for it: it pushes it.
    fleet.filter = Some(Box::new(|from, to, bytes| {
        (from, to) != (2, 3) || !is_digest(bytes)
    }));
    fleet.run(secs(8));
    fleet.filter = None;
    fleet.run(secs(60));
    assert_eq!(fleet.lacking(3), []);
    assert_eq!(flushes(&fleet), [0; 4]);
}

/// Node 3 keeps messages for longer, and speaks for longer of what has expired.
#[test]
fn who_has_forgotten_a_stream_does_not_miss_it() {
    let mut configs = vec![config(); 4];
    configs[3].retention = secs(4 * RETENTION);
    let mut fleet = Fleet::with_configs(19, configs);
    fleet.settle();
    fleet.run(secs(90));
    let stream = fleet.issue(0).stream;
    fleet.run(secs(30));
    fleet.restart(0);
    fleet.run(secs(20));
    fleet.issue(0);
    fleet.run(secs(5));
    cut_off(&mut fleet, 3, true);
    fleet.run(secs(4 * RETENTION));
    assert!(!streams_of(&fleet.nodes[1].core).contains(&stream));
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(100));
    assert_flushed_and_complete(&fleet, &[0; 4]);
}

/// It came up in the smaller half of a fleet. Who told it there what is older knew no more of the stream, and nothing of the rest.
#[test]
fn what_is_beyond_what_is_older_may_be_older_too() {
    let mut fleet = settled(20, 4, &config());
    purge_for(&mut fleet, &[2], 6);
    fleet.cut(&[1, 3], &[0, 2], true);
    purge_for(&mut fleet, &[2], 14);
    fleet.run(secs(30));
    fleet.restart(3);
    fleet.run(secs(RETENTION + 30));
    fleet.cut(&[1, 3], &[0, 2], false);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 1, 0, 0]);
}

/// What came of the stream before is old, so that nobody speaks of it but who had the rest.
#[test]
fn what_followed_a_long_silence_counts() {
    let mut fleet = settled(21, 4, &config());
    fleet.issue(0);
    fleet.run(secs(RETENTION * 3 / 2));
    fleet.cut(&[2, 3], &[0, 1], true);
    fleet.issue(0);
    fleet.run(secs(RETENTION + 30));
    fleet.cut(&[2, 3], &[0, 1], false);
    fleet.run(secs(40));
    assert_flushed_and_complete(&fleet, &[0, 0, 1, 1]);
}

/// Nobody spoke of it any more when the cache was flushed. What had come of its stream was young for the cache as it had been.
#[test]
fn what_is_heard_of_after_a_flush_and_is_older_does_not_count() {
    let mut fleet = settled(24, 4, &config());
    purge_for(&mut fleet, &[0, 1], 4);
    cut_off(&mut fleet, 3, true);
    fleet.issue(1);
    fleet.run(secs(RETENTION - 20));
    fleet.issue(0);
    fleet.run(secs(RETENTION + 30));
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(80));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
    fleet.issue(1);
    fleet.run(secs(60));
    assert_flushed_and_complete(&fleet, &[0, 0, 0, 1]);
}

/// Who is asked of the first one that is not older has been told that all before it is: that is another answer.
#[test]
fn what_follows_all_that_is_older_counts() {
    let mut fleet = settled(23, 4, &config());
    purge_for(&mut fleet, &[0], 5);
    fleet.run(secs(30));
    for index in [1, 2] {
        fleet.restart(index);
        fleet.run(secs(5));
    }
    cut_off(&mut fleet, 3, true);
    fleet.restart(3);
    fleet.run(secs(1));
    fleet.issue(0);
    fleet.run(secs(RETENTION + 30));
    fleet.stop(0);
    cut_off(&mut fleet, 3, false);
    fleet.run(secs(60));
    assert_eq!(flushes(&fleet), [0, 0, 0, 1]);
    assert!((1..4).all(|n| complete(&fleet, n)));
}
