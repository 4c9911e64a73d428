//! Anti-entropy: the digest, and what follows from it.
//!
//! Each round a node sends a *digest* to one random peer: for some streams, which messages it holds
//! and which it lacks. The receiver *solicits* what it lacks itself (pull), after a moment's delay
//! in which it may still come, and sends what the digest's sender lacks (push). Both answers are
//! *repairs*: ordinary data, to one peer. A solicit must come back while the digest that it answers
//! is still current: a node that is too slow to answer in time mends itself at its own next
//! rounds, not at the cost of others. The answers are in the module `repair`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::RngCore;

use crate::bounds::{
    ACTIVE_ROUNDS, DIGEST_PARTS_MAX, DIGESTS_REMEMBERED, MENTION_RETENTIONS, NEWS_SHARE_PERCENT,
    PLAINTEXT_BYTES_MAX, PULL_ALONE_ROUNDS, PUSH_SLACK, REORDER_DELAY, SEQ_MAX, SOLICIT_JITTER,
    SOLICIT_MESSAGES_MAX, SOLICIT_RANGES_MAX,
};
use crate::core::{Core, To, Transmit};
use crate::id::StreamId;
use crate::peer::PeerId;
use crate::pick::{Allowance, pick};
use crate::ranges::RangeSet;
use crate::repair::PendingSolicit;
use crate::store::Store;
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{self, Digest, DigestEntry, EntryWriter, RunKind};

/// Digests waiting to be sent, answers to others' included.
const DIGEST_ANSWERS_MAX: usize = 64;

/// Room for entries in a digest datagram: what header, frame head, flags and three varints leave.
const DIGEST_ENTRIES_BYTES: usize =
    PLAINTEXT_BYTES_MAX - wire::HEADER_BYTES - wire::FRAME_HEAD_BYTES - 1 - 3 * 10;

/// Of these, kept for quiet streams in each digest.
const QUIET_BYTES: usize = DIGEST_ENTRIES_BYTES / 4;

/// An entry is not begun in less: it should say something beside its stream's name.
const ENTRY_BYTES_MIN: usize = EntryWriter::OVERHEAD_BYTES + 24;

/// More streams than all parts of a digest have room for.
const DIGEST_ENTRIES_MAX: usize = DIGEST_PARTS_MAX * PLAINTEXT_BYTES_MAX / wire::STREAM_ID_BYTES;

impl<S: Store, R: RngCore> Core<S, R> {
    /// Builds this round's digest for `peer`: active streams first, then quiet ones in the room that
    /// is left. What does not fit comes first in the next one.
    pub(crate) fn build_digests(&mut self, now: Time, id: PeerId) {
        let since = self.active_since();
        let (mut active, mut quiet) = (Vec::new(), Vec::new());
        let mention = self.mentioned_since(now);
        let spoken_of = |(_, stream): &(&StreamId, &Stream)| stream.is_spoken_of(mention);
        for (&id, stream) in self.streams.iter().filter(spoken_of) {
            // Who was in a digest longest ago is first in this one; then who changed last.
            let turn = (stream.digested, u64::MAX - stream.changed, id);
            if stream.changed >= since || stream.has_gaps() {
                active.push(turn);
            } else {
                quiet.push(turn);
            }
        }
        let active = first_turns(active);
        let quiet = first_turns(quiet);
        // A part's share is kept for the quiet streams, however busy the fleet is: who was away
        // hears of them in no other way.
        let mut room = DIGEST_PARTS_MAX * DIGEST_ENTRIES_BYTES - QUIET_BYTES;
        let mut parts: Vec<Vec<u8>> = vec![Vec::with_capacity(DIGEST_ENTRIES_BYTES)];
        let mut named = 0;
        for (index, &id) in active.iter().enumerate() {
            // Streams with thousands of gaps do not crowd out the others.
            let share = (room / (active.len() - index)).max(ENTRY_BYTES_MIN);
            let part = parts.last().map_or(0, Vec::len);
            if DIGEST_ENTRIES_BYTES - part < ENTRY_BYTES_MIN {
                if parts.len() == DIGEST_PARTS_MAX {
                    break;
                }
                parts.push(Vec::with_capacity(DIGEST_ENTRIES_BYTES));
            }
            let before = parts.iter().map(Vec::len).sum::<usize>();
            if room < ENTRY_BYTES_MIN || !self.put_entry(id, share, parts.last_mut()) {
                break;
            }
            room = room.saturating_sub(parts.iter().map(Vec::len).sum::<usize>() - before);
            named += 1;
        }
        let left = |parts: &[Vec<u8>]| {
            DIGEST_ENTRIES_BYTES.saturating_sub(parts.last().map_or(0, Vec::len))
        };
        if !quiet.is_empty() && left(&parts) < QUIET_BYTES && parts.len() < DIGEST_PARTS_MAX {
            parts.push(Vec::with_capacity(DIGEST_ENTRIES_BYTES));
        }
        // Half a part is kept for the news, but not at the cost of that share.
        let news = self.news_bytes();
        let kept = news.min(DIGEST_ENTRIES_BYTES * NEWS_SHARE_PERCENT / 100);
        let kept = kept.min(left(&parts).saturating_sub(QUIET_BYTES));
        for id in quiet {
            let left = left(&parts).saturating_sub(kept);
            if left < ENTRY_BYTES_MIN || !self.put_entry(id, left, parts.last_mut()) {
                break;
            }
        }
        // Only a digest in one part can be seen to leave a stream out.
        let asks = parts.len() == 1 && named == active.len();
        let flags = if asks { Digest::ASKS } else { 0 };
        for entries in parts {
            self.queue_digest(now, id, flags, entries);
        }
    }

