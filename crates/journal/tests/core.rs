//! A core over a journal: what it says it holds, and how long it is kept from other work.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Dir, TestClock, TestDisk, get, options, until, write};
use powderhorn_journal::{Clock, Journal, JournalStore, Op, Options};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{MessageId, NodeId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::{Core, Identity, Outcome};
use rand::SeedableRng;
use rand::rngs::StdRng;

type JournalCore = Core<JournalStore, StdRng>;

/// A core whose own bound on bytes is out of reach, so that the journal's counts.
fn core(store: JournalStore, now: Time) -> JournalCore {
    let identity = Identity {
        node: NodeId(1),
        instance: 1,
        stamp: now.as_us() as u64,
    };
    let config = Config {
        retention_bytes: u64::MAX,
        ..Config::default()
    };
    Core::new(
        identity,
        config,
        store,
        StdRng::seed_from_u64(1),
        now,
        now - Duration::from_secs(3_600),
    )
}

/// Issues and applies so many purges, a second for each hundred of them.
fn issue(core: &mut JournalCore, clock: &TestClock, count: u64, mut each_hundred: impl FnMut()) {
    for n in 1..=count {
        let digest = std::array::from_fn(|at| (n >> (at % 8 * 8)) as u8);
        let id = core.handle_purge(clock.boot(), Purge::Digest(digest));
        core.handle_applied(clock.boot(), id.unwrap(), Outcome::Applied);
        if n % 100 == 0 {
            clock.pass(Duration::from_secs(1));
            core.handle_timeout(clock.boot());
            while core.poll_transmit(clock.boot()).is_some() {}
            each_hundred();
        }
    }
}

/// Demands that all is there that is said to be held, and that its age is what is told of the retention.
fn claims_what_it_has(mut core: JournalCore, clock: &TestClock, least: u64) {
    clock.pass(Duration::from_secs(1));
    core.handle_timeout(clock.boot());
    let told = core.standing(clock.boot()).retention_ms;
    let evicted = core.stats().evicted;
    let own = core.own_stream();
    let view = core.streams().find(|view| view.id == own).unwrap();
    let (held, top) = (view.held.clone(), view.top);
    let mut store = core.into_store();
    let mut oldest = None;
    for seq in held.iter().flatten() {
        let message = get(&mut store, MessageId { stream: own, seq });
        let message = message.unwrap_or_else(|| panic!("{seq} is held and gone"));
        oldest.get_or_insert(message.born);
    }
    assert!(held.count() > least, "{} are held", held.count());
    assert_eq!(evicted, top - held.count());
    let told = told.expect("a shorter retention is told");
    let oldest = clock.boot().since(oldest.unwrap()).as_millis() as u64;
    assert!(told.abs_diff(oldest) <= 2_000, "{told} ms told, {oldest}");
}

/// When room runs out the oldest segment goes, whatever the core would have removed.
#[test]
fn what_the_bound_of_the_directory_takes_is_held_no_more() {
    let (dir, clock) = (Dir::new(), TestClock::new());
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        clock: clock.clone(),
        ..options(&dir)
    };
    let (store, journal, _) = Journal::open(options).unwrap();
    let mut core = core(store, clock.boot());
    issue(&mut core, &clock, 150_000, || {
        write(&journal);
        until("few logs", || dir.files("log").len() <= 3);
    });
    assert!(journal.counters().segments_evicted > 10);
    claims_what_it_has(core, &clock, 10_000);
}

/// While the disk fails the oldest that is in memory only goes.
#[test]
fn what_a_disk_that_fails_costs_is_held_no_more() {
    let (dir, clock) = (Dir::new(), TestClock::new());
    let disk = Arc::new(TestDisk::default());
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        clock: clock.clone(),
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (store, journal, _) = Journal::open(options).unwrap();
    let mut core = core(store, clock.boot());
    disk.fail(&[(Op::Write, 5), (Op::Open, 5)]);
    issue(&mut core, &clock, 60_000, || {});
    assert!(journal.counters().dropped > 10_000);
    claims_what_it_has(core, &clock, 10_000);
}
