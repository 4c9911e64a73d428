//! What people do to the state directory while it is used: nothing that is held is given up for it, and the journal
//! goes on once it can.

mod common;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use common::{
    Dir, SECOND, TestDisk, fill, get, id, insert, message, open, options, stream, until, write,
};
use powderhorn_journal::{Clock, Journal, JournalStore, Op, Options, State, SystemClock, Wait};
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::store::Store;

const EACCES: i32 = 13;

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

/// Somebody has made room by hand. What was removed counted on, so that nothing but the last tail fitted in any more.
#[test]
fn room_that_was_made_by_hand_is_used() {
    let dir = Dir::new();
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    fill(&mut store, &journal, &dir, 1..=100_000);
    until("one log", || dir.files("log").len() == 1);
    for path in dir.files("seg").into_iter().chain(dir.files("log")) {
        fs::remove_file(path).unwrap();
    }
    std::thread::sleep(Duration::from_millis(1_100));
    store.insert(id(1, 100_001), message(id(1, 100_001), SystemClock.boot()));
    let waited = journal.wait(journal.position(), 10 * SECOND);
    assert!(matches!(waited, Wait::NotJournalled(_)), "{waited:?}");
    until("it works again", || journal.state() == State::Ok);
    fill(&mut store, &journal, &dir, 100_002..=140_000);
    until("one log", || dir.files("log").len() == 1);
    until("bytes are counted", || {
        journal.counters().disk_bytes == dir.bytes()
    });
    assert!(
        dir.bytes() > Options::BYTES_MIN / 2,
        "{} bytes",
        dir.bytes()
    );
    assert!(get(&mut store, id(1, 100_001)).is_some());
}

/// Demands that a directory which goes in this way is noticed, and made again with what is in memory.
fn is_noticed_and_made_again(go: impl FnOnce(&Dir)) {
    let dir = Dir::new();
    let (mut store, journal, _) = open(&dir);
    insert(&mut store, 1, 1..=10);
    write(&journal);
    go(&dir);
    std::thread::sleep(Duration::from_millis(1_100));
    insert(&mut store, 1, 11..=20);
    let waited = journal.wait(journal.position(), 10 * SECOND);
    assert!(matches!(waited, Wait::NotJournalled(_)), "{waited:?}");
    until("it is there again", || journal.state() == State::Ok);
    journal.kill();
    let (_store, _journal, recovered) = open(&dir);
    assert_eq!(recovered.streams[&stream(1)].count(), 20);
}

#[test]
fn a_directory_that_goes_is_noticed_and_made_again() {
    is_noticed_and_made_again(|dir| fs::remove_dir_all(&dir.0).unwrap());
}

/// The directory was moved away, or a file system mounted over it: what is written to the files that are open is where
/// no start will look for it.
#[test]
fn a_directory_that_was_moved_is_noticed_and_made_again() {
    let elsewhere = Dir::new();
    is_noticed_and_made_again(|dir| fs::rename(&dir.0, &elsewhere.0).unwrap());
}

/// Somebody has moved the directory where it may not be made again, and then back.
#[test]
fn a_directory_that_comes_back_is_gone_on_with() {
    let dir = Dir::new();
    let (mut store, journal, _) = open(&dir);
    insert(&mut store, 1, 1..=10);
    write(&journal);
    let elsewhere = Dir::new();
    fs::rename(&dir.0, &elsewhere.0).unwrap();
    // What is no directory cannot be made one.
    fs::write(&dir.0, "").unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    store.insert(id(1, 11), message(id(1, 11), SystemClock.boot()));
    let waited = journal.wait(journal.position(), 10 * SECOND);
    assert!(matches!(waited, Wait::NotJournalled(_)), "{waited:?}");
    std::thread::sleep(Duration::from_millis(200));
    fs::remove_file(&dir.0).unwrap();
    fs::rename(&elsewhere.0, &dir.0).unwrap();
    until("it works again", || journal.state() == State::Ok);
    journal.kill();
    let (_store, _journal, recovered) = open(&dir);
    assert_eq!(recovered.streams[&stream(1)].count(), 11);
}

/// What the core is told of as lost, of the first stream.
fn lost(store: &mut JournalStore) -> RangeSet {
    let polled = std::iter::from_fn(|| store.poll_lost());
    let ranges = polled.flat_map(|lost| lost.seqs.iter().collect::<Vec<_>>());
    ranges.collect()
}

