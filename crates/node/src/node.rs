//! A running node: the handle that the host holds, and what its threads share.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use powderhorn_protocol::id::{MessageId, NodeId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::{Core, Identity, Knowledge, Outcome, PeerId, PurgeError};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::apply::Applier;
use crate::config::Config;
use crate::counters::Counters;
use crate::keys::{KeyError, KeyFile};
use crate::net::{self, BindError};
use crate::notices::Notices;
use crate::runtime::Runtime;
use crate::seal::Sealer;
use crate::status::{Counter, Status};
use crate::sys;

pub(crate) type NodeCore = Core<MemoryStore, StdRng>;

/// Why a node did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key file is not usable.
    #[error("fleet.key_file: {0}")]
    Keys(#[from] KeyError),
    /// An address cannot be bound.
    #[error("node.listen: {0}")]
    Bind(#[from] BindError),
    /// The system gave no thread or no event queue.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] io::Error),
}

/// Why a purge was not issued. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// See [`PurgeError`].
    #[error(transparent)]
    Refused(#[from] PurgeError),
    /// The node has been stopped.
    #[error("the node is stopping")]
    Stopping,
}

/// One socket, for the status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketInfo {
    pub local: SocketAddr,
    pub receive_bytes: usize,
    pub send_bytes: usize,
}

/// What the host's threads and the runtime's share.
pub(crate) struct Shared {
    pub config: Config,
    pub node: NodeId,
    pub core: Mutex<NodeCore>,
    /// Signalled when purges are ready for an idle applier.
    pub ready: Condvar,
    pub applier_idle: AtomicBool,
    /// Wakes the runtime.
    pub wake: Notify,
    pub counters: Counters,
    pub notices: Mutex<Notices>,
    pub sockets: Vec<SocketInfo>,
    pub key_ids: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// Set by the runtime's thread as its last act.
    pub ended: Mutex<bool>,
    pub end: Condvar,
}

impl Shared {
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Wakes the applier if purges wait for it. The caller has just changed the core.
    pub fn wake_applier(&self, core: &NodeCore) {
        if core.ready_count() > 0 && self.applier_idle.load(Ordering::Relaxed) {
            self.ready.notify_one();
        }
    }
}

/// The node id of a name: the first eight bytes of its SHA-256, little-endian.
pub fn node_id(name: &str) -> NodeId {
    let mut id = [0; 8];
    id.copy_from_slice(&Sha256::digest(name)[..8]);
    NodeId(u64::from_le_bytes(id))
}

/// A running node. Clones are handles to the same one.
#[derive(Clone)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    applier_taken: Arc<AtomicBool>,
}

impl Node {
    /// Binds the sockets, reads the keys and starts the node's thread. `cache_uptime` is how long
    /// ago the cache came up empty: older purges (plus a margin) need not be applied.
    pub fn start(config: Config, cache_uptime: Duration) -> Result<Node, StartError> {
        let (mut key_file, mut sealer) = (None, None);
        if let Some(path) = &config.key_file {
            let (file, keyring) = KeyFile::open(path)?;
            if file.world_readable() {
                log::warn!(
                    "{} can be read by everybody on this host: chmod 640 it, with the group of \
                     the cache's user",
                    path.display()
                );
            }
            key_file = Some(file);
            sealer = Some(Sealer::new(&config.fleet, keyring));
        }
        let mut bound = Vec::new();
        // Without keys nothing can be opened, so nothing is listened to either.
        for &address in config.listen.iter().filter(|_| sealer.is_some()) {
            bound.push(net::bind(address, config.limits.socket_bytes)?);
        }
        let sockets = bound.iter().map(|bound| SocketInfo {
            local: bound.local,
            receive_bytes: bound.receive_bytes,
            send_bytes: bound.send_bytes,
        });
        let sockets: Vec<SocketInfo> = sockets.collect();

        let now = sys::boot_clock();
        let mut rng = StdRng::from_os_rng();
        let node = node_id(&config.name);
        let identity = Identity {
            node,
            instance: rng.next_u64().max(1),
            stamp: sys::wall_clock_ms(),
        };
        let store = MemoryStore::new();
        let mut core = Core::new(
            identity,
            config.for_core(),
            store,
            rng,
            now,
            now - cache_uptime,
        );
        for (index, peer) in config.peers.iter().enumerate() {
            core.add_peer(now, PeerId(index as u32), &peer.site);
        }
        let key_ids = sealer
            .as_ref()
            .map_or_else(Vec::new, |sealer| sealer.keyring().ids());
        let shared = Arc::new(Shared {
            node,
            core: Mutex::new(core),
            ready: Condvar::new(),
            applier_idle: AtomicBool::new(false),
            wake: Notify::new(),
            counters: Counters::default(),
            notices: Mutex::new(Notices::default()),
            sockets,
            key_ids: Mutex::new(key_ids),
            stop: AtomicBool::new(false),
            ended: Mutex::new(false),
            end: Condvar::new(),
            config,
        });
        Runtime::spawn(
            shared.clone(),
            sealer,
            key_file,
            bound.into_iter().map(|b| b.socket).collect(),
        )?;
        Ok(Node {
            shared,
            applier_taken: Arc::default(),
        })
    }

