//! A fleet in virtual time: production cores, the network between them, and the caches behind them.
//!
//! [`Fleet`] drives each core as `powderhorn-node` does: what arrives goes into `handle_*`, what is to be
//! done comes out of `poll_*` until they say none. All that happens is an event of one queue and all
//! chance comes from one seed, so a run is repeated by its seed; [`Fleet::trace`] tells whether two runs
//! were the same. Safety is checked all along: what reaches a cache was issued, is what was issued, and
//! comes once in a cache's life; a datagram fits. What is not so ends the run as [`Fleet::violation`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use powderhorn_protocol::bounds::{PLAINTEXT_BYTES_MAX, STANDSTILL};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{MessageId, NodeId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::wire::{Datagram, Frame};
use powderhorn_protocol::{
    Core, Delivery, Expired, Identity, Outcome, PeerId, PurgeError, To, Transmit,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::net::{Network, WIRE_OVERHEAD_BYTES};
use crate::planted::{self, Bug};
use crate::queue::Queue;
use crate::record::{How, Recorder};

/// Where the wall clocks of all nodes start, in ms since 1970: 2023-11-14.
const WALL_START_MS: i64 = 1_700_000_000_000;
/// What a node's socket holds while the node does not read it, in bytes; what comes then is lost.
const SOCKET_BYTES: usize = 4 << 20;

/// Timers that one node may have at one moment. A timer that asks for the same moment again and again is a thread that
/// spins.
const WAKES_MAX: u32 = 10_000;

/// The virtual clock's zero is the machines' boot; a fleet starts a day later.
pub const START: Time = Time::from_us(86_400_000_000);

/// How a node's cache takes purges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Apply {
    /// At once.
    Instant,
    /// One after the other, each taking a while; the driver takes no more than `queue` at a time.
    Slow {
        /// Each purge.
        each: Duration,
        /// Purges handed out at a time.
        queue: usize,
    },
    /// Attempts fail, this share of them.
    Flaky(f64),
    /// Nothing is ever answered.
    Hung,
}

/// A node when the fleet is made.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its settings; name and site, too.
    pub config: Config,
    /// The nodes that it knows of; all others if `None`.
    pub peers: Option<Vec<usize>>,
    /// What its boot clock is ahead of the virtual one: no two machines booted at one time.
    pub boot_ahead: Duration,
}

enum Event {
    Datagram {
        to: u32,
        from: u32,
        bytes: Rc<[u8]>,
    },
    /// A node has time again for what waits in its socket.
    Read {
        node: u32,
        life: u32,
    },
    Wake {
        node: u32,
    },
    Answered {
        node: u32,
        life: u32,
        id: MessageId,
        outcome: Outcome,
    },
}

struct Node {
    /// `None` while the process is gone.
    core: Option<Core<MemoryStore, StdRng>>,
    spec: NodeSpec,
    /// What its disk kept when it went.
    disk: Option<Disk>,
    /// Since when, if it is.
    frozen: Option<Time>,
    /// CPU time that each datagram takes.
    slow: Duration,
    busy_until: Time,
    socket: VecDeque<(u32, Rc<[u8]>)>,
    socket_bytes: usize,
    apply: Apply,
    in_cache: usize,
    wake: Time,
    /// When it was last woken, and how often at that moment.
    woken: (Time, u32),
    life: u32,
    cache_started: Time,
    /// What its wall clock is ahead of the true time, in ms.
    wall_ahead_ms: i64,
    last_stamp: u64,
    /// Messages applied in this life of the cache, by their numbers.
    applied: Vec<u64>,
    /// When its cache was last flushed, if it was.
    flushed: Option<Time>,
    /// When it last took a datagram.
    heard: Time,
}

#[derive(Default)]
struct Disk {
    store: MemoryStore,
    held: Vec<(StreamId, RangeSet)>,
    expired: Vec<Expired>,
    evicted_born: Option<Time>,
}

/// A message, as the checker sees it.
struct Issued {
    id: MessageId,
    at: Time,
    /// Nodes that may hold the object and have not applied it.
    missing: u32,
    /// A bit a node: need not apply it any more.
    done: Vec<u64>,
}

