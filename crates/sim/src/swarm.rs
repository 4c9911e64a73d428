//! Random fleets, random networks, random faults, then peace, then agreement.
//!
//! Each seed draws its own world and leaves whole kinds of faults out, so that rare combinations of the
//! others come up. Safety is checked all along (see [`crate::fleet`]); after the peace every purge has to
//! be on every node that could hold its object, within [`PEACE_MAX`], and then the fleet has to be quiet.
//! In some worlds nodes have so little room that they drop purges that others lack. Others grow [old](age).

use std::collections::VecDeque;
use std::time::Duration;

use clap::ValueEnum;
use powderhorn_protocol::StreamView;
use powderhorn_protocol::bounds::HELD_OVERHEAD_BYTES;
use powderhorn_protocol::time::Time;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use crate::fleet::{Apply, Fleet, NodeSpec, START};
use crate::net::{Change, Network, Nodes, Pairs, Path};
use crate::planted::Bug;
use crate::record::Recorder;
use crate::scenario::NodeConfig;

mod age;

use age::Age;

/// How long a fleet may take to agree once nothing goes wrong any more.
const PEACE_MAX: Duration = Duration::from_secs(120);
/// After that: how long it may go on repairing (who joined fetches what is younger than the margin).
const QUIET_MAX: Duration = Duration::from_secs(120);

/// What a purge of the simulator's takes of `retention_bytes`.
const PURGE_BYTES: u64 = HELD_OVERHEAD_BYTES + 32;

/// Which seeds are to be run.
#[derive(Clone, Debug, clap::Args)]
pub struct SwarmArgs {
    /// The seeds, A..B without B
    #[arg(long, value_parser = parse_seeds, default_value = "0..200")]
    seeds: (u64, u64),
    /// Plants a bug, which must be found: the first seed that finds it ends the run
    #[arg(long, value_enum)]
    planted: Option<Bug>,
    /// Runs each seed twice and compares the traces
    #[arg(long)]
    twice: bool,
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("{text:?} is not A..B with A < B");
    let (from, to) = text.split_once("..").ok_or_else(wrong)?;
    let from = from.parse().map_err(|_| wrong())?;
    let to = to.parse().map_err(|_| wrong())?;
    if from < to {
        Ok((from, to))
    } else {
        Err(wrong())
    }
}

impl SwarmArgs {
    /// For tests.
    pub fn new(seeds: (u64, u64), planted: Option<Bug>) -> Self {
        SwarmArgs {
            seeds,
            planted,
            twice: false,
        }
    }

    /// The command that runs one of the seeds in the same way.
    fn replay(&self, seed: u64) -> String {
        let mut command = format!("powderhorn-sim swarm --seeds {seed}..{}", seed + 1);
        if let Some(value) = self.planted.and_then(|bug| bug.to_possible_value()) {
            command += " --planted ";
            command += value.get_name();
        }
        if self.twice {
            command += " --twice";
        }
        command
    }

    /// How many seeds there are.
    pub fn count(&self) -> u64 {
        self.seeds.1 - self.seeds.0
    }
}

/// A seed that did not end in agreement.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
    /// The command that shows it again.
    pub replay: String,
}

/// How a swarm went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Done {
    /// Seeds run.
    pub seeds: u64,
    /// Events in all of them.
    pub events: u64,
    /// Purges issued in all of them.
    pub purges: u64,
    /// Of these, lost with the only node that held them.
    pub lost_with_issuer: u64,
    /// Worlds that grew old.
    pub aged: u64,
    /// Caches that were flushed.
    pub flushed: u64,
    /// Hash of all traces.
    pub trace: String,
    /// Of these, dropped for want of room by all that held them.
    pub lost_for_room: u64,
    /// Longest time from peace to agreement, in virtual s.
    pub agreed_s_max: f64,
    /// What failed.
    pub failures: Vec<Failure>,
}

/// Runs all seeds; `each` is called after each.
pub fn run(args: &SwarmArgs, each: &mut dyn FnMut()) -> Done {
    let mut done = Done::default();
    let mut trace = 0_u64;
    for seed in args.seeds.0..args.seeds.1 {
        let world = one(seed, args.planted);
        let again = args.twice.then(|| one(seed, args.planted).fleet.trace());
        done.seeds += 1;
        done.events += world.fleet.events();
        done.purges += world.fleet.issued();
        done.lost_with_issuer += world.fleet.lost_with_issuer;
        done.lost_for_room += world.fleet.lost_for_room;
        done.aged += u64::from(world.age.is_some());
        done.flushed += world.fleet.flushed;
        done.agreed_s_max = done.agreed_s_max.max(world.agreed.as_secs_f64());
        trace = trace.rotate_left(1) ^ world.fleet.trace();
        let found = world.problem.is_some();
        let differs = differs(world.fleet.trace(), again);
        for what in world.problem.into_iter().chain(differs) {
            let replay = args.replay(seed);
            done.failures.push(Failure { seed, what, replay });
        }
        each();
        if found && args.planted.is_some() {
            break;
        }
    }
    done.trace = format!("{trace:016x}");
    done
}