/// Each block of each segment was found to be damaged when somebody asked for it, and said to be held until then.
#[test]
fn what_was_removed_by_hand_is_held_no_more() {
    let dir = Dir::new();
    let (mut store, journal, _) = Journal::open(Options {
        bytes_max: Options::BYTES_MIN,
        ..options(&dir)
    })
    .unwrap();
    fill(&mut store, &journal, &dir, 1..=30_000);
    until("one log", || dir.files("log").len() == 1);
    let segments = dir.files("seg");
    // One of them,
    fs::remove_file(&segments[1]).unwrap();
    let first = (1..30_000).find(|&seq| get(&mut store, id(1, seq)).is_none());
    let gone = lost(&mut store);
    assert_eq!(gone.first(), first);
    assert!((1_000..10_000).contains(&gone.count()), "{gone:?}");
    assert!(
        gone.iter()
            .flatten()
            .all(|seq| get(&mut store, id(1, seq)).is_none())
    );
    assert!(get(&mut store, id(1, gone.last().unwrap() + 1)).is_some());
    assert_eq!(journal.counters().damaged, 1);
    // and all.
    fs::remove_dir_all(&dir.0).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    store.insert(id(1, 30_001), message(id(1, 30_001), SystemClock.boot()));
    let waited = journal.wait(journal.position(), 10 * SECOND);
    assert!(matches!(waited, Wait::NotJournalled(_)), "{waited:?}");
    until("it is there again", || journal.state() == State::Ok);
    let gone = lost(&mut store);
    // The latest segment was in memory, too, so it is written again.
    assert_eq!(gone.first(), Some(1));
    let last = gone.last().unwrap();
    assert!((20_000..29_000).contains(&last), "{last}");
    // One segment had gone before, and one is there again.
    assert_eq!(journal.counters().damaged, segments.len() as u64 - 1);
    journal.kill();
    let (_store, _journal, recovered) = open(&dir);
    let held = &recovered.streams[&stream(1)];
    assert_eq!((held.first(), held.last()), (Some(last + 1), Some(30_001)));
    assert_eq!((held.range_count(), recovered.damaged), (1, 0));
}

/// Its directory was moved away, and another process began with a new one: that had its files removed and written over.
#[test]
fn what_another_process_has_made_there_is_left_alone() {
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options.clone()).unwrap();
    fill(&mut store, &journal, &dir, 1..=19_999);
    until("one log", || dir.files("log").len() == 1);
    // The writer looks for its log now, and then not for a second.
    std::thread::sleep(Duration::from_millis(1_100));
    fill(&mut store, &journal, &dir, 20_000..=20_000);
    fs::rename(&dir.0, &elsewhere.0).unwrap();
    let (mut other_store, other, _) = Journal::open(options).unwrap();
    fill(&mut other_store, &other, &dir, 50_001..=70_000);
    until("one log", || dir.files("log").len() == 1);
    let there = || {
        let paths = ["seg", "log", "tmp"].map(|kind| dir.files(kind)).concat();
        let files = paths.into_iter();
        files
            .map(|path| (fs::read(&path).unwrap(), path))
            .collect::<Vec<_>>()
    };
    let before = there();
    // Before this one has noticed, and after: more than the tails that are full take, and most of it goes again.
    for seqs in [20_001..=30_000, 30_001..=40_000] {
        insert(&mut store, 1, seqs.clone());
        journal.wait(journal.position(), 10 * SECOND);
        journal.note_expired(Vec::new(), Some(SystemClock.boot()));
        store.remove_below(stream(1), seqs.end() - 6_000);
        std::thread::sleep(Duration::from_millis(1_100));
    }
    assert!(matches!(journal.state(), State::Failed(_)));
    assert!(there() == before, "something was changed");
    assert!(!dir.0.join("expired").exists());
    drop((other_store, other));
}

/// Another directory was used meanwhile. What is in this one was not read by this life, nor may it be written over.
#[test]
fn a_directory_that_comes_back_too_late_waits_for_the_next_start() {
    let dir = Dir::new();
    let (mut store, journal, _) = open(&dir);
    let mut insert = |seq, works| {
        store.insert(id(1, seq), message(id(1, seq), SystemClock.boot()));
        let waited = journal.wait(journal.position(), 10 * SECOND);
        assert_eq!(waited == Wait::Written, works, "{waited:?}");
    };
    insert(1, true);
    let elsewhere = Dir::new();
    fs::rename(&dir.0, &elsewhere.0).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    insert(2, false);
    until("it is there again", || journal.state() == State::Ok);
    fs::remove_dir_all(&dir.0).unwrap();
    fs::rename(&elsewhere.0, &dir.0).unwrap();
    let log = fs::read(&dir.files("log")[0]).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    insert(3, false);
    let says_so = |state| match state {
        State::Failed(reason) => reason.contains("before Varnish is restarted"),
        State::Ok => false,
    };
    until("it is said", || says_so(journal.state()));
    std::thread::sleep(Duration::from_millis(200));
    assert!(says_so(journal.state()));
    journal.kill();
    assert_eq!(fs::read(&dir.files("log")[0]).unwrap(), log);
    let (mut store, _journal, _) = open(&dir);
    assert!(get(&mut store, id(1, 1)).is_some());
}
