//! What a purge does to a cache: which objects it kills, and which fetches it overtakes.
#![forbid(unsafe_code)]

pub mod fence;
pub mod index;
pub mod keys;
mod slab;
mod table;
