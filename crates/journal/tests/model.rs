//! The journal beside a store in memory, through random operations, crashes and new starts.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Dir, TestClock, get, id, message, options, stream, until, write};
use powderhorn_journal::{Clock, Journal, JournalStore, Options};
use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::store::{Held, MemoryStore, Store};
use powderhorn_protocol::time::Time;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const STREAMS: u64 = 4;

#[derive(Default)]
struct Model {
    messages: BTreeMap<MessageId, Held>,
    /// Inserted since the last time that all was written.
    unwritten: Vec<MessageId>,
    /// What was removed, and may be held again after a start.
    removed: BTreeMap<MessageId, Held>,
}

impl Model {
    fn remove_below(&mut self, stream: StreamId, seq: u64) {
        let gone = MessageId { stream, seq: 0 }..MessageId { stream, seq };
        let gone: Vec<_> = self.messages.range(gone).map(|(&id, _)| id).collect();
        for id in gone {
            let held = self.messages.remove(&id).unwrap();
            self.removed.insert(id, held);
        }
    }

    fn memory(&self) -> MemoryStore {
        let mut store = MemoryStore::new();
        for (&id, held) in &self.messages {
            store.insert(id, held.clone());
        }
        store
    }

    /// What the journal says must be true, as far as it is known to the message.
    fn compare(&self, store: &mut JournalStore, rng: &mut StdRng, seed: u64) {
        let memory = self.memory();
        for n in 0..STREAMS {
            let stream = stream(n);
            match (store.oldest(stream), memory.oldest(stream)) {
                (None, None) => {}
                (Some((seq, born)), Some((exact, exact_born))) => {
                    assert!(seq <= exact && born <= exact_born, "seed {seed}");
                }
                other => panic!("seed {seed}: {other:?}"),
            }
            let all = MessageId { stream, seq: 0 }..=MessageId {
                stream,
                seq: u64::MAX,
            };
            let newest = self
                .messages
                .range(all)
                .next_back()
                .map(|(_, held)| held.born);
            let time = Time::from_us(rng.random_range(0..4_000_000_000));
            let found = store.last_born_before(stream, time);
            let exact = memory.last_born_before(stream, time);
            // It may say less, by a block, and never more.
            assert!(
                found.map(|(seq, _)| seq) <= exact.map(|(seq, _)| seq),
                "seed {seed}"
            );
            let all = store
                .last_born_before(stream, Time::NEVER)
                .map(|(_, born)| born);
            assert_eq!(all, newest, "seed {seed}");
        }
        assert_eq!(store.bytes() == 0, self.messages.is_empty(), "seed {seed}");
    }

    /// After a start: what was written is held, what was never inserted is not, and what was removed may be.
    fn adopt(
        &mut self,
        store: &mut JournalStore,
        recovered: &BTreeMap<StreamId, RangeSet>,
        seed: u64,
    ) {
        let mut held = BTreeMap::new();
        for (&stream, ranges) in recovered {
            for seq in ranges.iter().flatten() {
                let id = MessageId { stream, seq };
                let message = get(store, id);
                let message = message.unwrap_or_else(|| panic!("seed {seed}: {id} is not held"));
                let written = self.messages.get(&id).or(self.removed.get(&id));
                assert_eq!(Some(&message), written, "seed {seed}: {id}");
                held.insert(id, message);
            }
        }
        for id in self.messages.keys().filter(|id| !held.contains_key(id)) {
            assert!(
                self.unwritten.contains(id),
                "seed {seed}: {id} was written and is lost"
            );
        }
        self.messages = held;
        self.unwritten.clear();
    }
}

/// Small enough that logs become segments all the time.
fn small(dir: &Dir, clock: &std::sync::Arc<TestClock>) -> Options {
    Options {
        bytes_max: Options::BYTES_MIN,
        cache_bytes: 20_000,
        linger: Duration::from_micros(200),
        clock: clock.clone(),
        ..options(dir)
    }
}

