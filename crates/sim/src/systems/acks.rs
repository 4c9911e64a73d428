//! Broadcast with acknowledgements to the sender: the slides' "another idea".
//!
//! The node where a purge is issued sends it to all others, each of them answers, and who does not
//! answer gets it again. As fast as ours while nothing is lost. "Every server sends an ack to the
//! sender", though: as many acknowledgements as purges come back to it. It has to remember each purge
//! until the last node has it, it alone can mend a loss, and a node that is gone is sent all of it again
//! and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{DATAGRAM_BYTES, ID_BYTES, MESSAGE_BYTES, Message, Out, System};

/// Until the first repetition: above the longest round trip of the network, so that nothing is sent
/// twice for nothing. Doubles each time.
const REPEAT_FIRST: Duration = Duration::from_millis(300);
const REPEAT_MAX: Duration = Duration::from_secs(10);

/// What its nodes send each other.
#[derive(Clone)]
pub enum Packet {
    /// A purge.
    Purge(Message),
    /// It has arrived.
    Ack(Message),
}

struct Waiting {
    /// Nodes that have not answered.
    nodes: BTreeSet<usize>,
    repeat: Duration,
}

/// See the module's documentation.
pub struct Acks {
    /// By node.
    waiting: Vec<BTreeMap<Message, Waiting>>,
}

impl Acks {
    /// A fleet of so many nodes.
    pub fn new(nodes: usize) -> Self {
        Acks {
            waiting: (0..nodes).map(|_| BTreeMap::new()).collect(),
        }
    }

    fn send(
        &self,
        node: usize,
        to: impl Iterator<Item = usize>,
        message: Message,
        out: &mut Out<Packet, Message>,
    ) {
        for to in to {
            out.send(
                node,
                to,
                DATAGRAM_BYTES + MESSAGE_BYTES,
                Packet::Purge(message),
            );
        }
    }
}

impl System for Acks {
    type Packet = Packet;
    type Timer = Message;

    fn issue(&mut self, node: usize, message: Message, out: &mut Out<Packet, Message>) {
        let nodes: BTreeSet<usize> = (0..self.waiting.len()).filter(|to| *to != node).collect();
        self.send(node, nodes.iter().copied(), message, out);
        let repeat = REPEAT_FIRST;
        self.waiting[node].insert(message, Waiting { nodes, repeat });
        out.timer(node, out.now + repeat, message);
    }

    fn handle(&mut self, node: usize, from: usize, packet: Packet, out: &mut Out<Packet, Message>) {
        match packet {
            Packet::Purge(message) => {
                out.deliver(node, message);
                out.send(node, from, DATAGRAM_BYTES + ID_BYTES, Packet::Ack(message));
            }
            Packet::Ack(message) => {
                if let Some(waiting) = self.waiting[node].get_mut(&message) {
                    waiting.nodes.remove(&from);
                    if waiting.nodes.is_empty() {
                        self.waiting[node].remove(&message);
                    }
                }
            }
        }
    }

    fn handle_timer(&mut self, node: usize, message: Message, out: &mut Out<Packet, Message>) {
        let Some(waiting) = self.waiting[node].get_mut(&message) else {
            return;
        };
        waiting.repeat = (waiting.repeat * 2).min(REPEAT_MAX);
        out.timer(node, out.now + waiting.repeat, message);
        if let Some(waiting) = self.waiting[node].get(&message) {
            self.send(node, waiting.nodes.iter().copied(), message, out);
        }
    }

    fn crash(&mut self, node: usize) {
        self.waiting[node].clear();
    }

    fn start(&mut self, _node: usize) {}

    fn memory_messages(&self, node: usize) -> usize {
        let waiting = self.waiting[node].values();
        waiting.map(|waiting| waiting.nodes.len()).sum()
    }
}
