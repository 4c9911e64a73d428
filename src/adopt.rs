//! Objects that were in the cache before the VMOD: taken into the engine's index one by one, as the
//! VMOD starts.
//!
//! varnishd keeps no list of objects but the bans', which is walked once, for the digests. Then each
//! objhead is opened, and gives references on its objects: a slice at a time, for the thread that does
//! this is the one that applies the fleet's purges.
//!
//! # Why none is missed
//!
//! An object that lookups could find when the list was walked is in it, and stays with its digest. One
//! that they find later sends INSERT later still, and the subscription was there by then.
//!
//! # Why none stays when it is gone
//!
//! varnishd takes OC_EF_REFD from an object before it sends EXPIRE, whose handler takes the lock of
//! the index to forget the object. Adopting registers the object under the same lock, and then looks at
//! the bit. If the handler had the lock first, the bit is seen to be clear, and the object is forgotten
//! again. If not, the handler is still to come, and forgets it. Meanwhile the reference keeps the
//! object's address from being given to another.

use std::time::Duration;

use powderhorn_engine::Engine;
use powderhorn_engine::headers::Headers;
use powderhorn_engine::index::ObjectId;

use crate::apply::VarnishObjects;
use crate::host::ObjectDigest;
use crate::shim::{self, Expiry, Mode, Object, Worker};

/// With more objects than this the walk of the bans' list would hold up fetches for longer than 0.2 s;
/// they are left to bans then.
const OBJECTS_MAX: usize = 2_000_000;

/// Digests in one slice, which takes about a millisecond. Purges wait for it.
const SLICE: usize = 64;

/// From one slice to the next: the thread leaves half of a CPU to others.
const PAUSE: Duration = Duration::from_millis(1);

/// How often it is tried, as some objects may be on their way in.
const PASSES: u32 = 10;

/// From one pass to the next.
const PASS_PAUSE: Duration = Duration::from_millis(20);

/// The adoption of older objects: once for an engine.
pub enum Adoption {
    /// Nothing has been done.
    Due,
    /// Some have been adopted.
    Busy {
        /// Still to be looked at in this pass.
        digests: Vec<ObjectDigest>,
        /// To be looked at once more, in the next one.
        again: Vec<ObjectDigest>,
        /// Passes left.
        passes: u32,
    },
    /// All has been done that can be.
    Over,
}

impl Adoption {
    /// Adopts some; how long until there is more to do, if there is.
    ///
    /// To be called after the subscription, by the background thread, whose `worker` is.
    pub fn work(&mut self, engine: &Engine, worker: Worker) -> Option<Duration> {
        match self {
            Adoption::Over => None,
            Adoption::Due => {
                let Some(mut digests) = shim::list_digests(OBJECTS_MAX) else {
                    log::warn!(
                        "there are more than {OBJECTS_MAX} objects from before the VMOD was \
                         loaded: purges of keys reach them by bans, by the first line of each header"
                    );
                    *self = Adoption::Over;
                    return None;
                };
                if digests.is_empty() {
                    engine.older_indexed();
                    *self = Adoption::Over;
                    return None;
                }
                digests.sort_unstable();
                digests.dedup();
                *self = Adoption::Busy {
                    digests,
                    again: Vec::new(),
                    passes: PASSES,
                };
                Some(PAUSE)
            }
            Adoption::Busy {
                digests,
                again,
                passes,
            } => {
                for digest in digests.drain(digests.len().saturating_sub(SLICE)..) {
                    // Nothing may touch objects from then on.
                    if shim::closing() {
                        return None;
                    }
                    if !adopt(engine, worker, &digest) {
                        again.push(digest);
                    }
                }
                if !digests.is_empty() {
                    return Some(PAUSE);
                }
                if again.is_empty() {
                    engine.older_indexed();
                    log::info!("objects from before the VMOD was loaded are in its index");
                    *self = Adoption::Over;
                    return None;
                }
                *passes -= 1;
                if *passes == 0 {
                    log::warn!(
                        "some objects from before the VMOD was loaded cannot be looked at: purges \
                         of keys reach them by bans, by the first line of each header"
                    );
                    *self = Adoption::Over;
                    return None;
                }
                *digests = std::mem::take(again);
                Some(PASS_PAUSE)
            }
        }
    }
}

/// Adopts all objects of this digest; whether none is left.
fn adopt(engine: &Engine, worker: Worker, digest: &ObjectDigest) -> bool {
    let mut left = 0;
    // A purge that spares every object is a look at each, with a reference and without a lock.
    worker.purge_digest_sparing(digest, Mode::Soft, |object| {
        // In case of a panic, too.
        left += 1;
        // This one's INSERT may be about to come, and knows more.
        if object.expiry() != Expiry::Inserting {
            let id = ObjectId(object.id());
            let headers = Held { worker, object };
            let still_owned = || object.expiry() != Expiry::Over;
            engine.adopt(&VarnishObjects, id, digest, &headers, &still_owned);
            left -= 1;
        }
        true
    });
    left == 0
}

/// Headers of an object on which a reference is held.
struct Held {
    worker: Worker,
    object: Object,
}

impl Headers for Held {
    fn each(&self, with: &mut dyn FnMut(&[u8])) {
        self.worker.each_header(self.object, with);
    }
}
