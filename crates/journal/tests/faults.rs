//! Disks that are full, broken, read-only or not there; purges go on from memory, and the journal when it can.

mod common;

use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    Dir, SECOND, TestClock, TestDisk, get, id, insert, message, open, options, stream, until, write,
};
use powderhorn_journal::{Clock, Journal, Op, OpenError, Options, State, SystemClock, Wait};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::store::{Fetch, Held, Store};
use powderhorn_protocol::time::Time;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const EROFS: i32 = 30;

#[test]
fn a_disk_that_fails_costs_no_message_when_it_works_again() {
    let failures: [&[(Op, i32)]; 5] = [
        &[(Op::Write, ENOSPC)],
        &[(Op::Write, EIO)],
        &[(Op::Sync, EIO)],
        &[(Op::Open, EROFS), (Op::Write, EROFS)],
        &[(Op::Rename, EIO), (Op::Write, EIO)],
    ];
    for failing in failures {
        let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
        let options = Options {
            fsync: true,
            faults: Some(disk.clone()),
            ..options(&dir)
        };
        let (mut store, journal, _) = Journal::open(options).unwrap();
        insert(&mut store, 1, 1..=100);
        write(&journal);
        disk.fail(failing);
        insert(&mut store, 1, 101..=200);
        let waited = journal.wait(journal.position(), 10 * SECOND);
        assert!(
            matches!(waited, Wait::NotJournalled(_)),
            "{failing:?}: {waited:?}"
        );
        let State::Failed(reason) = journal.state() else {
            panic!("{failing:?}: it says nothing");
        };
        assert!(reason.contains(dir.0.to_str().unwrap()), "{reason}");
        assert!(journal.counters().write_errors > 0);
        // From memory all goes on.
        insert(&mut store, 2, 1..=1000);
        assert!(get(&mut store, id(1, 150)).is_some());
        assert!(matches!(
            journal.wait(journal.position(), SECOND),
            Wait::NotJournalled(_)
        ));
        disk.fail(&[]);
        until("it works again", || journal.state() == State::Ok);
        insert(&mut store, 3, 1..=10);
        write(&journal);
        journal.kill();
        let (mut store, _journal, recovered) = open(&dir);
        let counts: Vec<_> = (1..=3)
            .map(|n| recovered.streams[&stream(n)].count())
            .collect();
        assert_eq!(counts, [200, 1000, 10], "{failing:?}");
        assert_eq!(recovered.damaged, 0, "{failing:?}");
        for (n, seq) in [(1, 100), (1, 200), (2, 1000), (3, 10)] {
            assert!(get(&mut store, id(n, seq)).is_some());
        }
    }
}

#[test]
fn a_disk_that_fails_for_long_costs_no_more_memory_than_is_said() {
    let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    disk.fail(&[(Op::Write, EIO), (Op::Open, EIO)]);
    insert(&mut store, 1, 1..=40_000);
    until("it fails", || journal.state() != State::Ok);
    let counters = journal.counters();
    assert!(counters.dropped > 10_000, "{}", counters.dropped);
    assert!(
        counters.held_bytes < 8 * 131_072 + 10_000,
        "{}",
        counters.held_bytes
    );
    assert_eq!(get(&mut store, id(1, 1)), None);
    assert!(get(&mut store, id(1, 40_000)).is_some());
    disk.fail(&[]);
    until("it works again", || journal.state() == State::Ok);
    journal.kill();
    let (_store, _journal, recovered) = open(&dir);
    assert_eq!(
        recovered.streams[&stream(1)].count(),
        40_000 - counters.dropped
    );
}

/// In the environment of a test that runs itself again elsewhere: the directory to use there.
const ELSEWHERE: &str = "POWDERHORN_FULL_DISK";

/// Runs one test of this program by way of `launcher`, which ends with running its arguments, and shows what it says.
fn run_elsewhere(launcher: &[&str], test: &str, dir: &Dir) {
    let (program, arguments) = launcher.split_first().unwrap();
    // Without /proc a program knows its path as it was called, and cargo calls it by a whole one.
    let itself = std::env::current_exe().ok();
    let itself = itself.or_else(|| std::env::args_os().next().map(Into::into));
    let output = Command::new(program)
        .args(arguments)
        .arg(itself.unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ELSEWHERE, &dir.0)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{launcher:?}:\n{said}"
    );
}

