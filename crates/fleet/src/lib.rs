//! A fleet of real varnishds on one machine, and what it takes to break its network.
pub mod avalanche;
pub mod http;
pub mod origin;
