//! Measures a fleet of five nodes on loopback, in one process, and prints a JSON line for each.
//!
//! ```text
//! cargo run --release -p powderhorn-node --example measure -- latency [trials]
//! cargo run --release -p powderhorn-node --example measure -- recovery [trials] [round in ms]
//! cargo run --release -p powderhorn-node --example measure -- throughput [purges]
//! ```
//!
//! latency: from the call of `issue` until the purge is applied at the node itself, and until the last
//! of the other four has applied it. recovery: the datagram that carries a purge is dropped on its
//! way to one of the four; from the issue until that one has applied it all the same. throughput:
//! purges issued by one thread as fast as they go, until all five have applied them all.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use powderhorn_node::hooks::{Outgoing, OutgoingFilter};
use powderhorn_node::{
    Cache, Config, IssueError, Job, MessageId, Node, Outcome, PeerConfig, Purge,
};
use serde_json::{Value, json};

const NODES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

type Applied = (usize, MessageId, Instant);
/// The address that the next datagram to all does not reach.
type Victim = Arc<Mutex<Option<SocketAddr>>>;

struct Recorder {
    index: usize,
    applied: Sender<Applied>,
}

impl Cache for Recorder {
    fn apply(&mut self, jobs: &mut [Job]) {
        for job in jobs {
            job.outcome = Outcome::Applied;
            // The receiver is gone at the end only.
            let _ = self.applied.send((self.index, job.id, Instant::now()));
        }
    }
}

struct Fleet {
    nodes: Vec<Node>,
    addresses: Vec<SocketAddr>,
    applied: Receiver<Applied>,
    victim: Victim,
    key_file: PathBuf,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for node in &self.nodes {
            node.stop(Duration::from_secs(2));
        }
        let _ = std::fs::remove_file(&self.key_file);
    }
}

fn filter(victim: Victim) -> OutgoingFilter {
    Box::new(move |outgoing: &Outgoing<'_>| {
        let mut victim = victim.lock().expect("nobody panics");
        let hit = outgoing.to_all && *victim == Some(outgoing.to);
        if hit {
            *victim = None;
        }
        !hit
    })
}

fn start(round: Duration) -> Fleet {
    let key_file = std::env::temp_dir().join(format!("powderhorn-measure-{}", std::process::id()));
    std::fs::write(&key_file, "5a".repeat(32)).expect("writing a key file");
    let free: Vec<UdpSocket> = (0..NODES)
        .map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port"))
        .collect();
    let address = |socket: &UdpSocket| socket.local_addr().expect("bound");
    let addresses: Vec<SocketAddr> = free.iter().map(address).collect();
    drop(free);
    let (sender, applied) = channel();
    let victim = Victim::default();
    let mut nodes = Vec::new();
    for (index, &own) in addresses.iter().enumerate() {
        let peer = |(name, &address): (usize, &SocketAddr)| PeerConfig {
            name: format!("node-{name}"),
            site: String::new(),
            address: address.into(),
        };
        let mut config = Config {
            name: format!("node-{index}"),
            listen: vec![own],
            key_file: Some(key_file.clone()),
            peers: addresses.iter().enumerate().map(peer).collect(),
            ..Config::single_node()
        };
        config.limits.round = round;
        let uptime = Duration::from_secs(3_600);
        let node = Node::start_filtered(config, uptime, filter(victim.clone()));
        let node = node.expect("the node starts");
        let mut applier = node.applier().expect("the first one");
        let mut recorder = Recorder {
            index,
            applied: sender.clone(),
        };
        std::thread::spawn(move || applier.run(&mut recorder));
        nodes.push(node);
    }
    let end = Instant::now() + PATIENCE;
    let met = |node: &Node| node.status().peers.iter().all(|peer| peer.state == "up");
    while !nodes.iter().all(met) {
        assert!(Instant::now() < end, "the nodes did not meet");
        std::thread::sleep(Duration::from_millis(10));
    }
    Fleet {
        nodes,
        addresses,
        applied,
        victim,
        key_file,
    }
}

fn purge(n: usize) -> Purge {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&n.to_le_bytes());
    Purge::Digest(digest)
}

/// Issues and applies here; the id, when it was issued, and how long that took.
fn issue(fleet: &Fleet, n: usize) -> (MessageId, Instant, Duration) {
    let start = Instant::now();
    let ticket = fleet.nodes[0].issue(purge(n)).expect("issued");
    let id = ticket.ids().first();
    ticket.complete(Outcome::Applied);
    (id, start, start.elapsed())
}

