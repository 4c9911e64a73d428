//! Scenarios end to end: runs repeat, mistakes are named, and the protocol's ideas do what they are for.

use std::path::PathBuf;
use std::time::Duration;

use powderhorn_sim::figures::bursts::{Bursts, bursts, steps_below};
use powderhorn_sim::scenario::{Report, Scenario, ScenarioError};
use powderhorn_sim::span::Span;

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

#[test]
fn mistakes_are_named() {
    let smoke = text("smoke.toml");
    let error = |text: &str| Scenario::parse("smoke.toml", text).expect_err("refused");

    let unknown = smoke.replace("warm_up", "warmup");
    let told = error(&unknown);
    assert!(matches!(told, ScenarioError::Toml { .. }));
    let told = told.to_string();
    assert!(
        told.contains("smoke.toml") && told.contains("warmup"),
        "{told}"
    );

    let told =
        error(&smoke.replace("purges_per_second = 50", "purges_per_second = -1")).to_string();
    assert!(told.contains("traffic.purges_per_second"), "{told}");

    for (right, wrong) in [
        ("east/0", "east/5"),
        ("east/0", "north"),
        ("east/0", "east/2-1"),
    ] {
        let told = error(&smoke.replace(right, wrong)).to_string();
        assert!(
            told.contains("fault[1].nodes") && told.contains(wrong),
            "{told}"
        );
    }

    let told = error(&smoke.replace("loss = 0.02", "loss = 2.0")).to_string();
    assert!(told.contains("network.loss"), "{told}");

    let told = error(&smoke.replace("\"5s\"", "\"5 seconds\"")).to_string();
    assert!(
        told.contains("smoke.toml") && told.contains("5 seconds"),
        "{told}"
    );

    let told = Scenario::read(&file("none.toml"))
        .expect_err("no such file")
        .to_string();
    assert!(told.contains("none.toml"), "{told}");
}

/// What no run could hold, or no node would take, is refused before anything is run.
#[test]
fn values_out_of_range_are_named() {
    let smoke = text("smoke.toml");
    let config = |line: &str| format!("[config]\n{line}\n\n[traffic]");
    for (right, wrong, key) in [
        ("nodes = 5", "nodes = 10000", "site: "),
        ("nodes = 5", "nodes = 9223372036854775807", "site: "),
        ("nodes = 5", "nodes = 5\nweight = 0", "site[0].weight"),
        ("nodes = 5", "nodes = 5\nweight = nan", "site[0].weight"),
        ("second = 50", "second = 0", "traffic.purges_per_second"),
        ("second = 50", "second = 1e7", "traffic.purges_per_second"),
        ("second = 50", "second = nan", "traffic.purges_per_second"),
        ("second = 50", "second = 50\norigins = 0", "traffic.origins"),
        (
            "second = 50",
            "second = 50\norigins = 11",
            "traffic.origins",
        ),
        ("warm_up", "bin = \"900us\"\nwarm_up", "bin: "),
        (
            "duration = \"60s\"",
            "duration = \"300h\"\nbin = \"1s\"",
            "bin: ",
        ),
        ("at = \"52s\"", "at = \"60s\"", "fault[11].at"),
        ("[traffic]", &config("round = \"19ms\""), "config.round"),
        (
            "[traffic]",
            &config("retention = \"59s\""),
            "config.retention",
        ),
        (
            "[traffic]",
            &config("join_margin = \"721h\""),
            "config.join_margin",
        ),
        (
            "[traffic]",
            &config("own_site_percent = 101"),
            "config.own_site_percent",
        ),
        (
            "[traffic]",
            &config("repair_bytes_peer = 4095"),
            "config.repair_bytes_peer",
        ),
        (
            "[traffic]",
            &config("repair_bytes_all = 1073741825"),
            "config.repair_bytes_all",
        ),
        (
            "[traffic]",
            &config("retention_bytes = 1000"),
            "config.retention_bytes",
        ),
        (
            "[traffic]",
            &config("replay_window = 1023"),
            "config.replay_window",
        ),
    ] {
        let text = smoke.replace(right, wrong);
        assert_ne!(text, smoke, "{right}");
        let told = Scenario::parse("smoke.toml", &text).expect_err(wrong);
        let told = told.to_string();
        assert!(
            told.starts_with(&format!("smoke.toml: {key}")),
            "{wrong}: {told}"
        );
    }
}

/// A mistake in what is included is that file's, and a mistake on top of it is the file's that includes.
#[test]
fn mistakes_are_named_in_the_file_that_they_are_in() {
    let error = |file: &str, world: &str| {
        let read = |_: &str| Ok(world.to_owned());
        let got = Scenario::parse_with("dir/ddos.toml", file, &read);
        got.expect_err("refused").to_string()
    };
    let (ddos, world) = (text("ddos.toml"), text("worlds/four-sites.toml"));

    let told = error(&ddos, &world.replace("weight", "wait"));
    let included = told.contains("dir/worlds/four-sites.toml");
    assert!(included && told.contains("wait"), "{told}");

    let told = error(&ddos, &world.replace("weight = 3", "weight = -3"));
    let included = told.starts_with("dir/worlds/four-sites.toml: site[1].weight");
    assert!(included, "{told}");

    let told = error(&ddos, &world.replace("\"tokyo\"]", "\"kyoto\"]"));
    let included = told.starts_with("dir/worlds/four-sites.toml: path[2].between");
    assert!(included && told.contains("kyoto"), "{told}");

    let path = "\n[[path]]\nbetween = [\"victim\", \"rome\"]\nset = { loss = 0.1 }\n";
    let told = error(&(ddos.clone() + path), &world);
    assert!(told.starts_with("dir/ddos.toml: path[0].between"), "{told}");

    let twice = ddos.replace("name = \"victim\"", "name = \"nyc\"");
    let told = error(&twice, &world);
    assert!(told.starts_with("dir/ddos.toml: site[0].name"), "{told}");

    let gone = Scenario::parse("dir/ddos.toml", &ddos).expect_err("no such file");
    let told = gone.to_string();
    assert!(told.starts_with("dir/worlds/four-sites.toml: "), "{told}");
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
