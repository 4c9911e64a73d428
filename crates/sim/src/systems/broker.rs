//! A central broker over TCP: the first version of the talk, on rsyslog.
//!
//! A purge goes from the node where it was issued to the broker and from there to all others, each over
//! a connection of its own. Simple, and all depends on one machine; two servers of one site talk by way
//! of it; and TCP keeps an order that nobody needs, so that one lost segment holds up all that come
//! after it.
//!
//! Kinder than rsyslog: the broker's queues have no bound, one that is stuck does not hold up the
//! others, and the broker does not send a purge back to where it came from.

use super::link::{LinkOut, LinkTimer, Links, Segment, Window};
use super::{Message, System};

/// See the module's documentation.
pub struct Broker {
    caches: usize,
    links: Links,
}

impl Broker {
    /// Nodes 0 to `caches` − 1 have caches, node `caches` is the broker.
    pub fn new(caches: usize, window: Window) -> Self {
        Broker {
            caches,
            links: Links::new(window),
        }
    }
}

impl System for Broker {
    type Packet = Segment;
    type Timer = LinkTimer;

    fn issue(&mut self, node: usize, message: Message, out: &mut LinkOut) {
        self.links.send(node, self.caches, message, out);
    }

    fn handle(&mut self, node: usize, from: usize, segment: Segment, out: &mut LinkOut) {
        for message in self.links.handle(node, from, segment, out) {
            if node != self.caches {
                out.deliver(node, message);
                continue;
            }
            for to in (0..self.caches).filter(|to| *to != from) {
                self.links.send(node, to, message, out);
            }
        }
    }

    fn handle_timer(&mut self, node: usize, timer: LinkTimer, out: &mut LinkOut) {
        self.links.handle_timer(node, timer, out);
    }

    fn crash(&mut self, node: usize) {
        self.links.crash(node);
    }

    fn start(&mut self, _node: usize) {}

    fn memory_messages(&self, node: usize) -> usize {
        self.links.unacknowledged(node)
    }

    fn hub(&self) -> usize {
        self.caches
    }
}
