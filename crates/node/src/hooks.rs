//! For tests only: a look at each datagram that is about to be sent, and names that lead elsewhere.

use std::net::SocketAddr;

pub use crate::lookup::Resolver;

/// A datagram on its way to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The peer's address.
    pub to: SocketAddr,
    /// It goes to all peers: it disseminates purges.
    pub to_all: bool,
    /// The sealed datagram.
    pub datagram: &'a [u8],
}

/// Says whether to send; what it refuses is lost without being counted.
pub type OutgoingFilter = Box<dyn FnMut(&Outgoing<'_>) -> bool + Send>;
