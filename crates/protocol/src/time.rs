//! Time as the core sees it: microseconds on the boot clock of this node.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on this node's boot clock, in microseconds.
///
/// The zero is whatever the driver chose (the boot of the machine in production, the start of the
/// run in the simulator). It is signed because a message can be older than the boot of the node
/// that holds it. Never leaves the node: what travels is an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(i64);

impl Time {
    /// The farthest point there is: a timer that never fires.
    pub const NEVER: Time = Time(i64::MAX);

    /// The point `us` microseconds after the clock's zero.
    pub const fn from_us(us: i64) -> Self {
        Time(us)
    }

    /// Microseconds since the clock's zero.
    pub const fn as_us(self) -> i64 {
        self.0
    }

    /// How long before `self` `earlier` was; zero if it was not before.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(
            self.0
                .saturating_add(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)),
        )
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, d: Duration) -> Time {
        Time(
            self.0
                .saturating_sub(i64::try_from(d.as_micros()).unwrap_or(i64::MAX)),
        )
    }
}
