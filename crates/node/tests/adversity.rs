//! Nodes among recorded datagrams, caches that fail, panics, and stops at the wrong moment.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{
    PATIENCE, Recorder, TempDir, TestNode, all_met, eventually, fleet, free_addresses, purge, said,
    start_fleet, write_keys,
};
use powderhorn_node::hooks::{Outgoing, OutgoingFilter};
use powderhorn_node::{
    Cache, Config, IssueError, Job, MessageId, Node, Notice, Outcome, PeerAddress,
};
use powderhorn_protocol::bounds::STANDSTILL;

/// Datagrams that were meant for one address; while `keep`, they are recorded instead of sent.
#[derive(Clone, Default)]
struct Tape {
    keep: Arc<AtomicBool>,
    datagrams: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tape {
    fn filter(&self, to: SocketAddr) -> OutgoingFilter {
        let tape = self.clone();
        Box::new(move |outgoing: &Outgoing<'_>| {
            let keep = tape.keep.load(Ordering::SeqCst) && outgoing.to == to;
            if keep {
                tape.datagrams
                    .lock()
                    .unwrap()
                    .push(outgoing.datagram.to_vec());
            }
            !keep
        })
    }

    /// Sends all of it from `from`, and waits until `to` has taken it in.
    fn play(&self, from: &UdpSocket, to: &TestNode) {
        let target = to.node.local_addresses()[0];
        let before = to.counter("net_datagrams_in");
        let datagrams = self.datagrams.lock().unwrap();
        for datagram in datagrams.iter() {
            from.send_to(datagram, target).unwrap();
        }
        let count = datagrams.len() as u64;
        eventually("played", || {
            to.counter("net_datagrams_in") >= before + count
        });
    }
}

/// A receiver that lacks purges whose datagrams are on a tape, and whose sender is gone.
struct Scene {
    _dir: TempDir,
    addresses: Vec<SocketAddr>,
    receiver_config: Config,
    receiver: TestNode,
    tape: Tape,
    lacking: Vec<MessageId>,
}

fn scene() -> Scene {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 3);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let tape = Tape::default();
    let sender = TestNode::start_filtered(configs[0].clone(), tape.filter(addresses[1]));
    let receiver = TestNode::start(configs[1].clone());
    let known = sender.purge(0);
    eventually("met", || receiver.knows(known));
    tape.keep.store(true, Ordering::SeqCst);
    let lacking: Vec<_> = (1..20).map(|n| sender.purge(n)).collect();
    eventually("taped", || !tape.datagrams.lock().unwrap().is_empty());
    // All that is sent from now on, the last of the purges included, is on the tape.
    sender.stop();
    assert!(lacking.iter().all(|&id| !receiver.knows(id)));
    Scene {
        receiver_config: configs[1].clone(),
        _dir: dir,
        addresses,
        receiver,
        tape,
        lacking,
    }
}

fn knows_any(node: &TestNode, ids: &[MessageId]) -> bool {
    ids.iter().any(|&id| node.knows(id))
}

/// The control for the two tests below: from the right address and in time, what is on the tape is
/// merely late, so there is something on it to be refused.
#[test]
fn late_datagrams_are_taken_once() {
    let scene = scene();
    let right = UdpSocket::bind(scene.addresses[0]).unwrap();
    scene.tape.play(&right, &scene.receiver);
    eventually("applied", || {
        scene.lacking.iter().all(|&id| scene.receiver.knows(id))
    });
    let replayed = scene.receiver.counter("replayed");
    scene.tape.play(&right, &scene.receiver);
    let count = scene.tape.datagrams.lock().unwrap().len() as u64;
    eventually("refused", || {
        scene.receiver.counter("replayed") >= replayed + count
    });
    assert!(
        scene
            .lacking
            .iter()
            .all(|&id| scene.receiver.record.times(id) == 1)
    );
}

