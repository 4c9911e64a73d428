//! The state of a node, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use powderhorn_protocol::StreamView;
use powderhorn_protocol::ranges::RangeSet;
use serde::Serialize;

use crate::node::{ApplierState, NodeCore, RuntimeState, Shared};
use crate::sys;

/// The state of a node and, as far as it knows, of its fleet, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// What to look at first, in one line.
    pub verdict: String,
    /// This library's version.
    pub version: &'static str,
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
    /// Peers, those that need attention first.
    pub peers: Vec<PeerStatus>,
    /// Names used by more than one node, each with the addresses that use it.
    pub duplicate_names: Vec<DuplicateName>,
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
    /// Messages of kinds that this version cannot apply; they are passed on.
    pub unsupported: u64,
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
    /// All counters, by name.
    pub counters: std::collections::BTreeMap<&'static str, u64>,
    /// The latest notices, oldest first.
    pub notices: Vec<Notice>,
}

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
    /// Smoothed round trip in microseconds.
    pub rtt_us: Option<u64>,
    /// Its node id; null until it is met.
    pub node: Option<String>,
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

impl PeerStatus {
    /// Its name, if it is known.
    fn who(&self) -> &str {
        if self.name.is_empty() {
            &self.address
        } else {
            &self.name
        }
    }
}

/// How many messages are held and neither waiting for the cache nor answered by it.
fn in_flight(core: &NodeCore) -> u64 {
    let mut unanswered = 0u64;
    for stream in core.streams() {
        let answered = |set: &RangeSet| {
            let parts = stream.held.iter().flat_map(|range| set.within(range));
            parts.fold(0u64, |n, part| n + (part.end() - part.start() + 1))
        };
        let held = stream.held.count();
        unanswered += held.saturating_sub(answered(stream.seen) + answered(stream.unsupported));
    }
    unanswered.saturating_sub(core.ready_count())
}

