//! What operators' tools get: JSON that is whole and as docs/ADMIN-JSON.md says, and the figures in Debian's
//! Prometheus exporter.
//!
//! Two varnishds with `-E`. A document that does not fit fails with the names of the fields in question.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use powderhorn_fleet::cleanup::WorkDir;
use powderhorn_fleet::fleet::{START_TIMEOUT, find_vcl_dir, find_vmod};
use powderhorn_fleet::http::{Client, Request};
use powderhorn_fleet::varnish::{Settings, Varnishd, free_udp_port};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../docs/ADMIN-JSON.md");
const HOST: &str = "example.com";
/// How long two nodes may take to have heard of each other, with their news.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Fields whose own fields are names of anything.
const OPEN: [&str; 3] = ["cache", "counters", "left_out"];

struct Pair {
    nodes: [Varnishd; 2],
    _dir: WorkDir,
}

fn start() -> Pair {
    let dir = WorkDir::new("powderhorn-admin").expect("a directory for temporary files");
    let vmod = find_vmod().expect("no libvmod_powderhorn.so: `cargo build`, or POWDERHORN_VMOD");
    let vmod = std::path::absolute(vmod).expect("its path");
    let key = dir.path().join("fleet.key");
    std::fs::write(&key, "0f".repeat(32)).expect("the key");
    let ports = [0; 2].map(|_| free_udp_port().expect("a UDP port"));
    let nodes = [0, 1].map(|n| {
        let own = dir.path().join(format!("n{n}"));
        std::fs::create_dir(&own).expect("a node's directory");
        let config = own.join("powderhorn.toml");
        let text = format!(
            "[node]\nname = \"n{n}\"\nsite = \"here\"\nlisten = \"127.0.0.1:{}\"\n\
             [fleet]\nkey_file = \"{}\"\nnodes_file = \"{}\"\n\
             [journal]\ndir = \"{}\"\n[[peer]]\naddress = \"127.0.0.1:{}\"\n",
            ports[n],
            key.display(),
            own.join("not-there").display(),
            own.join("state").display(),
            ports[1 - n],
        );
        std::fs::write(&config, text).expect("the config");
        let settings = Settings {
            name: format!("n{n}"),
            vcl: vcl(&config),
            vmod_dir: None,
            vcl_dir: Some(find_vcl_dir()),
            storage: "16m".to_owned(),
            params: Vec::new(),
            extensions: vec![vmod.clone()],
        };
        Varnishd::spawn(&own, settings).expect("varnishd starts")
    });
    let mut pair = Pair { nodes, _dir: dir };
    for node in &mut pair.nodes {
        node.wait_ready(START_TIMEOUT).expect("it answers");
    }
    pair
}

fn vcl(config: &Path) -> String {
    format!(
        "vcl 4.1;\nimport powderhorn;\nimport std;\nbackend default none;\n\
         probe p {{ .interval = 1m; }}\n\
         backend other {{ .host = \"127.0.0.1\"; .port = \"9\"; .probe = p; }}\n\
         sub vcl_init {{ powderhorn.start(\"{}\"); }}\n\
         sub vcl_recv {{\n\
         \tif (req.url == \"/other\") {{ set req.backend_hint = other; return (pass); }}\n\
         \tif (req.method == \"PURGE\") {{ return (synth(200, powderhorn.purge(req.url))); }}\n\
         \treturn (synth(200));\n}}\n\
         sub vcl_synth {{\n\
         \tset resp.http.X-Id = resp.reason;\n\
         \tif (req.url == \"/status\") {{ set resp.body = powderhorn.status(\"json\"); return (deliver); }}\n\
         \tif (req.url == \"/metrics\") {{ set resp.body = powderhorn.metrics(); return (deliver); }}\n}}\n",
        config.display()
    )
}

/// What a command answers, parsed.
fn json(node: &Varnishd, command: &[&str]) -> Value {
    let text = node.adm(command).expect("the command");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command:?}: {error}:\n{text}"))
}

/// The object that varnishd wraps, with its version, the command and the time before it.
fn answer(node: &Varnishd, command: &[&str]) -> Value {
    let mut all = json(node, command);
    let parts = all.as_array_mut().expect("an array");
    assert_eq!(parts.len(), 4, "{parts:?}");
    assert_eq!(parts[0], 2);
    assert_eq!(parts[1][0], command[0]);
    parts.pop().expect("the answer")
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(POLL);
    }
}

