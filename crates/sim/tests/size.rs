//! `powderhorn-sim size`: what it answers hangs together, and what cannot be is refused.

use powderhorn_sim::size::{SizeArgs, SizeError, run};
use serde_json::Value;

const FLEET: SizeArgs = SizeArgs {
    nodes: 40,
    sites: 4,
    rate: 125.0,
    loss: 0.01,
};

fn number(value: &Value, path: &str) -> f64 {
    let found = value.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number at {path} of {value:#}"))
}

fn setting<'a>(value: &'a Value, name: &str) -> &'a Value {
    let settings = value["settings"].as_array().expect("a list");
    let mut settings = settings.iter();
    let found = settings.find(|setting| setting["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_small_fleet_is_simulated() {
    let got = run(&FLEET).expect("a fleet that can be");
    let [p50, p95, p99] =
        ["p50_ms", "p95_ms", "p99_ms"].map(|p| number(&got, &format!("/latency/{p}")));
    assert!(p50 <= p95 && p95 <= p99, "{p50}, {p95}, {p99}");
    // Most are one way of 40 ms and its jitter.
    assert!((40.0..50.0).contains(&p50), "{p50}");
    assert!(p95 < 60.0 && p99 < 700.0, "{p95}, {p99}");
    let by = got["latency"]["by"].as_str().expect("a text");
    assert!(by.contains("production core"), "{by}");
    assert_eq!(number(&got, "/a_day/purges"), 125.0 * 86_400.0);
    let disk = number(&got, "/a_day/disk_bytes_of_the_journal");
    assert_eq!(disk, 125.0 * 86_400.0 * 54.0);
    // A purge in a datagram of its own, some 100 to 500 bytes each with what it repeats.
    let out = number(&got, "/network_of_a_node/out_bits_per_second") / 8.0;
    assert!(
        (125.0 * 100.0..125.0 * 600.0).contains(&out),
        "{out} bytes/s"
    );
    for name in [
        "limits.round",
        "limits.repair_bytes_peer",
        "limits.repair_bytes_all",
        "journal.bytes",
        "limits.retention_bytes",
        "limits.replay_window",
        "limits.socket_bytes",
        "net.core.rmem_max",
    ] {
        let why = setting(&got, name)["why"].as_str().expect("a reason");
        assert!(why.ends_with('.'), "{name}: {why}");
    }
    assert_eq!(run(&FLEET).expect("the same"), got, "the same again");
}

#[test]
fn a_large_fleet_is_computed_and_a_higher_rate_asks_for_more() {
    let large = SizeArgs {
        nodes: 5_000,
        sites: 10,
        rate: 20.0,
        loss: 0.3,
    };
    let got = run(&large).expect("a fleet that can be");
    let by = got["latency"]["by"].as_str().expect("a text");
    assert!(by.contains("recurrence"), "{by}");
    // 30 % wait for a round or more.
    assert!(number(&got, "/latency/p95_ms") >= 250.0);
    let warnings = got["warnings"].as_array().expect("a list");
    assert!(
        warnings.iter().any(|w| w.to_string().contains("4096")),
        "{warnings:?}"
    );

    let kib = |got: &Value| -> f64 {
        let text = setting(got, "limits.repair_bytes_peer")["value"].as_str();
        let digits = text.and_then(|text| text.strip_suffix("KiB"));
        digits.expect("in KiB").parse().expect("a number")
    };
    let busy = SizeArgs {
        rate: 1_000.0,
        ..FLEET
    };
    let busy = run(&busy).expect("a fleet that can be");
    assert!(kib(&busy) > kib(&got));
}

/// A larger fleet is not said to be faster, wherever the one method gives way to the other.
#[test]
fn one_node_more_than_is_simulated_makes_no_fleet_faster() {
    let got = [300, 301].map(|nodes| {
        let args = SizeArgs {
            nodes,
            sites: 1,
            rate: 50.0,
            loss: 0.1,
        };
        run(&args).expect("a fleet that can be")
    });
    for name in ["p50_ms", "p95_ms", "p99_ms"] {
        let [less, more] = [0, 1].map(|at| number(&got[at], &format!("/latency/{name}")));
        assert!(more >= less, "{name}: {less} ms with 300, {more} with 301");
    }
}

/// With a configuration file there is a journal, and `limits.retention_bytes` is of no effect.
#[test]
fn a_day_is_kept_in_the_journal_or_it_is_said_that_it_is_not() {
    let fleet = |rate| SizeArgs {
        nodes: 2,
        sites: 1,
        rate,
        loss: 0.0,
    };
    let mib = |got: &Value, name: &str| -> f64 {
        let text = setting(got, name)["value"].as_str();
        let digits = text.and_then(|text| text.strip_suffix("MiB"));
        digits.expect("in MiB").parse().expect("a number")
    };
    let why = |got: &Value, name: &str| setting(got, name)["why"].as_str().map(str::to_owned);

    let got = run(&fleet(1_000.0)).expect("a fleet that can be");
    let day = 86.4e6;
    let journal = mib(&got, "journal.bytes") * 1_048_576.0;
    assert!(journal >= day * 54.0 * 1.25 && journal < day * 54.0 * 1.26);
    // What was measured: 121 MB resident, and 130 bytes each without.
    let with = number(&got, "/a_day/memory_bytes_with_a_journal");
    assert!((with / 121e6 - 1.0).abs() < 0.01, "{with}");
    let without = number(&got, "/a_day/memory_bytes_without_a_journal");
    assert_eq!(without, day * 130.0);
    let told = why(&got, "limits.retention_bytes").expect("a reason");
    assert!(told.contains("journal.dir is \"\""), "{told}");

    let quiet = run(&fleet(0.1)).expect("a fleet that can be");
    assert_eq!(mib(&quiet, "journal.bytes"), 16.0);

    let busy = run(&fleet(20_000.0)).expect("a fleet that can be");
    let told = why(&busy, "journal.bytes").expect("a reason");
    assert!(told.contains("day is kept"), "{told}");
    let told = why(&busy, "limits.retention_bytes").expect("a reason");
    assert!(told.contains("not kept"), "{told}");
    assert_eq!(mib(&busy, "limits.retention_bytes"), 65_536.0);
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |args: SizeArgs| run(&args).expect_err("refused");
    let one = SizeArgs { nodes: 1, ..FLEET };
    assert_eq!(refused(one), SizeError::Nodes(1));
    let many = SizeArgs {
        nodes: 10_001,
        ..FLEET
    };
    assert_eq!(refused(many), SizeError::Nodes(10_001));
    for sites in [0, 41] {
        let args = SizeArgs { sites, ..FLEET };
        assert_eq!(refused(args), SizeError::Sites { sites, nodes: 40 });
    }
    for rate in [0.0, -1.0, 1e6, f64::NAN] {
        let error = refused(SizeArgs { rate, ..FLEET });
        assert!(matches!(error, SizeError::Rate(_)), "{rate}: {error}");
    }
    for loss in [-0.1, 0.95, f64::NAN] {
        let error = refused(SizeArgs { loss, ..FLEET });
        assert!(matches!(error, SizeError::Loss(_)), "{loss}: {error}");
    }
}
