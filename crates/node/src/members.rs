//! Who is in the fleet: one list out of three sources.
//!
//! | source | changes |
//! |---|---|
//! | `[[peer]]` in the configuration | with a reload |
//! | `fleet.nodes_file` | when the file does; looked at once a second |
//! | `fleet.dns` | each `fleet.dns_interval`, with what the names lead to |
//!
//! Sources add up, and a peer that several of them have is one peer. A source that fails keeps the
//! peers that it gave. Entries of the first two may have host names, which are then looked up as
//! those of the third.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use powderhorn_protocol::time::Time;

use crate::address::{HostName, PeerAddress, family, same_family};
use crate::config::{Config, PEERS_MAX, PeerConfig};
use crate::lookup::Lookups;
use crate::nodes::{self, NodesError};
use crate::watch::Stamp;
use crate::{net, sys};

/// Where a peer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Static,
    File,
    Dns(HostName),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Static => f.write_str("static"),
            Source::File => f.write_str("file"),
            Source::Dns(name) => write!(f, "dns {name}"),
        }
    }
}

/// Since when something has failed, and why it did the last time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub since_wall_ms: u64,
    pub text: String,
}

impl Failure {
    /// It has failed, again or for the first time.
    pub fn note(slot: &mut Option<Failure>, text: String) {
        let since_wall_ms = slot
            .take()
            .map_or_else(sys::wall_clock_ms, |f| f.since_wall_ms);
        *slot = Some(Failure {
            since_wall_ms,
            text,
        });
    }
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub address: SocketAddr,
    /// As its sources say; empty if none does.
    pub name: String,
    pub site: String,
    pub sources: Vec<Source>,
}

/// The peers that the sources ask for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub peers: Vec<Member>,
    /// Beyond the most peers that there may be.
    pub left_out: usize,
    /// Of a family that this node does not listen on.
    pub unreachable: Vec<(SocketAddr, Source)>,
}

impl Wanted {
    /// What is asked for and is no peer, and why.
    pub fn left_out(&self) -> Option<String> {
        if let Some((address, source)) = self.unreachable.first() {
            let (count, family) = (self.unreachable.len(), family(*address));
            return Some(format!(
                "{count} peers cannot be reached, {address} ({source}) first: node.listen has no {family} address"
            ));
        }
        let left_out = self.left_out;
        (left_out > 0)
            .then(|| format!("there may be at most {PEERS_MAX} peers: {left_out} are left out"))
    }
}

/// The state of a source, for the status.
#[derive(Clone, Debug)]
pub(crate) struct SourceState {
    pub source: String,
    pub failure: Option<Failure>,
}

/// The state of all sources, for the status.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourcesState {
    pub each: Vec<SourceState>,
    /// One of them has never said anything.
    pub unanswered: bool,
    /// See [`Wanted::left_out`].
    pub left_out: Option<String>,
}

/// The nodes file, and what it said when it was last fit to be used.
#[derive(Debug)]
struct NodesFile {
    path: PathBuf,
    port: u16,
    /// The state last tried; the outer `None` if none was.
    tried: Option<Option<Stamp>>,
    nodes: Vec<PeerConfig>,
    failure: Option<Failure>,
}

/// All sources.
#[derive(Debug)]
pub(crate) struct Members {
    listed: Vec<PeerConfig>,
    file: Option<NodesFile>,
    dns: Vec<HostName>,
    interval: Duration,
    pub lookups: Lookups,
    advertise: Option<SocketAddr>,
    /// The addresses that this node receives on.
    locals: Vec<SocketAddr>,
    /// Whether an address is this node's, for those that the sources have now.
    own: HashMap<SocketAddr, bool>,
    /// Of what the sources have now; see [`Wanted::left_out`].
    left_out: Option<String>,
}

impl Members {
    /// Sources of a node that receives on `locals`.
    pub fn new(now: Time, config: &Config, locals: Vec<SocketAddr>) -> Members {
        let mut members = Members {
            listed: Vec::new(),
            file: None,
            dns: Vec::new(),
            interval: Duration::ZERO,
            lookups: Lookups::default(),
            advertise: config.advertise,
            locals,
            own: HashMap::new(),
            left_out: None,
        };
        members.set(now, config);
        members
    }

    /// Takes the sources of another configuration. One that both have goes on as it was.
    pub fn set(&mut self, now: Time, config: &Config) {
        self.listed = config.peers.clone();
        self.dns = config.discovery.dns.clone();
        self.interval = config.discovery.dns_interval;
        let local_port = || self.locals.first().map(SocketAddr::port);
        let port = config.discovery.nodes_port.or_else(local_port).unwrap_or(0);
        let before = self.file.take();
        let same = |file: &NodesFile, path: &Path| file.path == path && file.port == port;
        self.file = config.discovery.nodes_file.as_ref().map(|path| {
            before.filter(|file| same(file, path)).unwrap_or(NodesFile {
                path: path.clone(),
                port,
                tried: None,
                nodes: Vec::new(),
                failure: None,
            })
        });
        self.set_names(now);
    }

    fn set_names(&mut self, now: Time) {
        let in_file = self.file.iter().flat_map(|file| &file.nodes);
        let named = self.listed.iter().chain(in_file);
        let names = named.filter_map(|peer| match &peer.address {
            PeerAddress::Name(name) => Some(name.clone()),
            PeerAddress::Fixed(_) => None,
        });
        let names: Vec<HostName> = names.chain(self.dns.iter().cloned()).collect();
        self.lookups.set_names(now, names);
    }

    /// Whether a source has never said anything: there may be peers that nobody has told of yet.
    fn unanswered(&self) -> bool {
        // A file that is fit to be used names a node.
        self.file.as_ref().is_some_and(|file| file.nodes.is_empty()) || self.lookups.unanswered()
    }