    /// Issues a purge: it gets an id and goes to the whole fleet at once. The caller applies it to
    /// the local cache and says so by [`Ticket::complete`].
    pub fn issue(&self, purge: Purge) -> Result<Ticket, IssueError> {
        if self.shared.stopping() {
            return Err(IssueError::Stopping);
        }
        let id = self
            .shared
            .core
            .lock()
            .handle_purge(sys::boot_clock(), purge)?;
        self.shared.wake.notify_one();
        Ok(Ticket {
            shared: self.shared.clone(),
            id,
            completed: false,
        })
    }

    /// What applies the fleet's purges to the cache: for one thread, so there is one to be had.
    pub fn applier(&self) -> Option<Applier> {
        let taken = self.applier_taken.swap(true, Ordering::Relaxed);
        (!taken).then(|| Applier::new(self.shared.clone()))
    }

    /// Whether this node has applied the purge with this id.
    pub fn knows(&self, id: MessageId) -> bool {
        self.knowledge(id) == Knowledge::Seen
    }

    /// What this node knows of a message.
    pub fn knowledge(&self, id: MessageId) -> Knowledge {
        self.shared.core.lock().knows(id)
    }

    /// The configuration that it runs with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Whether `config` says what this node runs with, wherever it was read from.
    pub fn same_config(&self, config: &Config) -> bool {
        let path = None;
        Config {
            path: path.clone(),
            ..config.clone()
        } == Config {
            path,
            ..self.config().clone()
        }
    }

    /// The addresses that it receives on.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared
            .sockets
            .iter()
            .map(|socket| socket.local)
            .collect()
    }

    /// What this node holds, one stream a line: the stream, whether it is this node's own, the
    /// ranges held and applied, and how many messages it lacks. Streams beyond `bytes_max` bytes of
    /// text are counted only.
    pub fn digest_text(&self, bytes_max: usize) -> String {
        crate::status::digest_text(&self.shared.core.lock(), bytes_max)
    }

    /// The state of this node and, as far as it knows, of its fleet.
    pub fn status(&self) -> Status {
        Status::take(&self.shared)
    }

    /// All counters and gauges.
    pub fn counters(&self) -> Vec<Counter> {
        crate::status::counters(&self.shared)
    }

    /// Stops the node: whatever waits in it is woken. Whether its thread ended within `deadline`.
    /// May be called again, and from any thread but the node's own.
    pub fn stop(&self, deadline: Duration) -> bool {
        let shared = &self.shared;
        {
            // Under the core's lock, or an applier about to wait would miss it.
            let _core = shared.core.lock();
            shared.stop.store(true, Ordering::Relaxed);
            shared.ready.notify_all();
        }
        shared.wake.notify_one();
        let mut ended = shared.ended.lock();
        if !*ended {
            shared
                .end
                .wait_while_for(&mut ended, |ended| !*ended, deadline);
        }
        *ended
    }
}

/// A purge that was issued and that its issuer is about to apply to the local cache. If it is
/// dropped without [`Ticket::complete`], the applier does that instead.
#[must_use = "say what became of the purge here"]
pub struct Ticket {
    shared: Arc<Shared>,
    id: MessageId,
    completed: bool,
}

impl Ticket {
    /// The purge's id.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Says what became of the purge in the local cache.
    pub fn complete(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.completed, true) {
            return;
        }
        self.shared
            .core
            .lock()
            .handle_applied(sys::boot_clock(), self.id, outcome);
        if outcome == Outcome::Failed {
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.finish(Outcome::Failed);
    }
}
