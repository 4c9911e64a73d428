//! The index against a plain model of itself, and under threads.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use powderhorn_engine::index::{Counts, Cursor, Index, InsertError, ObjectId, SHARDS, SLICE};
use powderhorn_engine::keys::KeyHash;
use powderhorn_protocol::time::Time;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A key's hash, with as many good bits as a real one.
fn key(n: u64) -> KeyHash {
    KeyHash(
        u128::from(n + 1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
            .rotate_right(61),
    )
}

/// An address as an allocator makes them.
fn object(n: u64) -> ObjectId {
    ObjectId(0x7f32_1540_0000 + n * 160)
}

fn at(us: i64) -> Time {
    Time::from_us(us)
}

fn assert_empty(index: &Index) {
    let Counts {
        objects,
        keys,
        pairs,
        ..
    } = index.counts();
    assert_eq!((objects, keys, pairs), (0, 0, 0));
}

/// All objects that a walk visits, in the order of the visits.
fn walk(index: &Index, max: usize) -> Vec<(ObjectId, Time)> {
    let mut seen = Vec::new();
    let mut cursor = Some(Cursor::default());
    while let Some(from) = cursor {
        let before = seen.len();
        cursor = index.walk(from, max, &mut |object, started| {
            seen.push((object, started))
        });
        assert!(seen.len() - before <= max.clamp(1, 64));
    }
    seen
}

fn purge(index: &Index, key: KeyHash, cutoff: Time, drain: bool) -> Vec<ObjectId> {
    let mut acted = Vec::new();
    let n = index.purge_key(key, cutoff, drain, &mut |object| acted.push(object));
    assert_eq!(n as usize, acted.len());
    acted.sort_unstable();
    acted
}

/// What the index is to do, said without lists and shards.
#[derive(Default)]
struct Model {
    objects: BTreeMap<ObjectId, (Time, BTreeSet<KeyHash>)>,
}

impl Model {
    fn purge(&mut self, key: KeyHash, cutoff: Time, drain: bool) -> Vec<ObjectId> {
        let mut acted = Vec::new();
        for (object, (started, keys)) in &mut self.objects {
            if *started <= cutoff && keys.contains(&key) {
                acted.push(*object);
                if drain {
                    keys.remove(&key);
                }
            }
        }
        acted
    }

    fn pairs(&self) -> u64 {
        self.objects
            .values()
            .map(|(_, keys)| keys.len() as u64)
            .sum()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        object: u64,
        started: i64,
        keys: Vec<u64>,
    },
    Remove {
        object: u64,
    },
    Purge {
        key: u64,
        cutoff: i64,
        drain: bool,
    },
    /// Many objects with one key, so that lists are longer than a slice.
    Crowd {
        first: u64,
        n: u64,
        key: u64,
        started: i64,
    },
    Walk {
        max: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let object = 0u64..400;
    let time = 0i64..100;
    prop_oneof![
        8 => (object.clone(), time.clone(), prop::collection::vec(0u64..12, 0..8))
            .prop_map(|(object, started, keys)| Step::Insert { object, started, keys }),
        6 => object.clone().prop_map(|object| Step::Remove { object }),
        4 => (0u64..13, time.clone(), any::<bool>())
            .prop_map(|(key, cutoff, drain)| Step::Purge { key, cutoff, drain }),
        1 => (object, 1u64..1500, 0u64..12, time)
            .prop_map(|(first, n, key, started)| Step::Crowd { first, n, key, started }),
        1 => (1usize..200).prop_map(|max| Step::Walk { max }),
    ]
}

proptest! {
    #[test]
    fn does_what_the_model_does(steps in prop::collection::vec(step(), 1..100)) {
        let index = Index::new();
        let mut model = Model::default();
        let insert = |model: &mut Model, n: u64, started: i64, keys: &[u64]| {
            let keys: Vec<KeyHash> = keys.iter().map(|n| key(*n)).collect();
            let known = model.objects.contains_key(&object(n));
            let inserted = index.insert(object(n), at(started), &keys);
            assert_eq!(inserted.is_ok(), !known);
            if !known {
                model.objects.insert(object(n), (at(started), keys.into_iter().collect()));
            }
        };
        for step in steps {
            match step {
                Step::Insert { object, started, keys } => {
                    insert(&mut model, object, started, &keys);
                }
                Step::Crowd { first, n, key, started } => {
                    for n in first..first + n {
                        insert(&mut model, n, started + n as i64 % 7, &[key]);
                    }
                }
                Step::Remove { object: n } => {
                    let known = model.objects.remove(&object(n)).is_some();
                    prop_assert_eq!(index.remove(object(n)), known);
                }
                Step::Purge { key: n, cutoff, drain } => {
                    let expected = model.purge(key(n), at(cutoff), drain);
                    prop_assert_eq!(purge(&index, key(n), at(cutoff), drain), expected);
                }
                Step::Walk { max } => {
                    let mut seen = walk(&index, max);
                    seen.sort_unstable();
                    let all = model.objects.iter().map(|(object, (started, _))| (*object, *started));
                    prop_assert_eq!(seen, all.collect::<Vec<_>>());
                    let keys: BTreeSet<_> = model.objects.values().flat_map(|(_, keys)| keys).collect();
                    prop_assert!(index.counts().keys >= keys.len() as u64);
                    prop_assert!(index.counts().keys <= (keys.len() * SHARDS) as u64);
                }
            }
            let counts = index.counts();
            prop_assert_eq!(counts.objects, model.objects.len() as u64);
            prop_assert_eq!(counts.pairs, model.pairs());
        }
        for n in 0..2000 {
            let started = model.objects.get(&object(n)).map(|(started, _)| *started);
            prop_assert_eq!(index.started(object(n)), started);
        }
        for object in model.objects.keys() {
            prop_assert!(index.remove(*object));
        }
        assert_empty(&index);
    }
}

#[test]
fn a_cutoff_separates_objects_by_the_microsecond() {
    let index = Index::new();
    index.insert(object(1), at(1_000_000), &[key(1)]).unwrap();
    index.insert(object(2), at(1_000_001), &[key(1)]).unwrap();
    assert_eq!(purge(&index, key(1), at(1_000_000), true), [object(1)]);
    assert_eq!(purge(&index, key(1), at(1_000_000), true), []);
    assert_eq!(purge(&index, key(1), at(1_000_001), true), [object(2)]);
}

#[test]
fn a_key_that_repeats_counts_once() {
    let index = Index::new();
    let keys = [1, 2, 1, 1, 2, 3].map(key);
    index.insert(object(1), at(0), &keys).unwrap();
    assert_eq!(index.counts().pairs, 3);
    assert_eq!(purge(&index, key(1), at(0), false), [object(1)]);
}

#[test]
fn an_object_that_is_known_stays_as_it_is() {
    let index = Index::new();
    index.insert(object(1), at(1), &[key(1)]).unwrap();
    let again = index.insert(object(1), at(2), &[key(2)]);
    assert_eq!(again, Err(InsertError::Registered));
    assert_eq!(index.started(object(1)), Some(at(1)));
    assert_eq!(purge(&index, key(2), at(9), true), []);
    assert_eq!(purge(&index, key(1), at(9), true), [object(1)]);
}

/// varnishd gives the memory of a killed object to another as soon as it was removed here.
#[test]
fn an_address_that_is_used_again_is_another_object() {
    let index = Index::new();
    index.insert(object(1), at(1), &[key(1), key(2)]).unwrap();
    assert_eq!(purge(&index, key(1), at(5), true), [object(1)]);
    assert!(index.remove(object(1)));
    index.insert(object(1), at(6), &[key(1)]).unwrap();
    assert_eq!(purge(&index, key(1), at(5), true), []);
    assert_eq!(purge(&index, key(2), at(9), true), []);
    assert_eq!(purge(&index, key(1), at(6), true), [object(1)]);
    assert!(index.remove(object(1)));
    assert!(!index.remove(object(1)));
    assert_empty(&index);
}

#[test]
fn a_drained_object_can_still_be_found_by_its_other_keys() {
    let index = Index::new();
    index.insert(object(1), at(1), &[key(1), key(2)]).unwrap();
    purge(&index, key(1), at(1), true);
    assert_eq!(index.counts().pairs, 1);
    assert_eq!(index.started(object(1)), Some(at(1)));
    assert_eq!(purge(&index, key(2), at(1), false), [object(1)]);
}

#[test]
fn a_full_index_says_so_and_stays_as_it_was() {
    let index = Index::with_limit(10);
    let many: Vec<KeyHash> = (0..11).map(key).collect();
    assert_eq!(
        index.insert(object(0), at(0), &many),
        Err(InsertError::Full)
    );
    assert_empty(&index);
    index.insert(object(0), at(0), &many[..10]).unwrap();
    let mut registered = 1;
    for n in 1..1000 {
        registered += u64::from(index.insert(object(n), at(0), &[]).is_ok());
    }
    assert_eq!(registered, 10 * SHARDS as u64);
    assert_eq!(index.counts().objects, registered);
    for n in 0..1000 {
        index.remove(object(n));
    }
    assert_empty(&index);
}

/// A mass purge works in slices, of which each but the first begins at a mark in the key's list.
#[test]
fn a_panic_in_the_middle_of_a_mass_purge_leaves_the_index_whole() {
    let index = Index::new();
    for n in 0..10_000 {
        index.insert(object(n), at(0), &[key(1)]).unwrap();
    }
    let acted = RefCell::new(BTreeSet::new());
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        index.purge_key(key(1), at(0), true, &mut |object| {
            acted.borrow_mut().insert(object);
            assert!(acted.borrow().len() < 777, "told to panic");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(index.counts().pairs, 10_000 - 777);
    for object in purge(&index, key(1), at(0), true) {
        assert!(acted.borrow_mut().insert(object));
    }
    assert_eq!(acted.borrow().len(), 10_000);
    for n in 0..10_000 {
        assert!(index.remove(object(n)));
    }
    assert_empty(&index);
}

#[test]
fn memory_comes_back() {
    let index = Index::new();
    let empty = index.counts().memory_bytes;
    for n in 0..200_000 {
        index
            .insert(object(n), at(0), &[key(n / 10), key(1_000_000 + n % 100)])
            .unwrap();
    }
    let full = index.counts().memory_bytes;
    for n in 0..200_000 {
        index.remove(object(n));
    }
    assert_empty(&index);
    let left = index.counts().memory_bytes;
    assert!(
        left < full / 10,
        "{empty} bytes when new, {full} when full, {left} at the end"
    );
}

/// A purge of 100,000 objects gives the lock away between slices: whoever wants to insert meanwhile
/// waits for the slice under way, and maybe for one more until he stands in the queue.
#[test]
fn inserts_go_on_during_a_mass_purge() {
    let index = &Index::new();
    for n in 0..100_000 {
        index.insert(object(n), at(0), &[key(1)]).unwrap();
    }
    let (purging, inserting) = (&AtomicBool::new(true), &AtomicBool::new(false));
    let acts = &AtomicU64::new(0);
    std::thread::scope(|scope| {
        let inserter = scope.spawn(move || {
            while acts.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            let (mut inserted, mut acts_max) = (0, 0);
            while purging.load(Ordering::SeqCst) && inserted < 2_000 {
                let before = acts.load(Ordering::SeqCst);
                inserting.store(true, Ordering::SeqCst);
                index
                    .insert(object(1_000_000 + inserted), at(9), &[key(2)])
                    .unwrap();
                inserting.store(false, Ordering::SeqCst);
                acts_max = acts_max.max(acts.load(Ordering::SeqCst) - before);
                inserted += 1;
            }
            (inserted, acts_max)
        });
        let n = index.purge_key(key(1), at(0), true, &mut |_| {
            let act = acts.fetch_add(1, Ordering::SeqCst);
            // Leaves the processor to the inserter, so that he waits for nothing but the lock; now and then in any
            // case, as others may have the processor that he needs to get there.
            if inserting.load(Ordering::SeqCst) || act % 64 == 0 {
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        purging.store(false, Ordering::SeqCst);
        let (inserted, acts_max) = inserter.join().unwrap();
        assert_eq!(n, 100_000);
        assert!(inserted > 100, "only {inserted} inserts during the purge");
        // Some slack for a machine with much else to do. Without slices it would be a shard's 12,500.
        assert!(
            acts_max <= 10 * SLICE as u64,
            "an insert waited for {acts_max} kills"
        );
    });
}

/// Members that come faster than they go must not keep a purge from ending.
#[test]
fn a_purge_ends_although_members_keep_coming() {
    let index = Index::new();
    for n in 0..5_000 {
        index.insert(object(n), at(0), &[key(1)]).unwrap();
    }
    for drain in [false, true] {
        let mut next = if drain { 2_000_000 } else { 1_000_000 };
        let (index, done) = (&index, &AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) && next % 1_000_000 < 900_000 {
                    index.insert(object(next), at(0), &[key(1)]).unwrap();
                    next += 1;
                }
            });
            let n = index.purge_key(key(1), at(0), drain, &mut |_| std::thread::yield_now());
            done.store(true, Ordering::SeqCst);
            assert!(n >= 5_000);
        });
    }
}

/// Purges of one key at the same time, of which each must see all objects although the others spare some,
/// soften some and drain some.
#[test]
fn purges_of_one_key_do_not_lead_each_other_astray() {
    let index = &Index::new();
    let all: Vec<u64> = (0..20_000).collect();
    for n in &all {
        index.insert(object(*n), at(*n as i64), &[key(1)]).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let all = &all;
            scope.spawn(move || {
                for _ in 0..5 {
                    let cutoff = if thread == 0 { 9_999 } else { 19_999 };
                    let acted = purge(index, key(1), at(cutoff), false);
                    let expected = all
                        .iter()
                        .filter(|n| **n as i64 <= cutoff)
                        .map(|n| object(*n));
                    assert_eq!(acted, expected.collect::<Vec<_>>());
                }
            });
        }
    });
    let drained = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| purge(index, key(1), at(19_999), true)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(drained.len(), all.len());
    assert_eq!(
        drained.into_iter().collect::<BTreeSet<_>>().len(),
        all.len()
    );
    for n in all {
        assert!(index.remove(object(n)));
    }
    assert_empty(index);
}

/// Inserts, removals, purges and walks from several threads. `act` is only ever called for an object that
/// is in the cache: whoever lets go of an object tells the index first, and waits until that returns.
#[test]
fn acts_only_on_objects_that_are_registered() {
    let threads = 4;
    let rounds: u64 = if cfg!(debug_assertions) {
        40_000
    } else {
        400_000
    };
    let index = Index::new();
    // 0 or the time at which its fetch began, by object.
    let cache: Vec<AtomicU64> = (0..20_000).map(|_| AtomicU64::new(0)).collect();
    let clock = AtomicU64::new(1);
    let number = |id: ObjectId| ((id.0 - object(0).0) / 160) as usize;
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (index, cache, clock, failures) = (&index, &cache, &clock, &failures);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(thread);
                // Each thread has objects of its own, as a fetch has; purges and walks meet them all.
                let mine = |rng: &mut StdRng| {
                    rng.random_range(0..cache.len() as u64 / threads) * threads + thread
                };
                for _ in 0..rounds {
                    let now = clock.fetch_add(1, Ordering::SeqCst);
                    let n = mine(&mut rng);
                    match rng.random_range(0..100) {
                        0..55 => {
                            let keys: Vec<_> = (0..rng.random_range(0..6))
                                .map(|_| key(rng.random_range(0..40)))
                                .collect();
                            if cache[n as usize].load(Ordering::SeqCst) == 0 {
                                cache[n as usize].store(now, Ordering::SeqCst);
                                index.insert(object(n), at(now as i64), &keys).unwrap();
                            }
                        }
                        55..97 => {
                            let known = cache[n as usize].load(Ordering::SeqCst) != 0;
                            if index.remove(object(n)) != known {
                                failures
                                    .lock()
                                    .unwrap()
                                    .push(format!("{n} is not as it was left"));
                            }
                            cache[n as usize].store(0, Ordering::SeqCst);
                        }
                        97..99 => {
                            let cutoff = now.saturating_sub(rng.random_range(0..1000));
                            let drain = rng.random();
                            let key = key(rng.random_range(0..40));
                            index.purge_key(key, at(cutoff as i64), drain, &mut |id| {
                                let started = cache[number(id)].load(Ordering::SeqCst);
                                if started == 0 || started > cutoff {
                                    failures.lock().unwrap().push(format!("{started} {cutoff}"));
                                }
                            });
                        }
                        _ => {
                            let from = Cursor::default();
                            index.walk(from, 64, &mut |id, started| {
                                let in_cache = cache[number(id)].load(Ordering::SeqCst);
                                if in_cache as i64 != started.as_us() {
                                    failures
                                        .lock()
                                        .unwrap()
                                        .push(format!("{in_cache} {started:?}"));
                                }
                            });
                        }
                    }
                }
            });
        }
    });
    assert_eq!(failures.into_inner().unwrap(), Vec::<String>::new());
    for (n, started) in cache.iter().enumerate() {
        assert_eq!(
            index.remove(object(n as u64)),
            started.load(Ordering::SeqCst) != 0
        );
    }
    assert_empty(&index);
}
