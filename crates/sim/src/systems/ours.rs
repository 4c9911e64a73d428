//! The production core on the same work: a [`Fleet`], as it is.
//!
//! No node of ours keeps anything for another that has not confirmed: nobody confirms. What a node is
//! going to repair in a round is bounded and forgotten with the round. So
//! [`Outcome::memory_messages_max`] is 0 by design; what is kept instead is each message for the
//! retention, which is [`Outcome::stored_messages_max`] and the same with a dead node and without.

use std::time::Duration;

use powderhorn_protocol::config::Config;
use powderhorn_protocol::time::Time;

use crate::fleet::{Fleet, NodeSpec};
use crate::net::Network;
use crate::record::Recorder;

use super::cases::Run;
use super::{Kind, Outcome, Sample};

/// A fleet, driven like the other systems.
pub struct Ours {
    /// The fleet.
    pub fleet: Fleet,
    /// Deliveries, datagrams and bytes when measuring ended.
    counted: Option<(u64, u64, u64)>,
}

impl Ours {
    /// A fleet of so many nodes; `from` is when measuring begins.
    pub fn new(nodes: usize, net: Network, from: Time, retention: Duration, seed: u64) -> Self {
        let settings = Config {
            retention,
            ..Config::default()
        };
        let site = |node| format!("site-{}", net.site_of(node));
        let specs = (0..nodes).map(|node| NodeSpec::numbered(node, site(node), settings.clone()));
        let specs = specs.collect();
        let record = Recorder::of_all(nodes, from, Duration::from_secs(10));
        Ours {
            fleet: Fleet::new(seed, specs, net, record),
            counted: None,
        }
    }

    fn count(&self) -> (u64, u64, u64) {
        let (datagrams, bytes) = self.fleet.record.sent_by();
        let deliveries = self.fleet.record.all().latency.count();
        (deliveries, datagrams.iter().sum(), bytes.iter().sum())
    }
}

impl Run for Ours {
    fn issue(&mut self, node: usize) {
        if let Some(Err(error)) = self.fleet.issue(node) {
            // 65,536 purges would have to wait at one node.
            panic!("a purge of 32 bytes was refused: {error}");
        }
    }

    fn run_until(&mut self, end: Time) {
        self.fleet.run_until(end);
        if let Some(violation) = &self.fleet.violation {
            panic!("the production core broke its word: {violation}");
        }
    }

    fn net(&mut self) -> &mut Network {
        &mut self.fleet.net
    }

    fn hub(&self) -> usize {
        0
    }

    fn crash(&mut self, node: usize) {
        self.fleet.crash(node, false);
    }

    fn start(&mut self, node: usize) {
        self.fleet.start(node);
    }

    fn sample(&self) -> Sample {
        let cores = (0..self.fleet.len()).filter_map(|node| self.fleet.core(node));
        let stored = cores.map(|core| core.streams().map(|view| view.held.count()).sum::<u64>());
        Sample {
            stored: stored.max().unwrap_or(0),
            ..Sample::default()
        }
    }

    fn sent(&self) -> Vec<u64> {
        self.fleet.record.sent_by().0.to_vec()
    }

    fn stop_measuring(&mut self) {
        self.counted = Some(self.count());
    }

    fn incomplete(&self) -> u64 {
        self.fleet.incomplete() + self.fleet.lost_with_issuer
    }

    fn outcome(&self) -> Outcome {
        let (deliveries, datagrams, bytes) = self.counted.unwrap_or_else(|| self.count());
        let latency = self.fleet.record.all().latency;
        let lacking = self.fleet.lacking().into_iter().map(|(_, count)| count);
        let each = |count: u64| count as f64 / deliveries.max(1) as f64;
        Outcome {
            system: Kind::Ours,
            case: "",
            issued: self.fleet.issued(),
            deliveries,
            p50_ms: latency.quantile_ms(0.5),
            p99_ms: latency.quantile_ms(0.99),
            max_ms: latency.max_ms(),
            lost_messages: self.incomplete(),
            // Of a purge that was only where memory was lost, one node at least lacks it.
            lost_deliveries: lacking.sum::<usize>() as u64 + self.fleet.lost_with_issuer,
            datagrams_per_delivery: each(datagrams),
            bytes_per_delivery: each(bytes),
            payloads_per_delivery: None,
            busiest_datagrams_per_second: 0,
            memory_messages_max: 0,
            stored_messages_max: 0,
            trace: format!("{:016x}", self.fleet.trace()),
            samples: Vec::new(),
            latency,
        }
    }
}
