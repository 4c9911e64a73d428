//! A running node: the handle that the host holds, and what its threads share.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use powderhorn_journal::{Journal, OpenError};
use powderhorn_protocol::id::{MessageId, MessageIds, NodeId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::{Core, Knowledge, Outcome, PurgeError};
use rand::RngCore;
use rand::rngs::StdRng;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::apply::Applier;
use crate::config::Config;
use crate::counters::Counters;
use crate::egress::Egress;
use crate::journal::{NodeStore, SHUTDOWN_WAIT};
use crate::keys::{KeyError, KeyFile};
use crate::latency::Latencies;
use crate::lock::{Lock, Signal};
use crate::lookup::{self, Answer, Resolver};
use crate::lost::Lost;
use crate::members::{Members, SourcesState};
use crate::net::BindError;
use crate::notices::Notices;
use crate::peers::Peers;
use crate::rates::Samples;
use crate::receipts::Waiters;
use crate::runtime::Runtime;
use crate::start::prepare;
use crate::status::{Counter, Status};
use crate::sys;
use crate::ticket::Ticket;

pub(crate) type NodeCore = Core<NodeStore, StdRng>;

/// Why a node did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There are peers, or sources of them, and no key file is named.
    #[error("fleet.key_file: needed where there are peers: nothing is sent in the clear")]
    NoKeys,
    /// The key file is not usable.
    #[error("fleet.key_file: {0}")]
    Keys(#[from] KeyError),
    /// The state directory cannot be used. (A disk that does not work is no such reason.)
    #[error("journal.dir: {0}")]
    Journal(#[from] OpenError),
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
    /// Nothing is sent any more until the process is started anew.
    #[error("the runtime gave up and sends nothing: restart Varnish")]
    GaveUp,
}

impl IssueError {
    /// Whether nothing is wrong with the purge, so that it is to be applied to the local cache all the same.
    pub fn only_unsent(&self) -> bool {
        match self {
            IssueError::Refused(PurgeError::Busy) | IssueError::Stopping | IssueError::GaveUp => {
                true
            }
            IssueError::Refused(_) => false,
        }
    }
}

/// One socket, for the status.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketInfo {
    pub local: SocketAddr,
    pub receive_bytes: usize,
    pub send_bytes: usize,
}

/// Refused purges that are told apart.
const REFUSED_MAX: usize = 4_096;

/// What the host's threads and the runtime's share.
pub(crate) struct Shared {
    /// As last applied; what is fixed for the node's life never changes in it.
    pub config: RwLock<Arc<Config>>,
    pub node: NodeId,
    pub core: Lock<NodeCore>,
    /// Signalled when purges are ready for an idle applier.
    pub ready: Signal,
    pub applier_idle: AtomicBool,
    /// Signalled when somebody has said what became of purges.
    pub receipts: Signal,
    /// Who waits for that.
    pub waiters: Waiters,
    /// Wakes the runtime.
    pub wake: Notify,
    pub counters: Counters,
    pub notices: Notices,
    pub sockets: Vec<SocketInfo>,
    /// The other nodes. Changed under the core's lock.
    pub peers: RwLock<Arc<Peers>>,
    /// Whether a source of peers has never said anything, or names nodes that cannot be peers: who is all is not known
    /// then, or not all can be waited for. Changed under the core's lock.
    pub incomplete: AtomicBool,
    /// Who the other nodes are. Locked before the core, never while it is.
    pub members: Mutex<Members>,
    /// How the sources are. Apart from them, as whoever looks must not wait for a file to be read.
    pub sources: Mutex<SourcesState>,
    /// The sources of members are to be looked at without waiting for the next second.
    pub members_due: AtomicBool,
    /// Purges that the cache would not have, apart from those of later versions.
    pub refused: Mutex<BTreeSet<MessageId>>,
    /// What became of lookups.
    pub answers: Mutex<Vec<Answer>>,
    pub resolver: Resolver,
    pub egress: Egress,
    /// What writes the messages that the core holds to disk.
    pub journal: Option<Journal>,
    /// From when on this node is isolated if no other is heard: in µs of the boot clock; `i64::MAX` for never.
    pub isolated_at: AtomicI64,
    /// Up to when all purges were applied at all nodes, when that was last known; the node's start before that.
    /// In µs of the boot clock.
    pub applied_until: AtomicI64,
    /// How long an answer waits for the journal.
    pub journal_wait: Duration,
    /// How often it is told what has expired.
    pub note_expired_every: Duration,
    /// Ids of the keys in use, and why a changed key file is not used, if so.
    pub keys: Mutex<(Vec<String>, Option<String>)>,
    /// Why the configuration file could not be used by the next start, if so.
    pub config_error: Mutex<Option<String>>,
    /// What of the configuration, as it is now, only a restart changes.
    pub config_pending: Mutex<Option<String>>,
    /// How long the fleet's purges take to get here.
    pub latencies: Mutex<Latencies>,
    /// Counts of the last seconds.
    pub samples: Mutex<Samples>,
    /// What was given up. Never held while the core is being locked.
    pub lost: Mutex<Lost>,
    /// The version that is installed, as the host last saw.
    pub installed: Mutex<Option<String>>,
    /// When this node was started.
    pub started: Time,
    pub stop: AtomicBool,
    pub threads: Mutex<Threads>,
    pub threads_changed: Condvar,
}

/// What the node's two threads are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threads {
    pub runtime: RuntimeState,
    pub applier: ApplierState,
}

