//! What has expired is told to the next life, whatever became of this one.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Dir, SECOND, TestClock, TestDisk, id, message, options, stream, until, write};
use powderhorn_journal::{Clock, Journal, Op, Options, Recovered, State};
use powderhorn_protocol::Expired;
use powderhorn_protocol::bounds::SEQ_MAX;
use powderhorn_protocol::store::Store;
use powderhorn_protocol::time::Time;

/// Of streams of this boot, born before it, and at the ends of what there is.
fn some(now: Time) -> Vec<Expired> {
    let born = |seconds: u32| now - SECOND * seconds;
    let all = [(1, 7, 90_000), (2, SEQ_MAX, 100_000), (3, 2, 172_800)];
    let all = all.map(|(n, below, seconds)| Expired {
        stream: stream(n),
        below,
        born: born(seconds),
    });
    all.to_vec()
}

fn file(dir: &Dir) -> std::path::PathBuf {
    dir.0.join("expired")
}

/// A life that notes this and is killed.
fn note(options: &Options, dir: &Dir, expired: Vec<Expired>, evicted_born: Option<Time>) {
    let (mut store, journal, _) = Journal::open(options.clone()).unwrap();
    store.insert(id(9, 1), message(id(9, 1), options.clock.boot()));
    write(&journal);
    journal.note_expired(expired, evicted_born);
    until("it is noted", || file(dir).exists());
    journal.kill();
}

fn recovered(options: &Options) -> Recovered {
    let (_store, journal, recovered) = Journal::open(options.clone()).unwrap();
    assert_eq!(journal.state(), State::Ok);
    assert_eq!(recovered.streams.len(), 1);
    journal.kill();
    recovered
}

fn with_clock(dir: &Dir) -> (Options, Arc<TestClock>) {
    let clock = TestClock::new();
    let options = Options {
        clock: clock.clone(),
        ..options(dir)
    };
    (options, clock)
}

#[test]
fn what_has_expired_is_told_to_the_next_life() {
    let dir = Dir::new();
    let (options, clock) = with_clock(&dir);
    let expired = some(clock.boot());
    let evicted_born = Some(clock.boot() - 7_000 * SECOND);
    note(&options, &dir, expired.clone(), evicted_born);
    let found = recovered(&options);
    assert_eq!(
        (found.expired, found.evicted_born),
        (expired.clone(), evicted_born)
    );
    // What is noted later replaces it, also when the node ends as it should.
    let (store, journal, _) = Journal::open(options.clone()).unwrap();
    journal.note_expired(expired[..1].to_vec(), None);
    assert!(journal.shutdown(10 * SECOND));
    drop((store, journal));
    let found = recovered(&options);
    assert_eq!(
        (&found.expired[..], found.evicted_born),
        (&expired[..1], None)
    );
}

/// A birth that is taken for younger than it is would have others flush.
#[test]
fn after_a_reboot_it_is_older_by_the_time_that_the_machine_was_down() {
    let dir = Dir::new();
    let (options, clock) = with_clock(&dir);
    let before = some(clock.boot());
    let ages = |now: Time, all: &[Expired]| -> Vec<Duration> {
        all.iter().map(|expired| now.since(expired.born)).collect()
    };
    let expected = ages(clock.boot(), &before);
    note(&options, &dir, before, Some(clock.boot() - 7_000 * SECOND));
    // Nothing else of that boot is left.
    for path in dir.files("log").into_iter().chain(dir.files("seg")) {
        std::fs::remove_file(path).unwrap();
    }
    let down = Duration::from_secs(5_000);
    clock.pass(down);
    clock.boot.store(2, Ordering::Relaxed);
    clock.boot_us.store(7_000_000, Ordering::Relaxed);
    let (_store, _journal, recovered) = Journal::open(options).unwrap();
    let found = ages(clock.boot(), &recovered.expired);
    assert_eq!(found.len(), 3);
    for (found, expected) in found.into_iter().zip(expected) {
        assert!(found >= expected + down && found < expected + down + 60 * SECOND);
    }
    let evicted = clock.boot().since(recovered.evicted_born.unwrap());
    assert_eq!(evicted, 7_000 * SECOND + down);
}

/// Messages are written all the same.
#[test]
fn a_disk_that_fails_on_it_is_counted_and_nothing_else() {
    let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
    let options = Options {
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options.clone()).unwrap();
    disk.fail(&[(Op::Rename, 5)]);
    journal.note_expired(some(options.clock.boot()), None);
    until("it is counted", || journal.counters().write_errors == 1);
    store.insert(id(9, 1), message(id(9, 1), options.clock.boot()));
    write(&journal);
    assert_eq!(journal.state(), State::Ok);
    disk.fail(&[]);
    journal.note_expired(some(options.clock.boot()), None);
    until("it is noted", || file(&dir).exists());
}

#[test]
fn damage_costs_this_and_nothing_else() {
    let dir = Dir::new();
    let (options, clock) = with_clock(&dir);
    note(&options, &dir, some(clock.boot()), Some(clock.boot()));
    let whole = std::fs::read(file(&dir)).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        for bytes in [&bytes, &whole[..at]] {
            std::fs::write(file(&dir), bytes).unwrap();
            let recovered = recovered(&options);
            assert_eq!((recovered.expired, recovered.damaged), (vec![], 1));
            assert_eq!(recovered.evicted_born, None);
        }
    }
    // More than there can be is not read.
    std::fs::write(file(&dir), vec![7; 2 << 20]).unwrap();
    assert_eq!(recovered(&options).damaged, 1);
}