#[test]
fn datagrams_recorded_before_a_restart_of_the_receiver_apply_nothing() {
    let scene = scene();
    scene.receiver.stop();
    let receiver = TestNode::start(scene.receiver_config);
    let right = UdpSocket::bind(scene.addresses[0]).unwrap();
    for _ in 0..3 {
        scene.tape.play(&right, &receiver);
    }
    eventually("refused", || {
        receiver.counter("unproven") + receiver.counter("misdirected") > 0
    });
    assert!(!knows_any(&receiver, &scene.lacking));
    assert_eq!(receiver.record.count(), 0);
    assert_eq!(receiver.node.status().held, 0);
}

#[test]
fn datagrams_from_another_address_apply_nothing() {
    let scene = scene();
    let before = scene.receiver.record.count();
    // A member's address that is not the sender's, and one that is nobody's.
    let member = UdpSocket::bind(scene.addresses[2]).unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        scene.tape.play(&member, &scene.receiver);
        scene.tape.play(&stranger, &scene.receiver);
    }
    assert!(!knows_any(&scene.receiver, &scene.lacking));
    assert_eq!(scene.receiver.record.count(), before);
}

#[test]
fn a_lone_lost_purge_is_recovered() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 5);
    let mut configs = fleet(&addresses, &dir.key_file(&[1])).into_iter();
    let lose = Arc::new(AtomicBool::new(false));
    let (to, losing) = (addresses[3], lose.clone());
    let filter: OutgoingFilter = Box::new(move |outgoing| {
        !(outgoing.to_all && outgoing.to == to && losing.swap(false, Ordering::SeqCst))
    });
    let mut nodes = vec![TestNode::start_filtered(configs.next().unwrap(), filter)];
    nodes.extend(configs.map(TestNode::start));
    all_met(&nodes);
    for n in 0..5 {
        lose.store(true, Ordering::SeqCst);
        let id = nodes[0].purge(n);
        for node in &nodes {
            eventually("applied", || node.knows(id));
            assert_eq!(node.record.times(id), 1);
        }
        assert!(!lose.load(Ordering::SeqCst), "nothing was lost");
    }
    assert!(nodes[3].counter("recovered") > 0);
}

/// Fails each purge once before the recorder gets it.
struct FailsOnce {
    failed: Vec<MessageId>,
    batch_max: usize,
    recorder: Recorder,
}

impl Cache for FailsOnce {
    fn apply(&mut self, jobs: &mut [Job]) {
        assert!(jobs.len() <= self.batch_max);
        for job in jobs {
            if self.failed.contains(&job.id) {
                self.recorder.apply(std::slice::from_mut(job));
            } else {
                self.failed.push(job.id);
            }
        }
    }
}

#[test]
fn a_queue_of_one_to_a_cache_that_fails_each_purge_once_loses_nothing() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    configs[1].limits.apply_batch = 1;
    let issuer = TestNode::start(configs[0].clone());
    let node = TestNode::start_cached(configs[1].clone(), |recorder| FailsOnce {
        failed: Vec::new(),
        batch_max: 1,
        recorder,
    });
    let ids: Vec<_> = (0..300).map(|n| issuer.purge(n)).collect();
    eventually("applied", || ids.iter().all(|&id| node.knows(id)));
    assert!(ids.iter().all(|&id| node.record.times(id) == 1));
    assert_eq!(node.counter("apply_failed"), 300);
    assert_eq!(node.counter("apply_panics"), 0);
}

/// Panics over one purge, always.
struct Allergic(Recorder);

impl Cache for Allergic {
    fn apply(&mut self, jobs: &mut [Job]) {
        assert!(jobs.iter().all(|job| job.purge != purge(7)), "for the test");
        self.0.apply(jobs);
    }
}

#[test]
fn a_purge_that_always_makes_the_cache_panic_does_not_hold_up_the_others() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let issuer = TestNode::start(configs[0].clone());
    let node = TestNode::start_cached(configs[1].clone(), Allergic);
    let ids: Vec<_> = (0..100).map(|n| issuer.purge(n)).collect();
    let (bad, good): (Vec<_>, Vec<_>) = ids.iter().partition(|id| **id == ids[7]);
    eventually("applied", || good.iter().all(|&&id| node.knows(id)));
    assert!(!node.knows(*bad[0]));
    assert!(node.counter("apply_panics") > 0);
    let status = node.node.status();
    assert!(status.ready + status.in_flight == 1, "{}", status.to_text());
}

