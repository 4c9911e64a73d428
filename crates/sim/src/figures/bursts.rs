//! Bursts of loss, after figure 14 of *Bimodal Multicast* (Birman et al., 1999), with the production core.
//!
//! Every 20 s three in ten members lose 50 messages. In the paper throughput is steady with a limit of 10 KB
//! of retransmissions a round, and is not without. Here it is steady either way: what mends 50 purges is two
//! datagrams, each miss is mended by one member to the one that missed, and most of dissemination's datagrams
//! are larger than the purge that is new in them. So a burst's repairs are less than a thousandth of what is sent.
//!
//! What a limit is needed for here is members that can be heard and hear nothing for long, because their
//! sockets run over or their way in is cut: they say in each round what they lack, and without a limit all of it is
//! sent to them each time, in vain. That takes the uplinks on which the purges of all others go out.

use std::path::Path as FilePath;
use std::time::Duration;

use powderhorn_protocol::config::Config;
use powderhorn_protocol::time::Time;

use super::troubled::{
    AFFECTED, DELAY, LEAST_LIMIT, NO_LIMIT, PAPER, SECOND, SENDER, Setting, UNAFFECTED, cut,
    each_step, least, mean,
};
use super::{Effort, FigureError};
use crate::fleet::Fleet;
use crate::net::{Change, Nodes, Pairs, RuleId};
use crate::plot::{Axis, Check, Colour, Corner, Figure, Mark, Panel, Series};
use crate::record::Span;

/// Draws the figure.
pub fn draw(out: &FilePath, effort: Effort) -> Result<(), FigureError> {
    Ok(bursts_figure(effort).write(out)?)
}

/// Members that hear nothing for a while, again and again.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    /// Members; three in ten are affected.
    pub nodes: usize,
    /// Purges per second, all from one member.
    pub rate: u32,
    /// Time between two rounds of gossip.
    pub round: Duration,
    /// Bytes of repairs in a round: to one peer, and to all.
    pub limits: [u64; 2],
    /// How long the affected hear nothing.
    pub outage: Duration,
    /// When they hear nothing for the first time.
    pub first: Duration,
    /// From one outage to the next.
    pub every: Duration,
    /// Bytes a second that the sender's uplink takes; 0 for as many as there are.
    pub uplink: u64,
    /// How long it all goes on, in s.
    pub seconds: usize,
}

/// What came of them.
#[derive(Clone, Debug)]
pub struct BurstsSeen {
    /// Purges applied by an unaffected receiver in each tenth of a second, per second.
    pub unaffected: Vec<f64>,
    /// 99th percentile of latency at the unaffected in each tenth of a second, in ms.
    pub unaffected_p99_ms: Vec<f64>,
    /// Purges applied by an affected receiver in each tenth of a second, per second.
    pub affected: Vec<f64>,
    /// Messages sent as repairs in the fleet.
    pub repairs: u64,
    /// Bytes that the sender sent, repairs included.
    pub sender_bytes: u64,
    /// Of the sender's bytes, repairs.
    pub sender_repair_bytes: u64,
    /// Share of (purge, node) pairs applied in the end.
    pub coverage: f64,
}

const STEP: Duration = Duration::from_millis(100);
const STEPS_PER_SECOND: usize = 10;

/// The sender's uplink: what is sent faster than it takes waits, first come, first served. It is looked
/// at each time a purge is issued, so what is sent in between waits alike.
struct Uplink {
    bytes_per_second: u64,
    sent: u64,
    free: Time,
    rule: Option<RuleId>,
}

impl Uplink {
    fn new(bytes_per_second: u64, fleet: &Fleet) -> Self {
        Uplink {
            bytes_per_second,
            sent: fleet.record.sent_by().1[SENDER],
            free: fleet.now,
            rule: None,
        }
    }

    fn look(&mut self, fleet: &mut Fleet) {
        if self.bytes_per_second == 0 {
            return;
        }
        let sent = fleet.record.sent_by().1[SENDER];
        let takes = (sent - self.sent) as f64 / self.bytes_per_second as f64;
        self.sent = sent;
        self.free = self.free.max(fleet.now) + Duration::from_secs_f64(takes);
        if let Some(rule) = self.rule.take() {
            fleet.net.remove_rule(rule);
        }
        let count = fleet.len();
        let pairs = Pairs::Between {
            from: Nodes::new(count, |node| node == SENDER),
            to: Nodes::new(count, |_| true),
            both: false,
        };
        let change = Change {
            delay: Some(DELAY + self.free.since(fleet.now)),
            ..Change::default()
        };
        self.rule = Some(fleet.net.add_rule(pairs, change));
    }
}

