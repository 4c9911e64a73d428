//! Watched files: whether one has changed, told without reading it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::sys;

/// A file that was written to within this time may not be whole yet.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` if the file cannot be looked at.
    pub fn of(path: &Path) -> Option<Stamp> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Stamp {
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Whether nobody has written to it just now. Times in the future are somebody else's clock's.
    pub fn settled(&self) -> bool {
        let (seconds, nanos) = self.modified;
        let modified_ms = seconds
            .saturating_mul(1_000)
            .saturating_add(nanos / 1_000_000);
        let now_ms = i64::try_from(sys::wall_clock_ms()).unwrap_or(i64::MAX);
        let ago_ms = now_ms.saturating_sub(modified_ms);
        !(0..SETTLED_AFTER.as_millis() as i64).contains(&ago_ms)
    }
}