    /// Appends the entry of a stream to a part, in at most `share` bytes; whether there was room.
    fn put_entry(&mut self, id: StreamId, share: usize, part: Option<&mut Vec<u8>>) -> bool {
        let round = self.round;
        let (Some(part), Some(stream)) = (part, self.streams.get_mut(&id)) else {
            return false;
        };
        let left = DIGEST_ENTRIES_BYTES.saturating_sub(part.len());
        if left < ENTRY_BYTES_MIN {
            return false;
        }
        stream.digested = round;
        digest_entry(id, stream, round, left.min(share)).encode(part);
        true
    }

    fn queue_digest(&mut self, now: Time, to: PeerId, flags: u8, mut entries: Vec<u8>) {
        let round = self.round;
        let Some(peer) = self.peers.get(to) else {
            return;
        };
        let echo = peer.digest_heard.map_or((0, 0), |(heard_round, heard)| {
            (heard_round, now.since(heard).as_micros() as u64)
        });
        let instance = peer.instance();
        if self.digests_sent.len() == DIGESTS_REMEMBERED {
            self.digests_sent.pop_front();
        }
        self.digests_sent.push_back((round, to, now));
        let mut payload = self.datagram(instance);
        wire::put_digest(&mut payload, flags, round, echo, |out| {
            out.append(&mut entries)
        });
        self.put_news(now, &mut payload);
        self.digests.push_back((to, payload));
    }

    /// When the digest of `round` was last sent to `peer`, if that is remembered.
    pub(crate) fn digest_sent(&self, peer: PeerId, round: u64) -> Option<Time> {
        let sent = self.digests_sent.iter().rev();
        sent.filter(|(r, to, _)| *r == round && *to == peer)
            .map(|(_, _, at)| *at)
            .next()
    }

    /// Streams that changed in this round or later are active.
    fn active_since(&self) -> u64 {
        self.round.saturating_sub(u64::from(ACTIVE_ROUNDS))
    }

    /// Streams that nothing has come of since then are not spoken of in digests.
    pub(crate) fn mentioned_since(&self, now: Time) -> Time {
        now - self.config.retention.saturating_mul(MENTION_RETENTIONS)
    }

    /// What is to be told to a peer that lacks something of streams that no digest speaks of here: it waits for all
    /// to say that they have not got it.
    fn entries_unspoken(&self, now: Time, digest: &Digest<'_>) -> Vec<u8> {
        let mention = self.mentioned_since(now);
        let mut entries = Vec::new();
        for entry in digest.entries() {
            let mut runs = entry.runs();
            let lacks = entry.flags & DigestEntry::OPEN == 0
                && runs.any(|(kind, _)| kind == RunKind::Missing);
            let stream = self.streams.get(&entry.stream);
            if !lacks || stream.is_some_and(|stream| stream.is_spoken_of(mention)) {
                continue;
            }
            if DIGEST_ENTRIES_BYTES - entries.len() < ENTRY_BYTES_MIN {
                break;
            }
            let nothing = EntryWriter {
                stream: entry.stream,
                flags: 0,
                start: 1,
                runs: vec![(RunKind::Silent, SEQ_MAX)],
            };
            nothing.encode(&mut entries);
        }
        entries
    }

