//! The fleet of the paper's experiments: at one place, one member multicasts, and some have trouble.

use std::time::Duration;

use powderhorn_protocol::config::Config;

use crate::fleet::{Fleet, NodeSpec, START};
use crate::net::{Change, Network, Path};
use crate::record::{Recorder, Span};

pub(super) const PAPER: &str = "Bimodal Multicast, ACM TOCS 17(2), 1999";
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// Sessions are proven by then.
const WARM_UP: Duration = Duration::from_secs(3);
/// The least limit that the core takes is two datagrams a round: some 60 purges. The paper's 10 KB were
/// 10 messages.
pub(super) const LEAST_LIMIT: u64 = 2_400;
pub(super) const NO_LIMIT: u64 = 1 << 30;
/// One way between any two members.
pub(super) const DELAY: Duration = Duration::from_millis(1);

/// Groups of a run: who multicasts, who has no trouble, who has.
const NAMES: [&str; 3] = ["sender", "unaffected", "affected"];
/// The node that multicasts.
pub(super) const SENDER: usize = 0;
pub(super) const UNAFFECTED: usize = 1;
pub(super) const AFFECTED: usize = 2;

/// Such a fleet.
pub(super) struct Setting {
    /// Members.
    pub nodes: usize,
    /// The last of them, which have trouble.
    pub troubled: usize,
    /// Between two rounds of gossip.
    pub round: Duration,
    /// Bytes of repairs in a round: to one peer, and to all.
    pub limits: [u64; 2],
    /// Steps of what is measured over time.
    pub bin: Duration,
}

impl Setting {
    /// Starts it; sessions are proven when it is there.
    pub fn fleet(&self) -> Fleet {
        let nodes = self.nodes;
        let settings = Config {
            round: self.round,
            repair_bytes_peer: self.limits[0],
            repair_bytes_all: self.limits[1],
            replay_window: 4_096,
            ..Config::default()
        };
        let specs = (0..nodes).map(|node| NodeSpec::numbered(node, "", settings.clone()));
        let path = Path {
            delay: DELAY,
            jitter: Duration::from_micros(300),
            ..Path::default()
        };
        let group_of = (0..nodes).map(|node| match node {
            SENDER => 0,
            node if node + self.troubled >= nodes => AFFECTED,
            _ => UNAFFECTED,
        });
        let names = NAMES.map(str::to_owned).to_vec();
        let record = Recorder::new(names, group_of.collect(), START + WARM_UP, self.bin);
        let net = Network::flat(nodes, path);
        let mut fleet = Fleet::new(1, specs.collect(), net, record);
        fleet.run(WARM_UP);
        fleet
    }
}

pub(super) fn cut() -> Change {
    Change {
        cut: true,
        ..Change::default()
    }
}

/// What each node of a group did in each step of a run.
pub(super) fn each_step(record: &Recorder, group: usize, of: impl Fn(&Span) -> f64) -> Vec<f64> {
    let nodes = record.nodes_of(group).max(1) as f64;
    let spans = record.spans(group).iter();
    spans.map(|span| of(span) / nodes).collect()
}

pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

pub(super) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}
