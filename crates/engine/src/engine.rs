//! The engine: what each kind of purge does to the cache, and what happens to an object as it goes in.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use powderhorn_protocol::Outcome;
use powderhorn_protocol::purge::{Ban, BanOperator, Host, Keys, Purge};
use powderhorn_protocol::time::Time;

use crate::bans::{RecentBans, Tests};
use crate::cache::{BanError, BanLine, Cache, Objects};
use crate::clock::WallClock;
use crate::counters::{Counter, Counters};
use crate::cutoff::Cutoff;
use crate::fence::{BUCKETS_LOG2, Fence, Verdict};
use crate::headers::{HOST_HEADER, Headers, KeyHeaders, URL_HEADER, ban_field, header_of};
use crate::index::{Index, InsertError, ObjectId};
use crate::keys::{KeyHash, KeyHasher};
use crate::older::{Older, Todo, key_tests};
use crate::pace::Pace;

/// Added to what a late ban takes from the wall clock, for what that may have drifted meanwhile.
const WALL_SLACK: Duration = Duration::from_secs(2);

/// What a 304 revives was found in the cache before its fetch began, and a purge that came in between
/// may not have got to it yet, or, if it is a ban, only marks what is asked for. So for what is
/// revived, purges of that time count as well: time for VCL and for a free worker, and for a mass
/// purge to get done. It costs a fetch too many where something was purged, fetched, expired and
/// revalidated within that time.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// When the fetch of an object began that nobody saw: every purge finds it old enough.
pub const UNKNOWN: Time = Time::from_us(i64::MIN + 1);

/// What takes longer is no fetch, but an object of unknown age.
const FETCH_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What an operator decides, and what the host knows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names of the headers that hold surrogate keys, in any case.
    pub key_headers: Vec<String>,
    /// Live bans in the cache beyond which none is added.
    pub bans_max: u64,
    /// Objects per second of a soft purge of everything.
    pub soft_rate: u64,
    /// Random bits for the hash of keys.
    pub seed: [u64; 2],
    /// Logarithm of the number of the fence's buckets.
    pub fence_buckets_log2: u32,
    /// Whether the cache may hold objects already, which [`Engine::inserted`] will not hear of.
    pub older_objects: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            key_headers: Vec::new(),
            bans_max: 10_000,
            soft_rate: 10_000,
            seed: [0; 2],
            fence_buckets_log2: BUCKETS_LOG2,
            older_objects: false,
        }
    }
}

/// An object that goes into the cache: its response headers are in, its body may still be coming.
#[derive(Clone, Copy, Debug)]
pub struct Inserted<'a> {
    /// The object.
    pub object: ObjectId,
    /// What `vcl_hash` made of its request.
    pub digest: &'a [u8; 32],
    /// When its fetch began, or before.
    pub started: Time,
    /// The object whose body a 304 revives in it; that one may have expired.
    pub revives: Option<ObjectId>,
    /// Hit-for-miss or hit-for-pass: nobody is given what is in it.
    pub empty: bool,
    /// What it was revived from has been taken away since, or it was itself marked to go while it
    /// was being fetched.
    pub doomed: bool,
}

/// Why a purge is refused before it is issued. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The client mends its regular expression.
    #[error("{0}")]
    Invalid(String),
    /// The client comes again later, or the operator raises the limit.
    #[error(
        "{live} bans are live, and purge.bans_max is {max}: the cache must get done with some of \
         them first"
    )]
    TooManyBans {
        /// Live bans.
        live: u64,
        /// The most.
        max: u64,
    },
}

/// The engine. All calls may come from any number of threads at a time.
pub struct Engine {
    settings: Settings,
    headers: KeyHeaders,
    hasher: KeyHasher,
    index: Index,
    fence: Fence,
    bans: RecentBans,
    clock: WallClock,
    older: Older,
    soft_everything: Pace,
    /// The latest cutoff of a soft purge of everything, in µs.
    soft_cutoff: AtomicI64,
    /// The longest time from the beginning of a fetch to its headers that was ever seen, in µs.
    slowest_us: AtomicI64,
    counters: Counters,
}

