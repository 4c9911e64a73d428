//! Receipts: who has applied a message is told to those who ask, and to nobody else.

mod common;

use std::time::Duration;

use common::puppet::Puppet;
use common::{Apply, Fleet, Link, TestCore, make_core, ms, purge_of, secs, start_of_time};
use powderhorn_protocol::bounds::{RECEIPTS_MAX, SEQ_MAX};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::{MessageIds, StreamId};
use powderhorn_protocol::purge::Purge;
use powderhorn_protocol::wire::{self, Fate};
use powderhorn_protocol::{PeerId, Receipt, ReceiptState};

fn issue_asked(fleet: &mut Fleet, index: usize) -> MessageIds {
    let purge = purge_of(fleet.issued.len() as u64);
    fleet.issue_then(index, vec![purge], |core, now, ids| {
        assert!(core.ask_receipt(now, ids, false));
    })
}

fn ask(fleet: &mut Fleet, index: usize, ids: MessageIds) {
    let now = fleet.now;
    assert!(fleet.nodes[index].core.ask_receipt(now, ids, false));
    fleet.pump(index);
}

fn receipt(fleet: &Fleet, index: usize, ids: MessageIds) -> Receipt {
    fleet.nodes[index].core.receipt(ids).expect("asked for")
}

fn missing(receipt: &Receipt) -> Vec<u32> {
    let missing = receipt.peers.iter();
    let missing = missing.filter(|peer| peer.state == ReceiptState::Missing);
    missing.map(|peer| peer.peer.0).collect()
}

fn settled(seed: u64, count: usize) -> Fleet {
    let mut fleet = Fleet::new(seed, count, &Config::default());
    fleet.settle();
    fleet
}

#[test]
fn nobody_acknowledges_unasked() {
    let mut fleet = settled(1, 5);
    for index in 0..5 {
        fleet.issue(index);
    }
    fleet.run(secs(5));
    assert!(fleet.converged());
    assert_eq!(fleet.sum(|stats| stats.asks_in + stats.receipts_in), 0);
}

#[test]
fn the_question_goes_with_the_purge_and_each_answers_once() {
    let mut fleet = settled(2, 5);
    let before = fleet.stats(0).datagrams_out;
    let ids = issue_asked(&mut fleet, 0);
    assert_eq!(fleet.stats(0).datagrams_out, before + 1);
    assert_eq!(missing(&receipt(&fleet, 0, ids)), [1, 2, 3, 4]);
    fleet.run(ms(20));
    let got = receipt(&fleet, 0, ids);
    assert_eq!((got.done(), missing(&got)), (5, vec![]));
    assert_eq!(fleet.stats(0).asks_out, 1);
    assert_eq!(fleet.stats(0).receipts_in, 4);
    for peer in got.peers {
        assert_eq!(peer.state, ReceiptState::Applied);
        // The link's delay is half a millisecond, and what is measured is right to a round trip.
        let latency = peer.latency.expect("it has just been applied");
        assert!(latency <= ms(2), "{latency:?}");
    }
    fleet.run(secs(30));
    assert_eq!(
        fleet.stats(0).asks_out,
        1,
        "what is answered is not asked again"
    );
}

#[test]
fn applied_means_applied_not_received() {
    let mut fleet = settled(3, 3);
    fleet.nodes[1].apply = Apply::Delayed(ms(700));
    let ids = issue_asked(&mut fleet, 0);
    fleet.run(ms(600));
    assert_eq!(missing(&receipt(&fleet, 0, ids)), [1]);
    fleet.run(ms(150));
    let got = receipt(&fleet, 0, ids);
    assert_eq!(got.done(), 3);
    let latency = got.peers[0].latency.expect("remembered");
    assert!((ms(695)..=ms(705)).contains(&latency), "{latency:?}");
}

#[test]
fn who_is_cut_off_is_named_until_it_is_back() {
    let mut fleet = settled(4, 5);
    fleet.cut(&[3], &[0, 1, 2, 4], true);
    let ids = issue_asked(&mut fleet, 0);
    fleet.run(secs(20));
    let got = receipt(&fleet, 0, ids);
    assert_eq!((got.done(), missing(&got)), (4, vec![3]));
    fleet.cut(&[3], &[0, 1, 2, 4], false);
    let healed = fleet.now;
    let done = fleet.run_until(healed + secs(30), |fleet| {
        receipt(fleet, 0, ids).done() == 5
    });
    assert!(done, "still missing after the cut has healed");
}

