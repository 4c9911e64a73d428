//! No panic crosses into varnishd: it would abort the cache process, and a new one starts empty.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shim::{self, Loudness};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics have been caught since the process started.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Runs `body`. A panic in it is counted, logged and turned into `None`.
///
/// What `body` changed before it panicked stays as it is: every lock that can be held then is a
/// parking_lot one, which does not poison, and guards data that is whole between statements.
pub fn catch<T>(place: &str, body: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => Some(value),
        Err(payload) => {
            PANICS.fetch_add(1, Ordering::Relaxed);
            shim::log(
                Loudness::Error,
                &format!("panic in {place}: {}", message(&*payload)),
            );
            // Dropping the payload could panic again.
            std::mem::forget(payload);
            None
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "(no message)",
    }
}