impl Engine {
    /// An engine for a cache that tells it of each object from now on; `wall_us` is the wall clock's
    /// time at `now`, in µs since 1970.
    pub fn new(settings: Settings, now: Time, wall_us: i64) -> Engine {
        Engine {
            headers: KeyHeaders::new(&settings.key_headers),
            hasher: KeyHasher::new(settings.seed),
            index: Index::new(),
            fence: Fence::new(settings.fence_buckets_log2),
            bans: RecentBans::new(),
            clock: WallClock::new(now, wall_us),
            older: Older::new(now, settings.older_objects),
            soft_everything: Pace::new(settings.soft_rate),
            soft_cutoff: AtomicI64::new(i64::MIN),
            slowest_us: AtomicI64::new(0),
            counters: Counters::default(),
            settings,
        }
    }

    /// The wall clock as it was seen; to be shown to it each second or so.
    pub fn clock(&self) -> &WallClock {
        &self.clock
    }

    /// The index of objects.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// There is no object in the cache that [`Engine::inserted`] has not heard of.
    pub fn no_older_objects(&self) {
        self.older.swept();
    }

    /// All objects that are older than the engine have been adopted.
    pub fn older_indexed(&self) {
        self.older.indexed();
    }

    /// Takes in an object that is older than the engine, or takes it away if a purge has come since.
    ///
    /// The caller holds a reference on it. `still_owned` says, once it is registered, whether
    /// [`Engine::expired`] is still to be called for it; if not, it is forgotten again.
    pub fn adopt(
        &self,
        cache: &dyn Objects,
        object: ObjectId,
        digest: &[u8; 32],
        headers: &dyn Headers,
        still_owned: &dyn Fn() -> bool,
    ) {
        let keys = self.headers.hashes(&self.hasher, headers);
        let registered = self.index.insert(object, UNKNOWN, &keys);
        if registered == Err(InsertError::Registered) {
            return;
        }
        if !still_owned() {
            self.index.remove(object);
            return;
        }
        Counters::add(&self.counters.objects_adopted, 1);
        let verdict = match registered {
            Ok(()) => self.verdict(digest, UNKNOWN, &keys),
            Err(_) => Verdict::Hard,
        };
        carry_out(cache, object, verdict);
    }

    /// Takes an object in, and takes it away again (or softens it) if a purge came during its
    /// fetch. To be called by the fetch, after lookups can find the object and before anybody who
    /// waited for it looks.
    pub fn inserted(
        &self,
        cache: &dyn Objects,
        now: Time,
        inserted: &Inserted<'_>,
        headers: &dyn Headers,
    ) -> Verdict {
        let Inserted {
            object, started, ..
        } = *inserted;
        let took = now.since(started);
        if took < FETCH_MAX {
            let took_us = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
            self.slowest_us.fetch_max(took_us, Ordering::Relaxed);
        }
        let keys = self.headers.hashes(&self.hasher, headers);
        // For purges to come, a body is as old as its own fetch, whoever says that it is still good.
        let (registered_as, revived) = match inserted.revives {
            Some(older) => (
                self.index.started(older).unwrap_or(UNKNOWN).min(started),
                true,
            ),
            None => (started, false),
        };
        // Registered first, and then tested: a purge that comes in between finds it.
        let registered = match self.index.insert(object, registered_as, &keys) {
            Err(InsertError::Registered) => {
                Counters::add(&self.counters.index_stale, 1);
                self.index.remove(object);
                self.index.insert(object, registered_as, &keys)
            }
            result => result,
        };
        if registered.is_err() {
            Counters::add(&self.counters.index_full, 1);
            cache.kill(object);
            return Verdict::Hard;
        }
        if inserted.empty && !inserted.doomed {
            // Without it, those who wait for it would fetch one after the other.
            return Verdict::Keep;
        }
        let since = counts_since(started, revived);
        let mut verdict = self.verdict(inserted.digest, since, &keys);
        let counter = match verdict {
            _ if inserted.doomed => {
                verdict = Verdict::Hard;
                Some(&self.counters.fence_revived)
            }
            Verdict::Hard => Some(&self.counters.fence_hard),
            _ if self.bans.overtook(since, headers) => {
                verdict = Verdict::Hard;
                Some(&self.counters.fence_banned)
            }
            Verdict::Soft => Some(&self.counters.fence_soft),
            Verdict::Keep => None,
        };
        if let Some(counter) = counter {
            Counters::add(counter, 1);
        }
        carry_out(cache, object, verdict);
        verdict
    }

