//! What an operator may decide about a node.
//!
//! ```toml
//! [node]
//! name = "cache-fra-07"            # default: the host's name
//! site = "fra"                     # default: none
//! listen = "0.0.0.0:4277"          # or a list: one IPv4, one IPv6 address
//! advertise = "192.0.2.7:4277"     # the address that peers know this node by; optional
//!
//! [fleet]
//! name = "production"
//! key_file = "/etc/varnish/powderhorn.key"
//! nodes_file = "/etc/varnish/nodes.conf"             # optional, watched
//! nodes_port = 4277                # default: the port of node.listen
//! dns = ["powderhorn.example.internal:4277"]         # optional, looked up again and again
//! dns_interval = "10s"
//!
//! [[peer]]                         # this node itself may be among them
//! name = "cache-fra-08"            # optional
//! site = "fra"                     # optional
//! address = "192.0.2.8:4277"       # or a host name, looked up as those of fleet.dns
//!
//! [purge]                          # all optional
//! key_headers = ["Surrogate-Key", "xkey"]
//! bans_max = 10000
//! soft_rate = 10000
//!
//! [journal]                        # all optional
//! dir = "/var/lib/powderhorn"
//! bytes = "1GiB"
//! fsync = "never"
//!
//! [log]                            # optional
//! purges = true
//!
//! [limits]                         # all optional
//! retention = "24h"
//! retention_bytes = "256MiB"
//! round = "250ms"
//! ```
//!
//! At run time, by a reload of the VCL: `[[peer]]`, `fleet.nodes_file`, `fleet.nodes_port`, `fleet.dns`,
//! `fleet.dns_interval`, `journal.require`, `log.purges`, and of `limits` all but `join_margin`, `replay_window` and
//! `socket_bytes`. The others take a restart of Varnish, and are named until then; peers and their sources wait for it, too, if
//! `node.listen`, `fleet.name` or `fleet.key_file` differ.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use powderhorn_protocol::bounds::NAME_BYTES_MAX;

use crate::address::{HostName, PeerAddress};
use crate::keys::KeyError;
use crate::sys;

/// Most peers. A purge is sent to each of them, one datagram after the other: beyond this a flat
/// fleet is the wrong shape.
pub const PEERS_MAX: usize = 4_096;

/// Most names in `fleet.dns`.
pub(crate) const NAMES_MAX: usize = 64;

/// Lowest port: varnishd's child has no right to bind lower ones.
pub const PORT_MIN: u16 = 1_024;

/// A node's configuration. [`Config::load`] checks what it reads; whoever fills it in by hand keeps
/// to the ranges given here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that it was read from; `None` for a single node without one.
    pub path: Option<PathBuf>,
    /// `node.name`: unique in the fleet; 1 to 64 characters of visible ASCII. Default: the host's
    /// name. Set it where host names repeat, as in cloned machines.
    pub name: String,
    /// `node.site`: the group of nodes near each other that it belongs to, such as a data centre;
    /// at most 64 characters of visible ASCII, empty for none. Gossip prefers the own site a
    /// little, so that a site that is half cut off still recovers fast.
    pub site: String,
    /// `node.listen`: addresses to receive on and to send from. At most one IPv4 and one IPv6
    /// address, ports 1024 and up; needed where there are peers. Peers take datagrams only from
    /// the address that they know, so do not let it be changed on the way.
    pub listen: Vec<SocketAddr>,
    /// `node.advertise`: the address that peers know this node by. Needed only where it is not an
    /// address of the host (NAT) and the peer list has this node in it.
    pub advertise: Option<SocketAddr>,
    /// `fleet.name`: nodes of fleets with other names cannot open this fleet's datagrams. Default
    /// "powderhorn".
    pub fleet: String,
    /// `fleet.key_file`: see the module `keys`; needed where there are peers. An absolute path, to a
    /// file that the cache's user can read and others cannot.
    pub key_file: Option<PathBuf>,
    /// `peer`: the other nodes. What names this node itself is left out.
    pub peers: Vec<PeerConfig>,
    /// `fleet.nodes_file`, `fleet.dns` and what belongs to them.
    pub discovery: Discovery,
    /// `purge`.
    pub purge: PurgeConfig,
    /// `journal`.
    pub journal: JournalConfig,
    /// `log`.
    pub log: LogConfig,
    /// `limits`.
    pub limits: Limits,
}

/// How purges are kept on disk, so that one that was acknowledged survives its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalConfig {
    /// `journal.dir`: the state directory, an absolute path that the cache's user can write to; one for
    /// each node. "" for no journal: purges are held in memory. Default: [`JOURNAL_DIR`]; without a
    /// configuration file there is no journal.
    pub dir: Option<PathBuf>,
    /// `journal.bytes`: most bytes in it. 16 MiB to 1 TiB; default 1 GiB, which is 20 million purges of URLs.
    /// When they run out before the retention is over, the oldest purges go.
    pub bytes: u64,
    /// `journal.fsync`: "never", the default: a purge that was answered survives the death of varnishd, but
    /// the last few may be lost with the power; or "always": it survives that, too, and each answer waits
    /// for the disk.
    pub fsync: bool,
    /// `journal.wait`: how long the answer to a purge waits for the journal. 1 ms to 10 s; default 50 ms.
    pub wait: Duration,
    /// `journal.require`: whether a purge that is not in the journal is answered as an error. It is applied and
    /// sent all the same. Default: false.
    pub require: bool,
}

