//! A fleet in memory, in virtual time: cores, the network between them and the caches behind them.
//!
//! Everything that happens is an event in one queue, ordered by (time, number of the event), and
//! all chance comes from one seed, so a run is repeated by its seed: [`Fleet::trace`] says whether
//! two runs were the same.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod aging;
pub mod puppet;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use powderhorn_protocol::bounds::{PLAINTEXT_BYTES_MAX, STANDSTILL};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{MessageId, MessageIds, NodeId, StreamId};
use powderhorn_protocol::purge::{Ban, BanField, BanOperator, BanTest, Host, Keys, Purge};
use powderhorn_protocol::ranges::RangeSet;
use powderhorn_protocol::stats::Stats;
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::wire::{DataWriter, Datagram, Frame};
use powderhorn_protocol::{
    Core, Delivery, Event, Expired, Identity, Knowledge, Outcome, PeerId, To, Transmit,
};
use puppet::{Puppet, Tell, put_message};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub type TestCore = Core<MemoryStore, StdRng>;

/// 2023-11-14, in ms since 1970: where the wall clocks start.
pub const WALL_MS: u64 = 1_700_000_000_000;

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The virtual clock's zero is the machines' boot; the fleet starts a day later.
pub fn start_of_time() -> Time {
    Time::from_us(86_400_000_000)
}

/// How one direction between two nodes behaves.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub loss: f64,
    pub dup: f64,
    pub delay: Duration,
    /// Up to this much more, uniformly: more than the time between two datagrams reorders them.
    pub jitter: Duration,
    pub cut: bool,
}

impl Default for Link {
    fn default() -> Self {
        Link {
            loss: 0.0,
            dup: 0.0,
            delay: Duration::from_micros(500),
            jitter: Duration::ZERO,
            cut: false,
        }
    }
}

/// How a node's cache and its driver take deliveries.
#[derive(Clone, Copy, Debug)]
pub enum Apply {
    /// At once.
    Instant,
    /// Each after a while, any number at a time.
    Delayed(Duration),
    /// One at a time, each taking a while; the driver takes no more while the queue is full.
    Queue { len: usize, each: Duration },
    /// The same, but what does not fit into the queue fails.
    Refusing { len: usize, each: Duration },
    /// The first attempt of every message fails.
    FailsOnce,
    /// Attempts fail at random.
    Flaky(f64),
    /// Nothing is ever answered.
    Hung,
}

enum Happening {
    Datagram {
        to: usize,
        from: usize,
        bytes: Vec<u8>,
    },
    Wake {
        node: usize,
    },
    Applied {
        node: usize,
        life: u64,
        id: MessageId,
        outcome: Outcome,
    },
}

pub struct Node {
    pub core: TestCore,
    pub config: Config,
    pub up: bool,
    /// Does nothing and hears nothing, like a stopped process; datagrams wait in its socket.
    pub frozen: bool,
    frozen_at: Time,
    socket: VecDeque<(usize, Vec<u8>)>,
    pub apply: Apply,
    busy: usize,
    wake: Time,
    pub life: u64,
    pub cache_started: Time,
    /// How often each message was applied, in this life of the cache.
    pub applied: BTreeMap<MessageId, u32>,
    /// When each was applied first, in this life of the cache.
    pub applied_at: BTreeMap<MessageId, Time>,
    pub attempts: BTreeMap<MessageId, u32>,
    pub events: Vec<Event>,
    /// When its cache was flushed because it was away for too long.
    pub flushes: Vec<Time>,
}

/// What the network has seen go by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub datagrams: u64,
    pub bytes: u64,
    pub lost: u64,
    /// Messages sent in repairs.
    pub repaired: u64,
    /// Of these, how many the receiver knew already when they were sent: seen, held, skipped.
    pub unwanted_sent: u64,
    /// How many more it knew when they arrived: two repairs were on their way at a time.
    pub crossed: u64,
}

pub type Filter = Box<dyn FnMut(usize, usize, &mut Vec<u8>) -> bool>;

/// A recorded datagram: who sent it, and its bytes.
pub type Tapped = (usize, Vec<u8>);

