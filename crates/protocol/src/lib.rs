//! powderhorn-protocol
#![forbid(unsafe_code)]

pub mod bounds;
pub mod config;
mod core;
mod gossip;
pub mod id;
mod peer;
pub mod purge;
pub mod ranges;
pub mod session;
pub mod stats;
pub mod store;
mod stream;
pub mod time;
pub mod wire;

pub use crate::core::{
    Core, Delivery, Event, Identity, Knowledge, Outcome, PeerView, PurgeError, StreamView, To,
    Transmit,
};
pub use crate::peer::PeerId;
