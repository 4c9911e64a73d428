//! The configuration file. Every error names file, line and key, and a file with an error in it is
//! not used at all: a key that is not known is an error too.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use powderhorn_protocol::bounds::NAME_BYTES_MAX;
use serde::Deserialize;
use toml::Spanned;

/// What a configuration may hold at most: beyond, one flat list of peers is the wrong tool.
pub const PEERS_MAX: usize = 10_000;

/// The checked configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file that it was read from; `None` for a single node without one.
    pub path: Option<PathBuf>,
    /// Name of this node, unique in the fleet: 1 to 64 characters of visible ASCII. Default: the
    /// host's name.
    pub name: String,
    /// The group of near nodes that it belongs to, e.g. a data centre: at most 64 characters of
    /// visible ASCII; empty for none.
    pub site: String,
    /// Addresses that it receives on. One per address family at most; empty if there are no peers.
    pub listen: Vec<SocketAddr>,
    /// The address that its peers know it by.
    pub advertise: Option<SocketAddr>,
    /// Name of the fleet: nodes of other fleets cannot open its datagrams. Default "powderhorn".
    pub fleet: String,
    /// File of the fleet's keys. Required if there are peers.
    pub key_file: Option<PathBuf>,
    /// The other nodes.
    pub peers: Vec<PeerConfig>,
    /// See [`Limits`].
    pub limits: Limits,
}

/// Another node of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name, for people; empty if the file does not say.
    pub name: String,
    /// Its site; empty for none.
    pub site: String,
    /// Where it receives, and from where it sends.
    pub address: SocketAddr,
}

/// Bounds that an operator may move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a purge is held for peers that missed it. 1 minute to 30 days; default 24 hours.
    pub retention: Duration,
    /// Memory for held purges, about 130 bytes each; the oldest go first. 1 MiB to 64 GiB; default
    /// 256 MiB.
    pub retention_bytes: u64,
    /// Time between two digests. 20 ms to 1 minute; default 250 ms. Shorter recovers faster.
    pub round: Duration,
    /// Repairs to one peer in a round, in bytes. 4 KiB to 1 GiB; default 128 KiB.
    pub repair_bytes_peer: u64,
    /// Repairs to all peers in a round, in bytes. 4 KiB to 1 GiB; default 512 KiB.
    pub repair_bytes_all: u64,
    /// Socket buffers asked for, in bytes. 64 KiB to 1 GiB; default 8 MiB.
    pub socket_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            retention: Duration::from_secs(24 * 3_600),
            retention_bytes: 256 << 20,
            round: Duration::from_millis(250),
            repair_bytes_peer: 128 << 10,
            repair_bytes_all: 512 << 10,
            socket_bytes: 8 << 20,
        }
    }
}

/// Why a configuration is not used. Displays as `file:line: key: problem`.
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
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    node: RawNode,
    #[serde(default)]
    fleet: RawFleet,
    #[serde(default)]
    peer: Vec<Spanned<RawPeer>>,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Option<Spanned<String>>,
    site: Option<Spanned<String>>,
    listen: Option<OneOrMore>,
    advertise: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an address or a list of addresses")]
