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

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Longest first where one ends in another.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", MINUTE_MS),
    ("h", 60 * MINUTE_MS),
    ("d", DAY_MS),
];
const BYTE_UNITS: [(&str, u64); 4] = [("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("B", 1)];

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

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.strip_prefix(digits)?.trim_start();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(*factor)
}

/// In the largest unit that fits without a rest.
fn in_units(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |unit: &&(&str, u64)| value % unit.1 == 0 && value >= unit.1;
    let best = units.iter().filter(fits).max_by_key(|unit| unit.1);
    match best.or(units.first()) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => value.to_string(),
    }
}

fn same_family(a: SocketAddr, b: SocketAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key file of its own for each reading, for the tests run at the same time.
    fn read(text: &str) -> std::result::Result<Config, String> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("powderhorn-parse-{}-{n}", std::process::id());
        let keys = std::env::temp_dir().join(name);
        std::fs::write(&keys, "0f".repeat(32)).expect("a temporary file");
        let text = text.replace("KEYS", &keys.display().to_string());
        let config = parse(Path::new("/etc/p.toml"), &text).map_err(|error| error.to_string());
        std::fs::remove_file(&keys).expect("its removal");
        config
    }

    const WHOLE: &str = r#"
[node]
name = "cache-fra-07"
site = "fra"
listen = ["0.0.0.0:4277", "[::]:4277"]
advertise = "192.0.2.7:4277"

[fleet]
name = "production"
key_file = "KEYS"

[[peer]]
name = "cache-fra-07"
site = "fra"
address = "192.0.2.7:4277"

[[peer]]
name = "cache-fra-08"
site = "fra"
address = "[::ffff:192.0.2.8]:4277"

[[peer]]
address = "[2001:db8::9]:4277"

[purge]
key_headers = ["xkey", "X-Tags"]
bans_max = 16
soft_rate = 1

