//! A soft purge of everything, at a pace: all TTLs at once would send all traffic to the origin at
//! once.

use std::time::Duration;

use parking_lot::Mutex;
use powderhorn_protocol::time::Time;

use crate::index::{Cursor, Index, ObjectId};

/// The shortest time that is worth a slice.
const STEP: Duration = Duration::from_millis(1);
/// After a pause, no more is made up for than this.
const ARREARS: Duration = Duration::from_millis(100);

pub(crate) struct Pace {
    rate: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the walk is, and for which cutoff; `None` while there is none.
    walk: Option<(Cursor, Time)>,
    /// A purge that came during the walk: its own walk comes next.
    next: Option<Time>,
    /// Until when objects are paid for.
    paid: Option<Time>,
}

impl Pace {
    pub fn new(rate: u64) -> Pace {
        Pace {
            rate: rate.max(1),
            state: Mutex::default(),
        }
    }

    /// Takes a purge up.
    pub fn begin(&self, cutoff: Time) {
        let mut state = self.state.lock();
        if state.walk.is_none() {
            state.walk = Some((Cursor::default(), cutoff));
        } else {
            state.next = Some(state.next.map_or(cutoff, |next| next.max(cutoff)));
        }
    }

    pub fn busy(&self) -> bool {
        self.state.lock().walk.is_some()
    }

    /// Does what is due at `now`; how long until more is, if there is more. Each object is visited
    /// whose fetch began before the cutoff.
    pub fn work(
        &self,
        index: &Index,
        now: Time,
        act: &mut dyn FnMut(ObjectId),
    ) -> Option<Duration> {
        loop {
            let mut state = self.state.lock();
            let (cursor, cutoff) = state.walk?;
            let paid = state.paid.unwrap_or(now).max(now - ARREARS);
            let due = now.since(paid).as_micros() * u128::from(self.rate) / 1_000_000;
            let wait = STEP.max(Duration::from_micros(1_000_000 / self.rate));
            if due == 0 && state.paid.is_some() {
                return Some(wait);
            }
            let max = usize::try_from(due).unwrap_or(usize::MAX).max(1);
            let mut visited = 0;
            let next = index.walk(cursor, max, &mut |object, started| {
                visited += 1;
                if started <= cutoff {
                    act(object);
                }
            });
            state.paid = Some(paid + Duration::from_micros(visited * 1_000_000 / self.rate));
            state.walk = match next {
                Some(cursor) => Some((cursor, cutoff)),
                None => state.next.take().map(|next| (Cursor::default(), next)),
            };
            if state.walk.is_none() {
                state.paid = None;
                return None;
            }
        }
    }
}
