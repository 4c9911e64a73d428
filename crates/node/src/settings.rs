//! Every key of the configuration: its value, and whether it may change while the node runs.

use std::fmt::{self, Debug};
use std::time::Duration;

use crate::config::{Config, Discovery, JournalConfig, Limits, LogConfig, PeerConfig, PurgeConfig};
use crate::units::{BYTE_UNITS, DURATION_UNITS, in_units};

/// A key whose value is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, with its table.
    pub key: &'static str,
    /// Its values before and after; of a list, what goes and what comes.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.what)
    }
}

/// Peers that a change names; of more, it says how many.
const NAMED_MAX: usize = 8;

/// All keys and their values. Everything is named here without a `..`, so that no key is forgotten.
fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let Config {
        // Where it was read from is no setting.
        path: _,
        name,
        site,
        listen,
        advertise,
        fleet,
        key_file,
        peers,
        discovery,
        purge,
        journal,
        log,
        limits,
    } = config;
    let LogConfig { purges } = log;
    let JournalConfig {
        dir,
        bytes: journal_bytes,
        fsync,
        wait,
        require,
    } = journal;
    let Discovery {
        nodes_file,
        nodes_port,
        dns,
        dns_interval,
    } = discovery;
    let PurgeConfig {
        key_headers,
        bans_max,
        soft_rate,
    } = purge;
    let Limits {
        retention,
        retention_bytes,
        round,
        own_site_percent,
        repair_bytes_peer,
        repair_bytes_all,
        join_margin,
        max_staleness,
        replay_window,
        apply_batch,
        socket_bytes,
    } = limits;
    let dns: Vec<String> = dns.iter().map(ToString::to_string).collect();
    vec![
        ("node.name", text(name)),
        ("node.site", text(site)),
        ("node.listen", text(listen)),
        ("node.advertise", optional(advertise)),
        ("fleet.name", text(fleet)),
        ("fleet.key_file", optional(key_file)),
        ("fleet.nodes_file", optional(nodes_file)),
        ("fleet.nodes_port", optional(nodes_port)),
        ("fleet.dns", text(&dns)),
        ("fleet.dns_interval", duration(*dns_interval)),
        ("peer", shown(peers).join(", ")),
        ("purge.key_headers", text(key_headers)),
        ("purge.bans_max", bans_max.to_string()),
        ("purge.soft_rate", soft_rate.to_string()),
        ("journal.dir", optional(dir)),
        ("journal.bytes", bytes(*journal_bytes)),
        ("journal.fsync", fsync.to_string()),
        ("journal.wait", duration(*wait)),
        ("journal.require", require.to_string()),
        ("log.purges", purges.to_string()),
        ("limits.retention", duration(*retention)),
        ("limits.retention_bytes", bytes(*retention_bytes)),
        ("limits.round", duration(*round)),
        ("limits.own_site_percent", own_site_percent.to_string()),
        ("limits.repair_bytes_peer", bytes(*repair_bytes_peer)),
        ("limits.repair_bytes_all", bytes(*repair_bytes_all)),
        ("limits.join_margin", duration(*join_margin)),
        (
            "limits.max_staleness",
            max_staleness.map_or_else(|| "off".into(), duration),
        ),
        ("limits.replay_window", replay_window.to_string()),
        ("limits.apply_batch", apply_batch.to_string()),
        ("limits.socket_bytes", bytes(*socket_bytes as u64)),
    ]
}

/// What a node that runs with `before` goes on with: of `after`, what can change while it runs. All else is read once, by
/// the sockets, the journal, the core or the engine.
pub(crate) fn merged(before: &Config, after: &Config) -> Config {
    // The peers of another fleet, key or socket wait for the restart that brings these: until then there would be none.
    let stays = before.fleet == after.fleet
        && before.key_file == after.key_file
        && before.listen == after.listen;
    let members = if stays { after } else { before };
    let journalling = if before.journal.dir.is_some() {
        after
    } else {
        before
    };
    Config {
        peers: members.peers.clone(),
        discovery: members.discovery.clone(),
        journal: JournalConfig {
            require: journalling.journal.require,
            ..before.journal.clone()
        },
        log: after.log.clone(),
        limits: Limits {
            join_margin: before.limits.join_margin,
            replay_window: before.limits.replay_window,
            socket_bytes: before.limits.socket_bytes,
            ..after.limits.clone()
        },
        ..before.clone()
    }
}

/// What is other in `after`.
pub(crate) fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let pairs = settings(before).into_iter().zip(settings(after));
    let other = pairs.filter(|((_, old), (_, new))| old != new);
    other
        .map(|((key, old), (_, new))| Change {
            key,
            what: match key {
                "peer" => turnover(&shown(&before.peers), &shown(&after.peers)),
                _ => format!("{old} -> {new}"),
            },
        })
        .collect()
}

