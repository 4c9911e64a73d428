//! Everything that makes objects come and go at once: eviction from a store that is too small, expiry,
//! hit-for-miss and hit-for-pass, passes, fetches that fail or are abandoned, revalidation, retries, and
//! purges of every kind. In the end nothing may be left in the index, and nobody may have crashed.
//!
//! `POWDERHORN_CHURN_S=60` does it for longer. To run it with valgrind put a program `varnishd` that runs
//! `valgrind --trace-children=yes --soname-synonyms=somalloc=*jemalloc* /usr/sbin/varnishd "$@"` into
//! PATH before the real one.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use powderhorn_fleet::cleanup::WorkDir;
use powderhorn_fleet::fleet::{find_vcl_dir, find_vmod};
use powderhorn_fleet::http::{Client, Request};
use powderhorn_fleet::origin::Origin;
use powderhorn_fleet::varnish::{Settings, Varnishd};

const THREADS: u64 = 4;
/// URLs of each kind: twice what the store has room for, of those that are kept.
const URLS: u64 = 2_000;
const READY_TIMEOUT: Duration = Duration::from_secs(150);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Grace and keep are over by then.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(30);

const VCL: &str = r#"
vcl 4.1;
import std;
import powderhorn;
include "powderhorn.vcl";

backend default { .host = "@HOST@"; .port = "@PORT@"; }
backend down none;

sub vcl_init {
    powderhorn.start();
}

sub vcl_recv {
    if (req.url == "/status") {
        return (synth(200, "Status"));
    }
    if (req.method == "KEY") {
        return (synth(200, powderhorn.purge_key(req.http.key, std.integer(req.http.soft, 0) == 1)));
    }
    if (req.method == "BAN") {
        return (synth(200, powderhorn.ban_url(req.http.regex)));
    }
    if (req.method == "FLUSH") {
        return (synth(200, powderhorn.flush(req.http.Host)));
    }
    if (req.method == "SOFT") {
        return (synth(200, powderhorn.purge(req.url, soft = true)));
    }
    if (req.method == "ALL") {
        return (synth(200, powderhorn.purge_all(soft = true)));
    }
    if (req.url ~ "^/pass") {
        return (pass);
    }
}

sub vcl_backend_fetch {
    if (bereq.url ~ "^/down") {
        set bereq.backend = down;
    }
}

sub vcl_backend_response {
    set beresp.http.Surrogate-Key = "all " + regsub(bereq.url, "^.*(..)$", "tail-\1") + " " +
        regsub(bereq.url, "^/([a-z]*).*$", "kind-\1");
    set beresp.http.Filler = "@FILLER@";
    set beresp.ttl = 20s;
    set beresp.grace = 1s;
    set beresp.keep = 1s;
    if (bereq.url ~ "^/short") {
        set beresp.ttl = 0.2s;
    }
    if (bereq.url ~ "^/miss") {
        set beresp.uncacheable = true;
        set beresp.ttl = 1s;
    }
    if (bereq.url ~ "^/hitpass") {
        return (pass(1s));
    }
    if (bereq.url ~ "^/whole") {
        set beresp.do_stream = false;
    }
    if (bereq.url ~ "^/vary") {
        set beresp.http.Vary = "Accept-Language";
    }
    if (bereq.url ~ "^/abandoned") {
        return (abandon);
    }
    if (bereq.url ~ "^/error") {
        return (error(503));
    }
}

sub vcl_backend_error {
    set beresp.ttl = 0.5s;
    set beresp.http.Surrogate-Key = "all errors";
    return (deliver);
}

sub vcl_synth {
    if (req.url == "/status") {
        set resp.http.Content-Type = "application/json";
        set resp.body = powderhorn.status("json");
        return (deliver);
    }
}
"#;

