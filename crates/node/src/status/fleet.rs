//! What can be said of the fleet as a whole.

use powderhorn_protocol::wire::Standing;
use serde::Serialize;

use super::peers::PeerStatus;

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

impl FleetStatus {
    pub(super) fn take(peers: &[PeerStatus], own: &Standing, stale_ms: u64) -> FleetStatus {
        let mut applied_ms = own.complete_ms;
        let mut known = u64::from(applied_ms.is_some());
        let mut oldest: Option<(u64, &str)> = None;
        for peer in peers.iter().filter(|peer| peer.is_known(stale_ms)) {
            let Some(news) = &peer.news else { continue };
            let Some(at_peer) = news.applied_ms else {
                continue;
            };
            known += 1;
            applied_ms = applied_ms.map(|ms| ms.max(at_peer));
            oldest = oldest.max(Some((news.age_ms, peer.who())));
        }
        FleetStatus {
            nodes: peers.len() as u64 + 1,
            known,
            applied_ms,
            oldest_news_ms: oldest.map(|(ms, _)| ms),
            oldest_news_from: oldest.map(|(_, who)| who.to_owned()),
            stale_ms,
            lacking_here: own.lacking.map_or(0, |lacking| lacking.count),
            lacking_here_ms: own.lacking.map(|lacking| lacking.since_ms),
            retention_ms: own.retention_ms,
        }
    }
}
