//! Applies the fleet's purges to this cache, on a background thread of varnishd's.

use std::time::Duration;

use powderhorn_node::{Applier, Cache, Job, Outcome, Purge};

use crate::guard;
use crate::shim::{self, Worker};

/// How long a batch that comes while the cache shuts down is held up, so that its retries do not
/// spin until the process ends.
const CLOSING_PAUSE: Duration = Duration::from_millis(20);

/// Starts the thread. It ends when the runtime stops.
pub fn start(mut applier: Applier) {
    shim::start_worker(c"powderhorn", move |worker| {
        applier.run(&mut VarnishCache { worker });
    });
}

/// Applies one purge on the calling thread, whose own `worker` is.
pub fn apply(worker: Worker, purge: &Purge) -> Outcome {
    if shim::closing() {
        return Outcome::Failed;
    }
    match purge {
        Purge::Digest(digest) => {
            worker.purge(digest);
            Outcome::Applied
        }
        _ => Outcome::Unsupported,
    }
}

struct VarnishCache {
    worker: Worker,
}

impl Cache for VarnishCache {
    fn apply(&mut self, jobs: &mut [Job]) {
        for job in jobs.iter_mut() {
            job.outcome =
                guard::catch("apply", || apply(self.worker, &job.purge)).unwrap_or(Outcome::Failed);
        }
        self.worker.flush_stats();
        if shim::closing() {
            std::thread::sleep(CLOSING_PAUSE);
        }
    }
}
