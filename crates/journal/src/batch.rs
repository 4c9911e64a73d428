//! Batches: messages with all that it takes to read them, and each of them with a checksum of its own.
//!
//! A batch is read by the checksum of its frame. When that does not match, [`salvage`] looks for the *records*
//! (messages as they stand in a batch) whose own checksums do. Nothing in a batch is needed by all others and there
//! only once: the *head*, which has the clock anchor, comes again behind the first record, the first two records of
//! a stream say in full which one it is and from where it is counted, and each record counts from there and not from
//! the one before. So a damaged byte costs the record that it is in, or nothing.
//!
//! What is found like that must not be what somebody put into a purge to be found. So bodies are written under a
//! *mask*, the head's checksum again and again, which nobody who sends purges can know: no body has a head, a record
//! or a frame's mark in it by intention. And a record's checksum begins with that of the head and of its stream's
//! *base*, so that no record of another batch passes for one of this.

use powderhorn_protocol::bounds::{DATAGRAM_BYTES_MAX, SEQ_MAX};
use powderhorn_protocol::id::{MessageId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::store::Held;
use powderhorn_protocol::time::Time;

use crate::clock::Anchor;
use crate::format::{
    FRAME_HEAD_BYTES, Reader, begin_frame, end_frame, put_anchor, put_signed, put_stream,
    put_varint,
};

const KIND_BATCH: u8 = 1;

/// Kind 1, anchor 32, checksum of these 4.
const HEAD_BYTES: usize = 37;

/// A batch of a log is closed when its payload has reached this: what is torn off, or cannot be read because
/// both heads are gone, is this and a message at most.
pub const BATCH_BYTES: usize = 4 << 10;
/// The same for a block of a segment: large enough that the index of blocks stays small in memory.
pub const BLOCK_BYTES: usize = 8 << 10;

/// Longest record that is looked for in damaged bytes: a message that fits into a datagram, and what a record adds.
const RECORD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX + 128;

/// Bytes that are checked in vain while damaged bytes are searched for records, for each of them: three times what
/// much damage takes, and little enough for bytes that were made to look like the beginnings of long records.
const SEARCH_BYTES_EACH: usize = 32;

/// Most streams in a batch whose number is believed: so many records fit into none.
const STREAMS_MAX: usize = 1024;

/// Puts a body under the mask, or takes it from there.
fn mask(body: &mut [u8], head: &Head) {
    let mask = head.checksum.to_le_bytes();
    for bytes in body.chunks_mut(mask.len()) {
        for (byte, mask) in bytes.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

/// The checksum of `bytes` behind what has the checksum `before`.
fn checksum(before: u32, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(before);
    crc.update(bytes);
    crc.finalize()
}

/// What begins a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head {
    anchor: Anchor,
    checksum: u32,
}

impl Head {
    fn bytes(anchor: &Anchor) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES);
        out.push(KIND_BATCH);
        put_anchor(&mut out, anchor);
        let checksum = checksum(0, &out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// Reads the head that `bytes` begins with, if its checksum matches.
    fn read(bytes: &[u8]) -> Option<Head> {
        let mut input = Reader(bytes);
        if input.u8()? != KIND_BATCH {
            return None;
        }
        let head = Head {
            anchor: input.anchor()?,
            checksum: input.u32()?,
        };
        let sum = checksum(0, bytes.get(..HEAD_BYTES - 4)?);
        (sum == head.checksum).then_some(head)
    }
}

/// A stream in a batch: its records count from here.
#[derive(Clone, Copy)]
struct Base {
    stream: StreamId,
    seq: u64,
    born: i64,
    issued_ms: u64,
    /// The checksum of the head and of this.
    checksum: u32,
}

impl Base {
    fn put(&self, out: &mut Vec<u8>, head: &Head) {
        put_stream(out, self.stream);
        put_varint(out, self.seq);
        put_signed(out, self.born.wrapping_sub(head.anchor.boot.as_us()));
        put_varint(out, self.issued_ms);
    }

    fn read(input: &mut Reader, head: &Head) -> Option<Base> {
        let begin = input.0;
        let mut base = Base {
            stream: input.stream()?,
            seq: input.varint()?,
            born: head.anchor.boot.as_us().wrapping_add(input.signed()?),
            issued_ms: input.varint()?,
            checksum: 0,
        };
        base.checksum = checksum(
            head.checksum,
            begin.get(..begin.len() - input.0.len()).unwrap_or(&[]),
        );
        Some(base)
    }
}

/// Writes batches. Born times are those of the anchor's boot clock.
pub struct BatchWriter {
    start: usize,
    head: Head,
    messages: usize,
    /// The streams, and how many records each has.
    streams: Vec<(Base, usize)>,
    /// A record without its body, while it is written.
    fields: Vec<u8>,
}

impl BatchWriter {
    /// Opens a batch at the end of `out`.
    pub fn begin(out: &mut Vec<u8>, anchor: &Anchor) -> BatchWriter {
        let start = begin_frame(out);
        let head = Head::bytes(anchor);
        out.extend_from_slice(&head);
        BatchWriter {
            start,
            head: Head {
                anchor: *anchor,
                checksum: checksum(0, head.get(..HEAD_BYTES - 4).unwrap_or(&[])),
            },
            messages: 0,
            streams: Vec::new(),
            fields: Vec::with_capacity(128),
        }
    }

    /// Appends a message.
    pub fn push(&mut self, out: &mut Vec<u8>, id: MessageId, held: &Held) {
        if self.messages == 1 {
            out.extend_from_slice(&Head::bytes(&self.head.anchor));
        }
        self.messages += 1;
        let fields = &mut self.fields;
        fields.clear();
        // Most messages are of the stream that was used last, or one of few.
        let known = self
            .streams
            .iter()
            .rposition(|(base, _)| base.stream == id.stream);
        let place = known.unwrap_or_else(|| {
            let mut base = Base {
                stream: id.stream,
                seq: id.seq,
                born: held.born.as_us(),
                issued_ms: held.issued_ms,
                checksum: 0,
            };
            base.put(fields, &self.head);
            base.checksum = checksum(self.head.checksum, fields);
            fields.clear();
            self.streams.push((base, 0));
            self.streams.len() - 1
        });
        let (base, records) = &mut self.streams[place];
        let full = *records < 2;
        *records += 1;
        put_varint(fields, ((place as u64) << 1) | u64::from(full));
        if full {
            base.put(fields, &self.head);
        }
        let (op, body) = held.purge.op();
        put_signed(fields, id.seq.wrapping_sub(base.seq) as i64);
        put_signed(fields, held.born.as_us().wrapping_sub(base.born));
        put_signed(fields, held.issued_ms.wrapping_sub(base.issued_ms) as i64);
        put_varint(fields, u64::from(op));
        let start = out.len();
        put_varint(out, (fields.len() + body.len()) as u64);
        out.extend_from_slice(fields);
        let at = out.len();
        out.extend_from_slice(body);
        mask(&mut out[at..], &self.head);
        let sum = checksum(base.checksum, &out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }

    /// Bytes of the payload so far.
    pub fn bytes(&self, out: &[u8]) -> usize {
        out.len() - self.start - FRAME_HEAD_BYTES
    }

    /// Closes the batch; how long its frame is.
    pub fn end(self, out: &mut [u8]) -> usize {
        end_frame(out, self.start)
    }
}

/// What a batch has. Born times are those of the anchor's boot clock.
#[derive(Debug)]
pub struct Batch {
    /// When it was written.
    pub anchor: Anchor,
    /// Its messages, in the order in which they were written.
    pub messages: Vec<(MessageId, Held)>,
}

/// Reads a frame's payload as a batch; `None` if it is something else.
pub fn read_batch(payload: &[u8]) -> Option<Batch> {
    let mut records = Records::new(Head::read(payload)?);
    let head = payload.get(..HEAD_BYTES)?;
    let mut rest = payload.get(HEAD_BYTES..)?;
    let mut messages = Vec::new();
    while !rest.is_empty() {
        if messages.len() == 1 {
            rest = rest.strip_prefix(head)?;
        }
        // The frame's checksum was right, so theirs are.
        let (message, bytes) = records.read(rest, false)?;
        messages.push(message);
        rest = rest.get(bytes..)?;
    }
    Some(Batch {
        anchor: records.head.anchor,
        messages,
    })
}

/// Finds what is whole in bytes that once were frames of batches.
pub fn salvage(bytes: &[u8]) -> Vec<Batch> {
    search(bytes).0
}

/// The same, and how many bytes were checked in vain.
fn search(bytes: &[u8]) -> (Vec<Batch>, usize) {
    let mut batches: Vec<Batch> = Vec::new();
    let mut records: Option<Records> = None;
    let mut rest = bytes;
    let allowance = bytes.len().saturating_mul(SEARCH_BYTES_EACH);
    let (mut in_vain, mut follows) = (0, false);
    while !rest.is_empty() {
        let mut step = 1;
        if let Some(head) = Head::read(rest) {
            (step, follows) = (HEAD_BYTES, true);
            // The same again goes on with the same streams.
            if records.as_ref().is_none_or(|records| records.head != head) {
                records = Some(Records::new(head));
                let messages = Vec::new();
                let anchor = head.anchor;
                batches.push(Batch { anchor, messages });
            }
        } else if let (Some(records), Some(batch)) = (&mut records, batches.last_mut()) {
            // When too much was checked, records are read where they have to be: behind a head or a record.
            if std::mem::take(&mut follows) || in_vain < allowance {
                let here = rest.get(..RECORD_BYTES_MAX).unwrap_or(rest);
                match records.read(here, true) {
                    Some((message, bytes)) => {
                        (step, follows) = (bytes, true);
                        batch.messages.push(message);
                    }
                    None => in_vain += std::mem::take(&mut records.checked),
                }
            }
        }
        rest = rest.get(step..).unwrap_or(&[]);
    }
    batches.retain(|batch| !batch.messages.is_empty());
    (batches, in_vain)
}

/// Reads records.
struct Records {
    head: Head,
    /// The bases that were found, by number.
    streams: Vec<Option<Base>>,
    /// A body without its mask.
    body: Vec<u8>,
    /// Bytes that the last checksum took.
    checked: usize,
}

impl Records {
    fn new(head: Head) -> Records {
        Records {
            head,
            streams: Vec::new(),
            body: Vec::new(),
            checked: 0,
        }
    }

    /// Reads the record that `bytes` begins with, and how long it is; `check`: only if its checksum matches.
    fn read(&mut self, bytes: &[u8], check: bool) -> Option<((MessageId, Held), usize)> {
        self.checked = 0;
        let mut input = Reader(bytes);
        let len = usize::try_from(input.varint()?).ok()?;
        let mut fields = Reader(input.take(len)?);
        let summed = bytes.len() - input.0.len();
        let sum = input.u32()?;
        let place = fields.varint()?;
        let (place, full) = (usize::try_from(place >> 1).ok()?, place & 1 == 1);
        let base = if full {
            Base::read(&mut fields, &self.head)?
        } else {
            *self.streams.get(place)?.as_ref()?
        };
        if place >= STREAMS_MAX {
            return None;
        }
        if check {
            self.checked = summed;
            if checksum(base.checksum, bytes.get(..summed)?) != sum {
                return None;
            }
        }
        if full {
            if self.streams.len() <= place {
                self.streams.resize(place + 1, None);
            }
            *self.streams.get_mut(place)? = Some(base);
        }
        let seq = base.seq.wrapping_add(fields.signed()? as u64);
        if !(1..=SEQ_MAX).contains(&seq) {
            return None;
        }
        let id = MessageId {
            stream: base.stream,
            seq,
        };
        let born = base.born.wrapping_add(fields.signed()?);
        let issued_ms = base.issued_ms.wrapping_add(fields.signed()? as u64);
        let op = u16::try_from(fields.varint()?).ok()?;
        self.body.clear();
        self.body.extend_from_slice(fields.0);
        mask(&mut self.body, &self.head);
        let held = Held {
            born: Time::from_us(born),
            issued_ms,
            purge: Purge::from_op(op, &self.body),
        };
        Some(((id, held), summed + 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use powderhorn_protocol::id::{Epoch, NodeId};

    const ANCHOR: Anchor = Anchor {
        boot_id: [7; 16],
        boot: Time::from_us(5_000_000_000),
        wall_ms: 1_700_000_000_000,
    };

    fn stream(n: u64) -> StreamId {
        let (stamp, random) = (1_700_000_000_000 + n, n.wrapping_mul(0x9e37_79b9));
        let epoch = Epoch { stamp, random };
        let node = NodeId(n);
        StreamId { node, epoch }
    }

    /// Messages of three streams; a few bodies are long.
    fn messages(count: u64) -> Vec<(MessageId, Held)> {
        let message = |n: u64| {
            let seq = 1_000_000 + n;
            let stream = stream(n * n % 3);
            let purge = match n % 7 {
                0 => {
                    let body = vec![n as u8; (n * 13 % 400) as usize].into();
                    Purge::Unknown { op: 999, body }
                }
                _ => Purge::Digest([n as u8; 32]),
            };
            let held = Held {
                born: Time::from_us(4_999_000_000 + n as i64 * 1_001),
                issued_ms: 77_000 + n,
                purge,
            };
            (MessageId { stream, seq }, held)
        };
        (0..count).map(message).collect()
    }

    fn write(messages: &[(MessageId, Held)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut batch = BatchWriter::begin(&mut out, &ANCHOR);
        for (id, held) in messages {
            batch.push(&mut out, *id, held);
        }
        batch.end(&mut out);
        out
    }

    fn saved(bytes: &[u8]) -> Vec<(MessageId, Held)> {
        let batches = salvage(bytes).into_iter();
        batches.flat_map(|batch| batch.messages).collect()
    }

    /// How many are missing; nothing else may be there, and nothing twice or elsewhere.
    fn missing(bytes: &[u8], written: &[(MessageId, Held)], what: &str) -> usize {
        let saved = saved(bytes);
        let mut rest = written.iter();
        for message in &saved {
            assert!(rest.any(|other| other == message), "{what}: {message:?}");
        }
        written.len() - saved.len()
    }

    #[test]
    fn what_was_written_is_read() {
        for count in [0, 1, 2, 3, 200] {
            let written = messages(count);
            let bytes = write(&written);
            let payload = crate::format::read_frame(&bytes).expect("a frame");
            let batch = read_batch(payload).expect("a batch");
            assert_eq!(batch.anchor, ANCHOR);
            assert_eq!(batch.messages, written);
            assert_eq!(saved(&bytes), written);
        }
    }

    #[test]
    fn each_byte_that_changes_costs_one_message_at_most() {
        for count in [1, 2, 5, 90] {
            let written = messages(count);
            let bytes = write(&written);
            let mut lost = 0;
            for at in 0..bytes.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] ^= flip;
                    let what = format!("byte {at} of {count} messages");
                    let missing = missing(&changed, &written, &what);
                    assert!(missing <= 1, "{what}: {missing} are lost");
                    assert!(at >= FRAME_HEAD_BYTES || missing == 0, "{what}");
                    lost += missing;
                }
            }
            // All but the frame's head and, if there are two, the batch's.
            let heads = FRAME_HEAD_BYTES + if count > 1 { HEAD_BYTES } else { 0 };
            assert!(lost >= 3 * (bytes.len() - heads - HEAD_BYTES), "{lost}");
        }
    }

    #[test]
    fn bytes_that_go_or_come_cost_what_they_touch() {
        let written = messages(60);
        let bytes = write(&written);
        for at in (0..bytes.len() - 100).step_by(7) {
            let (mut cut, mut grown) = (bytes.clone(), bytes.clone());
            cut.drain(at..at + 100);
            grown.splice(at..at, [0x55; 100]);
            let cut = missing(&cut, &written, &format!("cut at {at}"));
            let grown = missing(&grown, &written, &format!("grown at {at}"));
            // 100 bytes reach into four records; at the beginning they may take both heads, or both records
            // that name a stream.
            assert!(cut <= 4 || at < 300, "byte {at}: {cut}");
            assert!(grown <= 1, "byte {at}: {grown}");
        }
    }

    #[test]
    fn a_body_never_passes_for_a_record() {
        let inner = write(&messages(30));
        let (id, mut held) = messages(1).remove(0);
        held.purge = Purge::Unknown {
            op: 999,
            body: inner[..1_000].to_vec().into(),
        };
        let written = vec![(id, held)];
        let later = Anchor {
            boot: Time::from_us(5_000_000_001),
            ..ANCHOR
        };
        let mut out = Vec::new();
        let mut batch = BatchWriter::begin(&mut out, &later);
        batch.push(&mut out, written[0].0, &written[0].1);
        batch.end(&mut out);
        assert_eq!(saved(&out), written);
        // Its length is damaged, so that the search goes into its body.
        out[FRAME_HEAD_BYTES + HEAD_BYTES] ^= 1;
        assert_eq!(saved(&out), []);
        assert!(!out[4..].windows(4).any(|bytes| bytes == &inner[..4]));
    }

    /// Each third byte begins what may be a record of a kilobyte: without a bound all of them are checked.
    #[test]
    fn bytes_made_to_look_like_records_take_no_more_than_so_much_for_each() {
        let (written, later) = (messages(40), messages(90));
        let whole = write(&written);
        let crafted = [0xff, 0x07, 0x00].repeat(20_000);
        let mut bytes = [&whole[..], &crafted].concat();
        let (_, in_vain) = search(&bytes);
        let allowed = SEARCH_BYTES_EACH * bytes.len();
        assert!(in_vain > allowed - RECORD_BYTES_MAX, "{in_vain}");
        assert!(in_vain < allowed + RECORD_BYTES_MAX, "{in_vain}");
        // What stands behind them where it should is found all the same.
        bytes.extend(write(&later));
        let found: Vec<_> = saved(&bytes);
        assert_eq!(found, [written, later].concat());
    }

    #[test]
    fn damage_does_not_use_up_what_may_be_checked() {
        let written = messages(200);
        let mut bytes = write(&written);
        for at in (FRAME_HEAD_BYTES..bytes.len()).step_by(40) {
            bytes[at] ^= 0x55;
        }
        let (_, in_vain) = search(&bytes);
        let allowed = SEARCH_BYTES_EACH * bytes.len();
        assert!(in_vain < allowed / 2, "{in_vain} of {allowed}");
    }

    #[test]
    fn a_record_is_read_with_its_own_stream_only() {
        // Two blocks of a segment have the same head, and each calls its stream number 0.
        let of = |n: u64| -> Vec<_> {
            let mut all = messages(40);
            all.iter_mut().for_each(|(id, _)| id.stream = stream(n));
            all
        };
        let (first, second) = (of(1), of(2));
        let mut bytes = write(&first);
        let end = bytes.len();
        bytes.extend(write(&second));
        // All that says in full which stream the second block is of.
        bytes[end..end + 300].fill(0);
        let saved = saved(&bytes);
        assert_eq!(saved, first);
    }
}