/// What the runtime's thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuntimeState {
    Running,
    /// It was told to, and has closed its sockets.
    Ended,
    /// It panicked too often.
    GaveUp,
}

/// What the thread that the host lent to the applier is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApplierState {
    NotStarted,
    Running,
    Ended,
}

impl Shared {
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// An error if what is issued now would never be sent.
    fn sends(&self) -> Result<(), IssueError> {
        if self.stopping() {
            return Err(IssueError::Stopping);
        }
        match self.threads().runtime {
            RuntimeState::GaveUp => Err(IssueError::GaveUp),
            RuntimeState::Running | RuntimeState::Ended => Ok(()),
        }
    }

    /// Notes what the cache would not have.
    pub fn note_outcome(&self, id: MessageId, outcome: Outcome) {
        if outcome == Outcome::Unsupported {
            let mut refused = self.refused.lock();
            if refused.len() < REFUSED_MAX {
                refused.insert(id);
            }
        }
    }

    /// How many purges that the cache would not have are held.
    pub fn refused_held(&self, core: &NodeCore) -> u64 {
        let mut refused = self.refused.lock();
        refused.retain(|id| core.knows(*id) == Knowledge::Unsupported);
        refused.len() as u64
    }

    /// Wakes the applier if purges wait for it. The caller has just changed the core.
    pub fn wake_applier(&self, core: &NodeCore) {
        if core.ready_count() > 0 && self.applier_idle.load(Ordering::Relaxed) {
            self.ready.notify_one();
        }
    }

    /// Has those who wait for receipts look again, if anybody does. The caller has just changed the core.
    pub fn wake_waiters(&self, _core: &NodeCore) {
        if self.waiters.load(Ordering::Relaxed) > 0 {
            self.receipts.notify_all();
        }
    }

    /// The configuration of the moment.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().clone()
    }

    /// The peers of the moment.
    pub fn peers(&self) -> Arc<Peers> {
        self.peers.read().clone()
    }

    pub fn threads(&self) -> Threads {
        *self.threads.lock()
    }

    pub fn set_runtime(&self, state: RuntimeState) {
        self.threads.lock().runtime = state;
        self.threads_changed.notify_all();
    }

    pub fn set_applier(&self, state: ApplierState) {
        self.threads.lock().applier = state;
        self.threads_changed.notify_all();
    }

    /// Tells both threads to end, and returns at once.
    fn begin_stop(&self) {
        {
            // Under the core's lock, or an applier about to wait would miss it.
            let _core = self.core.lock();
            self.stop.store(true, Ordering::SeqCst);
            self.ready.notify_all();
            self.receipts.notify_all();
        }
        self.wake.notify_one();
        // Likewise for a runtime about to wait after a panic.
        drop(self.threads.lock());
        self.threads_changed.notify_all();
    }

    /// See [`Node::isolated`]. Asked for each hit: it waits for nothing.
    pub fn isolated(&self) -> bool {
        let at = self.isolated_at.load(Ordering::Relaxed);
        at != i64::MAX && sys::boot_clock() > Time::from_us(at)
    }

    /// Waits a while, or until the node is to stop; whether it is.
    pub fn wait_for_stop(&self, while_: Duration) -> bool {
        let mut threads = self.threads.lock();
        let running = |_: &mut Threads| !self.stopping();
        self.threads_changed
            .wait_while_for(&mut threads, running, while_);
        self.stopping()
    }
}

