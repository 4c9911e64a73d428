//! Datagrams of five streams through decoder, core and engine, in this process and in virtual time:
//! a purge costs what it cost a hundred million purges ago, and takes no more memory.
//!
//! Each sender issues 2,000 purges a second, 20 to a datagram, and repeats the last 8 of the datagram
//! before, as a node does. One in ten is a purge by key; the index has 100,000 objects, and each that
//! is purged is replaced by a new one. One datagram in 200 is lost, asked for, and comes 50 ms later as
//! a repair. Messages are held for a minute, so from the second minute on as many expire as come.
//!
//! Three things are timed. A datagram: from its bytes until the last of its purges has been applied and the
//! core has been told, divided by the number of its purges. A round: the digests that it sends, and all
//! messages that have expired since the last one. And an object that goes out of the index, with one
//! that comes in.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::error::Error;
use std::time::{Duration, Instant};

use powderhorn_engine::cache::{BanError, BanLine, Cache, Objects, Regex};
use powderhorn_engine::headers::Headers;
use powderhorn_engine::index::ObjectId;
use powderhorn_engine::{Engine, Inserted, Settings};
use powderhorn_protocol::bounds::PLAINTEXT_BYTES_MAX;
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{Epoch, NodeId, StreamId};
use powderhorn_protocol::purge::{Keys, Purge};
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::wire::{self, Data, DataWriter, Datagram, Frame, Header, WireMessage};
use powderhorn_protocol::{Core, Identity, PeerId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{BLOCKS, Tenth, judge};
use crate::Arguments;
use crate::report::Report;
use crate::servers::resident;
use crate::stats::Samples;

const SENDERS: u32 = 5;
const PURGES_DEFAULT: u64 = 100_000_000;
/// New purges in a datagram, and repeated ones.
const FRESH: u64 = 20;
const REPEATED: u64 = 8;
/// From one datagram of all senders to the next: 10,000 purges a second.
const STEP: Duration = Duration::from_millis(2);
/// One datagram in so many is lost at first, and comes so many datagrams later.
const LOST_ONE_IN: u64 = 200;
const REPAIRED_AFTER: u64 = 25;
/// One purge in so many is by key.
const KEY_ONE_IN: u64 = 10;
const OBJECTS: u64 = 100_000;
const KEYS: u64 = 50_000;
const RETENTION: Duration = Duration::from_secs(60);
const START: Time = Time::from_us(1_000_000_000);

/// What is timed.
const KINDS: [&str; 3] = ["a purge", "a round", "an object out of the index, one in"];
const PURGE: usize = 0;
const ROUND: usize = 1;
const REPLACE: usize = 2;

type TestCore = Core<MemoryStore, StdRng>;

/// Runs it; false if it found a drift and was asked to fail on that.
pub fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let purges = arguments.purges.unwrap_or(PURGES_DEFAULT);
    let about = "\
        Purges of five streams, 20 to a datagram: decoded, held, applied by the engine to a cache that only counts,\n\
        held for a while and dropped. Quantiles: the median of those of a hundred blocks of each tenth.";
    let mut report = Report::new("soak", &arguments.out, about)?;
    // A short soak holds for less, so that it too drops as much as it takes.
    let per_second = FRESH as f64 / STEP.as_secs_f64();
    let retention = RETENTION.min(Duration::from_secs_f64(purges as f64 / per_second / 20.0));
    let mut soak = Soak::new(retention)?;
    // What belongs together stands together in memory at first: luck that is used up here.
    let warm_up = (retention.as_secs_f64() * per_second * 2.0) as u64 / FRESH;
    for _ in 0..warm_up {
        soak.datagram()?;
    }
    soak.samples = Default::default();
    report.say(&format!(
        "{purges} purges after {} to begin with; held for {:.0} s of virtual time: {} messages",
        soak.applied,
        retention.as_secs_f64(),
        soak.core.streams().map(|s| s.held.count()).sum::<u64>()
    ))?;
    let blocks = 10 * BLOCKS;
    let per_block = (purges / FRESH / blocks).max(100);
    let mut tenths = Vec::new();
    let begin = Instant::now();
    let before = soak.applied;
    for _ in 0..10 {
        let tenth_begin = Instant::now();
        let tenth_before = soak.applied;
        let mut tenth = Tenth::new(KINDS.len());
        for _ in 0..BLOCKS {
            for _ in 0..per_block {
                soak.datagram()?;
            }
            tenth.block(&mut soak.samples);
        }
        tenth.resident = vec![resident("self")];
        tenth.rate = (soak.applied - tenth_before) as f64 / tenth_begin.elapsed().as_secs_f64();
        tenths.push(tenth);
    }
    let done = soak.applied - before;
    let fine = judge(&mut report, &KINDS, &["this process"], &tenths)?;
    report.say(&format!(
        "{done} purges in {:.0} s; {} objects replaced; core: {} received, {} recovered, {} repeated ones; \
         index {} objects",
        begin.elapsed().as_secs_f64(),
        soak.replaced,
        soak.core.stats().received,
        soak.core.stats().recovered,
        soak.core.stats().duplicates,
        soak.engine.index().counts().objects,
    ))?;
    Ok(fine || !arguments.assert)
}

