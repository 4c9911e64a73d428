//! The state of a node, for people and for programs.

mod fleet;
mod metrics;
mod peers;
mod text;

pub use fleet::FleetStatus;
use fleet::Reached;
pub(crate) use metrics::metrics;
pub use peers::{PeerNews, PeerStatus};
pub(crate) use peers::{names, shown_names};

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use powderhorn_protocol::StreamView;
use powderhorn_protocol::id::NodeId;
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::time::Time;
use serde::Serialize;

use crate::journal::{self, JournalStatus};
use crate::node::{ApplierState, NodeCore, RuntimeState, Shared};
use crate::rates::Rates;
use crate::sys;

/// The state of a node and, as far as it knows, of its fleet, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// What to look at first, in one line.
    pub verdict: String,
    /// Whether there is nothing that an operator should see to.
    pub ok: bool,
    /// The version of this library, which is loaded.
    pub version: &'static str,
    /// The version that is installed, if the host has looked: another one is used after a restart of Varnish.
    pub installed: Option<String>,
    /// The configuration file; null without one.
    pub config: Option<String>,
    /// The fleet's name.
    pub fleet: String,
    /// This node's name.
    pub name: String,
    /// This node's site.
    pub site: String,
    /// This node's id, 16 hexadecimal digits.
    pub node: String,
    /// The stream that its purges go to.
    pub stream: String,
    /// How far the fleet is.
    pub reach: FleetStatus,
    /// What happens in a second.
    pub rates: Rates,
    /// Peers, those that need attention first.
    pub peers: Vec<PeerStatus>,
    /// Sources of peers other than the configuration itself, those that fail first.
    pub sources: Vec<SourceStatus>,
    /// Whether one of them has never said anything: there may be more peers.
    pub sources_unanswered: bool,
    /// Why the sources name nodes that are no peers, which get no purges; null if they name none.
    pub peers_left_out: Option<String>,
    /// Whether it is held to be stale by `limits.max_staleness`.
    pub isolated: bool,
    /// Names used by more than one node, each with the addresses that use it.
    pub duplicate_names: Vec<DuplicateName>,
    /// The journal; null without one.
    pub journal: Option<JournalStatus>,
    /// Streams known.
    pub streams: usize,
    /// Messages held.
    pub held: u64,
    /// Bytes of messages held.
    pub held_bytes: u64,
    /// Messages known to exist and not received yet.
    pub wanted: u64,
    /// Messages received and waiting for the cache.
    pub ready: u64,
    /// Messages handed to the cache, or to be handed to it again, without an answer yet.
    pub in_flight: u64,
    /// Messages of kinds that this version cannot apply, or that the cache refused; they are passed on.
    pub unsupported: u64,
    /// Those of them that the cache refused.
    pub refused: u64,
    /// Messages that were given up lately, as no node has them any more, and that no flush made up for.
    pub given_up: u64,
    /// How long ago the last of them were given up; null if there are none.
    pub given_up_ms: Option<u64>,
    /// "running", "ended", or "gave up" after too many panics.
    pub runtime: &'static str,
    /// The thread that applies purges: "running", "ended" or "not started".
    pub applier: &'static str,
    /// Sockets.
    pub sockets: Vec<SocketStatus>,
    /// Ids of the keys, the sealing one first.
    pub keys: Vec<String>,
    /// Why the changed key file is not used; null if it is.
    pub key_error: Option<String>,
    /// Why the cache would not start again with the configuration file as it is now; null if it would.
    pub config_error: Option<String>,
    /// What the config file says and only a restart of Varnish changes; null if there is nothing.
    pub config_pending: Option<String>,
    /// All counters, by name.
    pub counters: BTreeMap<&'static str, u64>,
    /// The latest notices, oldest first.
    pub notices: Vec<Notice>,
}

/// A source of peers.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStatus {
    /// "file path", "dns name:port", or "name name:port" for a failing name in the other lists.
    pub source: String,
    /// Wall-clock time since when it has failed, in ms since 1970; null if it works.
    pub failing_since_wall_ms: Option<u64>,
    /// Why it failed the last time; null if it works. Its peers stay meanwhile.
    pub error: Option<String>,
}

/// A name that more than one node uses.
#[derive(Clone, Debug, Serialize)]
pub struct DuplicateName {
    /// The name, as the nodes tell it.
    pub name: String,
    /// Their addresses; "this node" for this one.
    pub addresses: Vec<String>,
}

/// A socket.
#[derive(Clone, Debug, Serialize)]
pub struct SocketStatus {
    /// Where it receives.
    pub address: String,
    /// Size of its receive buffer, as the system counts.
    pub receive_bytes: usize,
    /// Size of its send buffer, as the system counts.
    pub send_bytes: usize,
}

/// Something that an operator should hear of.
#[derive(Clone, Debug, Serialize)]
pub struct Notice {
    /// Wall-clock time in ms since 1970.
    pub wall_ms: u64,
    /// What happened.
    pub text: String,
}

/// Purges that wait for the cache without being worth a word in the verdict.
const WAITING_FINE: u64 = 1_000;

