//! From the wall clock, in which a cache keeps its times, to the boot clock, in which purges are
//! compared with fetches.
//!
//! The wall clock is set, forward and back, while fetches run. Converting must never make a fetch
//! look later than it was, or a purge would spare a stale object; earlier only costs a fetch. So a
//! point on the wall clock is converted with the largest difference between the clocks that was
//! seen lately.

use std::time::Duration;

use parking_lot::Mutex;
use powderhorn_protocol::time::Time;

/// How long a difference is remembered, at least; twice as long at most. A fetch whose headers take
/// longer than this, while the clock is set back, is taken for a later one.
pub const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Differences larger than this mean that the clock was set; smaller ones are its discipline.
pub const SET: Duration = Duration::from_secs(1);

/// What was seen of the wall clock. Differences are wall less boot, in µs.
#[derive(Debug)]
pub struct WallClock(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    /// Largest difference of this generation and of the one before.
    largest: [i64; 2],
    /// When this generation began.
    since: Time,
    /// Smallest and largest difference ever.
    ever: (i64, i64),
}

impl WallClock {
    /// With a first look: `wall_us` µs since 1970 on the wall clock at `now` on the boot clock.
    pub fn new(now: Time, wall_us: i64) -> WallClock {
        let difference = wall_us.saturating_sub(now.as_us());
        WallClock(Mutex::new(Seen {
            largest: [difference; 2],
            since: now,
            ever: (difference, difference),
        }))
    }

    /// Looks again; to be done each second or so.
    pub fn observe(&self, now: Time, wall_us: i64) {
        let difference = wall_us.saturating_sub(now.as_us());
        let mut seen = self.0.lock();
        let age = now.since(seen.since);
        if age >= REMEMBERED {
            let before = if age >= 2 * REMEMBERED {
                difference
            } else {
                seen.largest[0]
            };
            seen.largest = [difference, before];
            seen.since = now;
        }
        seen.largest[0] = seen.largest[0].max(difference);
        seen.ever = (seen.ever.0.min(difference), seen.ever.1.max(difference));
    }

    /// The earliest point on the boot clock that `wall_us` may have been.
    pub fn earliest(&self, wall_us: i64) -> Time {
        let seen = self.0.lock();
        let difference = seen.largest[0].max(seen.largest[1]);
        Time::from_us(wall_us.saturating_sub(difference))
    }

    /// Whether the clock was set since the first look: then times of before and after cannot be
    /// compared.
    pub fn was_set(&self) -> bool {
        let (least, most) = self.0.lock().ever;
        most.saturating_sub(least) > i64::try_from(SET.as_micros()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_700_000_000_000_000;
    const HOUR: i64 = 3_600_000_000;
    const fn at(us: i64) -> Time {
        Time::from_us(us)
    }

    #[test]
    fn a_clock_that_nobody_sets_is_exact() {
        let clock = WallClock::new(at(1_000), WALL + 1_000);
        clock.observe(at(2_000), WALL + 2_000);
        assert_eq!(clock.earliest(WALL + 1_500), at(1_500));
        assert!(!clock.was_set());
    }

    #[test]
    fn a_fetch_does_not_look_later_when_the_clock_is_set_back_meanwhile() {
        let clock = WallClock::new(at(0), WALL);
        let started = WALL + 5_000_000;
        clock.observe(at(6_000_000), WALL + 6_000_000 - HOUR);
        assert_eq!(clock.earliest(started), at(5_000_000));
        assert!(clock.was_set());
        // It looks earlier when it begins after that, until the old difference is forgotten.
        assert_eq!(
            clock.earliest(started + 2_000_000 - HOUR),
            at(7_000_000 - HOUR)
        );
        for second in (6..3 * 3_600).step_by(60) {
            let now = second * 1_000_000;
            clock.observe(at(now), WALL + now - HOUR);
        }
        let now = 3 * HOUR;
        assert_eq!(clock.earliest(WALL + now - HOUR), at(now));
        assert!(clock.was_set());
    }

    #[test]
    fn a_fetch_looks_earlier_when_the_clock_is_set_forward_meanwhile() {
        let clock = WallClock::new(at(0), WALL);
        let started = WALL + 5_000_000;
        clock.observe(at(6_000_000), WALL + 6_000_000 + HOUR);
        assert_eq!(clock.earliest(started), at(5_000_000 - HOUR));
    }

    #[test]
    fn a_pause_longer_than_the_memory_forgets_all_of_it() {
        let clock = WallClock::new(at(0), WALL);
        clock.observe(at(9 * HOUR), WALL + 8 * HOUR);
        assert_eq!(clock.earliest(WALL + 8 * HOUR), at(9 * HOUR));
    }
}
