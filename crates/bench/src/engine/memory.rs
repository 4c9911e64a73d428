//! Memory of the index per (object, key): how much more a varnishd grows with the module than without
//! while the same objects go in.

use std::error::Error;

use super::{Bench, thousands};
use crate::report::{Better, Row};
use crate::servers::{Options, Server, ServerError, Side};

/// Different keys in the mix of many keys on many objects.
const KEYS_DRAWN: u64 = 100_000;

/// What the objects carry.
struct Mix {
    name: String,
    objects: u64,
    keys_each: u64,
    key: fn(object: u64, nth: u64) -> String,
}

/// Adds the rows.
pub fn run(bench: &mut Bench<'_>) -> Result<(), Box<dyn Error>> {
    let (sizes, runs) = (&bench.arguments.objects, bench.arguments.runs);
    let (&small, &big) = (
        sizes.iter().min().ok_or("no sizes")?,
        sizes.iter().max().ok_or("no sizes")?,
    );
    let mixes = [
        Mix {
            name: format!("one key on {} objects", thousands(small)),
            objects: small,
            keys_each: 1,
            key: |_, _| "everything".into(),
        },
        Mix {
            name: format!(
                "10 keys of {} on each of {} objects",
                thousands(KEYS_DRAWN),
                thousands(big)
            ),
            objects: big,
            keys_each: 10,
            key: |object, nth| {
                // splitmix64's finaliser: as good as drawn, and the same for all sides.
                let mut x = (object * 10 + nth).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                format!("k{}", (x ^ (x >> 31)) % KEYS_DRAWN)
            },
        },
        Mix {
            name: format!("a key of its own on each of {} objects", thousands(big)),
            objects: big,
            keys_each: 1,
            key: |object, _| format!("own-{object}"),
        },
    ];
    for mix in mixes {
        let pairs = (mix.objects * mix.keys_each) as f64;
        let mut figures = [Vec::new(), Vec::new()];
        for _ in 0..runs {
            let (Some(base), Some(ours), Some(theirs)) = (
                growth(Side::Stock, &mix)?,
                growth(Side::Powderhorn, &mix)?,
                growth(Side::Xkey, &mix)?,
            ) else {
                let note = "! memory: left out: without /proc nobody says how much a process has";
                bench.report.say(note)?;
                return Ok(());
            };
            figures[0].push((ours - base) / pairs);
            figures[1].push((theirs - base) / pairs);
        }
        let [ours, theirs] = figures;
        bench.report.row(&Row {
            metric: format!("index per (object, key): {}", mix.name),
            unit: "B",
            better: Better::Less,
            ours,
            against: Some(("xkey", theirs)),
        })?;
    }
    Ok(())
}

/// By how many bytes a varnishd grows while the objects go in.
fn growth(side: Side, mix: &Mix) -> Result<Option<f64>, ServerError> {
    let server = Server::start(side, &Options::default())?;
    // Threads, and all else that does not grow with what is cached.
    server.fill(1_000, |n, url, _| *url = format!("/warm/{n}"))?;
    let Some(before) = server.resident()? else {
        return Ok(None);
    };
    server.fill(mix.objects, |n, url, keys| {
        *url = format!("/o/{n}");
        for nth in 0..mix.keys_each {
            if nth > 0 {
                keys.push(' ');
            }
            keys.push_str(&(mix.key)(n, nth));
        }
    })?;
    server.expect_objects(mix.objects + 1_000)?;
    // The allocator gives back what it does not use some seconds later.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let after = server.resident()?;
    Ok(after.map(|after| after as f64 - before as f64))
}
