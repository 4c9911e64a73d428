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

/// Each of these would run, and do something else than it says, or nothing.
#[test]
fn what_is_not_what_it_reads_as_is_refused() {
    let smoke = text("smoke.toml");
    let fault = |lines: &str| format!("{smoke}\n[[fault]]\n{lines}\n");
    let expect = |lines: &str| format!("{smoke}\n[[expect]]\n{lines}\n");
    let groups = |lines: &str| format!("{smoke}\n[group]\n{lines}\n");
    let site = |lines: &str| smoke.replacen("[[site]]", &format!("[[site]]\n{lines}\n[[site]]"), 1);
    let path =
        |lines: &str| smoke.replacen("[network]", &format!("[[path]]\n{lines}\n[network]"), 1);
    let paths = |between: &str| {
        let first = "between = [\"east\", \"west\"]\nset = { delay = \"5ms\" }";
        path(&format!(
            "{first}\n[[path]]\n{between}\nset = {{ loss = 0.1 }}"
        ))
    };
    let three = |kind: &str| {
        format!(
            "name = \"three\"\nduration = \"60s\"\nsite = [{{ name = \"a\", nodes = 3 }}]\n\
                 traffic = {{ purges_per_second = 50 }}\n[[fault]]\nat = \"1s\"\n{kind}\n"
        )
    };
    let burst = |purges: u64| {
        fault(&format!(
            "at = \"1s\"\nkind = \"burst\"\nnodes = [\"*\"]\npurges = {purges}"
        ))
    };
    // The tenth brings it to a billion, together with the purges of all the while.
    let all_at_once =
        "[[fault]]\nat = \"1s\"\nkind = \"burst\"\nnodes = [\"*\"]\npurges = 1000000\n";
    let bursts = format!("{smoke}\n{}", all_at_once.repeat(10));
    let long = |key: &str, was: &str| {
        smoke.replacen(
            &format!("{key} = \"{was}\""),
            &format!("{key} = \"800000h\""),
            1,
        )
    };
    for (text, told) in [
        // One fault would end the other.
        (
            fault("at = \"6s\"\nfor = \"4s\"\nkind = \"freeze\"\nnodes = [\"east\"]"),
            "fault[12]: at east/0 this and fault[1] ",
        ),
        (
            fault("at = \"24s\"\nkind = \"crash\"\nnodes = [\"west/1-2\"]"),
            "fault[12]: at west/1 this and fault[2] ",
        ),
        (
            fault("at = \"12s\"\nfor = \"4s\"\nkind = \"crash\"\nnodes = [\"east/0\"]"),
            "fault[12]: at east/0 this and fault[1] ",
        ),
        (
            fault("at = \"1s\"\nkind = \"slow_node\"\nnodes = [\"*\"]\neach = \"1ms\""),
            "fault[12]: at east/3 this and fault[9] ",
        ),
        (
            fault("at = \"54s\"\nkind = \"slow_cache\"\nnodes = [\"west\"]\neach = \"1ms\""),
            "fault[12]: at west/3 this and fault[10] ",
        ),
        // Marks that cannot be missed, or not be met.
        (expect("group = \"east\""), "expect[0]: has no limit"),
        (expect(""), "expect[0]: has no limit"),
        (expect("p50_ms_max = 0"), "expect[0].p50_ms_max: "),
        (expect("p95_ms_max = nan"), "expect[0].p95_ms_max: "),
        (expect("p99_ms_max = -1"), "expect[0].p99_ms_max: "),
        (expect("ms_max = inf"), "expect[0].ms_max: "),
        (expect("ms_max = 120000"), "expect[0].ms_max: "),
        (
            format!(
                "{}\n[[expect]]\ngroup = \"others\"\nms_max = 9\n",
                groups("all = [\"*\"]")
            ),
            "expect[0].group: ",
        ),
        // Faults that change nothing.
        (
            fault("at = \"1s\"\nkind = \"cut\"\nfrom = [\"east/1\"]\nto = [\"east/1\"]"),
            "fault[12].to: ",
        ),
        (
            fault(
                "at = \"1s\"\nkind = \"path\"\nfrom = [\"east/1\"]\nto = [\"east/1\"]\nset = { loss = 0.1 }",
            ),
            "fault[12].to: ",
        ),
        (
            fault("at = \"1s\"\nkind = \"path\"\nfrom = [\"east\"]\nto = [\"*\"]\nset = {}"),
            "fault[12].set: ",
        ),
        (
            fault(
                "at = \"1s\"\nkind = \"path\"\nfrom = [\"east\"]\nto = [\"*\"]\nset = { loss = 0.0 }",
            ),
            "fault[12].set.loss: ",
        ),
        (
            path("between = [\"east\", \"west\"]\nset = {}"),
            "path[0].set: ",
        ),
        // Of two that say different things, one would be left unread.
        (
            paths("between = [\"west\", \"east\"]"),
            "path[1].between: path[0] is between west and east, too",
        ),
        (
            paths("between = [\"east\", \"west\"]"),
            "path[1].between: path[0] is between east and west, too",
        ),
        (
            fault("at = \"1s\"\nkind = \"cut\"\nfrom = [\"east\"]\nto = [\"!east\", \"!west\"]"),
            "fault[12].to: ",
        ),
        (
            fault("at = \"1s\"\nkind = \"cut\"\nfrom = [\"east\"]\nto = []"),
            "fault[12].to: ",
        ),
        (
            fault("at = \"1s\"\nkind = \"bridge\"\nnodes = [\"*\"]"),
            "fault[12].nodes: ",
        ),
        (
            three("kind = \"bridge\"\nnodes = [\"a/1\"]"),
            "fault[0].nodes: ",
        ),
        (three("kind = \"ring\""), "fault[0]: "),
        (
            fault("at = \"1s\"\nfor = \"0s\"\nkind = \"ring\""),
            "fault[12].for: ",
        ),
        (
            fault("at = \"1s\"\nkind = \"wall_clock\"\nnodes = [\"*\"]\nby = \"-0s\""),
            "fault[12].by: ",
        ),
        (
            fault("at = \"1s\"\nfor = \"5s\"\nkind = \"wall_clock\"\nnodes = [\"*\"]\nby = \"1h\""),
            "fault[12].for: ",
        ),
        (
            fault("at = \"1s\"\nfor = \"5s\"\nkind = \"burst\"\nnodes = [\"*\"]\npurges = 5"),
            "fault[12].for: ",
        ),
        (smoke.replace("\"500us\"", "\"0us\""), "fault[9].each: "),
        (smoke.replace("\"10ms\"", "\"0ms\""), "fault[10].each: "),
        // Groups and sites that are taken for others.
        (
            groups("one = [\"east\"]\ntwo = [\"west\", \"east/4\"]"),
            "group.two: east/4 is in group one",
        ),
        (groups("others = [\"east\"]"), "group.others: "),
        (site("name = \"\"\nnodes = 1"), "site[0].name: "),
        (site("name = \"!x\"\nnodes = 1"), "site[0].name: "),
        (site("name = \"x/1\"\nnodes = 1"), "site[0].name: "),
        (site("name = \"*\"\nnodes = 1"), "site[0].name: "),
        (site("name = \"a b\"\nnodes = 1"), "site[0].name: "),
        (
            site(&format!("name = \"{}\"\nnodes = 1", "x".repeat(65))),
            "site[0].name: ",
        ),
        (site("name = \"north\"\nnodes = 0"), "site[0].nodes: "),
        // What would never come to an end.
        (burst(0), "fault[12].purges: must be 1 to "),
        (burst(1_000_001), "fault[12].purges: must be 1 to "),
        (burst(u64::MAX), "fault[12].purges: must be 1 to "),
        (bursts, "fault[21].purges: 100"),
        (
            smoke
                .replace("= 50\n", "= 1e6\n")
                .replacen("\"60s\"", "\"2h\"", 1),
            "traffic.purges_per_second: ",
        ),
        (long("warm_up", "2s"), "warm_up: "),
        (long("duration", "60s"), "duration: "),
        (long("drain", "60s"), "drain: "),
        (
            smoke.replacen("nodes = 5", "nodes = 9000", 1).replacen(
                "warm_up = \"2s\"",
                "warm_up = \"2000h\"",
                1,
            ),
            "warm_up: ",
        ),
    ] {
        let error = match Scenario::parse("smoke.toml", &text) {
            Ok(_) => panic!("{told} {text}"),
            Err(error) => error.to_string(),
        };
        assert!(
            error.starts_with(&format!("smoke.toml: {told}")),
            "{told} {error}"
        );
    }
}

