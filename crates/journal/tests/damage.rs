//! Files that a power cut tore, or that a disk changed: what is whole is kept, what was never written is never held.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Dir, SECOND, TestClock, get, id, message, open, options, until, write};
use powderhorn_journal::{Clock, Journal, Options, State, Wait};
use powderhorn_protocol::id::MessageId;
use powderhorn_protocol::store::{Held, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

type Written = BTreeMap<MessageId, Held>;

/// A log of a few lots, and where each lot ends.
fn log(dir: &Dir, lots: &[u64]) -> (Written, Vec<u64>) {
    let clock = TestClock::new();
    let options = Options {
        clock: clock.clone(),
        ..options(dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    let (mut written, mut ends, mut seq) = (Written::new(), Vec::new(), 0);
    for &lot in lots {
        for _ in 0..lot {
            seq += 1;
            let id = id(seq % 2, seq);
            let held = message(id, clock.boot());
            store.insert(id, held.clone());
            written.insert(id, held);
        }
        write(&journal);
        ends.push(dir.bytes());
    }
    journal.kill();
    (written, ends)
}

/// A journal of two small segments and a log.
fn segments(dir: &Dir) -> Written {
    let clock = TestClock::new();
    let options = Options {
        bytes_max: Options::BYTES_MIN,
        clock: clock.clone(),
        ..options(dir)
    };
    let (mut store, journal, _) = Journal::open(options).unwrap();
    let mut written = Written::new();
    for seq in 1..=6_500 {
        let id = id(seq % 2, seq);
        let held = message(id, clock.boot());
        store.insert(id, held.clone());
        written.insert(id, held);
    }
    write(&journal);
    until("segments", || {
        dir.files("seg").len() >= 2 && dir.files("log").len() == 1
    });
    journal.kill();
    written
}

struct Outcome {
    held: usize,
    damaged: u64,
    torn: u64,
}

/// Opens the journal and reads all that it says it has. Nothing else may be in it than what was written.
fn check(dir: &Dir, written: &Written, what: &str) -> Outcome {
    let clock = TestClock::new();
    let options = Options {
        clock: clock.clone(),
        ..options(dir)
    };
    let (mut store, journal, recovered) = Journal::open(options).unwrap();
    let mut held = 0;
    for (&stream, ranges) in &recovered.streams {
        for seq in ranges.iter().flatten() {
            let id = MessageId { stream, seq };
            if let Some(message) = get(&mut store, id) {
                assert_eq!(Some(&message), written.get(&id), "{what}: {id}");
                held += 1;
            }
        }
    }
    // What was saved from a torn end is on its way into a segment.
    until("no log waits", || journal.counters().unsealed == 0);
    let damaged = journal.counters().damaged;
    journal.kill();
    Outcome {
        held,
        damaged,
        torn: recovered.torn_bytes,
    }
}

fn copy(from: &Dir, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(&from.0).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_log_torn_at_any_byte_keeps_what_is_before() {
    let (dir, torn) = (Dir::new(), Dir::new());
    let lots = [3, 1, 9, 1];
    let (written, ends) = log(&dir, &lots);
    let path = &dir.files("log")[0];
    let content = fs::read(path).unwrap();
    let mut before = 0;
    for cut in 0..=content.len() as u64 {
        fs::create_dir_all(&torn.0).unwrap();
        let torn_path = torn.0.join(path.file_name().unwrap());
        fs::write(&torn_path, &content[..cut as usize]).unwrap();
        let whole = ends.iter().zip(lots).take_while(|(end, _)| **end <= cut);
        let expected: u64 = whole.map(|(_, lot)| lot).sum();
        let outcome = check(&torn, &written, &format!("cut at {cut}"));
        let held = outcome.held as u64;
        // Each message that is whole, also of the lot that is not.
        assert!(held >= expected && held >= before, "cut at {cut}: {held}");
        if ends.contains(&cut) {
            assert_eq!((held, before), (expected, expected - 1), "cut at {cut}");
        }
        before = held;
        assert_eq!(outcome.damaged, 0, "cut at {cut}");
        assert_eq!(
            outcome.torn == 0,
            ends.contains(&cut) || cut <= 16,
            "cut at {cut}"
        );
        // What was torn off is gone, so the next start finds nothing to complain of.
        let again = check(&torn, &written, &format!("again, cut at {cut}"));
        assert_eq!((again.held as u64, again.torn), (held, 0), "cut at {cut}");
        fs::remove_dir_all(&torn.0).unwrap();
    }
}

#[test]
fn a_log_goes_on_behind_a_torn_end() {
    let dir = Dir::new();
    let (mut written, _) = log(&dir, &[5, 5]);
    let path = dir.files("log").remove(0);
    let bytes = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes - 7).unwrap();
    let (mut store, journal, recovered) = open(&dir);
    assert!(recovered.torn_bytes > 0);
    until("no log waits", || journal.counters().unsealed == 0);
    let held = message(id(7, 1), powderhorn_journal::SystemClock.boot());
    store.insert(id(7, 1), held.clone());
    write(&journal);
    journal.kill();
    written.insert(id(7, 1), held);
    let (mut store, _journal, recovered) = open(&dir);
    assert_eq!((recovered.torn_bytes, recovered.damaged), (0, 0));
    assert!(get(&mut store, id(7, 1)).is_some());
    assert!(get(&mut store, id(1, 5)).is_some());
    assert!(get(&mut store, id(1, 9)).is_some());
    assert!(get(&mut store, id(0, 10)).is_none());
}

#[test]
fn a_changed_byte_of_a_log_costs_its_message_at_most() {
    let (dir, flipped) = (Dir::new(), Dir::new());
    let lots = [3, 40, 2];
    let (written, ends) = log(&dir, &lots);
    let path = &dir.files("log")[0];
    let content = fs::read(path).unwrap();
    let (mut places, mut lossy) = (0, 0);
    for at in 0..content.len() {
        let begins = ends.iter().rfind(|end| **end <= at as u64);
        let inside = at - begins.map_or(0, |end| *end as usize);
        // All of the frames' and the batches' heads, and of the last lot; samples of the rest.
        if inside >= 120 && at < ends[1] as usize && at % 3 != 0 {
            continue;
        }
        fs::create_dir_all(&flipped.0).unwrap();
        let mut changed = content.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(flipped.0.join(path.file_name().unwrap()), &changed).unwrap();
        let outcome = check(&flipped, &written, &format!("byte {at}"));
        let lost = written.len() - outcome.held;
        assert!(lost <= 1, "byte {at}: {lost} lost");
        // The file's header and the frames' heads cost nothing.
        assert!(at >= 28 || lost == 0, "byte {at}");
        // At the end, bytes that are no frame may be a torn one.
        let torn = at as u64 >= ends[1] && inside < 8;
        assert_eq!(outcome.damaged, u64::from(!torn), "byte {at}");
        assert_eq!(outcome.torn > 0, torn, "byte {at}");
        (places, lossy) = (places + 1, lossy + lost);
        fs::remove_dir_all(&flipped.0).unwrap();
    }
    assert!(lossy > places / 2, "{lossy} of {places}");
}

/// The first segment of a journal, to be changed in copies of it.
struct Original<'a> {
    dir: &'a Dir,
    written: &'a Written,
    name: std::ffi::OsString,
    content: Vec<u8>,
    footer: usize,
}

impl<'a> Original<'a> {
    fn new(dir: &'a Dir, written: &'a Written) -> Original<'a> {
        let segment = dir.files("seg").remove(0);
        let content = fs::read(&segment).unwrap();
        Original {
            dir,
            written,
            name: segment.file_name().unwrap().to_owned(),
            footer: footer_at(&content),
            content,
        }
    }

    /// Opens a copy that is changed at a byte, or from there on: how many messages are lost, and the rest.
    fn changed(&self, copied: &Dir, at: usize, change: impl FnOnce(&mut [u8])) -> (usize, Outcome) {
        copy(self.dir, &copied.0);
        let mut changed = self.content.clone();
        change(&mut changed);
        fs::write(copied.0.join(&self.name), &changed).unwrap();
        let outcome = check(copied, self.written, &format!("byte {at}"));
        (self.written.len() - outcome.held, outcome)
    }
}

#[test]
fn a_changed_byte_of_a_segment_costs_its_message_at_most() {
    let (dir, flipped) = (Dir::new(), Dir::new());
    let written = segments(&dir);
    let original = Original::new(&dir, &written);
    let (footer, end) = (original.footer, original.content.len());
    // All of the header and of the first block's head, footer and trailer; samples of the rest.
    let places = (0..200)
        .step_by(5)
        .chain((200..20_000).step_by(197))
        .chain((20_000..footer).step_by(17_111))
        .chain((footer..end).step_by(16))
        .chain(end - 20..end);
    let (mut lossy, mut lossless) = (0, 0);
    for at in places {
        let (lost, outcome) = original.changed(&flipped, at, |bytes| bytes[at] ^= 0x10);
        assert!(lost <= 1, "byte {at}: {lost} lost");
        if (16..footer).contains(&at) {
            assert_eq!(outcome.damaged, 1, "byte {at}: {lost} lost");
        } else {
            assert_eq!(lost, 0, "byte {at}");
            assert!(outcome.damaged == 1 || at < 16, "byte {at}");
        }
        lossy += lost;
        lossless += usize::from(lost == 0);
    }
    assert!(lossless > 20 && lossy > 60, "{lossless}, {lossy}");
}

/// What is in a block is found without the footer, also when the block is damaged, and its neighbour.
#[test]
fn a_segment_without_a_footer_loses_no_more() {
    let (dir, flipped) = (Dir::new(), Dir::new());
    let written = segments(&dir);
    let original = Original::new(&dir, &written);
    let footer = original.footer;
    for at in (16..footer - 9_000).step_by(5_003) {
        let places = [at, at + 9_000, footer + 20];
        let (lost, outcome) = original.changed(&flipped, at, |bytes| {
            places.into_iter().for_each(|at| bytes[at] ^= 0x10);
        });
        assert!(lost <= 2, "byte {at}: {lost} lost");
        assert!(outcome.damaged >= 2, "byte {at}: {}", outcome.damaged);
    }
}

/// Disks lose sectors.
#[test]
fn a_sector_that_is_gone_costs_what_was_in_it() {
    let (dir, zeroed) = (Dir::new(), Dir::new());
    let written = segments(&dir);
    let original = Original::new(&dir, &written);
    let has_mark = |bytes: &[u8]| bytes.windows(4).any(|b| b == [0, 0xb1, 0x1c, 0x0e]);
    for at in (512..original.footer - 512).step_by(512 * 13) {
        let mut heads = false;
        let (lost, _) = original.changed(&zeroed, at, |bytes| {
            bytes[at..at + 512].fill(0);
            heads = has_mark(&bytes[at - 512..at + 1024]);
        });
        // The shortest record has 12 bytes; a block's heads and what names its stream may be in the sector.
        let gone = has_mark(&original.content[at..at + 512]);
        assert!(
            lost <= if heads || gone { 250 } else { 43 },
            "byte {at}: {lost} lost"
        );
    }
}

fn footer_at(segment: &[u8]) -> usize {
    let trailer = &segment[segment.len() - 20..];
    u64::from_le_bytes(trailer[..8].try_into().unwrap()) as usize
}

#[test]
fn whatever_is_in_the_files_a_start_survives_it() {
    let rng = &mut StdRng::seed_from_u64(5);
    let (dir, broken) = (Dir::new(), Dir::new());
    let written = segments(&dir);
    for round in 0..40 {
        copy(&dir, &broken.0);
        for path in broken.files("seg").into_iter().chain(broken.files("log")) {
            let mut content = fs::read(&path).unwrap();
            match rng.random_range(0..6) {
                0 => rng.fill(&mut content[..]),
                1 => content.truncate(rng.random_range(0..content.len())),
                2 => {
                    for _ in 0..rng.random_range(1..40) {
                        let at = rng.random_range(0..content.len());
                        content[at] = rng.random();
                    }
                }
                3 => {
                    let at = rng.random_range(0..content.len());
                    content.splice(
                        at..at,
                        (0..rng.random_range(1..5_000)).map(|_| rng.random()),
                    );
                }
                4 => {
                    let from = rng.random_range(0..content.len());
                    let to = (from + rng.random_range(0..20_000)).min(content.len());
                    content[from..to].fill(0);
                }
                _ => {}
            }
            fs::write(&path, content).unwrap();
        }
        check(&broken, &written, &format!("round {round}"));
    }
}

/// All that is in a directory.
fn contents(dir: &Dir) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let paths = fs::read_dir(&dir.0).unwrap();
    let paths = paths.map(|entry| entry.unwrap().path());
    paths
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// An upgrade, or the way back from one, must not cost a node its VCL, nor the old version its journal.
#[test]
fn a_journal_of_another_version_is_left_alone_and_said() {
    let dir = Dir::new();
    segments(&dir);
    {
        let (_store, journal, _) = open(&dir);
        journal.store_stamp(77).unwrap();
    }
    // One of its files says it, and what is left over beside it is somebody else's, too.
    let path = dir.files("log").remove(0);
    let mut content = fs::read(&path).unwrap();
    content[8] = 9;
    let crc = crc32(&content[..12]);
    content[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &content).unwrap();
    fs::write(dir.0.join("00000000000000aa.tmp"), "unfinished").unwrap();
    let before = contents(&dir);
    assert!(before.len() >= 5, "{:?}", before.keys());

    let (mut store, journal, recovered) = open(&dir);
    assert!(recovered.streams.is_empty());
    assert_eq!((recovered.last_stamp, recovered.damaged), (Some(77), 0));
    let says_it = |reason: &str| {
        let name = path.file_name().unwrap().to_str().unwrap();
        for part in [
            dir.0.to_str().unwrap(),
            name,
            "format 9",
            "move all that is in",
        ] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
    };
    let State::Failed(reason) = journal.state() else {
        panic!("it says nothing");
    };
    says_it(&reason);
    says_it(&journal.store_stamp(88).unwrap_err().to_string());
    let held = message(id(7, 1), powderhorn_journal::SystemClock.boot());
    store.insert(id(7, 1), held.clone());
    assert_eq!(get(&mut store, id(7, 1)), Some(held));
    let tried = journal.counters().write_errors;
    until("it is tried again", || {
        journal.counters().write_errors >= tried + 3
    });
    let Wait::NotJournalled(reason) = journal.wait(journal.position(), SECOND) else {
        panic!("it was written");
    };
    says_it(&reason);
    assert!(contents(&dir) == before, "something was changed");

    // Once all of that is elsewhere the same life goes on, with its stamp.
    for path in before.keys() {
        fs::remove_file(path).unwrap();
    }
    until("it is used", || journal.state() == State::Ok);
    journal.kill();
    drop((store, journal));
    let (mut store, _journal, recovered) = open(&dir);
    assert_eq!((recovered.last_stamp, recovered.damaged), (Some(88), 0));
    assert!(get(&mut store, id(7, 1)).is_some());
}

/// The checksum, computed another way.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
        crc
    })
}

