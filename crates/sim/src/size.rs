//! What a fleet of some size costs, how fast it is, and which settings suit it.
//!
//! Traffic and latency come from a short run of the production core with as many nodes, or with 300 of a
//! larger fleet, with the repair budgets that are recommended. The latency of a larger fleet is of each
//! percentile the larger of that run's and the paper's recurrence's: the recurrence knows nothing of
//! repeats and of gaps that are asked for at once, nor of digests that have no room for all streams.

use std::time::Duration;

use powderhorn_protocol::config::Config;
use serde_json::{Value, json};

use crate::figures::cost::{HELD_BYTES, Load, Measured, peers_bytes};
use crate::recurrence::rounds_until;
use crate::rounds::{Exchange, Start};

/// Fleets that are simulated as they are.
const SIMULATED_MAX: usize = 300;
/// Largest fleet that is answered for.
const NODES_MAX: usize = 10_000;
/// Most peers that a node takes.
const PEERS_MAX: usize = 4_096;
/// Highest rate that is answered for, in purges/s.
const RATE_MAX: f64 = 100_000.0;
/// Highest loss that is answered for.
const LOSS_MAX: f64 = 0.9;
/// Latencies that percentiles are taken of, at least.
const DELIVERIES_MIN: u64 = 1_000;
/// Seconds of one node that a run takes at most: a minute or so of ours.
const NODE_SECONDS_MAX: f64 = 100_000.0;
/// One way between two sites; between nodes where there is one site.
const FAR: Duration = Duration::from_millis(40);
const NEAR: Duration = Duration::from_millis(1);
const DAY_S: f64 = 86_400.0;
/// Bytes of a URL purge in the journal: 49.5 were measured with 200 streams.
const DISK_BYTES: f64 = 54.0;
/// What `journal.bytes` takes.
const JOURNAL_BYTES: (f64, f64) = (16.0 * MIB, 1_024.0 * 1_024.0 * MIB);
/// Memory of a purge that is in the journal: 121 MB were measured for a day of 1,000 a second, 86.4 million.
const JOURNALED_BYTES: f64 = 1.4;
/// What `limits.retention_bytes` takes, beginning with its default.
const RETENTION_BYTES: (f64, f64) = (256.0 * MIB, 64.0 * KIB * MIB);
/// More than a day needs: rates are not the same all day.
const TO_SPARE: f64 = 1.25;
/// A URL purge as a repair, in bytes.
const REPAIR_BYTES: f64 = 40.0;
/// What the kernel charges to a socket's buffer for a small datagram.
const SOCKET_DATAGRAM_BYTES: f64 = 1_700.0;
const KIB: f64 = 1_024.0;
const MIB: f64 = 1_024.0 * 1_024.0;

/// Which fleet.
#[derive(Clone, Debug, clap::Args)]
pub struct SizeArgs {
    /// Nodes, 2 to 10,000
    #[arg(long)]
    pub nodes: usize,
    /// Sites that they are spread over, 1 to as many as there are nodes
    #[arg(long, default_value_t = 1)]
    pub sites: usize,
    /// Purges per second in all of the fleet, up to 100,000
    #[arg(long, allow_negative_numbers = true)]
    pub rate: f64,
    /// Share of datagrams that the network loses, 0 to 0.9
    #[arg(long, default_value_t = 0.001, allow_negative_numbers = true)]
    pub loss: f64,
}

/// Why that cannot be said. Nothing was computed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum SizeError {
    /// Too few or too many nodes.
    #[error("--nodes must be 2 to {NODES_MAX}, not {0}")]
    Nodes(usize),
    /// No site, or more sites than nodes.
    #[error("--sites must be 1 to {nodes}, the number of nodes, not {sites}")]
    Sites {
        /// As asked for.
        sites: usize,
        /// As asked for.
        nodes: usize,
    },
    /// Not a rate.
    #[error("--rate must be more than 0 and at most {RATE_MAX} purges a second, not {0}")]
    Rate(f64),
    /// Not a share, or one at which no fleet is of use.
    #[error("--loss must be a share from 0 to {LOSS_MAX}, as 0.01 for 1 %, not {0}")]
    Loss(f64),
}

impl SizeArgs {
    fn check(&self) -> Result<(), SizeError> {
        if !(2..=NODES_MAX).contains(&self.nodes) {
            return Err(SizeError::Nodes(self.nodes));
        }
        if !(1..=self.nodes).contains(&self.sites) {
            return Err(SizeError::Sites {
                sites: self.sites,
                nodes: self.nodes,
            });
        }
        if !(self.rate > 0.0 && self.rate <= RATE_MAX) {
            return Err(SizeError::Rate(self.rate));
        }
        if !(0.0..=LOSS_MAX).contains(&self.loss) {
            return Err(SizeError::Loss(self.loss));
        }
        Ok(())
    }

