//! The one rule for what a purge kills.
//!
//! A purge kills an object if and only if the fetch of that object began at or before the purge's
//! *cutoff*:
//!
//! ```text
//! cutoff = min(arrival, issue + margin)     issue = arrival - age     margin = 10 s + age/4096
//! ```
//!
//! A purge that arrives while a fetch is under way also kills the object that this fetch makes: the
//! origin may have answered before the content changed. A purge that arrives hours late spares what
//! was fetched since it was issued. The margin is for a shield or an origin's cache that was purged
//! a little later than we were told to, and for what the nodes that held the message may have
//! erred in its age.

use std::time::Duration;

use powderhorn_protocol::time::Time;

/// The margin of a purge that was issued just now.
pub const MARGIN: Duration = Duration::from_secs(10);
/// The share of a purge's age that is added to its margin: clocks that differ by 244 ppm.
pub const MARGIN_AGE_SHARE: u32 = 4_096;

/// Up to when a fetch must have begun for its object to be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// The point in time, on the boot clock.
    pub at: Time,
    /// Whether that is before the purge's arrival: then objects have to be looked at one by one.
    pub late: bool,
}

impl Cutoff {
    /// Of a purge that arrived at `arrival` and was `age` old then.
    pub fn new(arrival: Time, age: Duration) -> Cutoff {
        let margin = MARGIN + age / MARGIN_AGE_SHARE;
        let latest = arrival - age + margin;
        Cutoff {
            at: arrival.min(latest),
            late: latest < arrival,
        }
    }

    /// Whether the object of a fetch that began at `started` is to be killed.
    pub fn kills(self, started: Time) -> bool {
        started <= self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARRIVAL: Time = Time::from_us(50_000_000_000);

    #[test]
    fn a_fresh_purge_kills_what_was_being_fetched_when_it_came() {
        for age_ms in [0, 1, 1_000, 10_000] {
            let cutoff = Cutoff::new(ARRIVAL, Duration::from_millis(age_ms));
            assert!(!cutoff.late);
            assert!(cutoff.kills(ARRIVAL));
            assert!(!cutoff.kills(ARRIVAL + Duration::from_micros(1)));
        }
    }

    #[test]
    fn a_purge_three_hours_late_spares_what_was_fetched_after_it() {
        let age = Duration::from_secs(3 * 3_600);
        let cutoff = Cutoff::new(ARRIVAL, age);
        assert!(cutoff.late);
        let issue = ARRIVAL - age;
        assert!(cutoff.kills(issue));
        assert!(cutoff.kills(issue + Duration::from_secs(12)));
        assert!(!cutoff.kills(issue + Duration::from_secs(13)));
    }
}
