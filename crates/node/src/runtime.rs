//! The node's own thread: receives, opens, feeds the core, keeps its time, and sends what others
//! have not sent yet.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use log::Level;
use powderhorn_journal::State as JournalState;
use powderhorn_protocol::bounds::{DATAGRAM_BYTES_MAX, STANDSTILL};
use powderhorn_protocol::time::Time;
use powderhorn_protocol::wire::Standing;

use crate::alone::Alone;
use crate::keys::KeyFile;
use crate::net::Receiver;
use crate::node::{RuntimeState, Shared};
use crate::peers::Peers;
use crate::rates::Sample;
use crate::reload::ConfigFile;
use crate::seal::{OpenError, Sealer};
use crate::{events, sys};

/// Datagrams received from a socket before it is time to send again.
const RECEIVE_BATCH: usize = 64;
/// Datagrams sent before it is time to receive again.
const SEND_BATCH: usize = 64;
/// Datagrams sent when the node stops, so that what was issued last gets out.
const STOP_SEND_MAX: usize = 4_096;
/// How often the key file, the configuration file and the kernel's counters are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// The runtime is started anew after a panic, so often; beyond, the node only applies what it has
/// and says in its status that it is deaf.
const PANICS_MAX: u32 = 16;
/// How long after a panic: not in a hot loop, whatever it is that panics.
const RESTART_DELAY: Duration = Duration::from_millis(100);
/// A cache that has failed to apply a purge is said to fail for so long.
const CACHE_FAILS_FOR: Duration = Duration::from_secs(10);
/// A run as long as this makes earlier panics count no more.
const GOOD_RUN: Duration = Duration::from_secs(600);

pub(crate) struct Runtime {
    shared: Arc<Shared>,
    sockets: Vec<Receiver>,
    sealer: Option<Arc<Sealer>>,
    key_file: Option<KeyFile>,
    config_file: Option<ConfigFile>,
    housekeeping: Instant,
    /// When this thread was last seen to go on.
    awake: Cell<Time>,
    /// When the journal was last told what has expired.
    note_expired_at: Instant,
    /// Datagrams of receipts that waiters have been told of.
    receipts_in: u64,
    /// Purges that the cache has failed to apply, and when that was last seen to grow.
    apply_failed: u64,
    cache_failed: Option<Time>,
    alone: Alone,
    /// Whether there are others, or may be.
    fleet: bool,
    /// The setting, as it was when house was kept last: it is needed for each datagram.
    max_staleness: Option<Duration>,
}

impl Runtime {
    /// Starts the thread.
    pub fn spawn(shared: Arc<Shared>, key_file: Option<KeyFile>) -> io::Result<()> {
        let sealer = shared.egress.sender.lock().sealer.clone();
        let mut state = Runtime {
            sockets: Vec::new(),
            sealer,
            key_file,
            config_file: shared.config().path.clone().map(ConfigFile::new),
            housekeeping: Instant::now(),
            awake: Cell::new(sys::boot_clock()),
            note_expired_at: Instant::now(),
            receipts_in: 0,
            apply_failed: 0,
            cache_failed: None,
            alone: Alone::new(shared.started),
            fleet: false,
            max_staleness: shared.config().limits.max_staleness,
            shared: shared.clone(),
        };
        let first = state.tokio()?;
        std::thread::Builder::new()
            .name("powderhorn".into())
            .spawn(move || {
                let end = state.supervise(first);
                // The addresses are free for a successor before anybody hears of the end.
                shared.egress.sender.lock().sockets.clear();
                drop(state);
                shared.set_runtime(end);
            })?;
        Ok(())
    }

    /// A runtime of tokio's, with the sockets' receiving sides.
    fn tokio(&mut self) -> io::Result<tokio::runtime::Runtime> {
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = tokio.enter();
        let sockets = self.shared.egress.sender.lock().sockets.clone();
        let receivers = sockets.iter().map(|socket| socket.receiver());
        self.sockets = receivers.collect::<io::Result<_>>()?;
        drop(entered);
        Ok(tokio)
    }

