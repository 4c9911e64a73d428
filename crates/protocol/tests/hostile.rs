//! A member that lies: it has the key and a proven session, and says whatever it likes. It can
//! waste bandwidth up to the budgets. It must not stop the others' purges, make them skip anything
//! that they want, crash them, or keep them busy.

mod common;

use std::time::Duration;

use common::puppet::{Puppet, Tell, claims, drain, holds, put_message};
use common::{Fleet, disseminates, make_core, ms, secs, start_of_time};
use powderhorn_protocol::bounds::{EVENTS_MAX, SEQ_MAX, STREAMS_MAX};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::wire::{self, Floor, Frame, RunKind};
use powderhorn_protocol::{Event, Knowledge, Outcome};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

fn stream(n: u64) -> StreamId {
    StreamId {
        node: NodeId(n),
        epoch: Epoch {
            stamp: n,
            random: n,
        },
    }
}

/// Anything that a liar can say about a stream, but two things: messages in the name of another
/// node, and that what was asked for is too old to be wanted. These a fleet believes everybody who
/// has its key, or nobody could repair what is another's.
fn lies(rng: &mut StdRng, stream: StreamId, made_up: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let seq = match rng.random_range(0..4) {
        0 => SEQ_MAX,
        1 => SEQ_MAX - rng.random_range(0..3u64),
        2 => rng.random_range(1..SEQ_MAX),
        _ => rng.random_range(1..1_000),
    };
    let kinds = if made_up { 6 } else { 4 };
    match rng.random_range(0..kinds) {
        0 => wire::put_digest(
            &mut out,
            0,
            rng.random(),
            (rng.random(), rng.random()),
            |out| {
                holds(stream, 1..=seq).encode(out);
            },
        ),
        1 => wire::put_digest(&mut out, 0xff, 1, (0, 0), |out| {
            claims(stream, seq, vec![(RunKind::Held, SEQ_MAX - seq + 1)]).encode(out);
            claims(stream, 1, vec![(RunKind::Missing, SEQ_MAX)]).encode(out);
        }),
        2 => {
            let mut entries = Vec::new();
            wire::put_solicit_entry(&mut entries, stream, std::iter::once(1..=SEQ_MAX));
            wire::put_solicit(&mut out, 0, rng.random(), rng.random(), &entries);
        }
        4 => Frame::Floor(Floor {
            flags: rng.random(),
            stream,
            seq,
        })
        .encode(&mut out),
        5 => {
            let tell = Tell {
                op: 999,
                body: &[],
                age_ms: if rng.random() { 0 } else { rng.random() },
                issued_ms: if rng.random() { 0 } else { rng.random() },
                repair: rng.random(),
            };
            put_message(&mut out, MessageId { stream, seq }, tell);
        }
        _ => {
            out.extend_from_slice(&[rng.random_range(7..=255), 20, 0]);
            let mut body = [0; 20];
            rng.fill_bytes(&mut body);
            out.extend_from_slice(&body);
        }
    }
    out
}

#[test]
fn a_lying_member_does_not_stop_the_others() {
    for seed in 0..4 {
        let mut fleet = Fleet::new(seed, 4, &Config::default());
        fleet.settle();
        let mut liars: Vec<Puppet> = (0..4)
            .map(|index| fleet.add_puppet(index, 100 + index as u32))
            .collect();
        let mut rng = StdRng::seed_from_u64(seed);
        fleet.issue(0);
        for step in 0..300 {
            let known: Vec<StreamId> = fleet.issued.keys().map(|id| id.stream).collect();
            for (index, liar) in liars.iter_mut().enumerate() {
                // About streams that are, this node's own among them, and about ones that are not.
                let made_up = rng.random_bool(0.3);
                let about = if made_up {
                    stream(rng.random_range(0..50))
                } else {
                    known[rng.random_range(0..known.len())]
                };
                let lie = lies(&mut rng, about, made_up);
                let now = fleet.now;
                let core = &mut fleet.nodes[index].core;
                liar.say(core, now, |out| out.extend_from_slice(&lie));
                fleet.pump(index);
            }
            if step % 3 == 0 {
                fleet.issue(step % 4);
            }
            fleet.run(ms(10));
        }
        fleet.converge(secs(10));
        // Also what is lost on the way is still mended, through all that nonsense.
        fleet.filter = Some(Box::new(|_, to, bytes| to != 2 || !disseminates(bytes)));
        for n in 0..20 {
            fleet.issue([0, 1, 3][n % 3]);
            fleet.run(ms(20));
        }
        fleet.converge(secs(10));
        fleet.assert_applied_once();
    }
}

