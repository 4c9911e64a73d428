//! Purges through two varnishds: one gets them by HTTP, the other by gossip. A purge takes what it took
//! ten million purges ago, and neither grows.
//!
//! Half of the purges are of objects that are there: each block begins with as many misses as it has
//! such purges, in both caches. A sample is a PURGE, from its first byte to its answer, of one connection
//! that sends one after the other while seven more keep the varnishds busy with the rest.

use std::error::Error;
use std::time::{Duration, Instant};

use super::{BLOCKS, Tenth, judge};
use crate::Arguments;
use crate::engine::fleet::Nodes;
use crate::load::{self, Client, Run};
use crate::report::Report;
use crate::stats::Samples;

const PURGES_DEFAULT: u64 = 10_000_000;
/// How long purges go on before the first tenth: until varnishd frees as many objheads as it makes, a
/// minute after it made them (see `fleet.rs`) and once more for those who look for them now and then.
const WARM_UP: Duration = Duration::from_secs(130);
/// What is timed.
const KINDS: [&str; 2] = [
    "a PURGE, one after the other",
    "until all of a block is applied in both, per purge",
];
/// What a node counts for a message that it holds.
const MESSAGE_BYTES: u64 = 128;
/// Least bytes of messages that a node can be told to hold, and the most that are held here.
const RETENTION_MIN: u64 = 1 << 20;
const RETENTION_MAX: u64 = 16 << 20;
const CONNECTIONS: usize = 8;
/// Purges under way on each connection of those that keep the varnishds busy.
const DEPTH: usize = 4;

/// Runs it; false if it found a drift and was asked to fail on that.
pub fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let purges = arguments.purges.unwrap_or(PURGES_DEFAULT);
    let about = "\
        Two varnishds: one gets all purges by HTTP, the other by gossip; half of them are of objects that are cached in both.\n\
        Quantiles: the median of those of a hundred blocks of each tenth.";
    let mut report = Report::new("soak-varnish", &arguments.out, about)?;
    // As many messages are held as come in a fraction of a tenth, so that memory must stay what it is.
    let held = (purges / 10 / 4 * MESSAGE_BYTES).clamp(RETENTION_MIN, RETENTION_MAX);
    let nodes = Nodes::start(2, &format!("retention_bytes = \"{held}B\""))?;
    let addr = nodes.servers[0].addr();
    let mut one = Client::connect(addr, 1)?;
    let mut many = Client::connect(addr, CONNECTIONS - 1)?;
    let per_block = (purges / (10 * BLOCKS)).max(100);
    let mut tenths = Vec::new();
    let mut samples: [Samples; KINDS.len()] = Default::default();
    let mut block = || -> Result<(Samples, Duration), Box<dyn Error>> {
        for server in &nodes.servers {
            server.fill(per_block / 2, |n, url, _| *url = format!("/o/{n}"))?;
        }
        let before = nodes.applied()?;
        let begin = Instant::now();
        let lone = per_block / 10;
        let (alone, others) = std::thread::scope(|scope| {
            let alone = scope.spawn(|| purge(&mut one, 1, 0, lone));
            let others = purge(&mut many, DEPTH, lone, per_block - lone);
            let alone = alone
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (alone, others)
        });
        others?;
        let took = nodes.wait_applied(&before, per_block)? - begin;
        Ok((alone?.latencies, took))
    };
    let begin = Instant::now();
    while begin.elapsed() < WARM_UP {
        block()?;
    }
    for _ in 0..10 {
        let mut tenth = Tenth::new(KINDS.len());
        let mut purging = Duration::ZERO;
        tenth.resident = vec![None; nodes.servers.len()];
        for _ in 0..BLOCKS {
            let (alone, took) = block()?;
            samples[0].extend(alone);
            samples[1].push(took / per_block as u32);
            purging += took;
            tenth.block(&mut samples);
            // The most of a tenth: varnishd frees objheads once in a while, so memory goes up and down.
            for (most, server) in tenth.resident.iter_mut().zip(&nodes.servers) {
                *most = (*most).max(server.resident()?);
            }
        }
        tenth.rate = (per_block * BLOCKS) as f64 / purging.as_secs_f64();
        tenths.push(tenth);
    }
    let processes = ["the first varnishd", "the second varnishd"];
    let fine = judge(&mut report, &KINDS, &processes, &tenths)?;
    Ok(fine || !arguments.assert)
}

/// Sends PURGEs of every other object of a block.
fn purge(
    client: &mut Client,
    depth: usize,
    first: u64,
    count: u64,
) -> Result<Run, load::LoadError> {
    client.run(depth, count, |n, out| {
        let n = first + n;
        let path = if n % 2 == 0 { "o" } else { "absent" };
        load::request(out, "PURGE", &format!("/{path}/{}", n / 2), &[]);
    })
}
