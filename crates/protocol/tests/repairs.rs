//! What anti-entropy mends, and what it leaves alone: digests that fit, no unwanted repairs,
//! joining by age, retention, floors, budgets.
//!
//! A repair is *unwanted* if its receiver knew the message (seen, held, skipped) when it was sent.
//! One that was wanted then and known on arrival has *crossed* with another on its way.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::puppet::{Puppet, Tell, drain, put_message};
use common::{
    Fleet, Link, disseminates, make_core, ms, node_id, retain_messages, secs, start_of_time,
    streams_of,
};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::wire::{Datagram, EntryWriter, Frame, RunKind};
use powderhorn_protocol::{Knowledge, PeerId, To};
use rand::Rng;

fn slow_links() -> Link {
    Link {
        delay: ms(2),
        jitter: ms(1),
        ..Link::default()
    }
}

/// Node 4 of five with `gaps` single messages missing in one stream, and nothing repaired yet.
fn with_gaps(seed: u64, gaps: u64) -> Fleet {
    let mut fleet = Fleet::new(seed, 5, &Config::default());
    fleet.all_links(slow_links());
    fleet.settle();
    // Only odd messages get through to node 4, and nothing that could mend it does.
    fleet.filter = Some(Box::new(|from, to, bytes| {
        if from != 4 && to != 4 {
            return true;
        }
        retain_messages(bytes, |id| id.seq % 2 == 1);
        to == 4 && disseminates(bytes)
    }));
    for _ in 0..2 * gaps / 20 {
        fleet.burst(0, 20);
        fleet.run(ms(1));
    }
    fleet.run(ms(20));
    fleet.filter = None;
    assert_eq!(fleet.lacking(4).len() as u64, gaps);
    assert_eq!(fleet.traffic.repaired, 0);
    fleet
}

#[test]
fn ten_thousand_gaps_are_repaired_once_each() {
    let gaps = 10_000;
    let mut fleet = with_gaps(1, gaps);
    let time = fleet.converge(secs(30));
    fleet.run(secs(5));
    fleet.assert_applied_once();
    let traffic = fleet.traffic;
    println!("{gaps} gaps in {time:?}: {traffic:?}");
    assert!(traffic.repaired >= gaps);
    // Two peers may answer within one round trip; more than that is waste.
    assert!(
        traffic.unwanted_sent + traffic.crossed <= gaps / 20,
        "{traffic:?}"
    );
}

#[test]
fn a_joiner_fetches_what_is_young_and_is_sent_nothing_old() {
    let config = Config {
        join_margin: secs(60),
        ..Config::default()
    };
    let mut fleet = Fleet::new(2, 5, &config);
    fleet.all_links(slow_links());
    fleet.settle();
    fleet.stop(4);
    let mut old = Vec::new();
    for n in 0..500 {
        old.push(fleet.issue(n % 4));
        fleet.run(ms(5));
    }
    fleet.run(secs(120));
    let mut young = Vec::new();
    for n in 0..500 {
        young.push(fleet.issue(n % 4));
        fleet.run(ms(5));
    }
    fleet.run(secs(1));
    fleet.traffic = Default::default();
    fleet.start(4);
    fleet.run(secs(20));
    for id in &young {
        assert!(
            fleet.nodes[4].applied.contains_key(id),
            "{id} is younger than the margin"
        );
    }
    for id in &old {
        assert!(
            !fleet.nodes[4].applied.contains_key(id),
            "{id} is older than the margin"
        );
        assert_eq!(fleet.nodes[4].core.knows(*id), Knowledge::Skipped);
    }
    let traffic = fleet.traffic;
    println!("join: {traffic:?}, floors {}", fleet.sum(|s| s.floors_out));
    // What is old is not sent and then skipped: a floor says it all.
    assert!(traffic.repaired <= 500 + 25, "{traffic:?}");
    assert!(traffic.unwanted_sent + traffic.crossed <= 25, "{traffic:?}");
    fleet.assert_applied_once();
    // And it says so itself to a later joiner, and to itself.
    fleet.traffic = Default::default();
    fleet.run(secs(600));
    assert_eq!(fleet.traffic.repaired, 0, "{:?}", fleet.traffic);
}

