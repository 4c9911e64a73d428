//! Scenarios that are refused, each with the file and the key that are wrong.

use powderhorn_sim::scenario::{Scenario, ScenarioError};

use super::{file, text};

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
