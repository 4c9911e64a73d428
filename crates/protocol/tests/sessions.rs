//! Which datagrams count, who is who, and messages of later versions.

mod common;

use common::puppet::{Puppet, Tell, drain, holds, put_message};
use common::{Fleet, disseminates, make_core, ms, node_id, secs, start_of_time};
use powderhorn_protocol::bounds::REOPENINGS_MAX;
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{Epoch, MessageId, NodeId, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::store::MemoryStore;
use powderhorn_protocol::wire::{Datagram, Frame};
use powderhorn_protocol::{Core, Event, Identity, Knowledge, Outcome, PeerId};
use rand::SeedableRng;
use rand::rngs::StdRng;

#[test]
fn a_recorded_session_is_worth_nothing_after_the_receivers_restart() {
    let mut fleet = Fleet::new(1, 3, &Config::default());
    fleet.tap = Some((1, Vec::new()));
    fleet.settle();
    for n in 0..50 {
        fleet.issue([0, 2][n % 2]);
        fleet.run(ms(20));
    }
    fleet.run(secs(2));
    assert!(fleet.converged());
    assert_eq!(fleet.nodes[1].applied.len(), 50);
    let (_, recorded) = fleet.tap.take().expect("recorded");
    assert!(recorded.len() > 60);

    // In the same life each counter is used up.
    let before = *fleet.stats(1);
    for (from, bytes) in &recorded {
        fleet.send(*from, 1, bytes);
    }
    fleet.run(ms(10));
    let after = *fleet.stats(1);
    assert_eq!(
        after.replayed - before.replayed,
        recorded.len() as u64,
        "every one was known"
    );
    assert_eq!(
        (after.received, after.duplicates),
        (before.received, before.duplicates)
    );

    // In the next one the session is not proven. The true peers are gone, so that nothing else can
    // have brought what is applied; an attacker replays it all, in order, twice.
    fleet.stop(0);
    fleet.stop(2);
    fleet.restart(1);
    for _ in 0..2 {
        for (from, bytes) in &recorded {
            fleet.send(*from, 1, bytes);
            fleet.run(ms(1));
        }
        fleet.run(secs(5));
    }
    let stats = fleet.stats(1);
    assert_eq!(stats.sessions, 0);
    assert_eq!(
        (stats.received, stats.recovered, stats.digests_in),
        (0, 0, 0)
    );
    assert!(stats.unproven > 0 && stats.misdirected > 0);
    assert!(fleet.nodes[1].applied.is_empty());
    assert_eq!(
        fleet.nodes[1].core.streams().filter(|s| s.top > 0).count(),
        0
    );
}

#[test]
fn a_datagram_from_another_address_than_its_senders_applies_nothing() {
    let mut fleet = Fleet::new(2, 3, &Config::default());
    fleet.settle();
    fleet.issue(0);
    fleet.run(ms(10));
    // What node 0 tells node 1 is caught on its way …
    fleet.tap = Some((1, Vec::new()));
    fleet.cut(&[0], &[1, 2], true);
    let id = fleet.issue(0);
    let (_, caught) = fleet.tap.take().expect("recorded");
    let data: Vec<_> = caught.iter().filter(|(_, b)| disseminates(b)).collect();
    assert_eq!(data.len(), 1);
    // … and comes from node 2's address, whose own session is live.
    let unproven = fleet.stats(1).unproven;
    fleet.send(2, 1, &data[0].1);
    fleet.run(ms(10));
    assert!(!fleet.nodes[1].applied.contains_key(&id));
    assert_eq!(fleet.stats(1).unproven, unproven + 1);
    assert_eq!(
        fleet.nodes[1].core.peers().filter(|peer| peer.up).count(),
        2
    );
    // From where it belongs it counts.
    fleet.cut(&[0], &[1], false);
    fleet.send(0, 1, &data[0].1);
    fleet.run(ms(10));
    assert!(fleet.nodes[1].applied.contains_key(&id));
}

#[test]
fn a_recorded_session_of_a_peers_former_life_is_worth_nothing() {
    let mut fleet = Fleet::new(3, 2, &Config::default());
    fleet.settle();
    fleet.issue(0);
    fleet.run(ms(10));
    fleet.tap = Some((1, Vec::new()));
    fleet.filter = Some(Box::new(|_, _, _| false));
    // Never received: fresh counters of the old session.
    let id = fleet.issue(0);
    let (_, caught) = fleet.tap.take().expect("recorded");
    fleet.filter = None;
    fleet.restart(0);
    fleet.settle();
    let sessions = fleet.stats(1).sessions;
    assert_eq!(sessions, 2, "the peer was met again");
    for (from, bytes) in &caught {
        fleet.send(*from, 1, bytes);
    }
    fleet.run(secs(2));
    assert!(!fleet.nodes[1].applied.contains_key(&id));
    assert_eq!(fleet.stats(1).sessions, sessions);
}

#[test]
fn an_echo_of_another_nonce_proves_nothing() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::new(1);
    core.add_peer(now, puppet.peer, "");
    for n in 0..200u8 {
        puppet.say(&mut core, now, |out| {
            powderhorn_protocol::wire::put_echo(out, [n; 16]);
        });
    }
    assert_eq!(core.stats().sessions, 0);
    // A nonce proves once: said again by another session it is worth nothing.
    puppet.prove(&mut core, now);
    let nonce = puppet
        .inbox
        .iter()
        .find_map(|bytes| common::puppet::challenge_in(bytes))
        .expect("challenged");
    let mut thief = Puppet::new(1);
    thief.instance += 1;
    thief.say(&mut core, now, |out| {
        powderhorn_protocol::wire::put_echo(out, nonce);
        let id = MessageId {
            stream: StreamId::default(),
            seq: 1,
        };
        put_message(out, id, Tell::default());
    });
    assert_eq!(core.stats().sessions, 1);
    assert_eq!(core.ready_count(), 0);
}

