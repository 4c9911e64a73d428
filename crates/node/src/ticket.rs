//! The promise of whoever issued a purge: to say what became of it here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use powderhorn_protocol::Outcome;
use powderhorn_protocol::id::MessageIds;

use crate::node::Shared;
use crate::sys;

/// Purges that were issued and that their issuer is about to apply to the local cache. If it is
/// dropped without [`Ticket::complete`], the applier does that instead.
#[must_use = "say what became of the purges here"]
pub struct Ticket {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ids: MessageIds,
    pub(crate) completed: bool,
}

impl Ticket {
    /// The purges' ids, in the order in which they were given.
    pub fn ids(&self) -> MessageIds {
        self.ids
    }

    /// Says what became of the purges in the local cache: of all of them the same. One that failed
    /// is tried again by the applier, and so are those that were issued with it.
    pub fn complete(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.completed, true) {
            return;
        }
        let mut core = self.shared.core.lock();
        let now = sys::boot_clock();
        for id in self.ids.iter() {
            core.handle_applied(now, id, outcome);
            self.shared.note_outcome(id, outcome);
        }
        self.shared.wake_waiters(&core);
        drop(core);
        if outcome == Outcome::Failed {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.completed {
            let counter = &self.shared.counters.tickets_dropped;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.finish(Outcome::Failed);
    }
}
