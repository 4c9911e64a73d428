//! What this node knows of one peer. Nothing here grows while a peer is dead or slow: what is
//! queued for it is bounded and forgotten with the round.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bounds::{CHALLENGE_INTERVAL_MIN, REPEAT_MAX, REPEAT_MIN, RTT_GUESS};
use crate::id::{NodeId, StreamId};
use crate::ranges::RangeSet;
use crate::session::{ReplayWindow, SessionId};
use crate::time::Time;
use crate::wire::Floor;

/// A peer, as the driver numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

#[derive(Debug)]
pub(crate) struct Session {
    pub id: SessionId,
    pub window: ReplayWindow,
    pub proven: Time,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub own_site: bool,
    /// As the peer says; empty until it has said so.
    pub name: String,
    pub site: String,
    pub session: Option<Session>,
    /// What the peer has to echo next.
    pub nonce: [u8; 16],
    pub challenge_sent: Option<Time>,
    /// How often `nonce` was sent: an echo of one that was sent twice measures no round trip.
    pub challenges_sent: u32,
    pub challenge_due: Time,
    /// When its silence is looked at next; the roster keeps it.
    pub check_at: Time,
    pub challenge_interval: Duration,
    /// A challenge is to be sent as soon as can be.
    pub challenge_now: bool,
    /// The peer's nonce, to be sent back, and the instance that asks for it.
    pub echo: Option<([u8; 16], u64)>,
    pub heard: Option<Time>,
    pub up: bool,
    pub rtt: Option<Duration>,
    /// What the last digest and the one that it echoed took together, if that is known: the digest, and what came
    /// with it, may be so old.
    pub hop: Option<Duration>,
    /// By how much its wall clock is ahead of this node's, within half a round trip.
    pub clock_skew_ms: Option<i64>,

    /// Round and time of the last digest from this peer.
    pub digest_heard: Option<(u64, Time)>,
    /// Repairs to send in this round.
    pub repair: BTreeMap<StreamId, RangeSet>,
    /// What the store had not at hand when its turn came, to be tried again in this round.
    pub awaited: BTreeMap<StreamId, RangeSet>,
    /// The stream that the last repair was of: streams take turns.
    pub repaired_last: Option<StreamId>,
    /// Floors to tell, one a stream.
    pub floors: BTreeMap<StreamId, Floor>,
    /// Round that `repair_left` is for.
    budget_round: u64,
    repair_left: u64,
    /// Repaired lately; the older of two generations is forgotten at `repaired_turn`.
    repaired: [BTreeMap<StreamId, RangeSet>; 2],
    repaired_turn: Time,
}

impl Peer {
    pub fn new(own_site: bool, nonce: [u8; 16], now: Time) -> Self {
        Peer {
            own_site,
            name: String::new(),
            site: String::new(),
            session: None,
            nonce,
            challenge_sent: None,
            challenges_sent: 0,
            challenge_due: now,
            check_at: now,
            challenge_interval: CHALLENGE_INTERVAL_MIN,
            challenge_now: false,
            echo: None,
            heard: None,
            up: false,
            rtt: None,
            hop: None,
            clock_skew_ms: None,

            digest_heard: None,
            repair: BTreeMap::new(),
            awaited: BTreeMap::new(),
            repaired_last: None,
            floors: BTreeMap::new(),
            // No round: the first one that is asked for begins with a full budget, also round 0.
            budget_round: u64::MAX,
            repair_left: 0,
            repaired: [BTreeMap::new(), BTreeMap::new()],
            repaired_turn: now,
        }
    }

