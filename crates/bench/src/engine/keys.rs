//! Purges by surrogate key: of one object, and of 100,000 while others insert and hit.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::sides::{Pair, compare, turns};
use super::{Bench, thousands};
use crate::load::{self, Client, LoadError, Shape};
use crate::report::{Better, Row};
use crate::servers::{
    KEYS_HEADER, ORIGIN_HEADER, Options, POWDERHORN_KEYS, Server, ServerError, Side,
};
use crate::stats::Samples;

/// Objects that a mass purge takes away.
const MASS: u64 = 100_000;
/// Mass purges per side, whatever `--runs` says: the worst of a thousand needs many.
const MASS_PURGES: usize = 20;
/// Purges of one key each in one measurement.
const SINGLE_PURGES: u64 = 10_000;
/// From the sending of a mass purge: how long the other clients' latencies count to it. varnishd frees
/// 100,000 objects within it.
const WINDOW: Duration = Duration::from_millis(500);
/// After a cache was filled, until the expiry thread has its objects.
const SETTLE: Duration = Duration::from_millis(500);
/// Between two requests of the client that inserts, and of the one that hits.
const PACE: Duration = Duration::from_micros(500);
/// Objects that are hit meanwhile.
const HOT: u64 = 1_000;
/// How long 100,000 banned objects may take to go.
const BAN_TIMEOUT: Duration = Duration::from_secs(100);

/// A lurker that is as quick as one can have it.
const QUICK_LURKER: [(&str, &str); 3] = [
    ("ban_lurker_age", "0.1"),
    ("ban_lurker_sleep", "0.001"),
    ("ban_lurker_batch", "1000"),
];

/// Adds the rows.
pub fn run(bench: &mut Bench<'_>) -> Result<(), Box<dyn Error>> {
    let options = Options {
        vcl: POWDERHORN_KEYS.into(),
        ..Options::default()
    };
    for &objects in &bench.arguments.objects {
        let ours = Server::start(Side::Powderhorn, &options)?;
        let theirs = Server::start(Side::Xkey, &Options::default())?;
        single(bench, objects, &ours, &theirs)?;
    }
    let objects = *bench.arguments.objects.iter().max().ok_or("no sizes")?;
    let ours = Server::start(Side::Powderhorn, &options)?;
    let theirs = Server::start(Side::Xkey, &Options::default())?;
    mass(bench, objects, &ours, &theirs)?;
    drop((ours, theirs));
    banned(bench, "a quick lurker", &QUICK_LURKER, bench.arguments.runs)?;
    // A minute each time, by the lurker's own rule: once tells as much as five times.
    banned(bench, "the default lurker", &[], 1)
}

/// One key on one object.
fn single(
    bench: &mut Bench<'_>,
    objects: u64,
    ours: &Server,
    theirs: &Server,
) -> Result<(), Box<dyn Error>> {
    let fill = |server: &Server, count| -> Result<(), ServerError> {
        server.fill(count, |n, url, keys| {
            *url = format!("/o/{n}");
            *keys = format!("key-{n}");
        })?;
        server.expect_objects(objects)
    };
    fill(ours, objects)?;
    fill(theirs, objects)?;
    let runs = bench.arguments.runs as u64;
    let purges = SINGLE_PURGES.min(objects / runs);
    for (name, connections) in [("1 connection", 1), ("8 connections", 8)] {
        let shape = Shape {
            connections,
            depth: 1,
        };
        let cached = thousands(objects);
        let pair = Pair {
            what: format!("purge of a key with 1 object, {cached} cached, {name}"),
            ours,
            theirs,
            against: "xkey",
        };
        compare(&mut bench.report, &pair, runs as usize, |run, server| {
            let before = server.counter("MAIN.n_object");
            let first = run as u64 * purges;
            let done = load::run(server.addr(), shape, purges, |n, out| {
                let key = format!("key-{}", first + n);
                load::request(out, "PURGEKEY", "/", &[("xkey", &key)]);
            })?;
            // Whoever purges nothing is quick.
            if let (Ok(before), true) = (before, run == 0) {
                wait_for_objects(server, before - purges * 9 / 10, Duration::from_secs(10));
            }
            Ok(done)
        })?;
        for server in [ours, theirs] {
            let left = server.counter("MAIN.n_object")?;
            if left > objects - purges * runs * 9 / 10 {
                return Err(
                    format!("{left} objects are left after {} purges", purges * runs).into(),
                );
            }
            fill(server, purges * runs)?;
        }
    }
    Ok(())
}

