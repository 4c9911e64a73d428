//! Worlds that grow old: what a node missed expires while it is away.
//!
//! Once such a world has agreed, it goes on for two retentions, and then some of the nodes are away for up to
//! one and a half, in which all go on issuing. After the peace each purge has to be on every node that could hold its
//! object, or else it has expired everywhere and that node's cache was flushed. No cache may be flushed for
//! anything else: see [`Fleet::strict`](crate::fleet::Fleet::strict). At last all has to be forgotten.
//!
//! What a flush cannot make up for (DESIGN.md, *Too long away*) does not happen: nobody starts again after the first
//! agreement, nobody is away for two retentions, and no cache is younger than that when others leave.

use std::time::Duration;

use powderhorn_protocol::config::Config;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{World, random_apply};
use crate::net::{Change, Nodes, Pairs};

/// Share of the worlds that grow old.
const SHARE: f64 = 0.25;
/// How long all kinds of faults may go on before the first agreement. No message expires in this time.
pub(super) const EARLY_FAULTS_MAX: Duration = Duration::from_secs(15);
/// Share of the old worlds in which some nodes are silent until all that they had issued is forgotten.
const SILENCE_SHARE: f64 = 0.2;
/// How long that takes, in retentions and in rounds.
const SILENCE_RETENTIONS: u32 = 4;
const SILENCE_ROUNDS: u32 = 1_100;
/// Rounds of a node that may go to its own site, in percent.
const NEAR_PERCENT_MAX: u32 = 70;

/// What is drawn for such a world.
pub(super) struct Age {
    /// A chance of its own, so that a seed's other draws are what they would be without.
    rng: StdRng,
    /// The shortest one of all nodes.
    retention: Duration,
    /// Other nodes' are up to twice as long.
    uneven: bool,
    join_margin: Duration,
    /// Whether some nodes are silent for long.
    silence: bool,
}

impl Age {
    /// That of a seed's world, if it is to grow old.
    pub fn of(seed: u64) -> Option<Age> {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x0ca5_7a9e);
        let silence = StdRng::seed_from_u64(seed ^ 0x51e7).random_bool(SILENCE_SHARE);
        rng.random_bool(SHARE).then(|| Age {
            silence,
            retention: Duration::from_millis(rng.random_range(60_000..150_000)),
            uneven: rng.random_bool(0.3),
            join_margin: Duration::from_millis(rng.random_range(20_000..60_000)),
            rng,
        })
    }

    /// Sets what a node is to be told.
    pub fn configure(&mut self, config: &mut Config) {
        // A flush waits until members have been heard: of who gossips within its site nearly always, that takes long.
        config.own_site_percent = config.own_site_percent.min(NEAR_PERCENT_MAX);
        config.join_margin = self.join_margin;
        config.retention = self.retention;
        if self.uneven {
            config.retention = self.retention.mul_f64(self.rng.random_range(1.0..2.0));
        }
    }
}

impl World {
    /// Has a world that has agreed grow old.
    pub(super) fn grow_old(&mut self, age: &mut Age) {
        let longest = (0..self.fleet.len()).map(|node| self.fleet.config(node).retention);
        let longest = longest.max().unwrap_or(age.retention);
        self.go_on(age, longest * 2 + age.join_margin, 10.0);
        if age.silence {
            let rounds = (0..self.fleet.len()).map(|node| self.fleet.config(node).round);
            let rounds = rounds.max().unwrap_or_default() * SILENCE_ROUNDS;
            self.keep_on(age, longest * SILENCE_RETENTIONS + rounds, 30.0, 0.5);
        }

        self.leave(age);
        let lasts = age.retention.mul_f64(age.rng.random_range(0.1..1.5));
        let pause = age.rng.random_range(0.5..10.0);
        self.go_on(age, lasts, pause);
    }

    /// Some nodes go: they stand still, or cannot be reached by some or all of the others, or not reach these.
    fn leave(&mut self, age: &mut Age) {
        let (fleet, rng) = (&mut self.fleet, &mut age.rng);
        let count = fleet.len();
        let mut some = |share: f64| {
            let one = rng.random_range(0..count);
            let others: Vec<bool> = (0..count).map(|_| rng.random_bool(share)).collect();
            Nodes::new(count, |node| node == one || others[node])
        };
        let (away, from) = (some(0.2), some(0.8));
        if self.faults.freezes && rng.random_bool(0.5) {
            away.iter().for_each(|node| fleet.freeze(node));
        } else {
            let (from, to) = match rng.random_range(0..4) {
                0 => (away, from),
                1 => (from, away),
                _ => (away, Nodes::new(count, |_| true)),
            };
            let both = rng.random_bool(0.7);
            let cut = Change {
                cut: true,
                ..Change::default()
            };
            fleet.net.add_rule(Pairs::Between { from, to, both }, cut);
        }
        if self.faults.network {
            let most = if rng.random_bool(0.3) { 0.95 } else { 0.3 };
            let lossy = Change {
                loss: Some(rng.random_range(0.0..most)),
                ..Change::default()
            };
            let all = Nodes::new(count, |_| true);
            let (from, to, both) = (all.clone(), all, false);
            fleet.net.add_rule(Pairs::Between { from, to, both }, lossy);
        }
    }

    /// Purges for so long, here and there, with pauses of up to `pause` s between them.
    fn go_on(&mut self, age: &mut Age, lasts: Duration, pause: f64) {
        self.keep_on(age, lasts, pause, 1.0);
    }

    /// The same, at a share of the nodes only.
    fn keep_on(&mut self, age: &mut Age, lasts: Duration, pause: f64, share: f64) {
        let end = self.fleet.now + lasts;
        let last = (self.fleet.len() as f64 * share).ceil() as usize;
        while self.fleet.now < end && self.is_well() {
            let node = age.rng.random_range(0..last);
            if self.faults.applies && age.rng.random_bool(0.1) {
                let apply = random_apply(&mut age.rng);
                self.fleet.set_apply(node, apply);
            }
            self.fleet.issue(node);
            let pause = Duration::from_secs_f64(age.rng.random_range(0.0..pause));
            self.fleet.run_until(end.min(self.fleet.now + pause));
        }
    }

    /// Nobody holds anything any more, a retention later.
    pub(super) fn forget(&mut self) {
        let nodes = 0..self.fleet.len();
        let longest = nodes.clone().map(|node| self.fleet.config(node).retention);
        self.fleet
            .run(longest.max().unwrap_or_default() + Duration::from_secs(1));
        for node in nodes {
            let held = self.fleet.core(node).map_or(0, |core| core.held_bytes());
            if held > 0 && self.is_well() {
                self.problem = Some(format!(
                    "node {node} holds {held} bytes for longer than its retention"
                ));
            }
        }
    }
}