    /// Runs, and runs again after a panic: one bad moment must not make the node deaf for good. Each time by a
    /// new runtime of tokio's: one that panicked itself waits for no events any more, and does not say so.
    fn supervise(&mut self, first: tokio::runtime::Runtime) -> RuntimeState {
        let mut tokio = Some(first);
        let mut panics = 0;
        loop {
            let started = Instant::now();
            let run = || {
                let tokio = tokio.take().map_or_else(|| self.tokio(), Ok)?;
                tokio.block_on(self.run());
                io::Result::Ok(())
            };
            // That there is no new one counts as a panic of it.
            if let Ok(Ok(())) = catch_unwind(AssertUnwindSafe(run)) {
                return RuntimeState::Ended;
            }
            let shared = &self.shared;
            let counter = &shared.counters.runtime_panics;
            counter.fetch_add(1, Ordering::Relaxed);
            if started.elapsed() >= GOOD_RUN {
                panics = 0;
            }
            panics += 1;
            if panics >= PANICS_MAX {
                let text = "the runtime gave up after too many panics: restart Varnish";
                shared.notices.say(Level::Error, text.into());
                return RuntimeState::GaveUp;
            }
            let text = "the runtime panicked and is started again";
            shared.notices.say(Level::Error, text.into());
            if shared.wait_for_stop(RESTART_DELAY) {
                return RuntimeState::Ended;
            }
        }
    }

