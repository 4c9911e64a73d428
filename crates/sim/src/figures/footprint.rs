//! Memory, really measured: what the kernel says is resident, in a process of its own for each point.
//!
//! In one process after another fleet the heap's free room would hide what a fleet needs. What is measured
//! is the whole simulator, its event queue at its fullest included, and so a little more than the cores.

use std::process::Command;
use std::time::Duration;

use powderhorn_protocol::config::Config;
use serde::{Deserialize, Serialize};

use super::FigureError;
use crate::fleet::{Fleet, NodeSpec, START};
use crate::net::{Network, Path};
use crate::record::Recorder;

/// Which fleet.
#[derive(Clone, Debug, clap::Args)]
pub struct FootprintArgs {
    /// Nodes, all of which know each other
    #[arg(long)]
    nodes: usize,
    /// Datagrams by which one may be overtaken
    #[arg(long)]
    replay_window: u64,
    /// Purges that each node then holds
    #[arg(long, default_value_t = 0)]
    purges: u32,
}

/// What it takes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Footprint {
    /// Nodes of the fleet.
    pub nodes: usize,
    /// Resident bytes of a node that holds nothing.
    pub node_bytes: f64,
    /// Resident bytes more, for each purge that a node holds; 0 if none was issued.
    pub held_bytes: f64,
}

/// Runs the fleet and looks at this process. `None` where the system does not say what is resident.
pub fn run(args: &FootprintArgs) -> Option<Footprint> {
    // The program's own pages are there when the first fleet has run. It stays, for what it would leave
    // free the next one would take.
    let _first = at_rest(10, args.replay_window);
    let before = resident_bytes()?;
    let mut fleet = at_rest(args.nodes, args.replay_window);
    let idle = resident_bytes()?;
    for purge in 0..args.purges as usize {
        fleet.issue(purge % args.nodes);
        fleet.run(Duration::from_millis(1));
    }
    fleet.run(Duration::from_secs(5));
    let full = resident_bytes()?;
    let held = args.nodes as f64 * f64::from(args.purges);
    Some(Footprint {
        nodes: args.nodes,
        node_bytes: (idle - before) / args.nodes as f64,
        held_bytes: if held > 0.0 {
            (full - idle) / held
        } else {
            0.0
        },
    })
}

/// A fleet that has nothing to do. All its sessions are proven.
fn at_rest(nodes: usize, replay_window: u64) -> Fleet {
    let settings = Config {
        replay_window,
        ..Config::default()
    };
    let specs = (0..nodes).map(|node| NodeSpec::numbered(node, "", settings.clone()));
    let net = Network::flat(nodes, Path::default());
    let record = Recorder::of_all(nodes, START, Duration::from_secs(3_600));
    let mut fleet = Fleet::new(1, specs.collect(), net, record);
    fleet.run(Duration::from_secs(4));
    fleet
}

/// Has this program measure in a process of its own.
pub fn measure(nodes: usize, replay_window: u64, purges: u32) -> Result<Footprint, FigureError> {
    let failed = |why: String| FigureError::Footprint(why);
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let (nodes, window) = (nodes.to_string(), replay_window.to_string());
    let out = Command::new(program)
        .args(["footprint", "--nodes", &nodes, "--replay-window", &window])
        .args(["--purges", &purges.to_string()])
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !out.status.success() {
        return Err(failed(String::from_utf8_lossy(&out.stderr).into_owned()));
    }
    serde_json::from_slice(&out.stdout).map_err(|error| failed(error.to_string()))
}

/// What of this process is in memory, by Linux's /proc.
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1_024.0)
}