    fn delay(&self) -> Duration {
        if self.sites > 1 { FAR } else { NEAR }
    }

    /// How long purges are issued: a few seconds, long enough for some rounds and short enough for some million
    /// events; where there are few purges, until there are enough.
    fn lasts(&self, nodes: usize) -> Duration {
        let rounds = (2_000.0 / self.rate).clamp(0.2, 20.0);
        let purges = DELIVERIES_MIN as f64 / (nodes - 1) as f64;
        let most = NODE_SECONDS_MAX / nodes as f64;
        Duration::from_secs_f64(rounds.max(purges.ceil() / self.rate).min(most))
    }

    fn measure(&self) -> Measured {
        let nodes = self.nodes.min(SIMULATED_MAX);
        let (repair_bytes_peer, repair_bytes_all) = repair_budgets(self.rate);
        let load = Load {
            nodes,
            sites: self.sites.min(nodes),
            rate: self.rate,
            origins: nodes,
            loss: self.loss,
            delay: self.delay(),
            lead: Duration::ZERO,
            lasts: self.lasts(nodes),
            config: Config {
                replay_window: 4_096,
                repair_bytes_peer: repair_bytes_peer as u64,
                repair_bytes_all: repair_bytes_all as u64,
                ..Config::default()
            },
        };
        load.measure(1)
    }
}

/// Says it.
pub fn run(args: &SizeArgs) -> Result<Value, SizeError> {
    args.check()?;
    let measured = args.measure();
    let traffic = Traffic::new(args, &measured);
    Ok(json!({
        "fleet": {
            "nodes": args.nodes,
            "sites": args.sites,
            "purges_per_second": args.rate,
            "loss": args.loss,
            "assumed": {
                "one_way_ms_between_sites": args.delay().as_secs_f64() * 1e3,
                "purges_are_issued": "at all nodes alike",
                "a_purge_is_of": "a URL",
            },
        },
        "latency": latency(args, &measured),
        "network_of_a_node": traffic.json(),
        "a_day": a_day(args),
        "settings": settings(args, &traffic),
        "warnings": warnings(args, &measured),
    }))
}

fn latency(args: &SizeArgs, measured: &Measured) -> Value {
    let large = args.nodes > SIMULATED_MAX;
    let at = |share, measured_ms: f64| -> Value {
        if measured.deliveries < DELIVERIES_MIN {
            return Value::Null;
        }
        let ms = if large {
            measured_ms.max(latency_by_rounds_ms(args, share))
        } else {
            measured_ms
        };
        if ms.is_finite() {
            json!((ms * 10.0).round() / 10.0)
        } else {
            Value::Null
        }
    };
    let run = format!("a run of the production core, {} nodes", measured.nodes);
    let by = if large {
        format!(
            "about: the larger of {run}, and of the paper's recurrence, push-pull, after one broadcast"
        )
    } else {
        run
    };
    json!({
        "p50_ms": at(0.5, measured.p50_ms),
        "p95_ms": at(0.95, measured.p95_ms),
        "p99_ms": at(0.99, measured.p99_ms),
        "by": by,
    })
}

/// The way there, and as many rounds as it takes until no more than the rest lack a purge.
fn latency_by_rounds_ms(args: &SizeArgs, share: f64) -> f64 {
    let exchange = Exchange::real(args.nodes as u32, args.loss, true);
    let rounds = rounds_until(exchange, Start::broadcast(), 1.0 - share, 100_000);
    let rounds = rounds.map_or(f64::INFINITY, |rounds| rounds as f64);
    // A repair is an answer to an answer.
    let ways = if rounds > 0.0 { 3.0 } else { 1.0 };
    let round = Config::default().round.as_secs_f64();
    (rounds * round + ways * args.delay().as_secs_f64()) * 1e3
}

/// What one node sends and receives.
struct Traffic {
    datagrams_out: f64,
    bytes_out: f64,
    gossip_bytes: f64,
    /// Of a node at which all of the fleet's purges are issued.
    bytes_out_of_sole_issuer: f64,
    loss: f64,
}

impl Traffic {
    /// From the run; where it was of fewer nodes, a purge goes to more peers but is issued at each node
    /// the less often, so what a node sends stays what it was.
    fn new(args: &SizeArgs, measured: &Measured) -> Traffic {
        let purge_datagrams = args.rate * (measured.nodes - 1) as f64 / measured.nodes as f64;
        let datagram_bytes = measured.dissemination_bytes / purge_datagrams.max(1e-9);
        let peers = (args.nodes - 1) as f64;
        let gossip_bytes = measured.bytes - measured.dissemination_bytes;
        Traffic {
            datagrams_out: measured.datagrams,
            bytes_out: measured.bytes,
            gossip_bytes,
            bytes_out_of_sole_issuer: args.rate * peers * datagram_bytes + gossip_bytes,
            loss: args.loss,
        }
    }