    async fn run(&mut self) {
        let shared = self.shared.clone();
        loop {
            // tokio looks at its sockets when it is its turn, which other wake-ups must not keep
            // it from.
            tokio::task::yield_now().await;
            let more = self.receive();
            let timeout = self.keep_time();
            shared.send_waiting(SEND_BATCH);
            if self.housekeeping.elapsed() >= HOUSEKEEPING {
                self.housekeeping = Instant::now();
                self.keep_house();
                shared.keep_members();
            } else if shared.members_due.load(Ordering::SeqCst) {
                shared.keep_members();
            }
            if shared.stopping() {
                shared.send_waiting(STOP_SEND_MAX);
                return;
            }
            if more {
                continue;
            }
            let wait = timeout.since(sys::boot_clock()).min(HOUSEKEEPING);
            tokio::select! {
                () = readable(&self.sockets) => {}
                () = shared.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Receives a batch from each socket; whether there may be more.
    fn receive(&mut self) -> bool {
        // One byte more than a datagram may have, so that a longer one is seen to be longer.
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        let mut more = false;
        if self.stood_still(sys::boot_clock()) {
            self.discard(0);
        }
        let peers = self.shared.peers();
        for socket in &self.sockets {
            more |= self.receive_from(socket, &peers, &mut buffer);
        }
        more
    }

    fn receive_from(&self, socket: &Receiver, peers: &Peers, buffer: &mut [u8]) -> bool {
        let counters = &self.shared.counters;
        for _ in 0..RECEIVE_BATCH {
            match socket.receive(buffer) {
                Ok((len, from)) => {
                    let datagram = buffer.get_mut(..len).unwrap_or_default();
                    self.take(datagram, from, peers);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // An earlier datagram was refused where it went, for example.
                Err(_) => {
                    counters.net_receive_errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        true
    }

    /// Takes one datagram. What is no peer's, or does not open, costs no more than a look.
    fn take(&self, datagram: &mut [u8], from: SocketAddr, peers: &Peers) {
        let shared = &self.shared;
        let counters = &shared.counters;
        let len = datagram.len() as u64;
        counters.net_datagrams_in.fetch_add(1, Ordering::Relaxed);
        counters.net_bytes_in.fetch_add(len, Ordering::Relaxed);
        let Some(peer) = peers.at(from) else {
            counters.net_strangers.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let Some(sealer) = &self.sealer else { return };
        match sealer.open(datagram) {
            Ok(plaintext) => {
                let mut core = shared.core.lock();
                let now = sys::boot_clock();
                if self.stood_still(now) {
                    drop(core);
                    self.discard(1);
                    return;
                }
                let reflected = core.stats().reflected;
                core.handle_datagram(now, peer, plaintext);
                shared.wake_applier(&core);
                if core.stats().reflected != reflected {
                    drop(core);
                    let notices = &shared.notices;
                    notices.say_now_and_then("reflected", Level::Warn, || {
                        format!("peer {from} is this node itself: set node.advertise to {from}")
                    });
                }
            }
            Err(error) => self.refuse(from, error),
        }
    }

    /// Whether this thread stood still since this was last asked.
    fn stood_still(&self, now: Time) -> bool {
        now.since(self.awake.replace(now)) > STANDSTILL
    }

    /// Drops what came while this thread stood still, as nobody knows how old it is: what waits in the sockets, and
    /// `taken` datagrams that were taken out of them already.
    fn discard(&self, taken: u64) {
        let waiting: u64 = self.sockets.iter().map(Receiver::discard).sum();
        let count = taken + waiting;
        let counters = &self.shared.counters;
        counters
            .net_datagrams_in
            .fetch_add(waiting, Ordering::Relaxed);
        counters.net_stood_still.fetch_add(count, Ordering::Relaxed);
        let notices = &self.shared.notices;
        notices.say_now_and_then("standstill", Level::Warn, || {
            format!(
                "this node stood still for more than {} s: was the process stopped, or the machine suspended? \
                 {count} datagrams that came meanwhile were dropped; gossip brings what was in them",
                STANDSTILL.as_secs()
            )
        });
    }

    /// Counts what did not open. It came from a peer's address, but that proves nothing.
    fn refuse(&self, from: SocketAddr, error: OpenError) {
        let counters = &self.shared.counters;
        let counter = match error {
            OpenError::Length => &counters.seal_length,
            OpenError::Version(_) => &counters.seal_version,
            OpenError::UnknownKey => &counters.seal_unknown_key,
            OpenError::Broken => &counters.seal_broken,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if matches!(error, OpenError::UnknownKey | OpenError::Broken) {
            let notices = &self.shared.notices;
            notices.say_now_and_then("datagrams that do not open", Level::Warn, || {
                format!("dropped a datagram from {from}: {error}; compare fleet.name and keys")
            });
        }
    }

    /// Lets the core do what is due; when it wants to be called next.
    fn keep_time(&mut self) -> Time {
        let shared = &self.shared;
        let mut core = shared.core.lock();
        let now = sys::boot_clock();
        if now >= core.poll_timeout() {
            core.handle_timeout(now);
            shared.wake_applier(&core);
        }
        let mut events = Vec::new();
        while let Some(event) = core.poll_event() {
            events.push(event);
        }
        // Once for all that came: each waiter takes the core's lock to look.
        let receipts = core.stats().receipts_in;
        if std::mem::replace(&mut self.receipts_in, receipts) != receipts {
            shared.wake_waiters(&core);
        }
        let timeout = core.poll_timeout();
        let heard = core.heard();
        drop(core);
        for event in &events {
            events::tell(shared, event);
        }
        self.alone.note(heard, self.max_staleness);
        self.set_isolated();
        timeout
    }

    /// Notes whether there are others, and whether what was missed while none was heard has come.
    fn note_alone(&mut self) {
        let shared = &self.shared;
        let peers = shared.peers().count() as u64;
        // A source that is silent may know of others, and some may be out of reach.
        self.fleet = peers > 0 || shared.incomplete.load(Ordering::Relaxed);
        let core = shared.core.lock();
        let now = sys::boot_clock();
        if !self.fleet {
            self.alone.single(now);
        } else if let Some(heard_for) = self.alone.behind_for(now) {
            let standing = core.standing(now);
            // Right after a cut there are some of whom nothing is known yet.
            let all = standing.nodes > peers || heard_for > core.news_stale();
            let complete_ms = standing.complete_ms.filter(|_| all && standing.nodes > 1);
            let complete_ms = complete_ms.filter(|_| standing.lacking.is_none());
            let complete = complete_ms.map(|ms| now - Duration::from_millis(ms));
            self.alone.settle(now, complete);
        }
        drop(core);
        self.max_staleness = shared.config().limits.max_staleness;
        self.set_isolated();
    }

    fn set_isolated(&self) {
        let max = self.max_staleness.filter(|_| self.fleet);
        let at = max.map_or(i64::MAX, |max| (self.alone.since() + max).as_us());
        self.shared.isolated_at.store(at, Ordering::Relaxed);
    }

    /// Tells the core how this node is, and takes this second's counts.
    fn take_sample(&mut self) {
        let shared = &self.shared;
        let journal = shared.journal.as_ref().map(|journal| journal.state());
        let journal_fails = journal.is_some_and(|state| state != JournalState::Ok);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &shared.counters;
        let refused = [
            &counters.net_strangers,
            &counters.seal_length,
            &counters.seal_version,
            &counters.seal_unknown_key,
            &counters.seal_broken,
        ];
        let mut core = shared.core.lock();
        let now = sys::boot_clock();
        core.set_wall(now, sys::wall_clock_ms());
        let failed = core.stats().apply_failed;
        if std::mem::replace(&mut self.apply_failed, failed) != failed {
            self.cache_failed = Some(now);
        }
        let lately = |at: Time| now.since(at) < CACHE_FAILS_FOR;
        let mut health = 0;
        if self.cache_failed.is_some_and(lately) {
            health |= Standing::CACHE_FAILS;
        }
        if journal_fails {
            health |= Standing::JOURNAL_FAILS;
        }
        core.set_health(health);
        let stats = core.stats();
        let mut sample = Sample {
            at: now,
            issued: stats.issued,
            received: stats.received,
            recovered: stats.recovered,
            duplicates: stats.duplicates,
            applied: stats.applied,
            refused: refused.into_iter().map(count).sum(),
            kernel_drops: count(&counters.net_kernel_drops),
            recovered_of: BTreeMap::new(),
        };
        for (stream, recovered) in core.recovered().filter(|(_, recovered)| *recovered > 0) {
            *sample.recovered_of.entry(stream.node).or_default() += recovered;
        }
        let sites: Vec<_> = core
            .peers()
            .filter_map(|view| Some((view.session?.node, view.id, view.site)))
            .collect();
        let retention = shared.config().limits.retention;
        shared.lost.lock().note(now, stats.lost, retention);
        drop(core);
        shared.samples.lock().push(sample);
        let peers = shared.peers();
        let mut latencies = shared.latencies.lock();
        for (node, id, told) in sites {
            let configured = peers.get(id).map_or("", |member| &member.site);
            latencies.locate(
                node,
                if configured.is_empty() {
                    &told
                } else {
                    configured
                },
            );
        }
    }

    fn keep_house(&mut self) {
        self.note_alone();
        self.take_sample();
        let shared = &self.shared;
        if self.note_expired_at.elapsed() >= shared.note_expired_every {
            self.note_expired_at = Instant::now();
            shared.note_expired();
        }
        let counters = &shared.counters;
        let drops = self.sockets.iter().filter_map(sys::socket_drops).sum();
        let before = counters.net_kernel_drops.swap(drops, Ordering::Relaxed);
        if drops > before {
            let notices = &shared.notices;
            notices.say_now_and_then("kernel drops", Level::Warn, || {
                "the kernel dropped datagrams because a receive buffer was full: raise \
                 net.core.rmem_max, and limits.socket_bytes"
                    .into()
            });
        }
        if let Some(file) = &mut self.config_file {
            shared.look_at_config(file);
        }
        match self.key_file.as_mut().and_then(KeyFile::poll) {
            None => {}
            Some(Ok(keyring)) => {
                let ids = keyring.ids();
                let text = format!(
                    "keys read again: sealing with {}",
                    ids.join(", opening also ")
                );
                let sealer = Arc::new(Sealer::new(&shared.config().fleet, keyring));
                self.sealer = Some(sealer.clone());
                shared.egress.sender.lock().sealer = Some(sealer);
                *shared.keys.lock() = (ids, None);
                counters.keys_reloaded.fetch_add(1, Ordering::Relaxed);
                shared.notices.say(Level::Info, text);
            }
            Some(Err(error)) => {
                counters.keys_reload_failed.fetch_add(1, Ordering::Relaxed);
                shared.keys.lock().1 = Some(error.to_string());
                let text = format!("the keys in use stay: {error}");
                shared.notices.say(Level::Error, text);
            }
        }
    }
}

/// Waits until a socket may have something; for ever, without sockets.
async fn readable(sockets: &[Receiver]) {
    std::future::poll_fn(|context: &mut Context<'_>| {
        let ready = |socket: &Receiver| socket.poll_readable(context).is_ready();
        // Each is asked, so that each will wake this.
        match sockets.iter().map(ready).fold(false, |any, one| any | one) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}
