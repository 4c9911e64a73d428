//! A lock that a long walk can lend to others in between, by letting go of it and taking it again.
//!
//! Who lets go of an ordinary lock and takes it again at once gets it before those who sleep on it. Here
//! everybody comes through a gate: whoever waits for the lock holds the gate meanwhile, so the one who
//! lends the lock stands behind it.
//!
//! Both are the standard library's locks: they sleep after spinning for a moment. A lock whose waiters
//! yield in between puts them behind everybody else on a busy machine, for a whole time slice each.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lock.
pub struct Fair<T> {
    gate: Mutex<()>,
    value: Mutex<T>,
}

impl<T> Fair<T> {
    /// Around `value`.
    pub fn new(value: T) -> Self {
        Fair {
            gate: Mutex::new(()),
            value: Mutex::new(value),
        }
    }

    /// Waits for the lock. One whose holder has panicked is taken like any other: what it guards must be
    /// whole whenever a panic can come.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    #[test]
    fn whoever_waits_gets_the_lock_at_the_next_lending() {
        let lock = Fair::new(0_u64);
        // Whose turn it is to wait, and who waits.
        let (turn, waiting) = (AtomicU64::new(0), AtomicU64::new(0));
        let done = AtomicBool::new(false);
        let end = Instant::now() + Duration::from_secs(20);
        std::thread::scope(|scope| {
            // On a busy machine: else whoever is woken may be quicker than who lends, by luck.
            for _ in 0..2 * std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) && Instant::now() < end {
                        std::hint::spin_loop();
                    }
                });
            }
            let (lock, turn, waiting) = (&lock, &turn, &waiting);
            let mut held = lock.lock();
            scope.spawn(move || {
                for n in 1..=100 {
                    while turn.load(Ordering::SeqCst) < n {
                        std::thread::yield_now();
                    }
                    waiting.store(n, Ordering::SeqCst);
                    *lock.lock() = n;
                }
            });
            let mut lent = 0;
            for n in 1..=100 {
                turn.store(n, Ordering::SeqCst);
                while waiting.load(Ordering::SeqCst) < n {
                    std::thread::yield_now();
                }
                // It is at the gate, or about to be.
                while *held < n {
                    assert!(Instant::now() < end, "{n} of 100 after {lent} lendings");
                    std::thread::sleep(Duration::from_millis(1));
                    drop(held);
                    held = lock.lock();
                    lent += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(lent <= 150, "{lent} lendings for 100 turns");
        });
    }
}
