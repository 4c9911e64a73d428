//! Scenarios end to end: runs repeat, mistakes are named, nothing shows nothing, and the protocol's ideas do
//! what they are for.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use powderhorn_sim::figures::bursts::{Bursts, bursts, steps_below};
use powderhorn_sim::scenario::{Report, Scenario};
use powderhorn_sim::span::Span;

#[path = "scenarios/refused.rs"]
mod refused;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("scenarios")
        .join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).expect("the crate's own file")
}

fn run(scenario: &Scenario, seed: u64) -> Report {
    scenario
        .run(seed, &mut |_| ())
        .expect("a scenario that can be run")
        .0
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_gives_another() {
    let smoke = Scenario::read(&file("smoke.toml")).expect("a scenario");
    let first = run(&smoke, 1);
    assert!(first.passed(), "{:?} {:?}", first.violation, first.checks);
    assert_eq!(first.coverage, 1.0);
    let again = run(&smoke, 1);
    assert_eq!(again.trace, first.trace);
    assert_eq!(again.events, first.events);
    let other = run(&smoke, 2);
    assert!(other.passed(), "{:?} {:?}", other.violation, other.checks);
    assert_ne!(other.trace, first.trace);
}

/// The scenario that the simulator's speed is measured by, for less long.
#[test]
fn a_thousand_nodes_get_everything() {
    let text = text("thousand.toml").replace("duration = \"250s\"", "duration = \"10s\"");
    let scenario = Scenario::parse("thousand.toml", &text).expect("a scenario");
    let report = run(&scenario, 1);
    assert!(
        report.passed(),
        "{:?} {:?}",
        report.violation,
        report.checks
    );
    assert_eq!(report.coverage, 1.0);
    assert!(report.issued > 50, "only {} purges", report.issued);
}

/// What a flush makes up for counts as applied, so coverage alone would not tell.
#[test]
fn a_flushed_cache_is_a_mark_that_is_missed() {
    let text = r#"
        name = "away"
        about = "One is cut off for longer than purges are kept."
        warm_up = "5s"
        duration = "5m"
        drain = "2m"
        site = [{ name = "a", nodes = 2 }, { name = "b", nodes = 1 }]
        network = { delay = "5ms" }
        local = { delay = "1ms" }
        config = { retention = "1m" }
        traffic = { purges_per_second = 5 }
        fault = [{ at = "30s", for = "3m", kind = "cut", from = ["a"], to = ["b"] }]
    "#;
    let report = run(&Scenario::parse("away.toml", text).expect("a scenario"), 1);
    assert_eq!(report.coverage, 1.0);
    let missed: Vec<_> = report.missed().map(|check| check.what.as_str()).collect();
    assert_eq!(missed, ["caches flushed"], "{:?}", report.checks);
}

#[test]
fn every_file_of_the_crate_is_a_scenario() {
    let entries = std::fs::read_dir(file("")).expect("the crate's own folder");
    let mut count = 0;
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            continue;
        }
        Scenario::read(&path).unwrap_or_else(|error| panic!("{error}"));
        count += 1;
    }
    assert!(count >= 7, "{count} files");
}

/// Two servers that hear from their three neighbours only: with every peer as likely as any other, few
/// rounds go between them and those. It is the first seconds that are hard: later the peers that cannot
/// be reached are held to be down, and take few rounds.
#[test]
fn a_bias_to_the_own_site_mends_the_firewall_case() {
    let p95_ms = |percent: u32| {
        let config = format!("[config]\nown_site_percent = {percent}\n\n[traffic]");
        let text = text("firewall.toml")
            .replace("[traffic]", &config)
            .replace("\"30m\"", "\"9s\"")
            .replace("\"20m\"", "\"9s\"")
            .replace("\"5m\"", "\"0s\"");
        let report = run(
            &Scenario::parse(&file("firewall.toml").to_string_lossy(), &text).expect("a scenario"),
            1,
        );
        assert_eq!(report.coverage, 1.0);
        let mut groups = report.groups.iter();
        let affected = groups.find(|group| group.group == "affected");
        affected.expect("a group").p95_ms
    };
    let (without, with) = (p95_ms(0), p95_ms(30));
    assert!(
        with * 1.5 < without,
        "p95 {with} ms with the bias, {without} ms without"
    );
    assert!(with <= 3_000.0, "p95 {with} ms");
}