/// A ring has no keys of its own, and so has none that could be left unread.
#[test]
fn keys_that_mean_nothing_are_named() {
    let smoke = text("smoke.toml");
    for (kind, key, value) in [
        ("ring", "nodes", "[\"zzz\"]"),
        ("ring", "bogus", "1"),
        ("bridge", "bogus", "1"),
    ] {
        let of_kind = format!("kind = \"{kind}\"\n");
        let wrong = smoke.replace(&of_kind, &format!("{of_kind}{key} = {value}\n"));
        assert_ne!(wrong, smoke, "{kind}");
        let told = Scenario::parse("smoke.toml", &wrong)
            .expect_err(key)
            .to_string();
        assert!(told.starts_with("smoke.toml: "), "{told}");
        assert!(told.contains(&format!("unknown field `{key}`")), "{told}");
    }
}

/// What is longest or largest of what is allowed is still read, and so are neighbours in time.
#[test]
fn what_is_close_to_the_limits_is_read() {
    let smoke = text("smoke.toml");
    let fault = |lines: &str| format!("{smoke}\n[[fault]]\n{lines}\n");
    for text in [
        fault("at = \"13s\"\nfor = \"4s\"\nkind = \"freeze\"\nnodes = [\"east\"]"),
        fault("at = \"4s\"\nfor = \"4s\"\nkind = \"freeze\"\nnodes = [\"east\"]"),
        fault("at = \"8s\"\nfor = \"5s\"\nkind = \"freeze\"\nnodes = [\"east/1-4\"]"),
        fault(
            "at = \"8s\"\nfor = \"5s\"\nkind = \"slow_node\"\nnodes = [\"east\"]\neach = \"1ms\"",
        ),
        fault("at = \"1s\"\nkind = \"cut\"\nfrom = [\"east/1\"]\nto = [\"east/1-2\"]"),
        fault("at = \"1s\"\nkind = \"burst\"\nnodes = [\"*\"]\npurges = 1000000"),
        smoke.replacen("\"2s\"", "\"2390h\"", 1),
        format!("{smoke}\n[[expect]]\nms_max = 119999\n"),
    ] {
        Scenario::parse("smoke.toml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
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

    // What comes on top of an included path does so once.
    let path = "\n[[path]]\nbetween = [\"tokyo\", \"nyc\"]\nset = { loss = 0.1 }\n";
    let read = |_: &str| Ok(world.clone());
    let on_top = Scenario::parse_with("dir/ddos.toml", &(ddos.clone() + path), &read);
    on_top.unwrap_or_else(|error| panic!("{error}"));
    let told = error(&(ddos.clone() + path + path), &world);
    assert!(
        told.starts_with("dir/ddos.toml: path[1].between: path[0]"),
        "{told}"
    );
    let told = error(&ddos, &(world.clone() + path));
    let included = told.starts_with("dir/worlds/four-sites.toml: path[6].between");
    assert!(included, "{told}");

    let twice = ddos.replace("name = \"victim\"", "name = \"nyc\"");
    let told = error(&twice, &world);
    assert!(told.starts_with("dir/ddos.toml: site[0].name"), "{told}");

    let gone = Scenario::parse("dir/ddos.toml", &ddos).expect_err("no such file");
    let told = gone.to_string();
    assert!(told.starts_with("dir/worlds/four-sites.toml: "), "{told}");
}
