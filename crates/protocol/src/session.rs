//! Sessions: which datagrams of a peer count.
//!
//! A session is one life of a peer's process: (node id, instance). It counts only after it has
//! echoed a nonce that this node made after its own start, and a nonce proves one session once, so
//! that neither this node's restart nor the peer's makes a recorded datagram worth anything. From
//! the proving datagram on, each counter of the session is accepted once.

use crate::bounds::SEQ_MAX;
use crate::id::NodeId;

/// A session's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId {
    /// The peer's node id.
    pub node: NodeId,
    /// The instance of its process.
    pub instance: u64,
}

/// Which counters of a session were used: the newest one and a bitmap of those before it.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Ring of bits, one for each of the last `64 × len` counters.
    bits: Box<[u64]>,
    newest: u64,
}

impl ReplayWindow {
    /// A window of `size` counters in which everything up to `newest` has been used.
    pub fn new(size: u64, newest: u64) -> Self {
        let words = usize::try_from(size.div_ceil(64))
            .unwrap_or(usize::MAX)
            .max(1);
        ReplayWindow {
            bits: vec![u64::MAX; words].into_boxed_slice(),
            newest,
        }
    }

    /// Uses `counter` up; whether it may be accepted: not used before and not too old to know.
    pub fn accept(&mut self, counter: u64) -> bool {
        let size = self.bits.len() as u64 * 64;
        if counter > SEQ_MAX {
            return false;
        }
        if counter > self.newest {
            // Everything between was not used yet. Clear a word at a time where the step is wide.
            let step = counter - self.newest;
            if step >= size {
                self.bits.fill(0);
            } else {
                let mut next = self.newest + 1;
                while next <= counter {
                    if next % 64 == 0 && counter - next >= 63 {
                        *self.word(next) = 0;
                        next += 64;
                    } else {
                        *self.word(next) &= !(1 << (next % 64));
                        next += 1;
                    }
                }
            }
            self.newest = counter;
        } else if self.newest - counter >= size {
            return false;
        }
        let bit = 1 << (counter % 64);
        let word = self.word(counter);
        let unused = *word & bit == 0;
        *word |= bit;
        unused
    }

    fn word(&mut self, counter: u64) -> &mut u64 {
        let index = (counter / 64) % self.bits.len() as u64;
        &mut self.bits[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn each_counter_is_accepted_once() {
        let mut rng = StdRng::seed_from_u64(1);
        for size in [64u64, 128, 1024] {
            let mut window = ReplayWindow::new(size, 100);
            let (mut used, mut newest) = (BTreeSet::new(), 100u64);
            for _ in 0..50_000 {
                let reach = if rng.random_ratio(1, 100) {
                    3 * size
                } else {
                    70
                };
                let counter = (newest + reach / 2).saturating_sub(rng.random_range(0..reach));
                let expected = counter > 100 && counter + size > newest && !used.contains(&counter);
                assert_eq!(window.accept(counter), expected, "{counter} at {newest}");
                newest = newest.max(counter);
                if expected {
                    used.insert(counter);
                }
            }
        }
    }

    #[test]
    fn a_leap_to_the_end_costs_nothing_and_leaves_nothing() {
        let mut window = ReplayWindow::new(64, 0);
        assert!(!window.accept(u64::MAX));
        assert!(window.accept(SEQ_MAX));
        assert!(!window.accept(SEQ_MAX));
        assert!(window.accept(SEQ_MAX - 63));
        assert!(!window.accept(SEQ_MAX - 64));
    }
}
