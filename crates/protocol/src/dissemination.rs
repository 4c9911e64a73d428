//! Dissemination: what is issued here goes to every peer at once, in one datagram each, and what others
//! disseminate is taken in. Nobody answers.

use std::time::Duration;

use rand::RngCore;

use crate::bounds::{
    MESSAGE_BYTES_MAX, OUTBOX_MAX, PLAINTEXT_BYTES_MAX, READY_MAX, REDUNDANT_AGE_MAX,
    REDUNDANT_MESSAGES_MAX, REOPENINGS_MAX, REORDER_DELAY, SEQ_MAX, SOLICIT_JITTER,
};
use crate::core::{Core, Event, PurgeError, To, Transmit};
use crate::id::{Epoch, MessageId, MessageIds, NodeId, StreamId};
use crate::peer::PeerId;
use crate::purge::Purge;
use crate::store::{Fetch, Held, Store};
use crate::stream::Stream;
use crate::time::Time;
use crate::wire::{self, Data, DataWriter, WireMessage};

impl<S: Store, R: RngCore> Core<S, R> {
    /// Issues one purge: see [`Core::handle_purges`].
    pub fn handle_purge(&mut self, now: Time, purge: Purge) -> Result<MessageId, PurgeError> {
        Ok(self.handle_purges(now, [purge])?.first())
    }

    /// Issues purges that belong together, all or none: consecutive messages, which are held at
    /// once, go out with the next datagrams, and are in flight with the caller, who says by
    /// [`Core::handle_applied`] what became of each in the local cache.
    pub fn handle_purges(
        &mut self,
        now: Time,
        purges: impl IntoIterator<Item = Purge, IntoIter: ExactSizeIterator + Clone>,
    ) -> Result<MessageIds, PurgeError> {
        let purges = purges.into_iter();
        for purge in purges.clone() {
            if let Purge::Unknown { op, .. } = purge {
                return Err(PurgeError::Unsupported(op));
            }
            let bytes = purge.message_bytes_max();
            if bytes > MESSAGE_BYTES_MAX {
                self.stats.issue_refused_large += 1;
                return Err(PurgeError::TooLarge(bytes));
            }
        }
        let count = purges.len() as u64;
        if count == 0 {
            return Err(PurgeError::Nothing);
        }
        let round = self.round;
        let stream = self
            .streams
            .entry(self.own)
            .or_insert_with(|| Stream::new(round));
        stream.young_from = Some(1);
        if (stream.top - self.sent).saturating_add(count) > OUTBOX_MAX {
            self.stats.issue_refused_busy += 1;
            return Err(PurgeError::Busy);
        }
        let ids = MessageIds {
            stream: self.own,
            first: stream.top + 1,
            last: stream.top + count,
        };
        stream.top = ids.last;
        for set in [&mut stream.known, &mut stream.held, &mut stream.in_flight] {
            set.insert_range(ids.first..=ids.last);
        }
        stream.changed = round;
        stream.last_born = Some(now);
        if self.peers.is_empty() {
            // There is nobody to send them to, now or later: who joins asks for them.
            self.sent = ids.last;
        }
        let issued_ms = now.since(self.opened).as_millis() as u64;
        for (id, purge) in ids.iter().zip(purges) {
            self.store.insert(
                id,
                Held {
                    born: now,
                    issued_ms,
                    purge,
                },
            );
        }
        self.stats.issued += count;
        Ok(ids)
    }

    /// What was issued and not yet sent, as much as fits, behind it the latest earlier messages.
    pub(crate) fn poll_dissemination(&mut self, now: Time) -> Option<Transmit> {
        let top = self.streams.get(&self.own)?.top;
        if self.sent >= top {
            return None;
        }
        if self.peers.is_empty() {
            self.sent = top;
            return None;
        }
        let first = self.sent + 1;
        let mut payload = self.datagram(0);
        self.sent = self.write_own(now, first, top, &mut payload);
        if self.sent == top {
            let from = self.redundant_from(now, first, PLAINTEXT_BYTES_MAX - payload.len());
            if from < first {
                payload.truncate(wire::HEADER_BYTES);
                self.sent = self.write_own(now, from, top, &mut payload);
            }
        }
        self.put_asks(&mut payload);
        Some(Transmit {
            to: To::All,
            payload,
        })
    }

    /// Whether messages of the own stream wait to be disseminated.
    pub(crate) fn has_unsent(&self) -> bool {
        let own = self.streams.get(&self.own);
        own.is_some_and(|stream| self.sent < stream.top)
    }

    /// Appends messages `first..=top` of the own stream, as many as fit; the last one dealt with.
    fn write_own(&mut self, now: Time, first: u64, top: u64, payload: &mut Vec<u8>) -> u64 {
        let stream = self.own;
        let mut writer = DataWriter::new(payload, PLAINTEXT_BYTES_MAX, stream, 0);
        let mut last = first - 1;
        for seq in first..=top {
            // One that was evicted since its issue is in this node's cache; the ones after it must
            // not wait for it.
            if let Fetch::Held(held) = self.store.get(MessageId { stream, seq }) {
                if !writer.push(&wire_message(now, seq, &held)) {
                    break;
                }
            }
            last = seq;
        }
        writer.finish();
        last
    }

