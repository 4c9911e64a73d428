//! Whoever frees what a mass purge kills stands aside while it kills.
//!
//! varnishd's expiry thread takes each killed object out of the index, which takes the lock that the
//! purge has, and out of its own list, which takes the lock that each kill takes. Side by side the two of
//! them wait for each other more than they work. So the expiry thread waits until the purge is over, for
//! [`PAUSE_MAX`] at most, and then works for as long as it has waited, whatever else is purged: memory
//! comes free a little later, and never not at all.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest pause at a time.
pub const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Mass purges, and who stands aside for them.
#[derive(Default)]
pub struct Aside {
    purges: AtomicU32,
    /// No pause begins before this.
    rest_until: Mutex<Option<Instant>>,
    over: Condvar,
}

impl Aside {
    /// A mass purge begins; it ends when what is returned is dropped.
    pub fn purge(&self) -> Purging<'_> {
        self.purges.fetch_add(1, Ordering::SeqCst);
        Purging(self)
    }

    /// Waits while mass purges are under way, unless it is this thread's turn to work.
    pub fn wait(&self) {
        if self.purges.load(Ordering::SeqCst) == 0 {
            return;
        }
        let rest_until = self.rest_until.lock();
        let rest_until = rest_until.unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now();
        if rest_until.is_some_and(|until| begin < until) {
            return;
        }
        let purging = |_: &mut Option<Instant>| self.purges.load(Ordering::SeqCst) > 0;
        let waited = self.over.wait_timeout_while(rest_until, PAUSE_MAX, purging);
        let (mut rest_until, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rest_until = Some(Instant::now() + begin.elapsed());
    }
}

/// A mass purge is under way.
pub struct Purging<'a>(&'a Aside);

impl Drop for Purging<'_> {
    fn drop(&mut self) {
        if self.0.purges.fetch_sub(1, Ordering::SeqCst) == 1 {
            // Under the lock, or one who is about to wait would miss it.
            drop(self.0.rest_until.lock());
            self.0.over.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_waits_until_the_purge_is_over_and_then_works_as_long() {
        let aside = Aside::default();
        aside.wait();
        let purge = aside.purge();
        let (begin, pause) = (Instant::now(), Duration::from_millis(40));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| aside.wait());
            std::thread::sleep(pause);
            assert!(!waiting.is_finished());
            drop(purge);
        });
        let waited = begin.elapsed();
        assert!(waited >= pause);
        let _next = aside.purge();
        let begin = Instant::now();
        aside.wait();
        assert!(begin.elapsed() < pause / 2, "it was its turn");
        std::thread::sleep(waited);
        let begin = Instant::now();
        aside.wait();
        assert!(begin.elapsed() >= PAUSE_MAX, "it stands aside again");
    }
}