    /// Forgets an object: the cache is about to let go of it. `patient`: a thread calls that has time,
    /// as the one that frees objects has.
    pub fn expired(&self, object: ObjectId, patient: bool) {
        if patient {
            self.index.stand_aside();
        }
        self.index.remove(object);
    }

    /// Whether a purge came during a fetch that has its headers now: VCL may try it again, so that
    /// even those who wait for it get the new content. Soft purges do not count: what they leave may
    /// be delivered.
    pub fn overtaken(
        &self,
        digest: &[u8; 32],
        started: Time,
        revived: bool,
        headers: &dyn Headers,
    ) -> bool {
        let keys = self.headers.hashes(&self.hasher, headers);
        let since = counts_since(started, revived);
        let overtaken = self.verdict(digest, since, &keys) == Verdict::Hard
            || self.bans.overtook(since, headers);
        if overtaken {
            Counters::add(&self.counters.fence_overtaken, 1);
        }
        overtaken
    }

    fn verdict(&self, digest: &[u8; 32], started: Time, keys: &[KeyHash]) -> Verdict {
        let keys = keys.iter().map(|key| key.low64());
        let hashes = keys.chain([digest_hash(digest)]);
        let verdict = hashes.map(|hash| self.fence.verdict(hash, started)).max();
        let softened = self.soft_cutoff.load(Ordering::SeqCst) >= started.as_us();
        let everything = if softened {
            Verdict::Soft
        } else {
            Verdict::Keep
        };
        verdict.map_or(everything, |verdict| verdict.max(everything))
    }

    /// Whether objects carry surrogate keys in this response header.
    pub fn is_key_header(&self, name: &[u8]) -> bool {
        self.headers.has(name)
    }

    /// Whether a purge can be applied: to be asked before it is issued.
    pub fn check(&self, cache: &dyn Cache, purge: &Purge) -> Result<(), CheckError> {
        if let Purge::Ban(ban) = purge {
            self.prepare_ban(cache, ban).map_err(CheckError::Invalid)?;
        }
        let max = match purge {
            Purge::Ban(_) => self.settings.bans_max,
            Purge::Flush(_) => self.bans_max_flush(),
            _ => return Ok(()),
        };
        let live = cache.live_bans(max);
        if live >= max {
            Counters::add(&self.counters.bans_too_many, 1);
            return Err(CheckError::TooManyBans { live, max });
        }
        Ok(())
    }

    /// Applies a purge that arrived at `arrival`, just now, and was `age` old then. May be done again:
    /// one that was applied in part is.
    ///
    /// A soft purge of everything is taken up, and done by [`Engine::work`].
    pub fn apply(&self, cache: &dyn Cache, purge: &Purge, arrival: Time, age: Duration) -> Outcome {
        let cutoff = Cutoff::new(arrival, age);
        if cutoff.late {
            Counters::add(&self.counters.purges_late, 1);
        }
        match purge {
            Purge::Digest(digest) => self.purge_digest(cache, digest, false, cutoff),
            Purge::SoftDigest(digest) => self.purge_digest(cache, digest, true, cutoff),
            Purge::Keys(keys) => self.purge_keys(cache, keys, false, cutoff, arrival),
            Purge::SoftKeys(keys) => self.purge_keys(cache, keys, true, cutoff, arrival),
            Purge::Ban(ban) => self.ban(cache, ban, cutoff, arrival),
            Purge::Flush(host) => self.flush(cache, host, cutoff, arrival),
            Purge::Everything => self.everything(cache, cutoff, arrival),
            Purge::SoftEverything => self.soft_everything(cache, cutoff, arrival),
            Purge::Unknown { .. } => Outcome::Unsupported,
        }
    }