/// How many messages the cache has, or is to have again, and has not answered for. What is held for others only, as
/// it is older than the cache, is none of them.
fn in_flight(core: &NodeCore) -> u64 {
    let unapplied = core.streams().map(|stream| stream.unapplied);
    unapplied
        .fold(0, u64::saturating_add)
        .saturating_sub(core.ready_count())
}

/// Nodes by their ids, each with the names that it is known by and where it is: more than one of them with one
/// id have one name.
fn nodes_by_id(
    shared: &Shared,
    core: &NodeCore,
    own_name: &str,
) -> BTreeMap<NodeId, Vec<(String, String)>> {
    let table = shared.peers();
    let mut by_node = BTreeMap::<_, Vec<(String, String)>>::new();
    let this = (own_name.to_owned(), "this node".to_owned());
    by_node.entry(shared.node).or_default().push(this);
    for view in core.peers().filter(|view| view.up) {
        let (Some(member), Some(session)) = (table.get(view.id), view.session) else {
            continue;
        };
        let name = if view.name.is_empty() {
            member.name.clone()
        } else {
            view.name.clone()
        };
        let nodes = by_node.entry(session.node).or_default();
        nodes.push((name, member.address.to_string()));
    }
    by_node
}

impl Status {
    pub(crate) fn take(shared: &Shared) -> Status {
        let known = shared.sources.lock().clone();
        let each = known.each.into_iter();
        let mut sources: Vec<SourceStatus> = each
            .map(|state| {
                let (since, error) = state.failure.map(|f| (f.since_wall_ms, f.text)).unzip();
                SourceStatus {
                    source: state.source,
                    failing_since_wall_ms: since,
                    error,
                }
            })
            .collect();
        sources.sort_by_key(|source| source.error.is_none());
        let config = shared.config();
        let core = shared.core.lock();
        let now = sys::boot_clock();
        let names = shown_names(shared, &core);
        let peers = peers::take(shared, &core, now, &names);
        let reach = FleetStatus::take(&core, now, peers.len(), &names);
        let by_node = nodes_by_id(shared, &core, &config.name);
        let duplicate_names: Vec<DuplicateName> = by_node
            .into_values()
            .filter(|nodes| nodes.len() > 1)
            .map(|nodes| DuplicateName {
                name: nodes
                    .last()
                    .map_or_else(String::new, |(name, _)| name.clone()),
                addresses: nodes.into_iter().map(|(_, address)| address).collect(),
            })
            .collect();
        let (mut streams, mut held, mut wanted) = (0, 0u64, 0u64);
        let mut unsupported = 0;
        for stream in core.streams() {
            streams += 1;
            unsupported += stream.unsupported.count();
            held = held.saturating_add(stream.held.count());
            wanted = wanted.saturating_add(stream.wanted);
        }
        let counted = counted(shared, &core).into_iter();
        let counters = counted
            .map(|counter| (counter.name, counter.value))
            .collect();
        let ready = core.ready_count();
        let in_flight = in_flight(&core);
        let given_up = shared.lost.lock().open(now, config.limits.retention);
        let (keys, key_error) = shared.keys.lock().clone();
        let threads = shared.threads();
        let mut status = Status {
            verdict: String::new(),
            ok: false,
            version: crate::VERSION,
            installed: shared.installed.lock().clone(),
            config: config.path.as_ref().map(|path| path.display().to_string()),
            fleet: config.fleet.clone(),
            name: config.name.clone(),
            site: config.site.clone(),
            node: shared.node.to_string(),
            stream: core.own_stream().to_string(),
            reach,
            rates: shared.samples.lock().rates().0,
            peers,
            sources,
            sources_unanswered: known.unanswered,
            peers_left_out: known.left_out,
            isolated: shared.isolated(),
            duplicate_names,
            journal: JournalStatus::take(shared, now),
            streams,
            held,
            held_bytes: core.held_bytes(),
            wanted,
            ready,
            in_flight,
            unsupported,
            refused: shared.refused_held(&core),
            given_up: given_up.map_or(0, |(count, _)| count),
            given_up_ms: given_up.map(|(_, ago)| ago.as_millis() as u64),
            runtime: match threads.runtime {
                RuntimeState::Running => "running",
                RuntimeState::Ended => "ended",
                RuntimeState::GaveUp => "gave up",
            },
            applier: match threads.applier {
                ApplierState::NotStarted => "not started",
                ApplierState::Running => "running",
                ApplierState::Ended => "ended",
            },
            sockets: Vec::new(),
            keys,
            key_error,
            config_error: shared.config_error.lock().clone(),
            config_pending: shared.config_pending.lock().clone(),
            counters,
            notices: Vec::new(),
        };
        drop(core);
        status
            .sockets
            .extend(shared.sockets.iter().map(|socket| SocketStatus {
                address: socket.local.to_string(),
                receive_bytes: socket.receive_bytes,
                send_bytes: socket.send_bytes,
            }));
        let notices = shared.notices.list();
        status.notices.extend(
            notices
                .into_iter()
                .map(|(wall_ms, text)| Notice { wall_ms, text }),
        );
        (status.ok, status.verdict) = status.judge(shared.stopping());
        status
    }
}

