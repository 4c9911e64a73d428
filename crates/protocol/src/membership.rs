//! Who is there: sessions are proven by challenge and echo, silent peers are challenged and in the end held to be
//! down, and for each round one peer is chosen.

use std::time::Duration;

use rand::{Rng, RngCore};

use crate::bounds::{
    CHALLENGE_INTERVAL_MAX, CHALLENGE_INTERVAL_MIN, EXPLORE_ONE_IN, OWN_SITE_PERCENT_MAX,
    PEER_SILENT_MIN,
};
use crate::core::{Core, Event, To, Transmit};
use crate::peer::{Peer, PeerId, Session};
use crate::session::{ReplayWindow, SessionId};
use crate::store::Store;
use crate::time::Time;
use crate::wire;

/// How long a silent peer has to answer challenges before it is held to be down.
const PATIENCE: Duration = Duration::from_millis(PEER_SILENT_MIN.as_millis() as u64 / 2);

/// Rounds, for each peer, in which a peer is heard if nothing is lost: two cycles at most lie between two
/// digests of it to one peer, and three in ten of its rounds go elsewhere.
const QUIET_ROUNDS_PEER: u32 = 3;

/// Rounds between two looks for node ids that are used twice.
const DUPLICATES_ONE_IN: u64 = 20;

/// How often a peer that has fallen silent is challenged.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

impl<S: Store, R: RngCore> Core<S, R> {
    /// Adds a peer and challenges it at once. A `peer` that is there already is replaced.
    pub fn add_peer(&mut self, now: Time, peer: PeerId, site: &str) {
        self.remove_peer(peer);
        let own_site = !site.is_empty() && site == self.config.site;
        let nonce = self.nonce();
        let mut state = Peer::new(own_site, nonce, now);
        state.challenge_now = true;
        self.roster.add(peer, &state);
        self.peers.insert(peer, state);
        self.control.insert(peer);
    }

    /// Forgets a peer. What it issued stays held until it expires.
    pub fn remove_peer(&mut self, peer: PeerId) {
        if let Some(state) = self.peers.remove(peer) {
            self.roster.remove(peer, &state);
            if let Some(session) = &state.session {
                self.forget_news(session.id.node);
            }
        }
        self.control.remove(&peer);
        self.repairing.remove(&peer);
        self.solicits.remove(&peer);
        self.digests.retain(|(to, _)| *to != peer);
        self.receipts.forget_peer(peer);
    }

    /// Takes a nonce back; whether that proved the sender's session.
    pub(crate) fn handle_echo(
        &mut self,
        now: Time,
        from: PeerId,
        nonce: [u8; 16],
        sender: SessionId,
        counter: u64,
    ) -> bool {
        // A session lives at one address. An echo that comes by way of another was turned there.
        let elsewhere = |id| id != from && self.peers.get(id).is_some_and(|peer| peer.up);
        if self.roster.with_session(sender).any(elsewhere) {
            return false;
        }
        let next_nonce = self.nonce();
        let size = self.config.replay_window;
        let Some(peer) = self.peers.get_mut(from).filter(|peer| peer.nonce == nonce) else {
            return false;
        };
        peer.nonce = next_nonce;
        // Which of several sendings is echoed cannot be told.
        if let (1, Some(sent)) = (peer.challenges_sent, peer.challenge_sent) {
            peer.sample_rtt(now.since(sent));
        }
        peer.challenges_sent = 0;
        let before = peer.session.as_ref().map(|session| session.id);
        let restarted = before.is_some_and(|before| before.node == sender.node);
        self.roster.prove(from, before, sender);
        if before != Some(sender) {
            self.receipts.turn_peer(now, from);
        }
        let window = ReplayWindow::new(size, counter);
        peer.session = Some(Session {
            id: sender,
            window,
            proven: now,
        });
        peer.digest_heard = None;
        peer.forget_repairs();
        peer.challenge_interval = CHALLENGE_INTERVAL_MIN;
        peer.challenge_due = now;
        self.stats.sessions += 1;
        if let Some(before) = before.filter(|before| before.node != sender.node) {
            self.forget_news(before.node);
        }
        if restarted {
            self.emit(Event::PeerRestarted(from));
        }
        if sender.node == self.node {
            self.emit(Event::DuplicateNode {
                node: sender.node,
                first: None,
                second: from,
            });
        }
        true
    }

