//! Whatever ends the demo, no varnishd survives it.
//!
//! The demo runs without the VMOD here: all that matters is that it has varnishds when the signal
//! arrives.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A demo whose varnishds are up, their managers, and where their files are.
struct Demo {
    process: Child,
    managers: Vec<Pid>,
    dir: PathBuf,
}

fn start() -> Demo {
    let mut process = Command::new(env!("CARGO_BIN_EXE_powderhorn-demo"))
        .arg("none")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the demo starts");
    let dir = std::env::temp_dir().join(format!("powderhorn-fleet.{}.0", process.id()));
    let mut managers = Vec::new();
    let stdout = process.stdout.take().expect("it is piped");
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("the demo prints text");
        if let Some((_, pid)) = line.split_once("varnishd ") {
            managers.extend(pid.parse().ok().and_then(Pid::from_raw));
        }
        if line.contains("up and gossiping") {
            break;
        }
    }
    assert_eq!(managers.len(), 3, "the demo names its varnishds");
    assert!(
        managers.iter().all(|pid| test_kill_process(*pid).is_ok()),
        "they run"
    );
    assert!(dir.exists());
    Demo {
        process,
        managers,
        dir,
    }
}

fn wait_until_gone(managers: &[Pid]) {
    let start = Instant::now();
    while managers.iter().any(|pid| test_kill_process(*pid).is_ok()) {
        assert!(
            start.elapsed() < TIMEOUT,
            "a varnishd is left: {managers:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_interrupt_ends_the_varnishds_and_removes_their_files() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut demo = start();
        kill_process(Pid::from_child(&demo.process), signal).expect("it runs");
        let status = demo.process.wait().expect("it is ours");
        assert_eq!(status.code(), Some(128 + signal.as_raw()));
        wait_until_gone(&demo.managers);
        assert!(!demo.dir.exists(), "{} is left", demo.dir.display());
    }
}

#[test]
fn a_kill_ends_the_varnishds_too() {
    let mut demo = start();
    demo.process.kill().expect("it runs");
    demo.process.wait().expect("it is ours");
    wait_until_gone(&demo.managers);
    // Nobody was left to remove these.
    std::fs::remove_dir_all(&demo.dir).expect("they are there");
}
