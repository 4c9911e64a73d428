//! What an operator should hear of: to the log, and the latest of it into the status.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use log::Level;
use parking_lot::Mutex;
use powderhorn_protocol::time::Time;

use crate::sys;

/// Notices kept.
const NOTICES_MAX: usize = 32;
/// Subjects whose last notice is remembered, so that they are not repeated too often.
const SUBJECTS_MAX: usize = 1_024;
/// How often one subject is worth a notice.
const REPEAT_AFTER: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct State {
    ring: VecDeque<(u64, String)>,
    said: HashMap<String, Time>,
}

/// A ring of notices.
#[derive(Debug, Default)]
pub(crate) struct Notices(Mutex<State>);

impl Notices {
    /// Logs `text` and keeps it, at the present wall-clock time.
    pub fn say(&self, level: Level, text: String) {
        log::log!(level, "{text}");
        let mut state = self.0.lock();
        if state.ring.len() >= NOTICES_MAX {
            state.ring.pop_front();
        }
        state.ring.push_back((sys::wall_clock_ms(), text));
    }

    /// The same, unless `subject` was one not long ago: for what may go on for hours.
    pub fn say_now_and_then(&self, subject: &str, level: Level, text: impl FnOnce() -> String) {
        let now = sys::boot_clock();
        {
            let said = &mut self.0.lock().said;
            let recent = |last: &Time| now.since(*last) < REPEAT_AFTER;
            if said.get(subject).is_some_and(recent) {
                return;
            }
            if said.len() >= SUBJECTS_MAX {
                said.retain(|_, last| recent(last));
            }
            if said.len() >= SUBJECTS_MAX {
                return;
            }
            said.insert(subject.to_owned(), now);
        }
        self.say(level, text());
    }

    /// All, oldest first: wall-clock ms since 1970 and text.
    pub fn list(&self) -> Vec<(u64, String)> {
        self.0.lock().ring.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_repetitions_are_not() {
        let notices = Notices::default();
        (0..100).for_each(|n| notices.say(Level::Info, n.to_string()));
        (0..3).for_each(|n| {
            let text = || format!("subject, time {n}");
            notices.say_now_and_then("subject", Level::Warn, text);
        });
        let list = notices.list();
        assert_eq!(list.len(), NOTICES_MAX);
        let texts: Vec<_> = list
            .iter()
            .rev()
            .take(2)
            .map(|(_, text)| text.as_str())
            .collect();
        assert_eq!(texts, ["subject, time 0", "99"]);
    }
}
