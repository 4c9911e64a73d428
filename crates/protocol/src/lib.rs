//! powderhorn-protocol
#![forbid(unsafe_code)]
pub mod id;
pub mod purge;
pub mod ranges;
pub mod time;