/// What is appended after a start must be there at the next one, however little of the log there was.
#[test]
fn a_log_that_was_torn_anywhere_can_be_gone_on_with() {
    let (dir, torn) = (Dir::new(), Dir::new());
    let (mut written, ends) = log(&dir, &[1, 2]);
    let path = &dir.files("log")[0];
    let content = fs::read(path).unwrap();
    for cut in 0..=content.len() {
        let _ = fs::remove_dir_all(&torn.0);
        fs::create_dir_all(&torn.0).unwrap();
        let torn_path = torn.0.join(path.file_name().unwrap());
        fs::write(&torn_path, &content[..cut]).unwrap();
        let clock = TestClock::new();
        let options = Options {
            clock: clock.clone(),
            ..options(&torn)
        };
        let (mut store, journal, _) = Journal::open(options).unwrap();
        let later = id(1, 1_000 + cut as u64);
        let held = message(later, clock.boot());
        store.insert(later, held.clone());
        write(&journal);
        journal.kill();
        written.insert(later, held);
        let (mut store, journal, recovered) = open(&torn);
        assert!(get(&mut store, later).is_some(), "cut at {cut}");
        assert_eq!(recovered.damaged, 0, "cut at {cut}");
        journal.kill();
    }
    assert_eq!(ends.len(), 2);
}