/// Fills the disk under a journal, has `empty` make room, and demands that nothing is lost.
fn fill_and_empty(dir: &Dir, reason: &str, empty: impl FnOnce()) {
    let (mut store, journal, _) = open(dir);
    let mut last = 0;
    while journal.state() == State::Ok && last < 100_000 {
        insert(&mut store, 1, last + 1..=last + 1_000);
        last += 1_000;
        journal.wait(journal.position(), 10 * SECOND);
    }
    let State::Failed(said) = journal.state() else {
        panic!("it cannot be full");
    };
    assert!(said.contains(reason), "{said}");
    insert(&mut store, 2, 1..=10);
    let waited = journal.wait(journal.position(), SECOND);
    assert!(matches!(waited, Wait::NotJournalled(_)), "{waited:?}");
    empty();
    until("it works again", || journal.state() == State::Ok);
    journal.kill();
    drop((store, journal));
    let (_store, _journal, recovered) = open(dir);
    assert_eq!(recovered.streams[&stream(1)].count(), last);
    assert_eq!(recovered.streams[&stream(2)].count(), 10);
}

/// Unmounts, whatever became of the test.
struct Mounted<'a>(&'a Dir);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Lazily: after a failure the journal may be open still.
        let _ = Command::new("umount").arg("-l").arg(&self.0.0).status();
    }
}