/// A fleet and its world. See the module's documentation.
pub struct Fleet {
    /// The virtual time.
    pub now: Time,
    /// Chance of the world; each core has its own.
    pub rng: StdRng,
    /// Between the nodes.
    pub net: Network,
    /// What was measured.
    pub record: Recorder,
    /// The first thing that may never happen, if it did.
    pub violation: Option<String>,
    /// A bug to be found.
    pub planted: Option<Bug>,
    /// Also checks each digest against what its sender holds and against the ages of what it calls expired,
    /// and that no cache is flushed that lacks nothing which cannot be had any more.
    pub strict: bool,
    /// Also counts [`Fleet::digest_bytes`].
    pub weigh_digests: bool,
    /// Plaintext bytes of digests that were sent.
    pub digest_bytes: u64,
    /// Purges that nobody can get any more, because the only node that held them lost its memory.
    pub lost_with_issuer: u64,
    /// Purges that nobody can get any more, because all that held them had no room: see
    /// [`Fleet::close_lost`].
    pub lost_for_room: u64,
    /// Caches that were flushed.
    pub flushed: u64,
    seed: u64,
    queue: Queue<Event>,
    nodes: Vec<Node>,
    issued: Vec<Issued>,
    numbers: BTreeMap<StreamId, Vec<u32>>,
    open: BTreeSet<u32>,
    hash: u64,
    handled: u64,
}

impl Fleet {
    /// Starts all nodes, each with an empty cache.
    pub fn new(seed: u64, specs: Vec<NodeSpec>, net: Network, record: Recorder) -> Fleet {
        let nodes = specs.into_iter().map(|spec| Node {
            core: None,
            spec,
            disk: None,
            frozen: None,
            slow: Duration::ZERO,
            busy_until: START,
            socket: VecDeque::new(),
            socket_bytes: 0,
            apply: Apply::Instant,
            in_cache: 0,
            wake: Time::NEVER,
            woken: (START, 0),
            life: 0,
            cache_started: START,
            wall_ahead_ms: 0,
            last_stamp: 0,
            applied: Vec::new(),
            flushed: None,
            heard: START,
        });
        let mut fleet = Fleet {
            now: START,
            rng: StdRng::seed_from_u64(seed),
            net,
            record,
            violation: None,
            planted: None,
            strict: false,
            weigh_digests: false,
            digest_bytes: 0,
            lost_with_issuer: 0,
            lost_for_room: 0,
            flushed: 0,
            seed,
            queue: Queue::new(),
            nodes: nodes.collect(),
            issued: Vec::new(),
            numbers: BTreeMap::new(),
            open: BTreeSet::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            handled: 0,
        };
        for node in 0..fleet.nodes.len() {
            fleet.start(node);
        }
        fleet
    }

    /// How many nodes there are, up or down.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether a node's process is there.
    pub fn is_up(&self, node: usize) -> bool {
        self.nodes[node].core.is_some()
    }

    /// Whether a node is there and does something.
    pub fn is_running(&self, node: usize) -> bool {
        self.is_up(node) && self.nodes[node].frozen.is_none()
    }

    /// A node's core, while it is up.
    pub fn core(&self, node: usize) -> Option<&Core<MemoryStore, StdRng>> {
        self.nodes[node].core.as_ref()
    }

    /// A node's settings.
    pub fn config(&self, node: usize) -> &Config {
        &self.nodes[node].spec.config
    }

    /// Sets how a node's cache takes purges.
    pub fn set_apply(&mut self, node: usize, apply: Apply) {
        self.nodes[node].apply = apply;
        self.pump(node);
    }

    /// Sets the CPU time that each datagram takes at a node.
    pub fn set_slow(&mut self, node: usize, each: Duration) {
        self.nodes[node].slow = each;
    }

    /// Sets a node's wall clock, by so much against what it says now. Where it counts is at its next start.
    pub fn jump_wall_clock(&mut self, node: usize, by_ms: i64) {
        self.nodes[node].wall_ahead_ms += by_ms;
    }

