//! Fleets of nodes on loopback, each with a cache that records what it was asked to purge.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use powderhorn_node::hooks::{OutgoingFilter, Resolver};
use powderhorn_node::{
    Cache, Config, Job, Limits, MessageId, Node, Outcome, PeerConfig, Purge, Ticket,
};

/// Longest that a test waits for what should take milliseconds: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a cache was asked to purge, and how often; and how it is to behave.
#[derive(Default)]
pub struct Record {
    pub applied: Mutex<BTreeMap<MessageId, u32>>,
    /// So many of the next batches fail whole.
    pub fail_batches: AtomicU32,
    /// So many of the next batches panic.
    pub panic_batches: AtomicU32,
}

impl Record {
    pub fn count(&self) -> usize {
        self.applied.lock().unwrap().len()
    }

    pub fn times(&self, id: MessageId) -> u32 {
        self.applied.lock().unwrap().get(&id).copied().unwrap_or(0)
    }
}

/// Writes down what it is asked to purge.
pub struct Recorder(Arc<Record>);

fn take_one(counter: &AtomicU32) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
        .is_ok()
}

impl Cache for Recorder {
    fn apply(&mut self, jobs: &mut [Job]) {
        if take_one(&self.0.panic_batches) {
            panic!("a cache that panics, for the test");
        }
        if take_one(&self.0.fail_batches) {
            return;
        }
        let mut applied = self.0.applied.lock().unwrap();
        for job in jobs {
            *applied.entry(job.id).or_default() += 1;
            job.outcome = Outcome::Applied;
        }
    }
}

/// A node with its recording cache.
pub struct TestNode {
    pub node: Node,
    pub record: Arc<Record>,
    applier: Option<JoinHandle<()>>,
}

impl TestNode {
    pub fn start(config: Config) -> TestNode {
        Self::start_with(config, Duration::from_secs(3_600))
    }

    pub fn start_with(config: Config, cache_uptime: Duration) -> TestNode {
        Self::lend_thread(Node::start(config, cache_uptime).unwrap(), |cache| cache)
    }

    /// With a filter on all that it sends.
    pub fn start_filtered(config: Config, filter: OutgoingFilter) -> TestNode {
        let node = Node::start_filtered(config, Duration::from_secs(3_600), filter);
        Self::lend_thread(node.unwrap(), |cache| cache)
    }

    /// With a journal that is told each second what has expired.
    pub fn start_noting(config: Config) -> TestNode {
        let node = Node::start_noting(config, Duration::from_secs(3_600), Duration::ZERO);
        Self::lend_thread(node.unwrap(), |cache| cache)
    }

    /// With somebody else to look names up.
    pub fn start_resolving(config: Config, resolver: Resolver) -> TestNode {
        let node = Node::start_resolving(config, Duration::from_secs(3_600), resolver);
        Self::lend_thread(node.unwrap(), |cache| cache)
    }

    /// With a cache that stands in front of the recording one.
    pub fn start_cached<C: Cache + Send + 'static>(
        config: Config,
        cache: impl FnOnce(Recorder) -> C,
    ) -> TestNode {
        let node = Node::start(config, Duration::from_secs(3_600));
        Self::lend_thread(node.unwrap(), cache)
    }

    fn lend_thread<C: Cache + Send + 'static>(
        node: Node,
        cache: impl FnOnce(Recorder) -> C,
    ) -> TestNode {
        let record = Arc::new(Record::default());
        let mut applier = node.applier().unwrap();
        let mut cache = cache(Recorder(record.clone()));
        let applier = std::thread::spawn(move || applier.run(&mut cache));
        TestNode {
            node,
            record,
            applier: Some(applier),
        }
    }

    /// Issues a purge and applies it here, as a host does.
    pub fn purge(&self, n: u32) -> MessageId {
        let ticket: Ticket = self.node.issue(purge(n)).unwrap();
        let id = ticket.ids().first();
        *self.record.applied.lock().unwrap().entry(id).or_default() += 1;
        ticket.complete(Outcome::Applied);
        id
    }

    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.node.counters();
        counters
            .iter()
            .find(|c| c.name == name)
            .unwrap_or_else(|| panic!("{name}"))
            .value
    }

    pub fn knows(&self, id: MessageId) -> bool {
        self.node.knows(id)
    }

    pub fn stop(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        let stopped = self.node.stop(PATIENCE);
        if let Some(applier) = self.applier.take() {
            applier.join().unwrap();
        }
        assert!(stopped, "the runtime did not end");
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if self.applier.is_some() && !std::thread::panicking() {
            self.stop_and_join();
        }
    }
}

pub fn purge(n: u32) -> Purge {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&n.to_le_bytes());
    Purge::Digest(digest)
}

/// A folder that is removed with the value.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "powderhorn-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub fn key_file(&self, keys: &[u8]) -> PathBuf {
        let path = self.0.join("powderhorn.key");
        write_keys(&path, keys);
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Replaces a key file as an operator should: whole.
pub fn write_keys(path: &Path, keys: &[u8]) {
    let text: String = keys
        .iter()
        .map(|key| format!("{key:02x}").repeat(32) + "\n")
        .collect();
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}

/// Free UDP ports on `ip`, held until all are found.
pub fn free_addresses(ip: &str, count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind(format!("{ip}:0")).unwrap())
        .collect();
    sockets
        .iter()
        .map(|socket| socket.local_addr().unwrap())
        .collect()
}

/// Configurations of a fleet on these addresses; all know all.
pub fn fleet(addresses: &[SocketAddr], key_file: &Path) -> Vec<Config> {
    let name = |i: usize| format!("node-{i}");
    let config = |i: usize| Config {
        name: name(i),
        site: format!("site-{}", i % 2),
        listen: vec![addresses[i]],
        key_file: Some(key_file.into()),
        peers: (0..addresses.len())
            .filter(|&j| j != i)
            .map(|j| PeerConfig {
                name: name(j),
                site: format!("site-{}", j % 2),
                address: addresses[j].into(),
            })
            .collect(),
        limits: Limits {
            socket_bytes: 1 << 20,
            ..Limits::default()
        },
        ..Config::single_node()
    };
    (0..addresses.len()).map(config).collect()
}

/// Waits until every node has met every other.
pub fn all_met(nodes: &[TestNode]) {
    eventually("all nodes met", || {
        nodes.iter().all(|node| {
            node.node
                .status()
                .peers
                .iter()
                .all(|peer| peer.state == "up")
        })
    });
}

/// A started fleet of `count` nodes whose nodes have met.
pub fn start_fleet(dir: &TempDir, count: usize) -> Vec<TestNode> {
    let addresses = free_addresses("127.0.0.1", count);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let nodes: Vec<TestNode> = configs.into_iter().map(TestNode::start).collect();
    all_met(&nodes);
    nodes
}

/// Addresses of its peers.
pub fn peers(node: &TestNode) -> Vec<String> {
    let mut peers: Vec<_> = node
        .node
        .status()
        .peers
        .into_iter()
        .map(|p| p.address)
        .collect();
    peers.sort();
    peers
}

/// Whether it has so many peers, and has met all of them.
pub fn all_up(node: &TestNode, count: usize) -> bool {
    let peers = node.node.status().peers;
    peers.len() == count && peers.iter().all(|peer| peer.state == "up")
}

/// Whether there is a notice with this in it.
pub fn said(node: &TestNode, text: &str) -> bool {
    let notices = node.node.status().notices;
    notices.iter().any(|notice| notice.text.contains(text))
}