/// How to run something where it may mount: as it is, or in namespaces of its own, where everybody is root.
fn where_one_may_mount(dir: &Dir) -> Option<&'static [&'static str]> {
    const LAUNCHERS: [&[&str]; 2] = [
        &["env"],
        &["unshare", "--user", "--map-root-user", "--mount"],
    ];
    LAUNCHERS.into_iter().find(|launcher| {
        let tried = Command::new(launcher[0])
            .args(&launcher[1..])
            .args([
                "sh",
                "-c",
                "mount -t tmpfs tmpfs \"$1\" && umount \"$1\"",
                "sh",
            ])
            .arg(&dir.0)
            .output();
        tried.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn a_file_system_that_is_full_is_one_that_can_be_emptied() {
    if let Some(dir) = std::env::var_os(ELSEWHERE) {
        let dir = Dir(dir.into());
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(&dir.0)
            .status();
        assert!(mount.is_ok_and(|status| status.success()), "cannot mount");
        let _mounted = Mounted(&dir);
        let ballast = dir.0.join("ballast");
        fs::write(&ballast, vec![1; 5 << 18]).unwrap();
        // Then there is room for the segment, beside the log that it replaces.
        return fill_and_empty(&dir, "No space left", || fs::remove_file(&ballast).unwrap());
    }
    let dir = Dir::new();
    fs::create_dir_all(&dir.0).unwrap();
    match where_one_may_mount(&dir) {
        Some(launcher) => run_elsewhere(
            launcher,
            "a_file_system_that_is_full_is_one_that_can_be_emptied",
            &dir,
        ),
        // What a limit on files does is tested there, too. Written past the test runner, which shows nothing of
        // tests that pass.
        None => std::io::stderr()
            .write_all(
                b"SKIPPED a_file_system_that_is_full_is_one_that_can_be_emptied: nobody may mount a tmpfs here (a \
                container needs CAP_SYS_ADMIN), so no disk was full; only a limit on files is tested\n",
            )
            .unwrap(),
    }
}

/// A quota, as everybody has it: a file that may not grow any more. Its error is another one than that of a full disk.
#[test]
fn a_file_that_may_not_grow_is_one_that_may_again() {
    if let Some(dir) = std::env::var_os(ELSEWHERE) {
        return fill_and_empty(&Dir(dir.into()), "File too large", || {
            let process = std::process::id().to_string();
            let raised = Command::new("prlimit")
                .args(["--fsize=unlimited", "--pid", &process])
                .status();
            assert!(raised.is_ok_and(|status| status.success()), "prlimit fails");
        });
    }
    let dir = Dir::new();
    // The signal is to be an error of the call. 256 times 512 bytes; the limit may be raised again.
    let launcher = "trap '' XFSZ; ulimit -S -f 256; exec \"$@\"";
    run_elsewhere(
        &["sh", "-c", launcher, "sh"],
        "a_file_that_may_not_grow_is_one_that_may_again",
        &dir,
    );
}

#[test]
fn a_directory_that_comes_late_is_used_and_what_is_in_it_kept() {
    let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
    {
        let (mut store, journal, _) = open(&dir);
        insert(&mut store, 1, 1..=10);
        write(&journal);
    }
    disk.fail(&[(Op::Directory, 2)]);
    let options = Options {
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, recovered) = Journal::open(options).unwrap();
    assert!(recovered.streams.is_empty());
    assert!(matches!(journal.state(), State::Failed(_)));
    insert(&mut store, 2, 1..=10);
    assert!(get(&mut store, id(2, 1)).is_some());
    disk.fail(&[]);
    until("it is there", || journal.state() == State::Ok);
    insert(&mut store, 3, 1..=10);
    write(&journal);
    journal.kill();
    let (_store, _journal, recovered) = open(&dir);
    assert_eq!(recovered.streams.len(), 3);
}

#[test]
fn a_read_only_directory_is_read() {
    let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
    {
        let (mut store, journal, _) = open(&dir);
        insert(&mut store, 1, 1..=10);
        write(&journal);
    }
    let writes = [Op::Open, Op::Write, Op::Sync, Op::Rename, Op::Remove];
    disk.fail(&writes.map(|op| (op, EROFS)));
    let options = Options {
        faults: Some(disk),
        ..options(&dir)
    };
    let (mut store, journal, recovered) = Journal::open(options).unwrap();
    assert_eq!(recovered.streams[&stream(1)].count(), 10);
    assert!(matches!(journal.state(), State::Failed(_)));
    insert(&mut store, 1, 11..=20);
    assert!((1..=20).all(|seq| get(&mut store, id(1, seq)).is_some()));
    assert!(journal.store_stamp(1).is_err());
}

#[test]
fn two_journals_never_share_a_directory() {
    let dir = Dir::new();
    let first = open(&dir);
    let Err(error) = Journal::open(options(&dir)) else {
        panic!("it was opened twice");
    };
    assert!(matches!(&error, OpenError::Locked { path } if *path == dir.0));
    assert!(error.to_string().contains(dir.0.to_str().unwrap()));
    drop(first);
    open(&dir);
}

#[test]
fn the_directory_never_grows_beyond_its_bound() {
    let (dir, clock) = (Dir::new(), TestClock::new());
    let bytes_max = Options::BYTES_MIN;
    let options = Options {
        bytes_max,
        clock,
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    let mut most = 0;
    for seq in 1..=150_000 {
        store.insert(
            id(seq % 5, seq),
            message(id(seq % 5, seq), Time::from_us(seq as i64)),
        );
        if seq % 500 == 0 {
            // Small lots take the most room in a log.
            write(&journal);
            most = dir.bytes().max(most);
            // A burst that outruns the keeper is another matter.
            until("few logs", || dir.files("log").len() <= 3);
            most = dir.bytes().max(most);
        }
    }
    let counters = journal.counters();
    assert!(most <= bytes_max, "{most} bytes, {counters:?}");
    assert!(most > bytes_max / 2, "{most} bytes");
    assert!(counters.segments_evicted > 10, "{counters:?}");
    assert_eq!(counters.dropped, 0);
    assert_eq!(get(&mut store, id(1, 1)), None);
    assert!(get(&mut store, id(4, 149_999)).is_some());
    assert!(store.bytes() <= bytes_max);
}

/// A segment of many streams takes more than its messages and an eighth of that, for which room was made.
#[test]
fn segments_of_many_streams_are_within_the_bound_as_well() {
    /// The most that was in the directory.
    struct Watch(std::path::PathBuf, std::sync::atomic::AtomicU64);
    impl powderhorn_journal::Faults for Watch {
        fn check(&self, _: Op, _: &std::path::Path) -> std::io::Result<()> {
            let entries = fs::read_dir(&self.0).into_iter().flatten();
            let bytes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
            self.1.fetch_max(bytes.sum(), Ordering::Relaxed);
            Ok(())
        }
    }
    let dir = Dir::new();
    let watch = Arc::new(Watch(dir.0.clone(), 0.into()));
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        faults: Some(watch.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    for n in 1..=60_000 {
        insert(&mut store, n, 2..=2);
        if n % 500 == 0 {
            write(&journal);
            until("few logs", || dir.files("log").len() <= 2);
        }
    }
    assert!(journal.counters().segments_evicted > 3);
    let most = watch.1.load(Ordering::Relaxed);
    assert!(most <= Options::BYTES_MIN, "{most} bytes");
    until("bytes are counted", || {
        journal.counters().disk_bytes == dir.bytes()
    });
}

#[test]
fn a_bound_that_is_lowered_costs_the_oldest_and_says_so() {
    let dir = Dir::new();
    let (mut store, journal, _) = Journal::open(Options {
        bytes_max: 2 * Options::BYTES_MIN,
        ..options(&dir)
    })
    .unwrap();
    for seq in 1..=130_000 {
        store.insert(id(1, seq), message(id(1, seq), Time::from_us(seq as i64)));
        if seq % 5_000 == 0 {
            write(&journal);
            until("few logs", || dir.files("log").len() <= 3);
        }
    }
    until("one log", || dir.files("log").len() == 1);
    drop((store, journal));
    assert!(dir.bytes() > Options::BYTES_MIN);
    let (mut store, journal, recovered) = Journal::open(Options {
        bytes_max: Options::BYTES_MIN,
        ..options(&dir)
    })
    .unwrap();
    assert!(dir.bytes() <= Options::BYTES_MIN);
    assert!(journal.counters().segments_evicted > 3);
    let held = &recovered.streams[&stream(1)];
    assert!(held.first() > Some(1) && held.last() == Some(130_000));
    let first = held.first().unwrap();
    assert!(get(&mut store, id(1, first)).is_some());
    assert_eq!(get(&mut store, id(1, first - 1)), None);
    let evicted = recovered.evicted_born.unwrap();
    assert_eq!(evicted, Time::from_us(first as i64 - 1));
}

#[test]
fn many_wait_at_once_and_each_is_told() {
    let dir = Dir::new();
    let (store, journal, _) = open(&dir);
    let store = Arc::new(std::sync::Mutex::new(store));
    let threads: Vec<_> = (0..64)
        .map(|n| {
            let (store, journal) = (store.clone(), journal.clone());
            std::thread::spawn(move || {
                for seq in 1..=50 {
                    let position = {
                        let mut store = store.lock().unwrap();
                        insert(&mut *store, n, seq..=seq);
                        journal.position()
                    };
                    assert_eq!(journal.wait(position, 10 * SECOND), Wait::Written);
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(journal.counters().appended, 64 * 50);
    journal.kill();
    drop((store, journal));
    let (_store, _journal, recovered) = open(&dir);
    assert_eq!(recovered.streams.len(), 64);
    assert!(recovered.streams.values().all(|held| held.count() == 50));
}

#[test]
fn who_waits_is_not_kept_longer_than_asked() {
    /// Each write takes a while.
    struct Slow;
    impl powderhorn_journal::Faults for Slow {
        fn check(&self, op: Op, _: &std::path::Path) -> std::io::Result<()> {
            if op == Op::Write {
                std::thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        }
    }
    let dir = Dir::new();
    let options = Options {
        faults: Some(Arc::new(Slow)),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    assert_eq!(journal.wait(0, Duration::ZERO), Wait::Written);
    insert(&mut store, 1, 1..=1);
    let started = Instant::now();
    assert_eq!(journal.wait(1, Duration::from_millis(50)), Wait::Late);
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert!(started.elapsed() < Duration::from_millis(200));
    assert_eq!(journal.wait(1, 10 * SECOND), Wait::Written);
    // Nobody waits for a journal that is closed.
    assert!(journal.shutdown(10 * SECOND));
    insert(&mut store, 1, 2..=2);
    let closed = journal.wait(2, 10 * SECOND);
    assert!(matches!(closed, Wait::NotJournalled(_)), "{closed:?}");
}

/// A disk whose writes do not return while this is true: it answers no more, and fails no write.
#[derive(Default)]
struct Hangs(AtomicBool);

impl powderhorn_journal::Faults for Hangs {
    fn check(&self, op: Op, _: &std::path::Path) -> std::io::Result<()> {
        while op == Op::Write && self.0.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

#[test]
fn a_disk_that_answers_no_more_is_one_that_fails() {
    let (dir, disk) = (Dir::new(), Arc::new(Hangs::default()));
    let options = Options {
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    insert(&mut store, 1, 1..=1);
    write(&journal);
    disk.0.store(true, Ordering::Relaxed);
    insert(&mut store, 1, 2..=2);
    let waited = journal.wait(journal.position(), Duration::from_millis(50));
    assert_eq!(waited, Wait::Late);
    assert_eq!(journal.state(), State::Ok);
    until("it is said", || journal.state() != State::Ok);
    // Nobody waits for it by then.
    insert(&mut store, 1, 3..=3);
    let waited = journal.wait(journal.position(), 10 * SECOND);
    assert!(matches!(waited, Wait::NotJournalled(_)), "{waited:?}");
    assert_eq!(journal.counters().write_errors, 1);
    disk.0.store(false, Ordering::Relaxed);
    until("it goes on", || journal.state() == State::Ok);
    write(&journal);
    journal.kill();
    let (_store, _journal, recovered) = open(&dir);
    assert_eq!(recovered.streams[&stream(1)].count(), 3);
}

/// Of long messages the queue held as many as of short ones: 500,000, some 700 MB.
#[test]
fn a_disk_that_hangs_costs_no_more_memory_for_long_messages() {
    let (dir, disk) = (Dir::new(), Arc::new(Hangs::default()));
    let options = Options {
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    disk.0.store(true, Ordering::Relaxed);
    let body = vec![7; 1_300];
    let held = Held {
        born: SystemClock.boot(),
        issued_ms: 0,
        purge: Purge::Unknown {
            op: 999,
            body: body.into(),
        },
    };
    let fails = (1..=200_000).find(|&seq| {
        store.insert(id(1, seq), held.clone());
        journal.state() != State::Ok
    });
    disk.0.store(false, Ordering::Relaxed);
    // 64 MiB of them, and what the writer had taken before: as much at most, if it was late.
    assert!(fails.is_some_and(|seq| seq < 110_000), "{fails:?}");
    until("it works again", || journal.state() == State::Ok);
}

#[test]
fn written_means_synced_if_that_is_asked_for() {
    let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
    for fsync in [false, true] {
        let options = Options {
            fsync,
            faults: Some(disk.clone()),
            ..options(&dir)
        };
        disk.fail(&[]);
        let (mut store, journal, _) = Journal::open(options).unwrap();
        insert(&mut store, 1, 1..=1);
        write(&journal);
        disk.fail(&[(Op::Sync, EIO)]);
        insert(&mut store, 1, 2..=2);
        let waited = journal.wait(2, 10 * SECOND);
        assert_eq!(waited == Wait::Written, !fsync, "{waited:?}");
    }
}

/// Somebody asked for syncs since: the name of the log that is gone on with may never have been synced.
#[test]
fn the_name_of_a_log_that_is_gone_on_with_is_synced() {
    /// What was synced.
    #[derive(Default)]
    struct Syncs(std::sync::Mutex<Vec<std::path::PathBuf>>);
    impl powderhorn_journal::Faults for Syncs {
        fn check(&self, op: Op, path: &std::path::Path) -> std::io::Result<()> {
            if op == Op::Sync {
                self.0.lock().unwrap().push(path.to_owned());
            }
            Ok(())
        }
    }
    let dir = Dir::new();
    let (mut store, journal, _) = open(&dir);
    insert(&mut store, 1, 1..=1);
    write(&journal);
    journal.kill();
    let syncs = Arc::new(Syncs::default());
    let (_store, _journal, _) = Journal::open(Options {
        fsync: true,
        faults: Some(syncs.clone()),
        ..options(&dir)
    })
    .unwrap();
    let synced = syncs.0.lock().unwrap().clone();
    assert!(synced.contains(&dir.0), "{synced:?}");
    assert!(synced.contains(&dir.files("log")[0]), "{synced:?}");
}

#[test]
fn the_last_stamp_is_kept_and_a_broken_one_is_counted() {
    let dir = Dir::new();
    let (store, journal, recovered) = open(&dir);
    assert_eq!((recovered.last_stamp, recovered.damaged), (None, 0));
    journal.store_stamp(1_700_000_000_123).unwrap();
    journal.store_stamp(1_700_000_000_124).unwrap();
    drop((store, journal));
    let (store, journal, recovered) = open(&dir);
    assert_eq!(recovered.last_stamp, Some(1_700_000_000_124));
    drop((store, journal));
    let path = dir.0.join("epoch");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        for broken in [whole[..at].to_vec(), {
            let mut changed = whole.clone();
            changed[at] ^= 2;
            changed
        }] {
            fs::write(&path, broken).unwrap();
            let (_store, _journal, recovered) = open(&dir);
            assert_eq!(
                (recovered.last_stamp, recovered.damaged),
                (None, 1),
                "byte {at}"
            );
        }
    }
}

#[test]
fn a_boot_without_a_name_is_exact_within_one_life() {
    let (dir, clock) = (Dir::new(), TestClock::new());
    clock.boot.store(0, std::sync::atomic::Ordering::Relaxed);
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        clock: clock.clone(),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options.clone()).unwrap();
    clock.pass(60 * SECOND);
    let held = message(id(1, 1), clock.boot());
    store.insert(id(1, 1), held.clone());
    for seq in 1..=8_000 {
        store.insert(id(2, seq), message(id(2, seq), clock.boot()));
    }
    until("segments", || journal.counters().segments >= 2);
    assert_eq!(get(&mut store, id(1, 1)), Some(held));
    journal.kill();
    clock.pass(60 * SECOND);
    let (mut store, _journal, _) = Journal::open(options).unwrap();
    let held = get(&mut store, id(1, 1)).unwrap();
    assert_eq!(clock.boot().since(held.born), 60 * SECOND);
}

/// As in a time namespace: what is born later than now by the clock was young for as long as the clock had been set back.
#[test]
fn a_clock_that_was_set_back_within_a_boot_makes_nothing_younger() {
    let (dir, clock) = (Dir::new(), TestClock::new());
    let options = Options {
        clock: clock.clone(),
        ..options(&dir)
    };
    let minute = 60 * SECOND;
    let mut expected = Vec::new();
    for life in 0..4 {
        if life == 1 {
            clock.boot_us.store(5_000_000, Ordering::Relaxed);
        }
        let (mut store, journal, _) = Journal::open(options.clone()).unwrap();
        for (seq, age) in (1..).zip(&expected) {
            let held = get(&mut store, id(1, seq)).unwrap();
            assert_eq!(clock.boot().since(held.born), *age, "{seq} in life {life}");
        }
        for _ in 0..2 {
            let seq = expected.len() as u64 + 1;
            store.insert(id(1, seq), message(id(1, seq), clock.boot()));
            write(&journal);
            expected.push(Duration::ZERO);
            clock.pass(minute);
            expected.iter_mut().for_each(|age| *age += minute);
        }
        journal.kill();
    }
}

#[test]
fn ages_survive_a_reboot_in_logs_and_in_segments() {
    const DAY: Duration = Duration::from_secs(86_400);
    let minutes = |n: u64| Duration::from_secs(60 * n);
    // How far the wall clock went while the machine was down, and the ages after it, in minutes.
    for (forward, expected) in [
        (60i64, [130, 65]),
        (-5_000, [70, 5]),
        (20_000, [1430, 1430]),
    ] {
        for sealed in [false, true] {
            let (dir, clock) = (Dir::new(), TestClock::new());
            let options = Options {
                bytes_max: Options::BYTES_MIN,
                clock: clock.clone(),
                retention: DAY,
                ..options(&dir)
            };
            let (mut store, journal, _) = Journal::open(options.clone()).unwrap();
            store.insert(id(1, 3), message(id(1, 3), clock.boot()));
            clock.pass(minutes(65));
            store.insert(id(1, 4), message(id(1, 4), clock.boot()));
            write(&journal);
            clock.pass(minutes(5));
            let fill = if sealed { 4_000 } else { 5 };
            for seq in 1..=fill {
                store.insert(id(2, seq), message(id(2, seq), clock.boot()));
            }
            write(&journal);
            until("segments", || (journal.counters().segments > 0) == sealed);
            journal.kill();
            clock.boot.store(2, std::sync::atomic::Ordering::Relaxed);
            clock
                .boot_us
                .store(30_000_000, std::sync::atomic::Ordering::Relaxed);
            let wall = clock.wall_ms() as i64 + forward * 60_000;
            clock
                .wall_ms
                .store(wall as u64, std::sync::atomic::Ordering::Relaxed);
            let (mut store, journal, _) = Journal::open(options.clone()).unwrap();
            let mut age = |seq| {
                let held = get(&mut store, id(1, seq)).unwrap();
                clock.boot().since(held.born).as_secs() / 60
            };
            assert_eq!(
                [age(3), age(4)],
                expected,
                "{forward} min, sealed: {sealed}"
            );
            let oldest = store.oldest(stream(1)).unwrap().1;
            assert_eq!(clock.boot().since(oldest).as_secs() / 60, expected[0]);
            // Another start in this boot, or two, makes nothing younger.
            let (mut store, mut journal) = (store, journal);
            for passed in [7, 14] {
                journal.kill();
                drop((store, journal));
                clock.pass(minutes(7));
                (store, journal, _) = Journal::open(options.clone()).unwrap();
                for (seq, age) in [3, 4].into_iter().zip(expected) {
                    let held = get(&mut store, id(1, seq)).unwrap();
                    let minutes = clock.boot().since(held.born).as_secs() / 60;
                    assert_eq!(minutes, age + passed, "{forward} min, sealed: {sealed}");
                }
            }
        }
    }
}

/// Too many open files are no damage: what could not be read is held, and given when it can be.
#[test]
fn a_block_that_cannot_be_read_now_is_read_later() {
    const EMFILE: i32 = 24;
    let (dir, disk) = (Dir::new(), Arc::new(TestDisk::default()));
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    insert(&mut store, 1, 1..=6_500);
    write(&journal);
    until("segments", || {
        dir.files("seg").len() >= 2 && journal.counters().unsealed == 0
    });
    for failing in [Op::Open, Op::Read] {
        disk.fail(&[(failing, EMFILE)]);
        for _ in 0..20 {
            let _ = store.get(id(1, 7));
            std::thread::sleep(Duration::from_millis(2));
        }
        disk.fail(&[]);
        assert!(get(&mut store, id(1, 7)).is_some(), "{failing:?}");
        assert!(get(&mut store, id(1, 8)).is_some(), "{failing:?}");
    }
    assert_eq!(journal.counters().damaged, 0);
    assert!(journal.counters().write_errors > 0);
    journal.kill();
}

/// A disk in whose driver, so to say, there is a bug: the next such operation panics.
#[derive(Default)]
struct Bug(std::sync::Mutex<Option<Op>>);

impl powderhorn_journal::Faults for Bug {
    fn check(&self, op: Op, _: &std::path::Path) -> std::io::Result<()> {
        let met = {
            let mut bug = self.0.lock().unwrap();
            bug.take_if(|bug| *bug == op).is_some()
        };
        assert!(!met, "a panic of a thread of the journal, for the test");
        Ok(())
    }
}

/// The next try to write went well, and the journal then counted as sound, without the thread.
#[test]
fn a_thread_that_panics_breaks_the_journal_for_good_and_nothing_else() {
    let cases = [
        (Op::Write, "journal-writer"),
        (Op::Rename, "journal-keeper"),
        (Op::Read, "journal-reader"),
    ];
    for (op, thread) in cases {
        let (dir, bug) = (Dir::new(), Arc::new(Bug::default()));
        let options = Options {
            bytes_max: Options::BYTES_MIN,
            faults: Some(bug.clone()),
            ..options(&dir)
        };
        let (mut store, journal, _) = Journal::open(options).unwrap();
        insert(&mut store, 1, 1..=13_000);
        write(&journal);
        until("segments", || {
            journal.counters().segments >= 2 && journal.counters().unsealed == 0
        });
        *bug.0.lock().unwrap() = Some(op);
        match op {
            Op::Read => until("the reader is asked", || {
                store.get(id(1, 1)) == Fetch::Gone || bug.0.lock().unwrap().is_none()
            }),
            _ => insert(&mut store, 2, 1..=6_000),
        }
        until("it has failed", || journal.state() != State::Ok);
        // Longer than it is until the next tries.
        std::thread::sleep(Duration::from_millis(300));
        insert(&mut store, 3, 1..=10);
        let waited = journal.wait(journal.position(), SECOND);
        let State::Failed(reason) = journal.state() else {
            panic!("{thread}: it counts as sound");
        };
        assert!(reason.contains(thread), "{reason}");
        assert_eq!(waited, Wait::NotJournalled(reason), "{thread}");
        assert_eq!(journal.counters().write_errors, 1, "{thread}");
        // From memory all goes on, and nobody waits for what nobody reads.
        assert!(get(&mut store, id(3, 10)).is_some());
        assert_eq!(get(&mut store, id(1, 1)).is_some(), op != Op::Read);
        assert!(journal.shutdown(10 * SECOND), "{thread}");
        drop((store, journal));
        let (_store, _journal, recovered) = open(&dir);
        assert_eq!(recovered.streams[&stream(1)].count(), 13_000, "{thread}");
        // At the end whoever writes has one more try.
        let last = recovered.streams.get(&stream(3));
        let expected = (op != Op::Write).then_some(10);
        assert_eq!(last.map(|held| held.count()), expected, "{thread}");
    }
}

/// A disk that takes nothing while the first is true, and takes its time for segments then.
#[derive(Default)]
struct Recovers(AtomicBool);

impl powderhorn_journal::Faults for Recovers {
    fn check(&self, op: Op, path: &std::path::Path) -> std::io::Result<()> {
        if self.0.load(Ordering::Relaxed) && op == Op::Write {
            return Err(std::io::Error::from_raw_os_error(EIO));
        }
        if op == Op::Sync && path.extension().is_some_and(|end| end == "tmp") {
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }
}

/// The tail that is given up while the disk begins to work again is the one that is just being made a segment, which
/// then was nobody's: it took room until the next start.
#[test]
fn what_is_given_up_while_it_is_sealed_takes_no_room() {
    let (dir, disk) = (Dir::new(), Arc::new(Recovers::default()));
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    disk.0.store(true, Ordering::Relaxed);
    insert(&mut store, 1, 1..=40_000);
    until("it fails", || journal.state() != State::Ok);
    disk.0.store(false, Ordering::Relaxed);
    let dropped = journal.counters().dropped;
    let mut last = 40_000;
    while journal.state() != State::Ok && last < 200_000 {
        insert(&mut store, 1, last + 1..=last + 100);
        last += 100;
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(journal.counters().dropped > dropped);
    until("it works again", || journal.state() == State::Ok);
    write(&journal);
    until("all is sealed", || journal.counters().unsealed == 0);
    until("no segment is nobody's", || {
        dir.files("seg").len() as u64 == journal.counters().segments
    });
}

/// A disk that will not sync the names in a directory while this is true.
#[derive(Default)]
struct Nameless(AtomicBool);

impl powderhorn_journal::Faults for Nameless {
    fn check(&self, op: Op, path: &std::path::Path) -> std::io::Result<()> {
        if self.0.load(Ordering::Relaxed) && op == Op::Sync && path.is_dir() {
            return Err(std::io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }
}

/// A segment that was in its place when the disk failed was counted as found there, and again when it was written again.
#[test]
fn what_a_failure_leaves_is_counted_once() {
    let (dir, disk) = (Dir::new(), Arc::new(Nameless::default()));
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        faults: Some(disk.clone()),
        ..options(&dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    disk.0.store(true, Ordering::Relaxed);
    insert(&mut store, 1, 1..=4_000);
    until("it fails", || journal.state() != State::Ok);
    assert!(!dir.files("seg").is_empty());
    disk.0.store(false, Ordering::Relaxed);
    until("it works again", || journal.state() == State::Ok);
    assert_eq!(journal.counters().disk_bytes, dir.bytes());
}
