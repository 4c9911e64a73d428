//! The way of a datagram out: from the core, sealed once, to one peer or to all.
//!
//! When idle, the thread that issues a purge sends it on the spot, which saves waking another one.
//! When busy, or with many peers, the runtime's thread does, and what gathers while it wakes and
//! sends goes in one datagram: group commit. Whoever finds another thread sending leaves its own to
//! that one. The core's lock is not held while datagrams are sealed and sent.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering, fence};

use parking_lot::Mutex;
use powderhorn_protocol::{To, Transmit};
use rand::rngs::StdRng;

use crate::net::{self, Socket};
use crate::node::Shared;
use crate::seal::Sealer;
use crate::sys;

/// Datagrams that a thread which issued a purge sends itself. One carries its purge, further ones
/// were waiting before it; what is left then is left to the runtime.
const ISSUER_DATAGRAMS_MAX: usize = 3;
/// A thread that issues a purge sends it itself if no purge was issued for this long, in µs. Purges
/// that come faster are left to the runtime, which sends those that gather while it wakes and sends
/// in one datagram: a thread that issued one after the other would otherwise send each alone.
const IDLE_US: i64 = 500;
/// Most peers to which the issuing thread sends itself: with more, sending takes longer than waking
/// the runtime, and the client that waits for that thread has nothing from it.
const ISSUER_PEERS_MAX: usize = 16;

/// What it takes to send.
pub(crate) struct Sender {
    pub sockets: Vec<Arc<Socket>>,
    pub sealer: Option<Arc<Sealer>>,
    pub rng: StdRng,
    sealed: Vec<u8>,
    #[cfg(feature = "test-hooks")]
    pub filter: Option<crate::hooks::OutgoingFilter>,
}

/// The sender, and what makes sure that nothing is left behind.
pub(crate) struct Egress {
    pub sender: Mutex<Sender>,
    /// There may be something to send that no sender has looked for yet.
    waiting: AtomicBool,
    /// When a purge was issued last, in µs on the boot clock.
    issued_us: AtomicI64,
}

impl Egress {
    pub fn new(sockets: Vec<Arc<Socket>>, sealer: Option<Arc<Sealer>>, rng: StdRng) -> Self {
        Egress {
            sender: Mutex::new(Sender {
                sockets,
                sealer,
                rng,
                sealed: Vec::new(),
                #[cfg(feature = "test-hooks")]
                filter: None,
            }),
            waiting: AtomicBool::new(false),
            issued_us: AtomicI64::new(i64::MIN),
        }
    }
}

impl Shared {
    /// Sends at most `datagrams_max` datagrams, unless another thread is sending: it will send what
    /// waits now as well. What is left over wakes the runtime.
    pub fn send_waiting(&self, datagrams_max: usize) {
        let egress = &self.egress;
        let mut left = datagrams_max;
        egress.waiting.store(true, Ordering::SeqCst);
        loop {
            // Its counterpart is below: either this thread finds the lock free, or the one that is
            // about to free it finds the mark that was set above.
            fence(Ordering::SeqCst);
            let Some(mut sender) = egress.sender.try_lock() else {
                return;
            };
            while left > 0 {
                egress.waiting.store(false, Ordering::SeqCst);
                let transmit = self.core.lock().poll_transmit(sys::boot_clock());
                let Some(transmit) = transmit else { break };
                egress.waiting.store(true, Ordering::SeqCst);
                left -= 1;
                sender.send(self, &transmit);
            }
            drop(sender);
            fence(Ordering::SeqCst);
            if !egress.waiting.load(Ordering::SeqCst) {
                return;
            }
            if left == 0 {
                self.wake.notify_one();
                return;
            }
        }
    }

    /// Sends what this thread has just issued. The purge is issued whatever happens here, so a
    /// panic is not passed on.
    pub fn send_issued(&self) {
        let peers = self.peers.read().count();
        if peers == 0 {
            return;
        }
        let now = sys::boot_clock().as_us();
        let last = self.egress.issued_us.swap(now, Ordering::Relaxed);
        if now.saturating_sub(last) < IDLE_US || peers > ISSUER_PEERS_MAX {
            self.wake.notify_one();
            return;
        }
        let send = AssertUnwindSafe(|| self.send_waiting(ISSUER_DATAGRAMS_MAX));
        if catch_unwind(send).is_err() {
            self.counters.send_panics.fetch_add(1, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }
}

impl Sender {
    fn send(&mut self, shared: &Shared, transmit: &Transmit) {
        let counters = &shared.counters;
        let (rng, sealed) = (&mut self.rng, &mut self.sealed);
        let sealer = self.sealer.as_deref();
        let payload = &transmit.payload;
        if sealer.is_none_or(|sealer| sealer.seal(rng, payload, sealed).is_err()) {
            counters.seal_failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let peers = shared.peers();
        match transmit.to {
            To::All => {
                for (_, peer) in peers.iter() {
                    self.send_to(shared, peer.address, true);
                }
            }
            To::Peer(id) => {
                if let Some(peer) = peers.get(id) {
                    self.send_to(shared, peer.address, false);
                }
            }
        }
    }

    /// Sends what was sealed last. `to_all`: the same goes to all peers.
    fn send_to(&mut self, shared: &Shared, address: SocketAddr, to_all: bool) {
        #[cfg(feature = "test-hooks")]
        if let Some(filter) = &mut self.filter {
            let outgoing = crate::hooks::Outgoing {
                to: address,
                to_all,
                datagram: &self.sealed,
            };
            if !filter(&outgoing) {
                return;
            }
        }
        #[cfg(not(feature = "test-hooks"))]
        let _ = to_all;
        let counters = &shared.counters;
        let family = |socket: &&Arc<Socket>| socket.local.is_ipv4() == address.is_ipv4();
        let Some(socket) = self.sockets.iter().find(family) else {
            // The node has stopped, or was configured by hand without a socket of this family.
            counters.net_send_errors.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match socket.send(address, &self.sealed) {
            Ok(()) => {
                let bytes = self.sealed.len() as u64;
                counters.net_datagrams_out.fetch_add(1, Ordering::Relaxed);
                counters.net_bytes_out.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(error) => net::count_send_error(counters, &error),
        }
    }
}
