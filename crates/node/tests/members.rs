//! Peers that come and go while their fleet runs.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{TempDir, TestNode, all_up, eventually, free_addresses, peers, said};
use powderhorn_node::hooks::Resolver;
use powderhorn_node::{Config, Discovery, HostName, Limits, PeerAddress, PeerConfig};

/// A node on its own loopback address and the port that all nodes have: a nodes file has no ports.
fn node(n: u8, port: u16, key_file: &Path) -> Config {
    Config {
        name: format!("node-{n}"),
        listen: vec![at(n, port)],
        key_file: Some(key_file.into()),
        limits: Limits {
            socket_bytes: 1 << 20,
            ..Limits::default()
        },
        ..Config::single_node()
    }
}

fn at(n: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 7, n], port))
}

/// A port that is free on each of these addresses.
fn free_port(nodes: std::ops::RangeInclusive<u8>) -> u16 {
    loop {
        let first = UdpSocket::bind(at(*nodes.start(), 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        if nodes
            .clone()
            .skip(1)
            .all(|n| UdpSocket::bind(at(n, port)).is_ok())
        {
            return port;
        }
    }
}

/// Replaces a file whole.
fn write(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}

/// A nodes file with these nodes. Its ports are HTTP's, as they are in the field.
fn write_nodes(path: &Path, nodes: &[u8]) {
    let line = |n: &u8| format!("node-{n} = 127.0.7.{n}:6081\n");
    let lines: String = nodes.iter().map(line).collect();
    write(path, &format!("# made by a test\n[here]\n{lines}"));
}

fn with_file(config: Config, nodes_file: &Path) -> Config {
    let discovery = Discovery {
        nodes_file: Some(nodes_file.into()),
        ..Discovery::default()
    };
    Config {
        discovery,
        ..config
    }
}

#[test]
fn a_node_is_added_by_editing_the_file_and_removed_again() {
    let dir = TempDir::new();
    let (port, keys) = (free_port(1..=3), dir.key_file(&[1]));
    let file = dir.0.join("nodes.conf");
    write_nodes(&file, &[1, 2]);
    let start = |n| TestNode::start(with_file(node(n, port, &keys), &file));
    let (first, second) = (start(1), start(2));
    eventually("two met", || all_up(&first, 1) && all_up(&second, 1));
    let early = first.purge(1);

    // The third has the whole list in a file of its own.
    let own_file = dir.0.join("third.conf");
    write_nodes(&own_file, &[1, 2, 3]);
    let third = TestNode::start(with_file(node(3, port, &keys), &own_file));
    let before = Instant::now();
    write_nodes(&file, &[1, 2, 3]);
    eventually("three met", || {
        [&first, &second, &third].iter().all(|node| all_up(node, 2))
    });
    let late = second.purge(2);
    eventually("reached", || third.knows(late));
    let took = before.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    eventually("what was before it, too", || third.knows(early));
    let status = first.node.status();
    assert!(
        status
            .peers
            .iter()
            .all(|peer| peer.sources == ["file"] && peer.site == "here")
    );
    assert!(
        said(&first, "peers added: node-3 (127.0.7.3:"),
        "{:?}",
        status.notices
    );
    assert_eq!(
        (
            first.counter("members_added"),
            first.counter("members_removed")
        ),
        (2, 0)
    );

    // What the third issued stays in the fleet when it has gone.
    let its_own = third.purge(3);
    eventually("everywhere", || {
        first.knows(its_own) && second.knows(its_own)
    });
    write_nodes(&file, &[1, 2]);
    eventually("removed", || all_up(&first, 1) && all_up(&second, 1));
    let (strangers, applied) = (first.counter("net_strangers"), third.record.count());
    let ids: Vec<_> = (0..50).map(|n| first.purge(100 + n)).collect();
    eventually("the others", || ids.iter().all(|&id| second.knows(id)));
    eventually("it is not listened to", || {
        first.counter("net_strangers") > strangers + 2
    });
    assert!(ids.iter().all(|&id| !third.knows(id)));
    assert_eq!(third.record.count(), applied);
    assert!(first.knows(its_own));
    assert!(
        first
            .node
            .digest_text(10_000)
            .contains(&third.node.status().stream)
    );
    assert_eq!(first.counter("members_removed"), 1);
    assert_eq!(first.counter("peers"), 1);

    // And comes back: with what it missed, although its number is another one.
    write_nodes(&file, &[1, 2, 3]);
    eventually("back", || ids.iter().all(|&id| third.knows(id)));
}

/// A node that is taken out of the list because it is dead is what a waiter waits for in vain.
#[test]
fn a_wait_ends_when_the_node_that_is_missing_leaves_the_list() {
    let dir = TempDir::new();
    let (port, keys) = (free_port(1..=2), dir.key_file(&[1]));
    let file = dir.0.join("nodes.conf");
    write_nodes(&file, &[1, 2]);
    // The second is never started.
    let first = TestNode::start(with_file(node(1, port, &keys), &file));
    let id = first.purge(1);
    let limit = Duration::from_secs(50);
    let begun = Instant::now();
    let waited = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| first.node.wait_applied(id, 0, limit));
        // By then it waits.
        std::thread::sleep(Duration::from_millis(500));
        write_nodes(&file, &[1]);
        waiter.join().unwrap().unwrap()
    });
    assert!(waited.enough, "{waited:?}");
    assert_eq!((waited.done, waited.nodes), (1, 1));
    assert!(begun.elapsed() < limit / 2, "{:?}", begun.elapsed());
}

