//! What was said to be written is there after a crash; and a journal that says it too early is found out.

mod common;

use std::time::Duration;

use common::{Dir, SECOND, id, message, open, options, stream};
use powderhorn_journal::{Clock, Journal, Options, SystemClock, Wait};
use powderhorn_protocol::store::Store;

const LIVES: u64 = 20;
const PURGES: u64 = 10;

/// When somebody who waits for a message is answered.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// When the journal says that it is written.
    Written,
    /// The planted bug: before it is appended.
    AtOnce,
}

impl Answer {
    fn wait(self, journal: &Journal) {
        let timeout = match self {
            Answer::Written => 10 * SECOND,
            Answer::AtOnce => return,
        };
        assert_eq!(journal.wait(journal.position(), timeout), Wait::Written);
    }
}

/// Lives that end as by `kill -9`, right after the last of their messages was answered. How many of those that were
/// answered are gone.
fn lost(answer: Answer) -> u64 {
    let dir = Dir::new();
    for life in 1..=LIVES {
        let options = Options {
            // A bug that is lucky is not seen: nothing is written in time that nobody waits for.
            linger: Duration::from_secs(5),
            ..options(&dir)
        };
        let (mut store, journal, _) = Journal::open(options).unwrap();
        for seq in 1..=PURGES {
            let id = id(life, seq);
            store.insert(id, message(id, SystemClock.boot()));
            answer.wait(&journal);
        }
        journal.kill();
    }
    let (_store, _journal, recovered) = open(&dir);
    let there = |life| {
        recovered
            .streams
            .get(&stream(life))
            .map_or(0, |held| held.count())
    };
    LIVES * PURGES - (1..=LIVES).map(there).sum::<u64>()
}

#[test]
fn what_was_answered_survives_a_crash_right_after_it() {
    assert_eq!(lost(Answer::Written), 0);
}

#[test]
fn an_answer_before_the_append_is_found_out() {
    let lost = lost(Answer::AtOnce);
    assert!(
        lost >= LIVES,
        "only {lost} of {LIVES} lives' messages are gone"
    );
}
