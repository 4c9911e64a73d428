//! The latest things that an operator should have heard of, for the status.

use std::collections::VecDeque;

use crate::sys;

/// Notices kept.
pub const NOTICES_MAX: usize = 32;

/// A ring of notices.
#[derive(Debug, Default)]
pub struct Notices {
    ring: VecDeque<(u64, String)>,
}

impl Notices {
    /// Adds one, at the present wall-clock time.
    pub fn push(&mut self, text: String) {
        if self.ring.len() == NOTICES_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back((sys::wall_clock_ms(), text));
    }

    /// All, oldest first: wall-clock ms since 1970 and text.
    pub fn list(&self) -> Vec<(u64, String)> {
        self.ring.iter().cloned().collect()
    }
}
