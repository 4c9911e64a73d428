//! Fleets in which messages grow old within minutes.

use powderhorn_protocol::config::Config;

use super::{Fleet, TestCore, secs};

/// In seconds.
pub const RETENTION: u64 = 100;

pub fn config() -> Config {
    Config {
        retention: secs(RETENTION),
        join_margin: secs(20),
        ..Config::default()
    }
}

/// One purge a second for so many seconds, at each of `origins` in turn.
pub fn purge_for(fleet: &mut Fleet, origins: &[usize], seconds: u64) {
    for n in 0..seconds as usize {
        fleet.issue(origins[n % origins.len()]);
        fleet.run(secs(1));
    }
}

/// How many messages a node lacks.
pub fn wanted(core: &TestCore) -> u64 {
    core.streams().map(|view| view.wanted).sum()
}

/// How often each node's cache was flushed because it was away for too long.
pub fn flushes(fleet: &Fleet) -> Vec<usize> {
    fleet.nodes.iter().map(|node| node.flushes.len()).collect()
}

/// Cuts a node off from all others, or joins it to them again.
pub fn cut_off(fleet: &mut Fleet, index: usize, cut: bool) {
    let others: Vec<usize> = (0..fleet.nodes.len()).filter(|n| *n != index).collect();
    fleet.cut(&[index], &others, cut);
}
