//! What operators are shown: as text, and as JSON whose schema is docs/ADMIN-JSON.md.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use powderhorn_node::purge::Host;
use powderhorn_node::{
    Journalled, MessageIds, Node, Purge, Receipt, Status, StreamStatus, fit, fit_list, fit_text,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::shim::Command;
use crate::{engine, errands, guard, host, runtime};

/// How long `powderhorn.trace` waits for the other nodes' answers.
const TRACE_WAIT: Duration = Duration::from_millis(500);

/// Most bytes of a digest as text: it is for people.
const DIGEST_BYTES_MAX: usize = 1 << 20;

/// varnishd's statuses of a command (vcli.h).
const OK: u32 = 200;
const PARAMETER: u32 = 106;
const CANNOT: u32 = 300;

/// What a command has to say.
pub struct Answer {
    /// As varnishd's command line has it.
    pub status: u32,
    /// Text, or if that was asked for and the status is [`OK`], JSON.
    pub text: String,
}

impl Answer {
    /// Nothing was done.
    pub fn cant(why: impl Into<String>) -> Answer {
        Answer {
            status: CANNOT,
            text: why.into() + "\n",
        }
    }

    fn parameter(why: impl Into<String>) -> Answer {
        Answer {
            status: PARAMETER,
            text: why.into() + "\n",
        }
    }
}

/// Both forms of an answer; only one of them is made. The second is in the room that there is, if it can be.
type Forms<'a> = (&'a dyn Fn() -> String, &'a dyn Fn() -> Option<String>);

static ANSWERED: AtomicU64 = AtomicU64::new(0);

/// How many commands have been answered since the process started.
pub fn answered() -> u64 {
    ANSWERED.load(Ordering::Relaxed)
}

/// Answers a command, in `room` bytes at most.
pub fn answer(command: Command, args: &[&[u8]], as_json: bool, room: usize) -> Answer {
    ANSWERED.fetch_add(1, Ordering::Relaxed);
    let node = match runtime::node() {
        Ok(node) => node,
        Err(error) => return Answer::cant(error.to_string()),
    };
    let show = |(text, json): Forms<'_>| match as_json {
        false => Answer {
            status: OK,
            text: fit_text(text(), room),
        },
        true => match json() {
            Some(text) => Answer { status: OK, text },
            None => Answer::cant("the answer is too long: raise cli_limit"),
        },
    };
    let argument = |n: usize| args.get(n).copied().unwrap_or_default();
    match command {
        Command::Status => {
            let status = node.status();
            show((&|| status_text(&status), &|| {
                fit(&mut status_json(&status), room)
            }))
        }
        Command::Peers => {
            let status = node.status();
            show((&|| peers_text(&status), &|| {
                fit(&mut peers_json(&status), room)
            }))
        }
        Command::Digest => show((&|| node.digest_text(DIGEST_BYTES_MAX), &|| {
            digest_json(&node.streams(), room)
        })),
        Command::Streams => {
            let mut streams = node.streams();
            streams.sort_by_key(|stream| std::cmp::Reverse(stream.lacking));
            show((&|| streams_text(&streams), &|| streams_json(&streams, room)))
        }
        Command::Trace => match trace(node, argument(0)) {
            Ok(receipt) => show((&|| receipt_text(&receipt), &|| {
                fit(&mut value(&receipt), room)
            })),
            Err(answer) => answer,
        },
        Command::Purge | Command::Flush => {
            let purge = match command {
                Command::Purge => url_purge(argument(0), argument(1)),
                _ => flush(argument(0)),
            };
            match purge.and_then(|purge| issue(node, purge)) {
                Ok(issued) => show((&|| issued_text(&issued), &|| fit(&mut value(&issued), room))),
                Err(answer) => answer,
            }
        }
    }
}

fn value(of: &impl Serialize) -> Value {
    // What is serialised here has strings for keys, and so cannot fail.
    serde_json::to_value(of).unwrap_or_default()
}

/// The status of the node, of its cache and of the VMOD.
pub fn status_text(status: &Status) -> String {
    let mut text = status.to_text();
    text += "cache:";
    for (name, _, value) in engine::get().iter().flat_map(|engine| engine.counters()) {
        if value > 0 {
            let _ = write!(text, " {name} {value}");
        }
    }
    text += "\n";
    if guard::panics() > 0 {
        let _ = writeln!(text, "panics caught in the VMOD: {}", guard::panics());
    }
    text
}

/// The same.
pub fn status_json(status: &Status) -> Value {
    let mut json = value(status);
    if let Some(fields) = json.as_object_mut() {
        let engine = engine::get();
        let counters = engine.iter().flat_map(|engine| engine.counters());
        let cache = counters.map(|(name, _, value)| (name.to_owned(), value.into()));
        fields.insert("cache".to_owned(), Value::Object(cache.collect()));
        fields.insert("vmod_panics".to_owned(), guard::panics().into());
        fields.insert("peers_up".to_owned(), peers_up(status).into());
    }
    json
}

/// How many peers are up: whoever counts them in an answer that was cut counts too few.
fn peers_up(status: &Status) -> usize {
    let up = status.peers.iter().filter(|peer| peer.state == "up");
    up.count()
}

/// The verdict, and the status's table of peers.
pub fn peers_text(status: &Status) -> String {
    format!("{}\n{}", status.verdict, status.peers_text())
}

/// The same.
pub fn peers_json(status: &Status) -> Value {
    json!({ "verdict": status.verdict, "peers": status.peers })
}