fn run(seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let (dir, clock) = (Dir::new(), TestClock::new());
    let mut model = Model::default();
    let mut next = [1u64; STREAMS as usize];
    for _ in 0..rng.random_range(2..6) {
        let (mut store, journal, recovered) = Journal::open(small(&dir, &clock)).unwrap();
        assert_eq!(
            (recovered.damaged, recovered.torn_bytes),
            (0, 0),
            "seed {seed}"
        );
        model.adopt(&mut store, &recovered.streams, seed);
        for _ in 0..rng.random_range(1..200) {
            let n = rng.random_range(0..STREAMS);
            match rng.random_range(0..20) {
                0 => {
                    write(&journal);
                    model.unwritten.clear();
                }
                1 => {
                    let below = rng.random_range(0..next[n as usize] + 10);
                    let below = if rng.random_bool(0.05) {
                        u64::MAX
                    } else {
                        below
                    };
                    store.remove_below(stream(n), below);
                    model.remove_below(stream(n), below);
                }
                2 => model.compare(&mut store, rng, seed),
                3..=5 => {
                    let id = id(n, rng.random_range(1..next[n as usize] + 10));
                    let held = get(&mut store, id);
                    assert_eq!(held.as_ref(), model.messages.get(&id), "seed {seed}: {id}");
                }
                _ => {
                    for _ in 0..rng.random_range(1..80) {
                        let next = &mut next[n as usize];
                        // Some are left out, and come later or never.
                        *next += if rng.random_bool(0.02) {
                            rng.random_range(2..600)
                        } else {
                            1
                        };
                        let late = rng.random_bool(0.02) && *next > 5;
                        let seq = if late {
                            *next - rng.random_range(1..5)
                        } else {
                            *next
                        };
                        let id = id(n, seq);
                        if model.messages.contains_key(&id) {
                            continue;
                        }
                        // Births are in the order of the seqs.
                        let born = Time::from_us(seq as i64 * 20_000);
                        let held = message(id, born);
                        store.insert(id, held.clone());
                        model.messages.insert(id, held);
                        model.removed.remove(&id);
                        model.unwritten.push(id);
                    }
                    clock.pass(Duration::from_secs(rng.random_range(1..30)));
                }
            }
        }
        if rng.random_bool(0.3) {
            assert!(journal.shutdown(common::SECOND * 10));
            model.unwritten.clear();
        } else {
            journal.kill();
        }
    }
}

#[test]
fn it_holds_what_a_store_in_memory_holds() {
    for seed in 0..80 {
        run(seed);
    }
}

#[test]
fn segments_are_made_and_go_when_nothing_in_them_is_held() {
    let (dir, clock) = (Dir::new(), TestClock::new());
    let (mut store, journal, _) = Journal::open(small(&dir, &clock)).unwrap();
    // Born after the start: nothing in this life is taken for older than it is.
    clock.pass(Duration::from_secs(1_000));
    for seq in 1..=20_000 {
        let id = id(seq % 3, seq / 3 + 1);
        store.insert(id, message(id, clock.boot()));
        if seq % 1_000 == 0 {
            write(&journal);
            // The keeper is to be neither outrun nor waited for.
            until("few logs", || journal.counters().unsealed <= 3);
        }
    }
    until("segments", || journal.counters().segments >= 3);
    until("one log", || dir.files("log").len() == 1);
    // No longer in memory.
    let first = get(&mut store, id(1, 2));
    assert_eq!(first, Some(message(id(1, 2), clock.boot())));
    assert!(journal.counters().blocks_read > 0);
    until("bytes are counted", || {
        journal.counters().disk_bytes == dir.bytes()
    });
    for n in 0..3 {
        store.remove_below(stream(n), 6_000);
    }
    until("old segments go", || dir.files("seg").len() <= 2);
    assert_eq!(
        get(&mut store, id(1, 6_000)),
        Some(message(id(1, 6_000), clock.boot()))
    );
    for n in 0..3 {
        store.remove_below(stream(n), u64::MAX);
    }
    until("all go", || dir.files("seg").is_empty());
    assert_eq!(store.bytes(), 0);
    until("bytes are counted", || {
        journal.counters().disk_bytes == dir.bytes()
    });
}
