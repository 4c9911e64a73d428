//! One record in Varnish's log for each purge that has been applied here:
//!
//! ```text
//! powderhorn: applied <id> <kind> objects=<n> latency_ms=<ms> from=<node>
//! ```
//!
//! Tag VCL_Log, as varnishd masks Debug unless told otherwise, and no transaction: `varnishlog -g raw -i
//! VCL_Log`. `[log] purges = false` in the config turns them off.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use powderhorn_node::{Job, MessageIds, NodeId, Purge, Time, boot_clock};

use crate::runtime;
use crate::shim::{self, Loudness};

/// How long a name that is not known is not asked for again: who left the fleet has none.
const NAMES_AFTER: Duration = Duration::from_secs(10);

/// `log.purges`.
static ON: AtomicBool = AtomicBool::new(true);

/// What became of a purge in this cache.
struct Applied {
    kind: &'static str,
    /// Objects taken away or softened; none for what bans do, which take them as they are met.
    objects: Option<u64>,
    latency: Duration,
}

thread_local! {
    /// What this thread has applied and has no ids for yet.
    static NOTED: RefCell<Vec<Applied>> = const { RefCell::new(Vec::new()) };
}

/// Takes the config's `log`.
pub fn set(on: bool) {
    ON.store(on, Ordering::Relaxed);
}

pub fn on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Forgets what this thread noted of earlier purges.
pub fn begin() {
    NOTED.with_borrow_mut(Vec::clear);
}

/// Notes that this thread has applied a purge of its own, which it began to at `start`.
pub fn note(purge: &Purge, objects: u64, start: Time) {
    if on() {
        let applied = Applied::new(purge, objects, boot_clock().since(start));
        NOTED.with_borrow_mut(|noted| noted.push(applied));
    }
}

/// Writes the records of the purges that this thread has applied last and issued under `ids`.
pub fn issued(ids: MessageIds) {
    NOTED.with_borrow_mut(|noted| {
        let noted = noted.drain(..);
        let Ok(node) = runtime::node() else { return };
        if noted.len() == 0 {
            return;
        }
        let name = &node.config().name;
        for (id, applied) in ids.iter().zip(noted) {
            applied.write(&id.into(), name);
        }
    });
}

/// Names of nodes, as those who issue purges have none in them.
#[derive(Default)]
pub struct Names {
    known: BTreeMap<NodeId, String>,
    asked: Option<Time>,
}

impl Names {
    /// Writes the record of a purge of the fleet's.
    pub fn record(&mut self, job: &Job, objects: u64) {
        if !on() {
            return;
        }
        let latency = boot_clock().since(job.arrival) + job.age;
        let applied = Applied::new(&job.purge, objects, latency);
        let from = self.of(job.id.stream.node);
        applied.write(&job.id.into(), &from);
    }

    fn of(&mut self, node: NodeId) -> Cow<'_, str> {
        let due = |asked: Time| boot_clock().since(asked) >= NAMES_AFTER;
        if !self.known.contains_key(&node) && self.asked.is_none_or(due) {
            self.ask();
        }
        match self.known.get(&node) {
            Some(name) => Cow::Borrowed(name),
            // Its id says as much as can be said.
            None => Cow::Owned(node.to_string()),
        }
    }

    fn ask(&mut self) {
        self.asked = Some(boot_clock());
        let Ok(node) = runtime::node() else { return };
        self.known = node.names();
        self.known.retain(|_, name| !name.is_empty());
    }
}

impl Applied {
    fn new(purge: &Purge, objects: u64, latency: Duration) -> Applied {
        let (kind, counted) = match purge {
            Purge::Digest(_) => ("digest", true),
            Purge::SoftDigest(_) => ("soft_digest", true),
            Purge::Keys(_) => ("keys", true),
            Purge::SoftKeys(_) => ("soft_keys", true),
            Purge::Ban(_) => ("ban", false),
            Purge::Flush(_) => ("flush", false),
            Purge::Everything => ("everything", false),
            Purge::SoftEverything => ("soft_everything", false),
            Purge::Unknown { .. } => ("unknown", false),
        };
        Applied {
            kind,
            objects: counted.then_some(objects),
            latency,
        }
    }

    fn write(&self, id: &MessageIds, from: &str) {
        let mut text = String::with_capacity(160);
        text.push_str("applied ");
        text.push_str(id.text().as_str());
        let _ = write!(text, " {} objects=", self.kind);
        let _ = match self.objects {
            Some(objects) => write!(text, "{objects}"),
            None => write!(text, "-"),
        };
        let ms = self.latency.as_secs_f64() * 1e3;
        let _ = write!(text, " latency_ms={ms:.1} from={from}");
        shim::log(Loudness::Record, &text);
    }
}