/// In an order of their own: that of the file does not count.
fn shown(peers: &[PeerConfig]) -> Vec<String> {
    let show = |peer: &PeerConfig| {
        let part = |text: &str, mark: &str| match text {
            "" => String::new(),
            text => format!("{mark}{text}"),
        };
        format!(
            "{}{}{}",
            peer.address,
            part(&peer.name, " "),
            part(&peer.site, " @")
        )
    };
    let mut shown: Vec<String> = peers.iter().map(show).collect();
    shown.sort_unstable();
    shown
}

fn turnover(before: &[String], after: &[String]) -> String {
    let gone = before
        .iter()
        .filter(|peer| !after.contains(peer))
        .map(|peer| ("-", peer));
    let come = after
        .iter()
        .filter(|peer| !before.contains(peer))
        .map(|peer| ("+", peer));
    let all: Vec<String> = gone
        .chain(come)
        .map(|(sign, peer)| format!("{sign}{peer}"))
        .collect();
    let more = all.len().saturating_sub(NAMED_MAX);
    let named = all
        .iter()
        .take(NAMED_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    let counts = format!("{} -> {}", before.len(), after.len());
    match more {
        0 => format!("{counts} ({named})"),
        more => format!("{counts} ({named} and {more} more)"),
    }
}

fn text(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn optional(value: &Option<impl Debug>) -> String {
    value.as_ref().map_or_else(|| "none".into(), text)
}

fn duration(value: Duration) -> String {
    let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    in_units(ms, &DURATION_UNITS)
}

fn bytes(value: u64) -> String {
    in_units(value, &BYTE_UNITS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::parse::parse;

    /// When another value counts.
    #[derive(Clone, Copy)]
    enum Takes {
        Reload,
        Restart,
    }

    fn read(text: &str) -> Result<Config, String> {
        parse("/etc/p.toml".as_ref(), text).map_err(|error| error.to_string())
    }

    /// The keys that the file may have, as the errors about those that it may not have name them.
    fn keys_of(table: &str) -> Vec<String> {
        let text = match table {
            "" => "nonsense = 1".to_owned(),
            table => format!("[{table}]\nnonsense = 1"),
        };
        let error = read(&text).unwrap_err();
        let (_, expected) = error
            .split_once("expected")
            .expect("the keys that are known");
        expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_key_of_the_file_is_in_one_of_the_two_classes() {
        let mut in_file = BTreeSet::new();
        for table in keys_of("") {
            if table == "peer" {
                in_file.insert(table);
                continue;
            }
            for key in keys_of(&table) {
                in_file.insert(format!("{table}.{key}"));
            }
        }
        let all = settings(&Config::single_node());
        let known: BTreeSet<String> = all.iter().map(|(key, _)| (*key).to_owned()).collect();
        assert_eq!(in_file, known);
        assert_eq!(all.len(), known.len(), "a key twice");
    }

    #[test]
    fn each_change_is_told_apart_and_by_its_class() {
        let keys = std::env::temp_dir().join(format!("powderhorn-keys-{}", std::process::id()));
        std::fs::write(&keys, "0f".repeat(32)).expect("a temporary file");
        let base = format!(
            "[node]\nname = 'a'\nlisten = '192.0.2.1:4277'\n[fleet]\nkey_file = '{}'\n#fleet\n\
             [purge]\n#purge\n[journal]\n#journal\n[log]\n#log\n[limits]\n#limits\n",
            keys.display()
        );
        let before = read(&base).unwrap();
        let peer = "#limits\n[[peer]]\nname = 'b'\nsite = 's'\naddress = '192.0.2.2:4277'";
        let mut told = BTreeSet::new();
        for (mark, text, expected, takes) in [
            ("'a'", "'b'", "node.name: \"a\" -> \"b\"", Takes::Restart),
            (
                "'a'",
                "'a'\nsite = 'x'",
                "node.site: \"\" -> \"x\"",
                Takes::Restart,
            ),
            (
                "192.0.2.1:4277",
                "192.0.2.1:4278",
                "node.listen: [192.0.2.1:4277] -> [192.0.2.1:4278]",
                Takes::Restart,
            ),
            (
                "'a'",
                "'a'\nadvertise = '192.0.2.9:4277'",
                "node.advertise: none -> 192.0.2.9:4277",
                Takes::Restart,
            ),
            (
                "#fleet",
                "name = 'f'",
                "fleet.name: \"powderhorn\" -> \"f\"",
                Takes::Restart,
            ),
            (
                "#fleet",
                "nodes_file = '/n'",
                "fleet.nodes_file: none -> \"/n\"",
                Takes::Reload,
            ),
            (
                "#fleet",
                "nodes_port = 4278",
                "fleet.nodes_port: none -> 4278",
                Takes::Reload,
            ),
            (
                "#fleet",
                "dns = ['A:4277']",
                "fleet.dns: [] -> [\"a:4277\"]",
                Takes::Reload,
            ),
            (
                "#fleet",
                "dns_interval = '60s'",
                "fleet.dns_interval: 10s -> 1m",
                Takes::Reload,
            ),
            (
                "#limits",
                peer,
                "peer: 0 -> 1 (+192.0.2.2:4277 b @s)",
                Takes::Reload,
            ),
            (
                "#purge",
                "bans_max = 16",
                "purge.bans_max: 10000 -> 16",
                Takes::Restart,
            ),
            (
                "#purge",
                "soft_rate = 16",
                "purge.soft_rate: 10000 -> 16",
                Takes::Restart,
            ),
            (
                "#journal",
                "dir = ''",
                "journal.dir: \"/var/lib/powderhorn\" -> none",
                Takes::Restart,
            ),
            (
                "#journal",
                "bytes = '2GiB'",
                "journal.bytes: 1GiB -> 2GiB",
                Takes::Restart,
            ),
            (
                "#journal",
                "fsync = 'always'",
                "journal.fsync: false -> true",
                Takes::Restart,
            ),
            (
                "#journal",
                "wait = '1s'",
                "journal.wait: 50ms -> 1s",
                Takes::Restart,
            ),
            (
                "#journal",
                "require = true",
                "journal.require: false -> true",
                Takes::Reload,
            ),
            (
                "#log",
                "purges = false",
                "log.purges: true -> false",
                Takes::Reload,
            ),
            (
                "#limits",
                "retention = '2h'",
                "limits.retention: 1d -> 2h",
                Takes::Reload,
            ),
            (
                "#limits",
                "retention_bytes = '1MiB'",
                "limits.retention_bytes: 256MiB -> 1MiB",
                Takes::Reload,
            ),
            (
                "#limits",
                "round = '1s'",
                "limits.round: 250ms -> 1s",
                Takes::Reload,
            ),
            (
                "#limits",
                "own_site_percent = 0",
                "limits.own_site_percent: 30 -> 0",
                Takes::Reload,
            ),
            (
                "#limits",
                "repair_bytes_peer = '5KiB'",
                "limits.repair_bytes_peer: 128KiB -> 5KiB",
                Takes::Reload,
            ),
            (
                "#limits",
                "repair_bytes_all = '4097B'",
                "limits.repair_bytes_all: 512KiB -> 4097B",
                Takes::Reload,
            ),
            (
                "#limits",
                "join_margin = '0s'",
                "limits.join_margin: 10m -> 0ms",
                Takes::Restart,
            ),
            (
                "#limits",
                "max_staleness = '1h'",
                "limits.max_staleness: off -> 1h",
                Takes::Reload,
            ),
            (
                "#limits",
                "replay_window = 2048",
                "limits.replay_window: 65536 -> 2048",
                Takes::Restart,
            ),
            (
                "#limits",
                "apply_batch = 1",
                "limits.apply_batch: 64 -> 1",
                Takes::Reload,
            ),
            (
                "#limits",
                "socket_bytes = '1MiB'",
                "limits.socket_bytes: 8MiB -> 1MiB",
                Takes::Restart,
            ),
        ] {
            let after = read(&base.replacen(mark, text, 1)).expect(text);
            let all = changes(&before, &after);
            assert_eq!(all.len(), 1, "{text}: {all:?}");
            assert_eq!(all[0].to_string(), expected);
            let merged = merged(&before, &after);
            let [applied, pending] = match takes {
                Takes::Reload => [&all[..], &[]],
                Takes::Restart => [&[], &all[..]],
            };
            assert_eq!(changes(&before, &merged), applied, "{text}");
            assert_eq!(changes(&merged, &after), pending, "{text}");
            told.insert(all[0].key);
        }
        std::fs::remove_file(&keys).expect("its removal");
        // These two take a file of their own; the test above knows that they are there.
        told.extend(["fleet.key_file", "purge.key_headers"]);
        assert_eq!(told.len(), settings(&before).len());
        let other = Config {
            key_file: Some("/k".into()),
            purge: PurgeConfig {
                key_headers: vec!["x".into()],
                ..before.purge.clone()
            },
            ..before.clone()
        };
        assert_eq!(merged(&before, &other), before);
        assert_eq!(changes(&before, &other).len(), 2);
        // Nothing goes into the clear, so peers take a restart where there is no key.
        let single = Config::single_node();
        assert_eq!(merged(&single, &before), single);
    }

    #[test]
    fn the_order_of_peers_is_no_change_and_many_are_counted() {
        let peer = |n: u8| PeerConfig {
            name: String::new(),
            site: String::new(),
            address: std::net::SocketAddr::from(([192, 0, 2, n], 4277)).into(),
        };
        let with = |peers: Vec<PeerConfig>| Config {
            peers,
            ..Config::single_node()
        };
        let (one, two) = (with(vec![peer(1), peer(2)]), with(vec![peer(2), peer(1)]));
        assert_eq!(changes(&one, &two), []);
        let many = changes(&one, &with((2..22).map(peer).collect()));
        assert_eq!(many.len(), 1);
        let text = many[0].to_string();
        assert!(
            text.starts_with("peer: 2 -> 20 (-192.0.2.1:4277, +192.0.2.10:4277,"),
            "{text}"
        );
        assert!(text.ends_with(" and 12 more)"), "{text}");
    }
}
