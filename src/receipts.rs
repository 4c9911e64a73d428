//! The work behind the VCL functions that tell where a purge has got to: to disk, and to the fleet.

use std::cell::Cell;
use std::ffi::CStr;
use std::time::Duration;

use powderhorn_node::{Journalled, MessageIds, Node, Waited};
use varnish::ffi::VCL_STRING;
use varnish::vcl::Ctx;

use crate::call::{Problem, Space, long_reply};
use crate::functions::too_small;
use crate::runtime;

thread_local! {
    /// Whether what this thread issued last is in the journal. A VCL method runs on one thread.
    static JOURNALLED: Cell<bool> = const { Cell::new(true) };
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

fn ids(id: &CStr) -> Result<MessageIds, Problem> {
    let text = id.to_str().map_err(|_| Problem::Log("not an id".into()))?;
    text.parse()
        .map_err(|error| Problem::Log(format!("not an id: {error}")))
}

pub fn wait(id: MessageIds, timeout: Duration, nodes: i64) -> Result<Waited, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let nodes = usize::try_from(nodes).map_err(|_| "a negative number of nodes")?;
    node.wait_applied(id, nodes, timeout)
        .map_err(|error| Problem::Log(error.to_string()))
}

pub fn wait_text(id: &CStr, timeout: Duration, nodes: i64) -> Result<bool, Problem> {
    Ok(wait(ids(id)?, timeout, nodes)?.enough)
}

/// Waits for a purge that has just been issued to be applied on so many nodes.
pub fn wait_issued(id: MessageIds, timeout: Duration, nodes: i64) -> Result<(), Problem> {
    let waited = wait(id, timeout, nodes)?;
    if waited.enough {
        return Ok(());
    }
    Err(Problem::Log(format!(
        "{id} is applied on {} of {} nodes after {} ms, and on its way to the others",
        waited.done,
        waited.nodes,
        timeout.as_millis()
    )))
}

pub fn receipt(ctx: &Ctx<'_>, id: &CStr) -> Result<VCL_STRING, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let receipt = node.receipt(ids(id)?);
    let json = serde_json::to_string(&receipt).map_err(|e| e.to_string())?;
    long_reply(ctx, &json, |room| {
        format!("{{\"error\":\"{}\"}}", too_small(json.len(), room))
    })
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
