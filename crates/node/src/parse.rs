//! Reads the configuration file. Each error names file, line and key, and a file with an error in
//! it is not used at all. A key that is not known is an error, too.

mod limits;

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use powderhorn_protocol::bounds::NAME_BYTES_MAX;
use serde::Deserialize;
use toml::Spanned;

use crate::address::{HostName, PeerAddress, canonical, family, of_one_node, same_family};
use crate::config::{Config, ConfigError, Discovery, NAMES_MAX, PEERS_MAX, PORT_MIN, PeerConfig};
use crate::keys::Keyring;

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
    purge: RawPurge,
    #[serde(default)]
    journal: RawJournal,
    #[serde(default)]
    log: RawLog,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Option<Spanned<String>>,
    site: Option<Spanned<String>>,
    listen: Option<Spanned<toml::Value>>,
    advertise: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawFleet {
    name: Option<Spanned<String>>,
    key_file: Option<Spanned<String>>,
    nodes_file: Option<Spanned<String>>,
    nodes_port: Option<Spanned<i64>>,
    dns: Option<Spanned<Vec<Spanned<String>>>>,
    dns_interval: Option<Spanned<String>>,
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
struct RawPurge {
    key_headers: Option<Spanned<Vec<Spanned<String>>>>,
    bans_max: Option<Spanned<i64>>,
    soft_rate: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawJournal {
    dir: Option<Spanned<String>>,
    bytes: Option<Spanned<String>>,
    fsync: Option<Spanned<String>>,
    wait: Option<Spanned<String>>,
    require: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLog {
    purges: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    retention: Option<Spanned<String>>,
    retention_bytes: Option<Spanned<String>>,
    round: Option<Spanned<String>>,
    own_site_percent: Option<Spanned<i64>>,
    repair_bytes_peer: Option<Spanned<String>>,
    repair_bytes_all: Option<Spanned<String>>,
    join_margin: Option<Spanned<String>>,
    max_staleness: Option<Spanned<String>>,
    replay_window: Option<Spanned<i64>>,
    apply_batch: Option<Spanned<i64>>,
    socket_bytes: Option<Spanned<String>>,
}

type Result<T> = std::result::Result<T, ConfigError>;

/// Checks `text`; errors name `path`.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Config> {
    let source = Source { path, text };
    let raw: RawFile = toml::from_str(text).map_err(|error| source.toml_error(&error))?;
    let mut config = Config {
        path: Some(path.into()),
        ..Config::single_node()
    };
    if let Some(name) = &raw.node.name {
        config.name = source.name("node.name", name, 1)?;
    }
    if let Some(site) = &raw.node.site {
        config.site = source.name("node.site", site, 0)?;
    }
    if let Some(listen) = &raw.node.listen {
        config.listen = source.listen(listen)?;
    }
    if let Some(advertise) = &raw.node.advertise {
        config.advertise = Some(source.peer_address("node.advertise", advertise)?);
    }
    if let Some(fleet) = &raw.fleet.name {
        config.fleet = source.name("fleet.name", fleet, 1)?;
    }
    config.purge = source.purge(&raw.purge)?;
    config.journal = source.journal(&raw.journal)?;
    config.log.purges = raw.log.purges.unwrap_or(config.log.purges);
    config.limits = source.limits(&raw.limits)?;
    config.peers = source.peers(&raw.peer, &config)?;
    config.discovery = source.discovery(&raw.fleet)?;
    // Where the first source of peers is written; a peer that is this node itself is none.
    let peer = raw.peer.first().filter(|_| !config.peers.is_empty());
    let nodes_file = raw.fleet.nodes_file.as_ref().map(Spanned::span);
    let dns = raw
        .fleet
        .dns
        .as_ref()
        .filter(|names| !names.get_ref().is_empty());
    let peers = nodes_file
        .or(dns.map(Spanned::span))
        .or(peer.map(Spanned::span));
    if let Some(span) = peers.clone().filter(|_| config.listen.is_empty()) {
        return Err(source.error(span, "node.listen: needed where there are peers"));
    }
    if let Some(raw) = &raw.fleet.key_file {
        let file = source.absolute("fleet.key_file", raw)?;
        Keyring::load(&file).map_err(|error| ConfigError::Keys {
            path: path.into(),
            line: source.line(raw.span().start),
            source: error,
        })?;
        config.key_file = Some(file);
    } else if let Some(span) = peers {
        let problem = "fleet.key_file: needed where there are peers: nothing is sent in the clear";
        return Err(source.error(span, problem));
    }
    Ok(config)
}

/// The text being read, to find lines and keys in.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn error(&self, span: Range<usize>, problem: impl Display) -> ConfigError {
        ConfigError::Invalid {
            path: self.path.into(),
            line: self.line(span.start),
            problem: problem.to_string(),
        }
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.bytes().take(offset);
        before.filter(|&byte| byte == b'\n').count() + 1
    }

    /// An error of syntax, of type, or an unknown key.
    fn toml_error(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        let message = error.message().trim().replace('\n', ", ");
        match self.key_at(span.start) {
            Some(key) => self.error(span, format!("{key}: {message}")),
            None => self.error(span, message),
        }
    }

    /// The key that is written on the line of `offset`, with its table. toml's errors do not name
    /// it, and whoever mends the file looks for it.
    fn key_at(&self, offset: usize) -> Option<String> {
        let (mut table, mut peers) = (String::new(), 0);
        let last = self.line(offset);
        let mut key = None;
        for line in self.text.lines().take(last) {
            let line = line.trim_start();
            if let Some(header) = line.strip_prefix('[') {
                key = None;
                let name = header.trim_start_matches('[').split(']').next();
                table = name.unwrap_or_default().trim().to_owned();
                if table == "peer" {
                    peers += 1;
                    table = format!("peer[{peers}]");
                }
            } else if let Some((name, _)) = line.split_once('=') {
                key = Some(name.trim().to_owned());
            }
        }
        match (table.is_empty(), key) {
            (true, key) => key,
            (false, Some(key)) => Some(format!("{table}.{key}")),
            (false, None) => Some(table),
        }
    }

    fn name(&self, key: &str, raw: &Spanned<String>, least: usize) -> Result<String> {
        let name = raw.get_ref();
        let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
        if !visible || !(least..=NAME_BYTES_MAX).contains(&name.len()) {
            let problem = format!(
                "{key}: must be {least} to {NAME_BYTES_MAX} visible ASCII characters without \
                 spaces, not {name:?}"
            );
            return Err(self.error(raw.span(), problem));
        }
        Ok(name.clone())
    }

    fn address(&self, key: &str, span: Range<usize>, text: &str) -> Result<SocketAddr> {
        let Ok(address) = text.parse::<SocketAddr>() else {
            let problem = format!(
                "{key}: must be an IP address and a port, such as \"192.0.2.8:4277\" or \
                 \"[2001:db8::8]:4277\", not {text:?}"
            );
            return Err(self.error(span, problem));
        };
        self.check_port(key, span, address.port())?;
        Ok(canonical(address))
    }

    fn check_port(&self, key: &str, span: Range<usize>, port: u16) -> Result<()> {
        if port >= PORT_MIN {
            return Ok(());
        }
        let problem = format!(
            "{key}: the port must be {PORT_MIN} or above, not {port}: varnishd's child may not \
             bind lower ones"
        );
        Err(self.error(span, problem))
    }

    fn host_name(&self, key: &str, raw: &Spanned<String>) -> Result<HostName> {
        let text = raw.get_ref();
        let Some(name) = HostName::parse(text) else {
            let problem = format!(
                "{key}: must be a host name and a port, such as \"caches.example.org:4277\", not \
                 {text:?}"
            );
            return Err(self.error(raw.span(), problem));
        };
        self.check_port(key, raw.span(), name.port())?;
        Ok(name)
    }

    /// An address, or a name that leads to one.
    fn peer_place(&self, key: &str, raw: &Spanned<String>) -> Result<PeerAddress> {
        let text = raw.get_ref();
        if text.parse::<SocketAddr>().is_ok() {
            return self.peer_address(key, raw).map(PeerAddress::Fixed);
        }
        if HostName::parse(text).is_some() {
            return self.host_name(key, raw).map(PeerAddress::Name);
        }
        let problem = format!(
            "{key}: must be an IP address or a host name, and a port, such as \"192.0.2.8:4277\", \
             \"[2001:db8::8]:4277\" or \"cache-2.example.org:4277\", not {text:?}"
        );
        Err(self.error(raw.span(), problem))
    }

    fn absolute(&self, key: &str, raw: &Spanned<String>) -> Result<PathBuf> {
        let file = Path::new(raw.get_ref());
        if !file.is_absolute() {
            let problem = format!("{key}: must be an absolute path, not {file:?}");
            return Err(self.error(raw.span(), problem));
        }
        Ok(file.into())
    }

    fn discovery(&self, raw: &RawFleet) -> Result<Discovery> {
        let mut discovery = Discovery::default();
        if let Some(raw) = &raw.nodes_file {
            discovery.nodes_file = Some(self.absolute("fleet.nodes_file", raw)?);
        }
        if let Some(raw) = &raw.nodes_port {
            let range = u64::from(PORT_MIN)..=u64::from(u16::MAX);
            discovery.nodes_port = Some(self.number("fleet.nodes_port", raw, range)? as u16);
        }
        if let Some(raw) = &raw.dns {
            if let Some(beyond) = raw.get_ref().get(NAMES_MAX) {
                let problem = format!("fleet.dns: there may be at most {NAMES_MAX} names");
                return Err(self.error(beyond.span(), problem));
            }
            for raw in raw.get_ref() {
                let name = self.host_name("fleet.dns", raw)?;
                if discovery.dns.contains(&name) {
                    return Err(self.error(raw.span(), format!("fleet.dns: {name} twice")));
                }
                discovery.dns.push(name);
            }
        }
        if let Some(raw) = &raw.dns_interval {
            let range = 1_000..=3_600_000;
            let interval = self.duration("fleet.dns_interval", raw, range)?;
            discovery.dns_interval = Duration::from_millis(interval);
        }
        Ok(discovery)
    }

    fn peer_address(&self, key: &str, raw: &Spanned<String>) -> Result<SocketAddr> {
        let address = self.address(key, raw.span(), raw.get_ref())?;
        if !of_one_node(address.ip()) {
            let problem = format!(
                "{key}: must be the address of one node, not {}",
                address.ip()
            );
            return Err(self.error(raw.span(), problem));
        }
        Ok(address)
    }

    fn listen(&self, raw: &Spanned<toml::Value>) -> Result<Vec<SocketAddr>> {
        let key = "node.listen";
        let span = raw.span();
        let texts: Option<Vec<&str>> = match raw.get_ref() {
            toml::Value::String(one) => Some(vec![one]),
            toml::Value::Array(more) => more.iter().map(toml::Value::as_str).collect(),
            _ => None,
        };
        let Some(texts) = texts else {
            let problem = format!("{key}: must be an address or a list of addresses, as strings");
            return Err(self.error(span, problem));
        };
        let mut listen: Vec<SocketAddr> = Vec::new();
        for text in texts {
            let address = self.address(key, span.clone(), text)?;
            if listen.iter().any(|other| same_family(*other, address)) {
                let problem = format!(
                    "{key}: at most one {} address: for more, listen on the wildcard address",
                    family(address)
                );
                return Err(self.error(span, problem));
            }
            listen.push(address);
        }
        Ok(listen)
    }

    fn peers(&self, raw: &[Spanned<RawPeer>], config: &Config) -> Result<Vec<PeerConfig>> {
        if let Some(beyond) = raw.get(PEERS_MAX) {
            let problem = format!("peer: there may be at most {PEERS_MAX}");
            return Err(self.error(beyond.span(), problem));
        }
        let mut peers: Vec<PeerConfig> = Vec::new();
        let (mut addresses, mut names) = (HashMap::new(), HashMap::new());
        for (index, entry) in raw.iter().enumerate() {
            let number = index + 1;
            let key = |field: &str| format!("peer[{number}].{field}");
            let peer = entry.get_ref();
            let Some(raw_address) = &peer.address else {
                let problem = format!("{}: missing", key("address"));
                return Err(self.error(entry.span(), problem));
            };
            let address = self.peer_place(&key("address"), raw_address)?;
            let mut name = String::new();
            if let Some(raw_name) = &peer.name {
                name = self.name(&key("name"), raw_name, 1)?;
                if let Some(other) = names.insert(name.clone(), number) {
                    let problem = format!("{}: {name:?} is peer[{other}]'s, too", key("name"));
                    return Err(self.error(raw_name.span(), problem));
                }
            }
            let site = match &peer.site {
                Some(site) => self.name(&key("site"), site, 0)?,
                None => String::new(),
            };
            let error = |problem| Err(self.error(raw_address.span(), problem));
            if let Some(other) = addresses.insert(address.clone(), number) {
                return error(format!(
                    "{}: {address} is peer[{other}]'s, too",
                    key("address")
                ));
            }
            if let PeerAddress::Fixed(address) = address {
                // One list of peers may serve the whole fleet: this node itself is left out of it.
                if config.advertise == Some(address) || config.listen.contains(&address) {
                    continue;
                }
                let mut listen = config.listen.iter();
                if !config.listen.is_empty() && !listen.any(|own| same_family(*own, address)) {
                    let family = family(address);
                    return error(format!(
                        "{}: {address} cannot be reached: node.listen has no {family} address",
                        key("address")
                    ));
                }
            }
            peers.push(PeerConfig {
                name,
                site,
                address,
            });
        }
        Ok(peers)
    }
}

#[cfg(test)]
mod tests;
