//! Too long away: what to do when messages that this node lacks have expired everywhere.
//!
//! The cache may then hold objects that were purged, and nobody remembers which. So it is flushed, once,
//! and the messages are given up. That is a strong medicine, and taken on evidence only: members say in
//! their digests that they have let the messages expire, and nobody of those who are heard within some
//! rounds holds them. To have been alone proves nothing: there may have been nothing to miss.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngCore;

use crate::bounds::{EVIDENCE_MEMBERS, EVIDENCE_ROUNDS, FLUSH_COVERS_MAX, FLUSH_RETRY};
use crate::core::{Core, Event};
use crate::delivery::{Delivery, Outcome};
use crate::id::{MessageId, StreamId};
use crate::peer::{Peer, PeerId};
use crate::purge::Purge;
use crate::store::Store;
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{DigestEntry, RunKind};

/// What members say of a message that is wanted of a stream.
#[derive(Debug)]
pub(crate) struct Absence {
    /// The message.
    seq: u64,
    /// Since which round they are listened to.
    since: u64,
    /// Who has said something of it, that it has expired or that it is not there: in which round first, and last.
    answered: BTreeMap<PeerId, (u64, u64)>,
    /// The largest seq below which a member has let all expire; 0 if none has said so.
    expired_below: u64,
    /// The largest seq below which a member that has it not any more says that it had no room; 0 likewise.
    evicted_below: u64,
}

/// The flush that makes up for what cannot be had any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Nothing of the kind.
    None,
    /// To be handed to the cache at this time.
    Due(Time),
    /// To be handed to the cache as soon as that takes anything: no timer waits for it any more.
    Ready,
    /// The cache has it since then.
    InFlight(Time),
}

impl Stream {
    /// A message that is wanted and is known to be young enough to concern the cache: the first, or another of which
    /// somebody has said that it is gone. That is reason enough, and earlier ones may be found to be young one by one.
    /// But that there was no room for it is weaker evidence than that the first has expired: all below `expired_below`
    /// have.
    fn lacking(&self, expired_below: u64) -> Option<u64> {
        let young = self.young_from?;
        let first = *self.wanted(young..=u64::MAX).next()?.start();
        let gone = self.absence.as_ref().filter(|absence| {
            absence.expired_below > absence.seq
                || (absence.evicted_below > absence.seq && expired_below <= first)
        });
        let gone = gone.map(|absence| absence.seq).filter(|seq| *seq > first);
        let still = gone.filter(|seq| self.wanted(*seq..=*seq).next().is_some());
        Some(still.unwrap_or(first))
    }
}

impl<S: Store, R: RngCore> Core<S, R> {
    /// Takes to heart what a peer's digest says of messages that it has no more.
    pub(crate) fn note_expired(&mut self, now: Time, from: PeerId, entry: &DigestEntry<'_>) {
        let expired = entry.flags & DigestEntry::EXPIRED_BELOW != 0;
        let round = self.round;
        let gone = if entry.stream == self.own {
            0
        } else {
            last_gone(entry)
        };
        let fresh = self.is_cache_fresh(now);
        let top = match self.streams.get_mut(&entry.stream) {
            Some(stream) => {
                stream.mentioned = round;
                if gone <= stream.top && !stream.has_gaps() {
                    // Nearly always there is nothing to miss.
                    stream.absence = None;
                    return;
                }
                stream.top
            }
            // Nor does a cache that has just come up miss what has expired anywhere.
            None if gone == 0 || fresh => return,
            None => 0,
        };
        if gone > top && self.is_believed(from, entry.stream) {
            if let Some(stream) = self.stream(entry.stream) {
                // What is there no more has been there. Whether it is older than the cache here is then asked.
                if gone > stream.top {
                    (stream.top, stream.gone_top) = (gone, gone);
                    stream.changed = round;
                }
            }
        }
        let Some(stream) = self.streams.get_mut(&entry.stream) else {
            return;
        };
        let Some(seq) = stream.lacking(if expired { entry.start } else { 0 }) else {
            stream.absence = None;
            return;
        };
        let absence = stream
            .absence
            .get_or_insert_with(|| Absence::new(seq, round));
        if absence.seq != seq {
            *absence = Absence::new(seq, round);
        }
        if entry.start > seq {
            if expired {
                absence.expired_below = absence.expired_below.max(entry.start);
                absence.note_answer(from, round);
            }
            return;
        }
        match entry.runs().find(|(_, range)| range.contains(&seq)) {
            Some((RunKind::Held, _)) => stream.absence = None,
            Some((kind @ (RunKind::Missing | RunKind::Silent), range)) => {
                absence.note_answer(from, round);
                if kind == RunKind::Silent && entry.flags & DigestEntry::EVICTED != 0 {
                    absence.evicted_below = absence.evicted_below.max(range.end() + 1);
                }
            }
            Some((RunKind::Reserved, _)) | None => {}
        }
    }