/// The node id of a name: the first eight bytes of its SHA-256, little-endian.
pub fn node_id(name: &str) -> NodeId {
    let mut id = [0; 8];
    id.copy_from_slice(&Sha256::digest(name)[..8]);
    NodeId(u64::from_le_bytes(id))
}

/// A running node. Clones are handles to the same one; when the last is dropped, it stops.
#[derive(Clone)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    handle: Arc<Handle>,
}

/// Stops the node when nobody has a handle to it any more.
struct Handle {
    shared: Arc<Shared>,
    applier_taken: AtomicBool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.begin_stop();
    }
}

impl Node {
    /// Binds the sockets, reads the keys and starts the node's thread. `cache_uptime` is how long
    /// ago the cache came up empty: older purges (plus a margin) need not be applied.
    pub fn start(config: Config, cache_uptime: Duration) -> Result<Node, StartError> {
        let (shared, key_file) = prepare(config, cache_uptime, lookup::system())?;
        Self::run(shared, key_file)
    }

    /// The same, with somebody else to look names up.
    #[cfg(feature = "test-hooks")]
    pub fn start_resolving(
        config: Config,
        cache_uptime: Duration,
        resolver: Resolver,
    ) -> Result<Node, StartError> {
        let (shared, key_file) = prepare(config, cache_uptime, resolver)?;
        Self::run(shared, key_file)
    }

    /// The same, with a filter on all that it sends.
    #[cfg(feature = "test-hooks")]
    pub fn start_filtered(
        config: Config,
        cache_uptime: Duration,
        filter: crate::hooks::OutgoingFilter,
    ) -> Result<Node, StartError> {
        let (shared, key_file) = prepare(config, cache_uptime, lookup::system())?;
        shared.egress.sender.lock().filter = Some(filter);
        Self::run(shared, key_file)
    }

    /// The same, with a journal that is told of what has expired as often as this, but once a second at most.
    #[cfg(feature = "test-hooks")]
    pub fn start_noting(
        config: Config,
        cache_uptime: Duration,
        every: Duration,
    ) -> Result<Node, StartError> {
        let (mut shared, key_file) = prepare(config, cache_uptime, lookup::system())?;
        shared.note_expired_every = every;
        Self::run(shared, key_file)
    }

    fn run(shared: Shared, key_file: Option<KeyFile>) -> Result<Node, StartError> {
        let shared = Arc::new(shared);
        Runtime::spawn(shared.clone(), key_file)?;
        let handle = Arc::new(Handle {
            shared: shared.clone(),
            applier_taken: AtomicBool::new(false),
        });
        Ok(Node { shared, handle })
    }

    /// Issues a purge: see [`Node::issue_all`].
    pub fn issue(&self, purge: Purge) -> Result<Ticket, IssueError> {
        self.issue_all(vec![purge])
    }

    /// Issues purges that belong together, all or none: they get consecutive ids and go to the whole
    /// fleet at once, from the calling thread unless another one is sending. The caller applies
    /// them to the local cache and says so by [`Ticket::complete`]. Waits for nobody.
    pub fn issue_all(&self, purges: Vec<Purge>) -> Result<Ticket, IssueError> {
        self.shared.sends()?;
        let everything = purges.contains(&Purge::Everything);
        let mut core = self.shared.core.lock();
        let now = sys::boot_clock();
        let ids = core.handle_purges(now, purges)?;
        drop(core);
        if everything {
            self.shared.lost.lock().note_emptied(now);
        }
        let ticket = Ticket {
            shared: self.shared.clone(),
            ids,
            completed: false,
        };
        self.shared.send_issued();
        Ok(ticket)
    }

