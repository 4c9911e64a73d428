//! What the journal removes itself: nobody takes that for damage, and nobody removes it twice.

mod common;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use common::{Dir, fill, get, id, insert, options, stream, until};
use powderhorn_journal::{Faults, Journal, JournalStore, Op, Options};
use powderhorn_protocol::store::{Fetch, Store};

/// A disk that keeps the first such operation on a segment waiting until it is let go.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    keep: Option<Op>,
    /// Who waits, for which segment.
    kept: Option<PathBuf>,
    /// Segments that were removed since, and opened.
    removed: Vec<PathBuf>,
    opened: Vec<PathBuf>,
}

impl Faults for Gate {
    fn check(&self, op: Op, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if path.extension().is_none_or(|end| end != "seg") {
            return Ok(());
        }
        match op {
            Op::Remove => state.removed.push(path.into()),
            Op::Open => state.opened.push(path.into()),
            _ => {}
        }
        if state.keep.take_if(|kept| *kept == op).is_some() {
            state.kept = Some(path.into());
            drop(self.changed.wait_while(state, |state| state.kept.is_some()));
        }
        Ok(())
    }
}

impl Gate {
    fn keep(&self, op: Op) {
        let mut state = self.state.lock().unwrap();
        state.removed.clear();
        state.opened.clear();
        state.keep = Some(op);
    }

    /// The segment that somebody waits for.
    fn kept(&self) -> Option<PathBuf> {
        self.state.lock().unwrap().kept.clone()
    }

    fn let_go(&self) {
        self.state.lock().unwrap().kept = None;
        self.changed.notify_all();
    }
}

/// A journal that has to remove its oldest segment when one more message comes, and the gate before its disk.
fn full(dir: &Dir) -> (JournalStore, Journal, Arc<Gate>) {
    let roomy = Options {
        bytes_max: 2 * Options::BYTES_MIN,
        ..options(dir)
    };
    let (mut store, journal, _) = Journal::open(roomy.clone()).unwrap();
    fill(&mut store, &journal, dir, 1..=80_000);
    until("one log", || dir.files("log").len() == 1);
    drop((store, journal));
    let gate = Arc::new(Gate::default());
    let (store, journal, recovered) = Journal::open(Options {
        bytes_max: dir.bytes(),
        faults: Some(gate.clone()),
        ..roomy
    })
    .unwrap();
    assert_eq!(recovered.streams[&stream(1)].count(), 80_000);
    (store, journal, gate)
}

/// Has the writer just about to remove the oldest segment, which this is.
fn outgrow(store: &mut JournalStore, gate: &Gate) -> PathBuf {
    gate.keep(Op::Remove);
    insert(store, 1, 80_001..=80_001);
    until("there is no room", || gate.kept().is_some());
    gate.kept().unwrap()
}

/// Somebody asks for it between the two moments at which it is gone from the disk, and from the index.
#[test]
fn a_segment_that_goes_for_want_of_room_is_not_damaged() {
    let dir = Dir::new();
    let (mut store, journal, gate) = full(&dir);
    let path = outgrow(&mut store, &gate);
    std::fs::remove_file(&path).unwrap();
    until("it is asked for, and again after the answer", || {
        let _ = store.get(id(1, 1));
        let state = gate.state.lock().unwrap();
        let opened = state.opened.iter().filter(|opened| **opened == path);
        opened.count() > 1
    });
    gate.let_go();
    assert_eq!(get(&mut store, id(1, 1)), None);
    assert_eq!(journal.counters().damaged, 0);
    assert!(store.poll_lost().is_some());
}

/// The reader was about to open it when all that was in it was removed.
#[test]
fn a_segment_that_goes_when_nothing_in_it_is_held_is_not_damaged() {
    let dir = Dir::new();
    let (mut store, journal, gate) = full(&dir);
    gate.keep(Op::Open);
    until("it is asked for", || {
        assert_eq!(store.get(id(1, 1)), Fetch::Pending);
        gate.kept().is_some()
    });
    let segments = journal.counters().segments;
    store.remove_below(stream(1), 10_000);
    until("it goes", || journal.counters().segments < segments);
    gate.let_go();
    // What is asked for next is read after that.
    assert!(get(&mut store, id(1, 10_000)).is_some());
    assert_eq!(journal.counters().damaged, 0);
}

/// Both counted the room that it made.
#[test]
fn a_segment_is_removed_by_one_of_two_who_would() {
    let dir = Dir::new();
    let (mut store, journal, gate) = full(&dir);
    let next = dir.files("seg").remove(1);
    let path = outgrow(&mut store, &gate);
    // It has nothing any more now, nor has the next one, which goes at once.
    store.remove_below(stream(1), 12_000);
    until("the next one goes", || !next.exists());
    gate.let_go();
    until("it goes", || !path.exists());
    until("bytes are counted", || {
        journal.counters().disk_bytes == dir.bytes()
    });
    let state = gate.state.lock().unwrap();
    let removers = state.removed.iter().filter(|removed| **removed == path);
    assert_eq!(removers.count(), 1);
}
