//! No id ever stands for two purges, with real processes: a node whose clock is set back, one that has lost its
//! state directory, and machines that were cloned.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{alone, start};
use powderhorn_fleet::fleet::{self, Fleet, START_TIMEOUT};

const ARRIVE_TIMEOUT: Duration = Duration::from_secs(45);
/// What a clock is set back by.
const BACK_S: u64 = 3_600;
/// Purges of each node in each of its lives.
const PURGES: usize = 40;

/// Has all further processes of a node live an hour in the past.
fn set_clock_back(fleet: &mut Fleet, node: usize) {
    let (library, offset) = (fleet.dir().join("set_clock.so"), fleet.dir().join("clock"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock/set_clock.c");
    let compiled = Command::new("cc")
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(
        compiled.is_ok_and(|status| status.success()),
        "set_clock.c does not compile"
    );
    fs::write(&offset, format!("-{BACK_S}")).expect("the offset is written");
    let path = |path: PathBuf| path.into_os_string().into_string().expect("a path of ours");
    let varnish = &mut fleet.nodes[node].varnish;
    varnish.set_env("LD_PRELOAD", path(library));
    varnish.set_env("SET_CLOCK_FILE", path(offset));
}

/// The stamp of the node's last epoch, as its state directory has it.
fn stamp(fleet: &Fleet, node: usize) -> u64 {
    let text = fs::read_to_string(fleet.state(node).join("epoch")).expect("a stamp");
    u64::from_str_radix(text.split(' ').next().unwrap_or_default(), 16).expect("a stamp")
}

fn wall_ms() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.expect("it is after 1970").as_millis() as u64
}

fn start_again(fleet: &mut Fleet, nodes: &[usize]) {
    for &node in nodes {
        fleet.nodes[node]
            .varnish
            .start_again()
            .expect("varnishd starts again");
    }
    for &node in nodes {
        fleet.nodes[node]
            .varnish
            .wait_ready(START_TIMEOUT)
            .expect("it runs");
    }
}

/// What was purged, and under which ids.
#[derive(Default)]
struct Purged {
    urls: Vec<String>,
    ids: Vec<String>,
}

impl Purged {
    /// Has all nodes hold objects, and purges them at one.
    fn purge(&mut self, fleet: &Fleet, node: usize, name: &str) {
        let urls: Vec<String> = (0..PURGES).map(|n| format!("/{name}/{n}")).collect();
        for other in 0..fleet.nodes.len() {
            let mut client = fleet.client(other);
            for url in &urls {
                let object = client.get(url).expect("an answer");
                assert_eq!(
                    object.status, 200,
                    "{}: {object:?}",
                    fleet.nodes[other].name
                );
                assert!(
                    fleet::is_cached(&mut client, url).expect("an answer"),
                    "{url}"
                );
            }
        }
        for url in urls {
            self.ids
                .push(fleet.purge(node, &url).expect("the purge is taken"));
            self.urls.push(url);
        }
    }

    /// Waits until each has come to each node, and nothing that was purged is there any more; and sees that no
    /// two have the same id.
    fn wait_everywhere(&self, fleet: &Fleet) {
        let distinct: BTreeSet<_> = self.ids.iter().collect();
        assert_eq!(
            distinct.len(),
            self.ids.len(),
            "an id stands for two purges"
        );
        let begun = Instant::now();
        for (node, of) in fleet.nodes.iter().enumerate() {
            let mut client = fleet.client(node);
            for (id, url) in self.ids.iter().zip(&self.urls) {
                let mut gone = || {
                    let knows = fleet::knows(&mut client, id).expect("an answer");
                    knows && !fleet::is_cached(&mut client, url).expect("an answer")
                };
                while !gone() {
                    assert!(
                        begun.elapsed() < ARRIVE_TIMEOUT,
                        "{url}, purged as {id}, is not gone from {}:\n{}\n{}",
                        of.name,
                        fleet
                            .client(node)
                            .get("/.fleet/digest")
                            .expect("an answer")
                            .text(),
                        fleet
                            .client(node)
                            .get("/.fleet/status")
                            .expect("an answer")
                            .text()
                    );
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

/// By its clock the node's new epoch would be older than its last one.
#[test]
fn a_clock_that_was_set_back_makes_no_purge_a_duplicate() {
    let _alone = alone();
    let mut fleet = start(3);
    let mut purged = Purged::default();
    purged.purge(&fleet, 0, "before");
    purged.wait_everywhere(&fleet);
    let before = stamp(&fleet, 0);
    fleet.nodes[0].varnish.kill_all();
    set_clock_back(&mut fleet, 0);
    start_again(&mut fleet, &[0]);
    // The clock is behind it, so the stamp is the next one.
    assert_eq!(stamp(&fleet, 0), before + 1);
    purged.purge(&fleet, 0, "after");
    purged.wait_everywhere(&fleet);
    fleet.stop();
}

/// Nothing tells the node which epochs it had: neither a file, nor a peer, nor its clock.
#[test]
fn a_node_that_has_lost_its_state_and_meets_nobody_makes_no_purge_a_duplicate() {
    let _alone = alone();
    let mut fleet = start(3);
    let mut purged = Purged::default();
    purged.purge(&fleet, 0, "before");
    purged.wait_everywhere(&fleet);
    let before = stamp(&fleet, 0);
    fleet.nodes[0].varnish.kill_all();
    fs::remove_dir_all(fleet.state(0)).expect("it was there");
    set_clock_back(&mut fleet, 0);
    fleet.relay.as_ref().expect("a relay").cut_node(0);
    start_again(&mut fleet, &[0]);
    let after = stamp(&fleet, 0);
    assert!(
        after < before && after.abs_diff(wall_ms() - BACK_S * 1_000) < 600_000,
        "{after}"
    );
    // The first ones have the numbers that the first ones of its former life had.
    let from = purged.ids.len();
    purged.purge(&fleet, 0, "alone");
    for id in purged.ids.iter().skip(from) {
        assert!(
            !fleet::knows(&mut fleet.client(1), id).expect("an answer"),
            "the cut does not hold"
        );
    }
    fleet.relay.as_ref().expect("a relay").heal_node(0);
    purged.wait_everywhere(&fleet);
    fleet.stop();
}

/// Copies a state directory while its node is down, and starts both.
fn clone_of_first(fleet: &mut Fleet, name: &str) {
    for node in [0, 2] {
        fleet.nodes[node].varnish.kill_all();
    }
    let (from, to) = (fleet.state(0), fleet.state(2));
    fs::remove_dir_all(&to).expect("it was there");
    fs::create_dir(&to).expect("a directory");
    for entry in fs::read_dir(&from).expect("a directory") {
        let path = entry.expect("a file").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("it is copied");
    }
    let config = fs::read_to_string(fleet.config(2)).expect("a config");
    let config = config.replacen("name = \"node-3\"", &format!("name = \"{name}\""), 1);
    fs::write(fleet.config(2), config).expect("the config is written");
    // Both ask their clocks at about the same moment.
    start_again(fleet, &[0, 2]);
}

fn clones(name: &str) -> (Fleet, Purged) {
    let mut fleet = start(3);
    let mut purged = Purged::default();
    purged.purge(&fleet, 0, "before");
    purged.wait_everywhere(&fleet);
    clone_of_first(&mut fleet, name);
    for round in 0..2 {
        purged.purge(&fleet, 0, &format!("original/{round}"));
        purged.purge(&fleet, 2, &format!("clone/{round}"));
    }
    purged.wait_everywhere(&fleet);
    // And each of them again from what the two have on disk, with two lives each.
    for node in [0, 2] {
        fleet.nodes[node].varnish.kill_all();
    }
    start_again(&mut fleet, &[0, 2]);
    purged.purge(&fleet, 0, "original/again");
    purged.purge(&fleet, 2, "clone/again");
    purged.wait_everywhere(&fleet);
    (fleet, purged)
}

#[test]
fn a_clone_under_another_name_is_another_node() {
    let _alone = alone();
    let (mut fleet, _) = clones("node-3");
    for node in 0..3 {
        let status = fleet.client(node).get("/.fleet/status").expect("an answer");
        assert!(!status.text().contains("is used by"), "{}", status.text());
    }
    fleet.stop();
}

#[test]
fn a_clone_under_the_same_name_is_shown_and_loses_no_purge() {
    let _alone = alone();
    let (mut fleet, _) = clones("node-1");
    for node in 0..3 {
        let begun = Instant::now();
        loop {
            let status = fleet
                .client(node)
                .get("/.fleet/status")
                .expect("an answer")
                .text();
            let verdict = status.lines().next().unwrap_or_default();
            if verdict.contains("is used by") {
                break;
            }
            assert!(
                begun.elapsed() < ARRIVE_TIMEOUT,
                "node {node} shows no duplicate:\n{status}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    fleet.stop();
}
