//! Bans that came a short while ago, for the fetches that they overtook.
//!
//! Varnish attaches the newest ban to an object when its headers are in, and never tests it against
//! that one or an older one. So an object whose fetch began before a ban and whose headers came after
//! it escapes. Each ban is therefore remembered here before it is added there, and every object is
//! tested, as it goes in, against those that came during its fetch.
//!
//! The memory is bounded by [`RECENT_MAX`]. What falls out of it leaves its cutoff behind: a fetch
//! that began before that is taken to be banned, since nobody can tell any more.

use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::RwLock;
use powderhorn_protocol::purge::{Ban, BanOperator};
use powderhorn_protocol::time::Time;

use crate::cache::{Cache, Regex};
use crate::headers::{HOST_HEADER, Headers, first, header_of};

/// Bans remembered. A fetch of a second would have to meet a thousand different ones for an object
/// to die for nothing.
pub const RECENT_MAX: usize = 1_024;

/// Before all fetches.
const NEVER: Time = Time::from_us(i64::MIN);

/// What an object must pass to be banned.
pub(crate) enum Tests {
    /// Nothing: all objects are.
    All,
    /// All of these.
    Each(Vec<Test>),
}

pub(crate) struct Test {
    header: Vec<u8>,
    compare: Compare,
}

enum Compare {
    Equal(Vec<u8>),
    NotEqual(Vec<u8>),
    Match(Box<dyn Regex>),
    NotMatch(Box<dyn Regex>),
}

impl Tests {
    /// Compiles a ban's tests. An error says which regular expression the cache cannot take.
    pub fn compile(cache: &dyn Cache, ban: &Ban) -> Result<Tests, String> {
        let tests = ban.tests().map(|test| {
            let argument = test.argument;
            let compare = match test.operator {
                BanOperator::Equal => Compare::Equal(argument.to_vec()),
                BanOperator::NotEqual => Compare::NotEqual(argument.to_vec()),
                BanOperator::Match => Compare::Match(cache.regex(argument)?),
                BanOperator::NotMatch => Compare::NotMatch(cache.regex(argument)?),
            };
            Ok(Test {
                header: header_of(test.field).to_vec(),
                compare,
            })
        });
        tests.collect::<Result<_, String>>().map(Tests::Each)
    }

    /// All objects of a host.
    pub fn of_host(host: &[u8]) -> Tests {
        Tests::Each(vec![Test {
            header: HOST_HEADER.into(),
            compare: Compare::Equal(host.to_vec()),
        }])
    }

    /// As Varnish's ban_evaluate() does, but a regular expression that takes too long counts as
    /// passed: better a fetch too many than a stale object.
    fn pass(&self, lines: &[Vec<u8>]) -> bool {
        let Tests::Each(tests) = self else {
            return true;
        };
        tests.iter().all(|test| {
            let value = first(lines, &test.header);
            match &test.compare {
                Compare::Equal(argument) => value == Some(argument),
                Compare::NotEqual(argument) => value != Some(argument),
                Compare::Match(regex) => value.is_some_and(|v| regex.matches(v).unwrap_or(true)),
                Compare::NotMatch(regex) => {
                    value.is_some_and(|v| !regex.matches(v).unwrap_or(false))
                }
            }
        })
    }
}

struct Recent {
    /// What the ban says, to recognise it when it comes again.
    says: Vec<u8>,
    cutoff: Time,
    tests: Tests,
}

/// The bans that came last.
pub(crate) struct RecentBans {
    recent: RwLock<Vec<Recent>>,
    /// The latest cutoff of all, so that a fetch that nothing overtook takes no lock.
    latest: AtomicI64,
    /// The latest cutoff of those that fell out.
    dropped: AtomicI64,
}

impl RecentBans {
    pub fn new() -> RecentBans {
        RecentBans {
            recent: RwLock::new(Vec::new()),
            latest: AtomicI64::new(i64::MIN),
            dropped: AtomicI64::new(i64::MIN),
        }
    }

    /// Gives a ban its tests, without effect yet. Whether they are needed is known beforehand by
    /// [`RecentBans::knows`].
    pub fn prepare(&self, says: &[u8], tests: Tests) {
        let mut recent = self.recent.write();
        if recent.iter().any(|known| known.says == says) {
            return;
        }
        if recent.len() >= RECENT_MAX {
            let oldest = recent.iter().enumerate().min_by_key(|(_, ban)| ban.cutoff);
            if let Some((at, oldest)) = oldest {
                let cutoff = oldest.cutoff.as_us();
                self.dropped.fetch_max(cutoff, Ordering::SeqCst);
                recent.swap_remove(at);
            }
        }
        recent.push(Recent {
            says: says.to_vec(),
            cutoff: NEVER,
            tests,
        });
    }

    /// Whether a ban that says this has its tests here.
    pub fn knows(&self, says: &[u8]) -> bool {
        self.recent.read().iter().any(|ban| ban.says == says)
    }

    /// Remembers that a ban came. To be called before it is added to the cache. False, and nothing
    /// is done, if it has no tests here (any more).
    pub fn record(&self, says: &[u8], cutoff: Time) -> bool {
        let mut recent = self.recent.write();
        let Some(known) = recent.iter_mut().find(|known| known.says == says) else {
            return false;
        };
        known.cutoff = known.cutoff.max(cutoff);
        // Under the lock, so that whoever sees it finds the ban.
        self.latest.fetch_max(cutoff.as_us(), Ordering::SeqCst);
        true
    }

    /// Takes every fetch that began until `cutoff` to be banned: for a ban that cannot be remembered.
    pub fn close(&self, cutoff: Time) {
        let _recent = self.recent.write();
        self.dropped.fetch_max(cutoff.as_us(), Ordering::SeqCst);
        self.latest.fetch_max(cutoff.as_us(), Ordering::SeqCst);
    }

    /// Whether a ban that came during the fetch that began at `started` takes its object away.
    pub fn overtook(&self, started: Time, headers: &dyn Headers) -> bool {
        if self.latest.load(Ordering::SeqCst) < started.as_us() {
            return false;
        }
        let recent = self.recent.read();
        if self.dropped.load(Ordering::SeqCst) >= started.as_us() {
            return true;
        }
        let mut lines = Vec::new();
        headers.each(&mut |line| lines.push(line.to_vec()));
        let mut since = recent.iter().filter(|ban| ban.cutoff >= started);
        since.any(|ban| ban.tests.pass(&lines))
    }

    pub fn count(&self) -> usize {
        self.recent.read().len()
    }
}