    fn purge_digest(
        &self,
        cache: &dyn Cache,
        digest: &[u8; 32],
        soft: bool,
        cutoff: Cutoff,
    ) -> Outcome {
        self.fence.record(digest_hash(digest), soft, cutoff.at);
        let mut spare = |object| {
            let started = self.index.started(object);
            // One that nobody knows is older than the VMOD.
            started.is_some_and(|started| !cutoff.kills(started))
        };
        let spare: Option<&mut dyn FnMut(ObjectId) -> bool> =
            if cutoff.late { Some(&mut spare) } else { None };
        let count = cache.purge_digest(digest, soft, spare);
        self.count_objects(soft, count);
        Counters::add(&self.counters.purges_digest, 1);
        Outcome::Applied
    }

    fn purge_keys(
        &self,
        cache: &dyn Cache,
        keys: &Keys,
        soft: bool,
        cutoff: Cutoff,
        now: Time,
    ) -> Outcome {
        for key in keys.iter() {
            let key = self.hasher.hash(key);
            self.fence.record(key.low64(), soft, cutoff.at);
            let count = self.index.purge_key(key, cutoff.at, !soft, &mut |object| {
                if soft {
                    cache.soften(object);
                } else {
                    cache.kill(object);
                }
            });
            self.count_objects(soft, count);
        }
        Counters::add(&self.counters.purges_keys, 1);
        let done = match self.older.for_keys() {
            Todo::Nothing => Ok(()),
            Todo::Ban => self.ban_older(cache, keys, now),
            Todo::Sweep => self.sweep_older(cache, now),
        };
        self.outcome(done)
    }

    fn count_objects(&self, soft: bool, count: u64) {
        let counter = if soft {
            &self.counters.objects_softened
        } else {
            &self.counters.objects_killed
        };
        Counters::add(counter, count);
    }

    /// Sees to it that a ban's tests are known; an error says what is wrong with them.
    fn prepare_ban(&self, cache: &dyn Cache, ban: &Ban) -> Result<(), String> {
        if !self.bans.knows(ban.as_bytes()) {
            let tests = Tests::compile(cache, ban)?;
            self.bans.prepare(ban.as_bytes(), tests);
        }
        Ok(())
    }

    /// Remembers a ban for the fetches that it overtakes. Its tests have been prepared; if a thousand
    /// others came since, nobody can tell any more which fetches those are.
    fn record_ban(&self, says: &[u8], cutoff: Cutoff) {
        if !self.bans.record(says, cutoff.at) {
            self.bans.close(cutoff.at);
        }
    }

    fn ban(&self, cache: &dyn Cache, ban: &Ban, cutoff: Cutoff, arrival: Time) -> Outcome {
        if let Err(problem) = self.prepare_ban(cache, ban) {
            return self.outcome(Err(BanError::Invalid(problem)));
        }
        self.record_ban(ban.as_bytes(), cutoff);
        let lines = ban.tests().map(|test| BanLine {
            field: ban_field(header_of(test.field)),
            operator: match test.operator {
                BanOperator::Equal => "==",
                BanOperator::NotEqual => "!=",
                BanOperator::Match => "~",
                BanOperator::NotMatch => "!~",
            },
            argument: test.argument.into(),
        });
        // Objects older than the VMOD need not carry the headers for the URL and the host.
        let of_vcl = |name| {
            [URL_HEADER, HOST_HEADER]
                .iter()
                .any(|of| of.as_bytes() == name)
        };
        let older = ban.tests().any(|test| of_vcl(header_of(test.field)));
        let max = self.settings.bans_max;
        let done = self.add_ban(cache, lines.collect(), older, max, cutoff, arrival);
        Counters::add(&self.counters.purges_ban, u64::from(done.is_ok()));
        self.outcome(done)
    }