enum OneOrMore {
    One(Spanned<String>),
    More(Vec<Spanned<String>>),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawFleet {
    name: Option<Spanned<String>>,
    key_file: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeer {
    name: Option<Spanned<String>>,
    site: Option<Spanned<String>>,
    address: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    retention: Option<Spanned<String>>,
    retention_bytes: Option<Spanned<String>>,
    round: Option<Spanned<String>>,
    repair_bytes_peer: Option<Spanned<String>>,
    repair_bytes_all: Option<Spanned<String>>,
    socket_bytes: Option<Spanned<String>>,
}

/// Turns byte offsets of a text into errors with line numbers.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn error(&self, span: Range<usize>, problem: impl fmt::Display) -> ConfigError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        ConfigError::Invalid {
            path: self.path.into(),
            line,
            problem: problem.to_string(),
        }
    }

    fn name(&self, key: &str, raw: &Spanned<String>, empty: bool) -> Result<String, ConfigError> {
        let name = raw.get_ref();
        let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || name.len() > NAME_BYTES_MAX || (name.is_empty() && !empty) {
            let least = if empty { 0 } else { 1 };
            let problem = format!(
                "{key}: {least} to {NAME_BYTES_MAX} characters of visible ASCII without spaces, not {name:?}"
            );
            return Err(self.error(raw.span(), problem));
        }
        Ok(name.clone())
    }

    fn address(&self, key: &str, raw: &Spanned<String>) -> Result<SocketAddr, ConfigError> {
        let text = raw.get_ref();
        let Ok(address) = text.parse::<SocketAddr>() else {
            let problem = format!(
                "{key}: an IP address and a port, such as \"192.0.2.8:4277\" or \"[2001:db8::8]:4277\", not {text:?} (host names are not looked up yet)"
            );
            return Err(self.error(raw.span(), problem));
        };
        if address.port() < 1_024 {
            let problem = format!(
                "{key}: port 1024 or above, not {}: varnishd's child may not bind lower ones",
                address.port()
            );
            return Err(self.error(raw.span(), problem));
        }
        Ok(canonical(address))
    }

    fn number(
        &self,
        key: &str,
        at: Range<usize>,
        value: u64,
        range: (u64, u64),
        unit: &str,
    ) -> Result<u64, ConfigError> {
        if value < range.0 || value > range.1 {
            let problem = format!("{key}: {} to {}{unit}, not {value}{unit}", range.0, range.1);
            return Err(self.error(at, problem));
        }
        Ok(value)
    }

    fn bytes(
        &self,
        key: &str,
        raw: &Option<Spanned<String>>,
        range: (u64, u64),
        default: u64,
    ) -> Result<u64, ConfigError> {
        let Some(raw) = raw else { return Ok(default) };
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
        let value = units.iter().find_map(|(unit, shift)| {
            let count: u64 = raw.get_ref().strip_suffix(unit)?.trim_end().parse().ok()?;
            count.checked_mul(1 << shift)
        });
        let Some(value) = value else {
            let problem = format!(
                "{key}: a number of B, KiB, MiB or GiB, such as \"256MiB\", not {:?}",
                raw.get_ref()
            );
            return Err(self.error(raw.span(), problem));
        };
        self.number(key, raw.span(), value, range, " B")
    }

    fn duration(
        &self,
        key: &str,
        raw: &Option<Spanned<String>>,
        range: (u64, u64),
        default: Duration,
    ) -> Result<Duration, ConfigError> {
        let Some(raw) = raw else { return Ok(default) };
        let units = [
            ("ms", 1),
            ("s", 1_000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
        ];
        let value = units.iter().find_map(|(unit, factor)| {
            let count: u64 = raw.get_ref().strip_suffix(unit)?.trim_end().parse().ok()?;
            count.checked_mul(*factor)
        });
        let Some(value) = value else {
            let problem = format!(
                "{key}: a number of ms, s, m, h or d, such as \"24h\", not {:?}",
                raw.get_ref()
            );
            return Err(self.error(raw.span(), problem));
        };
        self.number(key, raw.span(), value, range, " ms")
            .map(Duration::from_millis)
    }
}

/// An IPv4 address that is written as IPv6 is that IPv4 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
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
            limits: Limits::default(),
        }
    }

    /// Reads and checks a file. The key file that it names is not opened yet.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Checks `text`; errors name `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let source = Source { path, text };
        let raw: RawFile = toml::from_str(text).map_err(|error| {
            let message = error.message().trim().replace('\n', " ");
            source.error(error.span().unwrap_or(0..0), message)
        })?;
        let mut config = Config {
            path: Some(path.into()),
            ..Config::single_node()
        };
        if let Some(name) = &raw.node.name {
            config.name = source.name("node.name", name, false)?;
        }
        if let Some(site) = &raw.node.site {
            config.site = source.name("node.site", site, true)?;
        }
        let listen = match &raw.node.listen {
            None => Vec::new(),
            Some(OneOrMore::One(one)) => vec![one],
            Some(OneOrMore::More(more)) => more.iter().collect(),
        };
        for raw in listen {
            let address = source.address("node.listen", raw)?;
            if config
                .listen
                .iter()
                .any(|other| other.is_ipv4() == address.is_ipv4())
            {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                let problem = format!(
                    "node.listen: more than one {family} address; use the wildcard address"
                );
                return Err(source.error(raw.span(), problem));
            }
            config.listen.push(address);
        }
        if let Some(advertise) = &raw.node.advertise {
            config.advertise = Some(source.address("node.advertise", advertise)?);
        }
        if let Some(fleet) = &raw.fleet.name {
            config.fleet = source.name("fleet.name", fleet, false)?;
        }
        if let Some(key_file) = &raw.fleet.key_file {
            let file = Path::new(key_file.get_ref());
            if !file.is_absolute() {
                let problem = format!("fleet.key_file: an absolute path, not {file:?}");
                return Err(source.error(key_file.span(), problem));
            }
            config.key_file = Some(file.into());
        }
        config.peers = peers(&source, &raw.peer, &config)?;
        config.limits = limits(&source, &raw.limits)?;
        if let (Some(first), true) = (raw.peer.first(), config.key_file.is_none()) {
            let problem =
                "fleet.key_file: required where there are peers: nothing is sent in the clear";
            return Err(source.error(first.span(), problem));
        }
        Ok(config)
    }
}