fn purge(node: &Varnishd, url: &str) -> String {
    let mut client = Client::new(node.addr(), HOST, Duration::from_secs(10));
    let response = client.send(&Request::purge(url)).expect("an answer");
    assert_eq!(response.status, 200);
    response.header("X-Id").expect("the id").to_owned()
}

/// Names of all fields below `value`: `peers[].news.age_ms`.
fn fields(value: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(all) => {
            for (name, value) in all {
                let path = match at {
                    "" => name.clone(),
                    at => format!("{at}.{name}"),
                };
                into.insert(path.clone());
                if !OPEN.contains(&name.as_str()) {
                    fields(value, &path, into);
                }
            }
        }
        Value::Array(all) => {
            let path = format!("{at}[]");
            all.iter().for_each(|value| fields(value, &path, into));
        }
        _ => {}
    }
}

/// What the document says of a command: the fields of its table, and the objects of its examples.
fn documented(command: &str) -> (BTreeSet<String>, Vec<Value>) {
    let heading = format!("## `{command}`");
    let section = DOCUMENT.split("\n## ").find_map(|section| {
        format!("## {section}")
            .strip_prefix(&heading)
            .map(str::to_owned)
    });
    let section = section.unwrap_or_else(|| panic!("ADMIN-JSON.md has no {heading}"));
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut table = BTreeSet::new();
    for (name, says) in rows {
        table.insert(name.to_owned());
        let other = says
            .split_once("| as in `")
            .and_then(|(_, other)| other.split_once('`'));
        if let Some((other, _)) = other {
            let (fields, _) = documented(other);
            let inside = [format!("{name}[]"), format!("{name}.")];
            table.extend(
                fields
                    .into_iter()
                    .filter(|field| inside.iter().any(|inside| field.starts_with(inside))),
            );
        }
    }
    let examples = section.split("```json\n").skip(1).map(|rest| {
        let text = rest.split("```").next().expect("its text");
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{command}: {error}:\n{text}"))
    });
    (table, examples.collect())
}

/// Each field is documented, and what is documented is there, unless what it would be in is not.
fn check(command: &str, answer: &Value) {
    let (table, examples) = documented(command);
    let mut there = BTreeSet::new();
    fields(answer, "", &mut there);
    let new: Vec<_> = there.difference(&table).collect();
    assert!(new.is_empty(), "{command}: not in ADMIN-JSON.md: {new:?}");
    let gone: Vec<_> = table
        .difference(&there)
        .filter(|field| {
            let parent = field.rsplit_once('.').map(|(parent, _)| parent);
            parent.is_none_or(|parent| {
                let inside = format!("{parent}.");
                there.iter().any(|other| other.starts_with(&inside))
            })
        })
        .collect();
    assert!(
        gone.is_empty(),
        "{command}: in ADMIN-JSON.md only: {gone:?}"
    );
    for example in &examples {
        let mut shown = BTreeSet::new();
        fields(example, "", &mut shown);
        let wrong: Vec<_> = shown.difference(&table).collect();
        assert!(
            wrong.is_empty(),
            "{command}: in the example only: {wrong:?}"
        );
    }
}

