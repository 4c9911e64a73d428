//! Another configuration for a node that runs: what can change while it runs counts at once, and the rest is named.

use std::path::PathBuf;
use std::sync::Arc;

use log::Level;

use crate::config::{Config, ConfigError};
use crate::node::{Node, Shared};
use crate::settings::{Change, changes, merged};
use crate::watch::Stamp;
use crate::{journal, sys};

/// What becomes of another configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// What counts without a restart.
    pub applied: Vec<Change>,
    /// What only a restart of Varnish changes.
    pub pending: Vec<Change>,
}

impl Reload {
    fn of(before: &Config, after: &Config) -> (Reload, Config) {
        let merged = merged(before, after);
        let reload = Reload {
            applied: changes(before, &merged),
            pending: changes(&merged, after),
        };
        (reload, merged)
    }

    /// Whether it says the same.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.pending.is_empty()
    }

    fn pending(&self) -> Option<String> {
        let pending = &self.pending;
        (!pending.is_empty())
            .then(|| format!("only a restart of Varnish changes {}", list(pending)))
    }
}

impl Node {
    /// What [`Node::reload`] would do, without doing it. Another path is no change.
    pub fn changes(&self, config: &Config) -> Reload {
        Reload::of(&self.shared.config(), config).0
    }

    /// Goes on with another configuration: what can change counts from now on and is listed in a notice, and what cannot
    /// is named in another, and in the status until the configuration is as it was or Varnish has started again. Sources of
    /// peers that are new are asked without being waited for.
    pub fn reload(&self, config: &Config) -> Reload {
        let shared = &self.shared;
        // Held to the end, so that two reloads come one after the other.
        let mut members = shared.members.lock();
        let before = shared.config();
        let (reload, config) = Reload::of(&before, config);
        shared.note_pending(&reload);
        if reload.applied.is_empty() {
            return reload;
        }
        *shared.config.write() = Arc::new(config.clone());
        let now = sys::boot_clock();
        shared
            .core
            .lock()
            .set_config(now, journal::core_config(&config));
        members.set(now, &config);
        let text = format!("configuration read again: {}", list(&reload.applied));
        shared.notices.say(Level::Info, text);
        shared.read_nodes_file(&mut members);
        shared.turn_members(&mut members);
        shared.show_sources(&members);
        drop(members);
        shared.look_at_members();
        reload
    }
}

/// Watches the configuration file. A change counts with a reload only; but a mistake in it would keep the next
/// process of the cache from starting, and nobody would see it before.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// The state last tried; the outer `None` if none was.
    tried: Option<Option<Stamp>>,
    /// What it says, if that can be used.
    read: Option<Config>,
}

impl ConfigFile {
    pub fn new(path: PathBuf) -> ConfigFile {
        ConfigFile {
            path,
            tried: None,
            read: None,
        }
    }

    /// What the next start would read; `None` while it is being written. One that fails is read each time, as it may be
    /// another file that is mended.
    fn poll(&mut self) -> Option<Result<&Config, ConfigError>> {
        // Looked at before it is read: a change in between is read once more, not missed.
        let stamp = Stamp::of(&self.path);
        if self.tried != Some(stamp) || self.read.is_none() {
            if self.tried.is_some() && stamp.is_some_and(|stamp| !stamp.settled()) {
                return None;
            }
            self.tried = Some(stamp);
            self.read = None;
            match Config::load(&self.path) {
                Ok(config) => self.read = Some(config),
                Err(error) => return Some(Err(error)),
            }
        }
        self.read.as_ref().map(Ok)
    }
}

impl Shared {
    /// Names what only a restart changes: a process of the cache that starts again by itself has it, too.
    fn note_pending(&self, reload: &Reload) {
        let pending = reload.pending();
        let mut before = self.config_pending.lock();
        if *before == pending {
            return;
        }
        if let Some(pending) = &pending {
            let text = format!("the configuration has changed: {pending}");
            self.notices.say(Level::Warn, text);
        }
        *before = pending;
    }

    /// Notes whether the cache would start again with the file as it is now.
    pub fn look_at_config(&self, file: &mut ConfigFile) {
        let error = match file.poll() {
            None => return,
            Some(Ok(config)) => {
                // A reload may have been by an earlier reading of it.
                self.note_pending(&Reload::of(&self.config(), config).0);
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

fn list(changes: &[Change]) -> String {
    let texts: Vec<String> = changes.iter().map(Change::to_string).collect();
    texts.join("; ")
}
