//! What a message asks of a cache.

use bytes::Bytes;

/// One invalidation. New kinds are new variants with a new op code; a node that does not know an
/// op code holds and relays the message as [`Purge::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Purge {
    /// Every variant of the object with this hash: what `vcl_hash` made of the request, 32 bytes.
    Digest([u8; 32]),
    /// An op of a later version, by its code or by the form of its body: held, relayed and
    /// reported, never applied.
    Unknown {
        /// The op code as received.
        op: u16,
        /// The op's body as received.
        body: Bytes,
    },
}

impl Purge {
    /// Op code of [`Purge::Digest`].
    pub const OP_DIGEST: u16 = 1;
}
