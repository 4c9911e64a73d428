//! The command against real varnishds: three, each with the VMOD and the shipped VCL.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use powderhorn_fleet::fleet::{Fleet, HOST, Plan, START_TIMEOUT, find_vcl_dir, find_vmod};

/// The nodes meet, and tell each other of a purge, within a few rounds of 250 ms.
const NEWS_TIMEOUT: Duration = Duration::from_secs(60);

fn fleet() -> Fleet {
    let vmod = find_vmod().expect("POWDERHORN_VMOD, or make build first");
    let plan = Plan {
        nodes: 3,
        relay_seed: None,
        vmod: Some(vmod),
        vcl_dir: find_vcl_dir(),
    };
    let fleet = Fleet::start(&plan).expect("three varnishds");
    fleet.wait_connected(START_TIMEOUT).expect("they meet");
    fleet
}

fn powderhorn(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_powderhorn"))
        .args(arguments)
        .output()
        .expect("the command starts")
}

/// What it prints, which it has to do without an error.
fn printed(arguments: &[&str]) -> String {
    let output = powderhorn(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn workdir(fleet: &Fleet, node: usize) -> String {
    let path: PathBuf = fleet.nodes[node].varnish.workdir();
    path.to_str().expect("a path of ASCII").to_owned()
}

fn url(fleet: &Fleet, node: usize) -> String {
    format!("http://{}", fleet.nodes[node].varnish.addr())
}

#[test]
fn a_purge_over_http_leaves_every_node_and_its_trace_says_so() {
    let fleet = fleet();
    for node in 0..3 {
        fleet.client(node).get("/page").expect("the page");
    }
    let page = format!("http://{HOST}/page");
    let id = printed(&["purge", "--url", &url(&fleet, 0), &page]);
    let id = id.trim();
    let started = Instant::now();
    loop {
        let trace = printed(&["trace", "--url", &url(&fleet, 1), id]);
        if trace.starts_with(&format!("{id}: applied on 3 of 3 nodes")) {
            break;
        }
        assert!(started.elapsed() < NEWS_TIMEOUT, "{trace}");
        std::thread::sleep(Duration::from_millis(50));
    }
    for node in 0..3 {
        let cached = powderhorn_fleet::fleet::is_cached(&mut fleet.client(node), "/page");
        assert!(!cached.expect("an answer"), "node {node} still has it");
    }
}

#[test]
fn without_the_commands_a_purge_by_varnishadm_says_what_else_there_is() {
    let fleet = fleet();
    let refused = powderhorn(&["purge", "-n", &workdir(&fleet, 0), "/page", HOST]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("-E") && said.contains("--url"), "{said}");

    let nobody = powderhorn(&["status", "-n", "/nowhere", "-t", "1"]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nobody.stderr);
    assert!(said.contains("is varnishd running"), "{said}");
}

/// Asks until the answer begins like this: the nodes have to hear of each other first.
fn until(arguments: &[&str], beginning: &str) -> String {
    let started = Instant::now();
    loop {
        let output = powderhorn(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.starts_with(beginning) {
            return text;
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(started.elapsed() < NEWS_TIMEOUT, "{text}{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_state_of_the_fleet_comes_by_varnishadm_and_over_http() {
    let fleet = fleet();
    let workdir = workdir(&fleet, 0);
    let url = url(&fleet, 1);
    for way in [["-n", &workdir], ["--url", &url]] {
        let status = until(&["status", way[0], way[1]], "ok: all purges older than ");
        for line in [
            "versions  version ",
            "purges    ",
            "threads   runtime running, ",
        ] {
            assert!(status.contains(&format!("\n{line}")), "{line}: {status}");
        }
        let peers = printed(&["peers", way[0], way[1]]);
        let up = peers.lines().filter(|line| line.starts_with("up "));
        assert_eq!(up.count(), 2, "{peers}");
        let health = printed(&["check-health", way[0], way[1]]);
        assert!(health.starts_with("POWDERHORN OK - ok: "), "{health}");
        assert!(health.contains(" peers=2"), "{health}");
    }
}

/// These varnishds run without `-E`, as the package has them: the list of backends has to tell what is wrong.
#[test]
fn a_journal_that_fails_is_no_health_on_its_node_and_on_the_others() {
    let mut fleet = fleet();
    fleet.nodes[0].varnish.kill_all();
    let state = fleet.state(0);
    fs::remove_dir_all(&state).expect("the state directory goes");
    fs::write(&state, "no directory").expect("a file in its place");
    let varnish = &mut fleet.nodes[0].varnish;
    varnish.start_again().expect("it starts");
    varnish.wait_ready(START_TIMEOUT).expect("it runs");
    for (node, trouble) in [
        (0, "the journal in "),
        (1, "node-1 says that its journal fails"),
    ] {
        let arguments = ["check-health", "-n", &workdir(&fleet, node)];
        until(&arguments, &format!("POWDERHORN WARNING - {trouble}"));
        assert_eq!(powderhorn(&arguments).status.code(), Some(1));
    }
}
