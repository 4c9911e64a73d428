//! Fleets of real varnishds, purged through a network that loses, delays and cuts.
//!
//! What counts is what each node serves: every URL is asked of every node, and its cache header
//! and the version in its body decide, never a counter of the nodes themselves. A failing run
//! prints the seed of its network; `POWDERHORN_SEED=<seed>` runs the same faults again.

mod common;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::{CONNECT_TIMEOUT, alone, plan};
use powderhorn_fleet::avalanche::Faults;
use powderhorn_fleet::fleet::{self, Fleet, Plan, START_TIMEOUT};
use powderhorn_fleet::http::{Client, Request, Response};

/// How long the last purge may take to arrive once all were sent and all cuts healed.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(45);
/// Requests under way on one connection.
const PIPELINE: usize = 50;
/// Connections to one node while its cache is filled and checked.
const CONNECTIONS: usize = 2;

fn seed() -> u64 {
    match std::env::var("POWDERHORN_SEED") {
        Ok(seed) => seed.parse().expect("POWDERHORN_SEED is a number"),
        Err(_) => std::hash::RandomState::new().build_hasher().finish(),
    }
}

/// Says how to run the same faults again, and what the nodes have to say, if the test fails.
struct OnFailure<'a>(&'a Fleet);

impl Drop for OnFailure<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some(relay) = &self.0.relay {
            eprintln!(
                "again with the same faults: POWDERHORN_SEED={} make test",
                relay.seed()
            );
            eprintln!("relay: {:?}", relay.stats_total());
        }
        for node in 0..self.0.nodes.len() {
            let status = self.0.client(node).get("/.fleet/status");
            eprintln!(
                "{}",
                status.map_or_else(|error| error.to_string(), |s| s.text())
            );
        }
        eprintln!("{}", self.0.logs());
    }
}

fn url(n: usize) -> String {
    format!("/object/{n}")
}

fn name(fleet: &Fleet, node: usize) -> &str {
    &fleet.nodes[node].name
}

/// Asks one node for the given objects; calls `see` with the number and the response of each.
fn ask(fleet: &Fleet, node: usize, objects: &[usize], see: &(impl Fn(usize, &Response) + Sync)) {
    std::thread::scope(|scope| {
        for part in objects.chunks(objects.len().div_ceil(CONNECTIONS).max(1)) {
            scope.spawn(move || {
                let mut client = fleet.client(node);
                for batch in part.chunks(PIPELINE) {
                    let requests: Vec<_> = batch.iter().map(|n| Request::get(url(*n))).collect();
                    let responses = client.pipeline(&requests).expect("the node answers");
                    batch
                        .iter()
                        .zip(&responses)
                        .for_each(|(n, response)| see(*n, response));
                }
            });
        }
    });
}

/// Makes every node hold every object, and makes sure that they do.
fn fill(fleet: &Fleet, objects: usize) {
    let objects: Vec<_> = (0..objects).collect();
    let version = |n: usize| format!("version 1 of {}\n", url(n));
    each_node(fleet, |node| {
        ask(fleet, node, &objects, &|n, response| {
            assert_eq!(
                response.text(),
                version(n),
                "{}: {response:?}",
                name(fleet, node)
            );
        });
        ask(fleet, node, &objects, &|n, response| {
            assert!(
                fleet::is_hit(response),
                "{}: {response:?}",
                name(fleet, node)
            );
            assert_eq!(response.text(), version(n));
        });
    });
}

fn each_node(fleet: &Fleet, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..fleet.nodes.len())
            .map(|node| scope.spawn(move || work(node)))
            .collect();
        // A failure on one node is a failure of the test, with its message.
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Sends the purges of some objects to one node, ten at a time with a pause after each ten.
fn purge(fleet: &Fleet, node: usize, objects: Range<usize>, pause: Duration) {
    let mut client = fleet.client(node);
    for batch in objects.collect::<Vec<_>>().chunks(10) {
        let requests: Vec<_> = batch.iter().map(|n| Request::purge(url(*n))).collect();
        let responses = client.pipeline(&requests).expect("the node answers");
        for (n, response) in batch.iter().zip(&responses) {
            fleet
                .purge_id(node, &url(*n), response)
                .expect("the purge is taken");
        }
        std::thread::sleep(pause);
    }
}

/// How many of some objects a node holds.
fn cached(fleet: &Fleet, node: usize, objects: Range<usize>) -> usize {
    let mut client = fleet.client(node);
    let looks: Vec<_> = objects
        .map(|n| Request::get(url(n)).with("Cache-Control", "only-if-cached"))
        .collect();
    let batches = looks.chunks(PIPELINE).map(|batch| client.pipeline(batch));
    let responses = batches.flat_map(|batch| batch.expect("the node answers"));
    responses.filter(|response| response.status == 200).count()
}

