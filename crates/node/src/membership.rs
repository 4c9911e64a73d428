//! Keeps the peers what the sources say: the runtime's thread once a second and at each answer, and
//! whoever reloads the configuration.
//!
//! A peer that leaves takes nothing with it. Its streams stay in the core until they expire, and any
//! other node may still bring what it issued.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use log::Level;

use crate::address::HostName;
use crate::lookup::Answer;
use crate::members::{Member, Members, Wanted};
use crate::node::Shared;
use crate::peers::Turnover;
use crate::sys;

/// Peers that a notice names; of more, it says how many.
const NAMED_MAX: usize = 4;

impl Shared {
    /// Looks at all sources. What they say now holds when this returns, but for names, whose
    /// answers come later.
    pub fn keep_members(self: &Arc<Self>) {
        self.members_due.store(false, Ordering::SeqCst);
        let mut members = self.members.lock();
        let now = sys::boot_clock();
        let answers = std::mem::take(&mut *self.answers.lock());
        let mut changed = !answers.is_empty();
        for answer in answers {
            let name = answer.name.clone();
            let interval = members.interval();
            let failed = members.lookups.failure(&name).is_some();
            if members.lookups.answer(now, interval, answer) {
                self.name_failed(&members, &name);
            } else if failed {
                let text = format!("the name {name} is found again");
                self.notices.say(Level::Info, text);
            }
        }
        for name in members.lookups.overdue(now) {
            self.name_failed(&members, &name);
        }
        changed |= self.read_nodes_file(&mut members);
        for name in members.lookups.begin(now) {
            self.look_up(name);
        }
        if changed {
            self.turn_members(&mut members);
        }
        self.show_sources(&members);
    }

    /// Shows the state of all sources to whoever asks for the status.
    pub fn show_sources(&self, members: &Members) {
        *self.sources.lock() = members.states();
    }

    /// Reads the nodes file if it has changed; whether it has.
    pub fn read_nodes_file(&self, members: &mut Members) -> bool {
        match members.poll_file(sys::boot_clock()) {
            None => return false,
            Some(Ok(count)) => {
                let text = format!("nodes file read: {count} nodes");
                self.notices.say(Level::Info, text);
            }
            Some(Err(error)) => {
                let counter = &self.counters.members_source_errors;
                counter.fetch_add(1, Ordering::Relaxed);
                let text = format!("fleet.nodes_file: its peers stay as they were: {error}");
                self.notices.say(Level::Error, text);
            }
        }
        true
    }

    /// Makes the peers those that the sources ask for.
    pub fn turn_members(&self, members: &mut Members) {
        let wanted = members.wanted();
        self.tell_of_problems(&wanted);
        let config = self.config();
        // Nobody else changes the peers: whoever does has the members.
        let (peers, turnover) = self.peers().turn(wanted.peers, &config.site);
        let incomplete = members.incomplete();
        if turnover.is_empty() && incomplete == self.incomplete.load(Ordering::Relaxed) {
            return;
        }
        let mut core = self.core.lock();
        self.incomplete.store(incomplete, Ordering::Relaxed);
        // All under the core's lock, so that whoever holds it sees the same peers in core and list.
        *self.peers.write() = Arc::new(peers);
        let now = sys::boot_clock();
        let moved = &turnover.moved;
        let gone = moved.iter().map(|(gone, _, _)| *gone);
        for id in gone.chain(turnover.removed.iter().map(|(id, _)| *id)) {
            core.remove_peer(id);
        }
        let come = moved.iter().map(|(_, come, peer)| (*come, peer));
        for (id, peer) in come.chain(turnover.added.iter().map(|(id, peer)| (*id, peer))) {
            core.add_peer(now, id, &peer.site);
        }
        // Who has gone may be whom they wait for, and so may a source's first answer.
        self.wake_waiters(&core);
        drop(core);
        // It has challenges to send.
        self.wake.notify_one();
        self.tell_of_turnover(&turnover);
    }

    fn tell_of_turnover(&self, turnover: &Turnover) {
        let (added, removed) = (turnover.added.len(), turnover.removed.len());
        let counters = &self.counters;
        counters
            .members_added
            .fetch_add(added as u64, Ordering::Relaxed);
        counters
            .members_removed
            .fetch_add(removed as u64, Ordering::Relaxed);
        let parts = [("added", &turnover.added), ("removed", &turnover.removed)];
        for (verb, peers) in parts.into_iter().filter(|(_, peers)| !peers.is_empty()) {
            let text = match peers.get(NAMED_MAX) {
                None => {
                    let named: Vec<_> = peers.iter().map(|(_, peer)| who(peer)).collect();
                    named.join(", ")
                }
                Some(_) => format!("{} of them", peers.len()),
            };
            let text = format!("peers {verb}: {text}; {} now", self.peers().count());
            self.notices.say(Level::Info, text);
        }
    }

    fn tell_of_problems(&self, wanted: &Wanted) {
        let notices = &self.notices;
        if let Some(left_out) = wanted.left_out() {
            let counter = &self.counters.members_source_errors;
            counter.fetch_add(1, Ordering::Relaxed);
            notices.say_now_and_then("peers left out", Level::Error, || left_out);
        }
        let config = self.config();
        for peer in wanted.peers.iter().filter(|peer| peer.name == config.name) {
            let subject = format!("own name {}", peer.address);
            notices.say_now_and_then(&subject, Level::Warn, || {
                format!(
                    "peer {} at {} has this node's name, and no address of this host: if it is \
                     this node, set node.advertise; if not, two nodes have one name",
                    peer.name, peer.address
                )
            });
        }
    }

    fn name_failed(&self, members: &Members, name: &HostName) {
        self.counters.dns_failures.fetch_add(1, Ordering::Relaxed);
        let subject = format!("name {name}");
        self.notices.say_now_and_then(&subject, Level::Error, || {
            let failure = members.lookups.failure(name);
            let text = failure.map_or("", |failure| failure.text.as_str());
            format!("the name {name} fails, and its peers stay as they were: {text}")
        });
    }

    /// Begins to look a name up, on a thread of its own.
    fn look_up(self: &Arc<Self>, name: HostName) {
        self.counters.dns_lookups.fetch_add(1, Ordering::Relaxed);
        let (shared, asked) = (self.clone(), name.clone());
        let look = move || {
            let resolve = AssertUnwindSafe(|| (shared.resolver)(asked.host()));
            let panicked = |_| Err(io::Error::other("the lookup panicked"));
            let found = catch_unwind(resolve).unwrap_or_else(panicked);
            shared.answered(Answer { name: asked, found });
        };
        let thread = std::thread::Builder::new().name("powderhorn-dns".into());
        if let Err(error) = thread.spawn(look) {
            let found = Err(error);
            self.answered(Answer { name, found });
        }
    }

    fn answered(&self, answer: Answer) {
        self.answers.lock().push(answer);
        self.look_at_members();
    }

    /// Has the runtime look at the sources soon.
    pub fn look_at_members(&self) {
        self.members_due.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

/// A peer, for people.
pub(crate) fn who(peer: &Member) -> String {
    match peer.name.as_str() {
        "" => peer.address.to_string(),
        name => format!("{name} ({})", peer.address),
    }
}