    /// Takes a measured round trip into the smoothed one (weight 1/8, as TCP does).
    pub fn sample_rtt(&mut self, sample: Duration) {
        let sample = sample.min(REPEAT_MAX);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    pub fn rtt_or_guess(&self) -> Duration {
        self.rtt.unwrap_or(RTT_GUESS)
    }

    /// The time within which nothing is asked or repaired twice.
    pub fn repeat_after(&self) -> Duration {
        (self.rtt_or_guess() * 2).clamp(REPEAT_MIN, REPEAT_MAX)
    }

    /// The instance that datagrams to this peer are meant for; 0 while it is not known.
    pub fn instance(&self) -> u64 {
        self.session
            .as_ref()
            .map_or(0, |session| session.id.instance)
    }

    /// Whether it is up and is this node.
    pub fn is_up_as(&self, node: NodeId) -> bool {
        let session = self.session.as_ref();
        self.up && session.is_some_and(|session| session.id.node == node)
    }

    /// What is left of the peer's repair budget in `round`.
    pub fn repair_left(&mut self, round: u64, per_round: u64) -> &mut u64 {
        if self.budget_round != round {
            self.budget_round = round;
            self.repair_left = per_round;
        }
        &mut self.repair_left
    }

    /// Ranges queued for repair.
    pub fn repair_ranges(&self) -> usize {
        self.repair.values().map(RangeSet::range_count).sum()
    }

    /// Removes from `ranges` what this peer was sent a moment ago; how many ranges it touched.
    pub fn subtract_repaired(&mut self, now: Time, stream: StreamId, ranges: &mut RangeSet) -> u64 {
        if now >= self.repaired_turn {
            // After a pause longer than a turn the younger generation is as stale as the older.
            let both = now.since(self.repaired_turn) >= self.repeat_after();
            let younger = std::mem::take(&mut self.repaired[0]);
            self.repaired[1] = if both { BTreeMap::new() } else { younger };
            self.repaired_turn = now + self.repeat_after();
        }
        let before = ranges.count();
        for generation in &self.repaired {
            for range in generation.get(&stream).into_iter().flat_map(RangeSet::iter) {
                ranges.remove_range(range);
            }
        }
        before - ranges.count()
    }

    /// Forgets what was on its way to the peer: it has started again.
    pub fn forget_repairs(&mut self) {
        self.repair = BTreeMap::new();
        self.awaited = BTreeMap::new();
        self.floors = BTreeMap::new();
        self.repaired = [BTreeMap::new(), BTreeMap::new()];
    }

    /// Notes that `seq` is on its way to the peer.
    pub fn note_repaired(&mut self, stream: StreamId, seq: u64) {
        self.repaired[0].entry(stream).or_default().insert(seq);
    }
}

/// All peers, in the order of their numbers, side by side in memory: each datagram begins with looking its
/// sender up, and in a large fleet that is the memory of none of the lookups before.
#[derive(Debug, Default)]
pub(crate) struct Peers(Vec<(PeerId, Peer)>);

impl Peers {
    /// Where a peer is, or where it would be.
    fn find(&self, id: PeerId) -> Result<usize, usize> {
        // Drivers number from 0: where nobody was removed, a peer's number is its place or the next one.
        let end = self.0.len().min((id.0 as usize).saturating_add(1));
        let head = self.0.get(..end).unwrap_or_default();
        for (at, (other, _)) in head.iter().enumerate().rev().take(2) {
            if *other == id {
                return Ok(at);
            }
        }
        head.binary_search_by_key(&id, |(id, _)| *id)
    }

    pub fn get(&self, id: PeerId) -> Option<&Peer> {
        let at = self.find(id).ok()?;
        self.0.get(at).map(|(_, peer)| peer)
    }

    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let at = self.find(id).ok()?;
        self.0.get_mut(at).map(|(_, peer)| peer)
    }

    pub fn contains(&self, id: PeerId) -> bool {
        self.find(id).is_ok()
    }

    /// Takes a peer in; one of that number is replaced.
    pub fn insert(&mut self, id: PeerId, peer: Peer) {
        self.remove(id);
        if let Err(at) = self.find(id) {
            self.0.insert(at, (id, peer));
        }
    }

    pub fn remove(&mut self, id: PeerId) -> Option<Peer> {
        let at = self.find(id).ok()?;
        Some(self.0.remove(at).1)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.0.iter().map(|(id, peer)| (*id, peer))
    }

    pub fn keys(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.0.iter().map(|(id, _)| *id)
    }

    pub fn values(&self) -> impl Iterator<Item = &Peer> {
        self.0.iter().map(|(_, peer)| peer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(number: u32) -> Peer {
        let mut peer = Peer::new(false, [0; 16], Time::from_us(0));
        peer.rtt = Some(Duration::from_micros(number.into()));
        peer
    }

    #[test]
    fn peers_are_found_whatever_their_numbers() {
        let mut peers = Peers::default();
        let mut expected = BTreeMap::new();
        // Dense, with holes, and far beyond the number of peers.
        for number in [0, 1, 2, 3, 5, 4, 9, 1_000, 7, u32::MAX, 8, 2] {
            peers.insert(PeerId(number), peer(number));
            expected.insert(PeerId(number), number);
        }
        for gone in [1, 9, 6, 1_000, 0] {
            let removed = peers.remove(PeerId(gone)).is_some();
            assert_eq!(removed, expected.remove(&PeerId(gone)).is_some(), "{gone}");
            assert!(peers.keys().eq(expected.keys().copied()));
            for number in (0..20).chain([999, 1_000, 1_001, u32::MAX - 1, u32::MAX]) {
                let id = PeerId(number);
                let found = peers.get(id).and_then(|peer| peer.rtt);
                let found = found.map(|rtt| rtt.as_micros() as u32);
                assert_eq!(found, expected.get(&id).copied(), "{number} without {gone}");
                assert_eq!(peers.contains(id), found.is_some());
            }
        }
        assert_eq!(peers.len(), expected.len());
    }
}
