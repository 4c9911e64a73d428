//! Answers, for people. Nodes of other versions may tell more or less than is shown here: what is missing is left out.

use std::fmt::Write;

use serde_json::Value;

pub fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

pub fn status(status: &Value) -> String {
    let mut out = format!("{}\n\n", word(&status["verdict"]));
    let pairs = |names: &[&str]| {
        let shown = names.iter().filter(|name| !status[**name].is_null());
        let shown = shown.map(|name| format!("{name} {}", word(&status[*name])));
        shown.collect::<Vec<_>>().join(", ")
    };
    let line = |out: &mut String, head: &str, text: &str| {
        if !text.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{head:<8}  {text}");
        }
    };
    line(&mut out, "node", &pairs(&["name", "site", "fleet"]));
    let versions = restart_due(status).unwrap_or_else(|| pairs(&["version", "installed"]));
    line(&mut out, "versions", &versions);
    if !status["config"].is_null() {
        line(&mut out, "config", &word(&status["config"]));
    }
    let purges = ["held", "wanted", "ready", "in_flight", "unsupported"];
    line(&mut out, "purges", &pairs(&purges));
    if let Some(rates) = status["rates"].as_object() {
        let rates = rates.iter().filter_map(|(name, rate)| {
            let rate = rate.as_f64()?;
            Some(format!("{} {rate:.1}", name.replace('_', " ")))
        });
        line(&mut out, "a second", &rates.collect::<Vec<_>>().join(", "));
    }
    let journal = &status["journal"];
    if journal.is_object() {
        let mut text = format!(
            "{} {}, {} of {} bytes",
            word(&journal["dir"]),
            word(&journal["state"]),
            word(&journal["disk_bytes"]),
            word(&journal["bytes_max"])
        );
        if let Some(ms) = journal["oldest_ms"].as_u64() {
            let _ = write!(text, ", oldest purge {}", span(ms));
        }
        line(&mut out, "journal", &text);
    }
    if let Some(ms) = status["reach"]["retention_ms"].as_u64() {
        let text = format!("for purges of the last {} only", span(ms));
        line(&mut out, "room", &text);
    }
    line(&mut out, "threads", &pairs(&["runtime", "applier"]));
    if let Some(peers) = status["peers"].as_array().filter(|peers| !peers.is_empty()) {
        out.push('\n');
        out.push_str(&table(peers));
        out.push_str(&and_more(status));
    }
    let notices: Vec<String> = status["notices"]
        .as_array()
        .iter()
        .flat_map(|list| list.iter().rev().take(5).rev())
        .map(|notice| word(&notice["text"]))
        .collect();
    if !notices.is_empty() {
        let _ = writeln!(out, "\nlatest notices\n{}", notices.join("\n"));
    }
    out
}

/// What to do if another version is installed than the one that runs.
pub fn restart_due(status: &Value) -> Option<String> {
    let (loaded, installed) = (&status["version"], &status["installed"]);
    (loaded.is_string() && installed.is_string() && loaded != installed).then(|| {
        let (loaded, installed) = (word(loaded), word(installed));
        format!("installed {installed}, loaded {loaded}: restart varnish")
    })
}

pub fn peers(status: &Value) -> String {
    match status["peers"].as_array() {
        Some(peers) if !peers.is_empty() => table(peers) + &and_more(status),
        _ if peers_left_out(status) > 0 => and_more(status),
        _ => "a single node: no peers\n".to_owned(),
    }
}

/// How many peers varnishd had no room for in its answer.
pub fn peers_left_out(status: &Value) -> u64 {
    let left_out = status.pointer("/left_out/peers");
    left_out.and_then(Value::as_u64).unwrap_or(0)
}

/// A line on those, if there are any.
pub fn and_more(status: &Value) -> String {
    match peers_left_out(status) {
        0 => String::new(),
        n => format!("and {n} more: raise cli_limit\n"),
    }
}