    fn flush(&self, cache: &dyn Cache, host: &Host, cutoff: Cutoff, arrival: Time) -> Outcome {
        let host = host.as_bytes();
        let mut says = b"flush ".to_vec();
        says.extend(host);
        self.bans.prepare(&says, Tests::of_host(host));
        self.record_ban(&says, cutoff);
        let line = BanLine {
            field: ban_field(HOST_HEADER.as_bytes()),
            operator: "==",
            argument: host.into(),
        };
        let max = self.bans_max_flush();
        let done = self.add_ban(cache, vec![line], true, max, cutoff, arrival);
        Counters::add(&self.counters.purges_flush, u64::from(done.is_ok()));
        self.outcome(done)
    }

    fn everything(&self, cache: &dyn Cache, cutoff: Cutoff, arrival: Time) -> Outcome {
        self.bans.prepare(b"everything", Tests::All);
        self.record_ban(b"everything", cutoff);
        // No limit: varnishd keeps one of equal bans, and it is what one does when there are too many.
        let done = self.add_ban(cache, vec![all()], false, u64::MAX, cutoff, arrival);
        if done.is_ok() && !cutoff.late {
            self.older.swept();
        }
        Counters::add(&self.counters.purges_everything, u64::from(done.is_ok()));
        self.outcome(done)
    }

    fn soft_everything(&self, cache: &dyn Cache, cutoff: Cutoff, now: Time) -> Outcome {
        self.soft_cutoff
            .fetch_max(cutoff.at.as_us(), Ordering::SeqCst);
        let done = match self.older.are() {
            true => self.sweep_older(cache, now),
            false => Ok(()),
        };
        if done.is_ok() {
            self.soft_everything.begin(cutoff.at);
            Counters::add(&self.counters.purges_everything, 1);
        }
        self.outcome(done)
    }

    /// Does a part of what takes its time; how long until the next part is due, if there is one. To
    /// be called by one thread at a time.
    pub fn work(&self, cache: &dyn Objects, now: Time) -> Option<Duration> {
        let mut softened = 0;
        let wait = self.soft_everything.work(&self.index, now, &mut |object| {
            cache.soften(object);
            softened += 1;
        });
        self.count_objects(true, softened);
        wait
    }

    /// Adds a ban; with `older`, and if there are objects older than the VMOD, these are banned, too.
    fn add_ban(
        &self,
        cache: &dyn Cache,
        mut lines: Vec<BanLine<'_>>,
        older: bool,
        max: u64,
        cutoff: Cutoff,
        arrival: Time,
    ) -> Result<(), BanError> {
        self.room_for_ban(cache, max)?;
        if older && self.older.are() {
            self.sweep_older(cache, arrival)?;
        }
        lines.extend(self.age_line(cutoff, arrival));
        cache.ban(&lines)
    }