/// The peers, and what a monitoring system judges a node by: for where there is no status as a command.
pub fn details_json(status: &Status) -> Value {
    let mut json = peers_json(status);
    if let Some(fields) = json.as_object_mut() {
        let more = json!({
            "ok": status.ok,
            "peers_up": peers_up(status),
            "version": status.version,
            "installed": status.installed,
            "reach": status.reach,
            "journal": status.journal,
            "wanted": status.wanted,
            "ready": status.ready,
            "in_flight": status.in_flight,
            "unsupported": status.unsupported,
            "runtime": status.runtime,
            "applier": status.applier,
            "key_error": status.key_error,
            "config_error": status.config_error,
            "config_pending": status.config_pending,
        });
        fields.extend(more.as_object().cloned().unwrap_or_default());
    }
    json
}

fn digest_json(streams: &[StreamStatus], room: usize) -> Option<String> {
    let digest = |stream: &StreamStatus| {
        json!({
            "stream": stream.stream,
            "own": stream.own,
            "held": stream.held_ranges,
            "applied": stream.applied_ranges,
            "lacking": stream.lacking,
            "ranges_left_out": stream.ranges_left_out,
        })
    };
    fit_list("streams", streams.iter().map(digest), room)
}

fn streams_json(streams: &[StreamStatus], room: usize) -> Option<String> {
    let told = |stream: &StreamStatus| {
        json!({
            "stream": stream.stream,
            "node": stream.node,
            "own": stream.own,
            "floor": stream.floor,
            "top": stream.top,
            "held": stream.held,
            "applied": stream.applied,
            "lacking": stream.lacking,
            "unsupported": stream.unsupported,
        })
    };
    fit_list("streams", streams.iter().map(told), room)
}

fn streams_text(streams: &[StreamStatus]) -> String {
    let mut text = format!(
        "{:<24} {:>10} {:>10} {:>10} {:>10}  stream\n",
        "node", "top", "held", "applied", "lacking"
    );
    for stream in streams {
        let node = match stream.node.as_str() {
            "" => "-",
            node => node,
        };
        let _ = writeln!(
            text,
            "{node:<24} {:>10} {:>10} {:>10} {:>10}  {}{}",
            stream.top,
            stream.held,
            stream.applied,
            stream.lacking,
            stream.stream,
            if stream.own { " own" } else { "" },
        );
    }
    text
}

/// Where a purge has been applied, once the others have had time to say so.
fn trace(node: &Node, id: &[u8]) -> Result<Receipt, Answer> {
    let id = String::from_utf8_lossy(id);
    let ids: MessageIds = id
        .parse()
        .map_err(|error| Answer::parameter(format!("not an id: {error}")))?;
    // However it ends, the receipt says how far it is.
    let waited = node.wait_applied(ids, 0, TRACE_WAIT);
    waited.map_err(|error| Answer::cant(error.to_string()))?;
    Ok(node.receipt(ids))
}

fn receipt_text(receipt: &Receipt) -> String {
    let here = match (receipt.applied_here, receipt.not_wanted_here) {
        (true, _) => "this one included",
        (false, true) => "not wanted on this one: older than its cache, or expired here",
        (false, false) => "not on this one",
    };
    let mut text = format!(
        "{}: applied on {} of {} nodes, {here}",
        receipt.id, receipt.done, receipt.nodes
    );
    let _ = match receipt.age_ms {
        Some(ms) => writeln!(text, "; issued {:.1} s ago", ms as f64 / 1e3),
        None => writeln!(text, "; not held here"),
    };
    for name in &receipt.missing {
        let _ = writeln!(text, "missing      {name}");
    }
    for name in &receipt.unsupported {
        let _ = writeln!(text, "unsupported  {name}");
    }
    for applied in &receipt.applied {
        let how = match (applied.not_wanted, applied.latency_ms) {
            (true, _) => "not wanted: older than its cache, or expired there".to_owned(),
            (false, Some(ms)) => format!("after {ms:.1} ms"),
            (false, None) => "-".to_owned(),
        };
        let _ = writeln!(
            text,
            "applied      {:<24} {:<12} {how}",
            applied.node, applied.site
        );
    }
    text
}

fn url_purge(url: &[u8], host: &[u8]) -> Result<Purge, Answer> {
    if url.is_empty() || host.is_empty() {
        return Err(Answer::parameter("a URL and a host are needed"));
    }
    if !url.starts_with(b"/") || host.contains(&b'/') {
        let problem = "a URL begins with a slash, and a host has none";
        return Err(Answer::parameter(problem));
    }
    let digest = host::url_digest(url, &host::normalise_host(host));
    Ok(Purge::Digest(digest))
}

fn flush(host: &[u8]) -> Result<Purge, Answer> {
    if host.is_empty() {
        return Err(Answer::parameter("a host is needed"));
    }
    let host = Host::new(&host::normalise_host(host));
    let host = host.map_err(|error| Answer::parameter(error.to_string()))?;
    Ok(Purge::Flush(host))
}

/// A purge that the command line has issued.
#[derive(Serialize)]
struct Issued {
    id: String,
    /// Whether it survives this Varnish.
    journalled: bool,
}

fn issue(node: &Node, purge: Purge) -> Result<Issued, Answer> {
    let ids = errands::send(node, purge).map_err(Answer::cant)?;
    let journalled = match node.wait_journalled() {
        Journalled::Yes => true,
        Journalled::No(reason) if node.requires_journal() => {
            return Err(Answer::cant(format!(
                "{ids} is applied here and sent to the fleet, but not in the journal: {reason}"
            )));
        }
        Journalled::No(_) => false,
    };
    let id = ids.to_string();
    Ok(Issued { id, journalled })
}

fn issued_text(issued: &Issued) -> String {
    match issued.journalled {
        true => format!("{}\n", issued.id),
        false => format!("{}\nnot in the journal\n", issued.id),
    }
}
