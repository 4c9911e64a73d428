//! The node's own thread: receives, opens, feeds the core, seals, sends, and wakes in time.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use powderhorn_protocol::bounds::DATAGRAM_BYTES_MAX;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::{Event, PeerId, To, Transmit};

use crate::keys::KeyFile;
use crate::net::Sockets;
use crate::node::Shared;
use crate::seal::{OpenError, Sealer};
use crate::sys;

/// Datagrams received before it is time to send again.
const RECEIVE_BATCH: usize = 64;
/// Datagrams taken from the core before they are sent.
const TRANSMIT_BATCH: usize = 32;
/// How often the key file and the kernel's counters are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// The runtime is started anew after a panic, so often; beyond, the node only applies what it has
/// and says in its status that it is deaf.
const PANICS_MAX: u64 = 16;

pub(crate) struct Runtime {
    shared: Arc<Shared>,
    sealer: Option<Sealer>,
    key_file: Option<KeyFile>,
    peers: HashMap<SocketAddr, PeerId>,
    addresses: Vec<SocketAddr>,
    rng: rand::rngs::ThreadRng,
    sealed: Vec<u8>,
    housekeeping: Instant,
}

impl Runtime {
    /// Starts the thread.
    pub fn spawn(
        shared: Arc<Shared>,
        sealer: Option<Sealer>,
        key_file: Option<KeyFile>,
        sockets: Vec<UdpSocket>,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let sockets = {
            let _entered = runtime.enter();
            Sockets::new(sockets)?
        };
        std::thread::Builder::new()
            .name("powderhorn".into())
            .spawn(move || {
                let ending = shared.clone();
                let addresses: Vec<SocketAddr> = shared
                    .config
                    .peers
                    .iter()
                    .map(|peer| peer.address)
                    .collect();
                let peers = addresses
                    .iter()
                    .zip(0..)
                    .map(|(&address, i)| (address, PeerId(i)));
                let mut state = Runtime {
                    key_file,
                    sealer,
                    peers: peers.collect(),
                    addresses,
                    rng: rand::rng(),
                    sealed: Vec::with_capacity(DATAGRAM_BYTES_MAX),
                    housekeeping: Instant::now(),
                    shared,
                };
                loop {
                    let run = || runtime.block_on(state.run(&sockets));
                    if catch_unwind(AssertUnwindSafe(run)).is_ok() {
                        break;
                    }
                    let panics = ending
                        .counters
                        .runtime_panics
                        .fetch_add(1, Ordering::Relaxed)
                        + 1;
                    notice(
                        &ending,
                        log::Level::Error,
                        "the runtime panicked and was started again",
                    );
                    if panics >= PANICS_MAX {
                        notice(
                            &ending,
                            log::Level::Error,
                            "the runtime gave up after too many panics",
                        );
                        break;
                    }
                    // Not in a hot loop, whatever it is that panics.
                    std::thread::sleep(Duration::from_millis(100));
                }
                // The addresses are free for a successor before anybody hears that this one has ended.
                drop(sockets);
                drop(runtime);
                *ending.ended.lock() = true;
                ending.end.notify_all();
            })?;
        Ok(())
    }

