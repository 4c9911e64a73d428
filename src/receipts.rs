//! The work behind the VCL functions that tell where a purge has got to: to disk, and to the fleet.

use std::cell::Cell;
use std::ffi::CStr;
use std::time::Duration;

use powderhorn_node::{Journalled, MessageIds, Node, WAIT_MAX, Waited};
use varnish::ffi::VCL_STRING;
use varnish::vcl::Ctx;

use crate::call::{self, Problem, Space, long_reply};
use crate::runtime;

thread_local! {
    /// Whether what this thread issued last is in the journal. A VCL method runs on one thread.
    static JOURNALLED: Cell<bool> = const { Cell::new(true) };
    /// Whether this thread has waited when it was last asked to.
    static WAITED: Cell<bool> = const { Cell::new(true) };
}

/// Waits for the journal after a purge has been issued and applied.
pub fn wait_journalled(node: &Node) -> Result<(), Problem> {
    let outcome = node.wait_journalled();
    JOURNALLED.set(outcome == Journalled::Yes);
    match outcome {
        Journalled::No(reason) if node.requires_journal() => {
            let text =
                format!("applied here and sent to the fleet, but not in the journal: {reason}");
            Err(Problem::Log(text))
        }
        Journalled::Yes | Journalled::No(_) => Ok(()),
    }
}

/// Forgets what became of earlier purges of this thread.
pub fn begin() {
    JOURNALLED.set(true);
}

pub fn journalled() -> bool {
    JOURNALLED.get()
}

pub fn waited() -> bool {
    WAITED.get()
}

fn ids(id: &CStr) -> Result<MessageIds, Problem> {
    let text = id.to_str().map_err(|_| Problem::Log("not an id".into()))?;
    text.parse()
        .map_err(|error| Problem::Log(format!("not an id: {error}")))
}

/// What a wait waits for.
#[derive(Clone, Copy)]
pub struct Goal {
    timeout: Duration,
    nodes: usize,
}

impl Goal {
    /// Reads what VCL gives.
    pub fn new(timeout: call::Duration, nodes: i64) -> Result<Goal, Problem> {
        WAITED.set(false);
        let timeout = timeout
            .to_std()
            .ok_or_else(|| Problem::Log("the timeout is negative".into()))?;
        let nodes = usize::try_from(nodes)
            .map_err(|_| Problem::Log("the number of nodes is negative".into()))?;
        Ok(Goal { timeout, nodes })
    }
}

fn wait(id: MessageIds, goal: Goal) -> Result<Waited, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let waited = node.wait_applied(id, goal.nodes, goal.timeout);
    WAITED.set(waited.is_ok());
    waited.map_err(|error| Problem::Log(error.to_string()))
}

pub fn wait_text(id: &CStr, goal: Goal) -> Result<bool, Problem> {
    Ok(wait(ids(id)?, goal)?.enough)
}

/// Waits for a purge that has just been issued to be applied on so many nodes.
pub fn wait_issued(id: MessageIds, goal: Goal) -> Result<(), Problem> {
    let waited = wait(id, goal)?;
    if waited.enough {
        return Ok(());
    }
    Err(Problem::Log(format!(
        "{id} is applied on {} of {} nodes after {} ms, and on its way to the others",
        waited.done,
        waited.nodes,
        goal.timeout.min(WAIT_MAX).as_millis()
    )))
}

pub fn receipt(ctx: &Ctx<'_>, id: &CStr) -> Result<VCL_STRING, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let receipt = node.receipt(ids(id)?);
    let json = serde_json::to_string(&receipt).map_err(|e| e.to_string())?;
    long_reply(ctx, &json)
}

pub fn applied(ctx: &Ctx<'_>, id: &CStr) -> Result<VCL_STRING, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let receipt = node.receipt(ids(id)?);
    let text = format!("{} of {}", receipt.done, receipt.nodes);
    Ok(Space::take(ctx, text.len())?.fill(text.as_bytes()))
}

pub fn isolated() -> Result<bool, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    Ok(node.isolated())
}

pub fn max_staleness() -> Result<Duration, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    Ok(node.max_staleness())
}
