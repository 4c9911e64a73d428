//! Nodes that talk over real UDP on loopback.

mod common;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{
    TempDir, TestNode, all_met, eventually, fleet, free_addresses, purge, start_fleet, write_keys,
};
use powderhorn_node::{Config, IssueError, Node, Outcome};

#[test]
fn a_single_node_purges_itself() {
    let node = TestNode::start(Config::single_node());
    let id = node.purge(1);
    assert!(node.knows(id));
    assert!(
        node.node.status().verdict.starts_with("ok"),
        "{}",
        node.node.status().verdict
    );
}

#[test]
fn a_purge_reaches_every_node_once() {
    let dir = TempDir::new();
    let nodes = start_fleet(&dir, 5);
    let ids: Vec<_> = (0..100).map(|n| nodes[n % 5].purge(n as u32)).collect();
    for node in &nodes {
        eventually("all purges applied", || {
            ids.iter().all(|&id| node.knows(id))
        });
        assert!(
            ids.iter().all(|&id| node.record.times(id) == 1),
            "applied more than once"
        );
        assert_eq!(node.counter("applied"), 100);
    }
}

#[test]
fn ipv6_carries_purges_as_well() {
    let dir = TempDir::new();
    let addresses = free_addresses("[::1]", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let nodes: Vec<TestNode> = configs.into_iter().map(TestNode::start).collect();
    all_met(&nodes);
    let id = nodes[0].purge(1);
    eventually("applied over IPv6", || nodes[1].knows(id));
}

#[test]
fn a_node_that_starts_late_recovers_what_it_missed() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 3);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    let late = configs.pop().unwrap();
    let nodes: Vec<TestNode> = configs.into_iter().map(TestNode::start).collect();
    let ids: Vec<_> = (0..1_000).map(|n| nodes[n % 2].purge(n as u32)).collect();
    // Nothing is disseminated any more.
    for node in &nodes {
        eventually("applied", || ids.iter().all(|&id| node.knows(id)));
    }
    let late = TestNode::start(late);
    eventually("recovered", || ids.iter().all(|&id| late.knows(id)));
    assert!(late.counter("recovered") >= 1_000);
}

#[test]
fn an_apply_that_fails_or_panics_is_repeated() {
    let dir = TempDir::new();
    let nodes = start_fleet(&dir, 2);
    nodes[1].record.fail_batches.store(2, Ordering::SeqCst);
    nodes[1].record.panic_batches.store(2, Ordering::SeqCst);
    let ids: Vec<_> = (0..500).map(|n| nodes[0].purge(n)).collect();
    eventually("all applied", || ids.iter().all(|&id| nodes[1].knows(id)));
    assert!(nodes[1].counter("apply_failed") > 0);
    assert_eq!(nodes[1].counter("apply_panics"), 2);
}

#[test]
fn a_ticket_dropped_without_an_answer_is_applied_by_the_applier() {
    let node = TestNode::start(Config::single_node());
    let ticket = node.node.issue(purge(1)).unwrap();
    let id = ticket.ids().first();
    drop(ticket);
    eventually("applied", || node.record.times(id) == 1 && node.knows(id));
}

#[test]
fn after_a_restart_no_purge_is_taken_for_a_duplicate() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let stays = TestNode::start(configs[1].clone());
    for life in 0..3 {
        let restarted = TestNode::start(configs[0].clone());
        // At once, and again when they have met: the first ones come by anti-entropy.
        let mut ids: Vec<_> = (0..50).map(|n| restarted.purge(n)).collect();
        eventually("met", || restarted.node.status().peers[0].state == "up");
        ids.extend((0..50).map(|n| restarted.purge(n)));
        eventually("applied", || ids.iter().all(|&id| stays.knows(id)));
        assert_eq!(stays.record.count(), 100 * (life + 1));
        restarted.stop();
    }
}

#[test]
fn strangers_and_garbage_are_counted_and_change_nothing() {
    let dir = TempDir::new();
    let nodes = start_fleet(&dir, 2);
    let target = nodes[0].node.local_addresses()[0];
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (before, text) = (
        nodes[0].counter("net_strangers"),
        nodes[0].node.digest_text(10_000),
    );
    for n in 0..2_000usize {
        stranger
            .send_to(&vec![(n % 251) as u8; n % 1_400], target)
            .unwrap();
        if n % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    eventually("counted", || nodes[0].counter("net_strangers") > before);
    assert_eq!(nodes[0].node.digest_text(10_000), text);
    let id = nodes[1].purge(1);
    eventually("still works", || nodes[0].knows(id));
}

/// A member's address that sends garbage: what a corrupting network does.
#[test]
fn garbage_from_a_peers_address_is_counted_and_dropped() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let node = TestNode::start(configs[0].clone());
    let peer = UdpSocket::bind(addresses[1]).unwrap();
    let mut good = vec![0; 1_300];
    peer.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let (len, _) = peer.recv_from(&mut good).unwrap();
    good.truncate(len);
    // The node's own datagram: opened, and seen to be its own.
    peer.send_to(&good, addresses[0]).unwrap();
    eventually("reflected", || node.counter("reflected") == 1);
    for (index, counter) in [
        (0, "seal_version"),
        (1, "seal_unknown_key"),
        (len - 1, "seal_broken"),
    ] {
        let mut bad = good.clone();
        bad[index] ^= 1;
        peer.send_to(&bad, addresses[0]).unwrap();
        eventually(counter, || node.counter(counter) == 1);
    }
    for len in [0, 1, 44, 1_233, 1_300] {
        peer.send_to(&vec![1; len], addresses[0]).unwrap();
    }
    eventually("lengths", || node.counter("seal_length") == 5);
    assert_eq!(node.counter("malformed"), 0);
}