    /// Whether the cache is younger than anything that has expired, even where the retention is the shortest.
    fn is_cache_fresh(&self, now: Time) -> bool {
        let shortest = self.config.retention.min(FLUSH_COVERS_MAX);
        now.since(self.oldest_wanted()) < shortest + self.config.join_margin
    }

    /// Whether a peer is to be believed that there are messages of a stream that nobody has. Only the origin
    /// knows what there will be: while it is there, nobody else is believed, but of its past lives.
    fn is_believed(&self, from: PeerId, id: StreamId) -> bool {
        let origin = |peer: &Peer| peer.is_up_as(id.node);
        self.peers.get(from).is_some_and(origin)
            || !self.peers.values().any(origin)
            || self.is_past(id)
    }

    /// Whether the message of a stream that members are listened to about can be had from nobody.
    fn is_gone(&self, id: StreamId, stream: &Stream) -> bool {
        let Some(absence) = &stream.absence else {
            return false;
        };
        let up = self.peers.values().filter(|peer| peer.up).count();
        let mut origins = self.peers.iter().filter(|(_, peer)| peer.is_up_as(id.node));
        // Room may run out at one node and not at another: then all have to say so, also those that are
        // down now. And twice, as the message may be young: it may have been on its way to who said first
        // that it was not there.
        let all_without_room = absence.evicted_below > absence.seq
            && self.peers.keys().all(|peer| {
                let answered = absence.answered.get(&peer);
                answered.is_some_and(|(first, last)| last - first >= EVIDENCE_ROUNDS)
            });
        (absence.expired_below > absence.seq || all_without_room)
            && self.round.saturating_sub(absence.since) >= EVIDENCE_ROUNDS
            && absence.answered.len() >= up.min(EVIDENCE_MEMBERS)
            && origins.all(|(peer, _)| absence.answered.contains_key(&peer))
    }

    /// Looks at the evidence, once a round.
    pub(crate) fn check_absence(&mut self, now: Time) {
        let suspects = self.streams.iter();
        let suspects = suspects.filter(|(_, stream)| stream.absence.is_some());
        let gone: Vec<StreamId> = suspects
            .filter(|(id, stream)| self.is_gone(**id, stream))
            .map(|(&id, _)| id)
            .collect();
        if gone.is_empty() {
            return;
        }
        let lately = |at: Time| now.since(at) < self.config.retention.min(FLUSH_COVERS_MAX);
        let lately = self.flushed_at.is_some_and(lately);
        // Up to where a stream's messages were issued before the last flush, if the missing one was.
        let covered = |stream: &Stream| {
            let absence = stream.absence.as_ref()?;
            if absence.seq <= stream.flushed_top {
                Some(stream.flushed_top)
            } else if lately && absence.expired_below > absence.seq {
                Some(absence.expired_below - 1)
            } else {
                None
            }
        };
        for id in gone {
            match self.streams.get(&id).and_then(covered) {
                Some(last) => {
                    self.give_up(id, last);
                }
                None if self.flush == Flush::None => self.flush = Flush::Due(now),
                None => {}
            }
        }
    }

