//! The one runtime of this process, whatever number of VCLs import the VMOD.
//!
//! ```text
//! vcl_init: start(config)   reads and checks the file; remembers it for this VCL
//! WARM event of that VCL    starts the runtime; or has it go on with what the file says now
//! discard, COLD             change nothing: the runtime stays
//! exit of the child         stops it
//! ```
//!
//! So a VCL that is compiled, or loaded cold and thrown away, starts and changes nothing. What only a
//! start of Varnish reads is named where the file says otherwise, and the rest counts. The latest
//! reading of the file does: a VCL that was loaded with an earlier one and becomes warm again does not
//! bring it back.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use powderhorn_node::{Config, ConfigError, Node, StartError};

use crate::shim::Director;
use crate::{apply, counters, engine, guard, logger, records, shim, uptime};

/// How long the exit of the cache child waits for the runtime's threads.
const EXIT_WAIT: Duration = Duration::from_millis(500);

/// Set once, by the first start that works, and never taken back.
static NODE: OnceLock<Node> = OnceLock::new();

/// Readings of configs so far in this process.
static READINGS: AtomicU64 = AtomicU64::new(0);

/// The number of the reading that the runtime goes by. Changed on varnishd's CLI thread only.
static IN_USE: AtomicU64 = AtomicU64::new(0);

/// What one VCL asked for; lives from its load to its discard.
#[derive(Default)]
pub struct VclState {
    asked: Mutex<Option<Asked>>,
    director: Mutex<Option<Director>>,
}

impl VclState {
    /// Gives the VCL its director, unless it has one.
    pub fn show(&self, add: impl FnOnce() -> Option<Director>) {
        let mut director = self.director.lock();
        if director.is_none() {
            *director = add();
        }
    }
}

/// A config, as it was read for one VCL.
#[derive(Clone)]
struct Asked {
    config: Config,
    /// Later readings have larger numbers.
    reading: u64,
}

/// Why a VCL is refused, or a call fails. Nothing has changed when one of these is returned.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The operator mends the file.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The operator mends what the message names (a port that is taken, for example).
    #[error("{0}")]
    Start(#[from] StartError),
    /// The operator restarts Varnish, or loads a VCL with the config that runs.
    #[error(
        "a powderhorn runs in this Varnish with {running}, so {asked} is refused: \
         restart Varnish to change the config"
    )]
    OtherConfig {
        /// The config of the runtime, as a person knows it.
        running: String,
        /// The config that this VCL asked for.
        asked: String,
    },
    /// The VCL's author decides for one.
    #[error("start() was called twice in this VCL, with {first} and with {second}")]
    TwoConfigs {
        /// The first call's.
        first: String,
        /// The second call's.
        second: String,
    },
    /// An upgraded library was loaded beside the one that runs.
    #[error(
        "another version of this VMOD runs in this Varnish (was the package upgraded?): \
         restart Varnish"
    )]
    OtherCopy,
    /// The VCL's author calls start().
    #[error(
        "powderhorn does not run: call powderhorn.start(\"/etc/varnish/powderhorn.toml\") in \
         vcl_init, or powderhorn.start() for a single node"
    )]
    NotRunning,
}

/// The runtime, if it runs.
pub fn node() -> Result<&'static Node, RuntimeError> {
    NODE.get().ok_or(RuntimeError::NotRunning)
}

/// `start()` in `vcl_init`: reads and checks the config and keeps it for the VCL's WARM event.
pub fn prepare(vcl: &VclState, path: Option<&str>) -> Result<(), RuntimeError> {
    let config = match path {
        Some(path) => Config::load(Path::new(path))?,
        None => Config::single_node(),
    };
    let mut asked = vcl.asked.lock();
    if let Some(first) = asked.as_ref().filter(|first| first.config != config) {
        let (first, second) = (describe(&first.config), describe(&config));
        return Err(RuntimeError::TwoConfigs { first, second });
    }
    check(&config)?;
    let reading = READINGS.fetch_add(1, Ordering::Relaxed) + 1;
    *asked = Some(Asked { config, reading });
    Ok(())
}

/// The VCL's WARM event. Called on varnishd's CLI thread, so never twice at a time.
pub fn warm(vcl: &VclState) -> Result<(), RuntimeError> {
    let Some(Asked { config, reading }) = vcl.asked.lock().clone() else {
        return Ok(());
    };
    if let Some(node) = NODE.get() {
        let earlier = reading < IN_USE.load(Ordering::Relaxed);
        if earlier && node.config().path == config.path {
            return Ok(());
        }
        check(&config)?;
        node.reload(&config);
        records::set(config.log.purges);
        IN_USE.store(reading, Ordering::Relaxed);
        return Ok(());
    }
    check(&config)?;
    logger::install();
    records::set(config.log.purges);
    let node = Node::start(config, uptime::of_process())?;
    shim::POWDERHORN_CLAIMED.store(1, Ordering::Release);
    engine::start(&node.config().purge, node.random_bits());
    if let Some(applier) = node.applier() {
        apply::start(applier);
    }
    IN_USE.store(reading, Ordering::Relaxed);
    if NODE.set(node).is_ok() {
        // SAFETY: the handler is a function of this library, which is never unmapped
        // (`-z nodelete`), and unwinds into nobody.
        unsafe { libc::atexit(at_exit) };
    }
    counters::start();
    Ok(())
}

/// A config can be used if nothing runs here, or if what runs can go on with it.
fn check(config: &Config) -> Result<(), RuntimeError> {
    let Some(node) = NODE.get() else {
        return match shim::other_copy_runs() {
            true => Err(RuntimeError::OtherCopy),
            false => Ok(()),
        };
    };
    let running = node.config();
    // Another file is the same if it says the same.
    if running.path == config.path || node.changes(config).is_empty() {
        return Ok(());
    }
    Err(RuntimeError::OtherConfig {
        running: describe(&running),
        asked: describe(config),
    })
}

/// A config as a person knows it.
fn describe(config: &Config) -> String {
    match &config.path {
        Some(path) => path.display().to_string(),
        None => "no config (single node)".to_owned(),
    }
}

/// The cache child calls exit() when varnishd stops it; no event is sent to VMODs then.
extern "C" fn at_exit() {
    guard::catch("exit", || NODE.get().map(|node| node.stop(EXIT_WAIT)));
}