#[test]
fn two_nodes_of_one_name_are_named() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 3);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    configs[2].name = configs[1].name.clone();
    let nodes: Vec<TestNode> = configs.into_iter().map(TestNode::start).collect();
    all_met(&nodes);
    // Each hears it: the third party, and the two themselves.
    for node in &nodes {
        let status = node.node.status();
        assert_eq!(status.duplicate_names.len(), 1, "{status:?}");
        let duplicate = &status.duplicate_names[0];
        assert_eq!(duplicate.name, "node-1");
        assert_eq!(duplicate.addresses.len(), 2);
        assert!(status.verdict.contains("node-1"), "{}", status.verdict);
    }
    eventually("counted", || nodes[1].counter("duplicate_nodes") > 0);
    eventually("a notice", || {
        nodes[1]
            .node
            .status()
            .notices
            .iter()
            .any(|notice| notice.text.contains("has this node's name"))
    });
    // And nothing is lost by it.
    let ids = [nodes[1].purge(1), nodes[2].purge(1)];
    for node in &nodes {
        eventually("applied", || ids.iter().all(|&id| node.knows(id)));
    }
}

/// Under load on all nodes: the second key is added everywhere, made the first everywhere, and the
/// first removed everywhere.
#[test]
fn keys_rotate_under_load_without_losing_a_purge() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 3);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    let files: Vec<_> = (0..3).map(|i| dir.0.join(format!("{i}.key"))).collect();
    for (config, file) in configs.iter_mut().zip(&files) {
        write_keys(file, &[1]);
        config.key_file = Some(file.clone());
    }
    let nodes: Vec<TestNode> = configs.into_iter().map(TestNode::start).collect();
    all_met(&nodes);
    let done = AtomicBool::new(false);
    let ids = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut ids = Vec::new();
            while !done.load(Ordering::Relaxed) {
                ids.push(nodes[ids.len() % 3].purge(ids.len() as u32));
                std::thread::sleep(Duration::from_micros(500));
            }
            ids
        });
        for (step, keys) in [&[1, 2][..], &[2, 1], &[2]].into_iter().enumerate() {
            for (node, file) in nodes.iter().zip(&files) {
                write_keys(file, keys);
                eventually("read again", || {
                    node.counter("keys_reloaded") == step as u64 + 1
                });
            }
        }
        done.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    for node in &nodes {
        eventually("nothing lost", || ids.iter().all(|&id| node.knows(id)));
        assert_eq!(node.counter("seal_unknown_key"), 0);
        assert_eq!(node.node.status().keys.len(), 1);
    }
    // A file that is not usable changes nothing.
    std::fs::write(&files[0], "not a key\n").unwrap();
    eventually("refused", || nodes[0].counter("keys_reload_failed") == 1);
    let id = nodes[0].purge(0);
    eventually("goes on", || nodes[1].knows(id));
}

#[test]
fn a_node_with_another_key_is_not_of_the_fleet() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    let other = dir.0.join("other.key");
    write_keys(&other, &[9]);
    configs[1].key_file = Some(other);
    let nodes: Vec<TestNode> = configs.into_iter().map(TestNode::start).collect();
    let id = nodes[0].purge(1);
    eventually("counted", || nodes[1].counter("seal_unknown_key") > 3);
    assert!(!nodes[1].knows(id));
    assert_eq!(nodes[1].node.status().peers[0].state, "unknown");
}

#[test]
fn stopping_at_full_rate_neither_hangs_nor_panics() {
    let dir = TempDir::new();
    for _ in 0..5 {
        let nodes = start_fleet(&dir, 2);
        std::thread::scope(|scope| {
            let handle: Node = nodes[0].node.clone();
            let issuer = scope.spawn(move || {
                for n in 0.. {
                    match handle.issue(purge(n)) {
                        Ok(ticket) => ticket.complete(Outcome::Applied),
                        Err(IssueError::Stopping) => return n,
                        Err(error @ IssueError::GaveUp) => panic!("{error}"),
                        // As fast as it goes is faster than it can be sent.
                        Err(IssueError::Refused(_)) => std::thread::yield_now(),
                    }
                }
                0
            });
            std::thread::sleep(Duration::from_millis(20));
            let before = Instant::now();
            assert!(nodes[0].node.stop(Duration::from_secs(5)));
            assert!(
                nodes[0].node.stop(Duration::from_secs(5)),
                "the second time as well"
            );
            assert!(before.elapsed() < Duration::from_secs(5));
            assert!(issuer.join().unwrap() > 0);
        });
    }
}

#[test]
fn a_second_applier_and_a_bad_key_file_are_refused() {
    let node = TestNode::start(Config::single_node());
    assert!(node.node.applier().is_none());
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let config = fleet(&addresses, &dir.0.join("missing.key")).remove(0);
    let error = Node::start(config.clone(), Duration::ZERO)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("missing.key"), "{error}");
    std::fs::write(dir.0.join("missing.key"), "# comment\n\nabc\n").unwrap();
    let error = Node::start(config, Duration::ZERO)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("missing.key:3: a key is 64"), "{error}");
}

#[test]
fn an_address_in_use_is_named() {
    let dir = TempDir::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = [
        taken.local_addr().unwrap(),
        free_addresses("127.0.0.1", 1)[0],
    ];
    let config = fleet(&addresses, &dir.key_file(&[1])).remove(0);
    let error = Node::start(config, Duration::ZERO)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains(&addresses[0].to_string()), "{error}");
}