struct Soak {
    core: TestCore,
    engine: Engine,
    cache: Counting,
    senders: Vec<Sender>,
    late: VecDeque<(u64, PeerId, Vec<u8>)>,
    rng: StdRng,
    now: Time,
    sent: u64,
    next_object: u64,
    applied: u64,
    replaced: u64,
    samples: [Samples; KINDS.len()],
}

impl Soak {
    fn new(retention: Duration) -> Result<Soak, Box<dyn Error>> {
        let mut rng = StdRng::seed_from_u64(1);
        let identity = Identity {
            node: NodeId(1),
            instance: 1,
            stamp: 1,
        };
        let config = Config {
            retention,
            retention_bytes: 4 << 30,
            ..Config::default()
        };
        let store = MemoryStore::new();
        let mut core = Core::new(
            identity,
            config,
            store,
            StdRng::seed_from_u64(2),
            START,
            START,
        );
        let senders = (0..SENDERS).map(|n| Sender::join(n, &mut core));
        let senders = senders.collect::<Result<_, _>>()?;
        let settings = Settings {
            key_headers: vec!["xkey".into()],
            seed: [rng.random(), rng.random()],
            ..Settings::default()
        };
        let mut soak = Soak {
            core,
            engine: Engine::new(settings, START, START.as_us()),
            cache: Counting::default(),
            senders,
            late: VecDeque::new(),
            rng,
            now: START,
            sent: 0,
            next_object: 0,
            applied: 0,
            replaced: 0,
            samples: Default::default(),
        };
        for _ in 0..OBJECTS {
            soak.insert();
        }
        Ok(soak)
    }

    /// The next datagram, and what becomes of it.
    fn datagram(&mut self) -> Result<(), Box<dyn Error>> {
        self.now = self.now + STEP;
        self.sent += 1;
        if self.late.front().is_some_and(|(at, ..)| *at <= self.sent) {
            if let Some((_, from, bytes)) = self.late.pop_front() {
                self.take(from, &bytes);
            }
        }
        let sender = &mut self.senders[self.rng.random_range(0..SENDERS as usize)];
        let from = sender.peer;
        let lost = self.sent % LOST_ONE_IN == 0;
        let bytes = sender.say(&mut self.rng, self.now, lost)?;
        if lost {
            self.late
                .push_back((self.sent + REPAIRED_AFTER, from, bytes));
        } else {
            self.take(from, &bytes);
        }
        for object in self.cache.dead.take() {
            let begin = Instant::now();
            self.engine.expired(object, false);
            self.insert();
            self.samples[REPLACE].push(begin.elapsed());
            self.replaced += 1;
        }
        Ok(())
    }

    fn take(&mut self, from: PeerId, bytes: &[u8]) {
        let (core, now) = (&mut self.core, self.now);
        let mut applied = 0;
        let rounds = core.stats().rounds;
        let begin = Instant::now();
        if core.poll_timeout() <= now {
            core.handle_timeout(now);
        }
        while core.poll_transmit(now).is_some() {}
        let mut begin_purges = begin;
        if core.stats().rounds > rounds {
            begin_purges = Instant::now();
            self.samples[ROUND].push(begin_purges - begin);
        }
        core.handle_datagram(now, from, bytes);
        while let Some(delivery) = core.poll_delivery(now) {
            let outcome =
                self.engine
                    .apply(&self.cache, &delivery.purge, delivery.arrival, delivery.age);
            core.handle_applied(now, delivery.id, outcome);
            applied += 1;
        }
        while core.poll_event().is_some() {}
        let took = begin_purges.elapsed();
        if applied > 0 {
            self.samples[PURGE].push_shared(took, applied);
        }
        self.applied += u64::from(applied);
    }

    /// A new object with two keys.
    fn insert(&mut self) {
        self.next_object += 1;
        let keys: [u64; 2] = std::array::from_fn(|_| self.rng.random_range(0..KEYS));
        let line = format!("xkey: key-{} key-{}", keys[0], keys[1]);
        let mut digest = [0; 32];
        self.rng.fill(&mut digest);
        let inserted = Inserted {
            // As far apart as objcores are.
            object: ObjectId(0x7f00_0000_0000 + self.next_object * 208),
            digest: &digest,
            // After the last purge, which would kill it otherwise.
            started: self.now + Duration::from_micros(1),
            revives: None,
            empty: false,
            doomed: false,
        };
        let now = inserted.started + Duration::from_micros(1);
        self.engine
            .inserted(&self.cache, now, &inserted, &Line(line.as_bytes()));
    }
}