#[test]
fn panics_of_the_runtime_are_survived() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let left = Arc::new(AtomicU32::new(0));
    let panics = left.clone();
    let filter: OutgoingFilter = Box::new(move |outgoing| {
        let take = |left: u32| left.checked_sub(1);
        let one_more = || {
            panics
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                .is_ok()
        };
        assert!(outgoing.to_all || !one_more(), "for the test");
        true
    });
    let node = TestNode::start_filtered(configs[0].clone(), filter);
    let other = TestNode::start(configs[1].clone());
    let id = node.purge(1);
    eventually("applied", || other.knows(id));
    left.store(3, Ordering::SeqCst);
    eventually("panicked", || node.counter("runtime_panics") == 3);
    let ids = [node.purge(2), other.purge(1)];
    eventually("goes on", || {
        ids.iter().all(|&id| node.knows(id) && other.knows(id))
    });
    assert_eq!(node.node.status().runtime, "running");
}

/// As long as it stood still they would count as younger than they are.
#[test]
fn what_waited_while_a_node_stood_still_is_not_taken() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let (stop, stands) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let told = (stop.clone(), stands.clone());
    // Who issues nothing sends from the runtime's thread only.
    let filter: OutgoingFilter = Box::new(move |_| {
        if told.0.swap(false, Ordering::SeqCst) {
            told.1.store(true, Ordering::SeqCst);
            std::thread::sleep(STANDSTILL + Duration::from_secs(1));
        }
        true
    });
    let node = TestNode::start_filtered(configs[0].clone(), filter);
    let other = TestNode::start(configs[1].clone());
    let id = other.purge(0);
    eventually("met", || node.knows(id));
    let recovered = node.counter("recovered");
    stop.store(true, Ordering::SeqCst);
    eventually("it stands still", || stands.load(Ordering::SeqCst));
    let ids: Vec<_> = (1..50).map(|n| other.purge(n)).collect();
    eventually("all came", || ids.iter().all(|&id| node.knows(id)));
    assert!(node.counter("net_stood_still") > 0);
    assert_eq!(node.counter("recovered") - recovered, 49);
    assert!(said(&node, "this node stood still for more than 5 s"));
    assert_eq!(other.counter("net_stood_still"), 0);
}

#[test]
fn a_runtime_that_panics_for_ever_gives_up_and_says_so() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let filter: OutgoingFilter = Box::new(|_| panic!("for the test"));
    let node = TestNode::start_filtered(configs[0].clone(), filter);
    eventually("gave up", || node.node.status().runtime == "gave up");
    assert!(
        node.node.status().verdict.contains("gave up"),
        "{}",
        node.node.status().verdict
    );
    node.stop();
}

/// They were answered as good and sent to nobody, ever.
#[test]
fn purges_are_refused_once_the_runtime_gave_up() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let sick = Arc::new(AtomicBool::new(false));
    let is_sick = sick.clone();
    let filter: OutgoingFilter = Box::new(move |_| {
        assert!(!is_sick.load(Ordering::SeqCst), "for the test");
        true
    });
    let node = TestNode::start_filtered(configs[0].clone(), filter);
    let other = TestNode::start(configs[1].clone());
    let id = node.purge(1);
    eventually("applied", || other.knows(id));
    sick.store(true, Ordering::SeqCst);
    // Until then its own cache is purged, and the runtime's next start may send it.
    eventually("panicked here", || {
        let id = node.purge(2);
        node.knows(id) && node.counter("send_panics") > 0
    });
    eventually("gave up", || node.node.status().runtime == "gave up");
    sick.store(false, Ordering::SeqCst);
    for error in [
        node.node.issue(purge(3)).err(),
        node.node.issue_applied(purge(3)).err(),
    ] {
        let error = error.expect("refused");
        assert!(matches!(error, IssueError::GaveUp), "{error}");
        // So the VMOD applies it here and says that.
        assert!(error.only_unsent());
    }
}