    fn json(&self) -> Value {
        let bits = |bytes: f64| (bytes * 8.0).round();
        json!({
            "datagrams_out_per_second": (self.datagrams_out * 10.0).round() / 10.0,
            "out_bits_per_second": bits(self.bytes_out),
            "in_bits_per_second": bits(self.bytes_out * (1.0 - self.loss)),
            "of_that_dissemination_bits_per_second": bits(self.bytes_out - self.gossip_bytes),
            "of_that_gossip_bits_per_second": bits(self.gossip_bytes),
            "out_bits_per_second_if_all_purges_are_issued_here": bits(self.bytes_out_of_sole_issuer),
            "with": "seal, UDP and IPv4 headers",
        })
    }
}

fn a_day(args: &SizeArgs) -> Value {
    let purges = args.rate * DAY_S;
    json!({
        "purges": purges.round(),
        "memory_bytes_with_a_journal": (purges * JOURNALED_BYTES).round(),
        "memory_bytes_without_a_journal": (purges * HELD_BYTES).round(),
        "disk_bytes_of_the_journal": (purges * DISK_BYTES).round(),
        "memory_bytes_for_peers": peers_bytes(args.nodes, replay_window(args)).round(),
    })
}

fn setting(name: &str, value: impl Into<Value>, why: String) -> Value {
    json!({ "name": name, "value": value.into(), "why": why })
}

fn settings(args: &SizeArgs, traffic: &Traffic) -> Vec<Value> {
    let default = Config::default();
    let (peer, all) = repair_budgets(args.rate);
    let journal = Kept::new(args.rate, DISK_BYTES, JOURNAL_BYTES);
    let held = Kept::new(args.rate, HELD_BYTES, RETENTION_BYTES);
    let socket = socket_bytes(traffic);
    let window = replay_window(args);
    vec![
        setting(
            "limits.round",
            format!("{}ms", default.round.as_millis()),
            "A lost purge is mended within about one round, and an idle node sends at most one datagram in \
             it: the default suits all sizes."
                .to_owned(),
        ),
        setting(
            "limits.repair_bytes_peer",
            format!("{}KiB", (peer / KIB).round()),
            format!(
                "A node that was away for an hour, {:.0} purges, has them all within about two minutes.",
                args.rate * 3_600.0
            ),
        ),
        setting(
            "limits.repair_bytes_all",
            format!("{}KiB", (all / KIB).round()),
            format!(
                "Four nodes can recover at full speed at once, and repairs take {:.0} Mbit/s of a node at most.",
                all / default.round.as_secs_f64() * 8.0 / 1e6
            ),
        ),
        setting(
            "journal.bytes",
            journal.value(),
            format!("On disk, {DISK_BYTES} bytes a purge: {}.", journal.says()),
        ),
        setting(
            "limits.retention_bytes",
            held.value(),
            format!(
                "Only where journal.dir is \"\", so that purges are held in memory, {HELD_BYTES} bytes each: {}.",
                held.says()
            ),
        ),
        setting(
            "limits.replay_window",
            window,
            format!(
                "Two seconds of what one node sends to another if it issues all purges; {} for all peers.",
                human_bytes(args.nodes.saturating_sub(1) as f64 * window as f64 / 8.0)
            ),
        ),
        setting(
            "limits.socket_bytes",
            format!("{}MiB", (socket / MIB).round()),
            "The kernel keeps all that arrives while the process pauses for a second.".to_owned(),
        ),
        setting(
            "net.core.rmem_max",
            socket as u64,
            "The kernel grants no socket more than this, whatever limits.socket_bytes asks for; set \
             net.core.wmem_max alike."
                .to_owned(),
        ),
    ]
}

/// Room for the purges of a day, as far as the setting goes.
struct Kept {
    bytes: f64,
    hours: f64,
}

impl Kept {
    fn new(rate: f64, purge_bytes: f64, (least, most): (f64, f64)) -> Kept {
        let wanted = rate * DAY_S * purge_bytes * TO_SPARE;
        let bytes = ((wanted / MIB).ceil() * MIB).clamp(least, most);
        Kept {
            bytes,
            hours: bytes / purge_bytes / rate / 3_600.0,
        }
    }

    fn value(&self) -> String {
        format!("{}MiB", self.bytes / MIB)
    }

