//! The state of a node in the OpenMetrics text format.

use std::fmt::Write;

use super::{Counter, PeerStatus, Status, counters};
use crate::latency::BUCKETS_MS;
use crate::node::Shared;

/// A label's value: quotes, backslashes and line ends are escaped.
fn label(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

/// Help in one line.
fn help(text: &str) -> String {
    label(text).replace("\\\"", "\"")
}

fn head(out: &mut String, name: &str, kind: &str, text: &str) {
    let _ = writeln!(out, "# TYPE powderhorn_{name} {kind}");
    let _ = writeln!(out, "# HELP powderhorn_{name} {}", help(text));
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// Name, help, and the value of a peer, if there is one.
type OfPeer = (&'static str, &'static str, fn(&PeerStatus) -> Option<f64>);

/// What there is of each peer.
const PEER_GAUGES: [OfPeer; 12] = [
    ("up", "Whether the peer has been heard lately.", |peer| {
        Some(f64::from(u8::from(peer.state == "up")))
    }),
    (
        "heard_seconds",
        "Time since something valid was heard of the peer.",
        |peer| peer.heard_ms.map(seconds),
    ),
    (
        "digest_seconds",
        "Time since the peer's last digest came here.",
        |peer| peer.digest_ms.map(seconds),
    ),
    ("rtt_seconds", "Smoothed round trip to the peer.", |peer| {
        peer.rtt_us.map(|us| us as f64 / 1e6)
    }),
    (
        "clock_skew_seconds",
        "By how much the peer's wall clock is ahead of this node's, within half a round trip.",
        |peer| peer.clock_skew_ms.map(|ms| ms as f64 / 1e3),
    ),
    (
        "news_age_seconds",
        "Age of what the peer last said of itself.",
        |peer| peer.news.as_ref().map(|news| seconds(news.age_ms)),
    ),
    (
        "lag_seconds",
        "All purges older than this, of whichever node, are applied at the peer.",
        |peer| peer.news.as_ref()?.applied_ms.map(seconds),
    ),
    (
        "lacking",
        "Purges that the peer knows to exist and has not applied.",
        |peer| peer.news.as_ref().map(|news| news.lacking as f64),
    ),
    (
        "failing",
        "What does not work at the peer, as it says: the number of things.",
        |peer| peer.news.as_ref().map(|news| news.failing.len() as f64),
    ),
    (
        "retention_seconds",
        "The peer has no room for purges older than this.",
        |peer| peer.news.as_ref()?.retention_ms.map(seconds),
    ),
    (
        "gaps",
        "Purges of the peer that this node knows to exist and has not received.",
        |peer| Some(peer.gaps as f64),
    ),
    (
        "oldest_gap_seconds",
        "Time since when a purge of the peer has been lacking here, or waiting for the cache.",
        |peer| peer.oldest_gap_ms.map(seconds),
    ),
];

fn write_peers(out: &mut String, status: &Status) {
    for (name, help, value) in PEER_GAUGES {
        head(out, &format!("peer_{name}"), "gauge", help);
        for peer in &status.peers {
            if let Some(value) = value(peer) {
                let _ = writeln!(
                    out,
                    "powderhorn_peer_{name}{{peer=\"{}\",site=\"{}\",address=\"{}\"}} {value}",
                    label(peer.who()),
                    label(&peer.site),
                    label(&peer.address)
                );
            }
        }
    }
}

fn write_fleet(out: &mut String, status: &Status, lag_ms: Option<u64>) {
    let reach = &status.reach;
    let gauges = [
        (
            "ok",
            "Whether there is nothing that an operator should see to.",
            Some(f64::from(u8::from(status.ok))),
        ),
        (
            "fleet_nodes",
            "Nodes that are listed, this one counted.",
            Some(reach.nodes as f64),
        ),
        (
            "fleet_known",
            "Nodes whose news is fresh, this one counted.",
            Some(reach.known as f64),
        ),
        (
            "fleet_lag_seconds",
            "All purges older than this are applied at all nodes whose news is fresh; it grows while there are none.",
            lag_ms.map(seconds),
        ),
        (
            "fleet_oldest_news_seconds",
            "Age of the oldest news that this rests on.",
            reach.oldest_news_ms.map(seconds),
        ),
    ];
    for (name, help, value) in gauges {
        head(out, name, "gauge", help);
        if let Some(value) = value {
            let _ = writeln!(out, "powderhorn_{name} {value}");
        }
    }
}

fn write_latencies(out: &mut String, shared: &Shared) {
    let name = "purge_latency_seconds";
    let text = "Time from a purge's issue until it was applied here, by the site of the node that issued it.";
    head(out, name, "histogram", text);
    for (site, histogram) in shared.latencies.lock().by_site() {
        let site = label(site);
        let mut count = 0;
        let ends = BUCKETS_MS
            .iter()
            .map(|ms| format!("{:?}", *ms as f64 / 1e3));
        let ends = ends.chain(["+Inf".to_owned()]);
        for (end, more) in ends.zip(histogram.buckets) {
            count += more;
            let _ = writeln!(
                out,
                "powderhorn_{name}_bucket{{site=\"{site}\",le=\"{end}\"}} {count}"
            );
        }
        let sum = seconds(histogram.sum_ms);
        let _ = writeln!(out, "powderhorn_{name}_sum{{site=\"{site}\"}} {sum}");
        let _ = writeln!(out, "powderhorn_{name}_count{{site=\"{site}\"}} {count}");
    }
}

/// See [`crate::Node::metrics`].
pub(crate) fn metrics(shared: &Shared, more: &[Counter]) -> String {
    let status = Status::take(shared);
    let mut out = String::new();
    head(&mut out, "build", "info", "The library that is loaded.");
    let _ = writeln!(
        out,
        "powderhorn_build_info{{version=\"{}\",node=\"{}\",site=\"{}\",fleet=\"{}\"}} 1",
        label(status.version),
        label(&status.name),
        label(&status.site),
        label(&status.fleet)
    );
    let counters = counters(shared);
    // As varnishstat has it: an alert on a lag must see it grow when nobody is heard.
    let lag = counters.iter().find(|c| c.name == "fleet_lag_ms");
    write_fleet(&mut out, &status, lag.map(|lag| lag.value));
    write_peers(&mut out, &status);
    write_latencies(&mut out, shared);
    // The fleet's lag is there in seconds already.
    let told = |counter: &&Counter| !counter.name.starts_with("fleet_");
    for counter in counters.iter().chain(more).filter(told) {
        let (kind, suffix) = if counter.grows {
            ("counter", "_total")
        } else {
            ("gauge", "")
        };
        head(&mut out, counter.name, kind, counter.help);
        let _ = writeln!(out, "powderhorn_{}{suffix} {}", counter.name, counter.value);
    }
    out.push_str("# EOF\n");
    out
}
