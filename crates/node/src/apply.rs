//! The way of a purge from the core into a cache.
//!
//! There is no queue in between: the host's apply thread takes what is ready out of the core, a
//! batch at a time, applies it, and says what became of each. What it has not taken yet stays in
//! the core as ranges. So however slow a cache is, nothing is lost and nothing grows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use log::Level;
use powderhorn_protocol::id::MessageId;
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::{Delivery, Outcome};

use crate::node::{ApplierState, Shared};
use crate::sys;

/// Purges applied one by one after the cache has panicked.
const ALONE_AFTER_PANIC: usize = 1_024;

/// How long an idle apply thread waits at most, so that it can do its host's housekeeping.
pub const IDLE_MAX: Duration = Duration::from_secs(1);

/// A purge to be applied, and what became of it.
#[derive(Clone, Debug)]
pub struct Job {
    /// The message's id.
    pub id: MessageId,
    /// What to purge; never [`Purge::Unknown`].
    pub purge: Purge,
    /// Time since its issue, as far as its holders know.
    pub age: Duration,
    /// When it arrived, or a little later, on the boot clock.
    pub arrival: Time,
    /// Wall-clock time of its issue on the origin's clock, in ms since 1970.
    pub issued_wall_ms: u64,
    /// To be set by the cache; [`Outcome::Failed`] until then.
    pub outcome: Outcome,
}

impl From<Delivery> for Job {
    fn from(delivery: Delivery) -> Self {
        let Delivery {
            id,
            purge,
            age,
            arrival,
            issued_wall_ms,
        } = delivery;
        Job {
            id,
            purge,
            age,
            arrival,
            issued_wall_ms,
            outcome: Outcome::Failed,
        }
    }
}

/// A cache that purges can be applied to.
pub trait Cache {
    /// Applies `jobs` in their order and sets the outcome of each. What is left at
    /// [`Outcome::Failed`] is handed out again after a moment. A panic fails the whole batch, which
    /// must therefore bear being applied twice.
    fn apply(&mut self, jobs: &mut [Job]);

    /// Called when nothing is left to apply, and then once a second, or sooner if it wants to be
    /// called again sooner: for what is to be done now and then.
    fn idle(&mut self) -> Duration {
        IDLE_MAX
    }
}

/// Takes purges out of the node and applies them, on a thread of the host's choice.
pub struct Applier {
    shared: Arc<Shared>,
}

impl Applier {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Applier { shared }
    }

    /// Applies purges to `cache` until the node is stopped.
    pub fn run(&mut self, cache: &mut dyn Cache) {
        let shared = &*self.shared;
        let _running = Running::begin(shared);
        let mut jobs: Vec<Job> = Vec::new();
        // Purges still to be applied one by one, so that the one which makes the cache panic fails
        // alone.
        let mut alone: usize = 0;
        while !shared.stopping() {
            let batch = match alone {
                0 => shared.config().limits.apply_batch.max(1),
                _ => 1,
            };
            {
                let mut core = shared.core.lock();
                let now = sys::boot_clock();
                while jobs.len() < batch {
                    let Some(delivery) = core.poll_delivery(now) else {
                        break;
                    };
                    jobs.push(delivery.into());
                }
            }
            if !jobs.is_empty() {
                alone = alone.saturating_sub(jobs.len());
                if !self.apply(cache, &mut jobs) {
                    alone = ALONE_AFTER_PANIC;
                }
                continue;
            }
            let wait = cache.idle().min(IDLE_MAX);
            let core = shared.core.lock();
            if core.ready_count() == 0 && !shared.stopping() {
                shared.applier_idle.store(true, Ordering::Relaxed);
                shared.ready.wait_for(core, wait);
                shared.applier_idle.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Applies a batch; whether the cache did not panic.
    fn apply(&self, cache: &mut dyn Cache, jobs: &mut Vec<Job>) -> bool {
        let shared = &*self.shared;
        let applied = catch_unwind(AssertUnwindSafe(|| cache.apply(jobs)));
        if applied.is_err() {
            let notices = &shared.notices;
            notices.say_now_and_then("apply panic", Level::Error, || {
                "the cache panicked while purges were applied; they are tried again".into()
            });
            shared.counters.apply_panics.fetch_add(1, Ordering::Relaxed);
            jobs.iter_mut()
                .for_each(|job| job.outcome = Outcome::Failed);
        }
        let mut core = shared.core.lock();
        let now = sys::boot_clock();
        let timeout = core.poll_timeout();
        let mut latencies = Vec::new();
        let wall_ms = sys::wall_clock_ms();
        for job in jobs.drain(..) {
            core.handle_applied(now, job.id, job.outcome);
            shared.note_outcome(job.id, job.outcome);
            if job.outcome == Outcome::Applied && job.purge == Purge::Everything {
                shared.lost.lock().note_emptied(now - job.age);
            }
            // What is older than this process was waiting for it, and a flush was issued by nobody.
            let counts = job.outcome == Outcome::Applied && job.id.seq > 0;
            if counts && job.age <= now.since(shared.started) {
                let ms = wall_ms.saturating_sub(job.issued_wall_ms);
                latencies.push((job.id.stream.node, ms));
            }
        }
        // A failed one is tried again at a time that the runtime may not know yet.
        let sooner = core.poll_timeout() < timeout;
        shared.wake_waiters(&core);
        drop(core);
        if sooner {
            shared.wake.notify_one();
        }
        let mut book = shared.latencies.lock();
        for (node, ms) in latencies {
            book.note(now, node, ms);
        }
        applied.is_ok()
    }
}

/// A thread is applying for as long as this lives.
struct Running<'a>(&'a Shared);

impl<'a> Running<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.set_applier(ApplierState::Running);
        Running(shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.set_applier(ApplierState::Ended);
    }
}