/// A segment that cannot be read does not take its log along.
#[test]
fn a_log_goes_only_if_its_segment_can_be_read() {
    let dir = Dir::new();
    let (written, _) = log(&dir, &[5]);
    let path = &dir.files("log")[0];
    for garbage in [
        &b""[..],
        b"nothing of ours, but longer than the head of a file is",
    ] {
        fs::write(path.with_extension("seg"), garbage).unwrap();
        let outcome = check(&dir, &written, "beside garbage");
        assert_eq!(outcome.held, 5);
    }
}

/// Not by a command: a process that has just been forked has the locks of other tests for a moment.
fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// To open a pipe takes as long as nobody writes to it, and a file that is mostly a hole may have more bytes than there is
/// memory.
#[test]
fn what_has_the_name_of_a_file_and_is_none_of_ours_is_not_read() {
    let dir = Dir::new();
    drop(open(&dir));
    let path = |number: u32, ending| dir.0.join(format!("{number:016x}.{ending}"));
    let small = ["epoch", "boot", "expired"].map(|name| dir.0.join(name));
    make_pipe(&path(2, "seg"));
    small.iter().for_each(|path| make_pipe(path));
    fs::create_dir(path(3, "log")).unwrap();
    let huge = fs::File::create(path(4, "log")).unwrap();
    huge.set_len((1 << 30) + 1).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let options = options(&dir);
    std::thread::spawn(move || sender.send(Journal::open(options).unwrap()));
    let opened = receiver.recv_timeout(10 * SECOND);
    let (mut store, journal, recovered) = opened.expect("it does not start");
    // The file that is too large, the stamp, and what has expired; of an earlier boot there is nothing.
    assert_eq!((journal.state(), recovered.damaged), (State::Ok, 3));
    assert_eq!(recovered.torn_bytes, 0);
    store.insert(id(1, 1), message(id(1, 1), TestClock::new().boot()));
    write(&journal);
    // It takes room, so it goes.
    assert!(!path(4, "log").exists());
}

