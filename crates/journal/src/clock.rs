//! Ages across restarts. Within one boot the boot clock goes on, and ages are exact. After a reboot only the
//! wall clock knows how long the machine was down, and it may be wrong: it adds to an age and never takes
//! from it, and what is too old by its word alone is kept for ten minutes more.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use powderhorn_protocol::time::Time;
use rustix::time::{ClockId, clock_gettime};

/// How much longer a message is held that only the wall clock calls expired.
pub const WALL_GRACE: Duration = Duration::from_secs(600);

/// The clocks of this machine; tests have others.
pub trait Clock: Send + Sync {
    /// Now, on the clock that goes on while the machine sleeps and that nobody sets.
    fn boot(&self) -> Time;
    /// Now, in milliseconds since 1970, as the machine's wall clock has it.
    fn wall_ms(&self) -> u64;
    /// Which start of the machine this is: all zero if it is not known.
    fn boot_id(&self) -> [u8; 16];
}

/// The machine's own clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boot(&self) -> Time {
        let now = clock_gettime(ClockId::Boottime);
        let us = now.tv_sec.saturating_mul(1_000_000);
        Time::from_us(us.saturating_add(now.tv_nsec / 1_000))
    }

    fn wall_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }

    fn boot_id(&self) -> [u8; 16] {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut digits = text
            .bytes()
            .filter_map(|byte| char::from(byte).to_digit(16));
        let mut id = [0; 16];
        for byte in &mut id {
            let (Some(high), Some(low)) = (digits.next(), digits.next()) else {
                return [0; 16];
            };
            *byte = ((high << 4) | low) as u8;
        }
        id
    }
}

/// Both clocks at one moment of one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Which boot.
    pub boot_id: [u8; 16],
    /// Its clock.
    pub boot: Time,
    /// The wall clock.
    pub wall_ms: u64,
}

impl Anchor {
    /// Now, at a start. A boot that nobody can name gets a name that no other has: within one life births are
    /// exact all the same.
    pub fn at_start(clock: &dyn Clock) -> Anchor {
        let mut boot_id = clock.boot_id();
        if boot_id == [0; 16] {
            boot_id = any_boot_id();
        }
        Anchor::now(clock, boot_id)
    }

    fn now(clock: &dyn Clock, boot_id: [u8; 16]) -> Anchor {
        Anchor {
            boot_id,
            boot: clock.boot(),
            wall_ms: clock.wall_ms(),
        }
    }
}

/// A boot's name that no other has.
fn any_boot_id() -> [u8; 16] {
    let random = || u128::from(RandomState::new().build_hasher().finish());
    ((random() << 64) | random()).to_le_bytes()
}

/// Brings births of earlier boots onto this boot's clock.
#[derive(Debug)]
pub struct Conversion {
    now: Anchor,
    /// The first start in this boot: from here on its clock counts for what is of earlier boots.
    since: Anchor,
    retention: Duration,
    /// The last that is known of each earlier boot.
    last: BTreeMap<[u8; 16], Anchor>,
}

impl Conversion {
    /// Onto the clock of the boot of `now`.
    pub fn new(now: Anchor, retention: Duration) -> Conversion {
        Conversion {
            now,
            since: now,
            retention,
            last: BTreeMap::new(),
        }
    }

    /// Now, in the boot onto whose clock births are brought.
    pub fn anchor(&self, clock: &dyn Clock) -> Anchor {
        Anchor::now(clock, self.now.boot_id)
    }

    /// An anchor was found in a file. All are to be noted before the first birth is converted.
    pub fn note(&mut self, anchor: &Anchor) {
        let last = self.last.entry(anchor.boot_id).or_insert(*anchor);
        if anchor.boot > last.boot {
            *last = *anchor;
        }
    }

    /// This start. If the clock was further in this boot already, it is another one's, as in a time namespace, and so
    /// this counts as another boot. All anchors are to be noted before.
    pub fn start(&mut self) -> Anchor {
        let last = self.last.get(&self.now.boot_id);
        if last.is_some_and(|last| last.boot > self.now.boot) {
            self.now.boot_id = any_boot_id();
            self.since = self.now;
        }
        self.now
    }

    /// Whether there is anything of an earlier boot.
    pub fn has_earlier_boots(&self) -> bool {
        self.last.keys().any(|boot_id| *boot_id != self.now.boot_id)
    }

