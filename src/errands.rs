//! Purges that come over the command line: varnishd's CLI thread may not touch objects, so the background
//! thread issues and applies them.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use parking_lot::Mutex;
use powderhorn_node::{MessageIds, Node, Outcome, Purge};

use crate::shim::Worker;
use crate::{apply, engine, runtime};

/// How long the command line waits for the background thread, which is busy for milliseconds at most
/// unless something is wrong.
const WAIT: Duration = Duration::from_millis(500);

struct Errand {
    number: u64,
    purge: Purge,
    done: Sender<Result<MessageIds, String>>,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    errands: VecDeque<Errand>,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting {
    last: 0,
    errands: VecDeque::new(),
});

/// Has a purge issued and applied, and waits for that; its id.
pub fn send(node: &Node, purge: Purge) -> Result<MessageIds, String> {
    let (done, outcome) = mpsc::channel();
    let number = {
        let mut waiting = WAITING.lock();
        waiting.last += 1;
        let number = waiting.last;
        waiting.errands.push_back(Errand {
            number,
            purge,
            done,
        });
        number
    };
    node.wake_applier();
    match outcome.recv_timeout(WAIT) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => {
            Err("internal error, see varnishlog -g raw -i Error".to_owned())
        }
        Err(RecvTimeoutError::Timeout) => {
            let mut waiting = WAITING.lock();
            let before = waiting.errands.len();
            waiting.errands.retain(|errand| errand.number != number);
            Err(match waiting.errands.len() < before {
                true => "nothing was purged: the apply thread is busy, see powderhorn.status",
                false => "the purge is under way, but the apply thread is not done with it yet",
            }
            .to_owned())
        }
    }
}

/// Does what waits, on the background thread, whose own `worker` is.
pub fn run(worker: Worker) {
    loop {
        let Some(errand) = WAITING.lock().errands.pop_front() else {
            return;
        };
        let result = issue(worker, errand.purge);
        // Nobody may wait any more.
        let _ = errand.done.send(result);
    }
}

fn issue(worker: Worker, purge: Purge) -> Result<MessageIds, String> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let engine = engine::get().map_err(|e| e.to_string())?;
    let cache = apply::VarnishCache::new(worker);
    engine.check(&cache, &purge).map_err(|e| e.to_string())?;
    let purges = [purge];
    let (ids, outcome) = match apply::issue(node, worker, &purges) {
        Ok(issued) => issued,
        Err(error) if error.only_unsent() => {
            apply::apply_issued(worker, &purges);
            return Err(format!("applied on this node only: {error}"));
        }
        Err(error) => return Err(error.to_string()),
    };
    match outcome {
        Outcome::Applied => Ok(ids),
        Outcome::Failed => Err(format!(
            "{ids} was sent to the fleet, but is not applied here yet: it is tried again"
        )),
        Outcome::Unsupported => Err(format!(
            "{ids} was sent to the fleet, but this Varnish would not have it (see varnishlog -g raw)"
        )),
    }
}