#[test]
fn loss_costs_time_only() {
    for seed in 0..10 {
        let mut fleet = settled(100 + seed, 8);
        fleet.all_links(Link {
            loss: 0.3,
            ..Link::default()
        });
        let asked: Vec<MessageIds> = (0..20).map(|i| issue_asked(&mut fleet, i % 8)).collect();
        let all = |fleet: &Fleet| {
            let mut asked = asked.iter().enumerate();
            asked.all(|(i, ids)| receipt(fleet, i % 8, *ids).done() == 8)
        };
        let end = fleet.now + secs(20);
        assert!(fleet.run_until(end, all), "seed {seed}");
    }
}

/// The seeds' first system: each server acknowledges each purge to its sender.
#[test]
fn a_storm_in_a_large_fleet_takes_few_datagrams_either_way() {
    let (nodes, purges) = (200, 1_000);
    let mut fleet = settled(5, nodes);
    let before = fleet.stats(0).datagrams_in;
    let mut asked = Vec::new();
    for _ in 0..purges {
        asked.push(issue_asked(&mut fleet, 0));
        fleet.run(ms(1));
    }
    fleet.run(ms(200));
    assert!(
        asked
            .iter()
            .all(|ids| receipt(&fleet, 0, *ids).done() == nodes)
    );
    let one_each = (nodes - 1) * purges;
    let (receipts, asks) = (fleet.stats(0).receipts_in, fleet.stats(0).asks_out);
    println!(
        "{purges} purges to {nodes} nodes: {receipts} datagrams of receipts; one for each purge and \
         node would be {one_each}; all that came in: {}; questions: {asks}",
        fleet.stats(0).datagrams_in - before
    );
    // Each answers once in 25 ms on average, whatever is purged.
    assert!(receipts <= one_each as u64 / 10, "{receipts}");
    // With the purges, and hardly any again: each of those would go to one peer only.
    assert!(asks <= purges as u64 * 2, "{asks}");
}

/// Whose cache fails answers none of them, and is asked again for all.
#[test]
fn what_many_receipts_lack_is_one_question() {
    let mut fleet = settled(11, 3);
    fleet.nodes[2].apply = Apply::Hung;
    for _ in 0..500 {
        issue_asked(&mut fleet, 0);
        fleet.run(ms(1));
    }
    fleet.run(secs(2));
    let before = fleet.stats(0).asks_out;
    fleet.run(secs(10));
    let asks = fleet.stats(0).asks_out - before;
    assert!(asks <= 10 * 10, "{asks} in ten seconds");
}

#[test]
fn any_node_may_ask_about_any_message_and_later() {
    let mut fleet = settled(6, 5);
    let first = fleet.issue(1);
    for _ in 0..2_000 {
        fleet.issue(1);
        fleet.run(ms(1));
    }
    let ids = MessageIds::from(first);
    ask(&mut fleet, 4, ids);
    fleet.run(ms(50));
    let got = receipt(&fleet, 4, ids);
    assert_eq!(got.done(), 5);
    // It is too long ago for anybody to remember when, and so the latency is not made up.
    assert!(got.peers.iter().all(|peer| peer.latency.is_none()));
}

#[test]
fn many_messages_are_one_receipt() {
    let mut fleet = settled(7, 4);
    let purges = (0..1_000).map(purge_of).collect();
    fleet.link.loss = 0.05;
    let ids = fleet.issue_then(0, purges, |core, now, ids| {
        assert!(core.ask_receipt(now, ids, false));
    });
    let end = fleet.now + secs(10);
    let done = fleet.run_until(end, |fleet| receipt(fleet, 0, ids).done() == 4);
    assert!(done);
}

#[test]
fn a_question_about_nothing_makes_nobody_want_it() {
    let mut fleet = settled(8, 4);
    let stream = StreamId {
        node: powderhorn_protocol::id::NodeId(9),
        ..StreamId::default()
    };
    let ids = MessageIds {
        stream,
        first: 1,
        last: SEQ_MAX,
    };
    ask(&mut fleet, 0, ids);
    fleet.run(secs(2));
    assert_eq!(missing(&receipt(&fleet, 0, ids)), [1, 2, 3]);
    for node in &fleet.nodes {
        assert!(node.core.streams().all(|view| view.id != stream));
    }
}

