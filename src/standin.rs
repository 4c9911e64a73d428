//! Stand-in for powderhorn-node while that is being written.
#![allow(missing_docs)]
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    path: Option<String>,
    text: String,
}
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct IssueError(String);
impl Config {
    pub fn load(path: &str) -> Result<Config, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|e| ConfigError(format!("{path}: {e}")))?;
        Ok(Config {
            path: Some(path.into()),
            text,
        })
    }
    pub fn single_node() -> Config {
        Config {
            path: None,
            text: String::new(),
        }
    }
    pub fn source(&self) -> String {
        self.path
            .clone()
            .unwrap_or("no config (single node)".into())
    }
}
pub struct StartInfo {
    pub cache_uptime: Duration,
}
#[derive(Clone)]
pub enum Purge {
    Digest([u8; 32]),
}
#[derive(Clone, Copy)]
pub enum Outcome {
    Applied,
    Failed,
    Unsupported,
}
struct Inner {
    config: Config,
    seq: AtomicU64,
    seen: Mutex<HashSet<u64>>,
    applier: Mutex<Option<Applier>>,
    stopped: Mutex<bool>,
    wake: Condvar,
}
#[derive(Clone)]
pub struct Node(Arc<Inner>);
pub struct Ticket {
    node: Node,
    id: u64,
}
pub struct Job {
    pub purge: Purge,
    pub outcome: Outcome,
}
pub trait Cache {
    fn apply(&mut self, jobs: &mut [Job]);
}
pub struct Applier(Option<Node>);
impl Applier {
    pub fn run(&mut self, _c: &mut dyn Cache) {
        let n = self.0.take().unwrap();
        let mut s = n.0.stopped.lock();
        while !*s {
            n.0.wake.wait(&mut s);
        }
    }
}
impl Node {
    pub fn start(config: Config, _i: StartInfo) -> Result<Node, StartError> {
        let n = Node(Arc::new(Inner {
            config,
            seq: AtomicU64::new(1),
            seen: Mutex::default(),
            applier: Mutex::default(),
            stopped: Mutex::new(false),
            wake: Condvar::new(),
        }));
        *n.0.applier.lock() = Some(Applier(Some(n.clone())));
        Ok(n)
    }
    pub fn issue(&self, _p: Purge) -> Result<Ticket, IssueError> {
        Ok(Ticket {
            node: self.clone(),
            id: self.0.seq.fetch_add(1, Ordering::Relaxed),
        })
    }
    pub fn applier(&self) -> Option<Applier> {
        self.0.applier.lock().take()
    }
    pub fn knows(&self, id: powderhorn_protocol::id::MessageId) -> bool {
        let id = id.seq;
        self.0.seen.lock().contains(&id)
    }
    pub fn digest_text(&self) -> String {
        "1-2".into()
    }
    pub fn status(&self) -> Status {
        Status { a: 1 }
    }
    pub fn same_config(&self, c: &Config) -> bool {
        self.0.config == *c
    }
    pub fn config(&self) -> &Config {
        &self.0.config
    }
    pub fn stop(&self, _d: Duration) -> bool {
        *self.0.stopped.lock() = true;
        self.0.wake.notify_all();
        true
    }
}
impl Ticket {
    pub fn id(&self) -> powderhorn_protocol::id::MessageId {
        powderhorn_protocol::id::MessageId {
            stream: Default::default(),
            seq: self.id,
        }
    }
    pub fn seq(&self) -> u64 {
        self.id
    }
    pub fn complete(self, _o: Outcome) {
        self.node.0.seen.lock().insert(self.id);
    }
}
#[derive(serde::Serialize)]
pub struct Status {
    a: u32,
}
impl Status {
    pub fn to_text(&self) -> String {
        format!("standin {}", self.a)
    }
    pub fn to_json(&self) -> String {
        format!("{{\"standin\":{}}}", self.a)
    }
}
