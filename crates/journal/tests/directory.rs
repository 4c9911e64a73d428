//! What people do to the state directory while it is used: nothing that is held is given up for it, and the journal
//! goes on once it can.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Dir, SECOND, TestDisk, get, id, message, options, stream, until, write};
use powderhorn_journal::{Clock, Journal, JournalStore, Op, Options, State, SystemClock};
use powderhorn_protocol::store::Store;

const EACCES: i32 = 13;

/// Inserts messages of one stream as fast as the keeper takes them.
fn fill(
    store: &mut JournalStore,
    journal: &Journal,
    dir: &Dir,
    seqs: std::ops::RangeInclusive<u64>,
) {
    for seq in seqs {
        store.insert(id(1, seq), message(id(1, seq), SystemClock.boot()));
        if seq % 500 == 0 {
            write(journal);
            until("few logs", || dir.files("log").len() <= 3);
        }
    }
}

/// Somebody has taken the right to change the directory away. Each append found that it is too large, and gave
/// up all segments one by one, none of which could be removed.
#[test]
fn a_segment_that_cannot_be_removed_is_not_given_up() {
    let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    fill(&mut store, &journal, &dir, 1..=100_000);
    until("one log", || dir.files("log").len() == 1);
    assert!(journal.counters().segments_evicted > 0);
    let first = (1..)
        .find(|&seq| get(&mut store, id(1, seq)).is_some())
        .unwrap();
    let before = journal.counters();
    disk.fail(&[(Op::Remove, EACCES)]);
    let mut seq = 100_000;
    while journal.state() == State::Ok && seq < 200_000 {
        seq += 1;
        store.insert(id(1, seq), message(id(1, seq), SystemClock.boot()));
        journal.wait(journal.position(), 10 * SECOND);
    }
    let State::Failed(reason) = journal.state() else {
        panic!("it says nothing");
    };
    assert!(reason.contains("Permission denied"), "{reason}");
    std::thread::sleep(Duration::from_millis(300));
    assert!(get(&mut store, id(1, first)).is_some());
    assert!(journal.counters().segments >= before.segments);
    disk.fail(&[]);
    until("it works again", || journal.state() == State::Ok);
    fill(&mut store, &journal, &dir, seq + 1..=seq + 10_000);
    assert!(dir.bytes() <= Options::BYTES_MIN);
    assert_eq!(journal.counters().damaged, 0);
}

/// What nothing is held of any more, and could not be removed at that moment, took room until the next start.
#[test]
fn an_empty_segment_that_cannot_be_removed_goes_when_room_is_needed() {
    let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    fill(&mut store, &journal, &dir, 1..=40_000);
    until("one log", || dir.files("log").len() == 1);
    let segments = dir.files("seg");
    disk.fail(&[(Op::Remove, EACCES)]);
    store.remove_below(stream(1), 40_001);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(dir.files("seg"), segments);
    disk.fail(&[]);
    fill(&mut store, &journal, &dir, 40_001..=140_000);
    until("one log", || dir.files("log").len() == 1);
    assert!(segments.iter().all(|path| !path.exists()));
    until("bytes are counted", || {
        journal.counters().disk_bytes == dir.bytes()
    });
    assert!(dir.bytes() <= Options::BYTES_MIN);
}