/// Asks every node for every object until all serve the given version. What still has an older one
/// is asked again until the deadline. Returns how many were stale at the first look.
fn wait_until_gone(fleet: &Fleet, objects: usize, version: u64, timeout: Duration) -> usize {
    let deadline = Instant::now() + timeout;
    let stale_at_first = Mutex::new(0);
    each_node(fleet, |node| {
        let mut left: Vec<_> = (0..objects).collect();
        for attempt in 0.. {
            let stale = Mutex::new(BTreeSet::new());
            ask(fleet, node, &left, &|n, response| {
                if response.text() != format!("version {version} of {}\n", url(n)) {
                    assert_eq!(response.status, 200, "{}: {response:?}", name(fleet, node));
                    stale.lock().unwrap().insert(n);
                }
            });
            left = stale.into_inner().unwrap().into_iter().collect();
            if attempt == 0 {
                *stale_at_first.lock().unwrap() += left.len();
            }
            if left.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{} still serves {} purged objects after {timeout:?}, e.g. {}",
                name(fleet, node),
                left.len(),
                url(left[0]),
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    stale_at_first.into_inner().unwrap()
}

#[test]
fn ten_thousand_purges_leave_five_nodes_through_loss_delay_reordering_and_a_cut() {
    const NODES: usize = 5;
    const OBJECTS: usize = 10_000;
    const CUT_OFF: usize = 3;
    let _alone = alone();
    let begin = Instant::now();
    let fleet = Fleet::start(&plan(NODES, Some(seed()))).expect("the fleet starts");
    let _on_failure = OnFailure(&fleet);
    let relay = fleet.relay.as_ref().expect("asked for");
    fleet
        .wait_connected(CONNECT_TIMEOUT)
        .expect("the nodes hear each other");
    println!("{:?}: five varnishds up", begin.elapsed());
    fill(&fleet, OBJECTS);
    println!("{:?}: {OBJECTS} objects on each", begin.elapsed());

    relay.set_all(Faults {
        loss: 0.1,
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(5),
        reorder: 0.05,
        reorder_by: Duration::from_millis(10),
        duplicate: 0.05,
        corrupt: 0.01,
        cut: false,
    });
    let version = fleet.origin.bump_all();
    std::thread::scope(|scope| {
        let fleet = &fleet;
        for node in 0..NODES {
            let share = OBJECTS / NODES;
            // 500 purges a second on each node: four seconds in all.
            let pause = Duration::from_millis(18);
            scope.spawn(move || purge(fleet, node, node * share..(node + 1) * share, pause));
        }
        // The node that is cut off goes on taking purges, which nobody else hears of.
        std::thread::sleep(Duration::from_secs(1));
        relay.cut_node(CUT_OFF);
        std::thread::sleep(Duration::from_secs(2));
        let (cut_off, connected) = (cached(fleet, CUT_OFF, 0..2_000), cached(fleet, 1, 0..2_000));
        println!("node-1's objects: {cut_off} left where it is cut off, {connected} elsewhere");
        assert!(cut_off > connected, "the cut keeps purges away");
        relay.heal_node(CUT_OFF);
    });
    println!("{:?}: {OBJECTS} purges sent", begin.elapsed());
    let late = wait_until_gone(&fleet, OBJECTS, version, CONVERGE_TIMEOUT);
    println!(
        "{:?}: gone from all nodes ({late} were late)",
        begin.elapsed()
    );
    let stats = relay.stats_total();
    println!("relay: {stats:?}");
    assert!(
        stats.lost > 0 && stats.cut > 0 && stats.reordered > 0,
        "the network was bad"
    );
}

#[test]
fn a_killed_child_comes_back_empty_and_is_purged_again() {
    const NODES: usize = 3;
    const OBJECTS: usize = 300;
    const KILLED: usize = 1;
    let _alone = alone();
    let mut fleet = Fleet::start(&plan(NODES, Some(seed()))).expect("the fleet starts");
    fleet
        .wait_connected(CONNECT_TIMEOUT)
        .expect("the nodes hear each other");
    fill(&fleet, OBJECTS);
    // Purges under way in both directions when the child dies.
    purge(&fleet, KILLED, 0..50, Duration::ZERO);
    purge(&fleet, 0, 50..100, Duration::ZERO);
    fleet.nodes[KILLED]
        .varnish
        .crash_child(START_TIMEOUT)
        .expect("the manager restarts it");
    let _on_failure = OnFailure(&fleet);
    purge(&fleet, 0, 100..150, Duration::ZERO);
    assert!(
        !fleet::is_cached(&mut fleet.client(KILLED), &url(200)).expect("the node answers"),
        "a new child has an empty cache"
    );
    fleet
        .wait_connected(CONNECT_TIMEOUT)
        .expect("the nodes hear each other again");

    // A new stream of the same node must not pass for the old one: its first purges have the
    // numbers that the first ones of the former child had.
    each_node(&fleet, |node| {
        ask(&fleet, node, &(0..OBJECTS).collect::<Vec<_>>(), &|_, _| ())
    });
    let version = fleet.origin.bump_all();
    for node in 0..NODES {
        purge(&fleet, node, node * 100..(node + 1) * 100, Duration::ZERO);
    }
    wait_until_gone(&fleet, OBJECTS, version, CONVERGE_TIMEOUT);
}

/// A purge that comes late kills what it was sent against, wherever that has got to, and spares what
/// was fetched since.
#[test]
fn a_purge_that_comes_late_spares_what_was_fetched_since_its_issue() {
    const CUT_OFF: usize = 1;
    // A purge has a margin of ten seconds: until then after its issue, fetches are not trusted.
    const MARGIN: Duration = Duration::from_secs(10);
    const BEFORE: &str = "/before";
    const SINCE: &str = "/since";
    // Asked for before the end of the margin, and answered after the purge has come.
    const SLOW_BEFORE: &str = "/slow/11000/before";
    // Asked for after the margin, and answered after the purge has come.
    const SLOW_SINCE: &str = "/slow/4000/since";
    let _alone = alone();
    let fleet = Fleet::start(&plan(2, Some(seed()))).expect("the fleet starts");
    let _on_failure = OnFailure(&fleet);
    let relay = fleet.relay.as_ref().expect("asked for");
    fleet
        .wait_connected(CONNECT_TIMEOUT)
        .expect("the nodes hear each other");
    let slow = |url: &'static str| {
        let addr = fleet.nodes[CUT_OFF].varnish.addr();
        let mut client = Client::new(addr, fleet::HOST, Duration::from_secs(14));
        // The one that is tried again takes longer than anybody waits here.
        std::thread::spawn(move || client.get(url).ok())
    };
    let get = |url: &str| fleet.client(CUT_OFF).get(url).expect("the node answers");
    get(BEFORE);
    relay.cut_node(CUT_OFF);
    fleet.origin.bump_all();
    let issued = Instant::now();
    let urls = [BEFORE, SINCE, SLOW_BEFORE, SLOW_SINCE];
    let ids = urls.map(|url| fleet.purge(0, url).expect("the purge is taken"));
    std::thread::sleep(Duration::from_secs(2));
    let slow_before = slow(SLOW_BEFORE);
    std::thread::sleep((MARGIN + Duration::from_millis(500)).saturating_sub(issued.elapsed()));
    get(SINCE);
    let slow_since = slow(SLOW_SINCE);
    assert!(fleet::is_hit(&get(BEFORE)), "the purge has not come yet");
    std::thread::sleep(Duration::from_millis(500));
    relay.heal_node(CUT_OFF);
    for id in &ids {
        let deadline = Instant::now() + CONVERGE_TIMEOUT;
        while !fleet::knows(&mut fleet.client(CUT_OFF), id).expect("the node answers") {
            assert!(Instant::now() < deadline, "{id} has not come");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(
        fleet.origin.requests(SLOW_BEFORE),
        1,
        "it came too late for this test"
    );
    assert!(
        !fleet::is_hit(&get(BEFORE)),
        "what the purge was sent against"
    );
    assert!(fleet::is_hit(&get(SINCE)), "what was fetched since");
    slow_since.join().expect("no panic");
    assert!(
        fleet::is_hit(&get(SLOW_SINCE)),
        "what was being fetched since"
    );
    slow_before.join().expect("no panic");
    assert_eq!(
        fleet.origin.requests(SLOW_BEFORE),
        2,
        "what was being fetched before is fetched again"
    );
}

/// The checker checked: a fleet whose purges stay where they were sent is found out.
#[test]
fn without_the_vmod_a_purge_stays_on_its_node() {
    let _alone = alone();
    let plan = Plan {
        nodes: 2,
        relay_seed: None,
        vmod: None,
        vcl_dir: fleet::find_vcl_dir(),
    };
    let fleet = Fleet::start(&plan).expect("the fleet starts");
    fill(&fleet, 20);
    let version = fleet.origin.bump_all();
    purge(&fleet, 0, 0..20, Duration::ZERO);
    let gone = |node| {
        let gone = Mutex::new(0);
        ask(
            &fleet,
            node,
            &(0..20).collect::<Vec<_>>(),
            &|n, response| {
                let new = response.text() == format!("version {version} of {}\n", url(n));
                *gone.lock().unwrap() += usize::from(new);
            },
        );
        gone.into_inner().unwrap()
    };
    assert_eq!((gone(0), gone(1)), (20, 0));
}