pub struct Fleet {
    pub seed: u64,
    pub now: Time,
    rng: StdRng,
    queue: BinaryHeap<Reverse<(Time, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    pub nodes: Vec<Node>,
    pub links: BTreeMap<(usize, usize), Link>,
    pub link: Link,
    pub issued: BTreeMap<MessageId, (Purge, Time, usize)>,
    pub excused: BTreeSet<MessageId>,
    pub traffic: Traffic,
    hash: u64,
    /// Datagrams to `tap.0`, recorded as (from, bytes).
    pub tap: Option<(usize, Vec<Tapped>)>,
    /// Called for every datagram with its sender and receiver; may change it; `false` loses it.
    pub filter: Option<Filter>,
}

pub fn node_id(index: usize) -> NodeId {
    // Spread like hashes, so that the order of ids is not that of indices.
    NodeId((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

pub fn digest_of(n: u64) -> Purge {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&n.to_le_bytes());
    digest[24..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    Purge::Digest(digest)
}

/// A purge of one kind or another: each fourth is none by digest.
pub fn purge_of(n: u64) -> Purge {
    let key = format!("key-{n}");
    let keys = || {
        Keys::pack([key.as_bytes(), b"another"])
            .expect("valid keys")
            .remove(0)
    };
    let ban = || {
        Ban::new(&[BanTest {
            field: BanField::Url,
            operator: BanOperator::Match,
            argument: key.as_bytes(),
        }])
    };
    match n % 32 {
        3 => Purge::Keys(keys()),
        7 => Purge::SoftKeys(keys()),
        11 => Purge::Ban(ban().expect("a valid ban")),
        15 => Purge::Flush(Host::new(key.as_bytes()).expect("a valid host")),
        19 => Purge::Everything,
        23 => Purge::SoftEverything,
        27 => match digest_of(n) {
            Purge::Digest(digest) => Purge::SoftDigest(digest),
            other => other,
        },
        _ => digest_of(n),
    }
}

impl Fleet {
    /// `count` nodes of `config`, all peers of each other, on clean links.
    pub fn new(seed: u64, count: usize, config: &Config) -> Fleet {
        Fleet::with_configs(seed, vec![config.clone(); count])
    }

    pub fn with_configs(seed: u64, configs: Vec<Config>) -> Fleet {
        let mut fleet = Fleet {
            seed,
            now: start_of_time(),
            rng: StdRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            nodes: Vec::new(),
            links: BTreeMap::new(),
            link: Link::default(),
            issued: BTreeMap::new(),
            excused: BTreeSet::new(),
            traffic: Traffic::default(),
            hash: 0xcbf2_9ce4_8422_2325,
            tap: None,
            filter: None,
        };
        for (index, mut config) in configs.into_iter().enumerate() {
            config.name = format!("node-{index}");
            let now = fleet.now;
            let core = make_core(seed, index, 0, &config, now, now);
            fleet.nodes.push(Node {
                core,
                config,
                up: true,
                frozen: false,
                frozen_at: Time::NEVER,
                socket: VecDeque::new(),
                apply: Apply::Instant,
                busy: 0,
                wake: Time::NEVER,
                life: 0,
                cache_started: now,
                applied: BTreeMap::new(),
                applied_at: BTreeMap::new(),
                attempts: BTreeMap::new(),
                events: Vec::new(),
                flushes: Vec::new(),
            });
        }
        for index in 0..fleet.nodes.len() {
            fleet.add_peers(index);
        }
        fleet
    }

    fn add_peers(&mut self, index: usize) {
        let sites: Vec<String> = self.nodes.iter().map(|n| n.config.site.clone()).collect();
        for (other, site) in sites.iter().enumerate() {
            if other != index {
                let now = self.now;
                self.nodes[index]
                    .core
                    .add_peer(now, PeerId(other as u32), site);
            }
        }
        self.pump(index);
    }

    /// Runs until all sessions are proven.
    pub fn settle(&mut self) {
        self.run(secs(2));
    }

    /// Stops a node: its process is gone.
    pub fn stop(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.up = false;
        node.frozen = false;
        node.socket.clear();
        node.life += 1;
        node.busy = 0;
        node.wake = Time::NEVER;
    }

    /// Starts a stopped node again, with an empty cache and nothing held.
    pub fn start(&mut self, index: usize) {
        let (seed, now) = (self.seed, self.now);
        let node = &mut self.nodes[index];
        node.life += 1;
        node.core = make_core(seed, index, node.life, &node.config, now, now);
        self.come_up_empty(index);
    }

    /// A node whose core is a new one is there, with an empty cache.
    pub fn come_up_empty(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.up = true;
        node.cache_started = self.now;
        node.applied.clear();
        node.applied_at.clear();
        node.attempts.clear();
        self.add_peers(index);
    }

    /// Starts a node whose disk kept these messages, over an empty cache.
    pub fn start_with_store(
        &mut self,
        index: usize,
        store: MemoryStore,
        kept: &[(StreamId, RangeSet)],
    ) {
        let now = self.now;
        let node = &mut self.nodes[index];
        node.life += 1;
        let mut rng = StdRng::seed_from_u64(4_242 + node.life);
        let identity = Identity {
            node: node_id(index),
            instance: rng.random_range(1..=u64::MAX),
            stamp: WALL_MS + now.as_us() as u64 / 1_000,
        };
        node.core = Core::new(identity, node.config.clone(), store, rng, now, now);
        for (id, held) in kept {
            node.core.restore(*id, held);
        }
        self.come_up_empty(index);
    }

    pub fn restart(&mut self, index: usize) {
        self.stop(index);
        self.start(index);
    }

    /// A restart over what the node held, with an empty cache.
    pub fn restart_with_journal(&mut self, index: usize) {
        let streams = self.nodes[index].core.streams();
        let kept: Vec<(StreamId, RangeSet)> = streams
            .filter(|stream| !stream.held.is_empty())
            .map(|stream| (stream.id, stream.held.clone()))
            .collect();
        let expired: Vec<Expired> = self.nodes[index].core.expired(self.now).collect();
        let evicted_born = self.nodes[index].core.evicted_born(self.now);
        self.stop(index);
        let (config, now) = (self.nodes[index].config.clone(), self.now);
        let placeholder = make_core(99, index, 777, &config, now, now);
        let old = std::mem::replace(&mut self.nodes[index].core, placeholder);
        self.start_with_store(index, old.into_store(), &kept);
        let core = &mut self.nodes[index].core;
        expired.iter().for_each(|all| core.restore_expired(all));
        core.restore_evicted(evicted_born);
    }

    /// Starts a stopped node again over the cache that it had: a cache that outlives the process
    /// of its purger.
    pub fn start_with_warm_cache(&mut self, index: usize) {
        let (seed, now) = (self.seed, self.now);
        let node = &mut self.nodes[index];
        node.life += 1;
        node.core = make_core(
            seed,
            index,
            node.life,
            &node.config,
            now,
            node.cache_started,
        );
        node.up = true;
        self.add_peers(index);
    }

    pub fn freeze(&mut self, index: usize) {
        if !self.nodes[index].frozen {
            self.nodes[index].frozen = true;
            self.nodes[index].frozen_at = self.now;
        }
    }

    /// As the driver does it: what waited for too long is dropped.
    pub fn thaw(&mut self, index: usize) {
        if self.now.since(self.nodes[index].frozen_at) > STANDSTILL {
            self.nodes[index].socket.clear();
        }
        self.thaw_unnoticed(index);
    }

    /// As a driver does it that has not noticed anything.
    pub fn thaw_unnoticed(&mut self, index: usize) {
        self.nodes[index].frozen = false;
        while let Some((from, bytes)) = self.nodes[index].socket.pop_front() {
            let now = self.now;
            self.nodes[index]
                .core
                .handle_datagram(now, PeerId(from as u32), &bytes);
        }
        let now = self.now;
        self.nodes[index].core.handle_timeout(now);
        self.pump(index);
    }

    /// Issues purges at a node faster than it can send them.
    pub fn burst(&mut self, index: usize, count: usize) {
        let now = self.now;
        for _ in 0..count {
            let purge = digest_of(self.issued.len() as u64);
            let node = &mut self.nodes[index];
            let id = node
                .core
                .handle_purge(now, purge.clone())
                .expect("the outbox has room");
            self.issued.insert(id, (purge, now, index));
            node.core.handle_applied(now, id, Outcome::Applied);
            note_applied(node, now, id, &mut self.hash);
        }
        self.pump(index);
    }

    /// Adds a peer made by hand to a node and proves its session. What the node sends to it is
    /// dropped.
    pub fn add_puppet(&mut self, index: usize, peer: u32) -> Puppet {
        assert!(peer as usize >= self.nodes.len());
        let now = self.now;
        let puppet = Puppet::join(peer, &mut self.nodes[index].core, now);
        self.pump(index);
        puppet
    }

    /// Has a puppet tell a node of messages of one stream, and waits for them everywhere.
    pub fn feed(&mut self, puppet: &mut Puppet, index: usize, stream: StreamId, seqs: &[u64]) {
        let now = self.now;
        for chunk in seqs.chunks(10) {
            puppet.say(&mut self.nodes[index].core, now, |out| {
                for &seq in chunk {
                    let purge = digest_of(stream.node.0 ^ (seq << 32));
                    let id = MessageId { stream, seq };
                    let tell = Tell {
                        body: purge.op().1,
                        ..Tell::default()
                    };
                    put_message(out, id, tell);
                    self.issued.entry(id).or_insert((purge, now, index));
                }
            });
        }
        self.pump(index);
    }

    /// Issues a purge at a node, which applies it at once.
    pub fn issue(&mut self, index: usize) -> MessageId {
        let purge = purge_of(self.issued.len() as u64);
        self.issue_purge(index, purge)
    }

    pub fn issue_purge(&mut self, index: usize, purge: Purge) -> MessageId {
        let ids = self.issue_purges(index, vec![purge]);
        ids.iter().next().expect("one id")
    }

    /// Issues purges that belong together.
    pub fn issue_purges(&mut self, index: usize, purges: Vec<Purge>) -> MessageIds {
        self.issue_then(index, purges, |_, _, _| ())
    }

    /// The same; `then` is done before anything is sent.
    pub fn issue_then(
        &mut self,
        index: usize,
        purges: Vec<Purge>,
        then: impl FnOnce(&mut TestCore, Time, MessageIds),
    ) -> MessageIds {
        let now = self.now;
        let node = &mut self.nodes[index];
        let ids = node
            .core
            .handle_purges(now, purges.clone())
            .expect("the outbox has room");
        for (id, purge) in ids.iter().zip(purges) {
            let before = self.issued.insert(id, (purge, now, index));
            assert!(before.is_none(), "{id} was given twice");
            node.core.handle_applied(now, id, Outcome::Applied);
            note_applied(node, now, id, &mut self.hash);
        }
        then(&mut self.nodes[index].core, now, ids);
        self.pump(index);
        ids
    }

    pub fn link_mut(&mut self, from: usize, to: usize) -> &mut Link {
        let link = self.link;
        self.links.entry((from, to)).or_insert(link)
    }

    /// All directions are as `link` says.
    pub fn all_links(&mut self, link: Link) {
        self.links.clear();
        self.link = link;
    }

    /// Cuts or mends everything between two groups.
    pub fn cut(&mut self, one: &[usize], other: &[usize], cut: bool) {
        for &a in one {
            for &b in other {
                self.link_mut(a, b).cut = cut;
                self.link_mut(b, a).cut = cut;
            }
        }
    }

    fn at(&mut self, time: Time, happening: Happening) {
        self.queue.push(Reverse((time, self.next)));
        self.happenings.insert(self.next, happening);
        self.next += 1;
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
    }

    /// Runs until `done` or `end`; whether it was `done`.
    pub fn run_until(&mut self, end: Time, mut done: impl FnMut(&Fleet) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let due = self.queue.peek().map(|Reverse((time, _))| *time);
            let Some(due) = due.filter(|due| *due <= end) else {
                self.now = end;
                return done(self);
            };
            let Some(Reverse((_, number))) = self.queue.pop() else {
                return false;
            };
            self.now = due;
            if let Some(happening) = self.happenings.remove(&number) {
                self.happen(happening);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        let index = match happening {
            Happening::Datagram { to, from, bytes } => {
                if !self.nodes[to].up {
                    return;
                }
                if self.nodes[to].frozen {
                    self.nodes[to].socket.push_back((from, bytes));
                    return;
                }
                self.count_crossed(to, &bytes);
                self.nodes[to]
                    .core
                    .handle_datagram(now, PeerId(from as u32), &bytes);
                to
            }
            Happening::Wake { node } => {
                // A wake-up that was put off, or of a life that is over, is not for now.
                if !self.nodes[node].up || self.nodes[node].wake != now {
                    return;
                }
                self.nodes[node].wake = Time::NEVER;
                if self.nodes[node].frozen {
                    return;
                }
                self.nodes[node].core.handle_timeout(now);
                node
            }
            Happening::Applied {
                node: index,
                life,
                id,
                outcome,
            } => {
                let node = &mut self.nodes[index];
                if node.life != life || !node.up {
                    return;
                }
                node.busy = node.busy.saturating_sub(1);
                node.core.handle_applied(now, id, outcome);
                if outcome == Outcome::Applied {
                    note_applied(node, now, id, &mut self.hash);
                }
                index
            }
        };
        self.pump(index);
    }

    fn count_crossed(&mut self, to: usize, bytes: &[u8]) {
        let Ok(datagram) = Datagram::parse(bytes) else {
            return;
        };
        for (id, _) in repairs_in(&datagram) {
            if self.nodes[to].core.knows(id) != Knowledge::Unknown {
                self.traffic.crossed += 1;
            }
        }
    }

    /// Takes out of a core all that it has to say, as its documentation asks for.
    pub fn pump(&mut self, index: usize) {
        let now = self.now;
        if !self.nodes[index].up || self.nodes[index].frozen {
            return;
        }
        loop {
            let mut idle = true;
            while let Some(transmit) = self.nodes[index].core.poll_transmit(now) {
                idle = false;
                self.transmit(index, transmit);
            }
            while let Some(delivery) = self.next_delivery(index) {
                idle = false;
                self.deliver(index, delivery);
            }
            while let Some(event) = self.nodes[index].core.poll_event() {
                let text = format!("{event:?}");
                self.hash_in(text.as_bytes());
                self.nodes[index].events.push(event);
            }
            if idle {
                break;
            }
        }
        let wake = self.nodes[index].core.poll_timeout().max(now);
        if wake != self.nodes[index].wake {
            self.nodes[index].wake = wake;
            self.at(wake, Happening::Wake { node: index });
        }
    }

    fn next_delivery(&mut self, index: usize) -> Option<Delivery> {
        let now = self.now;
        let node = &mut self.nodes[index];
        if let Apply::Queue { len, .. } = node.apply {
            if node.busy >= len {
                return None;
            }
        }
        node.core.poll_delivery(now)
    }

    fn deliver(&mut self, index: usize, delivery: Delivery) {
        let now = self.now;
        let id = delivery.id;
        if id.seq == 0 {
            assert_eq!(delivery.purge, Purge::Everything);
            let node = &mut self.nodes[index];
            node.flushes.push(now);
            node.core.handle_applied(now, id, Outcome::Applied);
            return;
        }
        let (purge, issued, _) = self.issued.get(&id).unwrap_or_else(|| {
            panic!(
                "seed {}: {id} was never issued and reached the cache",
                self.seed
            )
        });
        assert_eq!(
            *purge, delivery.purge,
            "seed {}: {id} arrived as another purge",
            self.seed
        );
        assert!(
            delivery.age <= now.since(*issued),
            "seed {}: {id} is older than it can be",
            self.seed
        );
        let node = &mut self.nodes[index];
        let attempt = node.attempts.entry(id).or_default();
        *attempt += 1;
        let (after, outcome) = match node.apply {
            Apply::Instant => (Duration::ZERO, Outcome::Applied),
            Apply::Delayed(time) => (time, Outcome::Applied),
            Apply::Queue { each, .. } => (each, Outcome::Applied),
            Apply::Refusing { len, each } => {
                if node.busy >= len {
                    node.core.handle_applied(now, id, Outcome::Failed);
                    return;
                }
                (each, Outcome::Applied)
            }
            Apply::FailsOnce if *attempt == 1 => (Duration::ZERO, Outcome::Failed),
            Apply::FailsOnce => (Duration::ZERO, Outcome::Applied),
            Apply::Flaky(share) if self.rng.random_bool(share) => (ms(1), Outcome::Failed),
            Apply::Flaky(_) => (ms(1), Outcome::Applied),
            Apply::Hung => return,
        };
        if after.is_zero() {
            node.core.handle_applied(now, id, outcome);
            if outcome == Outcome::Applied {
                note_applied(node, now, id, &mut self.hash);
            }
            return;
        }
        node.busy += 1;
        let life = node.life;
        let time = now + after;
        self.at(
            time,
            Happening::Applied {
                node: index,
                life,
                id,
                outcome,
            },
        );
    }

    fn transmit(&mut self, from: usize, transmit: Transmit) {
        assert!(
            transmit.payload.len() <= PLAINTEXT_BYTES_MAX,
            "seed {}: a datagram of {} bytes",
            self.seed,
            transmit.payload.len()
        );
        let to: Vec<usize> = match transmit.to {
            // A peer that is not a node of the fleet is a puppet.
            To::Peer(peer) => Some(peer.0 as usize)
                .filter(|&to| to < self.nodes.len())
                .into_iter()
                .collect(),
            To::All => (0..self.nodes.len()).filter(|to| *to != from).collect(),
        };
        let datagram = Datagram::parse(&transmit.payload)
            .unwrap_or_else(|error| panic!("seed {}: a core sent {error}", self.seed));
        let repairs: Vec<_> = repairs_in(&datagram).collect();
        for to in to {
            for (id, _) in &repairs {
                self.traffic.repaired += 1;
                if self.nodes[to].up && self.nodes[to].core.knows(*id) != Knowledge::Unknown {
                    self.traffic.unwanted_sent += 1;
                }
            }
            self.send(from, to, &transmit.payload);
        }
    }

    /// Puts a datagram on the link, as if `from` had sent it.
    pub fn send(&mut self, from: usize, to: usize, bytes: &[u8]) {
        self.traffic.datagrams += 1;
        self.traffic.bytes += bytes.len() as u64;
        self.hash_in(&self.now.as_us().to_le_bytes());
        self.hash_in(&[from as u8, to as u8]);
        self.hash_in(bytes);
        if let Some((index, recorded)) = &mut self.tap {
            if *index == to {
                recorded.push((from, bytes.to_vec()));
            }
        }
        let link = *self.links.get(&(from, to)).unwrap_or(&self.link);
        let mut bytes = bytes.to_vec();
        let passed = self.filter.as_mut();
        let filtered = passed.is_some_and(|f| !f(from, to, &mut bytes));
        if filtered || link.cut || self.rng.random_bool(link.loss) {
            self.traffic.lost += 1;
            return;
        }
        let copies = if self.rng.random_bool(link.dup) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = self.rng.random_range(0..=link.jitter.as_micros() as u64);
            let time = self.now + link.delay + Duration::from_micros(jitter);
            let bytes = bytes.clone();
            self.at(time, Happening::Datagram { to, from, bytes });
        }
    }

    fn hash_in(&mut self, bytes: &[u8]) {
        fnv(&mut self.hash, bytes);
    }

    /// A hash over everything that was sent, applied and reported, and when.
    pub fn trace(&self) -> u64 {
        self.hash
    }

    /// The messages that a node should have applied and has not.
    pub fn lacking(&self, index: usize) -> Vec<MessageId> {
        let node = &self.nodes[index];
        self.issued
            .iter()
            .filter(|(id, (_, issued, _))| {
                *issued >= node.cache_started
                    && !node.applied.contains_key(id)
                    && !self.excused.contains(id)
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// Expects a purge no more at nodes that have not got it: whoever had it is gone.
    pub fn excuse(&mut self, id: MessageId) {
        self.excused.insert(id);
    }

    /// Whether every node that is up has applied all that it could hold an object for.
    pub fn converged(&self) -> bool {
        (0..self.nodes.len())
            .filter(|&index| self.nodes[index].up)
            .all(|index| {
                let node = &self.nodes[index];
                self.issued.iter().all(|(id, (_, issued, _))| {
                    *issued < node.cache_started
                        || node.applied.contains_key(id)
                        || self.excused.contains(id)
                })
            })
    }

    /// Runs until all have converged, at most for `time`; panics with the seed if they don't.
    pub fn converge(&mut self, time: Duration) -> Duration {
        let from = self.now;
        let end = from + time;
        // Looking at everything after every event would cost more than the run.
        while !self.converged() {
            if self.now >= end {
                let lacking: Vec<(usize, usize)> = (0..self.nodes.len())
                    .filter(|&index| self.nodes[index].up)
                    .map(|index| (index, self.lacking(index).len()))
                    .filter(|(_, count)| *count > 0)
                    .collect();
                panic!(
                    "seed {}: not converged after {time:?}; (node, purges lacking): {lacking:?}",
                    self.seed
                );
            }
            self.run(ms(20));
        }
        self.now.since(from)
    }

    /// Panics if a message was applied twice in one life of a node's cache.
    pub fn assert_applied_once(&self) {
        for (index, node) in self.nodes.iter().enumerate() {
            for (id, count) in &node.applied {
                assert_eq!(
                    *count, 1,
                    "seed {}: node {index} applied {id} {count} times",
                    self.seed
                );
            }
        }
    }

    pub fn stats(&self, index: usize) -> &Stats {
        self.nodes[index].core.stats()
    }

    /// The sum of a counter over all nodes.
    pub fn sum(&self, counter: impl Fn(&Stats) -> u64) -> u64 {
        self.nodes.iter().map(|n| counter(n.core.stats())).sum()
    }

    pub fn random(&mut self) -> &mut StdRng {
        &mut self.rng
    }
}

fn note_applied(node: &mut Node, now: Time, id: MessageId, hash: &mut u64) {
    *node.applied.entry(id).or_default() += 1;
    node.applied_at.entry(id).or_insert(now);
    fnv(hash, &now.as_us().to_le_bytes());
    fnv(hash, &id.seq.to_le_bytes());
}

fn fnv(hash: &mut u64, bytes: &[u8]) {
    for byte in bytes {
        *hash = (*hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

pub fn make_core(
    seed: u64,
    index: usize,
    life: u64,
    config: &Config,
    now: Time,
    cache_started: Time,
) -> TestCore {
    let mut rng = StdRng::seed_from_u64(
        seed.wrapping_mul(1_000_003)
            .wrapping_add((index as u64) << 32)
            .wrapping_add(life),
    );
    let instance = rng.random_range(1..=u64::MAX);
    let identity = Identity {
        node: node_id(index),
        instance,
        stamp: WALL_MS + now.as_us() as u64 / 1_000,
    };
    Core::new(
        identity,
        config.clone(),
        MemoryStore::new(),
        rng,
        now,
        cache_started,
    )
}

/// The messages that a datagram repairs, with their op codes.
pub fn repairs_in<'a>(datagram: &Datagram<'a>) -> impl Iterator<Item = (MessageId, u16)> + use<'a> {
    datagram
        .frames()
        .filter_map(|frame| match frame {
            Frame::Data(data) if data.repair() => Some(data),
            _ => None,
        })
        .flat_map(|data| {
            data.messages().map(move |message| {
                let id = MessageId {
                    stream: data.stream,
                    seq: message.seq,
                };
                (id, message.op)
            })
        })
}

/// Whether the datagram disseminates: data that is not a repair.
pub fn disseminates(bytes: &[u8]) -> bool {
    Datagram::parse(bytes).is_ok_and(|datagram| {
        datagram
            .frames()
            .any(|frame| matches!(frame, Frame::Data(data) if !data.repair()))
    })
}

/// Whether the datagram has a digest in it.
pub fn is_digest(bytes: &[u8]) -> bool {
    Datagram::parse(bytes)
        .is_ok_and(|datagram| datagram.frames().any(|f| matches!(f, Frame::Digest(_))))
}

/// Takes the messages that are not `wanted` out of a datagram.
pub fn retain_messages(bytes: &mut Vec<u8>, wanted: impl Fn(MessageId) -> bool) {
    let Ok(datagram) = Datagram::parse(bytes) else {
        return;
    };
    let mut out = Vec::with_capacity(bytes.len());
    datagram.header.encode(&mut out);
    for frame in datagram.frames() {
        let Frame::Data(data) = frame else {
            frame.encode(&mut out);
            continue;
        };
        let mut writer = DataWriter::new(&mut out, PLAINTEXT_BYTES_MAX, data.stream, data.flags);
        for message in data.messages() {
            let (stream, seq) = (data.stream, message.seq);
            if wanted(MessageId { stream, seq }) {
                assert!(writer.push(&message), "there was room for it before");
            }
        }
        writer.finish();
    }
    *bytes = out;
}

/// The streams that a core knows, with something in them.
pub fn streams_of(core: &TestCore) -> BTreeSet<StreamId> {
    core.streams()
        .filter(|view| view.top > 0)
        .map(|view| view.id)
        .collect()
}
