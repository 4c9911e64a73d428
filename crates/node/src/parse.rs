//! Reads the configuration file. Each error names file, line and key, and a file with an error in
//! it is not used at all. A key that is not known is an error, too.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use powderhorn_protocol::bounds::NAME_BYTES_MAX;
use powderhorn_protocol::purge::{HEADER_NAME_BYTES_MAX, is_token};
use serde::Deserialize;
use toml::Spanned;

use crate::config::{
    Config, ConfigError, Limits, PEERS_MAX, PORT_MIN, PeerConfig, PurgeConfig, canonical,
};
use crate::keys::Keyring;
use crate::units::{
    BYTE_UNITS, DAY_MS, DURATION_UNITS, GIB, KIB, MIB, MINUTE_MS, in_units, quantity,
};

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
struct RawLimits {
    retention: Option<Spanned<String>>,
    retention_bytes: Option<Spanned<String>>,
    round: Option<Spanned<String>>,
    own_site_percent: Option<Spanned<i64>>,
    repair_bytes_peer: Option<Spanned<String>>,
    repair_bytes_all: Option<Spanned<String>>,
    join_margin: Option<Spanned<String>>,
    replay_window: Option<Spanned<i64>>,
    apply_batch: Option<Spanned<i64>>,
    socket_bytes: Option<Spanned<String>>,
}

