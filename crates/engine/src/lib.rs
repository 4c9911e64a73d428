//! What a purge does to a cache: which objects it kills, and which fetches it overtakes.
//!
//! A purge has to take away what is in the cache and also what is on its way into it: a fetch that
//! began before the purge may bring the old content. Varnish's own tools search the cache and leave
//! it at that. Here every purge leaves a mark *before* it searches, and every object that goes in is
//! registered and *then* looks for marks. Whichever comes second sees the other, so nothing slips
//! through between them; [`cutoff`] has the rule that both go by.
//!
//! | kind of purge | how it finds its objects | what it leaves behind |
//! |---|---|---|
//! | by URL or hash | the cache's own lookup | its cutoff in the [`fence`] |
//! | by surrogate keys | the [`index`] | its cutoff in the fence, for each key |
//! | ban, flush, everything | a ban of the cache's | the ban, in `bans` |
//! | softly, everything | a walk over the index, at a pace | one cutoff for all |
//!
//! | module | what |
//! |---|---|
//! | [`Engine`] (`engine`) | what each kind does; what happens to an object as it goes in |
//! | [`cutoff`] | the one rule for what a purge kills |
//! | [`fence`], `bans` | the marks that purges leave for fetches |
//! | [`index`], `slab`, `table` | objects by pointer and by key, in constant time and little memory |
//! | [`keys`], [`headers`] | surrogate keys in headers and bodies |
//! | [`tags`] | regular expressions: tags in them, globs, escaping |
//! | [`clock`] | from the wall clock to the boot clock |
//! | `older` | objects that were there before us |
//! | `pace` | what must not be done all at once |
//! | [`cache`] | what is asked of the cache |
//!
//! There is nothing of Varnish in here, so all of it runs in tests against a cache that records.
#![forbid(unsafe_code)]

mod aside;
mod bans;
pub mod cache;
pub mod clock;
pub mod counters;
pub mod cutoff;
mod engine;
mod fair;
pub mod fence;
pub mod headers;
pub mod index;
pub mod keys;
mod older;
mod pace;
mod slab;
mod table;
pub mod tags;

pub use crate::engine::{CheckError, Engine, Inserted, Settings, UNKNOWN};