#[test]
fn what_does_not_count_is_counted() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    let id = MessageId {
        stream: StreamId::default(),
        seq: 1,
    };
    let message =
        |puppet: &mut Puppet| puppet.datagram(|out| put_message(out, id, Tell::default()));
    // A stranger.
    let bytes = message(&mut puppet);
    core.handle_datagram(now, PeerId(9), &bytes);
    assert_eq!(core.stats().strangers, 1);
    // Meant for another instance: the third field of the header.
    let mut bytes = message(&mut puppet);
    bytes[16] = 77;
    core.handle_datagram(now, puppet.peer, &bytes);
    assert_eq!(core.stats().misdirected, 1);
    // Malformed.
    let mut bytes = message(&mut puppet);
    bytes.push(1);
    core.handle_datagram(now, puppet.peer, &bytes);
    core.handle_datagram(now, puppet.peer, &[]);
    assert_eq!(core.stats().malformed, 2);
    // A former peer.
    let bytes = message(&mut puppet);
    core.remove_peer(puppet.peer);
    core.handle_datagram(now, puppet.peer, &bytes);
    assert_eq!(core.stats().strangers, 2);
    assert_eq!(core.ready_count(), 0);
    assert_eq!(core.knows(id), Knowledge::Unknown);

    // A peer's address that is this node's own.
    let mut mirror = make_core(1, 0, 0, &Config::default(), now, now);
    mirror.add_peer(now, PeerId(5), "");
    let sent = drain(&mut mirror, now);
    assert_eq!(sent.len(), 1);
    mirror.handle_datagram(now, PeerId(5), &sent[0].payload);
    assert_eq!(mirror.stats().reflected, 1);
    assert!(drain(&mut mirror, now).is_empty());
    assert_eq!(mirror.peers().filter(|peer| peer.up).count(), 0);
}

#[test]
fn a_flood_of_unproven_datagrams_draws_few_challenges() {
    let mut now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    core.add_peer(now, PeerId(1), "");
    let mut puppet = Puppet::new(1);
    let mut sent = 0;
    for _ in 0..10_000 {
        puppet.ping(&mut core, now);
        sent += drain(&mut core, now).len();
        now = now + std::time::Duration::from_micros(100);
    }
    // One in 20 ms, over a second.
    assert!((40..=52).contains(&sent), "{sent}");
}

