//! The status for people.

use std::fmt::Write;
use std::time::Duration;

use super::{PeerStatus, Status, WAITING_FINE};
use crate::sys;

impl Status {
    /// The verdict is about this node: what its peers have applied, it does not know.
    pub(super) fn judge(&self, stopping: bool) -> String {
        let down: Vec<&PeerStatus> = self
            .peers
            .iter()
            .filter(|peer| peer.state != "up")
            .collect();
        let mut troubles = Vec::new();
        if stopping {
            troubles.push("stopping".to_owned());
        }
        if self.runtime == "gave up" {
            troubles.push(
                "the runtime gave up: neither sends nor receives; restart varnish".to_owned(),
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
        if let Some(worst) = down.first() {
            troubles.push(format!(
                "{} of {} peers not heard, {} first",
                down.len(),
                self.peers.len(),
                worst.who()
            ));
        }
        if self.wanted > 0 {
            troubles.push(format!("{} purges known and not yet received", self.wanted));
        }
        let waiting = self.ready + self.in_flight;
        // A few are always under way when purges pour in.
        if waiting > WAITING_FINE {
            troubles.push(format!("{waiting} purges wait for the cache"));
        }
        if self.unsupported > 0 {
            troubles.push(format!(
                "{} purges are of a later version and NOT applied here: upgrade this node",
                self.unsupported
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
            troubles.push(format!("the changed key file is not used: {error}"));
        }
        // All that is said here is as old as the news that it rests on.
        let heard = |peer: &PeerStatus| Some((peer.heard_ms?, peer.who().to_owned()));
        let oldest = self.peers.iter().filter(|peer| peer.state == "up");
        let fresh = match oldest.filter_map(heard).max() {
            Some((ms, from)) => format!("; oldest news {:.1} s, from {from}", ms as f64 / 1e3),
            None => String::new(),
        };
        if !troubles.is_empty() {
            return troubles.join("; ") + &fresh;
        }
        let applied = match waiting {
            0 => "all purges known here applied here".to_owned(),
            n => format!("all purges known here applied here but the latest {n}"),
        };
        match self.peers.len() {
            0 => format!("ok: a single node, {applied}"),
            n => format!("ok: {n} of {n} peers up, {applied}{fresh}"),
        }
    }

    /// The status for people. The first line is the verdict.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}", self.verdict)?;
        let site = if self.site.is_empty() {
            "-"
        } else {
            &self.site
        };
        writeln!(
            out,
            "\nnode     {}  site {site}  fleet {}  version {}",
            self.name, self.fleet, self.version
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
        for duplicate in &self.duplicate_names {
            writeln!(
                out,
                "DUPLICATE NAME  {}: {}",
                duplicate.name,
                duplicate.addresses.join(", ")
            )?;
        }
        if !self.peers.is_empty() {
            writeln!(
                out,
                "\n{:<8} {:<24} {:<12} {:<28} {:>10} {:>10}  from",
                "peer", "name", "site", "address", "heard", "rtt"
            )?;
        }
        for peer in &self.peers {
            let heard = peer
                .heard_ms
                .map_or("never".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1e3));
            let rtt = peer
                .rtt_us
                .map_or("-".to_owned(), |us| format!("{:.2} ms", us as f64 / 1e3));
            let or_dash = |text: &str| {
                if text.is_empty() {
                    "-".to_owned()
                } else {
                    text.to_owned()
                }
            };
            writeln!(
                out,
                "{:<8} {:<24} {:<12} {:<28} {heard:>10} {rtt:>10}  {}",
                peer.state,
                or_dash(&peer.name),
                or_dash(&peer.site),
                peer.address,
                peer.sources.join(", ")
            )?;
        }
        writeln!(out, "\ncounters that are not zero")?;
        for (name, value) in self.counters.iter().filter(|(_, value)| **value > 0) {
            writeln!(out, "{value:>14} {name}")?;
        }
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
