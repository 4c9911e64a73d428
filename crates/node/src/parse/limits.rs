//! Numbers, durations and sizes: `[purge]`, `[journal]` and `[limits]`.

use std::ops::RangeInclusive;
use std::time::Duration;

use powderhorn_protocol::bounds::OWN_SITE_PERCENT_MAX;
use powderhorn_protocol::purge::{HEADER_NAME_BYTES_MAX, is_token};
use toml::Spanned;

use super::{RawJournal, RawLimits, RawPurge, Result, Source};
use crate::config::{JOURNAL_DIR, JournalConfig, Limits, PurgeConfig};
use crate::units::{
    BYTE_UNITS, DAY_MS, DURATION_UNITS, GIB, KIB, MIB, MINUTE_MS, in_units, quantity,
};

/// Most names in `purge.key_headers`: each header of each response is compared with them.
const KEY_HEADERS_MAX: usize = 32;

/// Rounds in which nobody else may be heard without that meaning anything, with losses.
const STALENESS_ROUNDS_MIN: u32 = 4;

impl Source<'_> {
    pub(super) fn purge(&self, raw: &RawPurge) -> Result<PurgeConfig> {
        let mut purge = PurgeConfig::default();
        if let Some(raw) = &raw.key_headers {
            let names = raw.get_ref();
            if !(1..=KEY_HEADERS_MAX).contains(&names.len()) {
                let problem =
                    format!("purge.key_headers: must be 1 to {KEY_HEADERS_MAX} header names");
                return Err(self.error(raw.span(), problem));
            }
            purge.key_headers.clear();
            for raw in names {
                let name = raw.get_ref();
                if !is_token(name.as_bytes()) || name.len() > HEADER_NAME_BYTES_MAX {
                    let problem = format!(
                        "purge.key_headers: not a header's name of 1 to {HEADER_NAME_BYTES_MAX} \
                         characters: {name:?}"
                    );
                    return Err(self.error(raw.span(), problem));
                }
                purge.key_headers.push(name.clone());
            }
        }
        if let Some(raw) = &raw.bans_max {
            purge.bans_max = self.number("purge.bans_max", raw, 16..=1_000_000)?;
        }
        if let Some(raw) = &raw.soft_rate {
            purge.soft_rate = self.number("purge.soft_rate", raw, 1..=10_000_000)?;
        }
        Ok(purge)
    }

    pub(super) fn journal(&self, raw: &RawJournal) -> Result<JournalConfig> {
        let mut journal = JournalConfig {
            dir: Some(JOURNAL_DIR.into()),
            ..JournalConfig::default()
        };
        if let Some(raw) = &raw.dir {
            journal.dir = match raw.get_ref().as_str() {
                "" => None,
                _ => Some(self.absolute("journal.dir", raw)?),
            };
        }
        if let Some(raw) = &raw.bytes {
            journal.bytes = self.bytes("journal.bytes", raw, 16 * MIB..=1_024 * GIB)?;
        }
        if let Some(raw) = &raw.fsync {
            journal.fsync = match raw.get_ref().as_str() {
                "never" => false,
                "always" => true,
                other => {
                    let problem = format!("journal.fsync: \"never\" or \"always\", not {other:?}");
                    return Err(self.error(raw.span(), problem));
                }
            };
        }
        if let Some(raw) = &raw.wait {
            journal.wait = Duration::from_millis(self.duration("journal.wait", raw, 1..=10_000)?);
        }
        journal.require = raw.require.unwrap_or(journal.require);
        Ok(journal)
    }

    pub(super) fn limits(&self, raw: &RawLimits) -> Result<Limits> {
        let mut limits = Limits::default();
        let duration = |value: u64| Duration::from_millis(value);
        let month = 30 * DAY_MS;
        if let Some(raw) = &raw.retention {
            limits.retention =
                duration(self.duration("limits.retention", raw, MINUTE_MS..=month)?);
        }
        if let Some(raw) = &raw.retention_bytes {
            limits.retention_bytes = self.bytes("limits.retention_bytes", raw, MIB..=64 * GIB)?;
        }
        if let Some(raw) = &raw.round {
            limits.round = duration(self.duration("limits.round", raw, 20..=MINUTE_MS)?);
        }
        if let Some(raw) = &raw.own_site_percent {
            let range = 0..=u64::from(OWN_SITE_PERCENT_MAX);
            limits.own_site_percent = self.number("limits.own_site_percent", raw, range)? as u32;
        }
        if let Some(raw) = &raw.repair_bytes_peer {
            limits.repair_bytes_peer =
                self.bytes("limits.repair_bytes_peer", raw, 4 * KIB..=GIB)?;
        }
        if let Some(raw) = &raw.repair_bytes_all {
            limits.repair_bytes_all = self.bytes("limits.repair_bytes_all", raw, 4 * KIB..=GIB)?;
        }
        if let Some(raw) = &raw.join_margin {
            limits.join_margin = duration(self.duration("limits.join_margin", raw, 0..=month)?);
        }
        if let Some(raw) = raw
            .max_staleness
            .as_ref()
            .filter(|raw| raw.get_ref() != "off")
        {
            let max = duration(self.duration("limits.max_staleness", raw, 1_000..=month)?);
            if max < limits.round * STALENESS_ROUNDS_MIN {
                let problem = format!(
                    "limits.max_staleness: must be {STALENESS_ROUNDS_MIN} of limits.round or more"
                );
                return Err(self.error(raw.span(), problem));
            }
            limits.max_staleness = Some(max);
        }
        if let Some(raw) = &raw.replay_window {
            limits.replay_window = self.number("limits.replay_window", raw, 1_024..=16_777_216)?;
        }
        if let Some(raw) = &raw.apply_batch {
            limits.apply_batch = self.number("limits.apply_batch", raw, 1..=4_096)? as usize;
        }
        if let Some(raw) = &raw.socket_bytes {
            let bytes = self.bytes("limits.socket_bytes", raw, 64 * KIB..=GIB)?;
            limits.socket_bytes = bytes as usize;
        }
        Ok(limits)
    }

    pub(super) fn number(
        &self,
        key: &str,
        raw: &Spanned<i64>,
        range: RangeInclusive<u64>,
    ) -> Result<u64> {
        let value = u64::try_from(*raw.get_ref()).ok();
        value.filter(|value| range.contains(value)).ok_or_else(|| {
            let (least, most) = range.into_inner();
            let problem = format!("{key}: must be {least} to {most}, not {}", raw.get_ref());
            self.error(raw.span(), problem)
        })
    }

    /// Milliseconds.
    pub(super) fn duration(
        &self,
        key: &str,
        raw: &Spanned<String>,
        range: RangeInclusive<u64>,
    ) -> Result<u64> {
        let kind = "a duration such as \"250ms\", \"90s\", \"10m\", \"24h\" or \"7d\"";
        self.quantity(key, raw, range, &DURATION_UNITS, kind)
    }

    fn bytes(&self, key: &str, raw: &Spanned<String>, range: RangeInclusive<u64>) -> Result<u64> {
        let kind = "a size such as \"4096B\", \"128KiB\", \"256MiB\" or \"2GiB\"";
        self.quantity(key, raw, range, &BYTE_UNITS, kind)
    }

    fn quantity(
        &self,
        key: &str,
        raw: &Spanned<String>,
        range: RangeInclusive<u64>,
        units: &[(&str, u64)],
        kind: &str,
    ) -> Result<u64> {
        let text = raw.get_ref();
        let Some(value) = quantity(text, units) else {
            let problem = format!("{key}: must be {kind}, not {text:?}");
            return Err(self.error(raw.span(), problem));
        };
        if range.contains(&value) {
            return Ok(value);
        }
        let (least, most) = (range.start(), range.end());
        let problem = format!(
            "{key}: must be {} to {}, not {text}",
            in_units(*least, units),
            in_units(*most, units)
        );
        Err(self.error(raw.span(), problem))
    }
}
