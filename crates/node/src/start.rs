//! Everything that can fail before there is a thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use log::Level;
use parking_lot::{Condvar, Mutex, RwLock};
use powderhorn_protocol::{Core, Identity};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::Notify;

use crate::config::Config;
use crate::counters::Counters;
use crate::egress::Egress;
use crate::journal::Begin;
use crate::keys::{KeyFile, Keyring};
use crate::lock::{Lock, Signal};
use crate::lookup::Resolver;
use crate::members::Members;
use crate::net::Socket;
use crate::node::{ApplierState, RuntimeState, Shared, SocketInfo, StartError, Threads, node_id};
use crate::notices::Notices;
use crate::peers::Peers;
use crate::receipts::Waiters;
use crate::seal::Sealer;
use crate::{journal, sys};

/// Reads the keys and the nodes file, binds the sockets, and makes what the threads will share.
pub(crate) fn prepare(
    config: Config,
    cache_uptime: Duration,
    resolver: Resolver,
) -> Result<(Shared, Option<KeyFile>), StartError> {
    let notices = Notices::default();
    let (mut key_file, mut keyring) = (None, None);
    if let Some(path) = &config.key_file {
        let (file, keys) = KeyFile::open(path)?;
        if file.world_readable() {
            let text = format!(
                "{} can be read by everybody on this host: chmod 640 it, with the group of the \
                 cache's user",
                path.display()
            );
            notices.say(Level::Warn, text);
        }
        (key_file, keyring) = (Some(file), Some(keys));
    } else if config.has_peers() {
        return Err(StartError::NoKeys);
    }
    let key_ids = keyring.as_ref().map_or_else(Vec::new, Keyring::ids);
    let sealer = keyring.map(|keyring| Arc::new(Sealer::new(&config.fleet, keyring)));
    let mut sockets = Vec::new();
    // Without keys nothing can be opened, so nothing is listened to either.
    for &address in config.listen.iter().filter(|_| sealer.is_some()) {
        let socket = Socket::bind(address, config.limits.socket_bytes)?;
        sockets.push(Arc::new(socket));
    }

    let Begin {
        store,
        journal,
        recovered,
    } = journal::open(&config, &notices)?;
    let now = sys::boot_clock();
    let mut rng = random()?;
    let node = node_id(&config.name);
    // Streams that were opened later in a life are not in the file of the last stamp, which may be gone as well.
    let own = recovered.streams.keys().filter(|id| id.node == node);
    let last_stamp = recovered.last_stamp.max(own.map(|id| id.epoch.stamp).max());
    let identity = Identity {
        node,
        // 0 stands for whoever receives it.
        instance: rng.next_u64().max(1),
        stamp: sys::wall_clock_ms().max(last_stamp.map_or(0, |last| last.saturating_add(1))),
    };
    if let Some(journal) = &journal {
        // That no epoch is used twice rests on its random bits; the order of epochs rests on this.
        if let Err(error) = journal.store_stamp(identity.stamp) {
            let text = format!("this start cannot be noted in the state directory: {error}");
            notices.say(Level::Error, text);
        }
    }
    let cache_started = now - cache_uptime;
    let core_config = journal::core_config(&config);
    let mut core = Core::new(identity, core_config, store, rng, now, cache_started);
    for (stream, held) in &recovered.streams {
        core.restore(*stream, held);
    }
    let expired = recovered.expired.iter();
    expired.for_each(|expired| core.restore_expired(expired));
    core.restore_evicted(recovered.evicted_born);
    let locals = sockets.iter().map(|socket| socket.local).collect();
    let info = |socket: &Arc<Socket>| SocketInfo {
        local: socket.local,
        receive_bytes: socket.receive_bytes,
        send_bytes: socket.send_bytes,
    };
    let shared = Shared {
        node,
        core: Lock::new(core),
        ready: Signal::new(),
        receipts: Signal::new(),
        waiters: Waiters::new(0),
        applier_idle: AtomicBool::new(false),
        wake: Notify::new(),
        counters: Counters::default(),
        notices,
        sockets: sockets.iter().map(info).collect(),
        peers: RwLock::new(Arc::new(Peers::default())),
        incomplete: AtomicBool::new(false),
        members: Mutex::new(Members::new(now, &config, locals)),
        sources: Mutex::default(),
        members_due: AtomicBool::new(true),
        refused: Mutex::default(),
        answers: Mutex::new(Vec::new()),
        resolver,
        egress: Egress::new(sockets, sealer, random()?),
        isolated_at: AtomicI64::new(i64::MAX),
        applied_until: AtomicI64::new(now.as_us()),
        journal,
        journal_wait: config.journal.wait,
        note_expired_every: journal::NOTE_EXPIRED,
        keys: Mutex::new((key_ids, None)),
        config_error: Mutex::new(None),
        config_pending: Mutex::new(None),
        latencies: Mutex::default(),
        samples: Mutex::default(),
        lost: Mutex::default(),
        installed: Mutex::new(None),
        started: now,
        stop: AtomicBool::new(false),
        threads: Mutex::new(Threads {
            runtime: RuntimeState::Running,
            applier: ApplierState::NotStarted,
        }),
        threads_changed: Condvar::new(),
        config: RwLock::new(Arc::new(config)),
    };
    {
        let mut members = shared.members.lock();
        shared.read_nodes_file(&mut members);
        shared.turn_members(&mut members);
        shared.show_sources(&members);
    }
    Ok((shared, key_file))
}

fn random() -> Result<StdRng, StartError> {
    StdRng::try_from_os_rng().map_err(|error| StartError::Runtime(io::Error::other(error)))
}
