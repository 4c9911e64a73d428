//! Drives a system of [`super`]: events in their order, the network between the nodes, and the books of
//! who has what.

use std::time::Duration;

use powderhorn_protocol::time::Time;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::fleet::START;
use crate::net::{Network, WIRE_OVERHEAD_BYTES};
use crate::queue::Queue;
use crate::record::Histogram;

use super::cases::Run;
use super::{Kind, Message, Out, Outcome, Sample, System};

enum Event<P, T> {
    Packet { to: usize, from: usize, packet: P },
    Timer { node: usize, life: u32, timer: T },
}

struct Issued {
    at: Time,
    /// A bit for each node that may hold the object and has not got the message.
    missing: u64,
}

/// A system and its world.
pub struct World<S: System> {
    /// The system.
    pub system: S,
    /// Between its nodes.
    pub net: Network,
    /// Each delivery, if it is asked for: node, message and latency.
    pub log: Option<Vec<(usize, Message, Duration)>>,
    kind: Kind,
    out: Out<S::Packet, S::Timer>,
    rng: StdRng,
    queue: Queue<Event<S::Packet, S::Timer>>,
    /// Nodes with a cache; a node beyond these is a helper.
    caches: usize,
    up: Vec<bool>,
    life: Vec<u32>,
    issued: Vec<Issued>,
    /// What counts is what happens between these.
    measured: (Time, Time),
    latency: Histogram,
    needless: u64,
    deliveries: u64,
    datagrams: Vec<u64>,
    bytes: u64,
    hash: u64,
}

