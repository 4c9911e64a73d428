//! The runtime that runs the Powderhorn protocol in a cache's process: UDP sockets, sealing, keys,
//! configuration, and a thread of its own that drives [`powderhorn_protocol::Core`].
//!
//! A host starts a [`Node`], issues purges by [`Node::issue`], and lends a thread to an [`Applier`],
//! which applies the fleet's purges to whatever implements [`Cache`]. There is nothing of Varnish in
//! here, so that all of it runs in tests.
//!
//! | module | what |
//! |---|---|
//! | `node`, `start`, `ticket` | the handle: start, issue, look, stop |
//! | `runtime` | the thread: receive, open, feed the core, keep its time |
//! | `journal` | messages on disk: what is held over a restart |
//! | `egress` | the way out: seal once, send to all |
//! | `apply` | the way of a purge from the core into a cache |
//! | `seal`, `keys` | sealed datagrams and the fleet's keys |
//! | `config`, `parse`, `units` | what an operator may decide; how the file is read |
//! | `settings`, `reload` | what of it may change while the node runs |
//! | `members`, `nodes`, `lookup`, `address` | who is in the fleet: a list, a file, names |
//! | `peers`, `membership` | the peers of the moment; how they change |
//! | `alone` | since when nobody else was heard |
//! | `receipts` | where a purge has been applied |
//! | `status`, `streams`, `counters`, `events`, `notices`, `lost`, `fit` | what an operator sees |
//! | `net`, `watch`, `sys` | sockets, files, clocks |
#![deny(unsafe_code)]

mod address;
mod alone;
mod apply;
mod config;
mod counters;
mod egress;
mod events;
mod fit;
#[cfg(feature = "test-hooks")]
pub mod hooks;
mod journal;
mod keys;
mod latency;
mod lock;
mod lookup;
mod lost;
mod members;
mod membership;
mod net;
mod node;
mod nodes;
mod notices;
mod parse;
mod peers;
mod rates;
mod receipts;
mod reload;
mod runtime;
mod seal;
mod settings;
mod start;
mod status;
mod streams;
mod sys;
mod ticket;
mod units;
mod watch;

pub use crate::address::{HostName, PeerAddress};
pub use crate::apply::{Applier, Cache, IDLE_MAX, Job};
pub use crate::config::{
    Config, ConfigError, Discovery, JOURNAL_DIR, JournalConfig, KEY_HEADERS, Limits, LogConfig,
    PEERS_MAX, PORT_MIN, PeerConfig, PurgeConfig,
};
pub use crate::fit::{fit, fit_list, fit_text};
pub use crate::journal::{JournalStatus, Journalled};
pub use crate::keys::{KEYS_MAX, KeyError, KeyId, Keyring};
pub use crate::latency::Latency;
pub use crate::net::BindError;
pub use crate::node::{IssueError, Node, StartError, node_id};
pub use crate::nodes::NodesError;
pub use crate::rates::Rates;
pub use crate::receipts::{Applied, Receipt, WAIT_MAX, WAITERS_MAX, WaitError, Waited};
pub use crate::reload::Reload;
pub use crate::seal::{OpenError, SealError, Sealer};
pub use crate::settings::Change;
pub use crate::status::{
    Counter, DuplicateName, FleetStatus, Notice, PeerNews, PeerStatus, SocketStatus, SourceStatus,
    Status,
};
pub use crate::streams::StreamStatus;
pub use crate::sys::boot_clock;
pub use crate::ticket::Ticket;
pub use powderhorn_protocol::id::{MessageId, MessageIds, NodeId, StreamId, Text as IdText};
pub use powderhorn_protocol::purge;
pub use powderhorn_protocol::purge::Purge;
pub use powderhorn_protocol::time::Time;
pub use powderhorn_protocol::{Knowledge, Outcome, PurgeError};

/// This library's version. What builds a package gives it the package's in POWDERHORN_VERSION, so that each
/// revision has one of its own.
pub const VERSION: &str = match option_env!("POWDERHORN_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};