/// A restart while the network is out: nobody says who the others are. That is no single node.
#[test]
fn a_node_whose_sources_have_never_answered_is_alone_and_its_waits_are_not_over() {
    let dir = TempDir::new();
    let (port, keys) = (free_port(1..=2), dir.key_file(&[1]));
    let file = dir.0.join("nodes.conf");
    let names = Names::default();
    names.set("fleet.test", None);
    let stale_soon = |config: Config| Config {
        limits: Limits {
            max_staleness: Some(Duration::from_secs(1)),
            ..config.limits.clone()
        },
        ..config
    };
    let with_name = with_dns(node(2, port, &keys), "fleet.test", port);
    let nodes = [
        TestNode::start(stale_soon(with_file(node(1, port, &keys), &file))),
        TestNode::start_resolving(stale_soon(with_name), names.resolver()),
    ];
    for node in &nodes {
        let id = node.purge(1);
        let waited = node.node.wait_applied(id, 0, Duration::from_millis(100));
        let waited = waited.unwrap();
        assert_eq!((waited.nodes, waited.enough), (1, false));
        eventually("alone", || node.node.isolated());
        let status = node.node.status();
        let verdict = &status.verdict;
        assert!(
            !status.ok && verdict.contains("no peers known, "),
            "{verdict}"
        );
        // Alone for longer than a second, and that is how long nothing is known of others.
        assert!(node.counter("fleet_lag_ms") > 1_000);
    }

    // They answer, and there is nobody else: a wait ends with that answer.
    let answers: [&(dyn Fn() + Sync); 2] = [&|| write_nodes(&file, &[1]), &|| {
        names.set("fleet.test", Some(&[2]))
    }];
    for (node, answer) in nodes.iter().zip(answers) {
        let id = node.purge(2);
        let begun = Instant::now();
        let limit = Duration::from_secs(50);
        let waited = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| node.node.wait_applied(id, 0, limit));
            std::thread::sleep(Duration::from_millis(100));
            answer();
            waiter.join().unwrap().unwrap()
        });
        assert_eq!((waited.done, waited.nodes, waited.enough), (1, 1, true));
        assert!(begun.elapsed() < limit / 2, "{:?}", begun.elapsed());
        eventually("a single node", || !node.node.isolated());
        let verdict = node.node.status().verdict;
        assert!(verdict.starts_with("ok: a single node, "), "{verdict}");
        assert!(peers(node).is_empty());
    }
}

