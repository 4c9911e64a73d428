//! The peers, as the status shows them: what this node knows of each, and what the fleet's news says.

use std::collections::BTreeMap;

use powderhorn_protocol::id::NodeId;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::wire::Standing;
use powderhorn_protocol::{NewsView, PeerView};
use serde::Serialize;

use crate::latency::Latency;
use crate::members::Member;
use crate::node::{NodeCore, Shared};

/// A peer, as this node sees it.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// The name in the configuration; else the one that it tells.
    pub name: String,
    /// Its site, likewise.
    pub site: String,
    /// Where it is.
    pub address: String,
    /// "up", "silent" (nothing was heard for long) or "unknown" (never met).
    pub state: &'static str,
    /// Milliseconds since something valid was heard.
    pub heard_ms: Option<u64>,
    /// Milliseconds since its last digest came here.
    pub digest_ms: Option<u64>,
    /// Smoothed round trip in microseconds.
    pub rtt_us: Option<u64>,
    /// By how many ms its wall clock is ahead of this node's, within half a round trip.
    pub clock_skew_ms: Option<i64>,
    /// Its node id; null until it is met.
    pub node: Option<String>,
    /// Since how many ms it is known in its present life; null while it is not.
    pub met_ms: Option<u64>,
    /// Where it is listed: "static" (the configuration), "file" (the nodes file), "dns name:port".
    pub sources: Vec<String>,
    /// What it last said of itself, to whomever; null if nothing has come here.
    pub news: Option<PeerNews>,
    /// How long its purges took until they were applied here; null if none came in the last minutes.
    pub latency: Option<Latency>,
    /// Its purges that this node knows to exist and has not received, in streams of all its starts.
    pub gaps: u64,
    /// Since how many ms the oldest of these has been lacking, or waiting for the cache.
    pub oldest_gap_ms: Option<u64>,
    /// Its purges that came as repairs and not by dissemination, in a second.
    pub recovered_per_s: f64,
}

/// What a peer last said of itself.
#[derive(Clone, Debug, Serialize)]
pub struct PeerNews {
    /// How old this is, in ms; rather too much than too little.
    pub age_ms: u64,
    /// All purges older than this, of whichever node, are applied there; this news' age is in it. Null while
    /// that cannot be said.
    pub applied_ms: Option<u64>,
    /// Of how many nodes it has fresh news, itself counted.
    pub nodes: u64,
    /// Purges that it knows to exist and has not applied.
    pub lacking: u64,
    /// The node that issued those which it has lacked for longest; null if it lacks none.
    pub lacking_of: Option<String>,
    /// Since how many ms, at the time of the news.
    pub lacking_ms: Option<u64>,
    /// It has no room for purges older than so many ms; null if it keeps them for as long as its config says.
    pub retention_ms: Option<u64>,
    /// What does not work there: "cache" (purges fail), "journal", "version" (it holds purges of kinds
    /// that it does not know).
    pub failing: Vec<&'static str>,
}

impl PeerStatus {
    /// Its name, if it is known.
    pub(super) fn who(&self) -> &str {
        if self.name.is_empty() {
            &self.address
        } else {
            &self.name
        }
    }

    /// Whether what it said last is fresh enough to be counted on.
    pub(super) fn is_known(&self, stale_ms: u64) -> bool {
        self.news
            .as_ref()
            .is_some_and(|news| news.age_ms <= stale_ms)
    }

    /// What peers are shown by, those in trouble first.
    fn trouble(&self) -> impl Ord {
        let news = self.news.as_ref();
        (
            self.state != "up",
            news.is_some_and(|news| !news.failing.is_empty()),
            news.and_then(|news| news.lacking_ms),
            news.map_or(u64::MAX, |news| news.applied_ms.unwrap_or(u64::MAX)),
            self.heard_ms.unwrap_or(u64::MAX),
        )
    }
}

/// What nodes' streams lack here: messages, and since when.
type Gaps = BTreeMap<NodeId, (u64, Option<Time>)>;

fn gaps(core: &NodeCore) -> Gaps {
    let mut gaps = Gaps::new();
    for stream in core.streams() {
        if stream.wanted > 0 || stream.lacking_since.is_some() {
            let (count, since) = gaps.entry(stream.id.node).or_default();
            *count = count.saturating_add(stream.wanted);
            *since = [*since, stream.lacking_since].into_iter().flatten().min();
        }
    }
    gaps
}

