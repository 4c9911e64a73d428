//! Another configuration for a node that runs: all of its changes count, or none.

use std::sync::Arc;

use log::Level;

use crate::config::Config;
use crate::node::Node;
use crate::settings::{Change, Takes, changes};
use crate::{journal, sys};

/// The configuration differs in what a node reads once, at its start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("only a restart of Varnish changes {}", list(.changes))]
pub struct NeedsRestart {
    /// Those differences; others are not among them.
    pub changes: Vec<Change>,
}

impl Node {
    /// What [`Node::reload`] would change, without changing it. Another path is no change.
    pub fn changes(&self, config: &Config) -> Result<Vec<Change>, NeedsRestart> {
        allowed(&self.shared.config(), config)
    }

    /// Goes on with another configuration: all that is other in it counts from now on, and is
    /// listed in a notice. Sources of peers that are new are asked without being waited for.
    pub fn reload(&self, config: &Config) -> Result<Vec<Change>, NeedsRestart> {
        let shared = &self.shared;
        // Held to the end, so that two reloads come one after the other.
        let mut members = shared.members.lock();
        let before = shared.config();
        let changes = allowed(&before, config)?;
        if changes.is_empty() {
            return Ok(changes);
        }
        let config = Config {
            path: before.path.clone(),
            ..config.clone()
        };
        *shared.config.write() = Arc::new(config.clone());
        let now = sys::boot_clock();
        shared
            .core
            .lock()
            .set_config(now, journal::core_config(&config));
        members.set(now, &config);
        let text = format!("configuration read again: {}", list(&changes));
        shared.notices.say(Level::Info, text);
        shared.read_nodes_file(&mut members);
        shared.turn_members(&mut members);
        shared.show_sources(&members);
        drop(members);
        shared.look_at_members();
        Ok(changes)
    }
}

fn allowed(before: &Config, after: &Config) -> Result<Vec<Change>, NeedsRestart> {
    let changes = changes(before, after);
    let refused = |change: &&Change| change.takes == Takes::Restart;
    if changes.iter().any(|change| refused(&change)) {
        let changes = changes.iter().filter(refused).cloned().collect();
        return Err(NeedsRestart { changes });
    }
    Ok(changes)
}

fn list(changes: &[Change]) -> String {
    let texts: Vec<String> = changes.iter().map(Change::to_string).collect();
    texts.join("; ")
}