/// Most names in `purge.key_headers`: each header of each response is compared with them.
const KEY_HEADERS_MAX: usize = 32;

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
    config.limits = source.limits(&raw.limits)?;
    config.peers = source.peers(&raw.peer, &config)?;
    if let Some(key_file) = &raw.fleet.key_file {
        let file = Path::new(key_file.get_ref());
        if !file.is_absolute() {
            let problem = format!("fleet.key_file: must be an absolute path, not {file:?}");
            return Err(source.error(key_file.span(), problem));
        }
        Keyring::load(file).map_err(|error| ConfigError::Keys {
            path: path.into(),
            line: source.line(key_file.span().start),
            source: error,
        })?;
        config.key_file = Some(file.into());
    } else if let (Some(peer), false) = (raw.peer.first(), config.peers.is_empty()) {
        let problem = "fleet.key_file: needed where there are peers: nothing is sent in the clear";
        return Err(source.error(peer.span(), problem));
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
                 \"[2001:db8::8]:4277\", not {text:?} (host names are not supported yet)"
            );
            return Err(self.error(span, problem));
        };
        if address.port() < PORT_MIN {
            let problem = format!(
                "{key}: the port must be {PORT_MIN} or above, not {}: varnishd's child may not \
                 bind lower ones",
                address.port()
            );
            return Err(self.error(span, problem));
        }
        Ok(canonical(address))
    }

    fn peer_address(&self, key: &str, raw: &Spanned<String>) -> Result<SocketAddr> {
        let address = self.address(key, raw.span(), raw.get_ref())?;
        if address.ip().is_unspecified() || address.ip().is_multicast() {
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
            let address = self.peer_address(&key("address"), raw_address)?;
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
            if let Some(other) = addresses.insert(address, number) {
                return error(format!(
                    "{}: {address} is peer[{other}]'s, too",
                    key("address")
                ));
            }
            // One list of peers may serve the whole fleet: this node itself is left out of it.
            if config.advertise == Some(address) || config.listen.contains(&address) {
                continue;
            }
            if config.listen.is_empty() {
                return error("node.listen: needed where there are peers".into());
            }
            if !config.listen.iter().any(|own| same_family(*own, address)) {
                let family = family(address);
                return error(format!(
                    "{}: {address} cannot be reached: node.listen has no {family} address",
                    key("address")
                ));
            }
            peers.push(PeerConfig {
                name,
                site,
                address,
            });
        }
        Ok(peers)
    }

    fn purge(&self, raw: &RawPurge) -> Result<PurgeConfig> {
        let mut purge = PurgeConfig::default();
        if let Some(raw) = &raw.key_headers {
            let names = raw.get_ref();
            if !(1..=KEY_HEADERS_MAX).contains(&names.len()) {
                let problem =
                    format!("purge.key_headers: must be 1 to {KEY_HEADERS_MAX} header names");
                return Err(self.error(raw.span(), problem));
            }
            purge.key_headers.clear();
            for raw in names {
                let name = raw.get_ref();
                if !is_token(name.as_bytes()) || name.len() > HEADER_NAME_BYTES_MAX {
                    let problem = format!(
                        "purge.key_headers: not a header's name of 1 to {HEADER_NAME_BYTES_MAX} \
                         characters: {name:?}"
                    );
                    return Err(self.error(raw.span(), problem));
                }
                purge.key_headers.push(name.clone());
            }
        }
        if let Some(raw) = &raw.bans_max {
            purge.bans_max = self.number("purge.bans_max", raw, 16..=1_000_000)?;
        }
        if let Some(raw) = &raw.soft_rate {
            purge.soft_rate = self.number("purge.soft_rate", raw, 1..=10_000_000)?;
        }
        Ok(purge)
    }

    fn limits(&self, raw: &RawLimits) -> Result<Limits> {
        let mut limits = Limits::default();
        let duration = |value: u64| Duration::from_millis(value);
        let month = 30 * DAY_MS;
        if let Some(raw) = &raw.retention {
            limits.retention = duration(self.duration("retention", raw, MINUTE_MS..=month)?);
        }
        if let Some(raw) = &raw.retention_bytes {
            limits.retention_bytes = self.bytes("retention_bytes", raw, MIB..=64 * GIB)?;
        }
        if let Some(raw) = &raw.round {
            limits.round = duration(self.duration("round", raw, 20..=MINUTE_MS)?);
        }
        if let Some(raw) = &raw.own_site_percent {
            limits.own_site_percent = self.number("limits.own_site_percent", raw, 0..=100)? as u32;
        }
        if let Some(raw) = &raw.repair_bytes_peer {
            limits.repair_bytes_peer = self.bytes("repair_bytes_peer", raw, 4 * KIB..=GIB)?;
        }
        if let Some(raw) = &raw.repair_bytes_all {
            limits.repair_bytes_all = self.bytes("repair_bytes_all", raw, 4 * KIB..=GIB)?;
        }
        if let Some(raw) = &raw.join_margin {
            limits.join_margin = duration(self.duration("join_margin", raw, 0..=month)?);
        }
        if let Some(raw) = &raw.replay_window {
            limits.replay_window = self.number("limits.replay_window", raw, 1_024..=16_777_216)?;
        }
        if let Some(raw) = &raw.apply_batch {
            limits.apply_batch = self.number("limits.apply_batch", raw, 1..=4_096)? as usize;
        }
        if let Some(raw) = &raw.socket_bytes {
            let bytes = self.bytes("socket_bytes", raw, 64 * KIB..=GIB)?;
            limits.socket_bytes = bytes as usize;
        }
        Ok(limits)
    }

    fn number(&self, key: &str, raw: &Spanned<i64>, range: RangeInclusive<u64>) -> Result<u64> {
        let value = u64::try_from(*raw.get_ref()).ok();
        value.filter(|value| range.contains(value)).ok_or_else(|| {
            let (least, most) = range.into_inner();
            let problem = format!("{key}: must be {least} to {most}, not {}", raw.get_ref());
            self.error(raw.span(), problem)
        })
    }

    /// Milliseconds.
    fn duration(
        &self,
        key: &str,
        raw: &Spanned<String>,
        range: RangeInclusive<u64>,
    ) -> Result<u64> {
        let kind = "a duration such as \"250ms\", \"90s\", \"10m\", \"24h\" or \"7d\"";
        self.quantity(key, raw, range, &DURATION_UNITS, kind)
    }

    fn bytes(&self, key: &str, raw: &Spanned<String>, range: RangeInclusive<u64>) -> Result<u64> {
        let kind = "a size such as \"4096B\", \"128KiB\", \"256MiB\" or \"2GiB\"";
        self.quantity(key, raw, range, &BYTE_UNITS, kind)
    }

    fn quantity(
        &self,
        key: &str,
        raw: &Spanned<String>,
        range: RangeInclusive<u64>,
        units: &[(&str, u64)],
        kind: &str,
    ) -> Result<u64> {
        let text = raw.get_ref();
        let Some(value) = quantity(text, units) else {
            let problem = format!("limits.{key}: must be {kind}, not {text:?}");
            return Err(self.error(raw.span(), problem));
        };
        if range.contains(&value) {
            return Ok(value);
        }
        let (least, most) = (range.start(), range.end());
        let problem = format!(
            "limits.{key}: must be {} to {}, not {text}",
            in_units(*least, units),
            in_units(*most, units)
        );
        Err(self.error(raw.span(), problem))
    }
}

fn same_family(a: SocketAddr, b: SocketAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests;