fn told(configured: &str, told: &str) -> String {
    let name = if configured.is_empty() {
        told
    } else {
        configured
    };
    name.to_owned()
}

/// Names by node, for those that have been met: as the configuration has it, else as the node tells it. Empty
/// if neither does.
pub(crate) fn names(shared: &Shared, core: &NodeCore) -> BTreeMap<NodeId, String> {
    let table = shared.peers();
    let name = |view: PeerView| {
        let configured = table.get(view.id).map_or("", |member| &member.name);
        Some((view.session?.node, told(configured, &view.name)))
    };
    let mut names: BTreeMap<_, _> = core.peers().filter_map(name).collect();
    names.insert(shared.node, shared.config().name.clone());
    names
}

/// The same for people: a node without a name is called by its address.
pub(crate) fn shown_names(shared: &Shared, core: &NodeCore) -> BTreeMap<NodeId, String> {
    let (mut names, table) = (names(shared, core), shared.peers());
    for view in core.peers() {
        if let (Some(session), Some(member)) = (view.session, table.get(view.id)) {
            let name = names.get_mut(&session.node);
            if let Some(name) = name.filter(|name| name.is_empty()) {
                *name = member.address.to_string();
            }
        }
    }
    names
}

fn news(view: &NewsView, names: &BTreeMap<NodeId, String>) -> PeerNews {
    let standing = &view.standing;
    let age_ms = view.age.as_millis() as u64;
    let flags = [
        (Standing::CACHE_FAILS, "cache"),
        (Standing::JOURNAL_FAILS, "journal"),
        (Standing::UNSUPPORTED, "version"),
    ];
    let is_set = |(flag, name)| (standing.flags & flag != 0).then_some(name);
    let name = |node: NodeId| {
        names
            .get(&node)
            .cloned()
            .unwrap_or_else(|| node.to_string())
    };
    PeerNews {
        age_ms,
        applied_ms: standing.complete_ms.map(|ms| ms.saturating_add(age_ms)),
        nodes: standing.nodes,
        lacking: standing.lacking.map_or(0, |lacking| lacking.count),
        lacking_of: standing.lacking.map(|lacking| name(lacking.node)),
        lacking_ms: standing.lacking.map(|lacking| lacking.since_ms),
        retention_ms: standing.retention_ms,
        failing: flags.into_iter().filter_map(is_set).collect(),
    }
}

/// All peers, those that need attention first.
pub(super) fn take(
    shared: &Shared,
    core: &NodeCore,
    now: Time,
    names: &BTreeMap<NodeId, String>,
) -> Vec<PeerStatus> {
    let table = shared.peers();
    let (_, recovered) = shared.samples.lock().rates();
    let gaps = gaps(core);
    let all_news: BTreeMap<NodeId, NewsView> =
        core.news(now).map(|view| (view.node, view)).collect();
    let mut latencies = shared.latencies.lock();
    let mut peers: Vec<PeerStatus> = Vec::new();
    let since_ms = |time: Time| now.since(time).as_millis() as u64;
    for view in core.peers() {
        let Some(member): Option<&Member> = table.get(view.id) else {
            continue;
        };
        let node = view.session.map(|session| session.node);
        let (count, since) = node
            .and_then(|node| gaps.get(&node).copied())
            .unwrap_or_default();
        peers.push(PeerStatus {
            name: told(&member.name, &view.name),
            site: told(&member.site, &view.site),
            address: member.address.to_string(),
            state: if view.up {
                "up"
            } else if view.session.is_some() {
                "silent"
            } else {
                "unknown"
            },
            heard_ms: view.heard.map(since_ms),
            digest_ms: view.digest_heard.map(since_ms),
            rtt_us: view.rtt.map(|rtt| rtt.as_micros() as u64),
            clock_skew_ms: view.clock_skew_ms,
            node: node.map(|node| node.to_string()),
            met_ms: view.proven.map(since_ms),
            sources: member.sources.iter().map(ToString::to_string).collect(),
            news: node
                .and_then(|node| all_news.get(&node))
                .map(|view| news(view, names)),
            latency: node.and_then(|node| latencies.recent(now, node)),
            gaps: count,
            oldest_gap_ms: since.map(since_ms),
            recovered_per_s: node.and_then(|n| recovered.get(&n).copied()).unwrap_or(0.0),
        });
    }
    peers.sort_by(|a, b| b.trouble().cmp(&a.trouble()));
    peers
}
