//! What the engine counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter as a person sees it: its name, what it counts, its value.
pub type Counter = (&'static str, &'static str, u64);

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)*) => {
        /// What has happened since the start. Each only grows.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: AtomicU64,)*
        }

        impl Counters {
            /// All of them, in the order of their declaration.
            pub fn list(&self) -> Vec<Counter> {
                vec![$((
                    stringify!($name),
                    concat!($($help,)+).trim_start(),
                    self.$name.load(Ordering::Relaxed),
                ),)*]
            }
        }
    };
}

counters! {
    /// Purges by URL or hash applied to this cache.
    purges_digest,
    /// Purges by surrogate keys applied to this cache, by messages.
    purges_keys,
    /// Bans applied to this cache.
    purges_ban,
    /// Flushes of a host applied to this cache.
    purges_flush,
    /// Purges of everything applied to this cache.
    purges_everything,
    /// Purges that came so late that they spared what was fetched since their issue.
    purges_late,
    /// Objects taken away by URL, hash or key; bans not counted.
    objects_killed,
    /// Objects whose TTL was ended.
    objects_softened,
    /// Objects taken away as they went in, because a purge came during their fetch.
    fence_hard,
    /// Objects whose TTL was ended as they went in, for the same reason.
    fence_soft,
    /// Objects taken away as they went in, because a ban came during their fetch.
    fence_banned,
    /// Objects taken away as they went in, because what they revived (304) had been purged.
    fence_revived,
    /// Fetches that VCL was told to try again, because a purge overtook them.
    fence_overtaken,
    /// Bans that were refused or put off, because there were too many live ones.
    bans_too_many,
    /// Bans that the cache would not take.
    bans_invalid,
    /// Bans that stood in for keys of objects that are older than the VMOD.
    bans_for_older,
    /// Objects older than the VMOD that were registered after all.
    objects_adopted,
    /// Times that all objects older than the VMOD were banned at once.
    older_swept,
    /// Objects not registered and taken away at once, because the index was full.
    index_full,
    /// Objects found registered when they went in: their removal was missed.
    index_stale,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