#[test]
fn a_byte_capped_node_is_not_sent_again_what_it_dropped() {
    let capped = Config {
        retention_bytes: 20_000,
        ..Config::default()
    };
    let mut configs = vec![Config::default(); 5];
    configs[2] = capped;
    let mut fleet = Fleet::with_configs(3, configs);
    fleet.all_links(slow_links());
    fleet.settle();
    for n in 0..2_000 {
        fleet.issue(n % 5);
        fleet.run(ms(2));
    }
    fleet.run(secs(5));
    assert!(fleet.converged());
    assert!(fleet.stats(2).evicted > 1_500, "{}", fleet.stats(2).evicted);
    assert!(fleet.nodes[2].core.held_bytes() <= 20_000);
    assert_eq!(fleet.traffic.repaired, 0);
    // Much longer than the cap and all that is remembered of quiet streams.
    for _ in 0..12 {
        fleet.run(secs(100));
        assert_eq!(
            fleet.traffic.repaired, 0,
            "{:?} at {:?}",
            fleet.traffic, fleet.now
        );
    }
    fleet.assert_applied_once();
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

/// The streams that a core's digests to anybody speak about.
fn digested(
    core: &mut common::TestCore,
    now: powderhorn_protocol::time::Time,
) -> BTreeSet<StreamId> {
    let mut streams = BTreeSet::new();
    for transmit in drain(core, now) {
        let datagram = Datagram::parse(&transmit.payload).expect("valid");
        for frame in datagram.frames() {
            if let Frame::Digest(digest) = frame {
                streams.extend(digest.entries().map(|entry| entry.stream));
            }
        }
    }
    streams
}

/// A core with `count` streams, and the peer that tells it of them.
fn many_streams(count: u64) -> (common::TestCore, Puppet, powderhorn_protocol::time::Time) {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    touch(&mut core, &mut puppet, now, count, 1);
    (core, puppet, now)
}

fn touch(
    core: &mut common::TestCore,
    puppet: &mut Puppet,
    now: powderhorn_protocol::time::Time,
    count: u64,
    seq: u64,
) {
    for n in 1..=count {
        let id = MessageId {
            stream: stream(n),
            seq,
        };
        puppet.tell(core, now, id, Tell::default());
    }
    while core.poll_delivery(now).is_some() {}
}

#[test]
fn busy_streams_take_turns_when_they_do_not_all_fit_into_a_digest() {
    let (mut core, mut puppet, mut now) = many_streams(300);
    let mut last_seen: BTreeMap<StreamId, u64> = BTreeMap::new();
    let mut worst = 0;
    for round in 0..60 {
        touch(&mut core, &mut puppet, now, 300, 2 + round);
        now = core.poll_timeout().max(now + ms(250));
        core.handle_timeout(now);
        for stream in digested(&mut core, now) {
            last_seen.insert(stream, round);
        }
        if round >= 10 {
            let stalest = (1..=300).map(|n| last_seen.get(&stream(n)).copied().unwrap_or(0));
            worst = worst.max(round - stalest.min().unwrap_or(0));
        }
    }
    // Four parts of 37 entries: each stream in every third digest.
    assert!(worst <= 4, "a stream was in no digest for {worst} rounds");
}

#[test]
fn quiet_streams_are_in_nearly_every_digest_while_there_is_room() {
    let (mut core, mut puppet, mut now) = many_streams(140);
    let mut counts: BTreeMap<StreamId, u64> = BTreeMap::new();
    for round in 0..40 {
        now = core.poll_timeout().max(now + ms(250));
        puppet.ping(&mut core, now);
        core.handle_timeout(now);
        let streams = digested(&mut core, now);
        if round >= 20 {
            for stream in streams {
                *counts.entry(stream).or_default() += 1;
            }
        }
    }
    // A stream that is not in a digest cannot be pushed: its next purge, lost, would wait.
    assert_eq!(counts.len(), 140);
    assert!(counts.values().all(|&count| count == 20), "{counts:?}");
}

#[test]
fn three_hundred_streams_with_gaps_converge() {
    let mut fleet = Fleet::new(5, 3, &Config::default());
    fleet.all_links(slow_links());
    fleet.settle();
    let mut puppet = fleet.add_puppet(0, 100);
    let mut other = fleet.add_puppet(1, 101);
    for n in 1..=300 {
        let all: Vec<u64> = (1..=20).collect();
        let (odd, even): (Vec<u64>, Vec<u64>) = all.iter().partition(|&seq| seq % 2 == 1);
        fleet.feed(&mut puppet, 0, stream(n), &odd);
        fleet.feed(&mut other, 1, stream(n), &even);
    }
    // And one that no digest holds.
    let all: Vec<u64> = (1..=4_000).collect();
    let (odd, even): (Vec<u64>, Vec<u64>) = all.iter().partition(|&seq| seq % 2 == 1);
    fleet.feed(&mut puppet, 0, stream(1_000), &odd);
    fleet.feed(&mut other, 1, stream(1_000), &even);
    let time = fleet.converge(secs(60));
    fleet.run(secs(5));
    fleet.assert_applied_once();
    println!("300 streams in {time:?}: {:?}", fleet.traffic);
    let traffic = fleet.traffic;
    assert!(
        traffic.unwanted_sent + traffic.crossed <= traffic.repaired / 10,
        "{traffic:?}"
    );
    for node in &fleet.nodes {
        assert_eq!(streams_of(&node.core).len(), 301);
    }
}