/// What is wrong if a second run was not the same.
fn differs(trace: u64, again: Option<u64>) -> Option<String> {
    let again = again.filter(|again| *again != trace)?;
    Some(format!(
        "not the same twice: the traces are {trace:016x} and {again:016x}"
    ))
}

/// Kinds of faults; each seed has some.
#[derive(Clone, Copy, Debug)]
struct Faults {
    network: bool,
    corruption: bool,
    rate: bool,
    cuts: bool,
    freezes: bool,
    slowness: bool,
    crashes: bool,
    disks: bool,
    clocks: bool,
    applies: bool,
    bursts: bool,
    /// Too little room for all purges.
    room: bool,
}

/// What a node held at a time.
struct Sample {
    at: Time,
    /// Messages that it has ever taken or issued.
    came: u64,
    /// Bytes that it may not drop: all of a stream from the first message on that waits to be applied.
    pinned: u64,
}

struct World {
    fleet: Fleet,
    rng: StdRng,
    faults: Faults,
    /// Of a world that grows old.
    age: Option<Age>,
    problem: Option<String>,
    /// The longest time from a peace to the agreement.
    agreed: Duration,
    /// Of each node: the last rounds, and one sample from before.
    samples: Vec<VecDeque<Sample>>,
}

/// Runs one seed through.
fn one(seed: u64, planted: Option<Bug>) -> World {
    let mut age = Age::of(seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed_5eed);
    let mut some = |share| rng.random_bool(share);
    let faults = Faults {
        network: some(0.7),
        corruption: some(0.2),
        rate: some(0.2),
        cuts: some(0.5),
        freezes: some(0.4),
        slowness: some(0.3),
        crashes: some(0.5),
        disks: some(0.6),
        clocks: some(0.3),
        applies: some(0.5),
        bursts: some(0.4),
        // What was dropped for want of room is told apart from what has expired.
        room: some(0.3) && age.is_none(),
    };
    let mut world = World {
        fleet: fleet(seed, &mut rng, faults, age.as_mut()),
        rng,
        faults,
        age: None,
        problem: None,
        agreed: Duration::ZERO,
        samples: Vec::new(),
    };
    let nodes = 0..world.fleet.len();
    world.samples = nodes.map(|_| VecDeque::new()).collect();
    world.fleet.strict = true;
    world.fleet.planted = planted;
    if world.rng.random_bool(0.7) {
        world.fleet.run(Duration::from_secs(2));
    }
    for _ in 0..world.rng.random_range(20..250) {
        world.step();
        let pause = world.rng.random_range(0..20_000);
        world.fleet.run(Duration::from_micros(pause));
        world.check_room();
        let long = age.is_some() && world.fleet.now.since(START) > age::EARLY_FAULTS_MAX;
        if long || !world.is_well() {
            break;
        }
    }
    world.agree_in_peace();
    if let Some(age) = &mut age {
        world.grow_old(age);
        world.agree_in_peace();
        world.forget();
    }
    world.age = age;
    if let Some(what) = world.fleet.violation.take() {
        world.problem = Some(what);
    }
    world
}

fn fleet(seed: u64, rng: &mut StdRng, faults: Faults, mut age: Option<&mut Age>) -> Fleet {
    let count = rng.random_range(2..9_usize);
    let sites = rng.random_range(1..4_usize);
    let specs = (0..count).map(|node| {
        let mut config = NodeConfig::default().settings();
        config.round = Duration::from_millis(rng.random_range(50..400));
        config.own_site_percent = rng.random_range(0..=100);
        config.repair_bytes_peer = rng.random_range(2_000..200_000);
        config.repair_bytes_all = rng.random_range(4_000..400_000);
        config.replay_window = rng.random_range(256..8_192);
        if faults.room {
            config.retention_bytes = rng.random_range(10 * PURGE_BYTES..400 * PURGE_BYTES);
        }
        if let Some(age) = &mut age {
            age.configure(&mut config);
        }
        NodeSpec {
            boot_ahead: Duration::from_millis(rng.random_range(0..3_000_000_000)),
            ..NodeSpec::numbered(node, format!("site-{}", node % sites), config)
        }
    });
    let specs: Vec<NodeSpec> = specs.collect();
    let site_of = (0..count).map(|node| node % sites).collect();
    let mut path = |far: bool| {
        if faults.network {
            random_path(rng, faults)
        } else {
            Path {
                delay: Duration::from_micros(
                    rng.random_range(50..if far { 100_000 } else { 1_000 }),
                ),
                ..Path::default()
            }
        }
    };
    let paths = (0..sites).map(|one| (0..sites).map(|other| path(one != other)).collect());
    let net = Network::new(site_of, paths.collect());
    let record = Recorder::of_all(count, START, Duration::from_secs(3_600));
    Fleet::new(seed, specs, net, record)
}