/// The state directory, if none is named.
pub const JOURNAL_DIR: &str = "/var/lib/powderhorn";

impl Default for JournalConfig {
    /// No journal.
    fn default() -> Self {
        JournalConfig {
            dir: None,
            bytes: 1 << 30,
            fsync: false,
            wait: Duration::from_millis(50),
            require: false,
        }
    }
}

/// What goes to Varnish's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `log.purges`: whether each purge that is applied here has a record of its own (tag VCL_Log, `varnishlog -g
    /// raw`): its id, its kind, how many objects it took, how long it took from its issue, and whose it is.
    /// Default: true. Each takes about 150 bytes of `vsl_space`.
    pub purges: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { purges: true }
    }
}

/// How purges are applied to the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeConfig {
    /// `purge.key_headers`: response headers that an object's surrogate keys are read from, in any
    /// case; 1 to 32 names of at most 100 characters. Default: [`KEY_HEADERS`]. X-Powderhorn-Keys, where
    /// VCL files of some clients put theirs, is read besides. Each node of a fleet should have the same.
    pub key_headers: Vec<String>,
    /// `purge.bans_max`: live bans in varnishd, anybody's, beyond which no more of ours are added:
    /// each costs every object's next hit some 50 ns. 16 to 1,000,000; default 10,000. A ban that is
    /// issued here is then refused, one of another node waits until there is room.
    pub bans_max: u64,
    /// `purge.soft_rate`: objects per second that a soft purge of everything takes the TTL of, so
    /// that the origin is not asked for all of them at once. 1 to 10,000,000; default 10,000.
    pub soft_rate: u64,
}

/// Response headers that surrogate keys come in, from whichever application.
pub const KEY_HEADERS: [&str; 9] = [
    "Surrogate-Key",
    "xkey",
    "Cache-Tag",
    "Cache-Tags",
    "X-Cache-Tags",
    "Purge-Cache-Tags",
    "X-Key-Tags",
    "X-Magento-Tags",
    "Cache-Groups",
];

impl Default for PurgeConfig {
    fn default() -> Self {
        PurgeConfig {
            key_headers: KEY_HEADERS.map(str::to_owned).into(),
            bans_max: 10_000,
            soft_rate: 10_000,
        }
    }
}

/// Another node of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// `peer.name`: for people; empty if not given.
    pub name: String,
    /// `peer.site`: as `node.site`; empty for none.
    pub site: String,
    /// `peer.address`: where it receives and sends from: an IP address or a host name, and a port of
    /// 1024 and up. A name is looked up each `fleet.dns_interval`; if it leads to several
    /// addresses, each is a peer.
    pub address: PeerAddress,
}

/// Sources of peers that change by themselves. All sources add up, and what names this node itself
/// is left out. A source that fails keeps the peers that it gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// `fleet.nodes_file`: a file that lists nodes, as Varnish's own discovery tools write it
    /// (sections are sites, entries `name = address`; see the module `nodes`). An absolute path. It
    /// is looked at once a second; one that is not there yet, or has a mistake in it, is said loudly
    /// and changes nothing.
    pub nodes_file: Option<PathBuf>,
    /// `fleet.nodes_port`: the port of all nodes in that file; 1024 to 65535. Ports in the file are
    /// HTTP's and do not count. Default: the port of `node.listen`, of its first address.
    pub nodes_port: Option<u16>,
    /// `fleet.dns`: names that lead to nodes, such as that of a headless service, each with a
    /// port: at most 64. All A and AAAA records count; of a name that has both, those of the family of
    /// `node.listen`'s first address.
    pub dns: Vec<HostName>,
    /// `fleet.dns_interval`: how long after an answer a name is looked up again. 1 second to 1 hour;
    /// default 10 seconds. An address goes when it is missing from three answers in a row.
    pub dns_interval: Duration,
}

impl Default for Discovery {
    fn default() -> Self {
        Discovery {
            nodes_file: None,
            nodes_port: None,
            dns: Vec::new(),
            dns_interval: Duration::from_secs(10),
        }
    }
}