/// Three of ten members can be heard and hear nothing. Without a limit all that they lack is sent to them
/// in each round, and the purges of those who have no trouble wait behind it.
#[test]
fn a_limit_on_repairs_keeps_throughput_steady() {
    let shorter = |limited| Bursts {
        nodes: 12,
        outage: Duration::from_secs(30),
        uplink: 6_000_000,
        seconds: 40,
        ..Bursts::of_a_minute(limited)
    };
    let (limited, not) = (bursts(shorter(true)), bursts(shorter(false)));
    assert_eq!((limited.coverage, not.coverage), (1.0, 1.0));
    let bad = |seen: &[f64]| steps_below(seen, 500.0);
    let (limited, not) = (bad(&limited.unaffected), bad(&not.unaffected));
    assert!(
        not >= 10.0 && limited * 4.0 <= not,
        "tenths of a second below half: {limited} with the limit, {not} without"
    );
}

#[test]
fn a_healthy_network_delivers_at_its_own_delay() {
    let mut wan = Scenario::read(&file("wan.toml")).expect("a scenario");
    wan.duration = Span(Duration::from_secs(60));
    let report = run(&wan, 1);
    assert!(report.passed(), "{:#?}", report.checks);
}

/// A fault that ends when another begins at the same node does not undo it, whichever stands first.
#[test]
fn a_fault_that_begins_when_another_ends_lasts() {
    let text = r#"
        name = "back to back"
        duration = "60s"
        traffic = { purges_per_second = 50, origins = 1 }
        site = [{ name = "a", nodes = 3 }]
        fault = [
            { at = "10s", for = "49s", kind = "crash", nodes = ["a/0"] },
            { at = "1s", for = "9s", kind = "crash", nodes = ["a/0"] },
        ]"#;
    let report = run(&Scenario::parse("back", text).expect("a scenario"), 1);
    let (issued, not) = (report.issued, report.not_issued);
    assert!(
        issued > 0 && not > issued * 10,
        "{issued} issued, {not} not"
    );
}

/// Both words take away; were each of them a set of its own, all nodes were in the first group.
#[test]
fn several_words_with_not_leave_what_none_of_them_names() {
    let text = r#"
        name = "not"
        duration = "60s"
        traffic = { purges_per_second = 50 }
        site = [{ name = "a", nodes = 3 }, { name = "b", nodes = 3 }, { name = "c", nodes = 3 }]
        [group]
        neither = ["!a", "!b/1-2"]
        a = ["a"]
        some = ["b", "!b/0"]
        [[expect]]
        group = "neither"
        ms_max = 1000"#;
    let report = run(&Scenario::parse("not", text).expect("a scenario"), 1);
    assert!(report.passed(), "{:?}", report.checks);
    let applied = |at: usize| report.groups[at].applied / report.issued;
    assert_eq!(
        ["a", "neither", "some", "others"].map(|name| {
            let at = report.groups.iter().position(|group| group.group == name);
            applied(at.expect("a group"))
        }),
        [3, 4, 2, 0]
    );
}

