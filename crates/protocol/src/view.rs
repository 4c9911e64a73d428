//! What a driver may look at.

use std::time::Duration;

use rand::RngCore;

use crate::core::Core;
use crate::id::StreamId;
use crate::peer::PeerId;
use crate::ranges::{RangeSet, total};
use crate::session::SessionId;
use crate::store::Store;
use crate::time::Time;

/// A stream, as [`Core::streams`] shows it.
#[derive(Clone, Copy, Debug)]
pub struct StreamView<'a> {
    /// Its id.
    pub id: StreamId,
    /// Whether this node's purges go to it.
    pub own: bool,
    /// Nothing below is held or wanted.
    pub floor: u64,
    /// The largest seq that anybody has claimed; 0 for none.
    pub top: u64,
    /// Messages held.
    pub held: &'a RangeSet,
    /// Messages applied.
    pub seen: &'a RangeSet,
    /// Messages of unknown ops.
    pub unsupported: &'a RangeSet,
    /// How many messages are known to exist and are wanted.
    pub wanted: u64,
    /// How many messages were received and not applied yet.
    pub unapplied: u64,
    /// Since when something of it has been wanted, or received and not applied, as the rounds saw it.
    pub lacking_since: Option<Time>,
    /// How many of its messages came as repairs, not by dissemination.
    pub recovered: u64,
}

/// A peer, as [`Core::peers`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its number.
    pub id: PeerId,
    /// Its proven session, if any.
    pub session: Option<SessionId>,
    /// Its own name, once it has told it.
    pub name: String,
    /// Its own site, once it has told it.
    pub site: String,
    /// When something valid was heard of it.
    pub heard: Option<Time>,
    /// Whether it is held to be up.
    pub up: bool,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// By how many ms its wall clock is ahead of this node's, within half a round trip; `None` if one of
    /// them is not told.
    pub clock_skew_ms: Option<i64>,
    /// When its last digest came.
    pub digest_heard: Option<Time>,
    /// When its session was proven.
    pub proven: Option<Time>,
}

impl<S: Store, R: RngCore> Core<S, R> {
    /// All streams, in the order of their ids.
    pub fn streams(&self) -> impl Iterator<Item = StreamView<'_>> {
        self.streams.iter().map(|(&id, stream)| StreamView {
            id,
            own: id == self.own,
            floor: stream.floor,
            top: stream.top,
            held: &stream.held,
            seen: &stream.seen,
            unsupported: &stream.unsupported,
            wanted: total(stream.wanted(0..=u64::MAX)),
            unapplied: stream.unapplied(),
            lacking_since: stream.lacking_since,
            recovered: stream.recovered,
        })
    }

    /// How many messages of each stream came as repairs, in the order of the streams' ids.
    pub fn recovered(&self) -> impl Iterator<Item = (StreamId, u64)> + '_ {
        self.streams
            .iter()
            .map(|(&id, stream)| (id, stream.recovered))
    }

    /// When something valid was last heard of any peer, also of one that is none any more.
    pub fn heard(&self) -> Option<Time> {
        self.heard
    }

    /// All peers, in the order of their numbers.
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.peers.iter().map(|(id, peer)| PeerView {
            id,
            session: peer.session.as_ref().map(|session| session.id),
            name: peer.name.clone(),
            site: peer.site.clone(),
            heard: peer.heard,
            up: peer.up,
            rtt: peer.rtt,
            clock_skew_ms: peer.clock_skew_ms,
            digest_heard: peer.digest_heard.map(|(_, heard)| heard),
            proven: peer.session.as_ref().map(|session| session.proven),
        })
    }
}