    fn says(&self) -> String {
        match self.hours {
            hours if hours >= 24.0 * TO_SPARE => {
                "the retention of a day is kept with a quarter or more to spare".to_owned()
            }
            hours if hours >= 24.0 => {
                "the retention of a day is kept, with little to spare".to_owned()
            }
            hours => format!(
                "{hours:.1} hours at this rate, so the retention of a day is not kept: the oldest go first"
            ),
        }
    }
}

/// Bytes of repairs in a round: to one peer, to all. Some two exchanges a round help a node that was away.
pub fn repair_budgets(purges_per_second: f64) -> (f64, f64) {
    let default = Config::default();
    let rounds = 60.0 / default.round.as_secs_f64();
    let hour = purges_per_second * 3_600.0 * REPAIR_BYTES;
    let wanted = hour / rounds / 2.0;
    let step = 64.0 * KIB;
    let most = 64.0 * MIB;
    let peer = ((wanted / step).ceil() * step).clamp(default.repair_bytes_peer as f64, most);
    (peer, peer * 4.0)
}

/// A power of two: what a peer may send in two seconds.
fn replay_window(args: &SizeArgs) -> u64 {
    let wanted = ((args.rate + 100.0) * 2.0).ceil() as u64;
    wanted.next_power_of_two().clamp(1_024, 16_777_216)
}

fn socket_bytes(traffic: &Traffic) -> f64 {
    let wanted = traffic.datagrams_out * SOCKET_DATAGRAM_BYTES;
    let mib = (wanted / MIB).ceil().clamp(8.0, 1_024.0);
    mib * MIB
}

fn human_bytes(bytes: f64) -> String {
    match bytes {
        bytes if bytes < MIB => format!("{:.0} KiB", bytes / KIB),
        bytes => format!("{:.0} MiB", bytes / MIB),
    }
}

fn warnings(args: &SizeArgs, measured: &Measured) -> Vec<String> {
    let mut warnings = Vec::new();
    if measured.coverage < 1.0 {
        warnings.push(format!(
            "Of all purges that each node should have, {:.3} % were there two minutes after the last one: the \
             others are counted as later than any.",
            measured.coverage * 100.0
        ));
    }
    if measured.deliveries < DELIVERIES_MIN {
        warnings.push(format!(
            "At this rate a run long enough for {DELIVERIES_MIN} latencies takes too long: none can be said."
        ));
    }
    if args.nodes - 1 > PEERS_MAX {
        warnings.push(format!(
            "A node takes at most {PEERS_MAX} peers, whatever sites they are in: a fleet of {} cannot be run.",
            args.nodes
        ));
    }
    if args.nodes > SIMULATED_MAX {
        warnings.push(format!(
            "Traffic is from a run of {SIMULATED_MAX} nodes; a larger fleet's digests are a little larger."
        ));
    }
    if args.loss > 0.3 {
        warnings.push("At such a loss find its cause first.".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purges_that_are_missing_are_later_than_any() {
        let args = SizeArgs {
            nodes: 2,
            sites: 1,
            rate: 10.0,
            loss: 0.0,
        };
        let whole = args.measure();
        assert!(latency(&args, &whole)["p99_ms"].is_number());
        assert_eq!(warnings(&args, &whole), Vec::<String>::new());

        let part = Measured {
            coverage: 0.75,
            p95_ms: f64::INFINITY,
            p99_ms: f64::INFINITY,
            ..whole
        };
        let few = Measured {
            deliveries: DELIVERIES_MIN - 1,
            ..whole
        };
        for nodes in [2, 301] {
            let args = SizeArgs {
                nodes,
                ..args.clone()
            };
            assert!(latency(&args, &part)["p50_ms"].is_number());
            for name in ["p95_ms", "p99_ms"] {
                assert!(latency(&args, &part)[name].is_null(), "{name}");
            }
            assert!(latency(&args, &few)["p50_ms"].is_null());
            assert!(warnings(&args, &few)[0].contains("1000 latencies"));
            let told = warnings(&args, &part);
            assert!(told[0].contains("75.000 %"), "{told:?}");
        }
    }

    #[test]
    fn a_quiet_fleet_is_run_until_there_are_enough_latencies() {
        let args = SizeArgs {
            nodes: 2,
            sites: 1,
            rate: 0.1,
            loss: 0.1,
        };
        let measured = args.measure();
        assert!(measured.deliveries >= DELIVERIES_MIN);
        // One in ten has to wait for a digest, and some of these for another one.
        assert!(
            measured.p95_ms > 20.0 && measured.p99_ms > 100.0,
            "{measured:?}"
        );
        assert!(measured.p50_ms < 2.0, "{measured:?}");
    }
}
