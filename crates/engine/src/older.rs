//! Objects that are older than the VMOD: nobody told the engine of them when they went in, so it does
//! not know their keys.
//!
//! There are some only where the VMOD was loaded into a cache that had been serving already. They
//! must not escape. A purge of keys bans them by what their headers say, limited to objects of before
//! the load; after [`BANS_MAX`] such messages, or when a purge comes that cannot be told by their
//! headers, all of them are banned at once, and from then on there are none.

use std::sync::atomic::{AtomicU32, Ordering};

use powderhorn_protocol::purge::Keys;
use powderhorn_protocol::time::Time;

use crate::cache::BanLine;
use crate::headers::{ban_field, escape};

/// Messages with keys that are turned into bans, one for each header that may hold keys, before all
/// older objects are banned at once.
pub const BANS_MAX: u32 = 64;

pub(crate) struct Older {
    /// Objects that went in before this are older.
    pub since: Time,
    /// Messages that may still be turned into bans; [`NONE`] when there are no older objects.
    left: AtomicU32,
}

const NONE: u32 = u32::MAX;

/// What is to be done about older objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    /// There are none.
    Nothing,
    /// Ban those with the keys.
    Ban,
    /// Ban all of them.
    Sweep,
}

impl Older {
    pub fn new(since: Time, there_are: bool) -> Older {
        let left = AtomicU32::new(if there_are { BANS_MAX } else { NONE });
        Older { since, left }
    }

    /// Whether there may be some.
    pub fn are(&self) -> bool {
        self.left.load(Ordering::Relaxed) != NONE
    }

    /// For a message with keys.
    pub fn for_keys(&self) -> Todo {
        let one_less = |left: u32| (left != NONE && left > 0).then(|| left - 1);
        match self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
        {
            Ok(_) => Todo::Ban,
            Err(NONE) => Todo::Nothing,
            Err(_) => Todo::Sweep,
        }
    }

    /// They have all been banned.
    pub fn swept(&self) {
        self.left.store(NONE, Ordering::Relaxed);
    }
}

/// For each header that may hold keys, the test that finds one of `keys` in it.
pub(crate) fn key_tests<'a>(
    headers: &'a [String],
    keys: &Keys,
) -> impl Iterator<Item = BanLine<'static>> + use<'a> {
    let mut pattern = b"(?:^|[\\s,\"])(?:".to_vec();
    for (n, key) in keys.iter().enumerate() {
        if n > 0 {
            pattern.push(b'|');
        }
        pattern.extend(escape(key));
    }
    pattern.extend(b")(?:$|[\\s,;\"])");
    headers.iter().map(move |name| BanLine {
        field: ban_field(name.as_bytes()),
        operator: "~",
        argument: pattern.clone().into(),
    })
}
