//! Bugs on purpose, so that the swarm can be seen to find what it is for. Each sits where the simulator
//! drives the cores; the cores are the production ones. And the check that only such a bug can fail.

use powderhorn_protocol::Core;
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::wire::{self, Datagram, DigestEntry, EntryWriter, Frame, RunKind};
use rand::rngs::StdRng;

/// A bug to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Bug {
    /// A node that starts again issues under the epoch of its last life.
    EpochReuse,
    /// Digests say that missing messages are held.
    OverclaimedDigest,
    /// A purge that the cache failed to apply is never said to have failed.
    ForgottenInFlight,
}

/// Has a datagram say what a core with this bug would say.
pub fn corrupt(bug: Bug, payload: &mut Vec<u8>) {
    if bug != Bug::OverclaimedDigest {
        return;
    }
    let Ok(datagram) = Datagram::parse(payload) else {
        return;
    };
    let mut out = Vec::with_capacity(payload.len());
    datagram.header.encode(&mut out);
    for frame in datagram.frames() {
        match frame {
            Frame::Digest(digest) => {
                let echo = (digest.echo_round, digest.echo_delay_us);
                wire::put_digest(&mut out, digest.flags, digest.round, echo, |out| {
                    digest
                        .entries()
                        .for_each(|entry| overclaim(&entry).encode(out));
                });
            }
            other => other.encode(&mut out),
        }
    }
    *payload = out;
}

/// The entry with all that it says to be missing said to be held, but for its open end.
fn overclaim(entry: &DigestEntry<'_>) -> EntryWriter {
    let mut runs: Vec<(RunKind, u64)> = Vec::new();
    let open = entry.flags & DigestEntry::OPEN != 0;
    let said: Vec<_> = entry.runs().collect();
    let count = said.len() - usize::from(open);
    for (kind, range) in said.into_iter().take(count) {
        let kind = match kind {
            RunKind::Missing => RunKind::Held,
            other => other,
        };
        let len = range.end() - range.start() + 1;
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