/// Each purge is on each node that could hold it, and yet nothing was shown.
#[test]
fn a_run_of_next_to_nothing_fails() {
    let missed = |text: &str, from: &str, to: &str| {
        let other = text.replace(from, to);
        assert!(from == to || other != text, "{from}");
        let report = run(&Scenario::parse("few", &other).expect("a scenario"), 1);
        assert_eq!(report.passed(), report.missed().next().is_none());
        let missed = report.missed().map(|check| check.what.clone());
        missed.collect::<Vec<_>>()
    };
    let text = r#"
        name = "few"
        duration = "20s"
        traffic = { purges_per_second = 50, origins = 1 }
        site = [{ name = "a", nodes = 3 }]
        group = { origin = ["a/0"], mirror = ["a/1"] }
        expect = [{ group = "mirror", p99_ms_max = 1000 }]
        fault = [{ at = "19s", for = "500ms", kind = "freeze", nodes = ["a/0"] }]"#;
    assert!(missed(text, "", "").is_empty());
    // Two purges, which come to all in time.
    let few = missed(text, "second = 50", "second = 0.1");
    assert_eq!(few, ["mirror: purges received"]);
    // The only node that issues receives nothing.
    let none = missed(text, "\"mirror\", p99", "\"origin\", p99");
    assert_eq!(none, ["origin: purges received", "origin: p99, ms"]);
    // The only node that issues is frozen for nearly all of the time.
    let frozen = missed(text, "\"19s\", for = \"500ms\"", "\"1ms\", for = \"19s\"");
    assert_eq!(
        frozen,
        ["issued, of what was to be", "mirror: purges received"]
    );
    let gone = missed(
        text,
        "\"19s\", for = \"500ms\", kind = \"freeze\"",
        "\"0s\", kind = \"crash\"",
    );
    assert_eq!(gone[0], "issued, of what was to be");
}

/// The bar goes on while the fleet warms up and while it drains, and never back.
#[test]
fn progress_is_told_of_all_of_a_run() {
    let text = r#"
        name = "slow"
        warm_up = "20s"
        duration = "20s"
        drain = "60s"
        traffic = { purges_per_second = 1 }
        site = [{ name = "a", nodes = 2 }]
        fault = [{ at = "0s", kind = "freeze", nodes = ["a/0"] }]"#;
    let scenario = Scenario::parse("slow", text).expect("a scenario");
    let mut told = Vec::new();
    let done = scenario.run(1, &mut |done| told.push(done));
    done.expect("a scenario that can be run");
    assert!(told.is_sorted(), "{told:?}");
    for (part, from, to) in [
        ("warm_up", 0.0, 0.2),
        ("duration", 0.2, 0.4),
        ("drain", 0.4, 1.0),
    ] {
        let within = told.iter().filter(|done| (from..to).contains(*done));
        assert!(within.count() >= 100, "{part}: {told:?}");
    }
    assert_eq!(told.last(), Some(&1.0));
}

/// What the program says of a run that failed: each mark that was missed, and a command that a shell takes
/// as it stands.
#[test]
fn a_failed_run_says_why_and_how_to_see_it_again() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("it's a folder");
    std::fs::create_dir_all(&folder).expect("a folder");
    let marks = "\n[[expect]]\ngroup = \"west\"\np99_ms_max = 0.5\nms_max = 100000\n";
    let path = folder.join("strict $1.toml");
    std::fs::write(&path, text("smoke.toml") + marks).expect("a file");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_powderhorn-sim"));
    let first = Command::new(&program)
        .arg("run")
        .arg(&path)
        .args(["--seed", "7"])
        .output();
    let first = first.expect("a run");
    assert_eq!(first.status.code(), Some(1));
    let said = String::from_utf8(first.stderr).expect("text");
    let missed: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("missed: "))
        .collect();
    assert_eq!(missed.len(), 1, "{said}");
    assert!(
        missed[0].starts_with("missed: west: p99, ms: must be at most 0.5, was "),
        "{said}"
    );

    let (_, again) = said.trim().rsplit_once("again: ").expect("a command");
    let own = program.parent().expect("a folder").display().to_string();
    let again = Command::new("/bin/sh")
        .args(["-c", again])
        .env("PATH", own)
        .output()
        .expect("a shell");
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert_eq!(
        String::from_utf8(again.stdout),
        String::from_utf8(first.stdout)
    );
}
