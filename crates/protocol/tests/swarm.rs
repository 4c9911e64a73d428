//! Random fleets, random networks, random faults, then peace, then agreement. Each seed leaves
//! whole kinds of faults out, so that rare combinations of the others come up.
//!
//! A failure names its seed. `POWDERHORN_SEEDS=17..18 cargo test --test swarm` runs one again,
//! `POWDERHORN_SEEDS=0..5000` many.

mod common;

use std::ops::Range;
use std::time::Duration;

use common::{Apply, Fleet, Link, ms, secs};
use powderhorn_protocol::config::Config;
use powderhorn_protocol::id::MessageId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn seeds(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("POWDERHORN_SEEDS") else {
        return default;
    };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// What may go wrong in one run.
#[derive(Debug)]
struct Faults {
    network: bool,
    cuts: bool,
    freezes: bool,
    restarts: bool,
    applies: bool,
    bursts: bool,
    replays: bool,
}

fn random_link(rng: &mut StdRng) -> Link {
    let heavy = rng.random_bool(0.2);
    Link {
        loss: rng.random_range(0.0..if heavy { 0.7 } else { 0.2 }),
        dup: rng.random_range(0.0..0.3),
        delay: Duration::from_micros(rng.random_range(50..100_000)),
        jitter: Duration::from_micros(rng.random_range(0..150_000)),
        cut: false,
    }
}

fn random_config(rng: &mut StdRng) -> Config {
    Config {
        site: ["", "a", "b"][rng.random_range(0..3usize)].to_owned(),
        round: ms(rng.random_range(50..400)),
        own_site_percent: rng.random_range(0..=100),
        repair_bytes_peer: rng.random_range(2_000..200_000),
        repair_bytes_all: rng.random_range(4_000..400_000),
        replay_window: rng.random_range(256..8_192),
        ..Config::default()
    }
}

fn random_apply(rng: &mut StdRng) -> Apply {
    let each = Duration::from_micros(rng.random_range(1..2_000));
    let len = rng.random_range(1..10);
    match rng.random_range(0..6) {
        0 => Apply::Instant,
        1 => Apply::Delayed(each * 100),
        2 => Apply::Queue { len, each },
        3 => Apply::Refusing { len: len * 5, each },
        4 => Apply::FailsOnce,
        _ => Apply::Flaky(rng.random_range(0.0..0.8)),
    }
}

/// Runs a seed through; the trace of it.
fn swarm(seed: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let faults = Faults {
        network: rng.random_bool(0.7),
        cuts: rng.random_bool(0.5),
        freezes: rng.random_bool(0.4),
        restarts: rng.random_bool(0.5),
        applies: rng.random_bool(0.5),
        bursts: rng.random_bool(0.4),
        replays: rng.random_bool(0.3),
    };
    let count = rng.random_range(2..8);
    let configs = (0..count).map(|_| random_config(&mut rng)).collect();
    let mut fleet = Fleet::with_configs(seed, configs);
    if faults.network {
        fleet.all_links(random_link(&mut rng));
    }
    if rng.random_bool(0.7) {
        fleet.settle();
    }
    if faults.replays {
        fleet.tap = Some((rng.random_range(0..count), Vec::new()));
    }
    for _ in 0..rng.random_range(20..200) {
        let index = rng.random_range(0..count);
        let usable = fleet.nodes[index].up && !fleet.nodes[index].frozen;
        match rng.random_range(0..100) {
            0..70 if usable => {
                fleet.issue(index);
            }
            70..74 if faults.bursts && usable => {
                let size = rng.random_range(1..300);
                fleet.burst(index, size);
            }
            74..78 if faults.cuts => {
                let other = rng.random_range(0..count);
                if index != other {
                    let cut = rng.random_bool(0.6);
                    fleet.link_mut(index, other).cut = cut;
                    if rng.random_bool(0.5) {
                        fleet.link_mut(other, index).cut = cut;
                    }
                }
            }
            78..80 if faults.cuts => {
                let (one, other): (Vec<_>, Vec<_>) = (0..count).partition(|i| i % 2 == 0);
                let cut = rng.random_bool(0.5);
                fleet.cut(&one, &other, cut);
            }
            80..83 if faults.freezes && fleet.nodes[index].up => {
                if fleet.nodes[index].frozen {
                    fleet.thaw(index);
                } else {
                    fleet.freeze(index);
                }
            }
            83..86 if faults.restarts && !fleet.nodes[index].frozen => {
                // What only a node that stops knows is gone with it, as its cache is: let it tell.
                if usable {
                    tell_somebody(&mut fleet, index);
                    fleet.stop(index);
                } else {
                    fleet.start(index);
                }
            }
            86..88 if faults.network => {
                let other = rng.random_range(0..count);
                *fleet.link_mut(index, other) = random_link(&mut rng);
            }
            88..92 if faults.applies => fleet.nodes[index].apply = random_apply(&mut rng),
            92..94 if faults.replays => replay(&mut fleet, &mut rng),
            _ => {
                let pause = rng.random_range(0..3_000_000);
                fleet.run(Duration::from_micros(pause));
            }
        }
        let pause = rng.random_range(0..20_000);
        fleet.run(Duration::from_micros(pause));
    }
    // Peace: nothing is lost any more, everybody runs, every cache works.
    fleet.all_links(Link::default());
    for index in 0..count {
        if fleet.nodes[index].frozen {
            fleet.thaw(index);
        }
        if !fleet.nodes[index].up {
            fleet.start(index);
        }
        fleet.nodes[index].apply = Apply::Instant;
    }
    fleet.run(ms(1));
    fleet.converge(secs(120));
    fleet.assert_applied_once();
    // And quiet: who joined fetches what is younger than the margin, too, at the pace of the
    // budgets; then nothing is left to be mended.
    let wanted = |fleet: &Fleet| -> u64 {
        let cores = fleet.nodes.iter().map(|node| &node.core);
        cores
            .flat_map(|core| core.streams().map(|view| view.wanted))
            .sum()
    };
    for _ in 0..120 {
        fleet.run(secs(1));
        if wanted(&fleet) == 0 {
            break;
        }
    }
    fleet.run(secs(5));
    let before = fleet.traffic.repaired;
    fleet.run(secs(10));
    assert_eq!(
        fleet.traffic.repaired, before,
        "seed {seed}: repairs without end in a fleet that agrees; {faults:?}"
    );
    for (index, node) in fleet.nodes.iter().enumerate() {
        for view in node.core.streams() {
            // What was lost with its issuer stays wanted until it would have expired.
            let lost = fleet
                .excused
                .iter()
                .filter(|id| id.stream == view.id)
                .count();
            assert!(
                view.wanted <= lost as u64,
                "seed {seed}: node {index} still wants {} messages of {}",
                view.wanted,
                view.id
            );
        }
    }
    fleet.trace()
}

/// Lets a node that is about to stop bring out what no other running node holds, for a while. What
/// it cannot bring out is lost with it, and nobody is to blame.
fn tell_somebody(fleet: &mut Fleet, index: usize) {
    let only_here = |fleet: &Fleet| -> Vec<MessageId> {
        let holds = |other: usize, id: &MessageId| {
            let node = &fleet.nodes[other];
            node.up
                && node
                    .core
                    .streams()
                    .any(|view| view.id == id.stream && view.held.contains(id.seq))
        };
        fleet
            .issued
            .keys()
            .filter(|id| holds(index, id))
            .filter(|id| (0..fleet.nodes.len()).all(|other| other == index || !holds(other, id)))
            .copied()
            .collect()
    };
    for _ in 0..20 {
        if only_here(fleet).is_empty() {
            return;
        }
        fleet.run(secs(1));
    }
    for id in only_here(fleet) {
        fleet.excuse(id);
    }
}

/// Somebody plays back what a node was sent, in any order, from any address.
fn replay(fleet: &mut Fleet, rng: &mut StdRng) {
    let Some((to, recorded)) = fleet.tap.take() else {
        return;
    };
    if fleet.nodes[to].up {
        for _ in 0..recorded.len().min(200) {
            let (from, bytes) = &recorded[rng.random_range(0..recorded.len())];
            let from = if rng.random_bool(0.8) {
                *from
            } else {
                rng.random_range(0..fleet.nodes.len())
            };
            if from != to {
                fleet.send(from, to, bytes);
            }
        }
    }
    let mut recorded = recorded;
    recorded.truncate(5_000);
    fleet.tap = Some((to, recorded));
}

#[test]
fn random_fleets_agree_after_random_faults() {
    for seed in seeds(0..60) {
        swarm(seed);
    }
}

#[test]
fn a_swarm_run_is_repeated_by_its_seed() {
    for seed in [3, 4] {
        assert_eq!(swarm(seed), swarm(seed), "seed {seed}");
    }
}