/// A pipe kept the start waiting for ever, and what a link led to was written over.
#[test]
fn nothing_is_written_to_what_is_none_of_ours() {
    let link = |path: &Path, to: &Path| std::os::unix::fs::symlink(to, path).unwrap();
    let makes: [fn(&Path, &Path); 2] = [link, |path, _| make_pipe(path)];
    for make in makes {
        let (dir, other) = (Dir::new(), Dir::new());
        fs::create_dir_all(&dir.0).unwrap();
        fs::create_dir_all(&other.0).unwrap();
        let precious = other.0.join("precious");
        fs::write(&precious, "precious").unwrap();
        let names = ["epoch.new", "expired.new", "0000000000000001.log"];
        for name in names.into_iter().chain(["0000000000000002.tmp"]) {
            make(&dir.0.join(name), &precious);
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let options = Options {
            bytes_max: Options::BYTES_MIN,
            ..options(&dir)
        };
        std::thread::spawn(move || {
            let (mut store, journal, _) = Journal::open(options).unwrap();
            journal.store_stamp(1).unwrap();
            let now = TestClock::new().boot();
            journal.note_expired(Vec::new(), Some(now));
            // Enough for more than two segments.
            (1..=6_500).for_each(|seq| store.insert(id(1, seq), message(id(1, seq), now)));
            write(&journal);
            until("segments", || journal.counters().segments > 1);
            sender.send(journal.state())
        });
        let state = receiver.recv_timeout(10 * SECOND);
        assert_eq!(state, Ok(State::Ok));
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        for name in ["epoch", "expired"] {
            assert!(dir.0.join(name).is_file(), "{name}");
        }
    }
}

/// What was written behind it had a name that no start looked for.
#[test]
fn no_file_takes_all_the_numbers_there_are() {
    let dir = Dir::new();
    drop(open(&dir));
    let last = dir.0.join("3fffffffffffffff.seg");
    fs::write(&last, "").unwrap();
    let (mut store, journal, _) = open(&dir);
    store.insert(id(1, 1), message(id(1, 1), TestClock::new().boot()));
    match journal.wait(journal.position(), 10 * SECOND) {
        Wait::NotJournalled(reason) => assert!(reason.contains("3fffffffffffffff.seg"), "{reason}"),
        waited => panic!("{waited:?}"),
    }
    fs::remove_file(&last).unwrap();
    until("it is used", || journal.state() == State::Ok);
    journal.kill();
    let (mut store, _journal, _) = open(&dir);
    assert!(get(&mut store, id(1, 1)).is_some());
}

/// For what cannot be read, and for a log's end that is cut off at once, all segments went.
#[test]
fn what_is_none_of_ours_takes_no_room_from_what_is() {
    let large = Options::BYTES_MIN;
    let cases = [
        ("00000000000000aa.log", (1 << 30) + 1),
        ("00000000000000aa.log", large),
        ("00000000000000aa.seg", large),
        ("0000000000000000.seg", large),
    ];
    for (name, bytes) in cases {
        let dir = Dir::new();
        let written = segments(&dir);
        let hole = fs::File::create(dir.0.join(name)).unwrap();
        hole.set_len(bytes).unwrap();
        let options = Options {
            bytes_max: Options::BYTES_MIN,
            ..options(&dir)
        };
        let (mut store, journal, recovered) = Journal::open(options).unwrap();
        let held = recovered.streams.values().map(|held| held.count());
        assert_eq!(held.sum::<u64>(), written.len() as u64, "{name}: {bytes}");
        assert_eq!(recovered.evicted_born, None);
        store.insert(id(7, 1), message(id(7, 1), TestClock::new().boot()));
        write(&journal);
        let mut all = written.keys();
        assert!(
            all.all(|id| get(&mut store, *id).is_some()),
            "{name}: {bytes}"
        );
        assert!(dir.bytes() <= Options::BYTES_MIN);
    }
}

/// What is whole of two blocks that one hole has damaged is at one place, and what was read for the one stream was
/// taken for the other's: another purge under the right id, or none.
#[test]
fn what_is_saved_of_two_streams_at_one_place_is_each_ones_own() {
    let (dir, changed) = (Dir::new(), Dir::new());
    let written = segments(&dir);
    let original = Original::new(&dir, &written);
    let footer = original.footer;
    let blocks: Vec<_> = (16..footer)
        .filter(|&at| original.content[at..].starts_with(&[0, 0xb1, 0x1c, 0x0e]))
        .collect();
    for pair in blocks.windows(2) {
        // The first record behind the first block's heads, and the second block's mark; and there is no footer.
        let places = [pair[0] + 200, pair[1], footer + 20];
        let (lost, _) = original.changed(&changed, pair[0], |bytes| {
            places.into_iter().for_each(|at| bytes[at] ^= 0x10);
        });
        assert!(lost <= 1, "{places:?}: {lost} lost");
    }
}
