//! Measures real varnishds on loopback, one number a line.
//!
//! ```text
//! powderhorn-measure latency      a purge on the node that gets it and on the farthest of five
//! powderhorn-measure recovery     a purge whose only datagram to a node was lost
//! powderhorn-measure throughput   requests/s with and without the VMOD
//! ```
//!
//! Finds the VMOD and its VCL as powderhorn-demo does. Build it with `--release`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use powderhorn_fleet::fleet::{self, Fleet, Plan};
use powderhorn_fleet::http::{Client, Request};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A purge that takes longer ends the measurement.
const PURGE_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("latency") => latency(),
        Some("recovery") => recovery(),
        Some("throughput") => throughput(),
        _ => Err("usage: powderhorn-measure latency|recovery|throughput".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("powderhorn-measure: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(nodes: usize, relay_seed: Option<u64>, with_vmod: bool) -> Result<Fleet, Box<dyn Error>> {
    let vmod = fleet::find_vmod();
    if with_vmod && vmod.is_none() {
        return Err("no libvmod_powderhorn.so next to this program or in POWDERHORN_VMOD".into());
    }
    let vmod = vmod.filter(|_| with_vmod);
    Ok(Fleet::start(&Plan {
        nodes,
        relay_seed,
        vmod,
        vcl_dir: fleet::find_vcl_dir(),
    })?)
}

/// From sending a PURGE until each of five nodes no longer has the object. One thread asks one
/// node after the other, so a figure is late by at most one round of questions.
fn latency() -> Result<(), Box<dyn Error>> {
    const NODES: usize = 5;
    const PURGES: usize = 1_000;
    let fleet = start(NODES, None, true)?;
    fleet.wait_connected(CONNECT_TIMEOUT)?;
    let mut clients: Vec<_> = (0..NODES).map(|node| fleet.client(node)).collect();
    let (mut answered, mut ingress, mut farthest) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..PURGES {
        let url = format!("/latency/{n}");
        for client in &mut clients {
            client.get(&url)?;
        }
        let at = n % NODES;
        let begin = Instant::now();
        clients[at].send(&Request::purge(&url))?;
        answered.push(begin.elapsed());
        let mut left: Vec<_> = (0..NODES).collect();
        while !left.is_empty() && begin.elapsed() < PURGE_TIMEOUT {
            let mut still = Vec::new();
            for node in left {
                if fleet::is_cached(&mut clients[node], &url)? {
                    still.push(node);
                } else if node == at {
                    ingress.push(begin.elapsed());
                }
            }
            left = still;
        }
        if !left.is_empty() {
            return Err(format!("{url} is still on nodes {left:?}").into());
        }
        farthest.push(begin.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    report("PURGE answered by the node that got it", answered);
    report("gone there, seen by a GET after that answer", ingress);
    report("gone on the farthest of 5, seen by a GET", farthest);
    Ok(())
}

/// From the heal of a one-way cut that swallowed one purge, the last one sent, until the node that
/// missed it has applied it.
fn recovery() -> Result<(), Box<dyn Error>> {
    const LOSSES: usize = 200;
    let fleet = start(3, Some(1), true)?;
    let relay = fleet.relay.as_ref().ok_or("no relay")?;
    fleet.wait_connected(CONNECT_TIMEOUT)?;
    let (mut ingress, mut victim) = (fleet.client(0), fleet.client(2));
    let mut took = Vec::new();
    for n in 0..LOSSES {
        let url = format!("/recovery/{n}");
        victim.get(&url)?;
        // Lost on its way from the node that got it; the other one has it.
        relay.cut(0, 2);
        let begin = Instant::now();
        ingress.send(&Request::purge(&url))?;
        std::thread::sleep(Duration::from_millis(1));
        relay.heal(0, 2);
        while fleet::is_cached(&mut victim, &url)? {
            if begin.elapsed() > PURGE_TIMEOUT {
                return Err(format!("{url} was never recovered").into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        took.push(begin.elapsed());
        // Not in step with the rounds.
        std::thread::sleep(Duration::from_micros(1_000 + (n as u64 * 7_919) % 50_000));
    }
    report("a lone lost purge, recovered", took);
    Ok(())
}

/// Hits per second over four connections with 50 requests under way on each, in turns with and
/// without the VMOD.
fn throughput() -> Result<(), Box<dyn Error>> {
    const ROUNDS: usize = 3;
    const CONNECTIONS: usize = 4;
    const ROUND: Duration = Duration::from_secs(4);
    for round in 1..=ROUNDS {
        for with_vmod in [false, true] {
            let fleet = start(1, None, with_vmod)?;
            fleet.client(0).get("/hot")?;
            let begin = Instant::now();
            let done = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..CONNECTIONS)
                    .map(|_| {
                        let client = fleet.client(0);
                        scope.spawn(move || hits(client, begin, ROUND))
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|t| t.join().unwrap_or(0))
                    .sum::<usize>()
            });
            let rate = done as f64 / begin.elapsed().as_secs_f64();
            let with = if with_vmod { "with" } else { "without" };
            println!("round {round}: {rate:.0} hits/s {with} the VMOD");
        }
    }
    Ok(())
}

fn hits(mut client: Client, begin: Instant, round: Duration) -> usize {
    let batch = vec![Request::get("/hot"); 50];
    let mut done = 0;
    while begin.elapsed() < round {
        match client.pipeline(&batch) {
            Ok(responses) => done += responses.iter().filter(|r| fleet::is_hit(r)).count(),
            Err(_) => return 0,
        }
    }
    done
}

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: f64| {
        let index = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
        took.get(index).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    };
    println!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms (n = {})",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        took.len()
    );
}