/// Runs them.
pub fn bursts(setting: Bursts) -> BurstsSeen {
    let Bursts { nodes, seconds, .. } = setting;
    let troubled = nodes * 3 / 10;
    let mut fleet = Setting {
        nodes,
        troubled,
        round: setting.round,
        limits: setting.limits,
        bin: STEP,
    }
    .fleet();
    let begin = fleet.now;
    let mut uplink = Uplink::new(setting.uplink, &fleet);
    let each = SECOND / setting.rate;
    let mut rule = None;
    for tick in 0..seconds as u32 * setting.rate {
        let at = each * tick;
        let out = at.checked_sub(setting.first).is_some_and(|since| {
            since.as_micros() % setting.every.as_micros() < setting.outage.as_micros()
        });
        fleet.run_until(begin + at);
        uplink.look(&mut fleet);
        match rule {
            None if out => {
                let pairs = Pairs::Between {
                    from: Nodes::new(nodes, |_| true),
                    to: Nodes::new(nodes, |node| node + troubled >= nodes),
                    both: false,
                };
                rule = Some(fleet.net.add_rule(pairs, cut()));
            }
            Some(id) if !out => {
                fleet.net.remove_rule(id);
                rule = None;
            }
            _ => {}
        }
        fleet.issue(SENDER);
    }
    fleet.run_until(begin + SECOND * seconds as u32);
    let kept = |group, of: fn(&Span) -> f64| {
        let mut values = each_step(&fleet.record, group, of);
        values.resize(seconds * STEPS_PER_SECOND, 0.0);
        values
    };
    let applied = |span: &Span| (span.applied * STEPS_PER_SECOND as u64) as f64;
    let (unaffected, affected) = (kept(UNAFFECTED, applied), kept(AFFECTED, applied));
    let steps = fleet.record.spans(UNAFFECTED).iter();
    let unaffected_p99_ms = steps.map(|span| span.latency.quantile_ms(0.99)).collect();
    let of = |node| {
        fleet
            .core(node)
            .map(|core| *core.stats())
            .unwrap_or_default()
    };
    let repairs = (0..nodes).map(|node| of(node).repairs_out).sum();
    let sender_repair_bytes = of(SENDER).repair_bytes_out;
    let sender_bytes = fleet.record.sent_by().1[SENDER];
    fleet.net.remove_all_rules();
    fleet.run(Duration::from_secs(120));
    assert_eq!(fleet.violation, None, "a run of the figures broke a rule");
    BurstsSeen {
        unaffected,
        unaffected_p99_ms,
        affected,
        repairs,
        sender_bytes,
        sender_repair_bytes,
        coverage: fleet.coverage(),
    }
}

impl Bursts {
    /// The paper's figure 14, with its limit of 10 KB or none.
    pub fn of_the_paper(limited: bool) -> Bursts {
        Bursts {
            nodes: 35,
            rate: 100,
            round: Duration::from_millis(100),
            limits: if limited {
                [LEAST_LIMIT, 10_000]
            } else {
                [NO_LIMIT; 2]
            },
            outage: Duration::from_millis(500),
            first: Duration::from_secs(10),
            every: Duration::from_secs(20),
            uplink: 0,
            seconds: 80,
        }
    }

    /// A minute in which the affected hear nothing at 1,000 purges/s, with our default limits or none. The
    /// sender's uplink has a quarter more room than dissemination takes.
    pub fn of_a_minute(limited: bool) -> Bursts {
        let default = Config::default();
        Bursts {
            nodes: 35,
            rate: 1_000,
            round: default.round,
            limits: if limited {
                [default.repair_bytes_peer, default.repair_bytes_all]
            } else {
                [NO_LIMIT; 2]
            },
            outage: Duration::from_secs(60),
            first: Duration::from_secs(5),
            every: Duration::from_secs(3_600),
            uplink: 20_000_000,
            seconds: 80,
        }
    }
}

