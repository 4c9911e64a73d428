//! Plumtree (J. Leitão, J. Pereira, L. Rodrigues, "Epidemic Broadcast Trees", SRDS 2007).
//!
//! Nodes know some others, at random: the overlay. A message is pushed along links that form a tree, and
//! announced (`IHAVE`) along the rest. A node that gets a message twice asks the second sender to announce
//! only (`PRUNE`), which is how the tree comes about; one that gets only announcements asks an announcer
//! for the message and makes its link one of the tree (`GRAFT`). So each node gets each message about
//! once, over several hops. There is no anti-entropy: a message that missed a part of the fleet, with
//! all announcements of it, stays missing there.
//!
//! Simpler than the paper: the overlay is fixed where the paper uses HyParView; that a neighbour is gone
//! is noticed at once; announcements are not batched; the tree is not tuned for short paths. Datagrams,
//! as for ours, where the paper has reliable links.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use powderhorn_protocol::time::Time;
use rand::Rng;
use rand::rngs::StdRng;

use super::{DATAGRAM_BYTES, ID_BYTES, MESSAGE_BYTES, Message, Out, System};

/// Mean number of neighbours.
const DEGREE: usize = 5;
/// From the first announcement to the first `GRAFT`: what the tree may be slower by.
const GRAFT_FIRST: Duration = Duration::from_millis(300);
/// To the next one: above the longest round trip.
const GRAFT_NEXT: Duration = Duration::from_millis(250);
/// How long a message is kept for a `GRAFT`.
const KEEP: Duration = Duration::from_secs(60);

/// What its nodes send each other.
#[derive(Clone, Copy)]
pub enum Packet {
    /// The message.
    Gossip(Message),
    /// An announcement of it.
    IHave(Message),
    /// Send it, and what comes after it.
    Graft(Message),
    /// Only announce from now on.
    Prune,
}

type Effects = Out<Packet, Message>;

#[derive(Default)]
struct Node {
    down: bool,
    eager: BTreeSet<usize>,
    lazy: BTreeSet<usize>,
    received: BTreeSet<Message>,
    kept: VecDeque<(Time, Message)>,
    /// Who announced what has not come.
    missing: BTreeMap<Message, VecDeque<usize>>,
}

/// See the module's documentation.
pub struct Plumtree {
    nodes: Vec<Node>,
    overlay: Vec<BTreeSet<usize>>,
}

impl Plumtree {
    /// A fleet of so many nodes, with an overlay by chance.
    pub fn new(count: usize, rng: &mut StdRng) -> Self {
        let mut overlay = vec![BTreeSet::new(); count];
        let mut link = |one: usize, other: usize| {
            let new = one != other && overlay[one].insert(other);
            if new {
                overlay[other].insert(one);
            }
            usize::from(new)
        };
        // A ring by chance, so that it is connected, and links by chance.
        let mut ring: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            ring.swap(at, rng.random_range(0..=at));
        }
        let mut links = 0;
        for at in 0..count {
            links += link(ring[at], ring[(at + 1) % count]);
        }
        let wanted = (count * DEGREE / 2).min(count * count.saturating_sub(1) / 2);
        while links < wanted {
            links += link(rng.random_range(0..count), rng.random_range(0..count));
        }
        let nodes = overlay.iter().map(|neighbours| Node {
            eager: neighbours.clone(),
            ..Node::default()
        });
        Plumtree {
            nodes: nodes.collect(),
            overlay,
        }
    }

    fn push(&mut self, index: usize, from: usize, message: Message, out: &mut Effects) {
        let node = &mut self.nodes[index];
        node.received.insert(message);
        node.missing.remove(&message);
        node.kept.push_back((out.now, message));
        while let Some((kept, _)) = node.kept.front() {
            if out.now.since(*kept) <= KEEP {
                break;
            }
            node.kept.pop_front();
        }
        for &to in node.eager.iter().filter(|to| **to != from) {
            let bytes = DATAGRAM_BYTES + MESSAGE_BYTES;
            out.send(index, to, bytes, Packet::Gossip(message));
        }
        for &to in node.lazy.iter().filter(|to| **to != from) {
            let bytes = DATAGRAM_BYTES + ID_BYTES;
            out.send(index, to, bytes, Packet::IHave(message));
        }
    }
}

impl Node {
    fn keeps(&self, message: Message) -> bool {
        self.kept.iter().any(|(_, kept)| *kept == message)
    }

    fn make_eager(&mut self, neighbour: usize) {
        self.lazy.remove(&neighbour);
        self.eager.insert(neighbour);
    }

    fn make_lazy(&mut self, neighbour: usize) {
        self.eager.remove(&neighbour);
        self.lazy.insert(neighbour);
    }
}

impl System for Plumtree {
    type Packet = Packet;
    type Timer = Message;

    fn issue(&mut self, node: usize, message: Message, out: &mut Effects) {
        self.push(node, node, message, out);
    }

    fn handle(&mut self, index: usize, from: usize, packet: Packet, out: &mut Effects) {
        if self.nodes[from].down {
            // The overlay has dropped the link.
            return;
        }
        let node = &mut self.nodes[index];
        match packet {
            Packet::Gossip(message) if node.received.contains(&message) => {
                node.make_lazy(from);
                out.deliver(index, message);
                out.send(index, from, DATAGRAM_BYTES, Packet::Prune);
            }
            Packet::Gossip(message) => {
                node.make_eager(from);
                out.deliver(index, message);
                self.push(index, from, message, out);
            }
            Packet::IHave(message) if node.received.contains(&message) => {}
            Packet::IHave(message) => {
                let first = !node.missing.contains_key(&message);
                node.missing.entry(message).or_default().push_back(from);
                if first {
                    out.timer(index, out.now + GRAFT_FIRST, message);
                }
            }
            Packet::Graft(message) => {
                node.make_eager(from);
                if node.keeps(message) {
                    let bytes = DATAGRAM_BYTES + MESSAGE_BYTES;
                    out.send(index, from, bytes, Packet::Gossip(message));
                }
            }
            Packet::Prune => node.make_lazy(from),
        }
    }

    fn handle_timer(&mut self, index: usize, message: Message, out: &mut Effects) {
        let node = &mut self.nodes[index];
        let Some(announcers) = node.missing.get_mut(&message) else {
            return;
        };
        let Some(announcer) = announcers.pop_front() else {
            // The next announcement starts anew.
            node.missing.remove(&message);
            return;
        };
        node.make_eager(announcer);
        let bytes = DATAGRAM_BYTES + ID_BYTES;
        out.send(index, announcer, bytes, Packet::Graft(message));
        out.timer(index, out.now + GRAFT_NEXT, message);
    }

    fn crash(&mut self, index: usize) {
        self.nodes[index] = Node {
            down: true,
            ..Node::default()
        };
        for &neighbour in &self.overlay[index] {
            let neighbour = &mut self.nodes[neighbour];
            neighbour.eager.remove(&index);
            neighbour.lazy.remove(&index);
            for announcers in neighbour.missing.values_mut() {
                announcers.retain(|announcer| *announcer != index);
            }
        }
    }

    fn start(&mut self, index: usize) {
        let neighbours = self.overlay[index].clone();
        for &neighbour in &neighbours {
            if !self.nodes[neighbour].down {
                self.nodes[neighbour].make_eager(index);
                self.nodes[index].make_eager(neighbour);
            }
        }
        self.nodes[index].down = false;
    }

    fn memory_messages(&self, _node: usize) -> usize {
        0
    }

    fn stored_messages(&self, node: usize) -> usize {
        self.nodes[node].kept.len()
    }
}