/// A cache that counts what it is told, and says which objects are gone.
#[derive(Default)]
struct Counting {
    dead: RefCell<Vec<ObjectId>>,
    digests: Cell<u64>,
}

impl Objects for Counting {
    fn kill(&self, object: ObjectId) {
        self.dead.borrow_mut().push(object);
    }
    fn soften(&self, _: ObjectId) {}
}

impl Cache for Counting {
    fn purge_digest(
        &self,
        _: &[u8; 32],
        _: bool,
        _: Option<&mut dyn FnMut(ObjectId) -> bool>,
    ) -> u64 {
        self.digests.set(self.digests.get() + 1);
        0
    }
    fn ban(&self, _: &[BanLine<'_>]) -> Result<(), BanError> {
        Ok(())
    }
    fn live_bans(&self, _: u64) -> u64 {
        0
    }
    fn regex(&self, _: &[u8]) -> Result<Box<dyn Regex>, String> {
        Err("no bans here".into())
    }
}

struct Line<'a>(&'a [u8]);

impl Headers for Line<'_> {
    fn each(&self, with: &mut dyn FnMut(&[u8])) {
        with(self.0);
    }
}

/// A node as the core knows it: by its datagrams.
struct Sender {
    peer: PeerId,
    node: NodeId,
    stream: StreamId,
    counter: u64,
    seq: u64,
    /// The last messages: op and body.
    last: VecDeque<(u16, Vec<u8>)>,
}

impl Sender {
    /// Proves its session to the core.
    fn join(n: u32, core: &mut TestCore) -> Result<Sender, Box<dyn Error>> {
        let node = NodeId(100 + u64::from(n));
        let epoch = Epoch {
            stamp: 1_000,
            random: 7,
        };
        let mut sender = Sender {
            peer: PeerId(n),
            node,
            stream: StreamId { node, epoch },
            counter: 0,
            seq: 0,
            last: VecDeque::new(),
        };
        core.add_peer(START, sender.peer, "");
        let mut nonce = None;
        while let Some(transmit) = core.poll_transmit(START) {
            let datagram = Datagram::parse(&transmit.payload)?;
            nonce = nonce.or_else(|| {
                datagram.frames().find_map(|frame| match frame {
                    Frame::Challenge(challenge) => Some(challenge.nonce),
                    _ => None,
                })
            });
        }
        let mut bytes = sender.header();
        wire::put_echo(&mut bytes, nonce.ok_or("a new peer is challenged")?);
        core.handle_datagram(START, sender.peer, &bytes);
        Ok(sender)
    }

    fn header(&mut self) -> Vec<u8> {
        self.counter += 1;
        let mut bytes = Vec::with_capacity(PLAINTEXT_BYTES_MAX);
        let header = Header {
            node: self.node,
            instance: 9,
            to: 0,
            counter: self.counter,
        };
        header.encode(&mut bytes);
        bytes
    }

    /// A datagram of new purges and the last ones before them.
    fn say(
        &mut self,
        rng: &mut StdRng,
        now: Time,
        repair: bool,
    ) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut bytes = self.header();
        let flags = if repair { Data::REPAIR } else { 0 };
        let repeated = self.last.len() as u64;
        for _ in 0..FRESH {
            let purge = if rng.random_ratio(1, KEY_ONE_IN as u32) {
                let key = format!("key-{}", rng.random_range(0..KEYS));
                let keys = Keys::pack([key.as_bytes()])?;
                Purge::Keys(keys.into_iter().next().ok_or("a key was packed")?)
            } else {
                Purge::Digest(rng.random())
            };
            let (op, body) = purge.op();
            self.last.push_back((op, body.to_vec()));
        }
        let mut writer = DataWriter::new(&mut bytes, PLAINTEXT_BYTES_MAX, self.stream, flags);
        for (seq, (op, body)) in (self.seq + 1 - repeated..).zip(&self.last) {
            let fits = writer.push(&WireMessage {
                seq,
                age_ms: 1,
                issued_ms: now.since(START).as_millis() as u64,
                op: *op,
                body,
            });
            if !fits {
                return Err("a datagram takes 28 purges".into());
            }
        }
        writer.finish();
        self.seq += FRESH;
        self.last.drain(..self.last.len() - REPEATED as usize);
        Ok(bytes)
    }
}