    /// Starts a node's process over an empty cache. What its disk kept, it holds again.
    pub fn start(&mut self, index: usize) {
        let now = self.now;
        let reuse = self.planted == Some(Bug::EpochReuse);
        let node = &mut self.nodes[index];
        if node.core.is_some() {
            return;
        }
        let life = if reuse { 0 } else { node.life };
        let mut rng = StdRng::seed_from_u64(
            (self.seed ^ 0x5bd1_e995).wrapping_mul(1_000_003)
                ^ (((index as u64) << 32) | u64::from(life)),
        );
        let wall_ms = WALL_START_MS + now.since(START).as_millis() as i64 + node.wall_ahead_ms;
        let stamp = u64::try_from(wall_ms).unwrap_or(0);
        let remembered = node.disk.as_ref().map_or(0, |_| node.last_stamp + 1);
        let identity = Identity {
            node: node_id(index),
            instance: rng.random_range(1..=u64::MAX) ^ (u64::from(node.life) << 1),
            stamp: if reuse {
                WALL_START_MS as u64
            } else {
                stamp.max(remembered)
            },
        };
        node.last_stamp = identity.stamp;
        let disk = node.disk.take().unwrap_or_default();
        let here = now + node.spec.boot_ahead;
        let mut config = node.spec.config.clone();
        match self.planted {
            Some(Bug::ShortMemory) => config.retention /= 2,
            Some(Bug::LongMemory) => config.retention *= 2,
            _ => {}
        }
        let mut core = Core::new(identity, config, disk.store, rng, here, here);
        for (stream, held) in &disk.held {
            core.restore(*stream, held);
        }
        let expired = disk.expired.iter();
        expired.for_each(|all| core.restore_expired(all));
        core.restore_evicted(disk.evicted_born);
        node.core = Some(core);
        node.cache_started = now;
        node.flushed = None;
        node.applied.clear();
        node.busy_until = now;
        let peers = match &node.spec.peers {
            Some(peers) => peers.clone(),
            None => (0..self.nodes.len())
                .filter(|other| *other != index)
                .collect(),
        };
        for other in peers {
            let site = self.nodes[other].spec.config.site.clone();
            if let Some(core) = &mut self.nodes[index].core {
                core.add_peer(here, PeerId(other as u32), &site);
            }
        }
        // Nothing that was issued before can be in its cache.
        for &number in &self.open.clone() {
            self.settle(number, index);
        }
        self.pump(index);
    }

