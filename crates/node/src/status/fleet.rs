//! What can be said of the fleet as a whole.

use std::collections::BTreeMap;

use powderhorn_protocol::id::NodeId;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::wire::Standing;
use serde::Serialize;

use crate::node::NodeCore;

/// How far the fleet is, by the news of its nodes.
#[derive(Clone, Debug, Serialize)]
pub struct FleetStatus {
    /// Nodes that are listed, this one counted.
    pub nodes: u64,
    /// Of those, how many are known well enough: their news is fresh and says how far they are.
    pub known: u64,
    /// All purges older than this are applied at all that are known; null if that cannot be said.
    pub applied_ms: Option<u64>,
    /// Age of the oldest news that this rests on; null if it rests on this node alone.
    pub oldest_news_ms: Option<u64>,
    /// Whose it is.
    pub oldest_news_from: Option<String>,
    /// News older than this is not counted on.
    pub stale_ms: u64,
    /// Purges that this node knows to exist and has not applied.
    pub lacking_here: u64,
    /// Since how many ms.
    pub lacking_here_ms: Option<u64>,
    /// This node has no room for purges older than so many ms; null if it keeps them for as long as its config
    /// says.
    pub retention_ms: Option<u64>,
}

/// What the news of all nodes comes to.
pub(super) struct Reached {
    /// Where this node stands.
    own: Standing,
    /// Nodes whose news is fresh and says how far they are, this one counted.
    pub known: u64,
    /// All purges older than this are applied at those.
    pub applied_ms: Option<u64>,
    /// Age of the oldest news that this rests on, and whose it is.
    pub oldest: Option<(u64, NodeId)>,
}

impl Reached {
    pub fn of(core: &NodeCore, now: Time) -> Reached {
        let own = core.standing(now);
        let stale = core.news_stale();
        // Of each node: of how many it speaks, up to when, and how old that is.
        let mut said: Vec<(u64, u64, u64, NodeId)> = Vec::new();
        for view in core.news(now).filter(|view| view.age <= stale) {
            let age_ms = view.age.as_millis() as u64;
            if let Some(ms) = view.standing.complete_ms {
                let applied_ms = ms.saturating_add(age_ms);
                said.push((view.standing.nodes, applied_ms, age_ms, view.node));
            }
        }
        if let Some(ms) = own.complete_ms {
            said.push((own.nodes, ms, 0, core.node()));
        }
        // Who speaks of fewer nodes than are counted here says nothing of the others' purges. So: as many as
        // all speak of that many.
        said.sort_unstable_by(|a, b| b.cmp(a));
        let counted = said.iter().zip(1..).filter(|((nodes, ..), n)| nodes >= n);
        let known = counted.count();
        let said = said.get(..known).unwrap_or_default();
        let others = said.iter().filter(|(.., node)| *node != core.node());
        Reached {
            own,
            known: known as u64,
            applied_ms: said.iter().map(|(_, applied_ms, ..)| *applied_ms).max(),
            oldest: others.map(|&(_, _, age_ms, node)| (age_ms, node)).max(),
        }
    }
}

impl FleetStatus {
    pub(super) fn take(
        core: &NodeCore,
        now: Time,
        peers: usize,
        names: &BTreeMap<NodeId, String>,
    ) -> FleetStatus {
        let Reached {
            own,
            known,
            applied_ms,
            oldest,
        } = Reached::of(core, now);
        let name = |node: NodeId| {
            names
                .get(&node)
                .cloned()
                .unwrap_or_else(|| node.to_string())
        };
        FleetStatus {
            nodes: peers as u64 + 1,
            known,
            // Where nobody else is known, this node's own standing is no fleet's.
            applied_ms: applied_ms.filter(|_| peers == 0 || known > 1),
            oldest_news_ms: oldest.map(|(ms, _)| ms),
            oldest_news_from: oldest.map(|(_, node)| name(node)),
            stale_ms: core.news_stale().as_millis() as u64,
            lacking_here: own.lacking.map_or(0, |lacking| lacking.count),
            lacking_here_ms: own.lacking.map(|lacking| lacking.since_ms),
            retention_ms: own.retention_ms,
        }
    }
}