impl Status {
    pub(crate) fn take(shared: &Shared) -> Status {
        let core = shared.core.lock();
        let now = sys::boot_clock();
        let mut peers = Vec::new();
        let mut by_node = std::collections::BTreeMap::<_, Vec<(String, String)>>::new();
        by_node
            .entry(shared.node)
            .or_default()
            .push((shared.config.name.clone(), "this node".into()));
        for (view, config) in core.peers().zip(&shared.peers) {
            let told = |configured: &str, told: &str| {
                if configured.is_empty() {
                    told.to_owned()
                } else {
                    configured.to_owned()
                }
            };
            let address = config.address.to_string();
            if let Some(session) = view.session.filter(|_| view.up) {
                let name = if view.name.is_empty() {
                    config.name.clone()
                } else {
                    view.name.clone()
                };
                by_node
                    .entry(session.node)
                    .or_default()
                    .push((name, address.clone()));
            }
            peers.push(PeerStatus {
                name: told(&config.name, &view.name),
                site: told(&config.site, &view.site),
                address,
                state: if view.up {
                    "up"
                } else if view.session.is_some() {
                    "silent"
                } else {
                    "unknown"
                },
                heard_ms: view.heard.map(|heard| now.since(heard).as_millis() as u64),
                rtt_us: view.rtt.map(|rtt| rtt.as_micros() as u64),
                node: view.session.map(|session| session.node.to_string()),
            });
        }
        let rank = |peer: &PeerStatus| (peer.state == "up", peer.heard_ms.map(std::cmp::Reverse));
        peers.sort_by_key(rank);
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
        let mut counters: std::collections::BTreeMap<_, _> = shared
            .counters
            .list()
            .into_iter()
            .map(|(name, _, value)| (name, value))
            .collect();
        counters.extend(
            core.stats()
                .list()
                .into_iter()
                .map(|(name, _, value)| (name, value)),
        );
        let ready = core.ready_count();
        let in_flight = in_flight(&core);
        let (keys, key_error) = shared.keys.lock().clone();
        let threads = shared.threads();
        let mut status = Status {
            verdict: String::new(),
            version: crate::VERSION,
            config: shared
                .config
                .path
                .as_ref()
                .map(|path| path.display().to_string()),
            fleet: shared.config.fleet.clone(),
            name: shared.config.name.clone(),
            site: shared.config.site.clone(),
            node: shared.node.to_string(),
            stream: core.own_stream().to_string(),
            peers,
            duplicate_names,
            streams,
            held,
            held_bytes: core.held_bytes(),
            wanted,
            ready,
            in_flight,
            unsupported,
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
        status.verdict = status.judge(shared.stopping());
        status
    }

    /// The verdict is about this node: what its peers have applied, it does not know.
    fn judge(&self, stopping: bool) -> String {
        let down: Vec<&PeerStatus> = self
            .peers
            .iter()
            .filter(|peer| peer.state != "up")
            .collect();
        let mut troubles = Vec::new();
        if stopping {
            troubles.push("stopping".to_owned());
        }
        if self.runtime == "gave up" {
            troubles.push(
                "the runtime gave up: neither sends nor receives; restart varnish".to_owned(),
            );
        }
        if self.applier != "running" && !stopping && (self.ready > 0 || !self.peers.is_empty()) {
            troubles.push(format!(
                "the apply thread is {}: the fleet's purges are not applied",
                self.applier
            ));
        }
        for duplicate in &self.duplicate_names {
            troubles.push(format!(
                "the name {} is used by {}",
                duplicate.name,
                duplicate.addresses.join(" and ")
            ));
        }
        if let Some(worst) = down.first() {
            troubles.push(format!(
                "{} of {} peers not heard, {} first",
                down.len(),
                self.peers.len(),
                worst.who()
            ));
        }
        if self.wanted > 0 {
            troubles.push(format!("{} purges known and not yet received", self.wanted));
        }
        let waiting = self.ready + self.in_flight;
        // A few are always under way when purges pour in.
        if waiting > WAITING_FINE {
            troubles.push(format!("{waiting} purges wait for the cache"));
        }
        if self.unsupported > 0 {
            troubles.push(format!(
                "{} purges are of a later version and NOT applied here: upgrade this node",
                self.unsupported
            ));
        }
        if let Some(error) = &self.key_error {
            troubles.push(format!("the changed key file is not used: {error}"));
        }
        // All that is said here is as old as the news that it rests on.
        let heard = |peer: &PeerStatus| Some((peer.heard_ms?, peer.who().to_owned()));
        let oldest = self.peers.iter().filter(|peer| peer.state == "up");
        let fresh = match oldest.filter_map(heard).max() {
            Some((ms, from)) => format!("; oldest news {:.1} s, from {from}", ms as f64 / 1e3),
            None => String::new(),
        };
        if !troubles.is_empty() {
            return troubles.join("; ") + &fresh;
        }
        let applied = match waiting {
            0 => "all purges known here applied here".to_owned(),
            n => format!("all purges known here applied here but the latest {n}"),
        };
        match self.peers.len() {
            0 => format!("ok: a single node, {applied}"),
            n => format!("ok: {n} of {n} peers up, {applied}{fresh}"),
        }
    }

    /// The status for people. The first line is the verdict.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}", self.verdict)?;
        let site = if self.site.is_empty() {
            "-"
        } else {
            &self.site
        };
        writeln!(
            out,
            "\nnode     {}  site {site}  fleet {}  version {}",
            self.name, self.fleet, self.version
        )?;
        writeln!(
            out,
            "config   {}",
            self.config.as_deref().unwrap_or("none: a single node")
        )?;
        writeln!(out, "stream   {}", self.stream)?;
        for socket in &self.sockets {
            writeln!(
                out,
                "socket   {}  receive buffer {} B  send buffer {} B",
                socket.address, socket.receive_bytes, socket.send_bytes
            )?;
        }
        if let Some((first, others)) = self.keys.split_first() {
            let others = others
                .iter()
                .fold(String::new(), |text, key| text + " " + key);
            writeln!(out, "keys     {first} (seals){others}")?;
        }
        writeln!(
            out,
            "threads  runtime {}, applier {}",
            self.runtime, self.applier
        )?;
        writeln!(
            out,
            "purges   {} held ({} B) in {} streams, {} wanted, {} waiting for the cache, {} in flight",
            self.held, self.held_bytes, self.streams, self.wanted, self.ready, self.in_flight
        )?;
        for duplicate in &self.duplicate_names {
            writeln!(
                out,
                "DUPLICATE NAME  {}: {}",
                duplicate.name,
                duplicate.addresses.join(", ")
            )?;
        }
        if !self.peers.is_empty() {
            writeln!(
                out,
                "\n{:<8} {:<24} {:<12} {:<28} {:>10} {:>10}",
                "peer", "name", "site", "address", "heard", "rtt"
            )?;
        }
        for peer in &self.peers {
            let heard = peer
                .heard_ms
                .map_or("never".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1e3));
            let rtt = peer
                .rtt_us
                .map_or("-".to_owned(), |us| format!("{:.2} ms", us as f64 / 1e3));
            let or_dash = |text: &str| {
                if text.is_empty() {
                    "-".to_owned()
                } else {
                    text.to_owned()
                }
            };
            writeln!(
                out,
                "{:<8} {:<24} {:<12} {:<28} {heard:>10} {rtt:>10}",
                peer.state,
                or_dash(&peer.name),
                or_dash(&peer.site),
                peer.address
            )?;
        }
        writeln!(out, "\ncounters that are not zero")?;
        for (name, value) in self.counters.iter().filter(|(_, value)| **value > 0) {
            writeln!(out, "{value:>14} {name}")?;
        }
        if !self.notices.is_empty() {
            writeln!(out, "\nlatest notices")?;
        }
        let now = sys::wall_clock_ms();
        for notice in &self.notices {
            let ago = Duration::from_millis(now.saturating_sub(notice.wall_ms));
            writeln!(out, "{:>8.1} s ago  {}", ago.as_secs_f64(), notice.text)?;
        }
        Ok(())
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

pub(crate) fn counters(shared: &Shared) -> Vec<Counter> {
    let grows = |(name, help, value)| Counter {
        name,
        help,
        grows: true,
        value,
    };
    let gauge = |name, help, value| Counter {
        name,
        help,
        grows: false,
        value,
    };
    let mut list: Vec<Counter> = shared.counters.list().into_iter().map(grows).collect();
    let core = shared.core.lock();
    list.extend(core.stats().list().into_iter().map(grows));
    let up = core.peers().filter(|peer| peer.up).count() as u64;
    let wanted = core
        .streams()
        .fold(0u64, |sum, stream| sum.saturating_add(stream.wanted));
    list.push(gauge(
        "peers",
        "Peers configured.",
        shared.peers.len() as u64,
    ));
    list.push(gauge("peers_up", "Peers heard of lately.", up));
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