    /// Whether the peers are not all nodes that there are, or may not be.
    pub fn incomplete(&self) -> bool {
        self.unanswered() || self.left_out.is_some()
    }

    /// How long after an answer the next lookup of a name is due.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Reads the nodes file if it has changed: how many nodes it names, or why it is not used.
    /// `None` for no change, or while it is being written.
    pub fn poll_file(&mut self, now: Time) -> Option<Result<usize, NodesError>> {
        let file = self.file.as_mut()?;
        // Looked at before it is read: a change in between is read once more, not missed.
        let stamp = Stamp::of(&file.path);
        let first = file.tried.is_none();
        if file.tried == Some(stamp) || !first && stamp.is_some_and(|stamp| !stamp.settled()) {
            return None;
        }
        file.tried = Some(stamp);
        let read = nodes::load(&file.path, file.port);
        match read {
            Ok(nodes) => {
                file.failure = None;
                file.nodes = nodes;
                let count = file.nodes.len();
                self.set_names(now);
                Some(Ok(count))
            }
            Err(error) => {
                Failure::note(&mut file.failure, error.to_string());
                Some(Err(error))
            }
        }
    }

    /// The peers that all sources together ask for, in the order of their addresses.
    pub fn wanted(&mut self) -> Wanted {
        let mut wanted = Wanted::default();
        let mut peers: BTreeMap<SocketAddr, Member> = BTreeMap::new();
        let mut own = HashMap::new();
        for (source, entry) in self.entries() {
            for address in self.places(&entry.address) {
                let known = own
                    .get(&address)
                    .or_else(|| self.own.get(&address))
                    .copied();
                let is_own = known.unwrap_or_else(|| self.is_own(address));
                own.insert(address, is_own);
                if is_own {
                    continue;
                }
                if !self.locals.iter().any(|local| same_family(*local, address)) {
                    // This node itself may be listed by both families.
                    let ours = |local: &SocketAddr| local.port() == address.port();
                    if self.locals.iter().any(ours) && net::is_local(address) {
                        continue;
                    }
                    wanted.unreachable.push((address, source.clone()));
                    continue;
                }
                if let Some(peer) = peers.get_mut(&address) {
                    let fill = |to: &mut String, from: &String| {
                        if to.is_empty() {
                            to.clone_from(from);
                        }
                    };
                    fill(&mut peer.name, &entry.name);
                    fill(&mut peer.site, &entry.site);
                    if !peer.sources.contains(&source) {
                        peer.sources.push(source.clone());
                    }
                } else if peers.len() == PEERS_MAX {
                    wanted.left_out += 1;
                } else {
                    let peer = Member {
                        address,
                        name: entry.name.clone(),
                        site: entry.site.clone(),
                        sources: vec![source.clone()],
                    };
                    peers.insert(address, peer);
                }
            }
        }
        self.own = own;
        wanted.peers = peers.into_values().collect();
        self.left_out = wanted.left_out();
        wanted
    }

    /// What each source asks for. A name of `fleet.dns` says nothing of its nodes.
    fn entries(&self) -> Vec<(Source, PeerConfig)> {
        let listed = self
            .listed
            .iter()
            .map(|peer| (Source::Static, peer.clone()));
        let in_file = self.file.iter().flat_map(|file| &file.nodes);
        let in_file = in_file.map(|peer| (Source::File, peer.clone()));
        let named = self.dns.iter().map(|name| {
            let peer = PeerConfig {
                name: String::new(),
                site: String::new(),
                address: PeerAddress::Name(name.clone()),
            };
            (Source::Dns(name.clone()), peer)
        });
        listed.chain(in_file).chain(named).collect()
    }

    /// Where an entry leads to. A name that has addresses of both families most likely has nodes
    /// with an address of each, and a node is one peer: those of the first family listened on count.
    fn places(&self, address: &PeerAddress) -> Vec<SocketAddr> {
        let name = match address {
            PeerAddress::Fixed(address) => return vec![*address],
            PeerAddress::Name(name) => name,
        };
        for local in &self.locals {
            let of_family = |address: &SocketAddr| same_family(*local, *address);
            let places: Vec<_> = self.lookups.addresses(name).filter(of_family).collect();
            if !places.is_empty() {
                return places;
            }
        }
        self.lookups.addresses(name).collect()
    }

    /// Whether an address is this node's. It is known by its address only: a name may be somebody
    /// else's by mistake, and then both must meet so that the mistake is noticed.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.advertise == Some(address)
            || self.locals.iter().any(|&local| {
                let wildcard = local.ip().is_unspecified()
                    && local.port() == address.port()
                    && same_family(local, address);
                local == address || (wildcard && net::is_local(address))
            })
    }

    /// Sources that have to be asked again and again, and how they are.
    pub fn states(&self) -> SourcesState {
        let file = self.file.iter().map(|file| SourceState {
            source: format!("file {}", file.path.display()),
            failure: file.failure.clone(),
        });
        let named = self.dns.iter().map(|name| SourceState {
            source: Source::Dns(name.clone()).to_string(),
            failure: self.lookups.failure(name).cloned(),
        });
        // Names in the other sources, if there is something to be said of them.
        let elsewhere = self.lookups.failing();
        let elsewhere = elsewhere.filter(|(name, _)| !self.dns.contains(name));
        let elsewhere = elsewhere.map(|(name, failure)| SourceState {
            source: format!("name {name}"),
            failure: Some(failure.clone()),
        });
        SourcesState {
            each: file.chain(named).chain(elsewhere).collect(),
            unanswered: self.unanswered(),
            left_out: self.left_out.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