    pub(crate) fn poll_control(&mut self, now: Time) -> Option<Transmit> {
        while let Some(id) = self.control.pop_first() {
            let Some(peer) = self.peers.get_mut(id) else {
                continue;
            };
            let echo = peer.echo.take();
            let challenge = std::mem::take(&mut peer.challenge_now);
            let nonce = peer.nonce;
            // An echo is for the instance that asked, which may be newer than the proven one.
            let instance = echo.map_or(0, |(_, instance)| instance);
            if challenge {
                peer.challenge_sent = Some(now);
                peer.challenges_sent = peer.challenges_sent.saturating_add(1);
                self.stats.challenges += 1;
            }
            if echo.is_none() && !challenge {
                continue;
            }
            // A challenge may be for the peer's next life, so it is for whoever receives it.
            let mut payload = self.datagram(if challenge { 0 } else { instance });
            if let Some((nonce, _)) = echo {
                wire::put_echo(&mut payload, nonce);
            }
            if challenge {
                let (name, site) = (&self.config.name, &self.config.site);
                wire::Challenge { nonce, name, site }.encode(&mut payload);
            }
            return Some(Transmit {
                to: To::Peer(id),
                payload,
            });
        }
        None
    }

    /// A peer not heard for longer than this is challenged: it gossips to each of its peers within that time,
    /// even if most rounds go to its own site or to peers that are down.
    pub(crate) fn quiet(&self) -> Duration {
        let round = self.config.round.saturating_mul(QUIET_ROUNDS_PEER);
        let gossip = round.saturating_mul(self.peers.len() as u32);
        gossip.max(PATIENCE)
    }

    pub(crate) fn check_peers(&mut self, now: Time) {
        let quiet = self.quiet();
        let mut events = Vec::new();
        for id in self.roster.due(now) {
            let Some(peer) = self.peers.get_mut(id) else {
                continue;
            };
            let silence = peer.heard.map_or(Duration::MAX, |heard| now.since(heard));
            if peer.up && silence > quiet + PATIENCE {
                self.roster.set_up(id, peer, false);
                peer.challenge_interval = CHALLENGE_INTERVAL_MIN;
                events.push(Event::PeerDown(id));
            }
            if peer.up && silence > quiet && now >= peer.challenge_due {
                peer.challenge_now = true;
                peer.challenge_due = now + PROBE_INTERVAL;
                self.control.insert(id);
            } else if !peer.up && now >= peer.challenge_due {
                peer.challenge_now = true;
                peer.challenge_due = now + peer.challenge_interval;
                peer.challenge_interval = (peer.challenge_interval * 2).min(CHALLENGE_INTERVAL_MAX);
                self.control.insert(id);
            }
            let next = match peer.heard.filter(|_| peer.up) {
                Some(heard) if silence <= quiet => heard + quiet,
                Some(heard) => peer.challenge_due.min(heard + quiet + PATIENCE),
                None => peer.challenge_due,
            };
            self.roster.check(id, peer, next);
        }
        if self.round % DUPLICATES_ONE_IN == 0 {
            self.find_duplicates(&mut events);
        }
        for event in events {
            self.emit(event);
        }
    }

    /// Two peers with one node id that were both heard after the other was proven both live.
    fn find_duplicates(&self, events: &mut Vec<Event>) {
        let up = |id: &PeerId| self.peers.get(*id).is_some_and(|peer| peer.up);
        for (node, mut ids) in self.roster.shared_nodes(self.node) {
            ids.retain(up);
            ids.sort_unstable();
            for pair in ids.windows(2) {
                if let [first, second] = *pair {
                    if self.both_live(first, second) {
                        events.push(Event::DuplicateNode {
                            node,
                            first: Some(first),
                            second,
                        });
                    }
                }
            }
            if node == self.node {
                events.extend(ids.iter().map(|&second| Event::DuplicateNode {
                    node,
                    first: None,
                    second,
                }));
            }
        }
    }

    fn both_live(&self, first: PeerId, second: PeerId) -> bool {
        let heard_after = |a: PeerId, b: PeerId| {
            let heard = self.peers.get(a).and_then(|peer| peer.heard);
            let proven = self.peers.get(b).and_then(|peer| peer.session.as_ref());
            heard
                .zip(proven)
                .is_some_and(|(heard, session)| heard > session.proven)
        };
        heard_after(first, second) && heard_after(second, first)
    }

    /// A random peer for this round: of the own site in a share of rounds, now and then one that is
    /// held to be down, so that the end of a cut is noticed.
    pub(crate) fn choose_peer(&mut self) -> Option<PeerId> {
        let explore = self.rng.random_ratio(1, EXPLORE_ONE_IN);
        let near = self.config.own_site_percent.min(OWN_SITE_PERCENT_MAX);
        let near = self.rng.random_ratio(near, 100);
        let (roster, rng) = (&mut self.roster, &mut self.rng);
        let down = if explore { roster.down.pick(rng) } else { None };
        let near = if near { roster.near.pick(rng) } else { None };
        down.or(near)
            .or_else(|| roster.next_up(rng))
            .or_else(|| roster.down.pick(rng))
    }

    fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }
}