    /// A flush whose time has come waits like any other purge. A timer would fire again and again until a cache
    /// that takes nothing does.
    pub(crate) fn tick_flush(&mut self, now: Time) {
        if matches!(self.flush, Flush::Due(at) if at <= now) {
            self.flush = Flush::Ready;
        }
    }

    /// The flush, if it is time for it.
    pub(crate) fn poll_flush(&mut self, now: Time) -> Option<Delivery> {
        match self.flush {
            Flush::Ready => {}
            Flush::Due(at) if now >= at => {}
            _ => return None,
        }
        self.flush = Flush::InFlight(now);
        for stream in self.streams.values_mut() {
            stream.flushing_top = stream.top;
        }
        let elapsed_ms = now.since(self.opened).as_millis() as u64;
        Some(Delivery {
            id: MessageId {
                stream: self.own,
                seq: 0,
            },
            purge: Purge::Everything,
            age: Duration::ZERO,
            arrival: now,
            issued_wall_ms: self.own.epoch.stamp.saturating_add(elapsed_ms),
        })
    }

    /// Takes the cache's answer to the flush.
    pub(crate) fn handle_flushed(&mut self, now: Time, outcome: Outcome) {
        let Flush::InFlight(begun) = self.flush else {
            return;
        };
        if outcome != Outcome::Applied {
            self.stats.apply_failed += 1;
            self.flush = Flush::Due(now + FLUSH_RETRY);
            return;
        }
        self.flush = Flush::None;
        self.flushed_at = Some(begun);
        self.stats.flushed += 1;
        // What is in the cache from now on is younger; the margin is as for an empty cache.
        self.born_min = self.born_min.max(begun - self.config.join_margin);
        let mut gone = Vec::new();
        for (&id, stream) in &mut self.streams {
            stream.flushed_top = stream.flushing_top;
            if stream.absence.is_some() {
                gone.push(id);
            }
            // What was young enough for the cache as it was may be older than it is now.
            if let Some(young) = stream.young_from.filter(|_| id != self.own) {
                let older = self.store.last_born_before(id, self.born_min);
                let first = older.map_or(young, |(seq, _)| young.max(seq + 1));
                let held = stream.held.within(first..=u64::MAX).next();
                stream.young_from = held.map(|range| *range.start());
            }
        }
        let mut messages = 0u64;
        for id in gone {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            if self.is_gone(id, stream) {
                let last = stream.flushed_top;
                messages = messages.saturating_add(self.give_up(id, last));
            }
        }
        self.emit(Event::TooLongAway { messages });
    }

    /// Gives up what can be had from nobody of a stream, up to `last`: what was issued since the flush is not
    /// made up for by it. How many messages that are.
    fn give_up(&mut self, id: StreamId, last: u64) -> u64 {
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        let below = stream.absence.take().map_or(0, |absence| {
            absence.expired_below.max(absence.evicted_below)
        });
        let below = below.min(stream.top.min(last).saturating_add(1));
        if below <= stream.floor {
            return 0;
        }
        let lost = stream.skip(below - 1);
        self.stats.lost = self.stats.lost.saturating_add(lost);
        lost
    }
}

/// The last message of which an entry says that its sender has it no more; 0 if there is none.
fn last_gone(entry: &DigestEntry<'_>) -> u64 {
    let silent = entry.runs().filter(|(kind, _)| *kind == RunKind::Silent);
    let evicted = (entry.flags & DigestEntry::EVICTED != 0).then(|| silent.last());
    let evicted = evicted.flatten().map_or(0, |(_, range)| *range.end());
    let expired = entry.flags & DigestEntry::EXPIRED_BELOW != 0;
    evicted.max(if expired {
        entry.start.saturating_sub(1)
    } else {
        0
    })
}

impl Absence {
    fn new(seq: u64, round: u64) -> Absence {
        Absence {
            seq,
            since: round,
            answered: BTreeMap::new(),
            expired_below: 0,
            evicted_below: 0,
        }
    }

    fn note_answer(&mut self, from: PeerId, round: u64) {
        self.answered.entry(from).or_insert((round, round)).1 = round;
    }
}
