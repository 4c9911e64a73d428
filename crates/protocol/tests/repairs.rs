//! What anti-entropy mends, and what it leaves alone: digests that fit, no unwanted repairs,
//! joining by age, retention, floors, budgets.
//!
//! A repair is *unwanted* if its receiver knew the message (seen, held, skipped) when it was sent.
//! One that was wanted then and known on arrival has *crossed* with another on its way.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

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

/// Loses every dissemination to `victim`, as long as the switch is on.
fn deafen(fleet: &mut Fleet, victim: usize) -> Rc<RefCell<bool>> {
    let on = Rc::new(RefCell::new(true));
    let switch = Rc::clone(&on);
    fleet.filter = Some(Box::new(move |_, to, bytes| {
        !*switch.borrow() || to != victim || !disseminates(bytes)
    }));
    on
}

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
    for _ in 0..2 * gaps {
        fleet.issue(0);
        fleet.run(Duration::from_micros(100));
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