fn bursts_figure(effort: Effort) -> Figure {
    let shorter = |setting: Bursts| match effort {
        Effort::Full => setting,
        Effort::Quick => Bursts {
            nodes: 10,
            seconds: setting.seconds / 4,
            outage: setting.outage.min(Duration::from_secs(10)),
            uplink: setting.uplink / 4,
            ..setting
        },
    };
    let of_the_paper = [true, false].map(|limit| bursts(shorter(Bursts::of_the_paper(limit))));
    let of_a_minute = [true, false].map(|limit| bursts(shorter(Bursts::of_a_minute(limit))));
    let kinds = [("limited", Colour::Blue), ("no limit", Colour::Vermilion)];
    let panel =
        |title: &str, y: Axis, seen: &[BurstsSeen; 2], of: &dyn Fn(&BurstsSeen) -> Vec<f64>| {
            let seconds = of(&seen[0]).len() as f64;
            let mut panel = Panel::new(title, Axis::linear("time, s", 0.0, seconds), y);
            // The limited one over the other: where they are the same, the other is wider.
            for ((name, colour), seen) in kinds.into_iter().zip(seen).rev() {
                let points = of(seen).into_iter().enumerate();
                let points = points.map(|(second, value)| (second as f64 + 0.5, value));
                panel
                    .series
                    .push(Series::new(name, Mark::Line, colour, points));
            }
            panel
        };
    let applied = |most| Axis::linear("purges/s applied by a member", 0.0, most);
    let mut panels = vec![
        panel(
            "Figure 14: unaffected members, both alike",
            applied(160.0),
            &of_the_paper,
            &|seen| by_second(&seen.unaffected),
        ),
        panel(
            "Figure 14: affected members, both alike",
            applied(160.0),
            &of_the_paper,
            &|seen| by_second(&seen.affected),
        ),
        panel(
            "A minute lost at 1,000/s: unaffected members",
            applied(1_600.0),
            &of_a_minute,
            &|seen| by_second(&seen.unaffected),
        ),
        panel(
            "The same: what unaffected members wait",
            Axis::log("p99 of latency, ms", 1.0, 10_000.0),
            &of_a_minute,
            &|seen| {
                let steps = seen.unaffected_p99_ms.chunks(STEPS_PER_SECOND);
                steps.map(most).collect()
            },
        ),
    ];
    // Below these curves there is no room.
    panels[3].legend = Corner::TopRight;
    let (from, to) = {
        let minute = shorter(Bursts::of_a_minute(true));
        (minute.first, minute.first + minute.outage)
    };
    for panel in &mut panels[2..] {
        let span = (from.as_secs_f64(), to.as_secs_f64());
        panel.spans = vec![(span.0, span.1, "3 in 10 hear nothing".to_owned())];
    }
    Figure {
        name: "e_burst_loss".to_owned(),
        title: "Bursts of loss, with and without a limit on repairs".to_owned(),
        note: "35 members. Above: 3 in 10 miss 50 purges each 20 s, limit 10 kB a round. Below: \
               the default limits, sender's uplink 20 MB/s."
            .to_owned(),
        panels,
        checks: burst_checks(&of_the_paper, &of_a_minute),
    }
}

fn burst_checks(of_the_paper: &[BurstsSeen; 2], of_a_minute: &[BurstsSeen; 2]) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |what: String, unit: &str, ours: f64, reference: f64, source: &str| {
        checks.push(Check::new(what, unit, ours, reference, source));
    };
    let steady = format!("{PAPER}, Fig. 14: throughput stays steady with the limit");
    let unsteady = format!("{PAPER}, Fig. 14: without the limit it does not");
    let not_limited = "the same run without a limit";
    for (name, seen, rate) in [
        ("figure 14", of_the_paper, 100.0),
        ("a minute lost", of_a_minute, 1_000.0),
    ] {
        for (limit, seen, source) in [
            ("limited", &seen[0], &steady),
            ("no limit", &seen[1], &unsteady),
        ] {
            check(
                format!("{name}: unaffected members' worst second, {limit}"),
                "purges/s",
                least(&by_second(&seen.unaffected)[1..]),
                rate,
                source,
            );
            check(
                format!("{name}: repairs, of all bytes that the sender sends, {limit}"),
                "%",
                seen.sender_repair_bytes as f64 / seen.sender_bytes.max(1) as f64 * 100.0,
                0.0,
                "no other value: why figure 14's limit makes no difference here",
            );
            check(
                format!("{name}: purges applied in the end, of all that should be, {limit}"),
                "%",
                seen.coverage * 100.0,
                100.0,
                "our mark: each purge on each node",
            );
        }
        check(
            format!(
                "{name}: tenths of a second in which unaffected members got less than half, limited"
            ),
            "tenths",
            steps_below(&seen[0].unaffected, rate / 2.0),
            steps_below(&seen[1].unaffected, rate / 2.0),
            not_limited,
        );
        check(
            format!("{name}: messages sent as repairs, limited"),
            "messages",
            seen[0].repairs as f64,
            seen[1].repairs as f64,
            not_limited,
        );
    }
    checks
}

fn by_second(steps: &[f64]) -> Vec<f64> {
    steps.chunks(STEPS_PER_SECOND).map(mean).collect()
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// How many steps but those of the first second, in which the first purges are on their way, are below a
/// value.
pub fn steps_below(values: &[f64], limit: f64) -> f64 {
    let steps = values.iter().skip(STEPS_PER_SECOND);
    steps.filter(|value| **value < limit).count() as f64
}