fn random_path(rng: &mut StdRng, faults: Faults) -> Path {
    let heavy = rng.random_bool(0.2);
    Path {
        delay: Duration::from_micros(rng.random_range(50..100_000)),
        jitter: Duration::from_micros(rng.random_range(0..50_000)),
        loss: rng.random_range(0.0..if heavy { 0.7 } else { 0.2 }),
        duplicate: rng.random_range(0.0..0.3),
        reorder: rng.random_range(0.0..0.2),
        reorder_delay: Duration::from_micros(rng.random_range(1_000..200_000)),
        corrupt: if faults.corruption {
            rng.random_range(0.0..0.2)
        } else {
            0.0
        },
        rate: if faults.rate {
            rng.random_range(20_000..1_000_000)
        } else {
            0
        },
    }
}

impl World {
    fn step(&mut self) {
        let (fleet, rng, faults) = (&mut self.fleet, &mut self.rng, self.faults);
        let count = fleet.len();
        let node = rng.random_range(0..count);
        match rng.random_range(0..100) {
            0..66 => {
                fleet.issue(node);
            }
            66..70 if faults.bursts => {
                let purges = rng.random_range(1..300);
                for _ in 0..purges {
                    fleet.issue(node);
                }
            }
            70..76 if faults.cuts => self.cut(node),
            76..79 if faults.freezes => {
                if fleet.is_running(node) {
                    fleet.freeze(node);
                } else {
                    fleet.thaw(node);
                }
            }
            79..83 if faults.crashes => {
                if fleet.is_up(node) {
                    let disk = faults.disks && rng.random_bool(0.7);
                    fleet.crash(node, disk);
                } else {
                    fleet.start(node);
                }
            }
            83..85 if faults.clocks => {
                let day_ms = 86_400_000;
                fleet.jump_wall_clock(node, rng.random_range(-day_ms..day_ms));
            }
            85..88 if faults.slowness => {
                let each = rng.random_range(0..3_000);
                fleet.set_slow(node, Duration::from_micros(each));
            }
            88..92 if faults.applies => {
                let apply = random_apply(rng);
                fleet.set_apply(node, apply);
            }
            92..94 if faults.network => {
                let from = Nodes::new(count, |n| n == node);
                let other = rng.random_range(0..count);
                let to = Nodes::new(count, |n| n == other);
                let change = Change {
                    loss: Some(rng.random_range(0.0..1.0)),
                    ..Change::default()
                };
                fleet.net.add_rule(
                    Pairs::Between {
                        from,
                        to,
                        both: false,
                    },
                    change,
                );
            }
            _ => {
                let pause = rng.random_range(0..3_000_000);
                fleet.run(Duration::from_micros(pause));
            }
        }
    }

    fn cut(&mut self, node: usize) {
        let (fleet, rng) = (&mut self.fleet, &mut self.rng);
        let count = fleet.len();
        let cut = Change {
            cut: true,
            ..Change::default()
        };
        let other = rng.random_range(0..count);
        let one = |n: usize| Nodes::new(count, |at| at == n);
        let pairs = match rng.random_range(0..6) {
            // Mended again.
            0 | 1 => {
                fleet.net.remove_all_rules();
                return;
            }
            2 => Pairs::Between {
                from: one(node),
                to: one(other),
                both: rng.random_bool(0.5),
            },
            3 => Pairs::Between {
                from: one(node),
                to: Nodes::new(count, |at| at != node),
                both: rng.random_bool(0.5),
            },
            4 => Pairs::NotInRing(count),
            // Two halves, and maybe one that both of them see.
            _ => {
                let bridge = rng.random_bool(0.5).then_some(node);
                let half = |odd| Nodes::new(count, |at| at % 2 == odd && Some(at) != bridge);
                Pairs::Between {
                    from: half(0),
                    to: half(1),
                    both: true,
                }
            }
        };
        fleet.net.add_rule(pairs, cut);
    }