/// When each of the other nodes has applied `id`.
fn applied(fleet: &Fleet, id: MessageId) -> Vec<(usize, Instant)> {
    let mut times = Vec::new();
    while times.len() < NODES - 1 {
        let (node, applied, at) = fleet.applied.recv_timeout(PATIENCE).expect("applied");
        if applied == id {
            times.push((node, at));
        }
    }
    times
}

fn quantiles(mut values: Vec<f64>, of: &[f64]) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values[((values.len() as f64 * q) as usize).min(values.len() - 1)];
    let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
    let entries = of
        .iter()
        .map(|&q| (format!("p{}", (q * 1e5).round() / 1e3), json!(round(at(q)))));
    let mut object: serde_json::Map<String, Value> = entries.collect();
    object.insert("max".into(), json!(round(at(1.0))));
    Value::Object(object)
}

fn latency(trials: usize) {
    let fleet = start(Duration::from_millis(250));
    let (mut ingress, mut farthest) = (Vec::new(), Vec::new());
    for n in 0..trials {
        std::thread::sleep(Duration::from_micros(500 + (n as u64 * 7_919) % 3_000));
        let (id, start, took) = issue(&fleet, n);
        let last = applied(&fleet, id).into_iter().map(|(_, at)| at).max();
        ingress.push(took.as_secs_f64() * 1e6);
        farthest.push((last.expect("four of them") - start).as_secs_f64() * 1e6);
    }
    let of = [0.5, 0.9, 0.99, 0.999];
    let line = json!({
        "measure": "latency", "nodes": NODES, "trials": trials,
        "ingress_us": quantiles(ingress, &of), "farthest_us": quantiles(farthest, &of),
    });
    println!("{line}");
}

fn recovery(trials: usize, round_ms: u64) {
    let round = Duration::from_millis(round_ms);
    let fleet = start(round);
    let mut rounds = Vec::new();
    for n in 0..trials {
        // The issue must not keep step with anybody's rounds.
        std::thread::sleep(round.mul_f64((n as f64 * 0.618_034).fract()));
        let victim = 1 + n % (NODES - 1);
        *fleet.victim.lock().expect("nobody panics") = Some(fleet.addresses[victim]);
        let (id, start, _) = issue(&fleet, n);
        let times = applied(&fleet, id);
        assert!(fleet.victim.lock().expect("nobody panics").is_none());
        let hit = times.iter().find(|(node, _)| *node == victim);
        let took = hit.expect("all of them").1 - start;
        rounds.push(took.as_secs_f64() / round.as_secs_f64());
    }
    let line = json!({
        "measure": "recovery of a lone lost purge", "nodes": NODES, "trials": trials,
        "round_ms": round_ms, "rounds": quantiles(rounds, &[0.5, 0.9, 0.99, 0.999]),
    });
    println!("{line}");
}

fn throughput(purges: usize) {
    let fleet = start(Duration::from_millis(250));
    let start = Instant::now();
    let mut busy = 0;
    let mut n = 0;
    while n < purges {
        match fleet.nodes[0].issue(purge(n)) {
            Ok(ticket) => {
                ticket.complete(Outcome::Applied);
                n += 1;
            }
            Err(IssueError::Refused(_)) => {
                busy += 1;
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
    let issued = start.elapsed().as_secs_f64();
    let mut left = purges * (NODES - 1);
    while left > 0 {
        fleet.applied.recv_timeout(PATIENCE).expect("applied");
        left -= 1;
    }
    let all = start.elapsed().as_secs_f64();
    let counters = fleet.nodes[0].counters();
    let count = |name: &str| counters.iter().find(|c| c.name == name).map(|c| c.value);
    let line = json!({
        "measure": "throughput", "nodes": NODES, "purges": purges, "refused": busy,
        "issued_per_s": (purges as f64 / issued).round(),
        "applied_on_all_per_s": (purges as f64 / all).round(),
        "datagrams_out": count("net_datagrams_out"), "repairs_out": count("repairs_out"),
    });
    println!("{line}");
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| {
        let arg = args.get(index);
        arg.map_or(default, |arg| arg.parse().expect("a number"))
    };
    match args.first().map(String::as_str) {
        Some("latency") => latency(number(1, 2_000)),
        Some("recovery") => recovery(number(1, 2_000), number(2, 250) as u64),
        Some("throughput") => throughput(number(1, 100_000)),
        _ => eprintln!("usage: measure latency|recovery|throughput [trials] [round in ms]"),
    }
}