/// It gets no purge, so not all are applied everywhere, whatever those say that can be reached.
#[test]
fn a_node_that_is_listed_and_cannot_be_reached_is_in_the_verdict() {
    let dir = TempDir::new();
    let (port, keys) = (free_port(1..=1), dir.key_file(&[1]));
    let file = dir.0.join("nodes.conf");
    let with_sixth = |file: &Path| write(file, "node-1 = 127.0.7.1\nnode-6 = [2001:db8::6]\n");
    with_sixth(&file);
    let config = with_file(node(1, port, &keys), &file);
    let node = TestNode::start(Config {
        limits: Limits {
            max_staleness: Some(Duration::from_secs(1)),
            ..config.limits.clone()
        },
        ..config
    });
    let told = format!(
        "1 peers cannot be reached, [2001:db8::6]:{port} (file) first: node.listen has no IPv6 address; no peers known, "
    );
    let id = node.purge(1);
    for _ in 0..2 {
        eventually("it is told of", || {
            node.node.status().verdict.starts_with(&told)
        });
        let status = node.node.status();
        assert!(!status.ok && !status.sources_unanswered, "{status:?}");
        let waited = node.node.wait_applied(id, 0, Duration::ZERO).unwrap();
        assert!(!waited.enough, "{waited:?}");
        eventually("alone", || node.node.isolated());

        write_nodes(&file, &[1]);
        eventually("a single node", || {
            node.node
                .status()
                .verdict
                .starts_with("ok: a single node, ")
        });
        let waited = node.node.wait_applied(id, 0, Duration::ZERO).unwrap();
        assert!(waited.enough, "{waited:?}");
        eventually("not alone", || !node.node.isolated());
        with_sixth(&file);
    }
}

#[test]
fn a_file_that_is_not_fit_keeps_the_peers_and_is_told_of() {
    let dir = TempDir::new();
    let (port, keys) = (free_port(1..=2), dir.key_file(&[1]));
    let file = dir.0.join("nodes.conf");
    // It is not there yet: whoever writes it may come later.
    let first = TestNode::start(with_file(node(1, port, &keys), &file));
    let second = TestNode::start(with_file(node(2, port, &keys), &file));
    let verdict = first.node.status().verdict;
    assert!(verdict.contains("nodes.conf fails"), "{verdict}");
    assert_eq!(first.counter("members_source_errors"), 1);
    write_nodes(&file, &[1, 2]);
    eventually("met", || all_up(&first, 1) && all_up(&second, 1));
    eventually("all is well", || {
        first.node.status().verdict.starts_with("ok")
    });

    for (round, (bad, told)) in [
        (
            "[here]\nnode-2 = nonsense:x\n",
            "nodes.conf:2: node-2: must be",
        ),
        ("", "nodes.conf: names no node"),
    ]
    .into_iter()
    .enumerate()
    {
        write(&file, bad);
        eventually(told, || said(&first, told));
        let status = first.node.status();
        let source = &status.sources[0];
        assert!(
            source.failing_since_wall_ms.is_some_and(|since| since > 0),
            "{source:?}"
        );
        assert!(
            source
                .error
                .as_ref()
                .is_some_and(|error| error.contains(told)),
            "{source:?}"
        );
        assert!(status.verdict.contains(told), "{}", status.verdict);
        assert!(status.to_text().contains("FAILING"), "{}", status.to_text());
        assert_eq!(first.counter("members_source_errors"), round as u64 + 2);
    }
    std::fs::remove_file(&file).unwrap();
    eventually("missing", || said(&first, "No such file"));
    let id = first.purge(1);
    eventually("still a fleet", || second.knows(id));
    write_nodes(&file, &[1, 2]);
    eventually("well again", || {
        first.node.status().sources[0].error.is_none()
    });
    assert_eq!(first.counter("members_removed"), 0);
}

