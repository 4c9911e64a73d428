//! 10,000 purges a second do not stop for what an operator does: reloads and discards of VCLs,
//! `stop` and `start` of the cache child, SIGTERM. No hang, no panic, on the node that issues them
//! and on the node that hears of them.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use powderhorn_fleet::cleanup::WorkDir;
use powderhorn_fleet::fleet::{find_vcl_dir, find_vmod};
use powderhorn_fleet::http::{Client, Request};
use powderhorn_fleet::varnish::{Settings, Varnishd, free_udp_port};

const PURGES_PER_S: u64 = 10_000;
const PURGES_PER_REQUEST: u64 = 20;
const REQUESTS_PER_PIPELINE: u64 = 10;
const STORM_THREADS: u64 = 2;
const RELOADS: usize = 4;
/// A VCL is compiled by a C compiler, beside the storm.
const CLI_TIMEOUT_S: u32 = 60;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// From SIGTERM to the end of manager and child, with purges coming in all the while.
const END_TIMEOUT: Duration = Duration::from_secs(8);

#[test]
fn purges_go_on_through_reload_discard_stop_start_and_sigterm() {
    let dir = WorkDir::new("powderhorn-storm").expect("a directory for temporary files");
    let (port_a, port_b) = (free_port(), free_port());
    let mut a = node(dir.path(), "a", port_a, port_b);
    let mut b = node(dir.path(), "b", port_b, port_a);
    a.wait_ready(READY_TIMEOUT).expect("a starts");
    b.wait_ready(READY_TIMEOUT).expect("b starts");

    let addr = a.addr();
    let over = AtomicBool::new(false);
    let purges = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // Ends the storm also when an assertion below fails; the scope waits for it.
        let _over = SetOnDrop(&over);
        for _ in 0..STORM_THREADS {
            scope.spawn(|| storm(addr, &over, &purges));
        }

        let started = Instant::now();
        wait_for_purges(&purges, PURGES_PER_S);
        reload(&a, dir.path(), "a");
        reload(&b, dir.path(), "b");
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{:.0} purges/s",
            purges.load(Ordering::Relaxed) as f64 / seconds
        );

        // The node that hears them, then the node that issues them.
        restart_child(&mut b);
        wait_for_purges(&purges, purges.load(Ordering::Relaxed) + PURGES_PER_S);
        restart_child(&mut b);
        restart_child(&mut a);
        wait_for_purges(&purges, purges.load(Ordering::Relaxed) + PURGES_PER_S);
        for node in [&a, &b] {
            assert!(adm(node, &["panic.show"]).is_err(), "{}", node.log_tail());
            let status = adm(node, &["status"]).expect("status");
            assert!(status.contains("running"), "{status}");
        }

        let asked = Instant::now();
        a.begin_stop();
        b.begin_stop();
        for node in [&mut a, &mut b] {
            assert!(node.stop(), "it did not end in order:\n{}", node.log_tail());
            let log = node.log_tail();
            assert!(!log.contains("Panic") && !log.contains("died"), "{log}");
        }
        println!("SIGTERM to the end of both: {:?}", asked.elapsed());
        assert!(asked.elapsed() < END_TIMEOUT, "{:?}", asked.elapsed());
    });
}

fn free_port() -> u16 {
    free_udp_port().expect("a free UDP port")
}

