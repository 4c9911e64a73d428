//! What happens when: events in the order of their time, those of one time in the order in which they
//! were put in. That order is all that decides a run, so it may not depend on anything else.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use powderhorn_protocol::time::Time;

/// Events to come.
pub struct Queue<T> {
    /// [`key`]s: each event is compared with a dozen others on its way, so a comparison is to be one of integers.
    order: BinaryHeap<Reverse<u128>>,
    events: Vec<Option<T>>,
    vacant: Vec<usize>,
    next: u64,
}

/// Bits of a key for an event's place; as many events may be to come at a time.
const PLACE_BITS: u32 = 26;
/// Bits for its number: more than a million a second for a day.
const NUMBER_BITS: u32 = 38;

/// When, and then by number: what the order of events is, with the place in `events` at the end.
fn key(time: Time, number: u64, place: usize) -> u128 {
    assert!(
        number >> NUMBER_BITS == 0 && place >> PLACE_BITS == 0,
        "too many events"
    );
    // Times before the zero come first.
    let time = (time.as_us() as u64) ^ (1 << 63);
    (u128::from(time) << 64) | u128::from((number << PLACE_BITS) | place as u64)
}

fn time_of(key: u128) -> Time {
    Time::from_us(((key >> 64) as u64 ^ (1 << 63)) as i64)
}

impl<T> Queue<T> {
    /// Nothing to come.
    pub fn new() -> Self {
        Queue {
            order: BinaryHeap::new(),
            events: Vec::new(),
            vacant: Vec::new(),
            next: 0,
        }
    }

    /// Has `event` happen at `time`.
    pub fn push(&mut self, time: Time, event: T) {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.order.push(Reverse(key(time, self.next, slot)));
        self.next += 1;
    }

    /// When the next event happens.
    pub fn peek(&self) -> Option<Time> {
        self.order.peek().map(|Reverse(key)| time_of(*key))
    }

    /// The next event, if it happens at `end` or before.
    pub fn pop_until(&mut self, end: Time) -> Option<(Time, T)> {
        if self.peek()? > end {
            return None;
        }
        let Reverse(key) = self.order.pop()?;
        let slot = (key & ((1 << PLACE_BITS) - 1)) as usize;
        self.vacant.push(slot);
        self.events[slot].take().map(|event| (time_of(key), event))
    }

    /// How many events have been put in so far.
    pub fn count(&self) -> u64 {
        self.next
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_time_keep_their_order() {
        let mut queue = Queue::new();
        let at = Time::from_us;
        for (time, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b'), (9, 'e')] {
            queue.push(at(time), event);
        }
        let mut got = String::new();
        while let Some((time, event)) = queue.pop_until(at(5)) {
            got.push(event);
            if event == 'a' {
                queue.push(time, 'x');
            }
        }
        assert_eq!(got, "abxcd");
        assert_eq!(queue.peek(), Some(at(9)));
    }
}