#[test]
fn what_was_issued_before_a_stop_gets_out() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    let stays = TestNode::start(configs[1].clone());
    for _ in 0..5 {
        let stops = TestNode::start(configs[0].clone());
        eventually("met", || {
            let up = |node: &TestNode| node.node.status().peers[0].state == "up";
            up(&stops) && up(&stops)
        });
        let first = stops.purge(0);
        eventually("in touch", || stays.knows(first));
        let ids: Vec<_> = (1..200).map(|n| stops.purge(n)).collect();
        stops.stop();
        eventually("got out", || ids.iter().all(|&id| stays.knows(id)));
    }
}

#[test]
fn dropping_the_last_handle_stops_the_node() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let config = fleet(&addresses, &dir.key_file(&[1])).remove(0);
    let node = Node::start(config, Duration::ZERO).unwrap();
    let mut applier = node.applier().unwrap();
    struct Nothing;
    impl Cache for Nothing {
        fn apply(&mut self, jobs: &mut [Job]) {
            jobs.iter_mut()
                .for_each(|job| job.outcome = Outcome::Applied);
        }
    }
    let applying = std::thread::spawn(move || applier.run(&mut Nothing));
    drop(node.clone());
    let ticket = node.issue(purge(1)).unwrap();
    drop(node);
    applying.join().unwrap();
    eventually("the address is free", || {
        UdpSocket::bind(addresses[0]).is_ok()
    });
    ticket.complete(Outcome::Applied);
}

/// A cache that is at work when the node stops.
struct Slow(Recorder);

impl Cache for Slow {
    fn apply(&mut self, jobs: &mut [Job]) {
        std::thread::sleep(Duration::from_millis(300));
        self.0.apply(jobs);
    }
}

#[test]
fn a_stop_waits_for_the_cache_until_its_deadline() {
    let node = TestNode::start_cached(Config::single_node(), Slow);
    let ticket = node.node.issue(purge(1)).unwrap();
    let id = ticket.ids().first();
    drop(ticket);
    eventually("handed to the cache", || node.node.status().ready == 0);
    eventually("at work", || node.counter("apply_failed") == 1);
    std::thread::sleep(Duration::from_millis(150));
    assert!(!node.node.stop(Duration::ZERO));
    assert!(node.node.stop(PATIENCE));
    assert_eq!(node.node.status().applier, "ended");
    // Whether it was in time does not matter; that nothing is left half done does.
    assert_eq!(node.record.times(id) == 1, node.knows(id));
}

#[test]
fn this_node_itself_is_left_out_of_its_peers() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 3);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    // One list for all of them, as one file for a fleet has it.
    let mut all = configs[0].peers.clone();
    all.push(configs[1].peers[0].clone());
    for config in &mut configs {
        config.peers = all.clone();
    }
    // On the wildcard address, this host's own addresses tell.
    configs[2].listen = vec![SocketAddr::from(([0, 0, 0, 0], addresses[2].port()))];
    let nodes: Vec<TestNode> = configs.into_iter().map(TestNode::start).collect();
    for node in &nodes {
        assert_eq!(node.node.status().peers.len(), 2);
    }
    all_met(&nodes);
    let id = nodes[2].purge(1);
    eventually("applied", || nodes.iter().all(|node| node.knows(id)));
    assert!(nodes.iter().all(|node| node.counter("reflected") == 0));
}

#[test]
fn a_fleet_may_be_of_both_address_families() {
    let dir = TempDir::new();
    let (v4, v6) = (free_addresses("127.0.0.1", 2), free_addresses("[::1]", 2));
    let key_file = dir.key_file(&[1]);
    // Node 0 has both, node 1 IPv4 only, node 2 IPv6 only.
    let mut both = fleet(&[v4[0], v4[1], v6[1]], &key_file).remove(0);
    both.listen = vec![v4[0], v6[0]];
    let only_v4 = fleet(&v4, &key_file).remove(1);
    let mut only_v6 = fleet(&v6, &key_file).remove(1);
    only_v6.name = "node-2".into();
    let nodes: Vec<_> = [both, only_v4, only_v6]
        .into_iter()
        .map(TestNode::start)
        .collect();
    all_met(&nodes);
    // Those two have never met: it goes from one to the other by anti-entropy.
    let id = nodes[1].purge(1);
    eventually("applied", || nodes.iter().all(|node| node.knows(id)));
}

