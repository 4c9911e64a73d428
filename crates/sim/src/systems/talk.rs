//! The talk's example of head-of-line blocking: 1,000 messages a second to a node 200 ms away, and one
//! packet is dropped. "So, what we end up having is 400ms of latency added to 600 messages: 240,000ms of
//! unnecessary delay."
//!
//! Six hundred is what is sent until the lost one has come after all: 200 that were on the wire with it, 200
//! until the sender hears of the loss and 200 until its repair arrives. Those sent last do not wait, and the
//! others wait the less the later they were sent, so what is really late is less. Both are counted.

use std::time::Duration;

use powderhorn_protocol::time::Time;

use crate::fleet::START;
use crate::net::{Change, Network, Nodes, Pairs, Path, RuleId};

use super::Kind;
use super::broker::Broker;
use super::cases::Run;
use super::link::Window;
use super::ours::Ours;
use super::world::World;

/// The talk's TCP sends whatever it has.
pub const AS_IN_THE_TALK: &str = "TCP without congestion control";
/// Messages that the talk says are delayed.
pub const TALK_MESSAGES: f64 = 600.0;
/// How long each, in ms.
pub const TALK_DELAY_MS: f64 = 400.0;
/// All together, in ms.
pub const TALK_SUM_MS: f64 = 240_000.0;

const DELAY: Duration = Duration::from_millis(200);
const NEAR: Duration = Duration::from_micros(100);
const EACH: Duration = Duration::from_millis(1);
const MESSAGES: u32 = 6_000;
/// The message whose packet is dropped.
const DROPPED: u32 = 3_000;
const WARM_UP: Duration = Duration::from_secs(10);

/// What one lost packet does.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct HeadOfLine {
    /// Messages that came later than the path's delay by more than half a message's distance.
    pub messages: u64,
    /// What the one that waited longest came late by, in ms.
    pub most_ms: f64,
    /// All delays together, in ms.
    pub sum_ms: f64,
    /// Messages sent from the lost one on until that one came.
    pub meanwhile: u64,
}

impl HeadOfLine {
    /// The talk's sum: as if all that were sent meanwhile had waited as long as the lost one. In ms.
    pub fn as_counted_ms(&self) -> f64 {
        self.meanwhile as f64 * self.most_ms
    }
}

/// Over TCP, from a broker next to where the purges are issued.
pub fn over_tcp(window: Window) -> HeadOfLine {
    // Node 0 issues, node 1 is far away, node 2 is the broker.
    let system = Broker::new(2, window);
    let measured = (START + WARM_UP, Time::NEVER);
    let net = network(vec![0, 1, 0]);
    let mut world = World::new(Kind::Broker, system, (2, 3), net, measured, 1);
    world.log = Some(Vec::new());
    drive(&mut world, 2);
    let normal = DELAY + NEAR;
    let log = world.log.take().unwrap_or_default();
    summed(normal, log.iter().map(|(_, _, latency)| *latency))
}

/// Over ours. Delays are known from a histogram only, so all but the longest are rounded: to 3 ms at
/// 200 ms.
pub fn over_ours() -> HeadOfLine {
    let retention = Duration::from_secs(3_600);
    let net = network(vec![0, 1]);
    let mut ours = Ours::new(2, net, START + WARM_UP, retention, 1);
    drive(&mut ours, 0);
    let latency = ours.fleet.record.all().latency;
    let count = latency.count();
    let normal = DELAY.as_secs_f64() * 1e3;
    let rank = |late: u64| latency.quantile_ms((count - late) as f64 / count as f64);
    let late = (0..count).map(rank).take_while(|ms| *ms > normal + 3.5);
    let late: Vec<f64> = late.map(|ms| ms - normal).collect();
    HeadOfLine {
        messages: late.len() as u64,
        most_ms: latency.max_ms() - normal,
        sum_ms: late.iter().fold(0.0, |sum, ms| sum + ms),
        meanwhile: (latency.max_ms() / (EACH.as_secs_f64() * 1e3)) as u64,
    }
}

fn network(site_of: Vec<usize>) -> Network {
    let path = |delay| Path {
        delay,
        ..Path::default()
    };
    let (near, far) = (path(NEAR), path(DELAY));
    Network::new(site_of, vec![vec![near, far], vec![far, near]])
}

fn summed(normal: Duration, latencies: impl Iterator<Item = Duration> + Clone) -> HeadOfLine {
    let late = latencies
        .clone()
        .map(|latency| latency.saturating_sub(normal));
    let late: Vec<f64> = late
        .filter(|delay| *delay > EACH / 2)
        .map(|delay| delay.as_secs_f64() * 1e3)
        .collect();
    let longest = latencies.max().unwrap_or_default();
    HeadOfLine {
        messages: late.len() as u64,
        most_ms: late.iter().copied().fold(0.0, f64::max),
        sum_ms: late.iter().sum(),
        meanwhile: (longest.as_micros() / EACH.as_micros()) as u64,
    }
}

/// Issues a message each ms; while the one is sent, the way from `sender` to node 1 is cut.
fn drive(run: &mut dyn Run, sender: usize) {
    let begin = START + WARM_UP;
    let mut rule: Option<RuleId> = None;
    // Both have spoken before, so that windows and round trips are learnt.
    for number in 0..MESSAGES + 2_000 {
        let at = begin + EACH * number;
        let at = at - EACH * 2_000;
        run.run_until(at);
        if number == DROPPED + 2_000 {
            let pairs = Pairs::Between {
                from: Nodes::new(3, |node| node == sender),
                to: Nodes::new(3, |node| node == 1),
                both: false,
            };
            let cut = Change {
                cut: true,
                ..Change::default()
            };
            rule = Some(run.net().add_rule(pairs, cut));
        } else if let Some(rule) = rule.take() {
            run.net().remove_rule(rule);
        }
        run.issue(0);
    }
    run.run_until(begin + EACH * MESSAGES + Duration::from_secs(10));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_lost_packet_delays_all_that_come_in_the_next_round_trip() {
        let got = over_tcp(Window::Free);
        println!("{got:?}");
        // The first comes 400 ms and three messages late, the next one 1 ms less, and so on.
        assert!((402.0..405.0).contains(&got.most_ms), "{got:?}");
        assert!((402..=404).contains(&got.messages), "{got:?}");
        let triangle = got.most_ms * (got.most_ms + 1.0) / 2.0;
        assert!((got.sum_ms / triangle - 1.0).abs() < 0.01, "{got:?}");
        // What the talk counts, within its round numbers.
        assert!((got.most_ms / TALK_DELAY_MS - 1.0).abs() < 0.02, "{got:?}");
        assert!(
            (got.meanwhile as f64 / TALK_MESSAGES - 1.0).abs() < 0.02,
            "{got:?}"
        );
        assert!(
            (got.as_counted_ms() / TALK_SUM_MS - 1.0).abs() < 0.02,
            "{got:?}"
        );
        let ours = over_ours();
        println!("{ours:?}");
        assert!(ours.most_ms < 10.0 && ours.messages <= 1, "{ours:?}");
    }
}
