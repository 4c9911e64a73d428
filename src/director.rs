//! The director `powderhorn` of each VCL that calls `start()`: the fleet in `varnishadm backend.list`.
//!
//! It is no backend. Its column "Probe" is how many nodes of the fleet are up, "Health" whether
//! purges get through at all, and with `-p` it shows the verdict and the peers.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use powderhorn_node::{Node, Status, fit, fit_text};
use serde_json::json;
use varnish::ffi::vrt_ctx;

use crate::shim::{Director, Listing, Show};
use crate::{admin, runtime};

/// Whether it was well a moment ago, and since when that is so.
static HEALTH: Mutex<Option<(bool, f64)>> = Mutex::new(None);

/// Bytes of JSON around the details.
const DETAILS_AROUND: usize = 64;

/// Gives the VCL that is being loaded its director.
pub fn add(ctx: &vrt_ctx) -> Option<Director> {
    let show = Show {
        list,
        broken,
        healthy,
    };
    Director::add(ctx, show)
}

/// Nodes that are up, and all: this one included.
fn nodes(status: &Status) -> (usize, usize) {
    let up = status.peers.iter().filter(|peer| peer.state == "up");
    (1 + up.count(), 1 + status.peers.len())
}

/// Whether purges get through: this node works, and of its peers, if it has any, one at least is up.
fn well(works: bool, peers: u64, peers_up: u64) -> bool {
    works && (peers == 0 || peers_up > 0)
}

fn is_well(status: &Status) -> bool {
    let (up, all) = nodes(status);
    let works = status.runtime == "running" && status.applier == "running";
    well(works, all as u64 - 1, up as u64 - 1)
}

fn healthy() -> (bool, f64) {
    note(runtime::node().is_ok_and(|node| is_well(&node.status())))
}

/// Notes how a node and its peers are, without a look at all the rest of its status.
pub fn look(node: &Node, peers: u64, peers_up: u64) {
    note(well(node.works(), peers, peers_up));
}

/// Notes whether all is well now; since when that is so.
fn note(now: bool) -> (bool, f64) {
    let mut health = HEALTH.lock();
    match *health {
        Some((before, since)) if before == now => (before, since),
        _ => *health.insert((now, wall_clock_s())),
    }
}

fn wall_clock_s() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn list(listing: Listing) -> String {
    let status = runtime::node().ok().map(|node| node.status());
    let (up, all) = status.as_ref().map_or((0, 0), nodes);
    let health = match status.as_ref().is_some_and(is_well) {
        true => "healthy",
        false => "sick",
    };
    match (listing.json, listing.details) {
        (false, false) => format!("{up}/{all}\t{health}"),
        (true, false) => format!("[{up}, {all}, \"{health}\"]"),
        (false, true) => {
            let text = match &status {
                Some(status) => admin::peers_text(status),
                None => format!("{}\n", runtime::RuntimeError::NotRunning),
            };
            // Half of it is for the backends that are still to come.
            indented(&fit_text(text, listing.room / 2))
        }
        (true, true) => {
            let mut details = match &status {
                Some(status) => admin::details_json(status),
                None => {
                    json!({ "ok": false, "runtime": "ended", "verdict": runtime::RuntimeError::NotRunning.to_string() })
                }
            };
            let room = (listing.room / 2).saturating_sub(DETAILS_AROUND);
            let text = fit(&mut details, room).unwrap_or_else(|| "{}".to_owned());
            format!("{text},\n")
        }
    }
}

fn broken(listing: Listing) -> &'static str {
    match (listing.json, listing.details) {
        (false, false) => "0/0\tsick",
        (true, false) => "[0, 0, \"sick\"]",
        (false, true) => "",
        (true, true) => "{},\n",
    }
}

/// Text for a table of varnishd's: a line that begins with a blank is none of its rows.
fn indented(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        out.push_str("\n  ");
        out.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    out
}