#[test]
fn what_cannot_be_sent_is_counted_and_the_node_goes_on() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let mut configs = fleet(&addresses, &dir.key_file(&[1]));
    let mut nowhere = configs[0].peers[0].clone();
    // The system refuses to send there.
    nowhere.address = PeerAddress::Fixed("255.255.255.255:4277".parse().unwrap());
    nowhere.name = "nowhere".into();
    configs[0].peers.insert(0, nowhere);
    let nodes: Vec<TestNode> = configs.into_iter().map(TestNode::start).collect();
    let id = nodes[0].purge(1);
    eventually("applied", || nodes[1].knows(id));
    eventually("counted", || nodes[0].counter("net_send_forbidden") > 0);
    eventually("the worst is first", || {
        let status = nodes[0].node.status();
        assert!(status.verdict.contains("nowhere"), "{}", status.verdict);
        status.peers[0].name == "nowhere"
    });
}

#[test]
fn a_node_is_not_started_without_keys_for_its_peers() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let mut config = fleet(&addresses, &dir.key_file(&[1])).remove(0);
    config.key_file = None;
    let error = Node::start(config, Duration::ZERO)
        .err()
        .unwrap()
        .to_string();
    assert!(error.starts_with("fleet.key_file: needed"), "{error}");
}

#[test]
fn a_key_file_that_everybody_can_read_is_warned_about() {
    let dir = TempDir::new();
    let addresses = free_addresses("127.0.0.1", 2);
    let configs = fleet(&addresses, &dir.key_file(&[1]));
    for (mode, warned) in [(0o640, false), (0o644, true)] {
        let path = configs[0].key_file.as_ref().unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let node = TestNode::start(configs[0].clone());
        let notices = node.node.status().notices;
        let says = |notice: &Notice| notice.text.contains("can be read by everybody");
        assert_eq!(notices.iter().any(says), warned, "{notices:?}");
    }
}

#[test]
fn a_changed_key_file_with_a_mistake_is_in_the_verdict_until_it_is_mended() {
    let dir = TempDir::new();
    let nodes = start_fleet(&dir, 2);
    let path = dir.0.join("powderhorn.key");
    std::fs::write(&path, "beef\n").unwrap();
    let verdict = || nodes[0].node.status().verdict;
    eventually("said", || {
        verdict().contains("powderhorn.key:1: a key is 64")
    });
    let id = nodes[0].purge(1);
    eventually("goes on with the old one", || nodes[1].knows(id));
    write_keys(&path, &[2, 1]);
    eventually("mended", || verdict().starts_with("ok"));
}

#[test]
fn the_status_is_one_json_object_and_a_text_that_begins_with_the_verdict() {
    let dir = TempDir::new();
    let nodes = start_fleet(&dir, 2);
    let id = nodes[0].purge(1);
    eventually("applied", || nodes[1].knows(id));
    eventually("ok", || {
        nodes[1]
            .node
            .status()
            .verdict
            .starts_with("ok: all purges older than ")
    });
    let status = nodes[1].node.status();
    let verdict = &status.verdict;
    assert!(
        verdict.contains(" applied on 2 of 2 nodes; oldest news "),
        "{verdict}"
    );
    assert!(verdict.ends_with("from node-0"), "{verdict}");
    assert_eq!(
        status.to_text().lines().next(),
        Some(status.verdict.as_str())
    );
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["peers"][0]["name"], "node-0");
    assert_eq!(json["held"], 1);
    let digest = nodes[1].node.digest_text(10_000);
    assert!(digest.contains("held 1 applied 1 lacking 0"), "{digest}");
}
