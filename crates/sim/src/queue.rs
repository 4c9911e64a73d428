//! What happens when: events in the order of their time, those of one time in the order in which they
//! were put in. That order is all that decides a run, so it may not depend on anything else.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use powderhorn_protocol::time::Time;

/// Events to come.
pub struct Queue<T> {
    /// (when, number of the event, its place in `events`).
    order: BinaryHeap<Reverse<(Time, u64, u32)>>,
    events: Vec<Option<T>>,
    vacant: Vec<u32>,
    next: u64,
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
            (self.events.len() - 1) as u32
        });
        self.events[slot as usize] = Some(event);
        self.order.push(Reverse((time, self.next, slot)));
        self.next += 1;
    }

    /// When the next event happens.
    pub fn peek(&self) -> Option<Time> {
        self.order.peek().map(|Reverse((time, _, _))| *time)
    }

    /// The next event, if it happens at `end` or before.
    pub fn pop_until(&mut self, end: Time) -> Option<(Time, T)> {
        if self.peek()? > end {
            return None;
        }
        let Reverse((time, _, slot)) = self.order.pop()?;
        self.vacant.push(slot);
        self.events[slot as usize].take().map(|event| (time, event))
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
