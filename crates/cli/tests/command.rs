//! The command as a person starts it, without a Varnish.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::JoinHandle;

use powderhorn_fleet::cleanup::WorkDir;

fn dir() -> WorkDir {
    WorkDir::new("powderhorn-cli").expect("a directory")
}

fn powderhorn(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_powderhorn"))
        .args(arguments)
        .output()
        .expect("the command starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A node that gives these answers, one a connection, and remembers what it was asked.
fn node(answers: Vec<String>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => request.push(byte[0]),
                    _ => break,
                }
            }
            asked.push(String::from_utf8_lossy(&request).into_owned());
            stream.write_all(answer.as_bytes()).expect("it is read");
        }
        asked
    });
    (url, thread)
}

fn answer(head: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

const STATUS: &str = r#"{"verdict":"1 of 2 peers not heard, lon first","name":"fra","site":"","fleet":"f",
    "runtime":"running","applier":"running","wanted":0,"ready":2,"in_flight":0,
    "journal":{"dir":"/j","state":"ok","disk_bytes":7,"bytes_max":9,"oldest_ms":7300000},"reach":{"retention_ms":24845},
    "peers":[{"name":"lon","site":"uk","address":"192.0.2.8:4277","state":"silent","heard_ms":61500,"rtt_us":null,
              "node":null,"sources":["static"],"gaps":7},
             {"name":"nyc","site":"","address":"192.0.2.9:4277","state":"up","heard_ms":200,"rtt_us":70250,
              "node":"00","sources":["static"],"gaps":0}],
    "notices":[{"wall_ms":1,"text":"lon is \u001b[31msilent"}]}"#;

#[test]
fn keygen_makes_a_key_that_only_those_may_read_who_have_to() {
    let dir = dir();
    let file = dir.path().join("fleet.key");
    let file = file.to_str().unwrap();
    let made = powderhorn(&["keygen", file]);
    assert!(made.status.success(), "{}", err(&made));
    let key = fs::read_to_string(file).unwrap();
    assert_eq!(key.len(), 65);
    assert!(
        key.trim_end()
            .chars()
            .all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    );
    let about = fs::metadata(file).unwrap();
    let groups = fs::read_to_string("/etc/group").unwrap();
    let is_varnish = groups.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        fields[0] == "varnish" && fields[2] == about.gid().to_string()
    });
    let mode = if is_varnish { 0o640 } else { 0o600 };
    assert_eq!(about.permissions().mode() & 0o7777, mode);
    assert!(!out(&made).contains(key.trim_end()));

    let again = powderhorn(&["keygen", file]);
    assert_eq!(again.status.code(), Some(1));
    assert!(err(&again).contains("is there already"), "{}", err(&again));
    assert_eq!(fs::read_to_string(file).unwrap(), key);

    let other = dir.path().join("other.key");
    assert!(
        powderhorn(&["keygen", other.to_str().unwrap()])
            .status
            .success()
    );
    assert_ne!(fs::read_to_string(other).unwrap(), key);
}