fn node(dir: &Path, name: &str, port: u16, peer: u16) -> Varnishd {
    let dir = dir.join(name);
    std::fs::create_dir(&dir).expect("a directory for the node");
    let key = dir.join("fleet.key");
    std::fs::write(&key, format!("{:064x}\n", 0x1234)).expect("the key file");
    let config = dir.join("powderhorn.toml");
    let text = format!(
        "[node]\nname = \"{name}\"\nlisten = \"127.0.0.1:{port}\"\n\
         [fleet]\nname = \"storm\"\nkey_file = \"{}\"\n\
         [journal]\ndir = \"{}\"\n\
         [[peer]]\naddress = \"127.0.0.1:{peer}\"\n",
        key.display(),
        dir.join("state").display()
    );
    std::fs::write(&config, text).expect("the config");
    let vmod = find_vmod().expect("no libvmod_powderhorn.so: `cargo build`, or POWDERHORN_VMOD");
    let settings = Settings {
        name: name.to_owned(),
        vcl: vcl(&config),
        vmod_dir: vmod.parent().map(Path::to_owned),
        vcl_dir: Some(find_vcl_dir()),
        storage: "32m".to_owned(),
        params: Vec::new(),
        extensions: Vec::new(),
    };
    // For the reloads.
    std::fs::write(dir.join("again.vcl"), &settings.vcl).expect("again.vcl");
    Varnishd::spawn(&dir, settings).expect("varnishd starts")
}

/// Each request is many purges: HTTP would be the limit otherwise.
fn vcl(config: &Path) -> String {
    let mut vcl = format!(
        "vcl 4.1;\nimport powderhorn;\nbackend default none;\n\
         sub vcl_init {{ powderhorn.start(\"{}\"); }}\n\
         sub vcl_recv {{\n\tif (req.method != \"PURGE\") {{ return (synth(200)); }}\n",
        config.display()
    );
    for i in 0..PURGES_PER_REQUEST {
        _ = writeln!(
            vcl,
            "\tset req.http.Id = powderhorn.purge(req.url + \"{i}\");"
        );
    }
    vcl + "\treturn (synth(200));\n}\n"
}

/// Sends its share of the purges until it is over. While the child is down nothing answers.
fn storm(addr: std::net::SocketAddr, over: &AtomicBool, purges: &AtomicU64) {
    let batch = REQUESTS_PER_PIPELINE * PURGES_PER_REQUEST;
    let pause = Duration::from_secs(1) * (batch * STORM_THREADS) as u32 / PURGES_PER_S as u32;
    let mut client = Client::new(addr, "storm.test", REQUEST_TIMEOUT);
    let mut next = Instant::now();
    for round in 0u64.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let requests: Vec<Request> = (0..REQUESTS_PER_PIPELINE)
            .map(|i| Request::purge(format!("/{}/", round * REQUESTS_PER_PIPELINE + i)))
            .collect();
        match client.pipeline(&requests) {
            Ok(answers) => {
                let applied = answers.iter().filter(|answer| answer.status == 200).count();
                purges.fetch_add(applied as u64 * PURGES_PER_REQUEST, Ordering::Relaxed);
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        next = Instant::now().max(next + pause);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn wait_for_purges(purges: &AtomicU64, count: u64) {
    let started = Instant::now();
    while purges.load(Ordering::Relaxed) < count {
        assert!(
            started.elapsed() < READY_TIMEOUT,
            "the purges do not come through"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Loads the VCL anew again and again, and discards the one before, the first included.
fn reload(node: &Varnishd, dir: &Path, name: &str) {
    let file = dir.join(name).join("again.vcl");
    let file = file.to_str().expect("a path in UTF-8");
    let mut previous = "boot".to_owned();
    for i in 0..RELOADS {
        let next = format!("again{i}");
        adm(node, &["vcl.load", &next, file]).expect("vcl.load");
        adm(node, &["vcl.use", &next]).expect("vcl.use");
        adm(node, &["vcl.discard", &previous]).expect("vcl.discard");
        previous = next;
    }
}

fn adm(node: &Varnishd, command: &[&str]) -> Result<String, String> {
    let output = Command::new("varnishadm")
        .arg("-n")
        .arg(node.workdir())
        .args(["-t", &CLI_TIMEOUT_S.to_string()])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .expect("varnishadm can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        let error = String::from_utf8_lossy(&output.stderr);
        Err(format!("{command:?}: {text}{error}\n{}", node.log_tail()))
    }
}

fn restart_child(node: &mut Varnishd) {
    adm(node, &["stop"]).expect("stop");
    adm(node, &["start"]).expect("start");
    node.wait_ready(READY_TIMEOUT)
        .expect("the child starts again");
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