/// Waits until no more than `most` objects are left; when that was.
fn wait_for_objects(server: &Server, most: u64, timeout: Duration) -> Option<Instant> {
    let deadline = Instant::now() + timeout;
    loop {
        let looked = Instant::now();
        match server.counter("MAIN.n_object") {
            Ok(objects) if objects <= most => return Some(looked),
            _ if looked > deadline => return None,
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What one side did in all of its mass purges.
#[derive(Default)]
struct Mass {
    took_ms: Vec<f64>,
    quiet_ms: Vec<f64>,
    /// Of misses and hits: before the purges, and during them.
    idle: [Samples; 2],
    during: [Samples; 2],
}

/// One key on 100,000 objects.
fn mass(
    bench: &mut Bench<'_>,
    objects: u64,
    ours: &Server,
    theirs: &Server,
) -> Result<(), Box<dyn Error>> {
    let mut sides = [Mass::default(), Mass::default()];
    for server in [ours, theirs] {
        server.fill(objects - MASS.min(objects), |n, url, keys| {
            *url = format!("/other/{n}");
            *keys = format!("other-{}", n % 1_000);
        })?;
        server.fill(HOT, |n, url, _| *url = format!("/hot/{n}"))?;
    }
    let count = MASS.min(objects);
    for purge in 0..bench.arguments.runs + MASS_PURGES {
        // The first ones without other clients.
        let quiet = purge < bench.arguments.runs;
        for (side, server) in turns(purge, (0, ours), (1, theirs)) {
            server.fill(count, |n, url, keys| {
                *url = format!("/mass/{n}");
                *keys = "everything".into();
            })?;
            std::thread::sleep(SETTLE);
            let before = server.counter("MAIN.n_object")?;
            let side = &mut sides[side];
            if quiet {
                let took = purge_key(&mut Client::connect(server.addr(), 1)?, "everything")?;
                side.quiet_ms.push(took.as_secs_f64() * 1e3);
            } else {
                watched(server, purge, side)?;
            }
            // The others insert meanwhile, and workers hand in their counts late.
            let most = before.saturating_sub(count / 2);
            if wait_for_objects(server, most, Duration::from_secs(10)).is_none() {
                return Err("objects are left after a mass purge".into());
            }
        }
    }
    let [mut our, mut their] = sides;
    let cached = thousands(objects);
    let what = format!(
        "purge of a key with {} objects, {cached} cached",
        thousands(count)
    );
    let row = |metric: String, unit, ours, theirs| Row {
        metric,
        unit,
        better: Better::Less,
        ours,
        against: Some(("xkey", theirs)),
    };
    let report = &mut bench.report;
    report.row(&row(
        format!("{what}: the call"),
        "ms",
        our.quiet_ms,
        their.quiet_ms,
    ))?;
    report.row(&row(
        format!("{what}: the call, with other clients"),
        "ms",
        our.took_ms,
        their.took_ms,
    ))?;
    for (kind, name) in ["miss", "hit"].into_iter().enumerate() {
        for (q, quantile) in [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")] {
            let when = [
                ("before", &mut our.idle, &mut their.idle),
                ("during", &mut our.during, &mut their.during),
            ];
            for (when, ours, theirs) in when {
                report.row(&row(
                    format!("  a {name} {when} it, {cached} cached: {quantile}"),
                    "µs",
                    vec![ours[kind].quantile_us(q)],
                    vec![theirs[kind].quantile_us(q)],
                ))?;
            }
        }
    }
    report.say(&format!(
        "  misses and hits: one client each, a request every {PACE:?}, late ones counted from when they were due; \
         {} purges each side, {WINDOW:?} from each, {} and {} samples of ours",
        MASS_PURGES,
        our.during[0].len(),
        our.during[1].len()
    ))?;
    Ok(())
}

/// A mass purge while one client inserts and another hits.
fn watched(server: &Server, purge: usize, side: &mut Mass) -> Result<(), LoadError> {
    let addr = server.addr();
    let stop = AtomicBool::new(false);
    let (misses, hits, sent, took) = std::thread::scope(|scope| {
        let misses = scope.spawn(|| {
            load::paced(addr, PACE, &stop, |n, out| {
                let url = format!("/miss/{purge}/{n}");
                let headers = [(KEYS_HEADER, "miss other-1 other-2"), (ORIGIN_HEADER, "1")];
                load::request(out, "GET", &url, &headers);
            })
        });
        let hits = scope.spawn(|| {
            load::paced(addr, PACE, &stop, |n, out| {
                load::request(out, "GET", &format!("/hot/{}", n % HOT), &[]);
            })
        });
        let purged = Client::connect(addr, 1).and_then(|mut client| {
            // Once idle, once during the purge.
            std::thread::sleep(WINDOW + PACE * 100);
            let sent = Instant::now();
            let took = purge_key(&mut client, "everything")?;
            std::thread::sleep(WINDOW.saturating_sub(sent.elapsed()));
            Ok((sent, took))
        });
        stop.store(true, Ordering::Relaxed);
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<_, LoadError>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let (misses, hits) = (join(misses)?, join(hits)?);
        let (sent, took) = purged?;
        Ok((misses, hits, sent, took))
    })?;
    side.took_ms.push(took.as_secs_f64() * 1e3);
    for (kind, samples) in [misses, hits].into_iter().enumerate() {
        for (due, latency) in samples {
            // One that began before the purge and was held up by it belongs to it.
            if due + latency < sent {
                if sent - due <= WINDOW {
                    side.idle[kind].push(latency);
                }
            } else if due < sent + WINDOW {
                side.during[kind].push(latency);
            }
        }
    }
    Ok(())
}

fn purge_key(client: &mut Client, key: &str) -> Result<Duration, LoadError> {
    client.one(|out| load::request(out, "PURGEKEY", "/", &[("xkey", key)]))
}

/// 100,000 objects banned by a header, until they are gone from memory.
fn banned(
    bench: &mut Bench<'_>,
    lurker: &str,
    params: &[(&'static str, &'static str)],
    runs: usize,
) -> Result<(), Box<dyn Error>> {
    let options = |vcl: &str| Options {
        params: params.to_vec(),
        vcl: vcl.into(),
        ..Options::default()
    };
    let ours = Server::start(Side::Powderhorn, &options(POWDERHORN_BANS))?;
    let theirs = Server::start(Side::Stock, &options(""))?;
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        let mut sent = Vec::new();
        // Both wait at the same time: waiting is nearly all that the lurker does.
        for server in [&ours, &theirs] {
            server.fill(MASS, |n, url, keys| {
                *url = format!("/mass/{n}");
                *keys = "everything".into();
            })?;
            std::thread::sleep(SETTLE);
            let before = server.counter("MAIN.n_object")?;
            let now = Instant::now();
            Client::connect(server.addr(), 1)?.one(|out| {
                load::request(out, "BANKEY", "/", &[("xkey", "^everything$")]);
            })?;
            sent.push((now, before.saturating_sub(MASS * 99 / 100)));
            if params.len() > 1 {
                // A quick one is watched alone.
                let (now, most) = sent[sent.len() - 1];
                let gone = wait_for_objects(server, most, BAN_TIMEOUT).ok_or("bans do nothing")?;
                figures[sent.len() - 1].push((gone - now).as_secs_f64());
            }
        }
        if params.is_empty() {
            for (side, server) in [&ours, &theirs].into_iter().enumerate() {
                let (now, most) = sent[side];
                let gone = wait_for_objects(server, most, BAN_TIMEOUT).ok_or("bans do nothing")?;
                figures[side].push((gone - now).as_secs_f64());
            }
        }
    }
    let [ours, theirs] = figures;
    bench.report.row(&Row {
        metric: format!(
            "ban by a header of {} objects, {lurker}: until gone",
            thousands(MASS)
        ),
        unit: "s",
        better: Better::Less,
        ours,
        against: Some(("std.ban()", theirs)),
    })?;
    Ok(())
}

const POWDERHORN_BANS: &str = r#"
sub vcl_recv {
    if (req.method == "BANKEY") {
        set req.http.x-id = powderhorn.ban_header("xkey", req.http.xkey);
        return (synth(200, "Banned"));
    }
}
"#;