    async fn run(&mut self, sockets: &Sockets) {
        let shared = self.shared.clone();
        let mut transmits: Vec<Transmit> = Vec::with_capacity(TRANSMIT_BATCH);
        while !shared.stopping() {
            let received = self.receive(sockets);
            let timeout = self.drive(&mut transmits);
            let sent = !transmits.is_empty();
            for transmit in transmits.drain(..) {
                self.send(sockets, &transmit);
            }
            if self.housekeeping.elapsed() >= HOUSEKEEPING {
                self.housekeeping = Instant::now();
                self.keep_house(sockets);
            }
            if received == RECEIVE_BATCH || sent {
                // There may be more to do; but let tokio look at its sockets first.
                tokio::task::yield_now().await;
                continue;
            }
            let now = sys::boot_clock();
            let wait = timeout.since(now).min(HOUSEKEEPING);
            let (readable, wake) = (pin!(sockets.readable()), pin!(shared.wake.notified()));
            tokio::select! {
                () = readable => {}
                () = wake => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Receives a batch; how many came.
    fn receive(&mut self, sockets: &Sockets) -> usize {
        let shared = self.shared.clone();
        let counters = &shared.counters;
        // One byte more than a datagram may have, so that a longer one is seen to be longer.
        let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
        for received in 0..RECEIVE_BATCH {
            let (len, from) = match sockets.receive(&mut buffer) {
                None => return received,
                Some(Ok(received)) => received,
                Some(Err(_)) => {
                    counters.net_receive_errors.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            };
            counters.net_datagrams_in.fetch_add(1, Ordering::Relaxed);
            counters
                .net_bytes_in
                .fetch_add(len as u64, Ordering::Relaxed);
            let Some(&peer) = self.peers.get(&from) else {
                counters.net_strangers.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (Some(sealer), Some(datagram)) = (&self.sealer, buffer.get_mut(..len)) else {
                continue;
            };
            match sealer.open(datagram) {
                Ok(plaintext) => {
                    let mut core = shared.core.lock();
                    core.handle_datagram(sys::boot_clock(), peer, plaintext);
                    shared.wake_applier(&core);
                }
                Err(error) => {
                    let counter = match error {
                        OpenError::Length => &counters.seal_length,
                        OpenError::Version(_) => &counters.seal_version,
                        OpenError::UnknownKey => &counters.seal_unknown_key,
                        OpenError::Broken => &counters.seal_broken,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        RECEIVE_BATCH
    }

    /// Lets the core do what is due and takes what is to be sent; when it wants to be called next.
    fn drive(&mut self, transmits: &mut Vec<Transmit>) -> Time {
        let mut events = Vec::new();
        let timeout = {
            let mut core = self.shared.core.lock();
            let now = sys::boot_clock();
            if now >= core.poll_timeout() {
                core.handle_timeout(now);
                self.shared.wake_applier(&core);
            }
            while transmits.len() < TRANSMIT_BATCH {
                let Some(transmit) = core.poll_transmit(now) else {
                    break;
                };
                transmits.push(transmit);
            }
            while let Some(event) = core.poll_event() {
                events.push(event);
            }
            core.poll_timeout()
        };
        for event in events {
            self.tell(&event);
        }
        timeout
    }

    fn send(&mut self, sockets: &Sockets, transmit: &Transmit) {
        let Some(sealer) = &self.sealer else { return };
        let counters = &self.shared.counters;
        let (payload, sealed) = (&transmit.payload, &mut self.sealed);
        if sealer.seal(&mut self.rng, payload, sealed).is_err() {
            counters.seal_failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let one;
        let to: &[SocketAddr] = match transmit.to {
            To::All => &self.addresses,
            To::Peer(PeerId(index)) => {
                let Some(&address) = self.addresses.get(index as usize) else {
                    return;
                };
                one = [address];
                &one
            }
        };
        for &address in to {
            match sockets.send(address, &self.sealed) {
                Ok(()) => {
                    counters.net_datagrams_out.fetch_add(1, Ordering::Relaxed);
                    counters
                        .net_bytes_out
                        .fetch_add(self.sealed.len() as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    counters.net_send_full.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    counters.net_send_errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn keep_house(&mut self, sockets: &Sockets) {
        self.shared
            .counters
            .net_kernel_drops
            .store(sockets.drops(), Ordering::Relaxed);
        let (Some(key_file), Some(sealer)) = (&mut self.key_file, &mut self.sealer) else {
            return;
        };
        let counters = &self.shared.counters;
        match key_file.poll() {
            None => {}
            Some(Ok(keyring)) => {
                let ids = keyring.ids();
                sealer.set_keyring(keyring);
                counters.keys_reloaded.fetch_add(1, Ordering::Relaxed);
                let text = format!(
                    "keys read again: sealing with {}",
                    ids.join(", opening also ")
                );
                notice(&self.shared, log::Level::Info, &text);
                *self.shared.key_ids.lock() = ids;
            }
            Some(Err(error)) => {
                counters.keys_reload_failed.fetch_add(1, Ordering::Relaxed);
                let text = format!("the keys in use stay: {error}");
                notice(&self.shared, log::Level::Error, &text);
            }
        }
    }

    fn tell(&self, event: &Event) {
        let who = |peer: PeerId| {
            let config = self.shared.config.peers.get(peer.0 as usize);
            config.map_or_else(String::new, |peer| match peer.name.as_str() {
                "" => peer.address.to_string(),
                name => format!("{name} ({})", peer.address),
            })
        };
        let own = &self.shared.config.name;
        let (level, text) = match *event {
            Event::PeerUp(peer) => (log::Level::Info, format!("peer up: {}", who(peer))),
            Event::PeerDown(peer) => (log::Level::Warn, format!("peer silent: {}", who(peer))),
            Event::PeerRestarted(peer) => {
                (log::Level::Info, format!("peer restarted: {}", who(peer)))
            }
            Event::DuplicateNode {
                first: None,
                second,
                ..
            } => (
                log::Level::Error,
                format!("{} has this node's name, {own}", who(second)),
            ),
            Event::DuplicateNode {
                first: Some(first),
                second,
                ..
            } => (
                log::Level::Error,
                format!("{} and {} have one name", who(first), who(second)),
            ),
            Event::Reopened { from, to } => (
                log::Level::Error,
                format!("another process speaks as this node: {from} is left for {to}"),
            ),
            Event::UnsupportedOp(id, op) => (
                log::Level::Warn,
                format!("purge {id} is of a later version (op {op}): relayed, not applied"),
            ),
            Event::TooManyStreams(stream) => (
                log::Level::Error,
                format!("too many streams: {stream} is not followed"),
            ),
        };
        notice(&self.shared, level, &text);
    }
}

fn notice(shared: &Shared, level: log::Level, text: &str) {
    log::log!(level, "{text}");
    shared.notices.lock().push(text.to_owned());
}