    /// Issues a purge that the caller has applied to the local cache already. For those that take no
    /// longer than sending does, as the fleet gets them later by that.
    pub fn issue_applied(&self, purge: Purge) -> Result<MessageId, IssueError> {
        self.shared.sends()?;
        let mut core = self.shared.core.lock();
        let now = sys::boot_clock();
        let everything = purge == Purge::Everything;
        let id = core.handle_purge(now, purge)?;
        core.handle_applied(now, id, Outcome::Applied);
        drop(core);
        if everything {
            self.shared.lost.lock().note_emptied(now);
        }
        self.shared.send_issued();
        Ok(id)
    }

    /// What applies the fleet's purges to the cache: for one thread, so there is one to be had.
    pub fn applier(&self) -> Option<Applier> {
        let taken = self.handle.applier_taken.swap(true, Ordering::Relaxed);
        (!taken).then(|| Applier::new(self.shared.clone()))
    }

    /// 128 random bits, others at each call.
    pub fn random_bits(&self) -> [u64; 2] {
        let rng = &mut self.shared.egress.sender.lock().rng;
        [rng.next_u64(), rng.next_u64()]
    }

    /// Has [`crate::Cache::idle`] called soon.
    pub fn wake_applier(&self) {
        // Under the core's lock, or an applier about to wait would miss it.
        let _core = self.shared.core.lock();
        self.shared.ready.notify_one();
    }

    /// Whether this node has applied the purges with these ids, all of them.
    pub fn knows(&self, ids: impl Into<MessageIds>) -> bool {
        self.shared.core.lock().all_seen(ids.into())
    }

    /// What this node knows of a message.
    pub fn knowledge(&self, id: MessageId) -> Knowledge {
        self.shared.core.lock().knows(id)
    }

    /// Whether this node has heard of no other for longer than `limits.max_staleness`, or has since, and not yet
    /// got what it missed.
    pub fn isolated(&self) -> bool {
        self.shared.isolated()
    }

    /// `limits.max_staleness`; 0 if it is off.
    pub fn max_staleness(&self) -> Duration {
        let max = self.shared.config().limits.max_staleness;
        max.unwrap_or_default()
    }

    /// The configuration that it runs with now.
    pub fn config(&self) -> Arc<Config> {
        self.shared.config()
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

    /// Names of nodes by their ids, this node's too. Not of nodes that have not been met, and those that nobody
    /// has given a name have an empty one.
    pub fn names(&self) -> BTreeMap<NodeId, String> {
        crate::status::names(&self.shared, &self.shared.core.lock())
    }

    /// Whether both its threads run: else it receives or applies nothing.
    pub fn works(&self) -> bool {
        let threads = self.shared.threads();
        threads.runtime == RuntimeState::Running && threads.applier == ApplierState::Running
    }

    /// Says which version is installed, which is not always the one that is loaded.
    pub fn set_installed(&self, version: String) {
        *self.shared.installed.lock() = Some(version);
    }

    /// All that this node can tell a monitoring system, in the OpenMetrics text format, its end mark
    /// included. `more` is what the host counts itself.
    pub fn metrics(&self, more: &[Counter]) -> String {
        crate::status::metrics(&self.shared, more)
    }

    /// All counters and gauges.
    pub fn counters(&self) -> Vec<Counter> {
        crate::status::counters(&self.shared)
    }

    /// Stops the node: sends what was issued, closes the sockets, has [`Applier::run`] return.
    /// Whether all of that was done within `deadline`; what was not, still will be. May be called
    /// again, by anybody; by the applier's own thread it cannot succeed.
    pub fn stop(&self, deadline: Duration) -> bool {
        let shared = &self.shared;
        shared.begin_stop();
        let mut threads = shared.threads.lock();
        let busy = |threads: &mut Threads| {
            threads.runtime == RuntimeState::Running || threads.applier == ApplierState::Running
        };
        let ended = !shared
            .threads_changed
            .wait_while_for(&mut threads, busy, deadline)
            .timed_out()
            || !busy(&mut threads);
        drop(threads);
        match &shared.journal {
            Some(journal) => {
                shared.note_expired();
                journal.shutdown(SHUTDOWN_WAIT) && ended
            }
            None => ended,
        }
    }
}
