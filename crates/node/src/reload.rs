//! Another configuration for a node that runs: all of its changes count, or none.

use std::path::PathBuf;
use std::sync::Arc;

use log::Level;

use crate::config::{Config, ConfigError};
use crate::node::{Node, Shared};
use crate::settings::{Change, Takes, changes};
use crate::watch::Stamp;
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

/// Watches the configuration file. A change counts with a reload only; but a mistake in it would keep the next
/// process of the cache from starting, and nobody would see it before.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// The state last tried; the outer `None` if none was.
    tried: Option<Option<Stamp>>,
    failed: bool,
}

impl ConfigFile {
    pub fn new(path: PathBuf) -> ConfigFile {
        ConfigFile {
            path,
            tried: None,
            failed: false,
        }
    }

    /// What the next start would read: `None` for no change, or while it is being written. One that fails is
    /// read each time, as it may be another file that is mended.
    fn poll(&mut self) -> Option<Result<Config, ConfigError>> {
        // Looked at before it is read: a change in between is read once more, not missed.
        let stamp = Stamp::of(&self.path);
        let same = self.tried == Some(stamp) && !self.failed;
        if same || self.tried.is_some() && stamp.is_some_and(|stamp| !stamp.settled()) {
            return None;
        }
        self.tried = Some(stamp);
        let read = Config::load(&self.path);
        self.failed = read.is_err();
        Some(read)
    }
}

impl Shared {
    /// Notes whether the cache would start again with the file as it is now.
    pub fn look_at_config(&self, file: &mut ConfigFile) {
        let error = match file.poll() {
            None => return,
            Some(Ok(config)) => {
                if let Err(pending) = allowed(&self.config(), &config) {
                    let text = format!("{} has changed: {pending}", file.path.display());
                    self.notices.say(Level::Warn, text);
                }
                None
            }
            Some(Err(error)) => Some(error.to_string()),
        };
        let mut before = self.config_error.lock();
        if *before == error {
            return;
        }
        match &error {
            None => {
                let text = format!("{} can be used again", file.path.display());
                self.notices.say(Level::Info, text);
            }
            Some(error) => {
                let text = format!("the cache would not start again: {error}");
                self.notices.say(Level::Error, text);
            }
        }
        *before = error;
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
