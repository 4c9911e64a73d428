//! Files that are read, and mistakes that are named.

use super::*;
use crate::config::{JOURNAL_DIR, JournalConfig};
use crate::config::{Limits, PurgeConfig};

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
nodes_file = "/etc/varnish/nodes.conf"
nodes_port = 4278
dns = ["powderhorn.example.internal:4277", "Other.example.internal.:4279"]
dns_interval = "1s"

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

[[peer]]
address = "Cache-9.example.org:4277"

[purge]
key_headers = ["xkey", "X-Tags"]
bans_max = 16
soft_rate = 1

[journal]
dir = "/srv/powderhorn"
bytes = "2GiB"
fsync = "always"
wait = "1s"
require = true

[log]
purges = false

[limits]
retention = "36h"
retention_bytes = "1GiB"
round = "100ms"
own_site_percent = 0
repair_bytes_peer = "64 KiB"
repair_bytes_all = "4096B"
join_margin = "0s"
max_staleness = "2h"
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
    assert_eq!(
        peers,
        [
            "192.0.2.8:4277",
            "[2001:db8::9]:4277",
            "cache-9.example.org:4277",
        ]
    );
    let name = |text| HostName::parse(text).expect("a name");
    let expected = Discovery {
        nodes_file: Some("/etc/varnish/nodes.conf".into()),
        nodes_port: Some(4_278),
        dns: vec![
            name("powderhorn.example.internal:4277"),
            name("other.example.internal.:4279"),
        ],
        dns_interval: Duration::from_secs(1),
    };
    assert_eq!(config.discovery, expected);
    let expected = Limits {
        retention: Duration::from_secs(36 * 3_600),
        retention_bytes: 1 << 30,
        round: Duration::from_millis(100),
        own_site_percent: 0,
        repair_bytes_peer: 64 << 10,
        repair_bytes_all: 4_096,
        join_margin: Duration::ZERO,
        max_staleness: Some(Duration::from_secs(7_200)),
        replay_window: 1_024,
        apply_batch: 1,
        socket_bytes: 1 << 20,
    };
    assert_eq!(config.limits, expected);
    let expected = JournalConfig {
        dir: Some("/srv/powderhorn".into()),
        bytes: 2 << 30,
        fsync: true,
        wait: Duration::from_secs(1),
        require: true,
    };
    assert_eq!(config.journal, expected);
    assert!(!config.log.purges);
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
        journal: JournalConfig {
            dir: Some(JOURNAL_DIR.into()),
            ..JournalConfig::default()
        },
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
            "[limits]\nmax_staleness = '3s'\nround = '1s'",
            "2: limits.max_staleness: must be 4 of limits.round",
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
            "1: node.listen: needed where there are peers",
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
            &with("address = 'cache-2'"),
            "6: peer[1].address: must be an IP address or a host name, and a port, such as \
             \"192.0.2.8:4277\", \"[2001:db8::8]:4277\" or \"cache-2.example.org:4277\", not \
             \"cache-2\"",
        ),
        (
            &with("address = 'cache-2:80'"),
            "6: peer[1].address: the port must be 1024",
        ),
        (
            &with("address = 'a:4277'\n[[peer]]\naddress = 'A:4277'"),
            "8: peer[2].address: a:4277 is peer[1]'s, too",
        ),
        (
            "[fleet]\nnodes_file = 'nodes.conf'",
            "2: fleet.nodes_file: must be an absolute path",
        ),
        (
            "[fleet]\nnodes_port = 80",
            "2: fleet.nodes_port: must be 1024 to 65535, not 80",
        ),
        (
            "[fleet]\ndns = ['a:4277',\n'192.0.2.1:4277']",
            "3: fleet.dns: must be a host name and a port, such as",
        ),
        (
            "[fleet]\ndns = ['a:4277',\n'a:4277']",
            "3: fleet.dns: a:4277 twice",
        ),
        (
            "[fleet]\ndns = ['a:80']",
            "2: fleet.dns: the port must be 1024 or above",
        ),
        (
            "[fleet]\ndns_interval = '999ms'",
            "2: fleet.dns_interval: must be 1s to 1h, not 999ms",
        ),
        (
            "[fleet]\n\nnodes_file = '/n'",
            "3: node.listen: needed where there are peers",
        ),
        (
            "[node]\nlisten = '0.0.0.0:4277'\n[fleet]\ndns = ['a:4277']",
            "4: fleet.key_file: needed where there are peers",
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
