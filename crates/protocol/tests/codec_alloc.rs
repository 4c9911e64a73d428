//! What bytes from the network can make a node allocate. A test binary of its own, because it
//! counts what the allocator is asked for.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::puppet::{Puppet, Tell, put_message};
use common::{make_core, start_of_time};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::wire::{self, Datagram, EntryWriter, Frame, RunKind};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

struct Counting;

thread_local! {
    static TOTAL: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(added: isize) {
    // The thread's cells may be gone while the thread ends.
    let _ = TOTAL.try_with(|total| total.set(total.get() + added.max(0) as usize));
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + added);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call is handed to the system's allocator as it is; counting allocates nothing,
// because the cells are initialised at compile time and need no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises about `ptr` and `layout` are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Cost {
    /// Bytes asked for, all together.
    total: usize,
    /// Most bytes in use at a time beyond what was before.
    peak: usize,
}

fn cost_of<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (total, live) = (TOTAL.get(), LIVE.get());
    PEAK.set(live);
    let value = work();
    let cost = Cost {
        total: TOTAL.get() - total,
        peak: (PEAK.get() - live).max(0) as usize,
    };
    (value, cost)
}

/// Reads everything that is in a datagram.
fn walk(datagram: &Datagram<'_>) -> u64 {
    let mut sum = 0u64;
    for frame in datagram.frames() {
        match frame {
            Frame::Data(data) => {
                for message in data.messages() {
                    // A purge that is kept is copied out of the datagram.
                    sum = sum.wrapping_add(message.seq + message.purge().op().1.len() as u64);
                }
            }
            Frame::Digest(digest) => {
                for (_, range) in digest.entries().flat_map(|entry| entry.runs()) {
                    sum = sum.wrapping_add(*range.end());
                }
            }
            Frame::Solicit(solicit) => {
                for range in solicit.entries().flat_map(|entry| entry.ranges()) {
                    sum = sum.wrapping_add(*range.end());
                }
            }
            _ => sum = sum.wrapping_add(1),
        }
    }
    sum
}

fn stream(n: u64) -> StreamId {
    StreamId {
        node: NodeId(n),
        epoch: Epoch {
            stamp: n,
            random: n,
        },
    }
}

/// Frames that claim the most in the fewest bytes.
fn greedy_frames(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    // As many runs as fit, in one entry.
    let mut out = Vec::new();
    wire::put_digest(&mut out, 0, 1, (0, 0), |out| {
        let runs = (0..1_100).map(|i| {
            let kind = [RunKind::Held, RunKind::Missing][i % 2];
            (kind, 1)
        });
        EntryWriter {
            stream: stream(1),
            flags: 0,
            start: 1,
            runs: runs.collect(),
        }
        .encode(out);
    });
    frames.push(out);
    // As many entries as fit, each claiming nearly all numbers.
    let mut out = Vec::new();
    wire::put_digest(&mut out, 0, 1, (0, 0), |out| {
        for n in 0..28 {
            EntryWriter {
                stream: stream(n),
                flags: 3,
                start: 1,
                runs: vec![(RunKind::Held, 1 << 61)],
            }
            .encode(out);
        }
    });
    frames.push(out);
    // As many ranges as fit.
    let mut entries = Vec::new();
    wire::put_solicit_entry(&mut entries, stream(1), (1..=550).map(|n| 2 * n..=2 * n));
    let mut out = Vec::new();
    wire::put_solicit(&mut out, 0, 0, u64::MAX, &entries);
    frames.push(out);
    let mut entries = Vec::new();
    for n in 0..30 {
        wire::put_solicit_entry(&mut entries, stream(n), std::iter::once(1..=1 << 61));
    }
    let mut out = Vec::new();
    wire::put_solicit(&mut out, 0, 0, u64::MAX, &entries);
    frames.push(out);
    // As many messages as fit: five bytes each.
    let mut out = Vec::new();
    let mut writer = wire::DataWriter::new(&mut out, 1_150, stream(1), 1);
    let mut seq = 0;
    let empty = |seq| wire::WireMessage {
        seq,
        age_ms: 0,
        issued_ms: 0,
        op: 77,
        body: &[],
    };
    while writer.push(&empty(seq + 2)) {
        seq += 2;
    }
    writer.finish();
    frames.push(out);
    // Floors, and frames of nothing.
    let mut out = Vec::new();
    for n in 0..32 {
        Frame::Floor(wire::Floor {
            flags: rng.random(),
            stream: stream(n),
            seq: rng.random_range(1..1 << 62),
        })
        .encode(&mut out);
    }
    frames.push(out);
    frames.push([200, 0, 0].repeat(380));
    frames
}

#[test]
fn decoding_allocates_at_most_four_times_its_input() {
    let mut rng = StdRng::seed_from_u64(1);
    let (mut parsed, mut worst) = (0, 0.0f64);
    for round in 0..500 {
        for frames in greedy_frames(&mut rng) {
            let mut bytes = vec![0; wire::HEADER_BYTES];
            rng.fill_bytes(&mut bytes);
            bytes.extend_from_slice(&frames);
            // The first as they are, then changed here and there, then noise.
            for _ in 0..round.min(4) {
                let index = rng.random_range(0..bytes.len());
                bytes[index] = rng.random();
            }
            if round > 300 {
                rng.fill_bytes(&mut bytes[wire::HEADER_BYTES + 3..]);
            }
            let (walked, cost) = cost_of(|| Datagram::parse(&bytes).map(|d| walk(&d)));
            parsed += usize::from(walked.is_ok());
            worst = worst.max(cost.total as f64 / bytes.len() as f64);
        }
    }
    assert!(parsed > 100, "{parsed}");
    assert!(worst <= 4.0, "{worst} times the input");
    println!("decoding allocated at most {worst:.3} times its input");
}

#[test]
fn the_cost_of_a_hostile_datagram_is_bounded_by_its_size() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    puppet.take(&mut core, now);
    let mut rng = StdRng::seed_from_u64(2);
    // Ten thousand gaps to compare claims with.
    for seq in 1..=2_000u64 {
        let id = MessageId {
            stream: stream(1),
            seq: seq * 3,
        };
        puppet.say(&mut core, now, |out| put_message(out, id, Tell::default()));
    }
    while core.poll_delivery(now).is_some() {}
    puppet.take(&mut core, now);
    puppet.inbox.clear();
    let mut worst = 0;
    for _ in 0..20 {
        for frames in greedy_frames(&mut rng) {
            let bytes = puppet.datagram(|out| out.extend_from_slice(&frames));
            let (_, cost) = cost_of(|| core.handle_datagram(now, puppet.peer, &bytes));
            worst = worst.max(cost.peak);
        }
    }
    println!("a hostile datagram of 1,187 bytes took {worst} bytes at most");
    assert!(worst < 256 << 10, "{worst}");
}