#[test]
fn json_is_whole_and_as_the_document_says() {
    let pair = start();
    let [one, two] = &pair.nodes;
    let news = || {
        let status = answer(one, &["powderhorn.status", "-j"]);
        !status["peers"][0]["news"]["applied_ms"].is_null()
    };
    until("news of the other node", news);
    let id = purge(two, "/a");
    let arrived = || answer(one, &["powderhorn.status", "-j"])["counters"]["received"] == 1;
    until("a purge", arrived);

    let status = answer(one, &["powderhorn.status", "-j"]);
    check("powderhorn.status -j", &status);
    assert_eq!(status["name"], "n0");
    assert_eq!(status["peers"][0]["name"], "n1");
    // Objects that the fields of would go unnoticed.
    for there in ["journal", "reach", "rates"] {
        assert!(status[there].is_object(), "{there}: {}", status[there]);
    }
    for there in ["sources", "sockets", "notices", "keys"] {
        assert!(
            !status[there].as_array().expect(there).is_empty(),
            "{there}"
        );
    }
    assert!(status["peers"][0]["latency"].is_object());

    let peers = answer(one, &["powderhorn.peers", "-j"]);
    check("powderhorn.peers -j", &peers);
    assert_eq!(peers["peers"].as_array().map(Vec::len), Some(1));

    check(
        "powderhorn.digest -j",
        &answer(one, &["powderhorn.digest", "-j"]),
    );
    let streams = answer(one, &["powderhorn.streams", "-j"]);
    check("powderhorn.streams -j", &streams);
    let named = streams["streams"].as_array().expect("streams");
    assert!(
        named.iter().any(|s| s["node"] == "n1" && s["own"] == false),
        "{streams}"
    );

    let trace = answer(one, &["powderhorn.trace", "-j", &id]);
    check("powderhorn.trace -j", &trace);
    assert_eq!(
        (&trace["done"], &trace["nodes"]),
        (&2.into(), &2.into()),
        "{trace}"
    );

    let issued = answer(one, &["powderhorn.purge", "-j", "/a", HOST]);
    check("powderhorn.purge -j", &issued);
    check(
        "powderhorn.flush -j",
        &answer(one, &["powderhorn.flush", "-j", HOST]),
    );

    // The director, among another backend: varnishd's own form.
    let list = json(one, &["backend.list", "-j"]);
    let backends = list[3].as_object().expect("backends");
    assert_eq!(backends.len(), 2, "{list}");
    let director = &backends["boot.powderhorn"];
    assert_eq!(director["type"], "powderhorn");
    assert_eq!(
        director["probe_message"],
        serde_json::json!([2, 2, "healthy"])
    );
    let list = json(one, &["backend.list", "-j", "-p"]);
    check(
        "backend.list -j -p",
        &list[3]["boot.powderhorn"]["probe_details"],
    );
    assert!(
        list[3]["boot.other"]["probe_details"]["window"].is_number(),
        "{list}"
    );

    // Out of VCL the status is the same.
    let mut client = Client::new(one.addr(), HOST, Duration::from_secs(10));
    let body = client.get("/status").expect("an answer").text();
    let status = serde_json::from_str(&body).expect("JSON");
    check("powderhorn.status -j", &status);
    let metrics = client.get("/metrics").expect("an answer").text();
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(
        metrics.contains("\npowderhorn_objects_killed_total "),
        "{metrics}"
    );
    assert!(metrics.contains("\npowderhorn_objects "), "{metrics}");
}

/// Debian's exporter, ended when this is dropped.
struct Exporter(Child);

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_prometheus_exporter_of_debian_finds_all_figures() {
    let pair = start();
    let [one, _] = &pair.nodes;
    purge(one, "/a");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    let addr: SocketAddr = port.expect("a port");
    let exporter = Command::new("prometheus-varnish-exporter")
        .arg("-web.listen-address")
        .arg(addr.to_string())
        .arg("-n")
        .arg(one.workdir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(Exporter);
    let _exporter = exporter.expect("the package prometheus-varnish-exporter");
    let page = || {
        let mut client = Client::new(addr, HOST, Duration::from_secs(10));
        client.get("/metrics").map(|response| response.text())
    };
    until("the exporter", || page().is_ok());
    until("the purge", || {
        let page = page().expect("the page");
        page.lines()
            .any(|line| line == "varnish_main_powderhorn_issued 1")
    });
    let page = page().expect("the page");
    let names: Vec<String> = names(&one.workdir());
    assert!(names.len() > 100, "{names:?}");
    let lacking: Vec<_> = names
        .iter()
        .filter(|name| {
            let metric = format!("varnish_main_powderhorn_{name} ");
            !page.lines().any(|line| line.starts_with(&metric))
        })
        .collect();
    assert!(lacking.is_empty(), "{lacking:?} in\n{page}");
}

/// The names that varnishstat shows, without the first part.
fn names(workdir: &PathBuf) -> Vec<String> {
    let output = Command::new("varnishstat")
        .arg("-n")
        .arg(workdir)
        .args(["-1", "-f", "POWDERHORN.*"])
        .output()
        .expect("varnishstat");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .filter_map(|line| line.strip_prefix("POWDERHORN.")?.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}
