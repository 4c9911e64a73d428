//! Where a purge has been applied, for people and for those who wait, over real UDP.

mod common;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::{TempDir, TestNode, all_met, eventually, fleet, free_addresses, start_fleet};
use powderhorn_node::{Config, WAITERS_MAX, WaitError};

const LONG: Duration = Duration::from_secs(10);

#[test]
fn a_wait_ends_when_all_have_applied_it() {
    let dir = TempDir::new();
    let nodes = start_fleet(&dir, 5);
    all_met(&nodes);
    for n in 0..50 {
        let id = nodes[0].purge(n);
        let waited = nodes[0].node.wait_applied(id, 0, LONG).unwrap();
        assert!(waited.enough, "{waited:?}");
        assert_eq!((waited.done, waited.nodes), (5, 5));
        for node in &nodes {
            assert!(node.knows(id), "counted and not applied");
        }
    }
    let id = nodes[3].purge(99);
    nodes[3].node.wait_applied(id, 0, LONG).unwrap();
    let receipt = nodes[3].node.receipt(id);
    assert_eq!((receipt.done, receipt.nodes), (5, 5));
    assert!(receipt.applied_here && receipt.missing.is_empty() && receipt.unsupported.is_empty());
    let mut names: Vec<&str> = receipt.applied.iter().map(|a| a.node.as_str()).collect();
    names.sort_unstable();
    let others = nodes.iter().map(|node| node.node.config().name.clone());
    let mut others: Vec<String> = others
        .filter(|name| *name != nodes[3].node.config().name)
        .collect();
    others.sort_unstable();
    assert_eq!(names, others);
    for applied in &receipt.applied {
        let latency = applied.latency_ms.expect("it has just been applied");
        assert!((0.0..5_000.0).contains(&latency), "{latency}");
    }
}

#[test]
fn who_does_not_apply_it_is_named_and_n_nodes_are_enough() {
    let dir = TempDir::new();
    let nodes = start_fleet(&dir, 3);
    all_met(&nodes);
    nodes[2]
        .record
        .fail_batches
        .store(1_000_000, Ordering::SeqCst);
    let id = nodes[0].purge(1);
    let waited = nodes[0].node.wait_applied(id, 2, LONG).unwrap();
    assert!(waited.enough && waited.done >= 2, "{waited:?}");
    let begun = Instant::now();
    let timeout = Duration::from_millis(300);
    let waited = nodes[0].node.wait_applied(id, 0, timeout).unwrap();
    assert!(!waited.enough, "{waited:?}");
    assert_eq!((waited.done, waited.nodes), (2, 3));
    assert!(begun.elapsed() >= timeout && begun.elapsed() < LONG);
    let receipt = nodes[0].node.receipt(id);
    assert_eq!(receipt.missing, [nodes[2].node.config().name.clone()]);
    nodes[2].record.fail_batches.store(0, Ordering::SeqCst);
    let waited = nodes[0].node.wait_applied(id, 0, LONG).unwrap();
    assert!(waited.enough, "{waited:?}");
}

#[test]
fn a_node_alone_waits_for_nobody() {
    let node = TestNode::start(Config::single_node());
    let id = node.purge(1);
    let waited = node.node.wait_applied(id, 0, LONG).unwrap();
    assert_eq!((waited.done, waited.nodes, waited.enough), (1, 1, true));
    assert_eq!(node.node.receipt(id).done, 1);
}

#[test]
fn a_peer_that_never_came_is_named_by_what_is_known_of_it() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    let node = TestNode::start(configs.remove(0));
    let id = node.purge(1);
    let receipt = node.node.receipt(id);
    assert_eq!((receipt.done, receipt.nodes), (1, 2));
    assert_eq!(receipt.missing, [configs[0].name.clone()]);
}

#[test]
fn waiters_are_bounded_and_a_stop_ends_them() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    // The other node is never started.
    let node = TestNode::start(configs[0].clone());
    let id = node.purge(1);
    let handle = &node.node;
    std::thread::scope(|scope| {
        let waiting = |_| scope.spawn(|| handle.wait_applied(id, 0, LONG));
        let waiters: Vec<_> = (0..WAITERS_MAX).map(waiting).collect();
        eventually("all wait", || {
            handle.wait_applied(id, 0, Duration::ZERO) == Err(WaitError::TooMany)
        });
        assert!(node.counter("waiters_refused") > 0);
        let begun = Instant::now();
        handle.stop(LONG);
        for waiter in waiters {
            assert!(!waiter.join().unwrap().unwrap().enough);
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
    });
}
