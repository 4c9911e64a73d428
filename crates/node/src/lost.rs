//! Purges that this node has given up, and whether its cache was emptied for them.
//!
//! The core gives up what nobody has any more. Mostly it flushes the cache for that; but where no member can
//! say that the purges have expired, as their origin died with them, it only stops to want them. Then the
//! cache may go on to serve what they were for, and only an operator can do something about it.

use std::time::Duration;

use powderhorn_protocol::bounds::GIVE_UP_RETENTIONS;
use powderhorn_protocol::time::Time;

/// What was given up without a flush.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// All that the core has counted.
    counted: u64,
    /// What no flush made up for, when the last of it was given up.
    open: Option<(u64, Time)>,
    /// When the latest purge of everything that this cache has applied was issued.
    emptied: Option<Time>,
}

impl Lost {
    /// A purge of everything, which was issued at this time, is applied.
    pub fn note_emptied(&mut self, issued: Time) {
        self.emptied = self.emptied.max(Some(issued));
    }

    /// So many purges have been given up in all.
    pub fn note(&mut self, now: Time, lost: u64, retention: Duration) {
        let more = lost.saturating_sub(std::mem::replace(&mut self.counted, lost));
        if more > 0 {
            let before = self.open(now, retention).map_or(0, |(count, _)| count);
            self.open = Some((before + more, now));
        }
    }

    /// How many no flush made up for, and how long ago the last were given up. What was given up for longer
    /// than a retention is not told any more: objects do not live forever.
    pub fn open(&self, now: Time, retention: Duration) -> Option<(u64, Duration)> {
        let (count, at) = self.open?;
        // They were issued before that.
        let issued = at - retention.saturating_mul(GIVE_UP_RETENTIONS);
        let made_up = self.emptied.is_some_and(|emptied| emptied >= issued);
        (!made_up && now.since(at) <= retention).then(|| (count, now.since(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(hours: i64) -> Time {
        Time::from_us(hours * 3_600_000_000)
    }

    #[test]
    fn a_flush_makes_up_for_what_was_issued_before_it() {
        let mut lost = Lost::default();
        lost.note(at(100), 0, DAY);
        assert_eq!(lost.open(at(100), DAY), None);
        lost.note(at(101), 3, DAY);
        lost.note(at(102), 5, DAY);
        lost.note(at(103), 5, DAY);
        let hour = Duration::from_secs(3_600);
        assert_eq!(lost.open(at(103), DAY), Some((5, hour)));
        // One of longer ago than what is given up now says nothing of it.
        lost.note_emptied(at(102 - 49));
        assert_eq!(lost.open(at(103), DAY), Some((5, hour)));
        lost.note_emptied(at(102 - 47));
        lost.note_emptied(at(0));
        assert_eq!(lost.open(at(103), DAY), None);
        lost.note(at(104), 6, DAY);
        assert_eq!(lost.open(at(104), DAY), Some((1, Duration::ZERO)));
        assert_eq!(lost.open(at(129), DAY), None);
    }
}