    /// Ends a node's process and empties its cache; with `disk`, what it held is there at its next start.
    pub fn crash(&mut self, index: usize, disk: bool) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some(core) = node.core.take() else {
            return;
        };
        if disk {
            let views = core.streams().map(|view| (view.id, view.held.clone()));
            node.disk = Some(Disk {
                held: views.collect(),
                expired: core.expired(now + node.spec.boot_ahead).collect(),
                evicted_born: core.evicted_born(now + node.spec.boot_ahead),
                store: core.into_store(),
            });
        } else {
            node.disk = None;
        }
        node.life += 1;
        node.frozen = None;
        node.socket.clear();
        node.socket_bytes = 0;
        node.in_cache = 0;
        node.wake = Time::NEVER;
        for &number in &self.open.clone() {
            // Its cache is empty, so it lacks nothing; and what nobody else has is gone.
            self.settle(number, index);
            if !disk && !self.anybody_holds(number) {
                self.lost_with_issuer += 1;
                self.close(number);
            }
        }
    }

    /// No longer waits for purges that no node holds any more.
    pub fn close_lost(&mut self) {
        for &number in &self.open.clone() {
            if !self.anybody_holds(number) {
                self.lost_for_room += 1;
                self.close(number);
            }
        }
    }

    /// Whether a purge that may concern a node's cache has not come to it and cannot be had any more.
    fn lacks_what_is_gone(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        let empty = node.flushed.unwrap_or(node.cache_started);
        let oldest = empty - node.spec.config.join_margin;
        let lacks = |number: &u32| {
            let issued = &self.issued[*number as usize];
            issued.at >= oldest && !has(&node.applied, *number as usize)
        };
        let mut lacking = (0..self.issued.len() as u32).filter(lacks);
        // Who stands still or is busy may still hold what is too old, and will never give it.
        lacking.any(|number| {
            let age = self.now.since(self.issued[number as usize].at);
            let mut holders = self.holders(number);
            holders.all(|node| node.spec.config.retention <= age)
        })
    }

    fn anybody_holds(&self, number: u32) -> bool {
        self.holders(number).next().is_some()
    }

    /// The nodes that hold a purge, or whose disk does.
    fn holders(&self, number: u32) -> impl Iterator<Item = &Node> {
        let id = self.issued[number as usize].id;
        self.nodes
            .iter()
            .filter(move |node| match (&node.core, &node.disk) {
                (Some(core), _) => core
                    .streams()
                    .any(|view| view.id == id.stream && view.held.contains(id.seq)),
                (None, Some(disk)) => disk
                    .held
                    .iter()
                    .any(|(stream, held)| *stream == id.stream && held.contains(id.seq)),
                (None, None) => false,
            })
    }

    /// Stops a node's threads for a while, as SIGSTOP or a hypervisor does.
    pub fn freeze(&mut self, index: usize) {
        if self.is_up(index) {
            self.nodes[index].frozen.get_or_insert(self.now);
        }
    }

    /// Lets a frozen node go on.
    pub fn thaw(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if let Some(since) = node.frozen.take() {
            // As `powderhorn-node` does.
            if self.now.since(since) > STANDSTILL {
                self.net.traffic.lost += node.socket.len() as u64;
                node.socket.clear();
                node.socket_bytes = 0;
            }
            self.read(index);
            self.wake(index);
        }
    }

    /// Issues a purge at a node, which applies it at once; its number, or why it was refused. `None` if
    /// the node does nothing at the moment.
    pub fn issue(&mut self, index: usize) -> Option<Result<u32, PurgeError>> {
        if !self.is_running(index) {
            return None;
        }
        let number = self.issued.len() as u32;
        let now = self.now;
        let here = now + self.nodes[index].spec.boot_ahead;
        let core = self.nodes[index].core.as_mut()?;
        let id = match core.handle_purge(here, purge_of(number)) {
            Ok(id) => id,
            Err(error) => return Some(Err(error)),
        };
        core.handle_applied(here, id, Outcome::Applied);
        let numbers = self.numbers.entry(id.stream).or_default();
        if id.seq != numbers.len() as u64 + 1 {
            self.violate(format!("{id} was given twice"));
            return Some(Ok(number));
        }
        numbers.push(number);
        let up = self.nodes.iter().filter(|node| node.core.is_some()).count();
        let mut done = vec![0; self.nodes.len().div_ceil(64)];
        for (other, node) in self.nodes.iter().enumerate() {
            if node.core.is_none() {
                set(&mut done, other);
            }
        }
        self.issued.push(Issued {
            id,
            at: now,
            missing: up as u32,
            done,
        });
        self.open.insert(number);
        self.record.issued(now, index);
        self.applied(index, number, How::Issued);
        self.pump(index);
        Some(Ok(number))
    }

    /// Runs until `end`, or until something happened that may never happen.
    pub fn run_until(&mut self, end: Time) {
        while self.violation.is_none() {
            let Some((time, event)) = self.queue.pop_until(end) else {
                break;
            };
            self.now = time;
            self.handled += 1;
            self.happen(event);
        }
        self.now = self.now.max(end);
    }

    /// Runs for a while.
    pub fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// How many events have happened.
    pub fn events(&self) -> u64 {
        self.handled
    }

    /// A hash of all that was sent and to whom, of all that was applied and where, and when.
    pub fn trace(&self) -> u64 {
        self.hash
    }

    /// How many purges were issued.
    pub fn issued(&self) -> u64 {
        self.issued.len() as u64
    }

    /// Nodes that may hold the object and have not applied this purge.
    pub fn missing(&self, number: u32) -> u32 {
        self.issued[number as usize].missing
    }

    /// Purges that some node which may hold the object has not applied.
    pub fn incomplete(&self) -> u64 {
        self.open.len() as u64
    }

    /// Share of (purge, node) pairs that are applied, of those where the node may hold the object.
    pub fn coverage(&self) -> f64 {
        let missing: u64 = self
            .open
            .iter()
            .map(|&n| u64::from(self.issued[n as usize].missing))
            .sum();
        let pairs = self.issued.len() as f64 * self.nodes.len() as f64;
        if pairs == 0.0 {
            1.0
        } else {
            1.0 - missing as f64 / pairs
        }
    }

    /// Which nodes lack a purge and how many, for people.
    pub fn lacking(&self) -> Vec<(usize, usize)> {
        let mut counts = BTreeMap::new();
        for &number in self.open.iter() {
            let issued = &self.issued[number as usize];
            for node in (0..self.nodes.len()).filter(|node| !has(&issued.done, *node)) {
                *counts.entry(node).or_insert(0) += 1;
            }
        }
        counts.into_iter().collect()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Datagram { to, from, bytes } => {
                let node = &mut self.nodes[to as usize];
                if node.core.is_none() {
                    return;
                }
                if node.frozen.is_some() || node.busy_until > self.now {
                    if node.socket_bytes + bytes.len() > SOCKET_BYTES {
                        self.net.traffic.lost += 1;
                        return;
                    }
                    node.socket_bytes += bytes.len();
                    node.socket.push_back((from, bytes));
                    return;
                }
                self.take(to as usize, from, &bytes);
                self.pump(to as usize);
            }
            Event::Read { node, life } => {
                let at = &self.nodes[node as usize];
                if at.life == life && at.core.is_some() && at.frozen.is_none() {
                    self.read(node as usize);
                    self.pump(node as usize);
                }
            }
            Event::Wake { node } => {
                // One that was put off, or of a life that is over, is not for now.
                if self.nodes[node as usize].wake == self.now {
                    self.wake(node as usize);
                }
            }
            Event::Answered {
                node,
                life,
                id,
                outcome,
            } => {
                let at = &mut self.nodes[node as usize];
                if at.life != life {
                    return;
                }
                at.in_cache = at.in_cache.saturating_sub(1);
                self.answer(node as usize, id, outcome);
                self.pump(node as usize);
            }
        }
    }

    fn wake(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        node.wake = Time::NEVER;
        if node.frozen.is_some() {
            return;
        }
        if node.woken.0 != now {
            node.woken = (now, 0);
        }
        node.woken.1 += 1;
        if node.woken.1 > WAKES_MAX {
            self.violate(format!("the timer of node {index} stands still"));
            return;
        }
        if let Some(core) = &mut node.core {
            core.handle_timeout(self.now + node.spec.boot_ahead);
            self.pump(index);
        }
    }

    /// Reads what waits in a node's socket, as far as its CPU allows.
    fn read(&mut self, index: usize) {
        while self.nodes[index].busy_until <= self.now {
            let node = &mut self.nodes[index];
            let Some((from, bytes)) = node.socket.pop_front() else {
                return;
            };
            node.socket_bytes -= bytes.len();
            self.take(index, from, &bytes);
        }
    }

    /// Gives a datagram to a core.
    fn take(&mut self, index: usize, from: u32, bytes: &[u8]) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some(core) = &mut node.core else { return };
        let silent = now.since(std::mem::replace(&mut node.heard, now));
        let before = core.stats().recovered;
        core.handle_datagram(now + node.spec.boot_ahead, PeerId(from), bytes);
        let recovered = core.stats().recovered - before;
        if !node.slow.is_zero() {
            node.busy_until = now + node.slow;
            let (node, life) = (index as u32, node.life);
            let at = self.nodes[index].busy_until;
            self.queue.push(at, Event::Read { node, life });
        }
        if recovered > 0 {
            self.record.recovered(now, index, recovered);
        }
        if self.planted == Some(Bug::NeedlessFlush) && silent > planted::SILENCE {
            self.flush(index);
        }
    }

    /// Takes out of a core all that it has to say.
    fn pump(&mut self, index: usize) {
        let now = self.now;
        let node = &self.nodes[index];
        if node.frozen.is_some() || node.core.is_none() {
            return;
        }
        let here = now + node.spec.boot_ahead;
        loop {
            let mut idle = true;
            while let Some(transmit) = self.poll(index, |core| core.poll_transmit(here)) {
                idle = false;
                self.transmit(index, transmit);
            }
            while self.nodes[index].room_in_cache() {
                let Some(delivery) = self.poll(index, |core| core.poll_delivery(here)) else {
                    break;
                };
                idle = false;
                self.deliver(index, &delivery);
            }
            while self.poll(index, Core::poll_event).is_some() {}
            if idle || self.violation.is_some() {
                break;
            }
        }
        let node = &mut self.nodes[index];
        let Some(core) = &node.core else { return };
        let due = core.poll_timeout();
        let wake = if due == Time::NEVER {
            due
        } else {
            (due - node.spec.boot_ahead).max(now)
        };
        if wake != node.wake && wake != Time::NEVER {
            node.wake = wake;
            self.queue.push(wake, Event::Wake { node: index as u32 });
        }
    }

    fn poll<T>(
        &mut self,
        index: usize,
        poll: impl FnOnce(&mut Core<MemoryStore, StdRng>) -> Option<T>,
    ) -> Option<T> {
        self.nodes[index].core.as_mut().and_then(poll)
    }

    fn transmit(&mut self, from: usize, mut transmit: Transmit) {
        if transmit.payload.len() > PLAINTEXT_BYTES_MAX {
            self.violate(format!("node {from} sent {} bytes", transmit.payload.len()));
            return;
        }
        if let Some(bug) = self.planted {
            planted::corrupt(bug, &mut transmit.payload);
        }
        if self.strict {
            let core = self.nodes[from].core.as_ref();
            if let Some(claim) = core.and_then(|core| planted::false_claim(core, &transmit.payload))
            {
                self.violate(format!("node {from} claims to hold {claim} and does not"));
            }
            if let Some(claim) = self.false_floor(from, &transmit.payload) {
                self.violate(format!("node {from} claims that {claim}"));
            }
        }
        if self.weigh_digests && is_digest(&transmit.payload) {
            self.digest_bytes += transmit.payload.len() as u64;
        }
        let bytes: Rc<[u8]> = transmit.payload.into();
        self.hash_in(&bytes);
        let mut count = 0;
        let mut send = |fleet: &mut Fleet, to: usize| {
            count += 1;
            fleet.send(from, to, &bytes);
        };
        match transmit.to {
            To::Peer(PeerId(to)) => send(self, to as usize),
            To::All => match self.nodes[from].spec.peers.clone() {
                None => (0..self.nodes.len())
                    .filter(|to| *to != from)
                    .for_each(|to| send(self, to)),
                Some(peers) => peers.iter().for_each(|to| send(self, *to)),
            },
        }
        let wire = (bytes.len() + WIRE_OVERHEAD_BYTES) as u64 * count;
        self.record.sent(self.now, from, count, wire);
    }

    /// What a digest in this datagram says to have expired that is younger than its sender's retention.
    fn false_floor(&self, from: usize, payload: &[u8]) -> Option<String> {
        let retention = self.nodes[from].spec.config.retention;
        for (stream, floor) in planted::claimed_floors(payload) {
            let last = MessageId {
                stream,
                seq: floor - 1,
            };
            let Some(number) = self.number_of(last) else {
                return Some(format!("{last} has expired, which was never issued"));
            };
            let age = self.now.since(self.issued[number as usize].at);
            if age < retention {
                return Some(format!("{last} has expired, which is {age:?} old"));
            }
        }
        None
    }

    fn send(&mut self, from: usize, to: usize, bytes: &Rc<[u8]>) {
        self.hash_in(&eight_bytes(from, to as u32));
        let fate = self
            .net
            .send(self.now, from, to, bytes.len(), &mut self.rng);
        if fate.corrupt {
            // The seal does not open: the driver counts and drops it.
            return;
        }
        for time in fate.arrivals.into_iter().flatten() {
            let event = Event::Datagram {
                to: to as u32,
                from: from as u32,
                bytes: bytes.clone(),
            };
            self.queue.push(time, event);
        }
    }

    fn deliver(&mut self, index: usize, delivery: &Delivery) {
        let id = delivery.id;
        if id.seq == 0 {
            if self.planted != Some(Bug::ForgottenFlush) {
                self.flush(index);
            }
            self.answer(index, id, Outcome::Applied);
            return;
        }
        let Some(number) = self.number_of(id) else {
            self.violate(format!(
                "{id} reached the cache of node {index} and was never issued"
            ));
            return;
        };
        if delivery.purge != purge_of(number) {
            self.violate(format!(
                "{id} reached the cache of node {index} as another purge"
            ));
            return;
        }
        let node = &mut self.nodes[index];
        let (after, outcome) = match node.apply {
            Apply::Instant => {
                self.answer(index, id, Outcome::Applied);
                return;
            }
            Apply::Slow { each, .. } => (each, Outcome::Applied),
            Apply::Flaky(share) if self.rng.random_bool(share) => {
                (Duration::from_millis(1), Outcome::Failed)
            }
            Apply::Flaky(_) => (Duration::from_millis(1), Outcome::Applied),
            Apply::Hung => return,
        };
        node.in_cache += 1;
        let answered = Event::Answered {
            node: index as u32,
            life: node.life,
            id,
            outcome,
        };
        let time = self.now + after * node.in_cache as u32;
        self.queue.push(time, answered);
    }

    /// Flushes a node's cache, so that it lacks nothing of what was issued before.
    fn flush(&mut self, index: usize) {
        if self.strict && !self.lacks_what_is_gone(index) {
            self.violate(format!(
                "the cache of node {index} was flushed, which lacks nothing that is gone"
            ));
            return;
        }
        self.flushed += 1;
        self.nodes[index].flushed = Some(self.now);
        for &number in &self.open.clone() {
            self.settle(number, index);
        }
    }

    /// The cache's answer.
    fn answer(&mut self, index: usize, id: MessageId, outcome: Outcome) {
        let now = self.now;
        if outcome == Outcome::Failed && self.planted == Some(Bug::ForgottenInFlight) {
            return;
        }
        let node = &mut self.nodes[index];
        let Some(core) = &mut node.core else { return };
        core.handle_applied(now + node.spec.boot_ahead, id, outcome);
        if outcome == Outcome::Applied {
            if let Some(number) = self.number_of(id) {
                self.applied(index, number, How::Received);
            }
        }
    }

    fn applied(&mut self, index: usize, number: u32, how: How) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if has(&node.applied, number as usize) {
            let id = self.issued[number as usize].id;
            self.violate(format!("node {index} applied {id} twice"));
            return;
        }
        set(&mut node.applied, number as usize);
        let issued = &self.issued[number as usize];
        // Latency is for those who could hold the object.
        if issued.at >= node.cache_started {
            let latency = now.since(issued.at);
            self.record.applied(now, index, latency, how);
        }
        self.hash_in(&eight_bytes(index, number));
        self.settle(number, index);
    }

    /// A node need not apply a message any more.
    fn settle(&mut self, number: u32, index: usize) {
        let issued = &mut self.issued[number as usize];
        if issued.missing > 0 && !has(&issued.done, index) {
            set(&mut issued.done, index);
            issued.missing -= 1;
            if issued.missing == 0 {
                self.close(number);
            }
        }
    }

    fn close(&mut self, number: u32) {
        let issued = &mut self.issued[number as usize];
        issued.missing = 0;
        issued.done = Vec::new();
        self.open.remove(&number);
    }

    fn number_of(&self, id: MessageId) -> Option<u32> {
        let place = usize::try_from(id.seq.checked_sub(1)?).ok()?;
        self.numbers.get(&id.stream)?.get(place).copied()
    }

    fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn hash_in(&mut self, bytes: &[u8]) {
        let mut hash = self.hash ^ (self.now.as_us() as u64).rotate_left(32);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        }
        self.hash = hash;
    }
}

