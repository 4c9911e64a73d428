//! An acknowledged purge survives its node, with real processes: varnishds whose caches are killed, and
//! whose gossip is cut at that moment.

use std::time::{Duration, Instant};

use powderhorn_fleet::fleet::{self, Fleet, Plan, START_TIMEOUT};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const RECOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Kills in a run: a few here, `POWDERHORN_KILLS=200` for the proof.
fn kills() -> usize {
    match std::env::var("POWDERHORN_KILLS") {
        Ok(kills) => kills.parse().expect("POWDERHORN_KILLS is a number"),
        Err(_) => 8,
    }
}

fn start(nodes: usize) -> Fleet {
    let vmod = fleet::find_vmod();
    let vmod = vmod.expect("no libvmod_powderhorn.so: `cargo build` first, or set POWDERHORN_VMOD");
    let fleet = Fleet::start(&Plan {
        nodes,
        relay_seed: Some(1),
        vmod: Some(vmod),
        vcl_dir: fleet::find_vcl_dir(),
    });
    let fleet = fleet.expect("a fleet");
    fleet.wait_connected(CONNECT_TIMEOUT).expect("all meet");
    fleet
}

fn knows(fleet: &Fleet, node: usize, id: &str) -> bool {
    fleet::knows(&mut fleet.client(node), id).unwrap_or(false)
}

/// The worst that can happen to an answered purge: nobody else has it, and its node's cache process dies
/// within a millisecond of the answer.
#[test]
fn a_purge_that_was_answered_survives_kill_9_of_its_cache() {
    let mut fleet = start(3);
    let mut late = Duration::ZERO;
    for round in 0..kills() {
        let relay = fleet.relay.as_ref().expect("a relay");
        relay.cut_node(0);
        let child = fleet.nodes[0].varnish.worker().expect("a cache process");
        let answer = fleet.purge(0, &format!("/object/{round}"));
        let answered = Instant::now();
        fleet.nodes[0].varnish.kill(child).expect("it was there");
        late = late.max(answered.elapsed());
        let id = answer.expect("the purge is answered");
        assert!(!knows(&fleet, 1, &id), "the cut does not hold");
        fleet.relay.as_ref().expect("a relay").heal_node(0);
        fleet.nodes[0]
            .varnish
            .wait_restarted(child, START_TIMEOUT)
            .expect("the manager starts another cache process");
        let begun = Instant::now();
        while !(0..3).all(|node| knows(&fleet, node, &id)) {
            assert!(
                begun.elapsed() < RECOVER_TIMEOUT,
                "round {round}: {id} is lost\n{}",
                fleet.logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    println!(
        "{} kills, the last of them {late:?} after its answer at most",
        kills()
    );
    fleet.stop();
}

/// All processes of all nodes die at a moment, as with the power of a site that no disk notices.
#[test]
fn a_fleet_that_dies_as_a_whole_still_has_its_purges() {
    let mut fleet = start(3);
    let relay = fleet.relay.as_ref().expect("a relay");
    for node in 0..3 {
        relay.cut_node(node);
    }
    let ids: Vec<String> = (0..30)
        .map(|n| {
            fleet
                .purge(n % 3, &format!("/object/{n}"))
                .expect("answered")
        })
        .collect();
    let mut killed = Vec::new();
    for node in &fleet.nodes {
        let child = node.varnish.worker().expect("a cache process");
        node.varnish.kill(child).expect("it was there");
        killed.push(child);
    }
    let relay = fleet.relay.as_ref().expect("a relay");
    for node in 0..3 {
        relay.heal_node(node);
    }
    for (node, child) in fleet.nodes.iter_mut().zip(killed) {
        let varnish = &mut node.varnish;
        let started = varnish.wait_restarted(child, START_TIMEOUT);
        started.expect("another cache process");
    }
    let begun = Instant::now();
    while !(0..3).all(|node| ids.iter().all(|id| knows(&fleet, node, id))) {
        assert!(begun.elapsed() < RECOVER_TIMEOUT, "lost\n{}", fleet.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
    fleet.stop();
}
