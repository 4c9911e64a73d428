//! The status for people.

use std::fmt::Write;
use std::time::Duration;

use super::{PeerStatus, Status, WAITING_FINE};
use crate::sys;

/// What is lacking for longer is worth a word.
const LACKING_FINE_MS: u64 = 10_000;

/// Clocks that differ by more make latencies wrong.
const SKEW_FINE_MS: u64 = 1_000;

/// Peers named in one line of the verdict.
const NAMED_MAX: usize = 3;

fn seconds(ms: u64) -> String {
    if ms < 100_000 {
        format!("{:.1} s", ms as f64 / 1e3)
    } else if ms < 7_200_000 {
        format!("{} min", ms / 60_000)
    } else {
        format!("{} h", ms / 3_600_000)
    }
}

/// How far a clock is ahead.
fn ahead(ms: i64) -> String {
    match ms.unsigned_abs() {
        0..1_000 => format!("{ms:+} ms"),
        far => format!("{}{}", if ms < 0 { '-' } else { '+' }, seconds(far)),
    }
}

/// The first few, and how many more there are.
fn named(all: &[String]) -> String {
    let mut text = all
        .iter()
        .take(NAMED_MAX)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if all.len() > NAMED_MAX {
        let _ = write!(text, " and {} more", all.len() - NAMED_MAX);
    }
    text
}

impl Status {
    /// What does not work on this node itself.
    fn own_troubles(&self, stopping: bool, troubles: &mut Vec<String>) {
        if stopping {
            troubles.push("stopping".to_owned());
        }
        if self.runtime == "gave up" {
            troubles.push(
                "the runtime gave up: neither sends nor receives; restart varnish".to_owned(),
            );
        }
        if self.isolated {
            troubles.push(
                "isolated: what was cached for longer than limits.max_staleness is not served"
                    .to_owned(),
            );
        }
        if self.applier != "running" && !stopping && (self.ready > 0 || !self.peers.is_empty()) {
            troubles.push(format!(
                "the apply thread is {}: the fleet's purges are not applied",
                self.applier
            ));
        }
        for duplicate in &self.duplicate_names {
            troubles.push(format!(
                "the name {} is used by {}",
                duplicate.name,
                duplicate.addresses.join(" and ")
            ));
        }
        let waiting = self.ready + self.in_flight;
        // A few are always under way when purges pour in.
        if waiting > WAITING_FINE {
            troubles.push(format!("{waiting} purges wait for the cache"));
        }
        if let Some(ms) = self
            .reach
            .lacking_here_ms
            .filter(|ms| *ms > LACKING_FINE_MS)
        {
            troubles.push(format!(
                "{} purges known and not applied here, the first since {}",
                self.reach.lacking_here,
                seconds(ms)
            ));
        }
        if let Some(ms) = self.given_up_ms {
            troubles.push(format!(
                "{} purges were given up {} ago, as no node has them: what they were for may still be served \
                 here until varnish is restarted",
                self.given_up,
                seconds(ms)
            ));
        }
        let later = self.unsupported.saturating_sub(self.refused);
        if later > 0 {
            troubles.push(format!(
                "{later} purges are of a later version and NOT applied here: upgrade this node"
            ));
        }
        if self.refused > 0 {
            troubles.push(format!(
                "{} purges were refused by this Varnish and NOT applied here: the log says why",
                self.refused
            ));
        }
        for source in &self.sources {
            if let Some(error) = &source.error {
                troubles.push(format!(
                    "{} fails, its peers stay as they were: {error}",
                    source.source
                ));
            }
        }
        if let Some((journal, error)) = self
            .journal
            .as_ref()
            .and_then(|journal| Some((journal, journal.error.as_ref()?)))
        {
            troubles.push(format!(
                "the journal in {} does not work, purges are held in memory only: {error}",
                journal.dir
            ));
        }
        if let Some(error) = &self.key_error {
            troubles.push(format!(
                "the changed key file is not used, and the cache would not start again: {error}"
            ));
        }
        if let Some(error) = &self.config_error {
            troubles.push(format!("the cache would not start again: {error}"));
        }
        troubles.extend(self.config_pending.clone());
    }

