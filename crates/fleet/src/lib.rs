//! A fleet of real varnishds on one machine, and what it takes to break its network.
//!
//! - [`fleet`]: an origin and N varnishds with the VMOD, each with a config of its own; start here.
//! - [`avalanche`]: the relay through which their gossip goes, and its faults.
//! - [`origin`]: a server whose content has a version.
//! - [`varnish`]: starts and ends one varnishd.
//! - [`http`]: the client that asks each node what it serves.
//! - [`cleanup`]: nothing stays behind, also after Ctrl-C.
#![forbid(unsafe_code)]

pub mod avalanche;
pub mod cleanup;
pub mod fleet;
pub mod http;
pub mod origin;
pub mod varnish;