#[test]
fn a_young_cache_does_not_want_it() {
    let config = Config {
        join_margin: Duration::ZERO,
        ..Config::default()
    };
    let mut fleet = Fleet::new(9, 3, &config);
    fleet.settle();
    let id = fleet.issue(0);
    fleet.run(secs(60));
    fleet.restart(2);
    fleet.run(secs(20));
    ask(&mut fleet, 0, id.into());
    fleet.run(secs(20));
    let got = receipt(&fleet, 0, id.into());
    assert_eq!(got.peers[0].state, ReceiptState::Applied);
    assert_eq!(got.peers[1].state, ReceiptState::NotWanted);
    assert_eq!(got.done(), 3);
    // It is no other story when that node is asked itself.
    ask(&mut fleet, 2, id.into());
    fleet.run(secs(20));
    let got = receipt(&fleet, 2, id.into());
    assert!(!got.applied_here && got.done_here);
    assert_eq!(
        (got.done(), fleet.nodes[2].core.receipt_done(id.into())),
        (3, 3)
    );
    // What nobody has issued yet is owed by all.
    let next = MessageIds {
        last: id.seq + 1,
        ..id.into()
    };
    ask(&mut fleet, 2, next);
    fleet.run(secs(20));
    assert_eq!(receipt(&fleet, 2, next).done(), 0);
}

fn core_with_puppet() -> (TestCore, Puppet) {
    let now = start_of_time();
    let mut core = make_core(1, 0, 0, &Config::default(), now, now);
    let puppet = Puppet::join(7, &mut core, now);
    (core, puppet)
}

#[test]
fn an_op_that_is_not_known_somewhere_is_told() {
    let now = start_of_time();
    let (mut core, mut puppet) = core_with_puppet();
    let ids = MessageIds::from(core.handle_purge(now, Purge::Everything).expect("room"));
    assert!(core.ask_receipt(now, ids, false));
    let mut entry = Vec::new();
    let ranges = || std::iter::once(ids.first..=ids.last);
    wire::put_receipt_entry(&mut entry, ids.stream, Fate::Reserved(77), None, ranges());
    puppet.say(&mut core, now, |out| wire::put_receipts(out, &entry));
    let state = |core: &TestCore| core.receipt(ids).expect("asked").peers[0].state;
    assert_eq!(
        state(&core),
        ReceiptState::Missing,
        "a later version's word"
    );
    entry.clear();
    wire::put_receipt_entry(&mut entry, ids.stream, Fate::Unsupported, None, ranges());
    puppet.say(&mut core, now, |out| wire::put_receipts(out, &entry));
    assert_eq!(state(&core), ReceiptState::Unsupported);
    assert_eq!(core.receipt(ids).expect("asked").done(), 0);
}

#[test]
fn what_somebody_waits_for_is_not_given_up_for_others() {
    let now = start_of_time();
    let (mut core, _) = core_with_puppet();
    let ids = |seq: u64| MessageIds {
        stream: core_stream(),
        first: seq,
        last: seq,
    };
    assert!(core.ask_receipt(now, ids(1), true));
    for seq in 2..2 + 2 * RECEIPTS_MAX as u64 {
        assert!(core.ask_receipt(now + Duration::from_micros(seq), ids(seq), false));
    }
    assert!(core.receipt(ids(1)).is_some());
    assert!(core.receipt(ids(2)).is_none(), "the oldest went");
    assert_eq!(core.stats().receipts_given_up, RECEIPTS_MAX as u64 + 1);
    for seq in 10_000..10_000 + RECEIPTS_MAX as u64 - 1 {
        assert!(core.ask_receipt(now, ids(seq), true));
    }
    assert!(
        !core.ask_receipt(now, ids(99_999), false),
        "all are waited for"
    );
    core.unpin_receipt(ids(1));
    assert!(core.ask_receipt(now, ids(99_999), false));
    assert!(core.receipt(ids(1)).is_none());
}

fn core_stream() -> StreamId {
    StreamId {
        node: powderhorn_protocol::id::NodeId(5),
        ..StreamId::default()
    }
}

#[test]
fn answers_to_what_was_never_asked_and_endless_questions_cost_nothing() {
    let now = start_of_time();
    let (mut core, mut puppet) = core_with_puppet();
    let mut at = now;
    for stamp in 0..200 {
        let mut stream = core_stream();
        stream.epoch.stamp = stamp;
        let ranges = || (0..100u64).map(|i| 1 + i * 1_000_000..=1 + i * 1_000_000 + 500_000);
        let mut entries = Vec::new();
        wire::put_solicit_entry(&mut entries, stream, ranges());
        puppet.say(&mut core, at, |out| wire::put_ask(out, u64::MAX, &entries));
        entries.clear();
        wire::put_receipt_entry(
            &mut entries,
            stream,
            Fate::Applied,
            Some(u64::MAX - 1),
            ranges(),
        );
        puppet.say(&mut core, at, |out| wire::put_receipts(out, &entries));
        at = at + ms(1);
        core.handle_timeout(at);
        puppet.take(&mut core, at);
    }
    assert!(core.receipt(core.own_stream_ids()).is_none());
    assert!(
        core.streams().count() <= 1,
        "no stream is made of a question"
    );
    assert_eq!(core.stats().receipts_out, 0, "there is nothing to say");
    assert!(core.stats().asks_dropped > 0, "dropped and not counted");
    for _ in 0..20 {
        at = at + secs(1);
        core.handle_timeout(at);
        puppet.take(&mut core, at);
    }
    assert!(core.poll_timeout() <= at + secs(1), "the rounds go on");
    core.remove_peer(PeerId(7));
}

