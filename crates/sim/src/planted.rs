//! Bugs on purpose, so that the swarm can be seen to find what it is for. Each sits where the simulator
//! drives the cores; the cores are the production ones. And the check that only such a bug can fail.

use std::time::Duration;

use powderhorn_protocol::Core;
use powderhorn_protocol::id::StreamId;
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::wire::{
    self, Datagram, Digest, DigestEntry, EntryWriter, Floor, Frame, RunKind,
};
use rand::rngs::StdRng;

/// A bug to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bug {
    /// A node that starts again issues under the epoch of its last life.
    EpochReuse,
    /// Digests say that missing messages are held.
    OverclaimedDigest,
    /// Digests say that the older half of what they speak of has expired.
    OverclaimedFloor,
    /// Who asks for messages is told that they are older than it wants.
    OverclaimedAnswer,
    /// A purge that the cache failed to apply is never said to have failed.
    ForgottenInFlight,
    /// A flush is said to be done and is not.
    ForgottenFlush,
    /// The cache of a node that has heard nothing for [`SILENCE`] is flushed.
    NeedlessFlush,
    /// Messages are forgotten after half of the retention.
    ShortMemory,
    /// Messages are held for twice the retention.
    LongMemory,
}

/// After which a node with [`Bug::NeedlessFlush`] flushes its cache.
pub const SILENCE: Duration = Duration::from_secs(30);

/// Has a datagram say what a core with this bug would say.
pub fn corrupt(bug: Bug, payload: &mut Vec<u8>) {
    let of_digests = [
        Bug::OverclaimedDigest,
        Bug::OverclaimedFloor,
        Bug::OverclaimedAnswer,
    ];
    if !of_digests.contains(&bug) {
        return;
    }
    let Ok(datagram) = Datagram::parse(payload) else {
        return;
    };
    let mut out = Vec::with_capacity(payload.len());
    datagram.header.encode(&mut out);
    for frame in datagram.frames() {
        match (bug, frame) {
            (Bug::OverclaimedDigest, Frame::Digest(digest)) => {
                put_digest(&mut out, &digest, overclaim);
            }
            (Bug::OverclaimedFloor, Frame::Digest(digest)) => {
                put_digest(&mut out, &digest, raise_floor);
            }
            (Bug::OverclaimedAnswer, Frame::Data(data)) if data.repair() => {
                let last = data.messages().last().map_or(0, |message| message.seq);
                let stream = data.stream;
                let seq = last + 1;
                Frame::Floor(Floor {
                    flags: 0,
                    stream,
                    seq,
                })
                .encode(&mut out);
            }
            (_, other) => other.encode(&mut out),
        }
    }
    *payload = out;
}

/// The digest with its entries changed.
fn put_digest(out: &mut Vec<u8>, digest: &Digest<'_>, change: fn(&DigestEntry<'_>) -> EntryWriter) {
    let echo = (digest.echo_round, digest.echo_delay_us);
    wire::put_digest(out, digest.flags, digest.round, echo, |out| {
        digest
            .entries()
            .for_each(|entry| change(&entry).encode(out));
    });
}

/// The entry with the older half of its messages said to have expired.
fn raise_floor(entry: &DigestEntry<'_>) -> EntryWriter {
    let said = closed_runs(entry);
    let mut gone = said.iter().map(|(_, len)| len).sum::<u64>() / 2;
    let mut flags = entry.flags;
    if gone > 0 {
        flags |= DigestEntry::EXPIRED_BELOW;
    }
    let start = entry.start + gone;
    let mut runs = Vec::new();
    for (kind, len) in said {
        let cut = gone.min(len);
        gone -= cut;
        if len > cut {
            runs.push((kind, len - cut));
        }
    }
    EntryWriter {
        stream: entry.stream,
        flags,
        start,
        runs,
    }
}

/// Kinds and lengths of the runs of an entry, but for its open end.
fn closed_runs(entry: &DigestEntry<'_>) -> Vec<(RunKind, u64)> {
    let open = entry.flags & DigestEntry::OPEN != 0;
    let runs = entry.runs();
    let mut runs: Vec<_> = runs
        .map(|(kind, range)| (kind, range.end() - range.start() + 1))
        .collect();
    runs.truncate(runs.len() - usize::from(open));
    runs
}

/// The entry with all that it says to be missing said to be held, but for its open end.
fn overclaim(entry: &DigestEntry<'_>) -> EntryWriter {
    let mut runs: Vec<(RunKind, u64)> = Vec::new();
    for (kind, len) in closed_runs(entry) {
        let kind = match kind {
            RunKind::Missing => RunKind::Held,
            other => other,
        };
        match runs.last_mut() {
            Some((last, sum)) if *last == kind => *sum += len,
            _ => runs.push((kind, len)),
        }
    }
    EntryWriter {
        stream: entry.stream,
        flags: entry.flags,
        start: entry.start,
        runs,
    }
}

/// What a digest in this datagram claims that its sender does not hold, if it does.
pub fn false_claim(core: &Core<MemoryStore, StdRng>, payload: &[u8]) -> Option<String> {
    let datagram = Datagram::parse(payload).ok()?;
    for frame in datagram.frames() {
        let Frame::Digest(digest) = frame else {
            continue;
        };
        for entry in digest.entries() {
            let view = core.streams().find(|view| view.id == entry.stream);
            for (kind, range) in entry.runs() {
                if kind != RunKind::Held {
                    continue;
                }
                // A digest is built when a round begins and sent a moment later.
                let holds = |range: &std::ops::RangeInclusive<u64>| {
                    let view = view.as_ref()?;
                    Some(view.held.gaps(range.clone()).next().is_none())
                };
                if holds(&range) != Some(true) {
                    return Some(format!("{} {range:?}", entry.stream));
                }
            }
        }
    }
    None
}

/// The streams of which a digest in this datagram says that all below a seq has expired, and that seq.
pub fn claimed_floors(payload: &[u8]) -> Vec<(StreamId, u64)> {
    let mut floors = Vec::new();
    let Ok(datagram) = Datagram::parse(payload) else {
        return floors;
    };
    for frame in datagram.frames() {
        let Frame::Digest(digest) = frame else {
            continue;
        };
        let expired = |entry: &DigestEntry<'_>| {
            entry.flags & DigestEntry::EXPIRED_BELOW != 0 && entry.start > 1
        };
        let entries = digest.entries().filter(expired);
        floors.extend(entries.map(|entry| (entry.stream, entry.start)));
    }
    floors
}