    /// The test that makes a late ban spare what was fetched since its issue. None if it is not late,
    /// or if that cannot be told.
    ///
    /// What varnishd knows of an object is when its headers came, by the wall clock and less the Age
    /// that they had. A fetch that began at the cutoff had its headers within the longest time that
    /// any fetch ever took, so what had them later is spared.
    fn age_line(&self, cutoff: Cutoff, arrival: Time) -> Option<BanLine<'static>> {
        if !cutoff.late || self.clock.was_set() {
            return None;
        }
        if self.older.are() && cutoff.at < self.older.since {
            return None;
        }
        let slowest_us = self.slowest_us.load(Ordering::Relaxed);
        let slack = Duration::from_micros(slowest_us.unsigned_abs()) + WALL_SLACK;
        let age = arrival.since(cutoff.at).checked_sub(slack)?;
        Some(older_than(age))
    }

    /// A flush is rarer and more urgent than a ban, so it has some room of its own.
    fn bans_max_flush(&self) -> u64 {
        self.settings
            .bans_max
            .saturating_add(self.settings.bans_max / 8)
    }

    fn room_for_ban(&self, cache: &dyn Cache, max: u64) -> Result<(), BanError> {
        if cache.live_bans(max) < max {
            return Ok(());
        }
        Counters::add(&self.counters.bans_too_many, 1);
        Err(BanError::NotNow(format!("{max} are live")))
    }

    /// Bans objects older than the VMOD that have one of the keys.
    fn ban_older(&self, cache: &dyn Cache, keys: &Keys, now: Time) -> Result<(), BanError> {
        for line in key_tests(self.headers.names(), keys) {
            self.room_for_ban(cache, self.settings.bans_max)?;
            let lines: Vec<BanLine<'_>> = [line].into_iter().chain(self.older_line(now)).collect();
            cache.ban(&lines)?;
            Counters::add(&self.counters.bans_for_older, 1);
        }
        Ok(())
    }

    /// Bans all objects older than the VMOD.
    fn sweep_older(&self, cache: &dyn Cache, now: Time) -> Result<(), BanError> {
        cache.ban(&[self.older_line(now).unwrap_or_else(all)])?;
        self.older.swept();
        Counters::add(&self.counters.older_swept, 1);
        Ok(())
    }

    /// The test that only objects older than the VMOD pass, and a few more. None if the clock was set,
    /// so that it cannot be told which these are.
    fn older_line(&self, now: Time) -> Option<BanLine<'static>> {
        let age = now.since(self.older.since).checked_sub(WALL_SLACK)?;
        (!self.clock.was_set()).then(|| older_than(age))
    }

    fn outcome(&self, done: Result<(), BanError>) -> Outcome {
        match done {
            Ok(()) => Outcome::Applied,
            Err(BanError::NotNow(_)) => Outcome::Failed,
            Err(BanError::Invalid(problem)) => {
                Counters::add(&self.counters.bans_invalid, 1);
                log::warn!("a ban of the fleet cannot be applied here: {problem}");
                Outcome::Unsupported
            }
        }
    }

    /// What has been counted, and what is held.
    pub fn counters(&self) -> Vec<Counter> {
        let counts = self.index.counts();
        let mut list = self.counters.list();
        list.extend([
            ("objects", "Objects known.", counts.objects),
            (
                "keys",
                "Surrogate keys known, in each part of the index.",
                counts.keys,
            ),
            ("key_pairs", "Pairs of an object and a key.", counts.pairs),
            ("index_bytes", "Memory of the index.", counts.memory_bytes),
            (
                "fence_bytes",
                "Memory of the fence.",
                self.fence.memory_bytes() as u64,
            ),
            (
                "bans_recent",
                "Bans that fetches are tested against.",
                self.bans.count() as u64,
            ),
            (
                "soft_everything_busy",
                "1 while a soft purge of everything is under way.",
                u64::from(self.soft_everything.busy()),
            ),
            (
                "older_objects",
                "1 while there may be objects older than the VMOD.",
                u64::from(self.older.are()),
            ),
        ]);
        list
    }
}

/// From when on purges count for a fetch that began at `started`.
fn counts_since(started: Time, revived: bool) -> Time {
    if revived {
        started - LOOKUP_MAX
    } else {
        started
    }
}

fn carry_out(cache: &dyn Objects, object: ObjectId, verdict: Verdict) {
    match verdict {
        Verdict::Hard => cache.kill(object),
        Verdict::Soft => cache.soften(object),
        Verdict::Keep => {}
    }
}

/// A test that each object passes: no response has the status 0.
fn all() -> BanLine<'static> {
    BanLine {
        field: "obj.status".into(),
        operator: "!=",
        argument: b"0".as_slice().into(),
    }
}

/// Objects whose headers came before this long ago.
fn older_than(age: Duration) -> BanLine<'static> {
    BanLine {
        field: "obj.age".into(),
        operator: ">",
        argument: format!("{:.3}s", age.as_secs_f64()).into_bytes().into(),
    }
}

/// The part of a digest that the fence takes.
fn digest_hash(digest: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
