//! The work behind the VCL functions that tell where a purge has got to: to disk, and to the fleet.

use std::cell::Cell;
use std::ffi::CStr;
use std::time::Duration;

use powderhorn_node::{Journalled, MessageIds, Node, WAIT_MAX, Waited};
use varnish::ffi::VCL_STRING;
use varnish::vcl::Ctx;

use crate::call::{Problem, Space, long_reply};
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
    /// Reads what VCL gives. A DURATION comes as text, too: the bindings would turn one that is negative into
    /// a panic where nothing catches it.
    pub fn new(timeout: &CStr, nodes: i64) -> Result<Goal, Problem> {
        WAITED.set(false);
        let text = timeout.to_str().unwrap_or_default();
        let timeout = duration(text).ok_or_else(|| {
            let text: String = text.chars().take(40).collect();
            Problem::Log(format!("not a duration such as 500ms, 2s or 1m: {text:?}"))
        })?;
        let nodes = usize::try_from(nodes)
            .map_err(|_| Problem::Log("the number of nodes is negative".into()))?;
        Ok(Goal { timeout, nodes })
    }
}

/// A duration in ms, s, m or h; seconds without a unit. Longer ones are [`WAIT_MAX`].
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return None,
    };
    if !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let seconds = digits.parse::<f64>().ok()? * unit;
    Some(Duration::from_secs_f64(seconds.min(WAIT_MAX.as_secs_f64())))
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
        goal.timeout.as_millis()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_nothing_else() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("2s", Some(ms(2_000))),
            ("0.5s", Some(ms(500))),
            ("500ms", Some(ms(500))),
            ("1m", Some(ms(60_000))),
            ("2.000", Some(ms(2_000))),
            (" 1 ", Some(ms(1_000))),
            ("0", Some(ms(0))),
            ("1000000000000h", Some(WAIT_MAX)),
            ("9".repeat(400).as_str(), Some(WAIT_MAX)),
            ("-1s", None),
            ("-0.5s", None),
            ("1000000000000y", None),
            ("1e300s", None),
            ("nan", None),
            ("inf", None),
            (".", None),
            ("", None),
            ("s", None),
            ("nonsense", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
