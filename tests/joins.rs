//! Nodes that join with an empty cache, with real processes: what counts for them is what is younger than their
//! cache, however long they were cut off since.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{alone, served, set_limit, start, version};
use powderhorn_fleet::fleet::{self, START_TIMEOUT};

/// Of `limits.join_margin`, ten minutes otherwise.
const MARGIN: Duration = Duration::from_secs(1);
const OBJECTS: usize = 60;
/// How long the last purge may take to arrive after the cut.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(45);

/// Only its process dies: the manager starts another one, over the same journal.
const RESTARTED: usize = 1;
/// It is there for the first time: nothing is in its state directory.
const NEW: usize = 2;

fn url(n: usize) -> String {
    format!("/object/{n}")
}

/// The age of a purge is asked for against the cache's, not against the time since the cut: a limit of the margin alone
/// would leave here whatever was purged in the first two thirds of it.
#[test]
fn an_empty_cache_that_was_cut_off_since_its_start_gets_what_is_younger() {
    const KEPT: &str = "/kept";
    let _alone = alone();
    let mut fleet = start(3);
    set_limit(&mut fleet, "join_margin", MARGIN);
    let old = fleet.purge(0, "/old").expect("the purge is taken");
    std::thread::sleep(2 * MARGIN);

    let relay = fleet.relay.as_ref().expect("a relay");
    [RESTARTED, NEW].map(|node| relay.cut_node(node));
    fleet.nodes[RESTARTED]
        .varnish
        .crash_child(START_TIMEOUT)
        .expect("the manager restarts it");
    fleet.nodes[NEW].varnish.kill_all();
    fs::remove_dir_all(fleet.state(NEW)).expect("there was a state directory");
    let varnish = &mut fleet.nodes[NEW].varnish;
    varnish.start_again().expect("varnishd starts again");
    varnish.wait_ready(START_TIMEOUT).expect("it runs");
    for node in [RESTARTED, NEW] {
        for url in (0..OBJECTS).map(url).chain([KEPT.to_owned()]) {
            assert_eq!(served(&fleet, node, &url), (version(1, &url), false));
            assert_eq!(served(&fleet, node, &url), (version(1, &url), true));
        }
    }

    fleet.origin.bump_all();
    let begun = Instant::now();
    let mut purged = Vec::new();
    for n in 0..OBJECTS {
        // All along the time that they are cut off.
        let due = 3 * MARGIN * n as u32 / OBJECTS as u32;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        purged.push(fleet.purge(0, &url(n)).expect("the purge is taken"));
    }
    std::thread::sleep((3 * MARGIN).saturating_sub(begun.elapsed()));
    for node in [RESTARTED, NEW] {
        for url in (0..OBJECTS).map(url) {
            let stale = (version(1, &url), true);
            assert_eq!(served(&fleet, node, &url), stale, "the cut holds");
        }
    }
    let relay = fleet.relay.as_ref().expect("a relay");
    [RESTARTED, NEW].map(|node| relay.heal_node(node));
    let healed = Instant::now();
    for node in [RESTARTED, NEW] {
        let mut client = fleet.client(node);
        for id in &purged {
            while !fleet::knows(&mut client, id).expect("the node answers") {
                assert!(
                    healed.elapsed() < CONVERGE_TIMEOUT,
                    "{id} has not come to node {node}\n{}",
                    fleet.logs()
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        for url in (0..OBJECTS).map(url) {
            assert_eq!(
                served(&fleet, node, &url).0,
                version(2, &url),
                "node {node}"
            );
        }
        // By these purges, and not because it was flushed.
        assert_eq!(served(&fleet, node, KEPT), (version(1, KEPT), true));
    }
    // What is older than the cache by more than the margin was left out: it joined by age. A node that cannot find out
    // how old its cache is takes more than it needs.
    let known = |node| fleet::knows(&mut fleet.client(node), &old).expect("the node answers");
    assert!(known(0));
    if fs::exists("/proc/self/stat").unwrap_or(false) {
        assert!(!known(NEW));
    }
    fleet.stop();
}