/// What it takes a core to work through hostile datagrams, in all and at most.
#[expect(
    clippy::disallowed_methods,
    reason = "measures the machine's time, not the fleet's"
)]
fn clock() -> std::time::Instant {
    std::time::Instant::now()
}

#[test]
fn hostile_datagrams_cost_bounded_time() {
    let mut now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    let mut rng = StdRng::seed_from_u64(1);
    // A stream with ten thousand gaps, so that claims have much to be compared with.
    for n in 0..10_000u64 {
        let id = MessageId {
            stream: stream(1),
            seq: 3 * n + 1,
        };
        puppet.tell(&mut core, now, id, Tell::default());
    }
    while core.poll_delivery(now).is_some() {}
    drain(&mut core, now);
    let whole = |kind: RunKind| claims(stream(1), 1, vec![(kind, SEQ_MAX)]);
    let comb = |step: u64| {
        let runs = (0..500).map(|i| ([RunKind::Held, RunKind::Missing][i % 2], step));
        claims(stream(1), 1, runs.collect())
    };
    let started = clock();
    let mut sent = 0;
    const COUNT: u64 = 2_000;
    for n in 0..COUNT {
        now = now + Duration::from_micros(50);
        match n % 8 {
            0 => puppet.digest(&mut core, now, n, &vec![whole(RunKind::Held); 25]),
            1 => puppet.digest(&mut core, now, n, &vec![whole(RunKind::Missing); 25]),
            2 => puppet.digest(&mut core, now, n, &[comb(1)]),
            3 => puppet.digest(&mut core, now, n, &[comb(1 << 40)]),
            4 => puppet.say(&mut core, now, |out| {
                let mut entries = Vec::new();
                for _ in 0..25 {
                    wire::put_solicit_entry(&mut entries, stream(1), std::iter::once(1..=SEQ_MAX));
                }
                wire::put_solicit(out, 0, 0, u64::MAX, &entries);
            }),
            5 => puppet.say(&mut core, now, |out| {
                for _ in 0..30 {
                    let (stream, seq) = (stream(1), rng.random_range(1..SEQ_MAX));
                    let flags = rng.random();
                    Frame::Floor(Floor { flags, stream, seq }).encode(out);
                }
            }),
            6 => {
                let ranges: Vec<_> = (1..500u64).map(|n| 6 * n..=6 * n + 2).collect();
                puppet.solicit(&mut core, now, 0, stream(1), &ranges);
            }
            _ => puppet.tell(
                &mut core,
                now,
                MessageId {
                    stream: stream(2),
                    seq: rng.random_range(1..SEQ_MAX),
                },
                Tell::default(),
            ),
        }
        core.handle_timeout(now);
        sent += drain(&mut core, now).len();
    }
    let each = started.elapsed() / COUNT as u32;
    println!("{each:?} for each of {COUNT} hostile datagrams; {sent} datagrams sent");
    // Tens of microseconds when optimized; generous, because machines are loaded.
    assert!(each < ms(20), "{each:?}");
    // And what it gets out of it is within the budget of a round or so.
    assert!(sent < 2_000, "{sent}");
}

#[test]
fn made_up_streams_are_bounded_and_reported() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    let count = STREAMS_MAX as u64 + 5_000;
    for chunk in (0..count).collect::<Vec<_>>().chunks(30) {
        let entries: Vec<_> = chunk
            .iter()
            .map(|n| holds(stream(*n), 1..=1 << 50))
            .collect();
        puppet.digest(&mut core, now, 1, &entries);
    }
    assert!(core.streams().count() <= STREAMS_MAX);
    let events: Vec<Event> = std::iter::from_fn(|| core.poll_event()).collect();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::TooManyStreams(_)))
    );
    assert!(events.len() <= EVENTS_MAX);
}

