//! A graph of responsibility with reminders: the second version of the talk.
//!
//! A purge goes from the node where it was issued to all others at once. For each node some others are
//! responsible: it sends these a confirmation, and those that have the purge and no confirmation send it
//! reminders until it confirms. A reminder has the purge in it, so that any of them can mend a loss.
//!
//! The graph here is drawn with care, as the talk asks for: each node has one guardian in its own site
//! and one in another, and a path leads from each node to each. What remains is what the talk ends with:
//! who is responsible must know what each of its dependents has seen, "which means if a node is offline
//! for a while, that queue grows arbitrarily large", and "one node failing means that multiple other
//! nodes have to spend more time remembering messages and trying to send reminders".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use powderhorn_protocol::time::Time;

use super::{DATAGRAM_BYTES, ID_BYTES, MESSAGE_BYTES, MESSAGES_PER_DATAGRAM, Message, Out, System};

/// How long a confirmation may take, and between two reminders: above the longest round trip.
const REMINDER: Duration = Duration::from_millis(500);

/// A purge and where it was issued.
type Purge = (Message, usize);

/// What its nodes send each other.
#[derive(Clone)]
pub enum Packet {
    /// From the node where it was issued.
    Purge(Purge),
    /// These were not confirmed.
    Reminder(Vec<Purge>),
    /// These have arrived.
    Confirmation(Vec<Message>),
}

type Effects = Out<Packet, ()>;

#[derive(Default)]
struct Node {
    seen: BTreeSet<Message>,
    /// What each dependent has not confirmed, and when to remind it.
    owed: BTreeMap<usize, BTreeMap<Message, (Time, usize)>>,
    /// Confirmations of what this node has not seen itself.
    early: BTreeSet<(usize, Message)>,
    armed: bool,
}

/// See the module's documentation.
pub struct Responsibility {
    nodes: Vec<Node>,
    guardians: Vec<Vec<usize>>,
    dependents: Vec<Vec<usize>>,
}

impl Responsibility {
    /// A fleet of nodes of these sites.
    pub fn new(site_of: &[usize]) -> Self {
        let count = site_of.len();
        let guardians: Vec<Vec<usize>> = (0..count)
            .map(|node| {
                let mut ring = (1..count).map(|step| (node + step) % count);
                let near = ring.find(|other| site_of[*other] == site_of[node]);
                // The next site's nodes in turn, so that no node has more dependents than others.
                let sites = site_of.iter().max().map_or(1, |last| last + 1);
                let next = (site_of[node] + 1) % sites;
                let peers: Vec<usize> = (0..count).filter(|of| site_of[*of] == next).collect();
                let rank = (0..node).filter(|of| site_of[*of] == site_of[node]);
                let far = peers.get(rank.count() % peers.len().max(1)).copied();
                let both: BTreeSet<usize> = near.into_iter().chain(far).collect();
                both.into_iter().filter(|other| *other != node).collect()
            })
            .collect();
        let of = |node: usize| -> Vec<usize> {
            let is = |other: &usize| guardians[*other].contains(&node);
            (0..count).filter(is).collect()
        };
        let dependents = (0..count).map(of).collect();
        Responsibility {
            nodes: (0..count).map(|_| Node::default()).collect(),
            guardians,
            dependents,
        }
    }

    /// A node has a purge: it expects its dependents to confirm it.
    fn expect(&mut self, index: usize, (message, origin): Purge, out: &mut Effects) {
        let node = &mut self.nodes[index];
        node.seen.insert(message);
        for &dependent in &self.dependents[index] {
            if dependent == origin || node.early.remove(&(dependent, message)) {
                continue;
            }
            let owed = node.owed.entry(dependent).or_default();
            owed.insert(message, (out.now + REMINDER, origin));
        }
        if !node.armed {
            node.armed = true;
            out.timer(index, out.now + REMINDER, ());
        }
    }