    /// Appends what is to be told to a peer, whose digest asks for that, of streams that changed here lately and
    /// that it did not name: it does not know that there is something to miss.
    fn entries_unnamed(&mut self, settled: Time, digest: &Digest<'_>, entries: &mut Vec<u8>) {
        let since = self.active_since();
        let named: BTreeSet<StreamId> = digest.entries().map(|entry| entry.stream).collect();
        let unnamed = self.streams.iter().filter(|(id, stream)| {
            stream.changed >= since && !stream.held.is_empty() && !named.contains(id)
        });
        // What is younger than a round trip may be on its way to the peer right now.
        let unnamed: Vec<StreamId> = unnamed
            .map(|(&id, _)| id)
            .filter(|&id| self.store.last_born_before(id, settled).is_some())
            .take(DIGEST_ENTRIES_BYTES / ENTRY_BYTES_MIN)
            .collect();
        for id in unnamed {
            if !self.put_entry(id, usize::MAX, Some(entries)) {
                break;
            }
        }
    }

    pub(crate) fn poll_digest(&mut self) -> Option<Transmit> {
        let (peer, payload) = self.digests.pop_front()?;
        self.stats.digests_out += 1;
        Some(Transmit {
            to: To::Peer(peer),
            payload,
        })
    }

    pub(crate) fn handle_digest(&mut self, now: Time, from: PeerId, digest: Digest<'_>) {
        self.stats.digests_in += 1;
        let jitter = self.jitter(SOLICIT_JITTER);
        let echoed = self.digest_sent(from, digest.echo_round);
        let Some(peer) = self.peers.get_mut(from) else {
            return;
        };
        peer.hop = echoed.map(|sent| {
            let delay = Duration::from_micros(digest.echo_delay_us);
            now.since(sent).saturating_sub(delay)
        });
        if let Some(hop) = peer.hop {
            peer.sample_rtt(hop);
        }
        peer.digest_heard = Some((digest.round, now));
        let (in_transit, own_stamp) = (peer.rtt_or_guess() + PUSH_SLACK, self.own.epoch.stamp);

        // First learn how far each stream goes; then what is lacking is shared out over streams.
        let mut stamp_heard = 0;
        let mut lacking = 0u64;
        // Of each entry, whether there is something to push.
        let mut pushable = Vec::new();
        for entry in digest.entries() {
            let held_top = entry
                .runs()
                .filter(|(kind, _)| *kind == RunKind::Held)
                .map(|(_, range)| *range.end())
                .last();
            if entry.stream == self.own {
                let top = self.streams.get(&self.own).map_or(0, |stream| stream.top);
                if held_top.is_some_and(|held| held > top) {
                    stamp_heard = stamp_heard.max(own_stamp);
                }
            } else if entry.stream.node == self.node && entry.stream.epoch.stamp > own_stamp {
                stamp_heard = stamp_heard.max(entry.stream.epoch.stamp);
            }
            self.note_expired(now, from, &entry);
            let known = self.streams.get(&entry.stream);
            pushable.push(known.is_some_and(|stream| lacks_held(&entry, stream)));
            let Some(held_top) = held_top else {
                self.note_lacking(now, entry.stream);
                continue;
            };
            let own = entry.stream == self.own;
            let round = self.round;
            let Some(stream) = self.stream(entry.stream) else {
                continue;
            };
            if !own && held_top > stream.top && held_top >= stream.floor {
                stream.top = held_top;
                stream.changed = round;
            }
            if stream.has_gaps() {
                lacking += 1;
                self.note_lacking(now, entry.stream);
            }
        }
        if stamp_heard > 0 {
            self.reopen(now, stamp_heard);
        }

        let mut wants = BTreeMap::new();
        let shares = lacking.max(1);
        let pull = Allowance {
            ranges: (SOLICIT_RANGES_MAX as u64 / shares).max(4) as usize,
            messages: (SOLICIT_MESSAGES_MAX / shares).max(16),
        };
        let push = self.repair_allowance(pushable.iter().filter(|push| **push).count() as u64);
        for (entry, pushable) in digest.entries().zip(pushable) {
            let Some(stream) = self.streams.get(&entry.stream) else {
                continue;
            };
            if stream.has_gaps() {
                let held = runs_of(entry.runs(), RunKind::Held);
                let newest = held.iter().rev().flat_map(|range| stream.wanted_rev(range));
                let oldest = held.iter().flat_map(|range| stream.wanted(range));
                let mut picked = pick(pull, newest, oldest);
                // What has expired there may be older than the cache here: asked for one, it says so.
                let below = stream.young_from.unwrap_or(u64::MAX) - 1;
                let unknown = stream.wanted_rev(0..=below).next();
                picked.extend(unknown.map(|gap| *gap.end()..=*gap.end()));
                if !picked.is_empty() {
                    wants.insert(entry.stream, picked);
                }
            }
            if !pushable {
                continue;
            }
            let missing = runs_of(entry.runs(), RunKind::Missing);
            // What is younger than this may be on its way to the peer right now.
            let Some((settled, _)) = self.store.last_born_before(entry.stream, now - in_transit)
            else {
                continue;
            };
            let upto = |range: RangeInclusive<u64>| *range.start()..=settled.min(*range.end());
            let newest = missing
                .iter()
                .rev()
                .flat_map(|range| stream.held.within(upto(range)).rev());
            let oldest = missing
                .iter()
                .flat_map(|range| stream.held.within(upto(range)));
            let picked = pick(push, newest, oldest);
            self.queue_repair(now, from, entry.stream, picked);
        }
        let mut entries = self.entries_unspoken(now, &digest);
        if digest.flags & Digest::ASKS != 0 {
            self.entries_unnamed(now - in_transit, &digest, &mut entries);
        }
        // One a peer at a time: a driver that does not send must not pile them up.
        if !entries.is_empty() && self.digests.len() < DIGEST_ANSWERS_MAX {
            self.queue_digest(now, from, 0, entries);
        }
        if !wants.is_empty() {
            let due = now + REORDER_DELAY + jitter;
            let pending = PendingSolicit {
                due,
                round: digest.round,
                heard: now,
                wants,
            };
            match self.solicits.get_mut(&from) {
                // Another part of the same digest, or a gap that is about to be asked for.
                Some(before) => {
                    (before.round, before.heard) = (pending.round, pending.heard);
                    before.due = before.due.min(pending.due);
                    for (stream, wanted) in pending.wants {
                        let wants = before.wants.entry(stream).or_default();
                        wants.extend(wanted.iter());
                    }
                }
                None => {
                    self.solicits.insert(from, pending);
                }
            }
        }
    }
}