#[test]
fn nothing_is_left_in_the_index_when_objects_have_come_and_gone_in_every_way() {
    let seconds = std::env::var("POWDERHORN_CHURN_S").map_or(Ok(6), |s| s.parse());
    let seconds: u64 = seconds.expect("POWDERHORN_CHURN_S is a number of seconds");
    let dir = WorkDir::new("powderhorn-churn").expect("a directory for temporary files");
    let origin = Origin::start().expect("an origin");
    let vmod = find_vmod().expect("no libvmod_powderhorn.so: `cargo build`, or POWDERHORN_VMOD");
    let settings = Settings {
        name: "churn".to_owned(),
        vcl: VCL
            .replace("@FILLER@", &"x".repeat(1_000))
            .replace("@HOST@", &origin.addr().ip().to_string())
            .replace("@PORT@", &origin.addr().port().to_string()),
        vmod_dir: vmod.parent().map(Into::into),
        vcl_dir: Some(find_vcl_dir()),
        // varnishd's least.
        storage: "1m".to_owned(),
        params: Vec::new(),
        extensions: Vec::new(),
    };
    let mut varnishd = Varnishd::spawn(dir.path(), settings).expect("varnishd starts");
    varnishd.wait_ready(READY_TIMEOUT).expect("it answers");
    let addr = varnishd.addr();
    let over = AtomicBool::new(false);
    let requests = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (over, requests, origin) = (&over, &requests, &origin);
        let threads: Vec<_> = (0..THREADS)
            .map(|n| scope.spawn(move || churn(addr, n, over, requests, origin)))
            .collect();
        std::thread::sleep(Duration::from_secs(seconds));
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("no thread panics");
        }
    });
    println!("{} requests", requests.load(Ordering::Relaxed));
    let mut client = Client::new(addr, "churn.test", REQUEST_TIMEOUT);
    let before = status(&mut client);
    println!("{before}");
    for name in [
        "objects_killed",
        "objects_softened",
        "fence_hard",
        "purges_ban",
        "purges_flush",
    ] {
        assert!(field(&before, name) > 0, "no {name}: {before}");
    }
    assert!(
        stat(&varnishd, "MAIN.n_lru_nuked") > 0,
        "the store was small enough"
    );
    // Of whatever is left, all but the errors carry this key.
    let key = Request {
        method: "KEY",
        url: "/".to_owned(),
        headers: vec![("key", "all".to_owned())],
    };
    client.send(&key).expect("it answers");
    let asked = Instant::now();
    loop {
        let now = status(&mut client);
        if ["objects", "keys", "key_pairs"]
            .iter()
            .all(|name| field(&now, name) == 0)
        {
            break;
        }
        assert!(asked.elapsed() < EMPTY_TIMEOUT, "left in the index: {now}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let after = status(&mut client);
    for name in ["index_full", "index_stale", "bans_invalid"] {
        assert_eq!(field(&after, name), 0, "{name}: {after}");
    }
    assert_eq!(number(&after, "\"vmod_panics\":"), 0, "{after}");
    assert_eq!(
        stat(&varnishd, "MGT.child_died") + stat(&varnishd, "MGT.child_panic"),
        0
    );
    assert!(
        varnishd.stop(),
        "it did not end in order:\n{}",
        varnishd.log_tail()
    );
    let log = varnishd.log_tail();
    assert!(!log.contains("Panic") && !log.contains("died"), "{log}");
}

/// Asks for all kinds of objects, and purges in all kinds of ways.
fn churn(addr: SocketAddr, n: u64, over: &AtomicBool, requests: &AtomicU64, origin: &Origin) {
    let mut client = Client::new(addr, "churn.test", REQUEST_TIMEOUT);
    // Not random enough for anything else; the same in each run.
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    while !over.load(Ordering::Relaxed) {
        let number = random(URLS);
        let kinds = [
            "plain",
            "plain",
            "short",
            "miss",
            "hitpass",
            "whole",
            "vary",
            "abandoned",
            "error",
            "down",
            "pass",
            "slow/3",
        ];
        let kind = kinds
            .get(random(kinds.len() as u64) as usize)
            .unwrap_or(&"plain");
        let url = format!("/{kind}/{number:04}");
        let request = |method, url: &str, name, value: String| Request {
            method,
            url: url.to_owned(),
            headers: vec![(name, value)],
        };
        let tail = || format!("tail-{:02} nothing", number % 100);
        let request = match random(64) {
            0 => request("PURGE", &url, "x", String::new()),
            1 => request("KEY", "/", "key", tail()),
            2 => request("KEY", "/", "key", tail()).with("soft", "1"),
            3 => request("SOFT", &url, "x", String::new()),
            4 if number < 200 => {
                request("BAN", "/", "regex", format!("^/plain/.*{}$", number % 10))
            }
            5 if number < 50 => request("FLUSH", "/", "x", String::new()),
            6 if number < 20 => request("ALL", "/", "x", String::new()),
            7 if number < 100 => {
                origin.bump_all();
                continue;
            }
            // Goes away before the answer.
            8 => {
                if let Ok(mut stream) = TcpStream::connect(addr) {
                    let slow =
                        format!("GET /slow/20/{number} HTTP/1.1\r\nHost: churn.test\r\n\r\n");
                    _ = std::io::Write::write_all(&mut stream, slow.as_bytes());
                }
                continue;
            }
            _ => {
                let language = if random(2) == 0 { "de" } else { "en" };
                request("GET", &url, "Accept-Language", language.to_owned())
            }
        };
        // Some answers end their connection, as those of abandoned fetches.
        if client.send(&request).is_ok() {
            requests.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the VMOD says of itself.
fn status(client: &mut Client) -> String {
    let response = client.get("/status").expect("it answers");
    assert_eq!(response.status, 200, "{}", response.text());
    response.text()
}

/// A number of the part about the cache.
fn field(status: &str, name: &str) -> u64 {
    let cache = status
        .split_once("\"cache\":")
        .expect("a part about the cache")
        .1;
    number(cache, &format!("\"{name}\":"))
}

fn number(text: &str, after: &str) -> u64 {
    let rest = text
        .split_once(after)
        .unwrap_or_else(|| panic!("{after} in {text}"))
        .1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

fn stat(varnishd: &Varnishd, name: &str) -> u64 {
    let output = std::process::Command::new("varnishstat")
        .args(["-1", "-f", name, "-n"])
        .arg(varnishd.workdir())
        .output()
        .expect("varnishstat runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = text
        .split_whitespace()
        .nth(1)
        .unwrap_or_else(|| panic!("{name}: {text}"));
    value.parse().expect("a number")
}
