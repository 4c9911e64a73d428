//! Blocks that were read from disk, and those that are asked for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use powderhorn_protocol::id::StreamId;
use powderhorn_protocol::store::Held;

use crate::footer::Block;

/// Blocks asked for and not read yet: beyond, a request is forgotten, and comes again with the next call.
const REQUESTS_MAX: usize = 4096;

/// What a message takes in the cache, besides what its body may have on the heap.
const MESSAGE_BYTES: u64 = size_of::<(u64, Held)>() as u64;

/// A block's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// Whose messages are wanted of it: where a damaged segment has no footer, what is at one place may be of several.
    pub stream: StreamId,
    /// Its segment.
    pub number: u64,
    /// Where in it.
    pub offset: u32,
}

/// A block that is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub key: BlockKey,
    pub block: Block,
}

type Messages = Arc<[(u64, Held)]>;

/// The blocks read last, as many as fit.
pub struct Cache {
    bytes_max: u64,
    bytes: u64,
    blocks: HashMap<BlockKey, (Messages, u64)>,
    order: VecDeque<BlockKey>,
    requests: VecDeque<Request>,
    asked: HashSet<BlockKey>,
    /// Whether the reader waits to be woken.
    pub reader_idle: bool,
    /// There is no reader any more: what is not here is not to be had.
    pub closed: bool,
}

impl Cache {
    pub fn new(bytes_max: u64) -> Cache {
        Cache {
            bytes_max,
            bytes: 0,
            blocks: HashMap::new(),
            order: VecDeque::new(),
            requests: VecDeque::new(),
            asked: HashSet::new(),
            reader_idle: false,
            closed: false,
        }
    }

    pub fn get(&self, key: BlockKey) -> Option<&[(u64, Held)]> {
        self.blocks.get(&key).map(|(messages, _)| &messages[..])
    }

    /// Has a block read, once.
    pub fn ask(&mut self, key: BlockKey, block: Block) {
        if self.requests.len() < REQUESTS_MAX
            && !self.blocks.contains_key(&key)
            && self.asked.insert(key)
        {
            self.requests.push_back(Request { key, block });
        }
    }

    pub fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    pub fn next_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// A request was served, or could not be.
    pub fn done(&mut self, key: BlockKey, messages: Option<Messages>) {
        self.asked.remove(&key);
        let Some(messages) = messages else { return };
        let bodies = messages.iter().map(|(_, held)| match &held.purge {
            powderhorn_protocol::purge::Purge::Digest(_) => 0,
            purge => purge.op().1.len() as u64,
        });
        let bytes = bodies.sum::<u64>() + messages.len() as u64 * MESSAGE_BYTES;
        self.bytes += bytes;
        if let Some((_, old)) = self.blocks.insert(key, (messages, bytes)) {
            self.bytes -= old;
        } else {
            self.order.push_back(key);
        }
        // The one that was read just now stays, however large.
        while self.bytes > self.bytes_max && self.order.len() > 1 {
            let oldest = self.order.pop_front();
            if let Some((_, bytes)) = oldest.and_then(|oldest| self.blocks.remove(&oldest)) {
                self.bytes -= bytes;
            }
        }
    }
}
