//! The fence: what it keeps, and what its collisions cost.

use powderhorn_engine::fence::{Fence, Verdict};
use powderhorn_protocol::time::Time;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn at(us: i64) -> Time {
    Time::from_us(us)
}

#[test]
fn a_purge_overtakes_the_fetches_that_began_before_it() {
    let fence = Fence::new(10);
    assert_eq!(fence.verdict(7, at(i64::MIN)), Verdict::Keep);
    fence.record(7, false, at(100));
    assert_eq!(fence.verdict(7, at(99)), Verdict::Hard);
    assert_eq!(fence.verdict(7, at(100)), Verdict::Hard);
    assert_eq!(fence.verdict(7, at(101)), Verdict::Keep);
    assert_eq!(fence.verdict(8, at(99)), Verdict::Keep);
}

#[test]
fn hard_beats_soft_in_either_order() {
    for hard_first in [false, true] {
        let fence = Fence::new(10);
        fence.record(7, !hard_first, at(100));
        fence.record(7, hard_first, at(101));
        assert_eq!(fence.verdict(7, at(100)), Verdict::Hard);
    }
    assert!(Verdict::Keep < Verdict::Soft && Verdict::Soft < Verdict::Hard);
}

#[test]
fn a_late_purge_does_not_open_the_fence() {
    let fence = Fence::new(10);
    fence.record(7, false, at(100));
    fence.record(7, false, at(-5));
    assert_eq!(fence.verdict(7, at(100)), Verdict::Hard);
}

#[test]
fn memory_does_not_depend_on_the_number_of_purges() {
    let fence = Fence::default();
    assert_eq!(fence.buckets(), 1 << 19);
    assert_eq!(fence.memory_bytes(), 8 << 20);
    assert_eq!(Fence::new(0).buckets(), 1);
}

proptest! {
    /// With as many buckets as there are hashes, the fence is what its description says, no more and no less.
    #[test]
    fn is_exact_without_collisions(
        purges in prop::collection::vec((0u64..16, any::<bool>(), -50i64..50), 0..100),
        started in -60i64..60,
        hash in 0u64..16,
    ) {
        let fence = Fence::new(4);
        for (hash, soft, cutoff) in &purges {
            fence.record(*hash, *soft, at(*cutoff));
        }
        let reached = |soft| purges.iter().any(|p| p.0 == hash && p.1 == soft && p.2 >= started);
        let expected = match (reached(false), reached(true)) {
            (true, _) => Verdict::Hard,
            (_, true) => Verdict::Soft,
            _ => Verdict::Keep,
        };
        prop_assert_eq!(fence.verdict(hash, at(started)), expected);
    }
}

/// p = 1 − (1 − 1/B)^(n·h), with n purged things during the fetch of an object that has h hashes.
#[test]
fn false_kills_are_as_many_as_computed() {
    const LOG2: u32 = 14;
    let buckets = f64::from(1 << LOG2);
    let mut rng = StdRng::seed_from_u64(1);
    for (n, hashes) in [(100, 1), (100, 6), (2_000, 6), (2_000, 20), (20_000, 2)] {
        let (mut killed, mut looked) = (0_u32, 0_u32);
        for round in 0..20 {
            let fence = Fence::new(LOG2);
            for _ in 0..n {
                fence.record(rng.random(), rng.random(), at(round));
            }
            for _ in 0..5_000 {
                let verdict = (0..hashes)
                    .map(|_| fence.verdict(rng.random(), at(round)))
                    .max();
                killed += u32::from(verdict != Some(Verdict::Keep));
                looked += 1;
            }
        }
        let measured = f64::from(killed) / f64::from(looked);
        let computed = 1.0 - (1.0 - 1.0 / buckets).powi(n * hashes);
        println!("{n} purges, {hashes} hashes: measured {measured:.4}, computed {computed:.4}");
        // Five times the deviation of a binomial distribution.
        let slack = 5.0 * (computed * (1.0 - computed) / f64::from(looked)).sqrt();
        assert!((measured - computed).abs() < slack);
    }
}

/// One thread records and then looks for the object; the other registers the object and then looks at the
/// fence. Never may both come too early.
#[test]
fn a_purge_and_an_insertion_do_not_miss_each_other() {
    use powderhorn_engine::index::{Index, ObjectId};
    use powderhorn_engine::keys::KeyHash;

    let key = KeyHash(5);
    let rounds = if cfg!(debug_assertions) {
        2_000
    } else {
        20_000
    };
    let barrier = &std::sync::Barrier::new(2);
    let (fence, index) = (&Fence::new(8), &Index::new());
    std::thread::scope(|scope| {
        let purger = scope.spawn(move || {
            let mut found = Vec::new();
            for round in 0..rounds {
                barrier.wait();
                fence.record(key.low64(), false, at(round));
                found.push(index.purge_key(key, at(round), true, &mut |_| {}) > 0);
                barrier.wait();
            }
            found
        });
        let mut overtaken = Vec::new();
        for round in 0..rounds {
            let object = ObjectId(round as u64);
            barrier.wait();
            index.insert(object, at(round), &[key]).unwrap();
            overtaken.push(fence.verdict(key.low64(), at(round)) == Verdict::Hard);
            barrier.wait();
            index.remove(object);
        }
        let found = purger.join().unwrap();
        for (round, (found, overtaken)) in found.into_iter().zip(overtaken).enumerate() {
            assert!(found || overtaken, "missed in round {round}");
        }
    });
}
