//! What this node knows of one stream.
//!
//! A message is *wanted* until it is received (*held*), handed to the cache (*in flight*) and
//! applied (*seen*). Each state is a set of ranges. `known` is everything that is not wanted from
//! the network any more, so what is wanted are its gaps between `floor` and `top`.
//!
//! `held` and `seen` are parts of `known`. `ready`, `retry` and `in_flight` have nothing in common, and are parts of
//! `held`: what was not applied yet is not dropped, be it old or room short.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::absence::Absence;
use crate::bounds::{REORDER_DELAY, SEQ_MAX};
use crate::peer::PeerId;
use crate::ranges::{RangeSet, total};
use crate::time::Time;

/// Who lacks what went lately asks for its last message in some rounds, of one peer after another, whose ends are not
/// the same and move on with each message that goes: so many ends are remembered,
const GONE_MAX: usize = 8;
/// so many rounds apart, and the latest.
const GONE_ROUNDS: u64 = 8;

/// A message that went.
#[derive(Debug)]
struct Gone {
    seq: u64,
    born: Time,
    /// When it went.
    round: u64,
}

#[derive(Debug)]
pub(crate) struct Stream {
    /// Received, issued here, or skipped: not wanted from the network.
    pub known: RangeSet,
    /// In the store: can be given as a repair.
    pub held: RangeSet,
    /// Applied, as the cache said.
    pub seen: RangeSet,
    /// Held and waiting to be handed to the cache.
    pub ready: RangeSet,
    /// Handed to the cache, which has not answered yet.
    pub in_flight: RangeSet,
    /// The cache failed on these; ready again after a moment.
    pub retry: RangeSet,
    /// Held, of an op that is not known here.
    pub unsupported: RangeSet,
    /// Nothing below is held or wanted. All sets end here.
    pub floor: u64,
    /// A message below the floor was born at this time, so all below are at least as old. `None`
    /// while the floor is at the stream's beginning.
    pub floor_born: Option<Time>,
    /// Whether something below the floor was given up that was never had here: to others it may be none that
    /// has expired.
    pub floor_lost: bool,
    /// Below this seq all were born before this time or just then, though it may not be below the floor: too old for
    /// this cache, or dropped for want of room.
    pub older: Option<(u64, Time)>,
    /// When the youngest message received or issued was born. Until that has expired the stream is
    /// remembered, be anything of it still held or not.
    pub last_born: Option<Time>,
    /// The largest seq that anybody has claimed.
    pub top: u64,
    /// The same, if all that is known is that somebody has it no more.
    pub gone_top: u64,
    /// The round in which something was last learnt of the stream.
    pub changed: u64,
    /// The round in which the stream was last in a digest.
    pub digested: u64,
    /// Asked for lately; the older of two generations is forgotten at `asked_turn`.
    asked: [RangeSet; 2],
    asked_turn: Time,
    /// When the gaps that dissemination left are to be asked for.
    pub gap_due: Option<Time>,
    /// How long the next gap is left to reordering, or to the answer to the last solicit.
    pub gap_delay: Duration,
    /// A message that was dropped by age, while older ones were still wanted: (its seq, when it was
    /// born). The floor follows it when those can be had from nobody any more.
    pub dropped: Option<(u64, Time)>,
    /// The round in which anybody last spoke of the stream.
    pub mentioned: u64,
    /// The peer that disseminates the stream.
    pub origin: Option<PeerId>,
    /// From here on messages are known to be young enough to be wanted. Below they may be older
    /// than the cache, so they are asked for with an age limit but never claimed to be missing.
    pub young_from: Option<u64>,
    /// Digests that had no room for all of the stream: the next older part ends below this seq.
    pub digest_below: Option<u64>,
    /// Whether the next digest is to have that part, not the newest one.
    pub digest_older: bool,
    /// Messages of it that came as repairs.
    pub recovered: u64,
    /// Since when something of it is wanted, or received and not applied, as the rounds saw it.
    pub lacking_since: Option<Time>,
    /// What is heard of messages that may have expired everywhere.
    pub absence: Option<Absence>,
    /// Below this, what was held has been dropped for want of room.
    pub evicted_below: u64,
    /// What of the messages that went lately is known: see [`Stream::note_gone`].
    gone: Vec<Gone>,
    /// The largest seq known when the cache was flushed: what came up to it was issued before.
    pub flushed_top: u64,
    /// The same of a flush that is under way.
    pub flushing_top: u64,
}

impl Stream {
    pub fn new(round: u64) -> Self {
        Stream {
            known: RangeSet::new(),
            held: RangeSet::new(),
            seen: RangeSet::new(),
            ready: RangeSet::new(),
            in_flight: RangeSet::new(),
            retry: RangeSet::new(),
            unsupported: RangeSet::new(),
            floor: 1,
            floor_born: None,
            floor_lost: false,
            older: None,
            last_born: None,
            top: 0,
            gone_top: 0,
            changed: round,
            digested: 0,
            asked: [RangeSet::new(), RangeSet::new()],
            asked_turn: Time::from_us(i64::MIN),
            gap_due: None,
            gap_delay: REORDER_DELAY,
            dropped: None,
            mentioned: round,
            origin: None,
            young_from: None,
            digest_below: None,
            digest_older: false,
            recovered: 0,
            lacking_since: None,
            absence: None,
            evicted_below: 0,
            gone: Vec::new(),
            flushed_top: 0,
            flushing_top: 0,
        }
    }