#[test]
fn two_nodes_of_one_name_are_reported_by_all_and_their_purges_arrive() {
    let mut fleet = Fleet::new(4, 4, &Config::default());
    // Node 3 has node 1's name, and so its id.
    let now = fleet.now;
    fleet.nodes[3].core = make_core(4, 1, 77, &Config::default(), now, now);
    for other in 0..3 {
        fleet.nodes[3].core.add_peer(now, PeerId(other), "");
    }
    fleet.settle();
    for n in 0..40 {
        fleet.issue([1, 3][n % 2]);
        fleet.run(ms(10));
    }
    fleet.run(secs(10));
    fleet.converge(secs(10));
    fleet.assert_applied_once();
    let reported = |index: usize, first: Option<PeerId>, second: u32| {
        let event = Event::DuplicateNode {
            node: node_id(1),
            first,
            second: PeerId(second),
        };
        fleet.nodes[index].events.contains(&event)
    };
    assert!(
        reported(0, Some(PeerId(1)), 3),
        "{:?}",
        fleet.nodes[0].events
    );
    assert!(reported(2, Some(PeerId(1)), 3));
    assert!(reported(1, None, 3));
    assert!(reported(3, None, 1));
    for node in &fleet.nodes {
        assert!(node.core.stats().reopened <= u64::from(REOPENINGS_MAX));
    }
}

#[test]
fn a_single_restart_is_no_duplicate() {
    let mut fleet = Fleet::new(5, 3, &Config::default());
    fleet.settle();
    for _ in 0..3 {
        fleet.issue(1);
        fleet.restart(1);
        fleet.run(secs(20));
    }
    for node in &fleet.nodes {
        let duplicate = |event: &&Event| matches!(event, Event::DuplicateNode { .. });
        assert_eq!(node.events.iter().find(duplicate), None);
    }
    let restarts = |event: &&Event| matches!(event, Event::PeerRestarted(PeerId(1)));
    assert_eq!(fleet.nodes[0].events.iter().filter(restarts).count(), 3);
}

/// A machine that was copied while it ran: another process, the same stream.
#[test]
fn a_clone_that_hears_its_own_stream_opens_another() {
    let mut fleet = Fleet::new(6, 3, &Config::default());
    let now = fleet.now;
    let clone_of = |instance| {
        let identity = Identity {
            node: node_id(2),
            instance,
            stamp: 1,
        };
        let rng = StdRng::seed_from_u64(99);
        Core::new(
            identity,
            Config::default(),
            MemoryStore::new(),
            rng,
            now,
            now,
        )
    };
    for (index, others) in [(1, [0, 2]), (2, [0, 1])] {
        fleet.nodes[index].core = clone_of(100 + index as u64);
        for other in others {
            fleet.nodes[index].core.add_peer(now, PeerId(other), "");
        }
    }
    assert_eq!(
        fleet.nodes[1].core.own_stream(),
        fleet.nodes[2].core.own_stream()
    );
    fleet.settle();
    for _ in 0..20 {
        fleet.issue(1);
        fleet.run(ms(10));
    }
    assert_eq!(fleet.stats(2).reopened, 1);
    assert_ne!(
        fleet.nodes[1].core.own_stream(),
        fleet.nodes[2].core.own_stream()
    );
    for n in 0..40 {
        fleet.issue(1 + n % 2);
        fleet.run(ms(10));
    }
    fleet.converge(secs(10));
    fleet.assert_applied_once();
}

#[test]
fn a_later_epoch_of_this_node_is_stepped_over() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    let later = StreamId {
        node: core.node(),
        epoch: Epoch {
            stamp: core.own_stream().epoch.stamp + 1_000_000,
            random: 5,
        },
    };
    let from = core.own_stream();
    let entry = holds(later, 1..=3);
    puppet.digest(&mut core, now, 1, std::slice::from_ref(&entry));
    let to = core.own_stream();
    assert!(to.epoch.stamp > later.epoch.stamp);
    let events: Vec<Event> = std::iter::from_fn(|| core.poll_event()).collect();
    assert!(events.contains(&Event::Reopened { from, to }));
    // Once is enough.
    puppet.digest(&mut core, now, 2, &[entry]);
    assert_eq!(core.stats().reopened, 1);
    // And the other epoch's messages are wanted like anybody's.
    let view = core.streams().find(|view| view.id == later);
    assert_eq!(view.map(|view| view.wanted), Some(3));
}