impl Stream {
    /// Whether digests speak of it: if something is held, or came after `mention`. If nothing ever came, and it has been
    /// skipped, others may speak of it.
    pub(crate) fn is_spoken_of(&self, mention: Time) -> bool {
        let lately = || self.last_born.is_some_and(|born| born >= mention);
        // Who lacks something waits for all to say what they know of it; but who only lack it do not remind each other
        // for ever.
        let waits = || self.has_gaps() && self.lacking_since.is_none_or(|since| since >= mention);
        self.top > 0 && (!self.held.is_empty() || lately() || waits())
    }
}

/// The streams whose turn it is, as many as there can be in a digest at most.
fn first_turns(mut turns: Vec<(u64, u64, StreamId)>) -> Vec<StreamId> {
    if turns.len() > DIGEST_ENTRIES_MAX {
        turns.select_nth_unstable(DIGEST_ENTRIES_MAX);
        turns.truncate(DIGEST_ENTRIES_MAX);
    }
    turns.sort_unstable();
    turns.into_iter().map(|(.., id)| id).collect()
}

fn runs_of(runs: impl Iterator<Item = (RunKind, RangeInclusive<u64>)>, kind: RunKind) -> RangeSet {
    let runs = runs.filter(|(run, _)| *run == kind);
    runs.map(|(_, range)| range).collect()
}