    /// What is wanted inside `window`, ascending.
    pub fn wanted(
        &self,
        window: RangeInclusive<u64>,
    ) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.known
            .gaps(self.floor.max(*window.start())..=self.top.min(*window.end()))
    }

    /// What is wanted inside `window`, descending.
    pub fn wanted_rev(
        &self,
        window: RangeInclusive<u64>,
    ) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        self.known
            .gaps_rev(self.floor.max(*window.start())..=self.top.min(*window.end()))
    }

    /// The first message that was received and not yet applied.
    pub fn first_unapplied(&self) -> Option<u64> {
        let sets = [&self.ready, &self.retry, &self.in_flight];
        sets.into_iter().filter_map(RangeSet::first).min()
    }

    /// How many messages were received and not yet applied.
    pub fn unapplied(&self) -> u64 {
        let sets = [&self.ready, &self.retry, &self.in_flight];
        sets.into_iter()
            .map(RangeSet::count)
            .fold(0, u64::saturating_add)
    }

    pub fn has_gaps(&self) -> bool {
        self.wanted(0..=u64::MAX).next().is_some()
    }

    /// Raises the floor; how many messages below it were still wanted.
    pub fn raise_floor(&mut self, floor: u64, born: Time) -> u64 {
        // A digest with a larger one is refused, all of it.
        let floor = floor.min(SEQ_MAX);
        if floor <= self.floor {
            return 0;
        }
        let lost = total(self.wanted(self.floor..=floor - 1));
        for set in [
            &mut self.known,
            &mut self.held,
            &mut self.seen,
            &mut self.ready,
            &mut self.in_flight,
            &mut self.retry,
            &mut self.unsupported,
        ] {
            set.remove_below(floor);
        }
        self.floor = floor;
        self.floor_born = Some(self.floor_born.map_or(born, |before| before.max(born)));
        lost
    }

    /// Wants nothing any more up to `last`, and below the floor nothing is wanted anyway; how many messages were still wanted.
    pub fn skip(&mut self, last: u64) -> u64 {
        let skipped = total(self.wanted(self.floor..=last));
        self.known.insert_range(self.floor..=last);
        skipped
    }

    /// The same for its age: everything up to `last` was born at `born` at the latest.
    pub fn skip_older(&mut self, last: u64, born: Time) -> u64 {
        self.note_older(last.saturating_add(1), born);
        self.skip(last)
    }

    /// Notes that everything below `seq` was born at `born` at the latest.
    pub fn note_older(&mut self, seq: u64, born: Time) {
        if self.older.is_none_or(|(before, _)| before < seq) {
            self.older = Some((seq.min(SEQ_MAX), born));
        }
    }

    /// The first seq that may have been born at `cutoff` or later, as far as that is known of what is not held:
    /// everything below is older.
    pub fn first_young(&self, cutoff: Time) -> u64 {
        let floor = self.floor_born.map(|born| (self.floor, born));
        let marks = [floor, self.older].into_iter().flatten();
        let older = marks.filter(|(_, born)| *born < cutoff);
        older.map(|(seq, _)| seq).max().unwrap_or(1)
    }

    /// Notes that all up to `seq` went, by age or for want of room, and that this one was born at `born` or later; so
    /// were those after it.
    pub fn note_gone(&mut self, seq: u64, born: Time, round: u64) {
        let gone = &mut self.gone;
        let before = gone.len().checked_sub(2).and_then(|at| gone.get(at));
        if before.is_some_and(|before| round < before.round + GONE_ROUNDS) {
            gone.pop();
        } else if gone.len() == GONE_MAX {
            gone.remove(0);
        }
        gone.push(Gone { seq, born, round });
    }

    /// Messages that went and were born at `cutoff` or later, as far as that is known.
    pub fn gone_young(&self, cutoff: Time) -> Option<RangeInclusive<u64>> {
        let young = self.gone.iter().find(|gone| gone.born >= cutoff)?;
        Some(young.seq..=self.gone.last()?.seq)
    }

    /// The last message that was asked for not long ago, if it is at `seq` or later and still wanted.
    pub fn last_asked(&self, seq: u64) -> Option<u64> {
        let last = self.asked.iter().filter_map(RangeSet::last).max()?;
        let wanted = last >= seq && self.wanted(last..=last).next().is_some();
        wanted.then_some(last)
    }

    /// Whether `range` holds something that was asked for and not long ago.
    pub fn asked_within(&self, range: RangeInclusive<u64>) -> bool {
        self.asked
            .iter()
            .any(|asked| asked.within(range.clone()).next().is_some())
    }

    /// Takes out of `ranges` what was asked for not long ago. From `now` on that is forgotten in
    /// steps of `until`.
    pub fn subtract_asked(&mut self, now: Time, until: Time, ranges: &mut RangeSet) {
        if now >= self.asked_turn {
            // After a pause longer than a turn the younger generation is as stale as the older.
            let both = now.since(self.asked_turn) >= until.since(now);
            let younger = std::mem::take(&mut self.asked[0]);
            self.asked[1] = if both { RangeSet::new() } else { younger };
            self.asked_turn = until;
        }
        for generation in &self.asked {
            ranges.remove_all(generation);
        }
    }

    /// Notes that `ranges` are being asked for.
    pub fn note_asked(&mut self, ranges: &RangeSet) {
        self.asked[0].extend(ranges.iter());
    }

    /// Notes that `seq` and what comes after it is young enough to be wanted.
    pub fn note_young(&mut self, seq: u64) {
        self.young_from = Some(self.young_from.map_or(seq, |young| young.min(seq)));
    }
}