    /// This is not the first start in this boot: what earlier boots left keeps the ages that it had then.
    pub fn set_since(&mut self, since: Anchor) {
        self.since = since;
    }

    /// The same of what a start found: nothing of that is younger than the start.
    pub fn born_before(&self, boot_id: &[u8; 16], born: Time) -> Time {
        self.born(boot_id, born).min(self.now.boot)
    }

    /// When what was born at `born` on the clock of `boot_id` was born, on the clock of this boot.
    pub fn born(&self, boot_id: &[u8; 16], born: Time) -> Time {
        let now = self.since.boot;
        if *boot_id == self.now.boot_id {
            return born;
        }
        // A boot that left no anchor left no births either.
        let Some(last) = self.last.get(boot_id) else {
            return now;
        };
        let down = Duration::from_millis(self.since.wall_ms.saturating_sub(last.wall_ms));
        let by_boot_clock = now - last.boot.since(born);
        let by_wall_clock = by_boot_clock - down;
        let too_old = now - self.retention;
        if by_boot_clock < too_old {
            return by_wall_clock;
        }
        // Never younger than the boot clock alone says.
        let kept = (too_old + WALL_GRACE).min(by_boot_clock);
        by_wall_clock.max(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;
    const DAY: Duration = Duration::from_secs(86_400);

    fn anchor(boot: u8, minutes: i64, wall_minutes: u64) -> Anchor {
        Anchor {
            boot_id: [boot; 16],
            boot: Time::from_us(minutes * MINUTE),
            wall_ms: wall_minutes * 60_000,
        }
    }

    /// Ages in minutes, 30 minutes into the second boot, of messages born at these minutes of the first.
    fn ages(wall_at_end: u64, wall_now: u64, births: &[i64]) -> Vec<i64> {
        let mut conversion = Conversion::new(anchor(2, 30, wall_now), DAY);
        conversion.note(&anchor(1, 90, 1));
        conversion.note(&anchor(1, 100, wall_at_end));
        conversion.note(&anchor(1, 95, 999));
        let age = |&born: &i64| {
            let born = conversion.born(&[1; 16], Time::from_us(born * MINUTE));
            (30 * MINUTE - born.as_us()) / MINUTE
        };
        births.iter().map(age).collect()
    }

    #[test]
    fn a_reboot_adds_what_the_wall_clock_says() {
        assert_eq!(ages(1000, 1060, &[40, 100]), [120, 60]);
    }

    #[test]
    fn a_clock_set_back_takes_nothing_from_an_age() {
        assert_eq!(ages(1000, 1, &[40, 100]), [60, 0]);
    }

    #[test]
    fn what_only_the_wall_clock_calls_expired_is_kept_for_ten_minutes() {
        assert_eq!(ages(1000, 1_000_000, &[40, 100]), [1430, 1430]);
        // This one had expired before the machine went down.
        assert!(ages(1000, 1_000_000, &[-1400])[0] > 1440);
        // And this one would have, within less than ten minutes.
        assert_eq!(ages(1000, 1_000_000, &[-1335]), [1435]);
    }

    #[test]
    fn a_second_start_in_a_boot_changes_no_birth() {
        let births = |now: i64, wall_now: u64| {
            let mut conversion = Conversion::new(anchor(2, now, wall_now), DAY);
            conversion.note(&anchor(1, 100, 1000));
            assert!(conversion.has_earlier_boots());
            conversion.set_since(anchor(2, 30, 1060));
            [40, 100, -1335].map(|born| conversion.born(&[1; 16], Time::from_us(born * MINUTE)))
        };
        let first = births(30, 1060);
        assert_eq!(births(35, 1065), first);
        // Whatever the wall clock says by then.
        assert_eq!(births(500, 1), first);
        assert_eq!(births(500, 1_000_000), first);
    }

    #[test]
    fn the_same_boot_is_exact() {
        let mut conversion = Conversion::new(anchor(1, 130, 5), DAY);
        conversion.note(&anchor(1, 100, 100_000));
        let born = Time::from_us(7 * MINUTE);
        assert_eq!(conversion.born(&[1; 16], born), born);
        let future = Time::from_us(700 * MINUTE);
        assert_eq!(conversion.born(&[1; 16], future), future);
        let start = Time::from_us(130 * MINUTE);
        assert_eq!(conversion.born_before(&[1; 16], future), start);
    }
}