pub(crate) fn digest_text(core: &NodeCore, bytes_max: usize) -> String {
    let mut out = String::new();
    let mut left_out = 0;
    for stream in core.streams() {
        let line = stream_line(&stream);
        // Room is kept for the last line.
        if left_out > 0 || out.len() + line.len() + 64 > bytes_max {
            left_out += 1;
        } else {
            out.push_str(&line);
        }
    }
    if left_out > 0 {
        out.push_str(&format!("and {left_out} streams more\n"));
    }
    out
}

/// Ranges shown of a stream: the newest; a stream in trouble may have thousands.
const RANGES_SHOWN: usize = 8;

fn stream_line(stream: &StreamView<'_>) -> String {
    let ranges = |set: &RangeSet| {
        let mut shown = RangeSet::new();
        set.iter()
            .rev()
            .take(RANGES_SHOWN)
            .for_each(|range| shown.insert_range(range));
        match set.range_count().saturating_sub(RANGES_SHOWN) {
            0 => shown.to_string(),
            more => format!("({more} ranges),{shown}"),
        }
    };
    let own = if stream.own { " own" } else { "" };
    let mut line = format!(
        "{}{own} held {} applied {} lacking {}",
        stream.id,
        ranges(stream.held),
        ranges(stream.seen),
        stream.wanted
    );
    if !stream.unsupported.is_empty() {
        let _ = write!(line, " of unknown kind {}", ranges(stream.unsupported));
    }
    line.push('\n');
    line
}

/// A counter or gauge of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Name, in snake case.
    pub name: &'static str,
    /// One line of explanation.
    pub help: &'static str,
    /// Whether it only grows; else it is a gauge.
    pub grows: bool,
    /// Its value.
    pub value: u64,
}

/// What the node, its journal and its core count.
fn counted(shared: &Shared, core: &NodeCore) -> Vec<Counter> {
    let grows = |(name, help, value)| Counter {
        name,
        help,
        grows: true,
        value,
    };
    let mut list: Vec<Counter> = shared.counters.list().into_iter().map(grows).collect();
    let journal = shared.journal.iter();
    let journal = journal.flat_map(|journal| journal::list(&journal.counters()));
    list.extend(journal.map(|(name, help, grows, value)| Counter {
        name,
        help,
        grows,
        value,
    }));
    list.extend(core.stats().list().into_iter().map(grows));
    list
}

/// The lag of the fleet. It grows while nothing is known of the others: 0 would look like the best of all.
fn fleet_lag_ms(shared: &Shared, reach: &Reached, peers: u64, now: Time) -> u64 {
    let alone = peers == 0 && !shared.incomplete.load(Ordering::Relaxed);
    match reach.applied_ms {
        Some(ms) if alone || reach.known > 1 => {
            let until = now - Duration::from_millis(ms);
            shared.applied_until.store(until.as_us(), Ordering::Relaxed);
            ms
        }
        _ => {
            let until = Time::from_us(shared.applied_until.load(Ordering::Relaxed));
            now.since(until).as_millis() as u64
        }
    }
}

pub(crate) fn counters(shared: &Shared) -> Vec<Counter> {
    let gauge = |name, help, value| Counter {
        name,
        help,
        grows: false,
        value,
    };
    let core = shared.core.lock();
    let mut list = counted(shared, &core);
    let up = core.peers().filter(|peer| peer.up).count() as u64;
    let wanted = core
        .streams()
        .fold(0u64, |sum, stream| sum.saturating_add(stream.wanted));
    let peers = shared.peers().count() as u64;
    list.push(gauge(
        "peers",
        "Peers that the sources of members name.",
        peers,
    ));
    let now = sys::boot_clock();
    let reach = Reached::of(&core, now);
    list.push(gauge(
        "fleet_known",
        "Nodes whose news is fresh, this one counted.",
        reach.known,
    ));
    list.push(gauge(
        "fleet_lag_ms",
        "All purges older than this are applied at all nodes whose news is fresh; it grows while there are none.",
        fleet_lag_ms(shared, &reach, peers, now),
    ));
    list.push(gauge(
        "fleet_oldest_news_ms",
        "Age of the oldest news that this rests on.",
        reach.oldest.map_or(0, |(ms, _)| ms),
    ));
    list.push(gauge("peers_up", "Peers heard of lately.", up));
    list.push(gauge(
        "isolated",
        "1 while nothing is served that was cached for longer than limits.max_staleness.",
        u64::from(shared.isolated()),
    ));
    list.push(gauge(
        "held_bytes",
        "Bytes of purges held.",
        core.held_bytes(),
    ));
    list.push(gauge(
        "wanted",
        "Purges known to exist and not received yet.",
        wanted,
    ));
    list.push(gauge(
        "ready",
        "Purges received and waiting for the cache.",
        core.ready_count(),
    ));
    list
}