impl<S: System> World<S> {
    /// A system of `nodes` nodes, the first `caches` of which have caches: 64 at most.
    pub fn new(
        kind: Kind,
        system: S,
        (caches, nodes): (usize, usize),
        net: Network,
        measured: (Time, Time),
        seed: u64,
    ) -> Self {
        assert!(caches <= 64, "the books have 64 bits for each message");
        World {
            kind,
            system,
            net,
            log: None,
            out: Out {
                now: START,
                rng: StdRng::seed_from_u64(seed ^ 0x7f4a_7c15),
                sends: Vec::new(),
                deliveries: Vec::new(),
                timers: Vec::new(),
            },
            rng: StdRng::seed_from_u64(seed),
            queue: Queue::new(),
            caches,
            up: vec![true; nodes],
            life: vec![0; nodes],
            issued: Vec::new(),
            measured,
            latency: Histogram::default(),
            needless: 0,
            deliveries: 0,
            datagrams: vec![0; nodes],
            bytes: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    fn measuring(&self) -> bool {
        (self.measured.0..self.measured.1).contains(&self.out.now)
    }

    /// Does what the system wants done.
    fn flush(&mut self) {
        let now = self.out.now;
        for (node, message) in std::mem::take(&mut self.out.deliveries) {
            self.delivered(node, message);
        }
        for (node, at, timer) in std::mem::take(&mut self.out.timers) {
            let life = self.life[node];
            self.queue.push(at, Event::Timer { node, life, timer });
        }
        for sent in std::mem::take(&mut self.out.sends) {
            let (from, to) = (sent.from, sent.to);
            if self.measuring() {
                self.datagrams[from] += 1;
                self.bytes += sent.bytes as u64;
            }
            self.hash_in(from as u64, to as u64, sent.bytes as u64);
            let plain = sent.bytes.saturating_sub(WIRE_OVERHEAD_BYTES);
            let fate = self.net.send(now, from, to, plain, &mut self.rng);
            if fate.corrupt {
                continue;
            }
            for time in fate.arrivals.into_iter().flatten() {
                let packet = sent.packet.clone();
                self.queue.push(time, Event::Packet { to, from, packet });
            }
        }
    }

    fn delivered(&mut self, node: usize, message: Message) {
        let measuring = self.measuring();
        let issued = &mut self.issued[message as usize];
        let bit = 1 << node;
        if issued.missing & bit == 0 {
            self.needless += u64::from(measuring);
            return;
        }
        issued.missing &= !bit;
        let latency = self.out.now.since(issued.at);
        if issued.at >= self.measured.0 {
            self.latency.add(latency);
            if let Some(log) = &mut self.log {
                log.push((node, message, latency));
            }
        }
        self.deliveries += u64::from(measuring);
        self.hash_in(node as u64, u64::from(message), 1);
    }

    fn hash_in(&mut self, one: u64, two: u64, three: u64) {
        for word in [self.out.now.as_us() as u64, one, two, three] {
            self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.hash ^= self.hash >> 32;
        }
    }
}

impl<S: System> Run for World<S> {
    fn issue(&mut self, node: usize) {
        if !self.up[node] {
            return;
        }
        let message = self.issued.len() as Message;
        let others = (0..self.caches).filter(|other| *other != node && self.up[*other]);
        let missing = others.fold(0, |bits, other| bits | (1 << other));
        let at = self.out.now;
        self.issued.push(Issued { at, missing });
        self.system.issue(node, message, &mut self.out);
        self.flush();
    }

    fn run_until(&mut self, end: Time) {
        while let Some((time, event)) = self.queue.pop_until(end) {
            self.out.now = time;
            match event {
                Event::Packet { to, from, packet } if self.up[to] => {
                    self.system.handle(to, from, packet, &mut self.out);
                }
                Event::Timer { node, life, timer } if self.life[node] == life => {
                    self.system.handle_timer(node, timer, &mut self.out);
                }
                _ => continue,
            }
            self.flush();
        }
        self.out.now = end;
    }

    fn net(&mut self) -> &mut Network {
        &mut self.net
    }

    fn hub(&self) -> usize {
        self.system.hub()
    }

    fn crash(&mut self, node: usize) {
        self.up[node] = false;
        self.life[node] += 1;
        // Its cache is empty: it lacks nothing that was issued so far.
        if node < self.caches {
            for issued in &mut self.issued {
                issued.missing &= !(1 << node);
            }
        }
        self.system.crash(node);
    }

    fn start(&mut self, node: usize) {
        self.up[node] = true;
        self.system.start(node);
    }

    fn sample(&self) -> Sample {
        let nodes = || (0..self.up.len()).filter(|node| self.up[*node]);
        let memory = nodes().map(|node| self.system.memory_messages(node));
        let stored = nodes().map(|node| self.system.stored_messages(node));
        Sample {
            second: 0,
            memory: memory.max().unwrap_or(0) as u64,
            stored: stored.max().unwrap_or(0) as u64,
            datagrams: 0,
        }
    }

    fn sent(&self) -> Vec<u64> {
        self.datagrams.clone()
    }

    fn incomplete(&self) -> u64 {
        let incomplete = |issued: &&Issued| issued.missing != 0;
        self.issued.iter().filter(incomplete).count() as u64
    }

    fn outcome(&self) -> Outcome {
        let missing = self.issued.iter().map(|issued| issued.missing.count_ones());
        let each = |count: u64| count as f64 / self.deliveries.max(1) as f64;
        Outcome {
            system: self.kind,
            case: "",
            issued: self.issued.len() as u64,
            deliveries: self.deliveries,
            p50_ms: self.latency.quantile_ms(0.5),
            p99_ms: self.latency.quantile_ms(0.99),
            max_ms: self.latency.max_ms(),
            lost_messages: self.incomplete(),
            lost_deliveries: missing.map(u64::from).sum(),
            datagrams_per_delivery: each(self.datagrams.iter().sum()),
            bytes_per_delivery: each(self.bytes),
            payloads_per_delivery: Some(each(self.deliveries + self.needless)),
            busiest_datagrams_per_second: 0,
            memory_messages_max: 0,
            stored_messages_max: 0,
            trace: format!("{:016x}", self.hash),
            samples: Vec::new(),
            latency: self.latency.clone(),
        }
    }
}