    fn confirm(node: usize, to: usize, messages: Vec<Message>, out: &mut Effects) {
        if !messages.is_empty() {
            let bytes = DATAGRAM_BYTES + messages.len() * ID_BYTES;
            out.send(node, to, bytes, Packet::Confirmation(messages));
        }
    }

    /// Takes purges; those that are new are confirmed to all guardians, the others to `from` alone, who
    /// would not have asked if it knew.
    fn take(&mut self, node: usize, from: Option<usize>, purges: &[Purge], out: &mut Effects) {
        let seen = &self.nodes[node].seen;
        let (old, new): (Vec<Purge>, Vec<Purge>) = purges
            .iter()
            .partition(|(message, _)| seen.contains(message));
        for purge in &new {
            self.expect(node, *purge, out);
        }
        for (message, _) in purges {
            out.deliver(node, *message);
        }
        let ids = |purges: &[Purge]| purges.iter().map(|(message, _)| *message).collect();
        for &guardian in &self.guardians[node] {
            Self::confirm(node, guardian, ids(&new), out);
        }
        if let Some(from) = from {
            Self::confirm(node, from, ids(&old), out);
        }
    }
}

impl System for Responsibility {
    type Packet = Packet;
    type Timer = ();

    fn issue(&mut self, node: usize, message: Message, out: &mut Effects) {
        let purge = (message, node);
        for to in (0..self.nodes.len()).filter(|to| *to != node) {
            out.send(
                node,
                to,
                DATAGRAM_BYTES + MESSAGE_BYTES,
                Packet::Purge(purge),
            );
        }
        self.expect(node, purge, out);
    }

    fn handle(&mut self, node: usize, from: usize, packet: Packet, out: &mut Effects) {
        match packet {
            Packet::Purge(purge) => self.take(node, None, &[purge], out),
            Packet::Reminder(purges) => self.take(node, Some(from), &purges, out),
            Packet::Confirmation(messages) => {
                let node = &mut self.nodes[node];
                for message in messages {
                    let owed = node.owed.get_mut(&from);
                    if owed.and_then(|owed| owed.remove(&message)).is_none()
                        && !node.seen.contains(&message)
                    {
                        node.early.insert((from, message));
                    }
                }
            }
        }
    }

    fn handle_timer(&mut self, index: usize, (): (), out: &mut Effects) {
        let node = &mut self.nodes[index];
        node.armed = false;
        for (dependent, owed) in &mut node.owed {
            let mut due = Vec::new();
            for (message, (time, origin)) in owed {
                if *time <= out.now {
                    *time = out.now + REMINDER;
                    due.push((*message, *origin));
                }
            }
            for purges in due.chunks(MESSAGES_PER_DATAGRAM) {
                let bytes = DATAGRAM_BYTES + purges.len() * MESSAGE_BYTES;
                out.send(index, *dependent, bytes, Packet::Reminder(purges.to_vec()));
            }
        }
        if node.owed.values().any(|owed| !owed.is_empty()) {
            node.armed = true;
            out.timer(index, out.now + REMINDER, ());
        }
    }

    fn crash(&mut self, node: usize) {
        self.nodes[node] = Node::default();
    }

    fn start(&mut self, _node: usize) {}

    fn memory_messages(&self, node: usize) -> usize {
        self.nodes[node].owed.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_a_guardian_in_its_site_and_one_elsewhere_and_all_are_linked() {
        let site_of: Vec<usize> = (0..20).map(|node| node / 5).collect();
        let graph = Responsibility::new(&site_of);
        for (node, guardians) in graph.guardians.iter().enumerate() {
            let near = |other: &&usize| site_of[**other] == site_of[node];
            assert_eq!(guardians.len(), 2);
            assert_eq!(guardians.iter().filter(near).count(), 1);
            assert_eq!(graph.dependents[node].len(), 2);
        }
        let mut reached = BTreeSet::from([0]);
        for _ in 0..20 {
            for node in reached.clone() {
                reached.extend(&graph.dependents[node]);
            }
        }
        assert_eq!(reached.len(), 20);
    }
}