#[test]
fn made_up_streams_are_forgotten() {
    let mut now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    for n in 0..100 {
        puppet.digest(&mut core, now, 1, &[holds(stream(n), 1..=1 << 50)]);
    }
    assert_eq!(core.streams().count(), 101);
    // Nothing of them ever comes.
    for _ in 0..1_100 {
        now = core.poll_timeout().max(now);
        core.handle_timeout(now);
        drain(&mut core, now);
    }
    assert_eq!(core.streams().count(), 1);
}

#[test]
fn absurd_numbers_do_not_stop_a_stream() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    let id = |seq| MessageId {
        stream: stream(1),
        seq,
    };
    let numbers = [1, 2, SEQ_MAX, SEQ_MAX - 1, 3, SEQ_MAX / 2, 4];
    for seq in numbers {
        let tell = Tell {
            age_ms: if seq == 3 { 599_000 } else { 0 },
            issued_ms: u64::MAX,
            ..Tell::default()
        };
        puppet.tell(&mut core, now, id(seq), tell);
    }
    let mut applied = Vec::new();
    while let Some(delivery) = core.poll_delivery(now) {
        applied.push(delivery.id.seq);
    }
    applied.sort_unstable();
    let mut expected = numbers.to_vec();
    expected.sort_unstable();
    assert_eq!(applied, expected);
    // Older than time itself.
    let tell = Tell {
        age_ms: u64::MAX,
        ..Tell::default()
    };
    puppet.tell(&mut core, now, id(5), tell);
    assert_eq!(core.knows(id(5)), Knowledge::Skipped);
    // Its digests are still such that everybody takes them: `drain` looks.
    let mut now = now;
    for _ in 0..20 {
        now = core.poll_timeout().max(now);
        core.handle_timeout(now);
        drain(&mut core, now);
    }
}

#[test]
fn noise_changes_nothing() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    drain(&mut core, now);
    let mut rng = StdRng::seed_from_u64(3);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bytes = puppet.datagram(|_| {});
        let len = rng.random_range(0..100);
        let mut noise = vec![0; len];
        rng.fill_bytes(&mut noise);
        // Frames of known kinds, with what little sense noise makes.
        if len > 3 {
            noise[0] = rng.random_range(3..=6);
            noise[1] = (len - 3) as u8;
            noise[2] = 0;
        }
        bytes.extend_from_slice(&noise);
        let before = core.stats().malformed;
        core.handle_datagram(now, puppet.peer, &bytes);
        refused += core.stats().malformed - before;
    }
    assert!(refused > 15_000, "{refused}");
    // Datagrams that were refused did not use their counters up.
    puppet.ping(&mut core, now);
    assert_eq!(core.stats().replayed, 0);
}

/// A datagram with a larger number in it is refused, all of it: what this node says to others of a stream that ends with the
/// largest one must not be that.
#[test]
fn the_largest_number_makes_no_datagram_that_nobody_takes() {
    let mut now = start_of_time();
    let config = Config {
        retention: secs(60),
        ..Config::default()
    };
    let mut core = make_core(1, 0, 0, &config, now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    let (stream, seq) = (stream(1), SEQ_MAX);
    let older = Tell {
        age_ms: 86_400_000,
        ..Tell::default()
    };
    for (seq, tell) in [(seq - 1, older), (seq, Tell::default())] {
        puppet.tell(&mut core, now, MessageId { stream, seq }, tell);
    }
    while let Some(delivery) = core.poll_delivery(now) {
        core.handle_applied(now, delivery.id, Outcome::Applied);
    }
    for _ in 0..400 {
        now = now + ms(250);
        core.handle_timeout(now);
        puppet.ping(&mut core, now);
        drain(&mut core, now);
        // It is held, and older than this one's cache; and then it has expired.
        let mut entries = Vec::new();
        wire::put_solicit_entry(&mut entries, stream, std::iter::once(1..=seq));
        let round = core.stats().rounds;
        puppet.say(&mut core, now, |out| {
            wire::put_solicit(out, round, 0, 0, &entries);
        });
        drain(&mut core, now);
    }
    assert!(core.stats().expired > 0 && core.stats().floors_out > 0);
}