#[test]
fn reopening_ends_even_if_somebody_claims_every_new_stream() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let mut puppet = Puppet::join(1, &mut core, now);
    for round in 1..100 {
        let entry = holds(core.own_stream(), 1..=1 << 40);
        puppet.digest(&mut core, now, round, &[entry]);
    }
    assert_eq!(core.stats().reopened, u64::from(REOPENINGS_MAX));
    let id = core
        .handle_purge(now, Purge::Digest([1; 32]))
        .expect("issued");
    core.handle_applied(now, id, Outcome::Applied);
    puppet.take(&mut core, now);
    let told = puppet.inbox.iter().any(|bytes| disseminates(bytes));
    assert!(told);
}

/// What was issued and not yet sent when the stream was left goes out all the same.
#[test]
fn purges_waiting_to_be_sent_survive_a_reopening() {
    let mut fleet = Fleet::new(8, 3, &Config::default());
    fleet.settle();
    let mut puppet = fleet.add_puppet(0, 50);
    let now = fleet.now;
    let old = fleet.nodes[0].core.own_stream();
    let entry = holds(old, 1..=1_000);
    let core = &mut fleet.nodes[0].core;
    let id = core
        .handle_purge(now, Purge::Digest([3; 32]))
        .expect("issued");
    puppet.digest(core, now, 1, &[entry]);
    core.handle_applied(now, id, Outcome::Applied);
    assert_ne!(core.own_stream(), old);
    fleet.issued.insert(id, (Purge::Digest([3; 32]), now, 0));
    fleet.nodes[0].applied.insert(id, 1);
    let next = fleet.issue(0);
    assert_ne!(next.stream, old);
    fleet.converge(secs(10));
}

#[test]
fn a_future_op_is_held_relayed_and_reported_and_never_applied() {
    let mut fleet = Fleet::new(7, 5, &Config::default());
    fleet.settle();
    // Of a version to come, which only node 0 has for a peer.
    let mut future = fleet.add_puppet(0, 50);
    let stream = future.stream();
    let now = fleet.now;
    let bodies: [(u16, Vec<u8>); 3] = [
        (777, b"keys and more keys".to_vec()),
        (u16::MAX, Vec::new()),
        // A known op, with more in it than this version knows.
        (Purge::OP_DIGEST, vec![9; 40]),
    ];
    for (seq, (op, body)) in (1..).zip(&bodies) {
        let tell = Tell {
            op: *op,
            body,
            ..Tell::default()
        };
        future.tell(
            &mut fleet.nodes[0].core,
            now,
            MessageId { stream, seq },
            tell,
        );
    }
    fleet.run(secs(20));
    for (index, node) in fleet.nodes.iter().enumerate() {
        assert_eq!(node.core.stats().unsupported, 3, "node {index}");
        assert!(node.applied.is_empty());
        for (seq, (op, _)) in (1..).zip(&bodies) {
            let id = MessageId { stream, seq };
            assert_eq!(node.core.knows(id), Knowledge::Unsupported);
            let event = Event::UnsupportedOp(id, *op);
            assert_eq!(node.events.iter().filter(|e| **e == event).count(), 1);
        }
        let view = node.core.streams().find(|view| view.id == stream);
        assert_eq!(view.map(|view| view.held.count()), Some(3));
    }
    // The last to get it gives it on unchanged.
    let mut asker = fleet.add_puppet(4, 51);
    let now = fleet.now;
    let core = &mut fleet.nodes[4].core;
    asker.solicit(core, now, 0, stream, &[1..=3]);
    asker.take(core, now);
    let mut relayed = Vec::new();
    for bytes in &asker.inbox {
        let datagram = Datagram::parse(bytes).expect("valid");
        for frame in datagram.frames() {
            if let Frame::Data(data) = frame {
                relayed.extend(data.messages().map(|m| (m.op, m.body.to_vec())));
            }
        }
    }
    assert_eq!(relayed, bodies);
}

