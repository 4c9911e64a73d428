//! Objects that are older than the VMOD: nobody told the engine of them when they went in, so it does
//! not know their keys.
//!
//! There are some only where the VMOD was loaded into a cache that had been serving already. They
//! must not escape. The host adopts them one by one, see [`crate::Engine::adopt`]; until it is done, a
//! purge of keys bans them by what their headers say, limited to objects of before the load, and after
//! [`BANS_MAX`] such messages all of them at once. A purge by URL or host that cannot be told by their
//! headers, for they need not carry those, bans all of them at once, and from then on there are none.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use powderhorn_protocol::purge::Keys;
use powderhorn_protocol::time::Time;

use crate::cache::BanLine;
use crate::headers::ban_field;
use crate::tags::escape;

/// Messages with keys that are turned into bans, one for each header that may hold keys, before all
/// older objects are banned at once.
pub const BANS_MAX: u32 = 64;

pub(crate) struct Older {
    /// Objects that went in before this are older.
    pub since: Time,
    there_are: AtomicBool,
    /// Their keys are in the index by now.
    indexed: AtomicBool,
    /// Messages that may still be turned into bans.
    left: AtomicU32,
}

/// What is to be done about older objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    /// Nothing.
    Nothing,
    /// Ban those with the keys.
    Ban,
    /// Ban all of them.
    Sweep,
}

impl Older {
    pub fn new(since: Time, there_are: bool) -> Older {
        Older {
            since,
            there_are: AtomicBool::new(there_are),
            indexed: AtomicBool::new(false),
            left: AtomicU32::new(BANS_MAX),
        }
    }

    /// Whether there may be some.
    pub fn are(&self) -> bool {
        self.there_are.load(Ordering::Relaxed)
    }

    /// For a message with keys.
    pub fn for_keys(&self) -> Todo {
        if !self.are() || self.indexed.load(Ordering::SeqCst) {
            return Todo::Nothing;
        }
        let one_less = |left: u32| left.checked_sub(1);
        match self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
        {
            Ok(_) => Todo::Ban,
            Err(_) => Todo::Sweep,
        }
    }

    /// All of them are in the index.
    pub fn indexed(&self) {
        self.indexed.store(true, Ordering::SeqCst);
    }

    /// They have all been banned, or have never been.
    pub fn swept(&self) {
        self.there_are.store(false, Ordering::Relaxed);
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
