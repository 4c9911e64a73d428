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
