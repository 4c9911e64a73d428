//! `RangeSet` against `BTreeSet` (small numbers, one by one) and `rangemap` (all of `u64`).

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use powderhorn_protocol::ranges::{RangeSet, width};
use proptest::prelude::*;
use rangemap::RangeInclusiveSet;

#[derive(Clone, Debug)]
enum Op {
    Insert(u64, u64),
    Remove(u64, u64),
    RemoveBelow(u64),
    PopFirst,
}

fn ops(numbers: impl Strategy<Value = u64> + Clone + 'static) -> impl Strategy<Value = Vec<Op>> {
    let pair = (numbers.clone(), numbers.clone());
    let op = prop_oneof![
        5 => pair.clone().prop_map(|(a, b)| Op::Insert(a, b)),
        4 => pair.prop_map(|(a, b)| Op::Remove(a, b)),
        1 => numbers.prop_map(Op::RemoveBelow),
        1 => Just(Op::PopFirst),
    ];
    proptest::collection::vec(op, 1..60)
}

/// Both ends of `u64` and what is around them: where overflows would be.
fn edges() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![
        0..4u64,
        (u64::MAX - 4)..=u64::MAX,
        (1u64 << 62)..(1u64 << 62) + 4,
        any::<u64>(),
    ]
}

fn apply(set: &mut RangeSet, op: &Op) {
    match *op {
        Op::Insert(a, b) => set.insert_range(a..=b),
        Op::Remove(a, b) => set.remove_range(a..=b),
        Op::RemoveBelow(a) => set.remove_below(a),
        Op::PopFirst => {
            set.pop_first();
        }
    }
}

fn assert_maximal(set: &RangeSet) {
    let ranges: Vec<_> = set.iter().collect();
    for range in &ranges {
        assert!(range.start() <= range.end());
    }
    for pair in ranges.windows(2) {
        assert!(
            pair[0]
                .end()
                .checked_add(1)
                .is_some_and(|next| next < *pair[1].start())
        );
    }
}

proptest! {
    #[test]
    fn behaves_as_a_set_of_numbers(ops in ops(0..40u64), lo in 0..40u64, hi in 0..40u64) {
        let mut set = RangeSet::new();
        let mut model = BTreeSet::new();
        for op in &ops {
            apply(&mut set, op);
            match *op {
                Op::Insert(a, b) => model.extend(a..=b),
                Op::Remove(a, b) => model.retain(|n| !(a..=b).contains(n)),
                Op::RemoveBelow(a) => model.retain(|&n| n >= a),
                Op::PopFirst => { model.pop_first(); }
            }
            assert_maximal(&set);
            prop_assert_eq!(set.iter().flatten().collect::<BTreeSet<_>>(), model.clone());
        }
        prop_assert_eq!(set.count(), model.len() as u64);
        prop_assert_eq!(set.first(), model.first().copied());
        prop_assert_eq!(set.last(), model.last().copied());
        for n in 0..42 {
            prop_assert_eq!(set.contains(n), model.contains(&n));
        }
        let inside: Vec<u64> = set.within(lo..=hi).flatten().collect();
        prop_assert_eq!(inside, model.iter().copied().filter(|n| (lo..=hi).contains(n)).collect::<Vec<_>>());
        let mut inside_rev: Vec<_> = set.within(lo..=hi).rev().collect();
        inside_rev.reverse();
        prop_assert_eq!(inside_rev, set.within(lo..=hi).collect::<Vec<_>>());
        let outside: Vec<u64> = set.gaps(lo..=hi).flatten().collect();
        prop_assert_eq!(outside, (lo..=hi).filter(|n| !model.contains(n)).collect::<Vec<_>>());
        let mut outside_rev: Vec<_> = set.gaps_rev(lo..=hi).collect();
        outside_rev.reverse();
        prop_assert_eq!(outside_rev, set.gaps(lo..=hi).collect::<Vec<_>>());
    }

    #[test]
    fn agrees_with_rangemap_at_the_ends_of_u64(ops in ops(edges()), lo in edges(), hi in edges()) {
        let mut set = RangeSet::new();
        let mut model: RangeInclusiveSet<u64> = RangeInclusiveSet::new();
        for op in &ops {
            apply(&mut set, op);
            match *op {
                Op::Insert(a, b) if a <= b => model.insert(a..=b),
                Op::Remove(a, b) if a <= b => model.remove(a..=b),
                Op::RemoveBelow(a) if a > 0 => model.remove(0..=a - 1),
                Op::PopFirst => {
                    if let Some(first) = model.iter().next().map(|r| *r.start()) {
                        model.remove(first..=first);
                    }
                }
                _ => {}
            }
            assert_maximal(&set);
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().cloned().collect::<Vec<_>>());
        }
        if lo <= hi {
            let gaps: Vec<RangeInclusive<u64>> = set.gaps(lo..=hi).collect();
            prop_assert_eq!(gaps, model.gaps(&(lo..=hi)).collect::<Vec<_>>());
            let total = set.within(lo..=hi).chain(set.gaps(lo..=hi)).fold(0u64, |n, r| n.saturating_add(width(&r)));
            prop_assert_eq!(total, width(&(lo..=hi)));
        }
    }
}