pub fn trace(receipt: &Value) -> String {
    let mut out = format!(
        "{}: applied on {} of {} nodes{}\n",
        word(&receipt["id"]),
        word(&receipt["done"]),
        word(&receipt["nodes"]),
        match receipt["age_ms"].as_f64() {
            Some(ms) => format!(", issued {:.1} s ago", ms / 1e3),
            None => String::new(),
        }
    );
    let here = ["applied_here", "not_wanted_here"].map(|name| receipt[name].as_bool());
    let mut rows = vec![vec!["node".into(), "site".into(), "applied".into()]];
    rows.push(vec![
        "(the node asked)".into(),
        String::new(),
        match here {
            [Some(true), _] => "yes".into(),
            [_, Some(true)] => "not needed: its cache is younger".into(),
            _ => "NOT YET".into(),
        },
    ]);
    let list = |name: &str| receipt[name].as_array().into_iter().flatten();
    for name in list("missing") {
        rows.push(vec![word(name), String::new(), "NOT YET".into()]);
    }
    for name in list("unsupported") {
        rows.push(vec![
            word(name),
            String::new(),
            "NEVER: see its status".into(),
        ]);
    }
    for node in list("applied") {
        let applied = match (node["not_wanted"].as_bool(), node["latency_ms"].as_f64()) {
            (Some(true), _) => "not needed: its cache is younger".into(),
            (_, Some(ms)) => format!("after {ms:.1} ms"),
            (_, None) => "yes".into(),
        };
        rows.push(vec![word(&node["node"]), word(&node["site"]), applied]);
    }
    out.push_str(&columns(&rows));
    out
}

/// How a figure is shown.
#[derive(Clone, Copy)]
enum Unit {
    None,
    Milliseconds,
    Microseconds,
    Rate,
}

/// What is shown of a peer, in the order in which it is asked for in an incident: heading, place in the JSON, unit.
const COLUMNS: [(&str, &str, Unit); 15] = [
    ("state", "/state", Unit::None),
    ("name", "/name", Unit::None),
    ("site", "/site", Unit::None),
    ("heard", "/heard_ms", Unit::Milliseconds),
    ("digest", "/digest_ms", Unit::Milliseconds),
    ("rtt", "/rtt_us", Unit::Microseconds),
    ("p50", "/latency/p50_ms", Unit::Milliseconds),
    ("p95", "/latency/p95_ms", Unit::Milliseconds),
    ("max", "/latency/max_ms", Unit::Milliseconds),
    ("gaps", "/gaps", Unit::None),
    ("oldest", "/oldest_gap_ms", Unit::Milliseconds),
    ("recovered", "/recovered_per_s", Unit::Rate),
    ("lacks", "/news/lacking", Unit::None),
    ("skew", "/clock_skew_ms", Unit::Milliseconds),
    ("address", "/address", Unit::None),
];

fn table(peers: &[Value]) -> String {
    // A version that does not tell something has no column for it.
    let told = |place: &str| peers.iter().any(|peer| peer.pointer(place).is_some());
    let shown: Vec<_> = COLUMNS.iter().filter(|(_, place, _)| told(place)).collect();
    let mut rows = vec![
        shown
            .iter()
            .map(|(head, _, _)| (*head).to_owned())
            .collect(),
    ];
    for peer in peers {
        let value = |place: &str| peer.pointer(place).unwrap_or(&Value::Null);
        rows.push(
            shown
                .iter()
                .map(|(_, place, unit)| cell(value(place), *unit))
                .collect(),
        );
    }
    columns(&rows)
}

fn cell(value: &Value, unit: Unit) -> String {
    match (unit, value.as_f64()) {
        (Unit::Milliseconds, Some(ms)) if ms.abs() < 1e3 => format!("{ms:.0}ms"),
        (Unit::Milliseconds, Some(ms)) => format!("{:.1}s", ms / 1e3),
        (Unit::Microseconds, Some(us)) => format!("{:.2}ms", us / 1e3),
        (Unit::Rate, Some(rate)) => format!("{rate:.1}/s"),
        _ => word(value),
    }
}

/// A time that may be a second or a day.
fn span(ms: u64) -> String {
    match ms {
        0..100_000 => format!("{:.1} s", ms as f64 / 1e3),
        100_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// Columns as wide as they have to be, two spaces between them.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells.map(|(cell, w)| format!("{cell:<w$}")).collect();
        out.push_str(line.join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// A value in one word, free of what a terminal would act on: names come from other hosts.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect(),
        other => other.to_string(),
    }
}
