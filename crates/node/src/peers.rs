//! The peers of the moment, as all threads see them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use powderhorn_protocol::PeerId;

use crate::members::Member;

/// The peers at one moment. Whoever has it may go on with it after a change: what it does for a peer
/// that has gone is dropped by the core.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    by_id: BTreeMap<PeerId, Member>,
    by_address: HashMap<SocketAddr, PeerId>,
    /// The next number. None is used twice, so that what is said of a peer that has gone is never
    /// taken for another one's.
    next: u32,
}

/// What tells two moments apart.
#[derive(Debug, Default)]
pub(crate) struct Turnover {
    pub added: Vec<(PeerId, Member)>,
    pub removed: Vec<(PeerId, Member)>,
    /// Peers that went from the own site or came to it: with the number that is gone, and the new.
    pub moved: Vec<(PeerId, PeerId, Member)>,
    /// Whether anything else changed, such as a name.
    pub renamed: bool,
}

impl Turnover {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.moved.is_empty() && !self.renamed
    }
}

impl Peers {
    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    pub fn get(&self, id: PeerId) -> Option<&Member> {
        self.by_id.get(&id)
    }

    pub fn at(&self, address: SocketAddr) -> Option<PeerId> {
        self.by_address.get(&address).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Member)> {
        self.by_id.iter().map(|(&id, peer)| (id, peer))
    }

    /// The peers after a change to `wanted`, and what that changes. `own_site` is this node's.
    pub fn turn(&self, wanted: Vec<Member>, own_site: &str) -> (Peers, Turnover) {
        let mut next = Peers {
            next: self.next,
            ..Peers::default()
        };
        let mut turnover = Turnover::default();
        let near = |peer: &Member| !own_site.is_empty() && peer.site == own_site;
        for peer in wanted {
            let before = self.at(peer.address);
            let before = before.and_then(|id| Some((id, self.get(id)?)));
            let id = match before {
                Some((id, same)) if near(same) == near(&peer) => {
                    turnover.renamed |= *same != peer;
                    id
                }
                changed => {
                    let id = PeerId(next.next);
                    // Four billion changes are not to be seen; wrapping round is not to be risked.
                    let Some(after) = next.next.checked_add(1) else {
                        continue;
                    };
                    next.next = after;
                    match changed {
                        Some((gone, _)) => turnover.moved.push((gone, id, peer.clone())),
                        None => turnover.added.push((id, peer.clone())),
                    }
                    id
                }
            };
            next.by_address.insert(peer.address, id);
            next.by_id.insert(id, peer);
        }
        for (id, peer) in self.iter() {
            if !next.by_address.contains_key(&peer.address) {
                turnover.removed.push((id, peer.clone()));
            }
        }
        (next, turnover)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Source;

    fn peer(n: u8, site: &str) -> Member {
        Member {
            address: SocketAddr::from(([192, 0, 2, n], 4277)),
            name: format!("n{n}"),
            site: site.into(),
            sources: vec![Source::Static],
        }
    }

    #[test]
    fn no_number_is_used_twice() {
        let (first, turnover) = Peers::default().turn(vec![peer(1, "a"), peer(2, "b")], "a");
        assert_eq!(turnover.added.len(), 2);
        let (second, turnover) = first.turn(vec![peer(2, "b")], "a");
        assert_eq!(turnover.removed[0].0, PeerId(0));
        let (third, turnover) = second.turn(vec![peer(1, "a"), peer(2, "b")], "a");
        assert_eq!(turnover.added, [(PeerId(2), peer(1, "a"))]);
        assert_eq!(third.at(peer(2, "").address), Some(PeerId(1)));
        assert!(
            third
                .turn(vec![peer(1, "a"), peer(2, "b")], "a")
                .1
                .is_empty()
        );
    }

    #[test]
    fn a_site_counts_where_it_is_this_nodes() {
        let (first, _) = Peers::default().turn(vec![peer(1, "a"), peer(2, "b")], "a");
        // From one other site to another: the core is not asked.
        let (second, turnover) = first.turn(vec![peer(1, "a"), peer(2, "c")], "a");
        assert!(turnover.moved.is_empty() && turnover.renamed);
        let (third, turnover) = second.turn(vec![peer(1, "b"), peer(2, "c")], "a");
        assert_eq!(turnover.moved, [(PeerId(0), PeerId(2), peer(1, "b"))]);
        assert_eq!(third.count(), 2);
        assert!(third.get(PeerId(0)).is_none());
    }
}