#[test]
fn purges_of_unknown_ops_are_refused_where_they_are_issued() {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let purge = Purge::Unknown {
        op: 9,
        body: Default::default(),
    };
    assert!(core.handle_purge(now, purge).is_err());
    assert_eq!(core.stats().issued, 0);
    assert_eq!(core.own_stream().node, NodeId(core.node().0));
    // A name that is no id at all is not known.
    let id = MessageId {
        stream: StreamId::default(),
        seq: 0,
    };
    assert_eq!(core.knows(id), Knowledge::Unknown);
}

/// A copy made with the memory: the same stream, the same instance, the same random numbers.
#[test]
fn two_copies_of_one_running_process_become_two() {
    for seed in 0..10 {
        let mut fleet = Fleet::new(seed, 3, &Config::default());
        let now = fleet.now;
        for (index, others) in [(1, [0, 2]), (2, [0, 1])] {
            fleet.nodes[index].core = make_core(99, 7, 0, &Config::default(), now, now);
            for other in others {
                fleet.nodes[index].core.add_peer(now, PeerId(other), "");
            }
        }
        fleet.run(secs(20));
        // What one of them issues first, before the other speaks, is the stream's.
        fleet.issue(1);
        fleet.run(secs(5));
        for n in 0..20 {
            fleet.issue(1 + n % 2);
            fleet.run(ms(50));
        }
        fleet.converge(secs(20));
        fleet.assert_applied_once();
        assert_ne!(
            fleet.nodes[1].core.own_stream(),
            fleet.nodes[2].core.own_stream(),
            "seed {seed}"
        );
    }
}

#[test]
fn a_peer_that_falls_silent_is_down_and_up_again_when_heard() {
    let mut fleet = Fleet::new(12, 3, &Config::default());
    fleet.settle();
    let count = |fleet: &Fleet, wanted: Event| {
        let events = fleet.nodes[0].events.iter();
        events.filter(|event| **event == wanted).count()
    };
    assert_eq!(count(&fleet, Event::PeerUp(PeerId(1))), 1);
    fleet.freeze(1);
    fleet.run(secs(30));
    assert_eq!(count(&fleet, Event::PeerDown(PeerId(1))), 1);
    assert_eq!(count(&fleet, Event::PeerDown(PeerId(2))), 0);
    fleet.thaw(1);
    fleet.run(secs(10));
    assert_eq!(count(&fleet, Event::PeerUp(PeerId(1))), 2);
    // The same session goes on: it was no restart.
    assert_eq!(count(&fleet, Event::PeerRestarted(PeerId(1))), 0);
    assert_eq!(fleet.stats(0).sessions, 2);
    // A quiet fleet is not a silent one.
    fleet.run(secs(300));
    assert_eq!(count(&fleet, Event::PeerDown(PeerId(1))), 1);
    assert_eq!(count(&fleet, Event::PeerDown(PeerId(2))), 0);
}

/// Its entry is another one then, which has no name; the other side saw nothing of that.
#[test]
fn who_is_listed_again_tells_its_name_again() {
    let mut fleet = Fleet::new(17, 2, &Config::default());
    fleet.settle();
    fleet.run(secs(10));
    let name = |fleet: &Fleet| fleet.nodes[0].core.peers().next().map(|view| view.name);
    let before = name(&fleet);
    assert!(before.as_ref().is_some_and(|name| !name.is_empty()));
    let now = fleet.now;
    fleet.nodes[0].core.add_peer(now, PeerId(1), "");
    fleet.pump(0);
    assert_eq!(name(&fleet).as_deref(), Some(""));
    let challenges = |fleet: &Fleet| fleet.stats(0).challenges + fleet.stats(1).challenges;
    let challenged = challenges(&fleet);
    fleet.run(secs(20));
    assert_eq!(name(&fleet), before);
    // And that was it.
    assert!(challenges(&fleet) <= challenged + 2);
}