    /// What does not work elsewhere, as far as is heard.
    fn peer_troubles(&self, troubles: &mut Vec<String>) {
        let mut list = |what: &str, of: &dyn Fn(&PeerStatus) -> Option<String>| {
            let all: Vec<String> = self.peers.iter().filter_map(of).collect();
            if !all.is_empty() {
                troubles.push(format!("{what}{}", named(&all)));
            }
        };
        let total = self.peers.len();
        let down = self.peers.iter().filter(|peer| peer.state != "up").count();
        list(&format!("{down} of {total} peers not heard: "), &|peer| {
            let since = peer.heard_ms.map_or("never".to_owned(), seconds);
            (peer.state != "up").then(|| format!("{} ({since})", peer.who()))
        });
        let up = |peer: &PeerStatus| peer.state == "up";
        let known = |peer: &PeerStatus| peer.is_known(self.reach.stale_ms);
        list("no news of ", &|peer| {
            let age = peer
                .news
                .as_ref()
                .map_or("none yet".to_owned(), |news| seconds(news.age_ms));
            let settled = peer.met_ms.is_some_and(|ms| ms > self.reach.stale_ms);
            (up(peer) && settled && !known(peer)).then(|| format!("{} ({age})", peer.who()))
        });
        list("", &|peer| {
            let news = peer.news.as_ref().filter(|_| known(peer))?;
            let since = news.lacking_ms?.saturating_add(news.age_ms);
            let of = news.lacking_of.as_deref().unwrap_or("?");
            (since > LACKING_FINE_MS).then(|| {
                let who = peer.who();
                format!(
                    "{who} lacks {} purges, the first of {of} since {}",
                    news.lacking,
                    seconds(since)
                )
            })
        });
        list("", &|peer| {
            let news = peer.news.as_ref().filter(|_| known(peer))?;
            let (who, nodes) = (peer.who(), self.reach.nodes);
            // Who has just started, or is met by a node that has, has not heard of all yet.
            let settled = peer.met_ms.is_some_and(|ms| ms > self.reach.stale_ms);
            let up = self.peers.iter().filter(|peer| peer.state == "up").count() as u64;
            (settled && news.nodes < up + 1)
                .then(|| format!("{who} hears of {} of {nodes} nodes", news.nodes))
        });
        list("", &|peer| {
            let news = peer.news.as_ref().filter(|_| known(peer))?;
            let what = news.failing.join(" and ");
            let who = peer.who();
            (!news.failing.is_empty()).then(|| format!("{who} says that its {what} fails"))
        });
        list("clocks differ: ", &|peer| {
            let skew = peer.clock_skew_ms.filter(|_| up(peer))?;
            let ahead = if skew > 0 { "ahead" } else { "behind" };
            // It is known no better than the round trip allows.
            let unsure_ms = peer.rtt_us.unwrap_or(0) / 1_000;
            (skew.unsigned_abs() > SKEW_FINE_MS.saturating_add(unsure_ms))
                .then(|| format!("{} {} {ahead}", peer.who(), seconds(skew.unsigned_abs())))
        });
    }

    /// Whether all is well, and what there is to say in one line. Of the fleet it says what its nodes have said,
    /// and how old that is.
    pub(super) fn judge(&self, stopping: bool) -> (bool, String) {
        let mut troubles = Vec::new();
        self.own_troubles(stopping, &mut troubles);
        self.peer_troubles(&mut troubles);
        let reach = &self.reach;
        troubles.extend(self.peers_left_out.clone());
        if self.sources_unanswered {
            troubles.push("not all sources of peers have answered".to_owned());
        }
        let incomplete = self.sources_unanswered || self.peers_left_out.is_some();
        // After a start, and after a cut, it takes some rounds until all are known.
        let ok = troubles.is_empty() && (self.peers.is_empty() || reach.known == reach.nodes);
        if self.peers.is_empty() {
            let waiting = self.ready + self.in_flight;
            let applied = match waiting {
                0 => "all purges known here applied here".to_owned(),
                n => format!("all purges known here applied here but the latest {n}"),
            };
            let peers = match incomplete {
                true => "no peers known",
                false => "a single node",
            };
            troubles.push(format!("{peers}, {applied}"));
        } else {
            troubles.push(match (reach.applied_ms, reach.known) {
                (Some(ms), known @ 2..) if known < reach.nodes || incomplete => {
                    format!(
                        "what these {known} of {} nodes issued more than {} ago is applied on them",
                        reach.nodes,
                        seconds(ms)
                    )
                }
                (Some(ms), 2..) => format!(
                    "all purges older than {} applied on {} of {} nodes",
                    seconds(ms),
                    reach.known,
                    reach.nodes
                ),
                _ => "how far the other nodes are is not known".to_owned(),
            });
            if let (Some(ms), Some(from)) = (reach.oldest_news_ms, &reach.oldest_news_from) {
                troubles.push(format!("oldest news {}, from {from}", seconds(ms)));
            }
        }
        let text = troubles.join("; ");
        (ok, if ok { format!("ok: {text}") } else { text })
    }

    /// The status for people. The first line is the verdict.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    /// The peers as a table, those in trouble first.
    pub fn peers_text(&self) -> String {
        let mut out = String::new();
        let _ = self.write_peers(&mut out);
        out
    }