/// What nobody knows anything of must not stand in the way of what they know.
#[test]
fn questions_that_cannot_be_answered_do_not_hold_up_others() {
    let mut fleet = settled(10, 3);
    let now = fleet.now;
    for n in 0..256 {
        let seq = 3 * n + 1;
        let ids = MessageIds {
            stream: core_stream(),
            first: seq,
            last: seq,
        };
        assert!(fleet.nodes[0].core.ask_receipt(now, ids, false));
    }
    fleet.pump(0);
    fleet.run(secs(5));
    let ids = issue_asked(&mut fleet, 0);
    fleet.run(secs(5));
    assert_eq!(receipt(&fleet, 0, ids).done(), 3);
    // Nobody reads them any more, so nobody is asked any more.
    fleet.run(secs(120));
    let asked = fleet.stats(0).asks_out;
    fleet.run(secs(60));
    assert_eq!(fleet.stats(0).asks_out, asked);
}

#[test]
fn a_number_that_no_message_has_is_not_asked_about() {
    let mut fleet = settled(11, 2);
    let stream = fleet.nodes[0].core.own_stream();
    for (first, last) in [(u64::MAX, u64::MAX), (1, SEQ_MAX + 1), (0, 1), (5, 4)] {
        let ids = MessageIds {
            stream,
            first,
            last,
        };
        fleet.issue_then(0, vec![purge_of(first % 1_000)], |core, now, _| {
            assert!(!core.ask_receipt(now, ids, true));
        });
    }
    assert!(format!("1.2.3:{}", u64::MAX).parse::<MessageIds>().is_err());
    fleet.run(secs(1));
    assert_eq!(fleet.sum(|stats| stats.malformed), 0);
    assert_eq!(fleet.stats(1).received, 4);
}

/// Another life of a peer has another cache, and another version perhaps.
#[test]
fn what_an_earlier_life_said_is_asked_again() {
    let mut fleet = settled(12, 3);
    let ids = issue_asked(&mut fleet, 0);
    fleet.run(secs(1));
    assert_eq!(receipt(&fleet, 0, ids).done(), 3);
    fleet.stop(1);
    fleet.nodes[1].cache_started = fleet.now - secs(3_600);
    fleet.nodes[1].apply = Apply::Delayed(secs(1_000));
    fleet.start_with_warm_cache(1);
    fleet.run(secs(10));
    assert_eq!(missing(&receipt(&fleet, 0, ids)), [1]);
}

trait OwnIds {
    fn own_stream_ids(&self) -> MessageIds;
}

impl OwnIds for TestCore {
    fn own_stream_ids(&self) -> MessageIds {
        MessageIds {
            stream: self.own_stream(),
            first: 1,
            last: 1,
        }
    }
}

#[test]
fn a_peer_that_comes_later_is_asked_as_well() {
    let mut fleet = settled(12, 3);
    fleet.nodes[0].core.remove_peer(PeerId(2));
    let ids = issue_asked(&mut fleet, 0);
    // All that there are have answered.
    fleet.run(secs(5));
    assert_eq!(missing(&receipt(&fleet, 0, ids)), []);
    let now = fleet.now;
    fleet.nodes[0].core.add_peer(now, PeerId(2), "");
    fleet.pump(0);
    fleet.run(secs(5));
    assert_eq!(receipt(&fleet, 0, ids).peers.len(), 2);
    assert_eq!(missing(&receipt(&fleet, 0, ids)), []);
}

/// An id may be known before its message: who asked then was never told how old it is.
#[test]
fn what_comes_after_the_question_has_an_age() {
    let mut fleet = settled(12, 3);
    fleet.cut(&[2], &[0, 1], true);
    let ids = MessageIds::from(fleet.issue(0));
    ask(&mut fleet, 2, ids);
    fleet.run(secs(1));
    assert_eq!(receipt(&fleet, 2, ids).born, None);
    fleet.cut(&[2], &[0, 1], false);
    fleet.run(secs(10));
    ask(&mut fleet, 2, ids);
    let got = receipt(&fleet, 2, ids);
    assert_eq!(got.done(), 3);
    let issued = fleet.issued[&ids.first()].1;
    assert!(
        got.born.is_some_and(|born| born.since(issued) < ms(200)),
        "{got:?}"
    );
    assert!(
        got.peers.iter().all(|peer| peer.latency.is_some()),
        "{got:?}"
    );
}