fn peers(
    source: &Source<'_>,
    raw: &[Spanned<RawPeer>],
    config: &Config,
) -> Result<Vec<PeerConfig>, ConfigError> {
    let mut peers: Vec<PeerConfig> = Vec::new();
    if let Some(beyond) = raw.get(PEERS_MAX) {
        return Err(source.error(beyond.span(), format!("peer: at most {PEERS_MAX}")));
    }
    let mut seen = std::collections::BTreeMap::new();
    let mut names = std::collections::BTreeMap::new();
    for (index, entry) in raw.iter().enumerate() {
        let peer = entry.get_ref();
        let key = |field: &str| format!("peer[{}].{field}", index + 1);
        let Some(address) = &peer.address else {
            return Err(source.error(entry.span(), format!("{}: missing", key("address"))));
        };
        let at = address.span();
        let address = source.address(&key("address"), address)?;
        let name = match &peer.name {
            Some(name) => source.name(&key("name"), name, false)?,
            None => String::new(),
        };
        let site = match &peer.site {
            Some(site) => source.name(&key("site"), site, true)?,
            None => String::new(),
        };
        if address.ip().is_unspecified() {
            let problem = format!(
                "{}: the address of one node, not the wildcard",
                key("address")
            );
            return Err(source.error(at, problem));
        }
        if let Some(other) = seen.insert(address, index + 1) {
            let problem = format!(
                "{}: {address} is peer[{other}]'s address already",
                key("address")
            );
            return Err(source.error(at, problem));
        }
        if let Some(other) = names
            .insert(name.clone(), index + 1)
            .filter(|_| !name.is_empty())
        {
            let problem = format!("{}: {name} is peer[{other}]'s name already", key("name"));
            return Err(source.error(entry.span(), problem));
        }
        // One list of peers may serve the whole fleet: what names this node itself is skipped.
        let own = config.advertise == Some(address) || config.listen.contains(&address);
        if own || name == config.name {
            continue;
        }
        if !config
            .listen
            .iter()
            .any(|listen| listen.is_ipv4() == address.is_ipv4())
        {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let problem = format!(
                "{}: {address} cannot be reached: node.listen has no {family} address",
                key("address")
            );
            return Err(source.error(at, problem));
        }
        peers.push(PeerConfig {
            name,
            site,
            address,
        });
    }
    Ok(peers)
}

fn limits(source: &Source<'_>, raw: &RawLimits) -> Result<Limits, ConfigError> {
    let default = Limits::default();
    let repair = (4 << 10, 1 << 30);
    Ok(Limits {
        retention: source.duration(
            "limits.retention",
            &raw.retention,
            (60_000, 30 * 86_400_000),
            default.retention,
        )?,
        retention_bytes: source.bytes(
            "limits.retention_bytes",
            &raw.retention_bytes,
            (1 << 20, 64 << 30),
            default.retention_bytes,
        )?,
        round: source.duration("limits.round", &raw.round, (20, 60_000), default.round)?,
        repair_bytes_peer: source.bytes(
            "limits.repair_bytes_peer",
            &raw.repair_bytes_peer,
            repair,
            default.repair_bytes_peer,
        )?,
        repair_bytes_all: source.bytes(
            "limits.repair_bytes_all",
            &raw.repair_bytes_all,
            repair,
            default.repair_bytes_all,
        )?,
        socket_bytes: source.bytes(
            "limits.socket_bytes",
            &raw.socket_bytes,
            (64 << 10, 1 << 30),
            default.socket_bytes as u64,
        )? as usize,
    })
}

/// The host's name, as far as it is fit for a node's.
fn host_name() -> String {
    let name = crate::sys::host_name();
    let name = name
        .chars()
        .filter(char::is_ascii_graphic)
        .take(NAME_BYTES_MAX);
    let name: String = name.collect();
    if name.is_empty() {
        "localhost".into()
    } else {
        name
    }
}