/// Bounds that an operator may move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `limits.retention`: how long a purge is held for nodes that missed it. 1 minute to 30 days;
    /// default 24 hours. A node that missed one for longer flushes its cache.
    pub retention: Duration,
    /// `limits.retention_bytes`: memory for purges held, about 130 bytes each, where there is no journal. 1 MiB to 64 GiB;
    /// default 256 MiB, which is two million purges. Beyond it the oldest go first.
    pub retention_bytes: u64,
    /// `limits.round`: time between two digests to a random peer. 20 ms to 1 minute; default
    /// 250 ms. A lost purge is mended within about one round; shorter rounds cost more datagrams.
    pub round: Duration,
    /// `limits.own_site_percent`: share of rounds that go to the own site. 0 to 95; default 30.
    pub own_site_percent: u32,
    /// `limits.repair_bytes_peer`: repairs sent to one peer in a round. 4 KiB to 1 GiB; default
    /// 128 KiB. More recovers faster from a long cut and makes larger bursts.
    pub repair_bytes_peer: u64,
    /// `limits.repair_bytes_all`: repairs sent to all peers in a round. 4 KiB to 1 GiB; default
    /// 512 KiB, which is 2 MiB a second.
    pub repair_bytes_all: u64,
    /// `limits.join_margin`: a purge older than the cache by more than this is skipped: nothing in
    /// the cache can predate it. 0 to 30 days; default 10 minutes. Raise it where a shield or an
    /// origin's cache may hand out objects that are older.
    pub join_margin: Duration,
    /// `limits.max_staleness`: how long this node may hear of no other before its cache is held to be stale:
    /// `isolated()` in VCL is then true, until what was missed has come, and the shipped VCL serves no object
    /// that is older than this. 1 s to 30 days, and four rounds or more; "off" for never, the default.
    pub max_staleness: Option<Duration>,
    /// `limits.replay_window`: datagrams by which one may be overtaken and still count. 1,024 to
    /// 16,777,216; default 65,536. Takes a bit of memory each, for each peer.
    pub replay_window: u64,
    /// `limits.apply_batch`: purges handed to the cache at a time. 1 to 4,096; default 64: enough to
    /// make the core's lock cheap, few enough to be applied in well under a millisecond. The others
    /// wait outside, as ranges, at no cost.
    pub apply_batch: usize,
    /// `limits.socket_bytes`: receive and send buffer asked of the kernel for each socket.
    /// 64 KiB to 1 GiB; default 8 MiB, which takes some 5,000 datagrams while the process pauses.
    /// The kernel caps it at `net.core.rmem_max` and `wmem_max`; status shows what was granted.
    pub socket_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let core = powderhorn_protocol::config::Config::default();
        Limits {
            retention: core.retention,
            retention_bytes: core.retention_bytes,
            round: core.round,
            own_site_percent: core.own_site_percent,
            repair_bytes_peer: core.repair_bytes_peer,
            repair_bytes_all: core.repair_bytes_all,
            join_margin: core.join_margin,
            max_staleness: None,
            replay_window: core.replay_window,
            apply_batch: 64,
            socket_bytes: 8 << 20,
        }
    }
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key and what is wrong with it.
        problem: String,
    },
    /// The file that `fleet.key_file` names cannot be used.
    #[error("{}:{line}: fleet.key_file: {source}", path.display())]
    Keys {
        /// The file that names the key file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with the key file.
        source: KeyError,
    },
}

impl Config {
    /// A node without peers, which purges itself only.
    pub fn single_node() -> Config {
        Config {
            path: None,
            name: host_name(),
            site: String::new(),
            listen: Vec::new(),
            advertise: None,
            fleet: "powderhorn".into(),
            key_file: None,
            peers: Vec::new(),
            discovery: Discovery::default(),
            purge: PurgeConfig::default(),
            journal: JournalConfig::default(),
            log: LogConfig::default(),
            limits: Limits::default(),
        }
    }

    /// Reads and checks a file, and the key file that it names.
    pub fn load(path: impl AsRef<Path>) -> Result<Config, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        crate::parse::parse(path, &text)
    }

    /// Whether there may be peers.
    pub(crate) fn has_peers(&self) -> bool {
        let Discovery {
            nodes_file, dns, ..
        } = &self.discovery;
        !self.peers.is_empty() || nodes_file.is_some() || !dns.is_empty()
    }

    /// Where it comes from, for people: the file's path.
    pub fn source(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "no config (single node)".into(),
        }
    }

    pub(crate) fn for_core(&self) -> powderhorn_protocol::config::Config {
        let limits = &self.limits;
        powderhorn_protocol::config::Config {
            name: self.name.clone(),
            site: self.site.clone(),
            round: limits.round,
            own_site_percent: limits.own_site_percent,
            repair_bytes_peer: limits.repair_bytes_peer,
            repair_bytes_all: limits.repair_bytes_all,
            retention: limits.retention,
            retention_bytes: limits.retention_bytes,
            join_margin: limits.join_margin,
            replay_window: limits.replay_window,
            news: true,
        }
    }
}

/// The host's name, as far as it is fit for a node's.
fn host_name() -> String {
    let name: String = sys::host_name()
        .chars()
        .filter(char::is_ascii_graphic)
        .take(NAME_BYTES_MAX)
        .collect();
    if name.is_empty() {
        "localhost".into()
    } else {
        name
    }
}