/// What names lead to, as a test wants it: `None` fails, and names that are not there hang.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<String, Option<Vec<IpAddr>>>>>);

impl Names {
    fn set(&self, name: &str, nodes: Option<&[u8]>) {
        let ips = nodes.map(|nodes| nodes.iter().map(|n| at(*n, 0).ip()).collect());
        self.0.lock().unwrap().insert(name.into(), ips);
    }

    fn resolver(&self) -> Resolver {
        let names = self.0.clone();
        Arc::new(move |host| {
            let end = Instant::now() + Duration::from_secs(8);
            loop {
                let found = names.lock().unwrap().get(host).cloned();
                match found {
                    Some(Some(ips)) => return Ok(ips),
                    Some(None) => return Err(io::Error::other("no such name, says the test")),
                    None if Instant::now() > end => return Ok(Vec::new()),
                    None => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        })
    }
}

fn with_dns(config: Config, name: &str, port: u16) -> Config {
    let discovery = Discovery {
        dns: vec![HostName::new(name, port).unwrap()],
        dns_interval: Duration::from_secs(1),
        ..Discovery::default()
    };
    Config {
        discovery,
        ..config
    }
}

/// It counted only while there was no peer at all: of a fleet of three, two were "all".
#[test]
fn a_source_that_has_not_answered_counts_beside_one_that_has() {
    let dir = TempDir::new();
    let (port, keys) = (free_port(1..=2), dir.key_file(&[1]));
    let listing = |config: Config, n: u8| Config {
        peers: vec![PeerConfig {
            name: format!("n{n}"),
            site: String::new(),
            address: at(n, port).into(),
        }],
        ..config
    };
    let other = TestNode::start(listing(node(1, port, &keys), 2));
    let names = Names::default();
    let config = with_dns(listing(node(2, port, &keys), 1), "hangs.test", port);
    let node = TestNode::start_resolving(config, names.resolver());
    eventually("met", || all_up(&node, 1) && all_up(&other, 1));
    let id = node.purge(1);
    eventually("applied", || other.knows(id));
    let waited = node.node.wait_applied(id, 0, Duration::from_millis(500));
    let waited = waited.unwrap();
    assert_eq!((waited.done, waited.nodes, waited.enough), (2, 2, false));
    let waited = node.node.wait_applied(id, 2, Duration::from_secs(10));
    assert!(waited.unwrap().enough, "two are two");
    eventually("how far the two are is known", || {
        node.node.status().reach.known == 2
    });
    let status = node.node.status();
    assert!(!status.ok && status.sources_unanswered);
    assert!(
        status
            .verdict
            .starts_with("not all sources of peers have answered; what these 2 of 2 nodes issued "),
        "{}",
        status.verdict
    );
    names.set("hangs.test", Some(&[1]));
    eventually("all have answered", || {
        let status = node.node.status();
        status.ok && status.verdict.contains("applied on 2 of 2 nodes")
    });
    let waited = node.node.wait_applied(id, 0, Duration::from_secs(10));
    assert!(waited.unwrap().enough);
}

#[test]
fn names_grow_fail_and_shrink() {
    let dir = TempDir::new();
    let (port, keys) = (free_port(1..=4), dir.key_file(&[1]));
    let names = Names::default();
    names.set("fleet.test", Some(&[1, 2]));
    let config = with_dns(node(1, port, &keys), "fleet.test", port);
    let first = TestNode::start_resolving(config, names.resolver());
    eventually("found", || peers(&first) == [at(2, port).to_string()]);
    let status = first.node.status();
    assert_eq!(status.peers[0].sources, [format!("dns fleet.test:{port}")]);

    names.set("fleet.test", Some(&[1, 2, 3]));
    eventually("grown", || peers(&first).len() == 2);
    // It fails, for longer than it takes an address to be missed.
    for (found, told) in [
        (None, "no such name, says the test"),
        (Some(&[][..]), "no address"),
    ] {
        names.set("fleet.test", found);
        let error = |node: &TestNode| node.node.status().sources[0].error.clone();
        eventually(told, || {
            error(&first).is_some_and(|error| error.contains(told))
        });
        let failures = first.counter("dns_failures");
        eventually("failures", || first.counter("dns_failures") >= failures + 4);
        assert_eq!(peers(&first).len(), 2);
    }
    assert!(first.node.status().verdict.contains("fleet.test"));
    assert!(said(&first, &format!("the name fleet.test:{port} fails")));

    // An answer that was cut short once or twice removes nobody, three in a row do.
    names.set("fleet.test", Some(&[1, 2]));
    let lookups = first.counter("dns_lookups");
    eventually("well again", || {
        first.node.status().sources[0].error.is_none()
    });
    assert!(said(
        &first,
        &format!("the name fleet.test:{port} is found again")
    ));
    assert_eq!(peers(&first).len(), 2);
    eventually("shrunk", || peers(&first) == [at(2, port).to_string()]);
    assert!(first.counter("dns_lookups") >= lookups + 2, "gone too soon");
    assert_eq!(first.counter("members_removed"), 1);
}

/// A resolver that hangs must hold up neither gossip nor the node's end.
#[test]
fn a_lookup_that_hangs_holds_nobody_up() {
    let dir = TempDir::new();
    let (port, keys) = (free_port(1..=3), dir.key_file(&[1]));
    let names = Names::default();
    let listed = |n: u8| PeerConfig {
        name: format!("node-{n}"),
        site: String::new(),
        address: at(n, port).into(),
    };
    let mut config = with_dns(node(1, port, &keys), "hangs.test", port);
    config.peers = vec![listed(2)];
    let first = TestNode::start_resolving(config, names.resolver());
    let second = TestNode::start(Config {
        peers: vec![listed(1)],
        ..node(2, port, &keys)
    });
    eventually("met", || all_up(&first, 1) && all_up(&second, 1));
    let id = second.purge(1);
    eventually("applied", || first.knows(id));
    eventually("overdue", || {
        let error = first.node.status().sources[0].error.clone();
        error.is_some_and(|error| error.contains("no answer within 5s"))
    });
    assert_eq!(first.counter("dns_lookups"), 1, "one at a time");
    let before = Instant::now();
    first.stop();
    assert!(
        before.elapsed() < Duration::from_secs(2),
        "{:?}",
        before.elapsed()
    );
}

/// The real resolver, wherever the tests run: `localhost` is in each host's hosts file. With the
/// wildcard address, the node must know itself in what it leads to.
#[test]
fn localhost_is_this_host() {
    let dir = TempDir::new();
    let keys = dir.key_file(&[1]);
    let ports: Vec<u16> = free_addresses("0.0.0.0", 2)
        .iter()
        .map(SocketAddr::port)
        .collect();
    let name = |port| HostName::new("localhost", port).unwrap();
    let config = |own: usize, other: usize| Config {
        name: format!("node-{own}"),
        listen: vec![SocketAddr::from(([0, 0, 0, 0], ports[own]))],
        peers: vec![PeerConfig {
            name: format!("node-{other}"),
            site: "there".into(),
            address: PeerAddress::Name(name(ports[other])),
        }],
        discovery: Discovery {
            dns: vec![name(ports[own])],
            ..Discovery::default()
        },
        ..node(1, 0, &keys)
    };
    let (first, second) = (TestNode::start(config(0, 1)), TestNode::start(config(1, 0)));
    eventually("met", || all_up(&first, 1) && all_up(&second, 1));
    let status = first.node.status();
    assert_eq!(status.peers[0].address, format!("127.0.0.1:{}", ports[1]));
    assert_eq!(status.peers[0].sources, ["static"]);
    assert_eq!(
        (&*status.peers[0].name, &*status.peers[0].site),
        ("node-1", "there")
    );
    let id = first.purge(1);
    eventually("applied", || second.knows(id));
}
