//! What `varnishstat` shows as `POWDERHORN.*`: all that the node, the engine and the VMOD count.
//!
//! One segment of shared memory for the life of the process, whatever VCLs come and go; the background
//! thread writes it once a second. Names have two parts, and letters, digits and underscores only: the
//! Prometheus exporter for Varnish makes metrics' names of more parts, and fails at a hyphen.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use powderhorn_node::{Counter, Time, boot_clock};
use serde_json::{Value, json};

use crate::{admin, director, engine, guard, runtime, shim};

/// Time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The figures that an operator looks at first.
const FIRST: [&str; 36] = [
    "apply_panics",
    "applied",
    "apply_failed",
    "bans_too_many",
    "cli_commands",
    "dns_failures",
    "evicted",
    "expired",
    "fence_overtaken",
    "fleet_known",
    "fleet_lag_ms",
    "fleet_oldest_news_ms",
    "flushed",
    "held_bytes",
    "isolated",
    "issued",
    "lost",
    "members_source_errors",
    "net_kernel_drops",
    "not_journalled",
    "objects",
    "objects_killed",
    "objects_softened",
    "peers",
    "peers_up",
    "purges_ban",
    "purges_digest",
    "purges_everything",
    "purges_flush",
    "purges_keys",
    "ready",
    "received",
    "recovered",
    "unsupported",
    "vmod_panics",
    "wanted",
];

/// Those that only somebody who knows the protocol can read.
const LAST: [&str; 21] = [
    "asks_in",
    "asks_out",
    "challenges",
    "digests_in",
    "digests_out",
    "events_dropped",
    "floors_out",
    "frames_unknown",
    "misdirected",
    "receipts_in",
    "receipts_out",
    "reflected",
    "repairs_repeated",
    "rounds",
    "rounds_alone",
    "sessions",
    "solicited",
    "solicits_in",
    "solicits_out",
    "solicits_stale",
    "unproven",
];

/// What of the engine's can fall as well.
const ENGINE_GAUGES: [&str; 8] = [
    "bans_recent",
    "fence_bytes",
    "index_bytes",
    "key_pairs",
    "keys",
    "objects",
    "older_objects",
    "soft_everything_busy",
];

struct Segment {
    values: &'static [AtomicU64],
    /// Which of the values each name is.
    places: BTreeMap<&'static str, usize>,
}

/// Set once, when the runtime starts.
static SEGMENT: OnceLock<Segment> = OnceLock::new();

/// When it was written last, in µs of the boot clock.
static WRITTEN: AtomicI64 = AtomicI64::new(i64::MIN);

/// How often it was written.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Makes the segment. Called on varnishd's CLI thread, once the runtime runs.
pub fn start() {
    let figures = figures();
    if SEGMENT.get().is_some() || figures.is_empty() {
        return;
    }
    // varnishd keeps the pointer for as long as the segment, which is for good.
    let doc: &'static CStr = match CString::new(describe(&figures).to_string()) {
        Ok(doc) => Box::leak(doc.into_boxed_c_str()),
        Err(_) => return,
    };
    SEGMENT.get_or_init(|| Segment {
        values: shim::counters(c"POWDERHORN", figures.len(), doc),
        places: figures.keys().copied().zip(0..).collect(),
    });
    refresh();
}

/// Writes the segment if it is time to. Cheap if not.
pub fn refresh() {
    let Some(segment) = SEGMENT.get() else { return };
    let now = boot_clock();
    let written = WRITTEN.load(Ordering::Relaxed);
    if written != i64::MIN && now.since(Time::from_us(written)) < INTERVAL {
        return;
    }
    WRITTEN.store(now.as_us(), Ordering::Relaxed);
    WRITES.fetch_add(1, Ordering::Relaxed);
    let figures = figures();
    let value = |name| figures.get(name).map_or(0, |figure| figure.value);
    // So that it is known to the second since when the fleet is well, whenever somebody asks.
    if let Ok(node) = runtime::node() {
        director::look(node, value("peers"), value("peers_up"));
    }
    for (name, figure) in figures {
        let place = segment.places.get(name);
        if let Some(value) = place.and_then(|place| segment.values.get(*place)) {
            value.store(figure.value, Ordering::Relaxed);
        }
    }
}

/// What the engine and the VMOD count.
pub fn of_host() -> Vec<Counter> {
    let own = [
        (
            "vmod_panics",
            "Panics caught in the VMOD; what panicked failed, and the cache went on.",
            guard::panics(),
        ),
        (
            "vmod_writes",
            "Times that these figures were written: each second, unless the thread that applies purges \
             hangs.",
            WRITES.load(Ordering::Relaxed),
        ),
        (
            "cli_commands",
            "Commands of varnishadm that were answered.",
            admin::answered(),
        ),
    ];
    let counter = |grows| {
        move |(name, help, value)| Counter {
            name,
            help,
            grows,
            value,
        }
    };
    let engine = engine::get().map_or_else(|_| Vec::new(), |engine| engine.counters());
    let (gauges, counters): (Vec<_>, Vec<_>) = engine
        .into_iter()
        .partition(|(name, _, _)| ENGINE_GAUGES.contains(name));
    let grow = own.into_iter().chain(counters).map(counter(true));
    grow.chain(gauges.into_iter().map(counter(false))).collect()
}

/// All figures by their names. If two had one name, the node's would be shown.
fn figures() -> BTreeMap<&'static str, Counter> {
    let node = runtime::node().map_or_else(|_| Vec::new(), |node| node.counters());
    let all = of_host().into_iter().chain(node);
    all.map(|counter| (counter.name, counter)).collect()
}

/// `varnishstat -j` writes texts as they are, so that a quotation mark would end one.
fn unquoted(text: &str) -> String {
    text.replace(['"', '\\'], "'")
}

/// What varnishstat reads, as Varnish's own vsctool.py makes it.
fn describe(figures: &BTreeMap<&'static str, Counter>) -> Value {
    let element = |(index, (name, figure)): (usize, (&&'static str, &Counter))| {
        let level = match name {
            name if FIRST.contains(name) => "info",
            name if LAST.contains(name) => "debug",
            _ => "diag",
        };
        let format = match name {
            name if name.ends_with("bytes") || name.contains("_bytes_") => "bytes",
            _ => "integer",
        };
        let shown = json!({
            "name": name,
            "type": if figure.grows { "counter" } else { "gauge" },
            "ctype": "uint64_t",
            "level": level,
            "oneliner": unquoted(figure.help),
            "format": format,
            "docs": "",
            "index": index * size_of::<AtomicU64>(),
        });
        ((*name).to_owned(), shown)
    };
    let elements: serde_json::Map<String, Value> =
        figures.iter().enumerate().map(element).collect();
    json!({
        "version": "1",
        "name": "powderhorn",
        "oneliner": "Powderhorn, fleet-wide purges",
        "order": 90,
        "docs": "",
        "elements": elements.len(),
        "elem": elements,
    })
}