    /// No node holds more than it has room for, but for what came or was pinned since it last looked, which
    /// it does once a round.
    fn check_room(&mut self) {
        for (node, samples) in self.samples.iter_mut().enumerate() {
            let now = self.fleet.now;
            if !self.fleet.is_up(node) {
                samples.clear();
            }
            if !self.fleet.is_running(node) {
                continue;
            }
            let (Some(core), config) = (self.fleet.core(node), self.fleet.config(node)) else {
                continue;
            };
            let stats = core.stats();
            let came = stats.issued + stats.received + stats.recovered;
            let pinned = core.streams().map(|view| pinned(&view)).sum::<u64>() * PURGE_BYTES;
            samples.push_back(Sample {
                at: now,
                came,
                pinned,
            });
            let past = |sample: &Sample| now.since(sample.at) >= config.round * 2;
            while samples.get(1).is_some_and(past) {
                samples.pop_front();
            }
            let Some(first) = samples.front().filter(|first| past(first)) else {
                continue;
            };
            let pinned = samples.iter().map(|sample| sample.pinned).max();
            let brought = (came - first.came) * PURGE_BYTES;
            let most = config.retention_bytes + pinned.unwrap_or(0) + brought;
            let held = core.held_bytes();
            if held > most {
                self.problem = Some(format!(
                    "node {node} holds {held} bytes, and has room for {}, with what it cannot drop for {most}",
                    config.retention_bytes
                ));
            }
        }
    }

    /// Whether nothing has gone wrong as yet.
    fn is_well(&self) -> bool {
        self.problem.is_none() && self.fleet.violation.is_none()
    }

    fn agree_in_peace(&mut self) {
        if self.is_well() {
            self.peace();
            self.agree();
        }
    }

    /// Nothing is lost any more, everybody runs, every cache works.
    fn peace(&mut self) {
        let fleet = &mut self.fleet;
        fleet.net.calm();
        for node in 0..fleet.len() {
            fleet.thaw(node);
            fleet.start(node);
            fleet.set_slow(node, Duration::ZERO);
            fleet.set_apply(node, Apply::Instant);
        }
    }

    /// Everybody has to get everything, and then there is nothing left to be said.
    fn agree(&mut self) {
        let fleet = &mut self.fleet;
        let begin = fleet.now;
        let mut step = 0;
        while fleet.incomplete() > 0 && fleet.violation.is_none() {
            if fleet.now.since(begin) >= PEACE_MAX {
                self.problem = Some(format!(
                    "no agreement after {PEACE_MAX:?}; (node, purges lacking): {:?}; {:?}",
                    fleet.lacking(),
                    self.faults
                ));
                return;
            }
            fleet.run(Duration::from_millis(20));
            step += 1;
            if self.faults.room && step % 50 == 0 {
                fleet.close_lost();
            }
        }
        self.agreed = self.agreed.max(fleet.now.since(begin));
        let repairs = |fleet: &Fleet| -> u64 {
            let cores = (0..fleet.len()).filter_map(|node| fleet.core(node));
            cores.map(|core| core.stats().repairs_out).sum()
        };
        let begin = fleet.now;
        loop {
            let before = repairs(fleet);
            fleet.run(Duration::from_secs(10));
            if repairs(fleet) == before || fleet.violation.is_some() {
                break;
            }
            if fleet.now.since(begin) >= QUIET_MAX {
                self.problem = Some(format!("repairs without end; {:?}", self.faults));
                return;
            }
        }
        for node in 0..fleet.len() {
            let Some(core) = fleet.core(node) else {
                continue;
            };
            let most = core.held_bytes();
            let held: u64 = core.streams().map(|view| view.held.count()).sum();
            if most > held * PURGE_BYTES {
                self.problem = Some(format!(
                    "node {node} holds {most} bytes for {held} messages"
                ));
            }
        }
    }
}

/// Messages of a stream from the first one on that is held and not applied.
fn pinned(view: &StreamView<'_>) -> u64 {
    let mut waiting = view.held.within(0..=u64::MAX).filter_map(|range| {
        let mut gaps = view.seen.gaps(range);
        gaps.next().map(|gap| *gap.start())
    });
    let Some(first) = waiting.next() else {
        return 0;
    };
    let held = view.held.within(first..=u64::MAX);
    held.map(|range| range.end() - range.start() + 1).sum()
}

fn random_apply(rng: &mut StdRng) -> Apply {
    match rng.random_range(0..3) {
        0 => Apply::Instant,
        1 => Apply::Flaky(rng.random_range(0.0..0.8)),
        _ => Apply::Slow {
            each: Duration::from_micros(rng.random_range(1..2_000)),
            queue: rng.random_range(1..64),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_not_the_same_twice_is_told_with_its_command() {
        assert_eq!(differs(1, None), None);
        assert_eq!(differs(1, Some(1)), None);
        let what = differs(1, Some(2)).expect("another trace");
        assert!(what.contains("not the same twice"), "{what}");
        let args = SwarmArgs {
            twice: true,
            ..SwarmArgs::new((0, 10), None)
        };
        assert_eq!(args.replay(7), "powderhorn-sim swarm --seeds 7..8 --twice");
    }
}
