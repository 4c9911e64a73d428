//! Since when purges may be missing here because no other node was heard.
//!
//! Who promises that nothing older than `limits.max_staleness` is served must not wait until all peers are held
//! to be down, which takes minutes in a large fleet: silence itself counts, from the last datagram on. Nor is the
//! promise kept by the first datagram after it: what was missed meanwhile is still to come then. So a silence
//! that took longer than that is over when what others had issued by its end is applied here.

use std::time::Duration;

use powderhorn_protocol::time::Time;

/// What this node has heard of others.
#[derive(Debug)]
pub(crate) struct Alone {
    /// When anybody was last heard; while there is nobody else, now.
    heard: Time,
    behind: Option<Behind>,
}

/// What was issued between these two may be missing.
#[derive(Clone, Copy, Debug)]
struct Behind {
    since: Time,
    until: Time,
}

impl Alone {
    pub fn new(started: Time) -> Alone {
        Alone {
            heard: started,
            behind: None,
        }
    }

    /// There is nobody else to be heard.
    pub fn single(&mut self, now: Time) {
        *self = Alone::new(now);
    }

    /// Others were heard at this time, if at all. Whoever is not heard for longer than `max` has missed something.
    pub fn note(&mut self, heard: Option<Time>, max: Option<Duration>) {
        let Some(heard) = heard.filter(|heard| *heard > self.heard) else {
            return;
        };
        let before = std::mem::replace(&mut self.heard, heard);
        if max.is_some_and(|max| heard.since(before) > max) {
            let since = self.behind.map_or(before, |behind| behind.since);
            let until = heard;
            self.behind = Some(Behind { since, until });
        }
    }

    /// What others had issued before `complete`, if that is known, is applied here. A message that never comes does
    /// not make a silence longer than twice what it was.
    pub fn settle(&mut self, now: Time, complete: Option<Time>) {
        self.behind = self.behind.filter(|behind| {
            let silence = behind.until.since(behind.since);
            complete.is_none_or(|complete| complete < behind.until)
                && now.since(behind.until) < silence
        });
    }

    /// For how long others have been heard again, while [`Self::settle`] is waited for.
    pub fn behind_for(&self, now: Time) -> Option<Duration> {
        self.behind.map(|behind| now.since(behind.until))
    }

    /// What was issued after this may be missing.
    pub fn since(&self) -> Time {
        self.behind.map_or(self.heard, |behind| behind.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_us(seconds * 1_000_000)
    }

    const MAX: Option<Duration> = Some(Duration::from_secs(10));

    #[test]
    fn silence_counts_from_the_last_that_was_heard() {
        let mut alone = Alone::new(at(0));
        alone.note(None, MAX);
        assert_eq!(alone.since(), at(0));
        alone.note(Some(at(9)), MAX);
        // Who was heard may be no peer any more.
        alone.note(Some(at(3)), MAX);
        alone.note(None, MAX);
        assert_eq!((alone.since(), alone.behind.is_some()), (at(9), false));
        alone.single(at(100));
        alone.note(Some(at(105)), MAX);
        assert_eq!((alone.since(), alone.behind.is_some()), (at(105), false));
    }

    #[test]
    fn a_long_silence_lasts_until_what_was_missed_is_here() {
        let mut alone = Alone::new(at(0));
        alone.note(Some(at(50)), MAX);
        alone.note(Some(at(51)), MAX);
        assert_eq!((alone.since(), alone.behind.is_some()), (at(0), true));
        alone.settle(at(60), None);
        alone.settle(at(60), Some(at(49)));
        assert!(alone.behind.is_some());
        // Another one before that.
        alone.note(Some(at(70)), MAX);
        alone.settle(at(71), Some(at(60)));
        assert_eq!((alone.since(), alone.behind.is_some()), (at(0), true));
        alone.settle(at(72), Some(at(70)));
        assert_eq!((alone.since(), alone.behind.is_some()), (at(70), false));
    }

    #[test]
    fn what_never_comes_is_not_waited_for_for_ever() {
        let mut alone = Alone::new(at(0));
        alone.note(Some(at(50)), MAX);
        alone.settle(at(99), Some(at(0)));
        assert!(alone.behind.is_some());
        alone.settle(at(100), Some(at(0)));
        assert_eq!((alone.since(), alone.behind.is_some()), (at(50), false));
        alone.note(Some(at(100)), None);
        assert!(alone.behind.is_none(), "nobody asks");
    }
}
