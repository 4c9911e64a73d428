//! Bimodal Multicast for cache purges.
//!
//! A purge that reaches any node of a fleet has to reach every node: at the speed of the network
//! when all is well, and certainly when it is not. This crate is the protocol that does it, after
//! *Bimodal Multicast* (K. P. Birman, M. Hayden, O. Ozkasap, Z. Xiao, M. Budiu, Y. Minsky, ACM
//! Transactions on Computer Systems 17, 2, 1999), as Fastly's Powderhorn used it.
//!
//! # The algorithm
//!
//! 1. **Dissemination.** The node that a purge is issued at gives it an id and sends it at once to
//!    every peer, in one UDP datagram each. No answer is awaited. A datagram with room left repeats
//!    the latest earlier purges, and a receiver that sees a gap asks the origin for it a few
//!    milliseconds later, so most losses are mended within a round trip.
//! 2. **Anti-entropy.** Each round (250 ms) a node sends one random peer a *digest* of what it holds
//!    and what it lacks. The peer *solicits* what it lacks itself and sends what the digest's sender
//!    lacks; both are answered by *repairs*. Whoever holds a message repairs it, not its origin
//!    alone, so any path through the fleet will do, and the probability that a message is still
//!    missing somewhere falls exponentially with the rounds.
//!
//! What makes the digests small: a node numbers its purges 1, 2, 3 … in a *stream* of its own,
//! (node id, epoch), so that what somebody holds of a million purges is a few ranges.
//!
//! A message is *wanted*, then *in flight* to the cache, then *seen*. Seen means that the cache has
//! said so; a failed or refused apply makes it wanted again. *Held* is another matter: what is in
//! the store and can be given to others, be it applied or not.
//!
//! The way of a gap: a later message of its stream shows it (`dissemination`), or a digest does (`gossip`). It is asked
//! for a moment later, so that plain reordering is not (`repair`); whoever is asked looks into its store, and its answer comes
//! in where dissemination does.
//!
//! Nobody keeps a queue for anybody. A peer that is down costs the others nothing; when it is back,
//! its digest says what it lacks, and theirs say what it may ask for.
//!
//! # What is where
//!
//! | module | what |
//! |---|---|
//! | [`Core`] (`core`) | the state machine: what goes in, what comes out, and the clockwork |
//! | `dissemination` | what is issued goes to all, once; what others issue is taken in |
//! | `gossip`, `repair`, `pick` | anti-entropy: digests; solicits and repairs; what goes first if there is much |
//! | `delivery` | from the store to the cache |
//! | `membership`, `roster` | who is there, and whose turn it is |
//! | `retention` | how long messages are held |
//! | `absence` | what to do when what is missing has expired everywhere |
//! | `receipts` | who has applied what, for those who ask |
//! | `news` | how far each node has got, as all hear of it |
//! | `stream` | what a node knows of one stream, as sets of ranges |
//! | `peer`, [`session`] | what it knows of a peer; which of its datagrams count |
//! | [`wire`] | the plaintext of a datagram, byte by byte |
//! | [`store`] | where held messages are kept |
//! | [`ranges`] | sets of sequence numbers |
//! | [`bounds`], [`config`] | every bound with its reason; what an operator may change |
//!
//! # How it is driven
//!
//! There is no socket, clock, thread or source of randomness in here. The driver passes the time
//! and what arrived into `handle_*` calls and then takes what is to be done out of `poll_*` calls
//! until they say none: see [`Core::handle_timeout`]. Sealing is the driver's business too. With the
//! same seed and the same input the core does the same, which is what the simulator rests on.
#![forbid(unsafe_code)]

mod absence;
pub mod bounds;
pub mod config;
mod core;
mod delivery;
mod dissemination;
mod gossip;
pub mod id;
mod membership;
mod news;
mod peer;
mod pick;
pub mod purge;
pub mod ranges;
mod receipts;
mod repair;
mod retention;
mod roster;
pub mod session;
pub mod stats;
pub mod store;
mod stream;
pub mod time;
mod view;
pub mod wire;

pub use crate::core::{Core, Event, Identity, PurgeError, To, Transmit};
pub use crate::delivery::{Delivery, Knowledge, Outcome};
pub use crate::news::NewsView;
pub use crate::peer::PeerId;
pub use crate::receipts::{PeerReceipt, Receipt, ReceiptState};
pub use crate::retention::Expired;
pub use crate::view::{PeerView, StreamView};
