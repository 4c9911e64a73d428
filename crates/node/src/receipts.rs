//! Receipts for people, and for those who wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use powderhorn_protocol::id::MessageIds;
use powderhorn_protocol::{Receipt as CoreReceipt, ReceiptState};
use serde::Serialize;

use crate::node::{Node, Shared};
use crate::sys;

/// Waiters at a time. Each is a request that keeps a thread of the cache's.
pub const WAITERS_MAX: usize = 256;

/// Longest wait: who wants to know later asks for the receipt.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Where a purge has been applied, as far as this node has heard. All of it is of this moment.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    /// The purge's id.
    pub id: String,
    /// Nodes that have applied it or need not, this one included.
    pub done: usize,
    /// Nodes of the fleet, this one included.
    pub nodes: usize,
    /// Whether this node has applied it.
    pub applied_here: bool,
    /// Whether this node did not want it: it is older than its cache, or has expired here.
    pub not_wanted_here: bool,
    /// Milliseconds since it was issued, if it is still held here.
    pub age_ms: Option<u64>,
    /// The other nodes that owe nothing any more.
    pub applied: Vec<Applied>,
    /// Names of the other nodes that have not said so yet.
    pub missing: Vec<String>,
    /// Names of the other nodes whose version does not know this kind of purge, or whose cache refused it.
    pub unsupported: Vec<String>,
}

/// A node that has applied a purge, or need not.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    /// Its name, or its address while that is not known.
    pub node: String,
    /// Its site; empty for none.
    pub site: String,
    /// From issue to application in ms, right to within a round trip; not there if the node did not
    /// remember.
    pub latency_ms: Option<f64>,
    /// It did not want it: it is older than its cache, or has expired there.
    pub not_wanted: bool,
}

/// How a wait for a receipt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// Nodes that had applied the purge by then, or need not, this one included.
    pub done: usize,
    /// Nodes of the fleet by then, this one included.
    pub nodes: usize,
    /// Whether that was enough.
    pub enough: bool,
}

/// Why nobody waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// Each waiter keeps a thread.
    #[error("{WAITERS_MAX} requests wait for receipts already")]
    TooMany,
}

/// A request that waits.
struct Waiter {
    shared: Arc<Shared>,
    ids: MessageIds,
}

impl Waiter {
    fn new(shared: &Arc<Shared>, ids: MessageIds) -> Result<Waiter, WaitError> {
        let before = shared.waiters.fetch_add(1, Ordering::Relaxed);
        if before >= WAITERS_MAX {
            shared.waiters.fetch_sub(1, Ordering::Relaxed);
            let refused = &shared.counters.waiters_refused;
            refused.fetch_add(1, Ordering::Relaxed);
            return Err(WaitError::TooMany);
        }
        // There is room for more receipts than waiters.
        let now = sys::boot_clock();
        shared.core.lock().ask_receipt(now, ids, true);
        Ok(Waiter {
            shared: shared.clone(),
            ids,
        })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.shared.core.lock().unpin_receipt(self.ids);
        self.shared.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Node {
    /// What is known of where purges have been applied. The first call asks the fleet, so what the
    /// others say is there a round trip later: call again.
    pub fn receipt(&self, ids: impl Into<MessageIds>) -> Receipt {
        let ids = ids.into();
        let mut core = self.shared.core.lock();
        let now = sys::boot_clock();
        core.ask_receipt(now, ids, false);
        let known = core.receipt(ids);
        let here = core.all_seen(ids);
        let done_here = core.owes_nothing(ids);
        let views: Vec<_> = match &known {
            Some(_) => core.peers().collect(),
            None => Vec::new(),
        };
        drop(core);
        self.shared.wake.notify_one();

        let peers = self.shared.peers();
        let mut receipt = Receipt {
            id: ids.to_string(),
            done: known
                .as_ref()
                .map_or(usize::from(done_here), CoreReceipt::done),
            nodes: 1 + peers.count(),
            applied_here: here,
            not_wanted_here: done_here && !here,
            age_ms: known
                .as_ref()
                .and_then(|known| known.born)
                .map(|born| now.since(born).as_millis() as u64),
            applied: Vec::new(),
            missing: Vec::new(),
            unsupported: Vec::new(),
        };
        for (view, peer) in views
            .iter()
            .zip(known.iter().flat_map(|known| &known.peers))
        {
            let member = peers.get(view.id);
            let told = |own: &str, configured: Option<&str>| match own {
                "" => configured.unwrap_or_default().to_owned(),
                own => own.to_owned(),
            };
            let mut node = told(&view.name, member.map(|member| member.name.as_str()));
            if node.is_empty() {
                node = member.map_or_else(String::new, |member| member.address.to_string());
            }
            match peer.state {
                ReceiptState::Missing => receipt.missing.push(node),
                ReceiptState::Unsupported => receipt.unsupported.push(node),
                ReceiptState::Applied | ReceiptState::NotWanted => receipt.applied.push(Applied {
                    node,
                    site: told(&view.site, member.map(|member| member.site.as_str())),
                    latency_ms: peer.latency.map(|latency| latency.as_secs_f64() * 1e3),
                    not_wanted: peer.state == ReceiptState::NotWanted,
                }),
            }
        }
        receipt
    }

    /// Waits until `nodes` nodes, or all if 0, have applied these purges, for `timeout` at most
    /// ([`WAIT_MAX`] if that is shorter). This node counts as one.
    pub fn wait_applied(
        &self,
        ids: impl Into<MessageIds>,
        nodes: usize,
        timeout: Duration,
    ) -> Result<Waited, WaitError> {
        let waiter = Waiter::new(&self.shared, ids.into())?;
        self.shared.wake.notify_one();
        let end = Instant::now() + timeout.min(WAIT_MAX);
        loop {
            let core = self.shared.core.lock();
            let all = 1 + self.shared.peers().count();
            let done = core.receipt_done(waiter.ids);
            // Sources of peers that have not said anything yet may know of others, and some may be out of reach.
            let unknown = self.shared.incomplete.load(Ordering::Relaxed);
            let enough = match nodes {
                0 => done >= all && !unknown,
                nodes => done >= nodes,
            };
            let left = end.saturating_duration_since(Instant::now());
            if enough || left.is_zero() || self.shared.stopping() {
                let nodes = all;
                // The waiter takes the lock when it goes.
                drop(core);
                return Ok(Waited {
                    done,
                    nodes,
                    enough,
                });
            }
            self.shared.receipts.wait_for(core, left);
        }
    }
}

/// How many wait.
pub(crate) type Waiters = AtomicUsize;