impl Node {
    fn room_in_cache(&self) -> bool {
        match self.apply {
            Apply::Slow { queue, .. } => self.in_cache < queue.max(1),
            _ => true,
        }
    }
}

/// A node's id: spread like a hash, so that the order of ids is not that of the nodes' numbers.
pub fn node_id(index: usize) -> NodeId {
    NodeId((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn eight_bytes(node: usize, number: u32) -> [u8; 8] {
    (((node as u64) << 32) | u64::from(number)).to_le_bytes()
}

fn is_digest(plaintext: &[u8]) -> bool {
    let datagram = Datagram::parse(plaintext).ok();
    datagram.is_some_and(|d| matches!(d.frames().next(), Some(Frame::Digest(_))))
}

/// What the purge of this number asks for.
fn purge_of(number: u32) -> Purge {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&number.to_le_bytes());
    digest[24..].copy_from_slice(
        &u64::from(number)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_be_bytes(),
    );
    Purge::Digest(digest)
}

fn has(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64)
        .is_some_and(|word| (word >> (at % 64)) & 1 == 1)
}

fn set(bits: &mut Vec<u64>, at: usize) {
    if bits.len() <= at / 64 {
        bits.resize(at / 64 + 1, 0);
    }
    bits[at / 64] |= 1 << (at % 64);
}
