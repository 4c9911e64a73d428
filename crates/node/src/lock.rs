//! The lock around the core, which every purge takes.
//!
//! The standard library's, because of who waits for it: it spins for a moment and then sleeps. Others
//! yield in between, and a thread that yields on a busy machine is put behind everybody else for a whole
//! time slice: 99 % of PURGEs over 8 connections on 2 cores then took up to 2.4 ms instead of 0.5 ms.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A lock that a panic of its holder leaves usable: panics are caught and counted at each thread's root.
pub(crate) struct Lock<T>(Mutex<T>);

/// What a thread waits for that gives the lock away meanwhile.
pub(crate) struct Signal(Condvar);

impl<T> Lock<T> {
    pub fn new(value: T) -> Self {
        Lock(Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Signal {
    pub fn new() -> Self {
        Signal(Condvar::new())
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits for a notification, or for so long at most.
    pub fn wait_for<T>(&self, held: MutexGuard<'_, T>, at_most: Duration) {
        let waited = self.0.wait_timeout(held, at_most);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