    /// Where the latest messages before `first` begin that `room` bytes take.
    fn redundant_from(&mut self, now: Time, first: u64, mut room: usize) -> u64 {
        let mut from = first;
        let earliest = first.saturating_sub(REDUNDANT_MESSAGES_MAX).max(1);
        while from > earliest {
            let id = MessageId {
                stream: self.own,
                seq: from - 1,
            };
            let Fetch::Held(held) = self.store.get(id) else {
                break;
            };
            // More than the message can take, with its numbers at their longest.
            let bytes = held.purge.message_bytes_max();
            if bytes > room || now.since(held.born) > REDUNDANT_AGE_MAX {
                break;
            }
            room -= bytes;
            from -= 1;
        }
        from
    }

    pub(crate) fn handle_data(&mut self, now: Time, from: PeerId, sender: NodeId, data: Data<'_>) {
        if data.stream == self.own {
            let top = self.streams.get(&self.own).map_or(0, |stream| stream.top);
            if data.messages().any(|message| message.seq > top) {
                self.reopen(now, 0);
                return;
            }
        }
        let Some(stream) = self.stream(data.stream) else {
            return;
        };
        if !data.repair() && data.stream.node == sender {
            stream.origin = Some(from);
        }
        let top = stream.top;
        for message in data.messages() {
            self.handle_message(now, data.stream, data.repair(), &message);
        }
        // A gap before what was just disseminated: ask its origin, unless it is mere reordering.
        if let Some(stream) = self.streams.get_mut(&data.stream) {
            let fresh_gap = stream.wanted(top + 1..=u64::MAX).next().is_some();
            if !data.repair() && fresh_gap && stream.origin.is_some() {
                stream.gap_delay = REORDER_DELAY;
                self.arm_gap(now, data.stream);
            }
        }
    }

    fn handle_message(&mut self, now: Time, id: StreamId, repair: bool, message: &WireMessage<'_>) {
        let (ready_count, round) = (self.ready_count, self.round);
        let oldest = self.born_min;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let seq = message.seq;
        if seq < stream.floor || stream.known.contains(seq) {
            self.stats.duplicates += 1;
            return;
        }
        if wire::MESSAGE_OVERHEAD_BYTES + message.body.len() > MESSAGE_BYTES_MAX {
            // It could not be given on as a repair.
            self.stats.oversized += 1;
            return;
        }
        stream.top = stream.top.max(seq);
        stream.changed = round;
        let born = now - Duration::from_millis(message.age_ms);
        stream.last_born = stream.last_born.max(Some(born));
        if born < oldest {
            // And all that was issued before it is older still.
            let skipped = stream.skip_older(seq, born);
            // As many as there are numbers, if need be.
            self.stats.skipped = self.stats.skipped.saturating_add(skipped);
            return;
        }
        if ready_count >= READY_MAX {
            self.stats.deferred += 1;
            return;
        }
        let purge = message.purge();
        stream.known.insert(seq);
        stream.held.insert(seq);
        // A stream that was opened late enough holds nothing that is too old.
        let opened = born - Duration::from_millis(message.issued_ms);
        stream.note_young(if opened >= oldest { 1 } else { seq });
        let message_id = MessageId { stream: id, seq };
        let unsupported_op = match purge {
            Purge::Unknown { op, .. } => Some(op),
            _ => None,
        };
        if unsupported_op.is_some() {
            stream.unsupported.insert(seq);
        } else {
            stream.ready.insert(seq);
            self.ready.insert(id);
            self.ready_count += 1;
        }
        // Whatever a peer says, no sum with it may overflow.
        let issued_ms = message.issued_ms.min(SEQ_MAX);
        self.store.insert(
            message_id,
            Held {
                born,
                issued_ms,
                purge,
            },
        );
        if repair {
            stream.recovered += 1;
            self.stats.recovered += 1;
        } else {
            self.stats.received += 1;
        }
        if let Some(op) = unsupported_op {
            self.stats.unsupported += 1;
            self.emit(Event::UnsupportedOp(message_id, op));
        }
    }

    /// Has the gaps of a stream asked for after the stream's present delay.
    pub(crate) fn arm_gap(&mut self, now: Time, id: StreamId) {
        let jitter = self.jitter(SOLICIT_JITTER);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let due = now + stream.gap_delay + jitter;
        if stream.gap_due.is_none_or(|before| due < before) {
            if let Some(before) = stream.gap_due.replace(due) {
                self.gaps_due.remove(&(before, id));
            }
            self.gaps_due.insert((due, id));
        }
    }

    /// Opens another stream for this node's purges, because somebody else speaks as this node.
    pub(crate) fn reopen(&mut self, now: Time, stamp_heard: u64) {
        if self.reopenings >= REOPENINGS_MAX {
            return;
        }
        self.reopenings += 1;
        self.stats.reopened += 1;
        let from = self.own;
        let elapsed_ms = now.since(self.opened).as_millis() as u64;
        let stamp = from
            .epoch
            .stamp
            .saturating_add(elapsed_ms)
            .max(stamp_heard)
            .saturating_add(1);
        self.own.epoch = Epoch {
            stamp,
            random: self.rng.next_u64(),
        };
        self.opened = now;
        self.sent = 0;
        self.streams.insert(self.own, Stream::new(self.round));
        self.emit(Event::Reopened { from, to: self.own });
    }
}

/// A held message as it travels at `now`.
pub(crate) fn wire_message(now: Time, seq: u64, held: &Held) -> WireMessage<'_> {
    let (op, body) = held.purge.op();
    let age_ms = now.since(held.born).as_millis() as u64;
    WireMessage {
        seq,
        age_ms,
        issued_ms: held.issued_ms,
        op,
        body,
    }
}