[limits]
retention = "36h"
retention_bytes = "1GiB"
round = "100ms"
own_site_percent = 0
repair_bytes_peer = "64 KiB"
repair_bytes_all = "4096B"
join_margin = "0s"
replay_window = 1024
apply_batch = 1
socket_bytes = "1MiB"
"#;

    #[test]
    fn a_file_with_everything_in_it_is_read() {
        let config = read(WHOLE).unwrap();
        assert_eq!(config.name, "cache-fra-07");
        assert_eq!(config.listen.len(), 2);
        // This node itself is left out, and the mapped address is the IPv4 one.
        let peers: Vec<_> = config.peers.iter().map(|p| p.address.to_string()).collect();
        assert_eq!(peers, ["192.0.2.8:4277", "[2001:db8::9]:4277"]);
        let expected = Limits {
            retention: Duration::from_secs(36 * 3_600),
            retention_bytes: 1 << 30,
            round: Duration::from_millis(100),
            own_site_percent: 0,
            repair_bytes_peer: 64 << 10,
            repair_bytes_all: 4_096,
            join_margin: Duration::ZERO,
            replay_window: 1_024,
            apply_batch: 1,
            socket_bytes: 1 << 20,
        };
        assert_eq!(config.limits, expected);
        let expected = PurgeConfig {
            key_headers: vec!["xkey".into(), "X-Tags".into()],
            bans_max: 16,
            soft_rate: 1,
        };
        assert_eq!(config.purge, expected);
    }

    #[test]
    fn an_empty_file_is_a_single_node() {
        let config = read("").unwrap();
        let single = Config {
            path: config.path.clone(),
            ..Config::single_node()
        };
        assert_eq!(config, single);
        assert!(!config.name.is_empty());
    }

    #[test]
    fn each_mistake_is_named_with_file_line_and_key() {
        let peer = "[node]\nlisten = \"0.0.0.0:4277\"\n[fleet]\nkey_file = \"KEYS\"\n[[peer]]\n";
        let with = |text: &str| format!("{peer}{text}");
        for (text, expected) in [
            ("[node]\nnmae = 'x'", "2: node.nmae: unknown field `nmae`"),
            ("[nodes]\n", "1: nodes: unknown field `nodes`"),
            ("x = 1", "1: x: unknown field `x`"),
            (
                "[node]\nname = 7",
                "2: node.name: invalid type: integer `7`",
            ),
            ("[node]\nname = 'a b'", "2: node.name: must be 1 to 64"),
            ("[node]\nname = ''", "2: node.name: must be 1 to 64"),
            ("[node]\nsite = 'ü'", "2: node.site: must be 0 to 64"),
            (
                "[node]\n\nname = 'x",
                "3: node.name: invalid literal string",
            ),
            (
                "[node]\nname = 'x'\nname = 'y'",
                "3: node.name: duplicate key",
            ),
            (
                "[node]\nlisten = '0.0.0.0:80'",
                "2: node.listen: the port must be 1024",
            ),
            (
                "[node]\nlisten = 'x:4277'",
                "2: node.listen: must be an IP address",
            ),
            (
                "[node]\nlisten = 4277",
                "2: node.listen: must be an address or a list",
            ),
            (
                "[node]\nlisten = ['[::]:4277', '[::1]:4278']",
                "2: node.listen: at most one IPv6",
            ),
            (
                "[node]\nadvertise = '0.0.0.0:4277'",
                "2: node.advertise: must be the address of one",
            ),
            (
                "[fleet]\nkey_file = 'x.key'",
                "2: fleet.key_file: must be an absolute path",
            ),
            (
                "[fleet]\nkey_file = '/none/x.key'",
                "2: fleet.key_file: /none/x.key: No such file",
            ),
            (
                "[limits]\nretention = '24'",
                "2: limits.retention: must be a duration such as",
            ),
            (
                "[limits]\nretention = '1s'",
                "2: limits.retention: must be 1m to 30d, not 1s",
            ),
            (
                "[limits]\nretention_bytes = '1MB'",
                "2: limits.retention_bytes: must be a size such",
            ),
            (
                "[limits]\nretention_bytes = '-1B'",
                "2: limits.retention_bytes: must be a size such",
            ),
            (
                "[limits]\nretention_bytes = '99999999999GiB'",
                "2: limits.retention_bytes: must be a size such",
            ),
            (
                "[limits]\nround = '5ms'",
                "2: limits.round: must be 20ms to 1m, not 5ms",
            ),
            (
                "[limits]\nreplay_window = -5",
                "2: limits.replay_window: must be 1024 to 16777216",
            ),
            (
                "[purge]\nkey_headers = [\"xkey\",\n \"a b\"]",
                "3: purge.key_headers: not a header's name of 1 to 100 characters: \"a b\"",
            ),
            (
                "[purge]\nkey_headers = []",
                "2: purge.key_headers: must be 1 to 32 header names",
            ),
            (
                "[purge]\nbans_max = 0",
                "2: purge.bans_max: must be 16 to 1000000, not 0",
            ),
            (
                "[limits]\napply_batch = 0",
                "2: limits.apply_batch: must be 1 to 4096, not 0",
            ),
            (
                "[limits]\nround_ms = 250",
                "2: limits.round_ms: unknown field `round_ms`",
            ),
            (
                "[[peer]]\naddress = '192.0.2.1:4277'",
                "2: node.listen: needed where there are peers",
            ),
            (
                "[node]\nlisten = '0.0.0.0:4277'\n[[peer]]\naddress = '192.0.2.1:4277'",
                "3: fleet.key_file: needed where there are peers",
            ),
            (&with("name = 'x'"), "5: peer[1].address: missing"),
            (
                &with("addres = 'x'"),
                "6: peer[1].addres: unknown field `addres`",
            ),
            (
                &with("address = 'cache-2:4277'"),
                "6: peer[1].address: must be an IP address and a port, such as \"192.0.2.8:4277\" \
                 or \"[2001:db8::8]:4277\", not \"cache-2:4277\" (host names are not supported yet)",
            ),
            (
                &with("address = '192.0.2.1:99'"),
                "6: peer[1].address: the port must be",
            ),
            (
                &with("address = '[::1]:4277'"),
                "6: peer[1].address: [::1]:4277 cannot be reached",
            ),
            (
                &with("address = '192.0.2.1:4277'\n[[peer]]\naddress = '192.0.2.1:4277'"),
                "8: peer[2].address: 192.0.2.1:4277 is peer[1]'s, too",
            ),
            (
                &with(
                    "address = '192.0.2.1:4277'\nname = 'x'\n\
                     [[peer]]\naddress = '192.0.2.2:4277'\nname = 'x'",
                ),
                "10: peer[2].name: \"x\" is peer[1]'s, too",
            ),
        ] {
            let error = read(text).expect_err(text);
            let expected = format!("/etc/p.toml:{expected}");
            assert!(
                error.starts_with(&expected),
                "{text}\n  {error}\n  {expected}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
