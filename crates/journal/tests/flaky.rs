//! A disk on which anything may fail at any time: what was written, and not told of as lost, is there at the next start.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Dir, SECOND, TestClock, get, id, message, options, stream, until};
use powderhorn_journal::{Faults, Journal, JournalStore, Op, Options, State, Wait};
use powderhorn_protocol::id::MessageId;
use powderhorn_protocol::store::{Held, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const EIO: i32 = 5;
const STREAMS: u64 = 5;

/// A disk that fails as often as it is told to, and is slow half as often.
struct Flaky(Mutex<(StdRng, f64)>);

impl Flaky {
    fn fail(&self, often: f64) {
        self.0.lock().unwrap().1 = often;
    }
}

impl Faults for Flaky {
    fn check(&self, op: Op, _: &Path) -> std::io::Result<()> {
        let (fails, slow) = {
            let (rng, often) = &mut *self.0.lock().unwrap();
            (rng.random_bool(*often), rng.random_bool(*often / 2.0))
        };
        if slow {
            std::thread::sleep(Duration::from_millis(3));
        }
        match fails && op != Op::Read {
            true => Err(std::io::Error::from_raw_os_error(EIO)),
            false => Ok(()),
        }
    }
}

/// What is to be held, and what was removed or lost, and may be held again after a start.
#[derive(Default)]
struct Model {
    held: BTreeMap<MessageId, Held>,
    gone: BTreeMap<MessageId, Held>,
}

impl Model {
    fn forget(&mut self, id: MessageId) {
        self.gone
            .extend(self.held.remove(&id).map(|held| (id, held)));
    }

    fn hear_of_lost(&mut self, store: &mut JournalStore) {
        while let Some(lost) = store.poll_lost() {
            let stream = lost.stream;
            for seq in lost.seqs.iter().flatten() {
                self.forget(MessageId { stream, seq });
            }
        }
    }
}

/// One life of a journal; whether its disk was ever seen to have failed.
fn live(options: &Options, disk: &Flaky, dir: &Dir, model: &mut Model, rng: &mut StdRng) -> bool {
    disk.fail(0.0);
    let (mut store, journal, recovered) = Journal::open(options.clone()).unwrap();
    assert_eq!(recovered.damaged, 0);
    let mut before = std::mem::take(&mut model.held);
    for (&stream, ranges) in &recovered.streams {
        for seq in ranges.iter().flatten() {
            let id = MessageId { stream, seq };
            let held = before.remove(&id).or_else(|| model.gone.remove(&id));
            model.held.insert(id, held.expect("it was never inserted"));
        }
    }
    assert!(before.is_empty(), "lost: {:?}", before.keys().next());
    for (id, held) in model.held.iter().step_by(97) {
        assert_eq!(get(&mut store, *id).as_ref(), Some(held), "{id}");
    }
    let mut next = [0; STREAMS as usize].map(|_: u64| rng.random_range(1..1_000_000) * 1_000_000);
    let mut failed = false;
    for _ in 0..rng.random_range(5..40) {
        disk.fail(if rng.random() {
            rng.random_range(0.0..0.5)
        } else {
            0.0
        });
        for _ in 0..rng.random_range(1..1_500) {
            let n = rng.random_range(0..STREAMS);
            let seq = &mut next[n as usize];
            *seq += if rng.random_bool(0.01) { 300 } else { 1 };
            let id = id(n, *seq);
            let held = message(id, options.clock.boot());
            store.insert(id, held.clone());
            model.held.insert(id, held);
        }
        failed |= journal.state() != State::Ok;
        if rng.random_bool(0.2) {
            let n = rng.random_range(0..STREAMS);
            let below = next[n as usize] - rng.random_range(0..3_000);
            store.remove_below(stream(n), below);
            let ids: Vec<_> = model.held.keys().copied().collect();
            let removed = |id: &MessageId| id.stream == stream(n) && id.seq < below;
            ids.into_iter()
                .filter(removed)
                .for_each(|id| model.forget(id));
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..20)));
        model.hear_of_lost(&mut store);
    }
    disk.fail(0.0);
    until("all is written", || {
        journal.state() == State::Ok && journal.wait(journal.position(), SECOND) == Wait::Written
    });
    if rng.random() {
        until("all is sealed", || journal.counters().unsealed == 0);
        until("bytes are counted", || {
            journal.counters().disk_bytes == dir.bytes()
        });
        assert!(dir.bytes() <= Options::BYTES_MIN);
    }
    journal.kill();
    model.hear_of_lost(&mut store);
    failed
}

#[test]
fn what_was_written_and_is_not_told_of_as_lost_is_there() {
    let mut failed = 0;
    for seed in 0..12 {
        println!("seed {seed}");
        let rng = &mut StdRng::seed_from_u64(seed);
        let (dir, mut model) = (Dir::new(), Model::default());
        let disk = Arc::new(Flaky(Mutex::new((StdRng::seed_from_u64(seed), 0.0))));
        let options = Options {
            bytes_max: Options::BYTES_MIN,
            linger: Duration::from_micros(200),
            retry: Duration::from_millis(20),
            clock: TestClock::new(),
            faults: Some(disk.clone()),
            ..options(&dir)
        };
        for _ in 0..3 {
            failed += u64::from(live(&options, &disk, &dir, &mut model, rng));
        }
    }
    assert!(failed > 12, "the disk failed in {failed} lives only");
}
