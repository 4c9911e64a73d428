//! What anti-entropy mends, and what it leaves alone: digests that fit, no unwanted repairs,
//! joining by age, retention, floors, budgets.
//!
//! A repair is *unwanted* if its receiver knew the message (seen, held, skipped) when it was sent.
//! One that was wanted then and known on arrival has *crossed* with another on its way.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::puppet::{Puppet, Tell, drain, holds};
use common::{
    Fleet, Link, digest_of, disseminates, make_core, ms, retain_messages, secs, start_of_time,
    streams_of,
};
use powderhorn_protocol::bounds::{PLAINTEXT_BYTES_MAX, READY_MAX};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::time::Time;
use powderhorn_protocol::wire::{DataWriter, Datagram, Frame, WireMessage};
use powderhorn_protocol::{Knowledge, Outcome, PeerId, To};

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
        // One stream after the other, so that of the first ones nothing is held any more.
        fleet.issue(n / 400);
        fleet.run(ms(2));
    }
    fleet.run(secs(5));
    assert!(fleet.converged());
    assert!(fleet.stats(2).evicted > 1_500, "{}", fleet.stats(2).evicted);
    assert!(fleet.nodes[2].core.held_bytes() <= 20_000);
    assert_eq!(fleet.traffic.repaired, 0);
    // Much longer than all that is remembered of quiet streams, and with nobody to remind it.
    fleet.cut(&[2], &[0, 1, 3, 4], true);
    fleet.run(secs(400));
    fleet.cut(&[2], &[0, 1, 3, 4], false);
    for _ in 0..6 {
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
fn digested(core: &mut common::TestCore, now: Time) -> BTreeSet<StreamId> {
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
fn many_streams(count: u64) -> (common::TestCore, Puppet, Time) {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    touch(&mut core, &mut puppet, now, count, 1);
    (core, puppet, now)
}

fn touch(core: &mut common::TestCore, puppet: &mut Puppet, now: Time, count: u64, seq: u64) {
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
fn when_nothing_happens_a_round_is_one_datagram_and_streams_take_turns() {
    let (mut core, mut puppet, mut now) = many_streams(140);
    let mut counts: BTreeMap<StreamId, u64> = BTreeMap::new();
    for round in 0..60 {
        now = core.poll_timeout().max(now + ms(250));
        puppet.ping(&mut core, now);
        core.handle_timeout(now);
        let before = core.stats().datagrams_out;
        let streams = digested(&mut core, now);
        if round >= 20 {
            assert_eq!(core.stats().datagrams_out - before, 1);
            for stream in streams {
                *counts.entry(stream).or_default() += 1;
            }
        }
    }
    // 140 streams, some 35 in each of 40 digests.
    assert_eq!(counts.len(), 140);
    assert!(
        counts.values().all(|&count| (8..=16).contains(&count)),
        "{counts:?}"
    );
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

/// A core that issued `count` purges, all sent, none acknowledged by anybody.
fn issuer(config: &Config, count: u64) -> (common::TestCore, StreamId) {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, config, now, now);
    for n in 0..count {
        let id = core.handle_purge(now, digest_of(n)).expect("issued");
        core.handle_applied(now, id, Outcome::Applied);
        if n % 10_000 == 0 {
            drain(&mut core, now);
        }
    }
    drain(&mut core, now);
    let own = core.own_stream();
    (core, own)
}

fn data_bytes(payload: &[u8]) -> usize {
    // All that repairs are made of, but the header of the datagram.
    let repairs = Datagram::parse(payload).is_ok_and(|d| common::repairs_in(&d).next().is_some());
    if repairs {
        payload.len() - powderhorn_protocol::wire::HEADER_BYTES
    } else {
        0
    }
}

#[test]
fn budgets_hold_for_each_peer_and_for_all() {
    let config = Config {
        repair_bytes_peer: 20_000,
        repair_bytes_all: 50_000,
        ..Config::default()
    };
    let (mut core, own) = issuer(&config, 20_000);
    let mut now = start_of_time() + ms(1);
    let mut puppets: Vec<Puppet> = (1..=6)
        .map(|peer| Puppet::join(peer, &mut core, now))
        .collect();
    let mut most = (0, 0);
    let mut served = 0;
    for _ in 0..20 {
        now = core.poll_timeout();
        core.handle_timeout(now);
        let mut bytes = BTreeMap::new();
        // Greedy peers ask all the time.
        for _ in 0..10 {
            now = now + ms(10);
            for puppet in &mut puppets {
                puppet.solicit(&mut core, now, 0, own, &[1..=20_000]);
            }
            for transmit in drain(&mut core, now) {
                if let To::Peer(peer) = transmit.to {
                    *bytes.entry(peer).or_insert(0) += data_bytes(&transmit.payload);
                }
            }
        }
        let all: usize = bytes.values().sum();
        let one = bytes.values().max().copied().unwrap_or(0);
        most = (most.0.max(one), most.1.max(all));
        served += all;
    }
    assert!(most.0 <= 20_000 && most.1 <= 50_000, "{most:?}");
    // And they are used.
    assert!(most.1 > 45_000, "{most:?}");
    assert!(served > 400_000, "{served}");
    assert!(core.stats().repairs_over_budget > 0);
}

#[test]
fn a_solicit_for_a_round_that_is_long_over_is_not_served() {
    let (mut core, own) = issuer(&Config::default(), 100);
    let mut now = start_of_time() + secs(1);
    let mut puppet = Puppet::join(1, &mut core, now);
    let next_digest = |core: &mut common::TestCore, puppet: &mut Puppet, now: &mut Time| {
        loop {
            *now = core.poll_timeout().max(*now);
            core.handle_timeout(*now);
            puppet.inbox.clear();
            puppet.take(core, *now);
            let round = puppet.inbox.iter().find_map(|bytes| {
                let datagram = Datagram::parse(bytes).ok()?;
                datagram.frames().find_map(|frame| match frame {
                    Frame::Digest(digest) => Some(digest.round),
                    _ => None,
                })
            });
            if let Some(round) = round {
                return round;
            }
        }
    };
    let round = next_digest(&mut core, &mut puppet, &mut now);
    // In time.
    puppet.solicit(&mut core, now + ms(5), round, own, &[1..=10]);
    puppet.take(&mut core, now + ms(5));
    assert_eq!(puppet.repaired().len(), 10);
    // For a digest that never was.
    puppet.solicit(&mut core, now + ms(6), round + 1_000, own, &[11..=20]);
    puppet.take(&mut core, now + ms(6));
    assert_eq!(puppet.repaired().len(), 10);
    assert_eq!(core.stats().solicits_stale, 1);
    // For the right one, much too late: a node that is too slow mends itself at its own rounds.
    let round = next_digest(&mut core, &mut puppet, &mut now);
    now = now + secs(5);
    puppet.solicit(&mut core, now, round, own, &[11..=20]);
    puppet.take(&mut core, now);
    assert_eq!(puppet.repaired().len(), 0);
    assert_eq!(core.stats().solicits_stale, 2);
}

#[test]
fn three_rounds_in_ten_go_to_the_own_site_besides_its_part_in_the_others() {
    let config = Config {
        site: "fra".into(),
        ..Config::default()
    };
    let mut now = start_of_time();
    let mut core = make_core(3, 0, 0, &config, now, now);
    let mut puppets: Vec<Puppet> = (1..=50)
        .map(|peer| {
            let site = if peer <= 5 { "fra" } else { "ams" };
            Puppet::join_at(peer, &mut core, now, site)
        })
        .collect();
    let mut rounds_to: BTreeMap<PeerId, u32> = BTreeMap::new();
    let mut rounds = 0;
    for step in 0..10_000 {
        now = core.poll_timeout().max(now);
        if step % 8 == 0 {
            puppets
                .iter_mut()
                .for_each(|puppet| puppet.ping(&mut core, now));
        }
        core.handle_timeout(now);
        for transmit in drain(&mut core, now) {
            if let (true, To::Peer(peer)) = (common::is_digest(&transmit.payload), transmit.to) {
                *rounds_to.entry(peer).or_default() += 1;
                rounds += 1;
            }
        }
    }
    let near: u32 = (1..=5)
        .filter_map(|peer| rounds_to.get(&PeerId(peer)))
        .sum();
    let share = f64::from(near) / f64::from(rounds);
    // 30 %, and of the rest 5 in 50.
    assert!((share - 0.37).abs() < 0.02, "{share}");
    // Uniform inside and outside.
    assert_eq!(rounds_to.len(), 50);
    let far = (6..=50).filter_map(|peer| rounds_to.get(&PeerId(peer)));
    let (low, high) = (far.clone().min(), far.max());
    assert!(
        low.zip(high).is_some_and(|(low, high)| high < &(low * 2)),
        "{rounds_to:?}"
    );
}

#[test]
fn a_node_alone_in_its_site_chooses_all_alike() {
    let config = Config {
        site: "fra".into(),
        ..Config::default()
    };
    let mut now = start_of_time();
    let mut core = make_core(4, 0, 0, &config, now, now);
    let mut puppets: Vec<Puppet> = (1..=4)
        .map(|peer| Puppet::join_at(peer, &mut core, now, ""))
        .collect();
    let mut rounds_to = [0u32; 5];
    for _ in 0..2_000 {
        now = core.poll_timeout().max(now);
        puppets
            .iter_mut()
            .for_each(|puppet| puppet.ping(&mut core, now));
        core.handle_timeout(now);
        for transmit in drain(&mut core, now) {
            if let (true, To::Peer(peer)) = (common::is_digest(&transmit.payload), transmit.to) {
                rounds_to[peer.0 as usize] += 1;
            }
        }
    }
    assert!(
        rounds_to[1..].iter().all(|n| (400..600).contains(n)),
        "{rounds_to:?}"
    );
}

#[test]
fn messages_expire_by_age_everywhere_and_stay_gone() {
    let config = Config {
        retention: secs(60),
        ..Config::default()
    };
    let mut fleet = Fleet::new(6, 4, &config);
    fleet.all_links(slow_links());
    fleet.settle();
    for n in 0..400 {
        fleet.issue(n % 4);
        fleet.run(ms(100));
    }
    fleet.run(secs(1));
    assert!(fleet.converged());
    // The first ones are 41 s old, the last ones 1 s.
    fleet.run(secs(30));
    for node in &fleet.nodes {
        let held: u64 = node.core.streams().map(|view| view.held.count()).sum();
        // 60 s less the 31 s of quiet, at ten a second.
        assert!((280..=295).contains(&held), "{held}");
    }
    fleet.run(secs(40));
    for node in &fleet.nodes {
        assert_eq!(node.core.held_bytes(), 0);
        assert_eq!(node.core.stats().expired, 400);
        for view in node.core.streams() {
            assert_eq!((view.floor, view.wanted), (view.top + 1, 0));
        }
    }
    // Also long after they are forgotten, and for one who was there before.
    fleet.run(secs(600));
    fleet.restart(3);
    fleet.run(secs(20));
    assert_eq!(fleet.traffic.repaired, 0);
    assert!(fleet.nodes[3].applied.is_empty());
    fleet.assert_applied_once();
    // A stream whose past has expired goes on.
    fleet.issue(0);
    fleet.converge(secs(5));
}

#[test]
fn nodes_of_different_retentions_leave_each_other_alone() {
    let mut configs = vec![Config::default(); 4];
    configs[1].retention = secs(30);
    configs[2].retention = secs(90);
    let mut fleet = Fleet::with_configs(7, configs);
    fleet.all_links(slow_links());
    fleet.settle();
    for n in 0..400 {
        fleet.issue(n % 4);
        fleet.run(ms(100));
    }
    fleet.run(secs(5));
    assert!(fleet.converged());
    for _ in 0..6 {
        fleet.run(secs(100));
        assert_eq!(fleet.traffic.repaired, 0, "{:?}", fleet.traffic);
    }
    fleet.assert_applied_once();
    assert_eq!(fleet.nodes[1].core.held_bytes(), 0);
    assert!(fleet.nodes[0].core.held_bytes() > 0);
}

/// The cap is smaller than what is in flight, and the cache fails: what is not applied yet must
/// not be dropped, least of all by the node that issued it.
#[test]
fn what_is_in_flight_survives_a_cap_of_bytes() {
    let config = Config {
        retention_bytes: 1_000,
        ..Config::default()
    };
    let mut fleet = Fleet::new(8, 3, &config);
    fleet.all_links(slow_links());
    fleet.settle();
    let now = fleet.now;
    let mut ids = Vec::new();
    for n in 0..100 {
        let core = &mut fleet.nodes[0].core;
        let purge = digest_of(n);
        let id = core.handle_purge(now, purge.clone()).expect("issued");
        fleet.issued.insert(id, (purge, now, 0));
        ids.push(id);
    }
    for index in 1..3 {
        fleet.nodes[index].apply = common::Apply::Delayed(secs(2));
    }
    // Sends them; the callers take their time, too.
    fleet.issue(0);
    fleet.run(secs(1));
    for id in ids {
        let now = fleet.now;
        fleet.nodes[0].core.handle_applied(now, id, Outcome::Failed);
    }
    fleet.converge(secs(20));
    fleet.run(secs(5));
    assert!(
        fleet
            .nodes
            .iter()
            .all(|node| node.core.held_bytes() <= 1_000)
    );
}

#[test]
fn a_floor_skips_only_what_was_asked_for() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    let floor = |seq| {
        Frame::Floor(powderhorn_protocol::wire::Floor {
            flags: 0,
            stream: stream(1),
            seq,
        })
    };
    // Nothing is known of the stream.
    puppet.say(&mut core, now, |out| floor(1 << 60).encode(out));
    assert_eq!(
        core.streams().filter(|view| view.id == stream(1)).count(),
        0
    );
    // Known, but not asked for yet.
    puppet.digest(&mut core, now, 1, &[holds(stream(1), 1..=100)]);
    puppet.say(&mut core, now, |out| floor(50).encode(out));
    assert_eq!(
        core.streams().find(|v| v.id == stream(1)).map(|v| v.wanted),
        Some(100)
    );
    // Asked for: what is below is older than was asked for, and no more than that is.
    let later = now + ms(20);
    core.handle_timeout(later);
    assert!(puppet.take(&mut core, later) > 0);
    puppet.say(&mut core, later, |out| floor(50).encode(out));
    assert_eq!(
        core.streams().find(|v| v.id == stream(1)).map(|v| v.wanted),
        Some(51)
    );
    let id = |seq| MessageId {
        stream: stream(1),
        seq,
    };
    assert_eq!(core.knows(id(49)), Knowledge::Skipped);
    assert_eq!(core.knows(id(50)), Knowledge::Unknown);
    // Beyond what exists: later messages are wanted all the same.
    puppet.say(&mut core, later, |out| floor(1 << 60).encode(out));
    puppet.tell(&mut core, later, id(101), Tell::default());
    assert!(
        core.poll_delivery(later)
            .is_some_and(|delivery| delivery.id == id(101))
    );
}

/// A core, a peer, and messages of one stream that the peer tells it of.
fn told(config: &Config, seqs: &[u64]) -> (common::TestCore, Puppet, Time) {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, config, now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    for &seq in seqs {
        puppet.tell(&mut core, now, id_of(seq), Tell::default());
    }
    (core, puppet, now)
}

fn id_of(seq: u64) -> MessageId {
    MessageId {
        stream: stream(1),
        seq,
    }
}

#[test]
fn a_message_is_seen_when_the_cache_has_said_so_and_not_before() {
    let (mut core, _, mut now) = told(&Config::default(), &[1, 2, 3]);
    let deliveries: Vec<_> = std::iter::from_fn(|| core.poll_delivery(now)).collect();
    assert_eq!(deliveries.len(), 3);
    for seq in 1..=3 {
        assert_eq!(core.knows(id_of(seq)), Knowledge::Held);
    }
    core.handle_applied(now, id_of(1), Outcome::Applied);
    core.handle_applied(now, id_of(2), Outcome::Failed);
    core.handle_applied(now, id_of(3), Outcome::Unsupported);
    assert_eq!(core.knows(id_of(1)), Knowledge::Seen);
    assert_eq!(core.knows(id_of(2)), Knowledge::Held);
    assert_eq!(core.knows(id_of(3)), Knowledge::Unsupported);
    assert_eq!(core.knows(id_of(4)), Knowledge::Unknown);
    // A second answer changes nothing, nor does one for what was never handed out.
    core.handle_applied(now, id_of(1), Outcome::Failed);
    core.handle_applied(now, id_of(9), Outcome::Applied);
    assert_eq!(core.knows(id_of(1)), Knowledge::Seen);
    assert_eq!(core.knows(id_of(9)), Knowledge::Unknown);
    // What failed is handed out again, a moment later and alone.
    assert_eq!(core.poll_delivery(now), None);
    now = now + secs(1);
    core.handle_timeout(now);
    assert_eq!(
        core.poll_delivery(now).map(|delivery| delivery.id),
        Some(id_of(2))
    );
    assert_eq!(core.poll_delivery(now), None);
    // Applied or not, all are held for others.
    let view = core.streams().find(|view| view.id == stream(1));
    assert_eq!(view.map(|view| view.held.count()), Some(3));
}

#[test]
fn a_message_that_nobody_has_any_more_is_given_up_and_counted() {
    let config = Config {
        retention: secs(10),
        ..Config::default()
    };
    let (mut core, mut puppet, start) = told(&config, &[1, 2, 3, 4, 6, 7]);
    while let Some(delivery) = core.poll_delivery(start) {
        core.handle_applied(start, delivery.id, Outcome::Applied);
    }
    let wanted = |core: &common::TestCore| {
        let view = core.streams().find(|view| view.id == stream(1));
        view.map_or(0, |view| view.wanted)
    };
    assert_eq!(wanted(&core), 1);
    let mut now = start;
    while now < start + secs(60) {
        now = core.poll_timeout();
        puppet.ping(&mut core, now);
        core.handle_timeout(now);
        drain(&mut core, now);
    }
    assert_eq!((wanted(&core), core.stats().lost), (0, 1));
    assert_eq!(core.held_bytes(), 0);
}

#[test]
fn the_same_thing_is_not_repaired_twice_within_a_round_trip() {
    let (mut core, own) = issuer(&Config::default(), 10);
    let now = start_of_time() + secs(1);
    let mut puppet = Puppet::join(1, &mut core, now);
    let mut ask = |core: &mut common::TestCore, at: Time| {
        puppet.inbox.clear();
        puppet.solicit(core, at, 0, own, &[1..=10]);
        puppet.take(core, at);
        puppet.repaired().len()
    };
    assert_eq!(ask(&mut core, now), 10);
    assert_eq!(ask(&mut core, now + ms(5)), 0);
    assert_eq!(core.stats().repairs_repeated, 10);
    // It was lost, then.
    assert_eq!(ask(&mut core, now + secs(1)), 10);
}

#[test]
fn the_same_thing_is_not_asked_of_two_peers_within_a_round_trip() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut one = Puppet::join(1, &mut core, now);
    let mut other = Puppet::join(2, &mut core, now);
    let claim = [holds(stream(1), 1..=100)];
    one.digest(&mut core, now, 1, &claim);
    other.digest(&mut core, now, 1, &claim);
    let settle = |core: &mut common::TestCore, at: Time| {
        for step in 0..20 {
            core.handle_timeout(at + ms(step));
            drain(core, at + ms(step));
        }
        core.stats().solicited
    };
    assert_eq!(settle(&mut core, now), 100);
    // It did not come.
    let later = now + secs(2);
    other.digest(&mut core, later, 9, &claim);
    assert_eq!(settle(&mut core, later), 200);
}

#[test]
fn what_comes_faster_than_the_cache_takes_it_stays_wanted() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    let count = READY_MAX + 100;
    let tell = |core: &mut common::TestCore, puppet: &mut Puppet, at: Time, seqs: &[u64]| {
        puppet.say(core, at, |out| {
            let mut writer = DataWriter::new(out, PLAINTEXT_BYTES_MAX, stream(1), 0);
            for &seq in seqs {
                let (age_ms, issued_ms, op, body) = (0, 0, Purge::OP_DIGEST, &[7; 32][..]);
                assert!(writer.push(&WireMessage {
                    seq,
                    age_ms,
                    issued_ms,
                    op,
                    body
                }));
            }
            writer.finish();
        });
    };
    for chunk in (1..=count).collect::<Vec<_>>().chunks(25) {
        tell(&mut core, &mut puppet, now, chunk);
    }
    assert_eq!(
        (core.ready_count(), core.stats().deferred),
        (READY_MAX, 100)
    );
    assert_eq!(core.knows(id_of(count)), Knowledge::Unknown);
    let wanted = core.streams().find(|view| view.id == stream(1));
    assert_eq!(wanted.map(|view| view.wanted), Some(100));
    while let Some(delivery) = core.poll_delivery(now) {
        core.handle_applied(now, delivery.id, Outcome::Applied);
    }
    // The cache has caught up: what was left where it was is asked for.
    let later = now + secs(1);
    puppet.digest(&mut core, later, 1, &[holds(stream(1), 1..=count)]);
    for step in 0..20 {
        core.handle_timeout(later + ms(step));
        drain(&mut core, later + ms(step));
    }
    assert_eq!(core.stats().solicited, 100);
    for chunk in (READY_MAX + 1..=count).collect::<Vec<_>>().chunks(25) {
        tell(&mut core, &mut puppet, later, chunk);
    }
    let rest = std::iter::from_fn(|| core.poll_delivery(later)).count();
    assert_eq!(rest, 100);
}