#[test]
fn check_takes_what_the_vmod_takes_and_names_file_line_and_key() {
    let dir = dir();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&state, 0o777);
    let key = dir.path().join("key");
    assert!(
        powderhorn(&["keygen", key.to_str().unwrap()])
            .status
            .success()
    );
    let good = format!(
        "[node]\nname = \"a\"\nlisten = \"127.0.0.1:4277\"\n[fleet]\nkey_file = {key:?}\n[journal]\ndir = {state:?}\n\
         [[peer]]\naddress = \"127.0.0.1:4278\"\n"
    );
    let path = file("good.toml", &good);
    let checked = powderhorn(&["check", path.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", err(&checked));
    let text = out(&checked);
    assert!(
        text.contains("ok: node a, fleet powderhorn, 1 peers listed"),
        "{text}"
    );
    assert!(!text.contains("warning"), "{text}");

    // Who is root may read it all, and varnishd's child is not.
    let groups = fs::read_to_string("/etc/group").unwrap();
    if groups.lines().any(|line| line.starts_with("varnish:")) {
        mode(&path, 0o600);
        let text = out(&powderhorn(&["check", path.to_str().unwrap()]));
        let told = format!(
            "warning: varnishd's group may not read {}: ",
            path.display()
        );
        assert!(text.contains(&told), "{text}");
        mode(&path, 0o644);
        mode(&state, 0o755);
        let text = out(&powderhorn(&["check", path.to_str().unwrap()]));
        let told = format!(
            "warning: varnishd's child may not write to {}: ",
            state.display()
        );
        assert_eq!(
            text.contains(&told),
            fs::metadata(&state).unwrap().uid() == 0,
            "{text}"
        );
    }

    mode(&key, 0o644);
    let text = out(&powderhorn(&["check", path.to_str().unwrap()]));
    assert!(
        text.contains("warning: everybody on this host may read"),
        "{text}"
    );

    for (text, line, key) in [
        ("[node]\nname = \"\"\n", 2, "node.name"),
        ("[node]\n\n[limits]\nround = \"1h\"\n", 4, "limits.round"),
        ("[node]\nnme = \"a\"\n", 2, "nme"),
    ] {
        let path = file("bad.toml", text);
        let path = path.to_str().unwrap();
        let checked = powderhorn(&["check", path]);
        assert_eq!(checked.status.code(), Some(1));
        let said = err(&checked);
        assert!(said.contains(&format!("{path}:{line}: ")), "{said}");
        assert!(said.contains(key), "{said}");
        assert_eq!(out(&checked), "");
    }
    let missing = powderhorn(&["check", "/nowhere/powderhorn.toml"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("/nowhere/powderhorn.toml"));
}

#[test]
fn a_status_is_shown_whatever_a_terminal_would_make_of_names() {
    let (url, node) = node(vec![answer("200 OK", STATUS), answer("200 OK", STATUS)]);
    let shown = out(&powderhorn(&["status", "--url", &url]));
    let first = shown.lines().next().unwrap_or_default();
    assert_eq!(first, "1 of 2 peers not heard, lon first");
    assert!(!shown.contains('\u{1b}'), "{shown}");
    for line in [
        "journal   /j ok, 7 of 9 bytes, oldest purge 2 h\n",
        "room      for purges of the last 24.8 s only\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }

    let shown = out(&powderhorn(&["peers", "--url", &url]));
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let rows: Vec<String> = shown.lines().map(words).collect();
    // What this node does not tell has no column.
    assert_eq!(rows[0], "state name site heard rtt gaps address");
    assert_eq!(rows[1], "silent lon uk 61.5s - 7 192.0.2.8:4277");
    assert_eq!(rows[2], "up nyc - 200ms 70.25ms 0 192.0.2.9:4277");
    let asked = node.join().unwrap();
    assert!(
        asked[0].starts_with("GET /.powderhorn/status.json HTTP/1.1\r\n"),
        "{asked:?}"
    );
}

#[test]
fn a_status_has_no_line_for_what_the_node_does_not_tell() {
    let little = r#"{"verdict":"ok: a single node","peers":[]}"#;
    let upgraded =
        r#"{"verdict":"ok: a single node","version":"0.1.0","installed":"0.2.0","peers":[]}"#;
    let (url, node) = node(vec![answer("200 OK", little), answer("200 OK", upgraded)]);
    let shown = || out(&powderhorn(&["status", "--url", &url]));
    assert_eq!(shown(), "ok: a single node\n\n");
    assert_eq!(
        shown(),
        "ok: a single node\n\nversions  installed 0.2.0, loaded 0.1.0: restart varnish\n"
    );
    node.join().unwrap();
}

#[test]
fn peers_that_the_answer_had_no_room_for_are_counted() {
    let cut = STATUS.replace("\"wanted\":0", "\"wanted\":0,\"left_out\":{\"peers\":77}");
    let cut = || answer("200 OK", &cut);
    let (url, node) = node(vec![cut(), cut(), cut()]);
    let ask = |command: &[&str]| powderhorn(&[command, &["--url", &url]].concat());
    let shown = out(&ask(&["peers"]));
    let more = "\nand 77 more: raise cli_limit\n";
    assert!(shown.ends_with(more), "{shown}");
    let listed = ask(&["peers", "--json"]);
    assert!(out(&listed).ends_with("]\n"), "{}", out(&listed));
    let said = err(&listed);
    assert!(said.contains("77 peers are left out"), "{said}");
    let health = out(&ask(&["check-health"]));
    assert!(health.ends_with(" peers=79\n"), "{health}");
    node.join().unwrap();
}

#[test]
fn check_health_exits_as_monitoring_systems_expect() {
    let (url, node) = node(vec![answer("200 OK", STATUS), answer("200 OK", STATUS)]);
    let critical = powderhorn(&["check-health", "--url", &url]);
    assert_eq!(critical.status.code(), Some(2));
    assert!(
        out(&critical)
            .starts_with("POWDERHORN CRITICAL - 1 of 2 peers not heard, lon first | peers_down=1;")
    );
    let warning = powderhorn(&["check-health", "--down-critical", "2", "--url", &url]);
    assert_eq!(warning.status.code(), Some(1));
    node.join().unwrap();

    let nobody = powderhorn(&["check-health", "--url", &url]);
    assert_eq!(nobody.status.code(), Some(3));
    assert!(
        out(&nobody).starts_with("POWDERHORN UNKNOWN - "),
        "{}",
        out(&nobody)
    );
    // clap's own status for a wrong option would be an alarm.
    assert_eq!(
        powderhorn(&["check-health", "--nonsense"]).status.code(),
        Some(3)
    );
    assert_eq!(powderhorn(&["status", "--nonsense"]).status.code(), Some(2));
}

#[test]
fn a_purge_carries_its_own_host_and_prints_the_id() {
    let purged = "200 Purged\r\nX-Powderhorn-Id: 0a.1b.2c:7";
    let (url, node) = node(vec![
        answer(purged, "0a.1b.2c:7\n"),
        answer("405 Not allowed to purge", ""),
        answer("200 OK", "<html>"),
        answer("503 Purged on this node only", "Purged on this node only\n"),
    ]);
    let done = powderhorn(&["purge", "--url", &url, "http://www.example.com/a?b=c"]);
    assert!(done.status.success(), "{}", err(&done));
    assert_eq!(out(&done), "0a.1b.2c:7\n");
    for hint in [
        "acl powderhorn_purgers",
        "include powderhorn.vcl",
        "503: Purged on this node only",
    ] {
        let refused = powderhorn(&["purge", "--url", &url, "/a", "www.example.com"]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(err(&refused).contains(hint), "{}", err(&refused));
    }
    let asked = node.join().unwrap();
    assert!(
        asked[0].starts_with("PURGE /a?b=c HTTP/1.1\r\n"),
        "{asked:?}"
    );
    let hosts = |request: &str| -> Vec<String> {
        let lines = request.lines().map(str::to_ascii_lowercase);
        lines.filter(|line| line.starts_with("host:")).collect()
    };
    assert_eq!(hosts(&asked[0]), ["host: www.example.com"]);
}

#[test]
fn a_trace_says_who_is_missing() {
    let receipt = r#"{"id":"0a.1b.2c:7","done":2,"nodes":3,"applied_here":true,"age_ms":1500,
        "applied":[{"node":"nyc","site":"us","latency_ms":70.04,"not_wanted":false}],"missing":["lon"],"unsupported":[]}"#;
    let younger = r#"{"id":"0a.1b.2c:7","done":1,"nodes":1,"applied_here":false,"not_wanted_here":true,
        "age_ms":null,"applied":[],"missing":[],"unsupported":[]}"#;
    let (url, node) = node(vec![
        answer("200 Receipt", younger),
        answer("200 Receipt", receipt),
        answer("404 Not an id", ""),
    ]);
    let shown = out(&powderhorn(&["trace", "--url", &url, "0a.1b.2c:7"]));
    assert!(
        shown.contains("1 of 1 nodes") && !shown.contains("NOT YET"),
        "{shown}"
    );
    let shown = out(&powderhorn(&["trace", "--url", &url, "0a.1b.2c:7"]));
    assert!(
        shown.starts_with("0a.1b.2c:7: applied on 2 of 3 nodes, issued 1.5 s ago\n"),
        "{shown}"
    );
    assert!(
        shown
            .lines()
            .any(|line| line.split_whitespace().eq(["lon", "NOT", "YET"])),
        "{shown}"
    );
    assert!(shown.contains("after 70.0 ms"), "{shown}");
    let unknown = powderhorn(&["trace", "--url", &url, "nonsense"]);
    assert!(
        err(&unknown).contains("not the id of a purge"),
        "{}",
        err(&unknown)
    );
    node.join().unwrap();
    // It never gets to a command line or a path.
    for id in ["a b", "../x", ""] {
        assert_eq!(
            powderhorn(&["trace", "--url", "127.0.0.1:1", id])
                .status
                .code(),
            Some(1)
        );
    }
}

#[test]
fn without_varnishadm_it_says_what_else_there_is() {
    let output = Command::new(env!("CARGO_BIN_EXE_powderhorn"))
        .arg("status")
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = err(&output);
    assert!(
        said.contains("varnishadm is not on this host") && said.contains("--url"),
        "{said}"
    );
}

#[test]
fn completions_and_man_pages_are_of_this_command() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            out(&powderhorn(&["completions", shell])).contains("check-health"),
            "{shell}"
        );
    }
    let dir = dir();
    assert!(
        powderhorn(&["man", dir.path().to_str().unwrap()])
            .status
            .success()
    );
    let mut pages: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    pages.sort();
    assert_eq!(
        pages,
        [
            "powderhorn-check-health.1",
            "powderhorn-check.1",
            "powderhorn-completions.1",
            "powderhorn-keygen.1",
            "powderhorn-peers.1",
            "powderhorn-purge.1",
            "powderhorn-status.1",
            "powderhorn-trace.1",
            "powderhorn.1",
        ]
    );
}