/// Whether anything is held here that the entry's sender lacks.
fn lacks_held(entry: &DigestEntry<'_>, stream: &Stream) -> bool {
    let missing = entry.runs().filter(|(kind, _)| *kind == RunKind::Missing);
    let mut held = missing.flat_map(|(_, range)| stream.held.within(range));
    held.next().is_some()
}

/// What a digest says of a stream, in at most `bytes`. If not all of it fits, the entry covers the
/// newest part, and at the next turn the part before; it never claims what it did not look at.
fn digest_entry(id: StreamId, stream: &mut Stream, round: u64, bytes: usize) -> EntryWriter {
    let bytes = bytes.saturating_sub(EntryWriter::OVERHEAD_BYTES);
    let older = stream
        .digest_below
        .filter(|&below| below > stream.floor && below <= stream.top);
    // The newest part and the older ones take turns.
    let from = match older {
        Some(below) if stream.digest_older => below - 1,
        _ => stream.top,
    };
    stream.digest_older = !stream.digest_older;
    let young = stream.young_from.or_else(|| newest_lacking(stream, round));
    // Who waits to hear that something is to be had from nobody says what that is.
    let open = from == stream.top && stream.young_from.is_some() && stream.absence.is_none();
    let mut runs: Vec<(RunKind, u64)> = Vec::new();
    let (mut used, mut next) = (0, from);
    let mut start = stream.floor;
    while next >= stream.floor {
        let (kind, first) = run_ending_at(stream, young, next);
        let len = next - first + 1;
        if open && runs.is_empty() && kind == RunKind::Missing {
            // The open end says it.
        } else if let Some(last) = runs.last_mut().filter(|last| last.0 == kind) {
            used += EntryWriter::run_bytes(last.1 + len) - EntryWriter::run_bytes(last.1);
            last.1 += len;
        } else {
            used += EntryWriter::run_bytes(len);
            if used > bytes {
                start = next + 1;
                break;
            }
            runs.push((kind, len));
        }
        next = first - 1;
    }
    // An older part moves the mark on; the newest sets it only where there is none.
    if from != stream.top || older.is_none() {
        stream.digest_below = Some(start).filter(|&start| start > stream.floor);
    }
    runs.reverse();
    let mut flags = if open { DigestEntry::OPEN } else { 0 };
    if start == stream.floor && stream.floor_born.is_some() && !stream.floor_lost {
        flags |= DigestEntry::EXPIRED_BELOW;
    }
    if stream.evicted_below > start {
        flags |= DigestEntry::EVICTED;
    }
    EntryWriter {
        stream: id,
        flags,
        start,
        runs,
    }
}

/// The newest message of a stream, if it is lacking and nothing tells whether that stream's messages are young enough.
/// At first it is only asked for, and a floor says if it is too old. If neither came, the digest claims to miss
/// it: so it can be pushed, and of three datagrams that have to arrive two are left.
fn newest_lacking(stream: &Stream, round: u64) -> Option<u64> {
    let asked = round >= stream.changed + PULL_ALONE_ROUNDS;
    (asked && stream.top >= stream.floor && !stream.known.contains(stream.top))
        .then_some(stream.top)
}

/// The kind of message `seq` and the first seq of the run of that kind that ends there. What is not `young`
/// is not said to be missing.
fn run_ending_at(stream: &Stream, young: Option<u64>, seq: u64) -> (RunKind, u64) {
    let held = stream.held.range_at_or_below(seq);
    if let Some(range) = held.as_ref().filter(|range| *range.end() >= seq) {
        return (RunKind::Held, (*range.start()).max(stream.floor));
    }
    let after_held = held
        .map_or(stream.floor, |range| range.end() + 1)
        .max(stream.floor);
    match stream.known.range_at_or_below(seq) {
        Some(range) if *range.end() >= seq => (RunKind::Silent, after_held.max(*range.start())),
        // `held` is part of `known`, so what is after the last known one is after the last held.
        known => {
            let first = known
                .map_or(stream.floor, |range| range.end() + 1)
                .max(stream.floor);
            match young {
                Some(young) if young <= seq => (RunKind::Missing, first.max(young)),
                _ => (RunKind::Silent, first),
            }
        }
    }
}
