//! Fleets of varnishds for the tests of whole processes.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use powderhorn_fleet::fleet::{self, Fleet, Plan, START_TIMEOUT};

/// How long nodes may take to meet.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// One fleet at a time: each has the small machine for itself, and a kill is to be quick.
pub fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many nodes with the VMOD that was built; with a seed, behind a relay.
pub fn plan(nodes: usize, relay_seed: Option<u64>) -> Plan {
    let vmod = fleet::find_vmod();
    let vmod = vmod.expect("no libvmod_powderhorn.so: `cargo build` first, or set POWDERHORN_VMOD");
    Plan {
        nodes,
        relay_seed,
        vmod: Some(vmod),
        vcl_dir: fleet::find_vcl_dir(),
    }
}

/// So many nodes behind a relay that does no harm by itself, all of which have met.
pub fn start(nodes: usize) -> Fleet {
    let fleet = Fleet::start(&plan(nodes, Some(1))).expect("a fleet");
    fleet.wait_connected(CONNECT_TIMEOUT).expect("all meet");
    fleet
}

/// Starts all nodes again with this setting of `[limits]`, in seconds.
pub fn set_limit(fleet: &mut Fleet, name: &str, value: Duration) {
    for node in 0..fleet.nodes.len() {
        fleet.nodes[node].varnish.kill_all();
        let path = fleet.config(node);
        let mut config = fs::read_to_string(&path).expect("a config");
        config.push_str(&format!("\n[limits]\n{name} = \"{}s\"\n", value.as_secs()));
        fs::write(&path, config).expect("the config is written");
    }
    for node in &mut fleet.nodes {
        node.varnish.start_again().expect("varnishd starts again");
    }
    for node in &mut fleet.nodes {
        node.varnish.wait_ready(START_TIMEOUT).expect("it runs");
    }
    fleet
        .wait_connected(CONNECT_TIMEOUT)
        .expect("the nodes hear each other");
}

/// What a node serves for a URL, and whether it had it.
pub fn served(fleet: &Fleet, node: usize, url: &str) -> (String, bool) {
    let answer = fleet.client(node).get(url).expect("the node answers");
    (answer.text(), fleet::is_hit(&answer))
}

/// What the origin has for a URL in its so many-th version.
pub fn version(n: u64, url: &str) -> String {
    format!("version {n} of {url}\n")
}
