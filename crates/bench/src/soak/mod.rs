//! Very many purges: does the last one cost what the first did?

pub mod core;
pub mod varnish;
