//! Which peers are up, which are down, whose sessions are proven, and when whose silence is to be looked
//! at: kept as it changes, so that a round costs no more in a large fleet than in a small one.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;
use rand::{Rng, RngCore};

use crate::id::NodeId;
use crate::peer::{Peer, PeerId};
use crate::session::SessionId;
use crate::time::Time;

/// Peers to pick from at random, in the order of their numbers. They change seldom.
#[derive(Debug, Default)]
pub(crate) struct Pool(Vec<PeerId>);

impl Pool {
    fn insert(&mut self, id: PeerId) {
        if let Err(at) = self.0.binary_search(&id) {
            self.0.insert(at, id);
        }
    }

    fn remove(&mut self, id: PeerId) {
        if let Ok(at) = self.0.binary_search(&id) {
            self.0.remove(at);
        }
    }

    /// One of them; chance is not asked if there is none.
    pub fn pick(&self, rng: &mut impl RngCore) -> Option<PeerId> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(rng.random_range(0..self.0.len())).copied()
    }
}

/// All peers, by what they are at the moment.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    pub up: Pool,
    /// Those of `up` at the own site.
    pub near: Pool,
    pub down: Pool,
    /// Peers whose turn is still to come in this cycle.
    turns: Vec<PeerId>,
    /// Each peer's session, be the peer up or down.
    sessions: BTreeSet<(SessionId, PeerId)>,
    /// When to look next whether a peer is silent: one entry a peer, at its `check_at`.
    checks: BTreeSet<(Time, PeerId)>,
    /// Patience grows with the fleet; when it shrinks, all are looked at.
    pub shrunk: bool,
}

impl Roster {
    /// One of those that are up: each once, in a random order, before anybody twice. So nobody is left
    /// alone for longer than two cycles, which chance alone would do all the time.
    pub fn next_up(&mut self, rng: &mut impl RngCore) -> Option<PeerId> {
        loop {
            if self.turns.is_empty() {
                self.turns.clone_from(&self.up.0);
                self.turns.shuffle(rng);
            }
            let id = self.turns.pop()?;
            if self.up.0.binary_search(&id).is_ok() {
                return Some(id);
            }
        }
    }

    /// Takes a peer in that is down.
    pub fn add(&mut self, id: PeerId, peer: &Peer) {
        self.down.insert(id);
        self.checks.insert((peer.check_at, id));
    }

    /// Forgets a peer.
    pub fn remove(&mut self, id: PeerId, peer: &Peer) {
        for pool in [&mut self.up, &mut self.near, &mut self.down] {
            pool.remove(id);
        }
        self.checks.remove(&(peer.check_at, id));
        if let Some(session) = &peer.session {
            self.sessions.remove(&(session.id, id));
        }
        self.shrunk = true;
    }

    /// Notes that a peer is up now, or down.
    pub fn set_up(&mut self, id: PeerId, peer: &mut Peer, up: bool) {
        peer.up = up;
        if up {
            self.down.remove(id);
            self.up.insert(id);
            if peer.own_site {
                self.near.insert(id);
            }
        } else {
            self.up.remove(id);
            self.near.remove(id);
            self.down.insert(id);
        }
    }

    /// Has a peer's silence looked at in the first round after `at`, and not before.
    pub fn check(&mut self, id: PeerId, peer: &mut Peer, at: Time) {
        self.checks.remove(&(peer.check_at, id));
        peer.check_at = at;
        self.checks.insert((at, id));
    }

    /// Peers to be looked at by `now`, in the order of their numbers. Each is to be given its next
    /// [`Roster::check`].
    pub fn due(&mut self, now: Time) -> Vec<PeerId> {
        let last = if std::mem::take(&mut self.shrunk) {
            Time::NEVER
        } else {
            now
        };
        let due = self.checks.range(..=(last, PeerId(u32::MAX)));
        let mut due: Vec<PeerId> = due.map(|&(_, id)| id).collect();
        due.sort_unstable();
        due
    }

    /// Notes that a peer's session is another one now.
    pub fn prove(&mut self, id: PeerId, before: Option<SessionId>, session: SessionId) {
        if let Some(before) = before {
            self.sessions.remove(&(before, id));
        }
        self.sessions.insert((session, id));
    }

    /// The peers whose session this is.
    pub fn with_session(&self, session: SessionId) -> impl Iterator<Item = PeerId> + '_ {
        let all = (session, PeerId(0))..=(session, PeerId(u32::MAX));
        self.sessions.range(all).map(|&(_, id)| id)
    }

    /// Whether a node is one of the peers, whatever its instance.
    pub fn has_node(&self, node: NodeId) -> bool {
        let least = SessionId { node, instance: 0 };
        let all = (least, PeerId(0))..;
        let first = self.sessions.range(all).next();
        first.is_some_and(|(session, _)| session.node == node)
    }

    /// Nodes that are more than one peer, and `own`, with those peers: two processes with one name, or one at
    /// two addresses.
    pub fn shared_nodes(&self, own: NodeId) -> BTreeMap<NodeId, Vec<PeerId>> {
        let mut shared: BTreeMap<NodeId, Vec<PeerId>> = BTreeMap::new();
        let mut before: Option<(NodeId, PeerId)> = None;
        for &(session, id) in &self.sessions {
            let node = session.node;
            if node == own {
                shared.entry(node).or_default().push(id);
            } else if let Some((_, first)) = before.filter(|(other, _)| *other == node) {
                shared.entry(node).or_insert_with(|| vec![first]).push(id);
            }
            before = Some((node, id));
        }
        shared
    }
}