    fn write_peers(&self, out: &mut String) -> std::fmt::Result {
        if self.peers.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n{:<8} {:<24} {:<10} {:<24} {:>8} {:>8} {:>9} {:>9}  {:>8} {:>8} {:>9}  {:>20} {:>6} {:>9} {:>8}  from",
            "peer",
            "name",
            "site",
            "address",
            "heard",
            "digest",
            "rtt",
            "skew",
            "news",
            "applied",
            "lacking",
            "p50/p95/max",
            "gaps",
            "oldest",
            "rec./s"
        )?;
        let dash = || "-".to_owned();
        let ago = |ms: Option<u64>| ms.map_or_else(dash, seconds);
        for peer in &self.peers {
            let or_dash = |text: &str| {
                if text.is_empty() {
                    dash()
                } else {
                    text.to_owned()
                }
            };
            let rtt = |us| format!("{:.2} ms", us as f64 / 1e3);
            let news = peer.news.as_ref();
            let latency = peer.latency.map_or_else(dash, |latency| {
                format!(
                    "{:.0}/{:.0}/{} ms",
                    latency.p50_ms, latency.p95_ms, latency.max_ms
                )
            });
            writeln!(
                out,
                "{:<8} {:<24} {:<10} {:<24} {:>8} {:>8} {:>9} {:>9}  {:>8} {:>8} {:>9}  {:>20} {:>6} {:>9} {:>8.1}  {}",
                peer.state,
                or_dash(&peer.name),
                or_dash(&peer.site),
                peer.address,
                ago(peer.heard_ms),
                ago(peer.digest_ms),
                peer.rtt_us.map_or_else(dash, rtt),
                peer.clock_skew_ms.map_or_else(dash, ahead),
                ago(news.map(|news| news.age_ms)),
                ago(news.and_then(|news| news.applied_ms)),
                news.map_or_else(dash, |news| news.lacking.to_string()),
                latency,
                peer.gaps,
                ago(peer.oldest_gap_ms),
                peer.recovered_per_s,
                peer.sources.join(", ")
            )?;
        }
        Ok(())
    }

    fn write_rates(&self, out: &mut String) -> std::fmt::Result {
        let rates = &self.rates;
        writeln!(
            out,
            "\neach second {:.1} issued, {:.1} received, {:.1} recovered, {:.1} duplicates, {:.1} applied; \
             datagrams refused {:.1}, dropped by the kernel {:.1}",
            rates.issued,
            rates.received,
            rates.recovered,
            rates.duplicates,
            rates.applied,
            rates.refused,
            rates.kernel_drops
        )
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}", self.verdict)?;
        self.write_peers(out)?;
        self.write_rates(out)?;
        let site = if self.site.is_empty() {
            "-"
        } else {
            &self.site
        };
        writeln!(
            out,
            "\nnode     {}  site {site}  fleet {}",
            self.name, self.fleet
        )?;
        writeln!(
            out,
            "config   {}",
            self.config.as_deref().unwrap_or("none: a single node")
        )?;
        writeln!(out, "stream   {}", self.stream)?;
        for socket in &self.sockets {
            writeln!(
                out,
                "socket   {}  receive buffer {} B  send buffer {} B",
                socket.address, socket.receive_bytes, socket.send_bytes
            )?;
        }
        if let Some((first, others)) = self.keys.split_first() {
            let others = others
                .iter()
                .fold(String::new(), |text, key| text + " " + key);
            writeln!(out, "keys     {first} (seals){others}")?;
        }
        if let Some(journal) = &self.journal {
            let oldest = journal.oldest_ms.unwrap_or(0) / 1_000;
            writeln!(
                out,
                "journal  {}  {}  {} of {} bytes  oldest purge {oldest} s",
                journal.dir, journal.state, journal.disk_bytes, journal.bytes_max
            )?;
        }
        let now = sys::wall_clock_ms();
        for source in &self.sources {
            match (source.failing_since_wall_ms, &source.error) {
                (Some(since), Some(error)) => {
                    let ago = Duration::from_millis(now.saturating_sub(since)).as_secs();
                    writeln!(
                        out,
                        "source   {}  FAILING for {ago} s: {error}",
                        source.source
                    )?;
                }
                _ => writeln!(out, "source   {}", source.source)?,
            }
        }
        writeln!(
            out,
            "threads  runtime {}, applier {}",
            self.runtime, self.applier
        )?;
        writeln!(
            out,
            "purges   {} held ({} B) in {} streams, {} wanted, {} waiting for the cache, {} in flight",
            self.held, self.held_bytes, self.streams, self.wanted, self.ready, self.in_flight
        )?;
        if let Some(ms) = self.reach.retention_ms {
            writeln!(out, "room     for purges of the last {} only", seconds(ms))?;
        }
        for duplicate in &self.duplicate_names {
            writeln!(
                out,
                "DUPLICATE NAME  {}: {}",
                duplicate.name,
                duplicate.addresses.join(", ")
            )?;
        }
        writeln!(out, "\ncounters that are not zero")?;
        for (name, value) in self.counters.iter().filter(|(_, value)| **value > 0) {
            writeln!(out, "{value:>14} {name}")?;
        }
        writeln!(
            out,
            "\nversion  {} loaded, {} installed",
            self.version,
            self.installed.as_deref().unwrap_or("not known which")
        )?;
        if !self.notices.is_empty() {
            writeln!(out, "\nlatest notices")?;
        }
        for notice in &self.notices {
            let ago = Duration::from_millis(now.saturating_sub(notice.wall_ms));
            writeln!(out, "{:>8.1} s ago  {}", ago.as_secs_f64(), notice.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_ahead_or_behind() {
        let shown = [0, 3, -999, 7_000, -7_040, 86_400_000].map(ahead);
        let expected = ["+0 ms", "+3 ms", "-999 ms", "+7.0 s", "-7.0 s", "+24 h"];
        assert_eq!(shown, expected);
    }
}
