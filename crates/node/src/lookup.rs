//! Names that lead to peers, looked up again and again.
//!
//! The C library looks a name up and takes its time, so each lookup has a short-lived thread of its
//! own; the runtime's thread begins it and takes its answer. A name has one lookup under way at
//! most, however long that takes.
//!
//! A name that fails keeps the addresses that it had, for as long as it fails: a dead name server
//! must not take a fleet apart. An answer without an address that was there before may have been
//! cut short, so the address goes when it is missing from several in a row.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use powderhorn_protocol::time::Time;

use crate::address::{HostName, canonical, of_one_node};
use crate::config::PEERS_MAX;
use crate::members::Failure;

/// Lookups under way at once, over all names: a thread each.
pub(crate) const LOOKUPS_MAX: usize = 16;
/// A lookup that takes longer counts as failed; its answer counts when it comes.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);
/// An address goes when this many answers in a row were without it.
const MISSED_MAX: u32 = 3;

/// Looks a host's name up, for as long as that takes.
pub type Resolver = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// The C library's, which asks what the host's nsswitch.conf says.
pub(crate) fn system() -> Resolver {
    Arc::new(|host| {
        let found = (host, 0).to_socket_addrs()?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

/// What became of a lookup.
pub(crate) struct Answer {
    pub name: HostName,
    pub found: io::Result<Vec<IpAddr>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Running {
        since: Time,
    },
    /// It has failed for want of an answer, and its thread is still at it.
    Overdue,
}

/// What is known of one name.
#[derive(Debug)]
struct Lookup {
    /// Each with the answers in a row that were without it.
    addresses: BTreeMap<SocketAddr, u32>,
    state: State,
    due: Time,
    failure: Option<Failure>,
}

/// All names.
#[derive(Debug, Default)]
pub(crate) struct Lookups(BTreeMap<HostName, Lookup>);

impl Lookups {
    /// Names to look up from now on. New ones are due at once, others are forgotten.
    pub fn set_names(&mut self, now: Time, names: impl IntoIterator<Item = HostName>) {
        let mut before = std::mem::take(&mut self.0);
        for name in names {
            let fresh = || Lookup {
                addresses: BTreeMap::new(),
                state: State::Idle,
                due: now,
                failure: None,
            };
            let lookup = before.remove(&name);
            self.0
                .entry(name)
                .or_insert_with(|| lookup.unwrap_or_else(fresh));
        }
    }

    /// Where a name leads to.
    pub fn addresses(&self, name: &HostName) -> impl Iterator<Item = SocketAddr> + '_ {
        let lookup = self.0.get(name).into_iter();
        lookup.flat_map(|lookup| lookup.addresses.keys().copied())
    }

    /// Whether a name has not led anywhere yet. One that once did keeps an address.
    pub fn unanswered(&self) -> bool {
        self.0.values().any(|lookup| lookup.addresses.is_empty())
    }

    /// Since when a name has failed, and why.
    pub fn failure(&self, name: &HostName) -> Option<&Failure> {
        self.0.get(name)?.failure.as_ref()
    }

    /// Names that fail now.
    pub fn failing(&self) -> impl Iterator<Item = (&HostName, &Failure)> {
        let all = self.0.iter();
        all.filter_map(|(name, lookup)| Some((name, lookup.failure.as_ref()?)))
    }

    /// Names whose lookups are to begin now.
    pub fn begin(&mut self, now: Time) -> Vec<HostName> {
        let busy = self.0.values().filter(|lookup| lookup.state != State::Idle);
        let room = LOOKUPS_MAX.saturating_sub(busy.count());
        let due = |lookup: &Lookup| lookup.state == State::Idle && lookup.due <= now;
        let mut due: Vec<_> = self.0.iter_mut().filter(|(_, l)| due(l)).collect();
        // Those that wait longest first, or many names would keep others from their turn.
        due.sort_by_key(|(_, lookup)| lookup.due);
        let begun = due.into_iter().take(room).map(|(name, lookup)| {
            lookup.state = State::Running { since: now };
            name.clone()
        });
        begun.collect()
    }

    /// Names whose lookups have taken too long just now.
    pub fn overdue(&mut self, now: Time) -> Vec<HostName> {
        let mut names = Vec::new();
        for (name, lookup) in &mut self.0 {
            match lookup.state {
                State::Running { since } if now.since(since) >= LOOKUP_LIMIT => {
                    lookup.state = State::Overdue;
                    let text = format!("no answer within {LOOKUP_LIMIT:?}");
                    Failure::note(&mut lookup.failure, text);
                    names.push(name.clone());
                }
                _ => {}
            }
        }
        names
    }

    /// Takes an answer; whether the name failed. The next lookup is due after `interval`.
    pub fn answer(&mut self, now: Time, interval: Duration, answer: Answer) -> bool {
        // The name may have gone from the sources meanwhile.
        let Some(lookup) = self.0.get_mut(&answer.name) else {
            return false;
        };
        lookup.state = State::Idle;
        lookup.due = now + interval;
        let found = match answer.found {
            Ok(found) => found,
            Err(error) => {
                Failure::note(&mut lookup.failure, error.to_string());
                return true;
            }
        };
        let port = answer.name.port();
        let fit = found.into_iter().map(|ip| ip.to_canonical());
        let found: Vec<SocketAddr> = fit
            .filter(|ip| of_one_node(*ip))
            .map(|ip| canonical(SocketAddr::new(ip, port)))
            .take(PEERS_MAX)
            .collect();
        if found.is_empty() {
            Failure::note(&mut lookup.failure, "leads to no address".into());
            return true;
        }
        lookup.failure = None;
        for missed in lookup.addresses.values_mut() {
            *missed += 1;
        }
        lookup
            .addresses
            .extend(found.into_iter().map(|address| (address, 0)));
        lookup.addresses.retain(|_, missed| *missed < MISSED_MAX);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn name(text: &str) -> HostName {
        HostName::parse(text).expect(text)
    }

    fn at(seconds: i64) -> Time {
        Time::from_us(seconds * 1_000_000)
    }

    fn found(name: &HostName, ips: &[&str]) -> Answer {
        let found = Ok(ips
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect());
        let name = name.clone();
        Answer { name, found }
    }

    fn failed(name: &HostName) -> Answer {
        let found = Err(io::Error::other("no such name"));
        let name = name.clone();
        Answer { name, found }
    }

    fn shown(lookups: &Lookups, name: &HostName) -> Vec<String> {
        lookups.addresses(name).map(|a| a.to_string()).collect()
    }

    #[test]
    fn an_address_goes_when_three_answers_in_a_row_lack_it() {
        let (a, mut lookups) = (name("a:4277"), Lookups::default());
        lookups.set_names(at(0), [a.clone()]);
        let all = ["192.0.2.1", "::ffff:192.0.2.2", "0.0.0.0", "192.0.2.1"];
        assert!(!lookups.answer(at(0), INTERVAL, found(&a, &all)));
        let both = ["192.0.2.1:4277", "192.0.2.2:4277"];
        assert_eq!(shown(&lookups, &a), both);
        let rounds = [
            (Some(&all[..1]), &both[..]),
            (Some(&all[..1]), &both),
            // It comes back, and the count begins again; what fails is no answer.
            (Some(&all[..2]), &both),
            (Some(&all[..1]), &both),
            (None, &both),
            (Some(&[]), &both),
            (Some(&all[..1]), &both),
            (Some(&all[..1]), &both[..1]),
        ];
        for (round, (answer, expected)) in rounds.into_iter().enumerate() {
            let answer = answer.map_or_else(|| failed(&a), |ips| found(&a, ips));
            lookups.answer(at(0), INTERVAL, answer);
            assert_eq!(shown(&lookups, &a), expected, "round {round}");
        }
    }

    #[test]
    fn a_name_that_fails_keeps_what_it_had_and_says_since_when() {
        let (a, mut lookups) = (name("a:4277"), Lookups::default());
        lookups.set_names(at(0), [a.clone()]);
        lookups.answer(at(0), INTERVAL, found(&a, &["192.0.2.1"]));
        for _ in 0..100 {
            assert!(lookups.answer(at(1), INTERVAL, failed(&a)));
            assert_eq!(shown(&lookups, &a), ["192.0.2.1:4277"]);
        }
        let failure = lookups.failure(&a).unwrap();
        assert_eq!(failure.text, "no such name");
        let since = failure.since_wall_ms;
        assert!(lookups.answer(at(2), INTERVAL, found(&a, &[])));
        let failure = lookups.failure(&a).unwrap();
        assert_eq!(
            (failure.since_wall_ms, &*failure.text),
            (since, "leads to no address")
        );
        assert!(!lookups.answer(at(3), INTERVAL, found(&a, &["192.0.2.1"])));
        assert_eq!(lookups.failure(&a), None);
    }

    #[test]
    fn a_name_has_one_lookup_under_way_however_long_it_takes() {
        let (a, mut lookups) = (name("a:4277"), Lookups::default());
        lookups.set_names(at(0), [a.clone()]);
        assert_eq!(lookups.begin(at(0)), std::slice::from_ref(&a));
        assert_eq!(lookups.begin(at(1)), []);
        assert_eq!(lookups.overdue(at(4)), []);
        assert_eq!(lookups.overdue(at(5)), std::slice::from_ref(&a));
        assert_eq!(lookups.failure(&a).unwrap().text, "no answer within 5s");
        assert_eq!(lookups.overdue(at(100)), []);
        assert_eq!(lookups.begin(at(100)), []);
        lookups.answer(at(100), INTERVAL, found(&a, &["192.0.2.1"]));
        assert_eq!(lookups.failure(&a), None);
        assert_eq!(lookups.begin(at(109)), []);
        assert_eq!(lookups.begin(at(110)), std::slice::from_ref(&a));
        // Names that stay keep what they have, also when others come.
        lookups.set_names(at(110), [name("b:4277"), a.clone()]);
        assert_eq!(lookups.begin(at(110)), [name("b:4277")]);
        assert_eq!(shown(&lookups, &a), ["192.0.2.1:4277"]);
    }

    #[test]
    fn few_are_under_way_at_once_and_each_gets_its_turn() {
        let names: Vec<_> = (0..40).map(|n| name(&format!("n{n}:4277"))).collect();
        let mut lookups = Lookups::default();
        lookups.set_names(at(0), names.clone());
        let mut asked = std::collections::BTreeSet::new();
        for round in 0..4 {
            let begun = lookups.begin(at(round * 10));
            assert!(begun.len() <= LOOKUPS_MAX);
            for name in begun {
                lookups.answer(at(round * 10), INTERVAL, found(&name, &["192.0.2.1"]));
                asked.insert(name);
            }
        }
        assert_eq!(asked.len(), names.len());
    }
}
