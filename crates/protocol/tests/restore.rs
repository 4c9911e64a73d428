//! A node's next life holds what its last one held.

mod common;

use std::time::Duration;

use common::{digest_of, node_id, secs, start_of_time};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::StreamId;
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::{Core, Identity, Knowledge, Outcome};
use rand::SeedableRng;
use rand::rngs::StdRng;

type TestCore = Core<MemoryStore, StdRng>;

fn core(life: u64, store: MemoryStore, now: Time) -> TestCore {
    let identity = Identity {
        node: node_id(0),
        instance: life,
        stamp: life,
    };
    let config = Config {
        join_margin: secs(600),
        ..Config::default()
    };
    Core::new(
        identity,
        config,
        store,
        StdRng::seed_from_u64(life),
        now,
        now,
    )
}

/// Issues a purge each at these seconds after the start, and ends the life.
fn first_life(at_secs: &[u64]) -> (StreamId, RangeSet, MemoryStore) {
    let begin = start_of_time();
    let mut first = core(1, MemoryStore::new(), begin);
    for (n, at) in (0..).zip(at_secs) {
        let now = begin + secs(*at);
        let id = first.handle_purge(now, digest_of(n)).expect("room");
        first.handle_applied(now, id, Outcome::Applied);
    }
    let stream = first.own_stream();
    let held = first.streams().find(|view| view.id == stream);
    let held = held.expect("its own stream").held.clone();
    (stream, held, first.into_store())
}

#[test]
fn what_is_young_goes_to_the_empty_cache_and_the_rest_is_held_only() {
    let (stream, held, store) = first_life(&[0, 100, 1_000, 1_100]);
    let now = start_of_time() + secs(1_200);
    let mut second = core(2, store, now);
    second.restore(stream, &held);
    let view = second.streams().find(|view| view.id == stream);
    let view = view.expect("the stream of the first life");
    assert_eq!(view.held, &held);
    assert_eq!((view.top, view.wanted, view.own), (4, 0, false));
    let mut applied = Vec::new();
    while let Some(delivery) = second.poll_delivery(now) {
        assert_eq!(delivery.purge, digest_of(delivery.id.seq - 1));
        assert!(delivery.age >= Duration::from_secs(100));
        second.handle_applied(now, delivery.id, Outcome::Applied);
        applied.push(delivery.id.seq);
    }
    // The cache came up at 1,200 s, so it may hold what is 600 s older, and nothing of before.
    assert_eq!(applied, [3, 4]);
    let id = |seq| powderhorn_protocol::id::MessageId { stream, seq };
    assert_eq!(second.knows(id(2)), Knowledge::Skipped);
    assert_eq!(second.knows(id(4)), Knowledge::Seen);
    // New purges go to a stream of the new life.
    let issued = second.handle_purge(now, digest_of(9)).expect("room");
    assert_ne!(issued.stream, stream);
}

#[test]
fn what_was_held_expires_as_ever() {
    let (stream, held, store) = first_life(&[0, 10]);
    let now = start_of_time() + secs(20);
    let mut second = core(2, store, now);
    second.restore(stream, &held);
    while let Some(delivery) = second.poll_delivery(now) {
        second.handle_applied(now, delivery.id, Outcome::Applied);
    }
    let later = now + secs(25 * 3_600);
    second.handle_timeout(later);
    assert_eq!(second.held_bytes(), 0);
    assert_eq!(second.stats().expired, 2);
}
