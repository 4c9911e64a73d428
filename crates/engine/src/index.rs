//! The index: every object that the cache inserted, by its pointer and by its surrogate keys.
//!
//! Objects are spread over [`SHARDS`] shards by a hash of their pointer; a shard has a lock, its objects
//! with all their keys, and for each key that one of them has a list of members. So inserting or removing
//! an object takes one lock, and a key purge visits all shards, one after the other.
//!
//! Objects, keys and memberships are entries of fixed size in slabs and name each other by 32-bit
//! numbers; both hash tables grow and shrink by one bucket at a time. There is no operation that copies
//! or rehashes in proportion to what is stored. A membership costs 20 bytes, an object 28, a key 36 per
//! shard that has it.
//!
//! # Locks
//! `act` runs with a shard's lock held: the object that it is called for is registered, so the cache has
//! not let go of it yet, for that takes [`Index::remove`], which waits. `act` must not call the index, and
//! nobody may call the index with a lock held that `act` takes (in varnishd: an objhead's or the
//! expiry's mutex). A purge holds a lock for [`HOLD`] and a little more, and then lends it to whoever waits.
//! If `act` panics, the index is whole: the object counts as visited.

use std::ops::{Deref, DerefMut};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use powderhorn_protocol::time::Time;

use crate::aside::{Aside, Purging};
use crate::fair::Fair;
use crate::keys::KeyHash;
use crate::slab::{NIL, Slab, Slot};
use crate::table::{Hashed, Table};

/// Shards. A power of two.
pub const SHARDS: usize = 8;

/// Objects for which `act` is called before anybody looks at the clock. A kill takes 0.3 µs if nobody
/// wants varnishd's own locks and up to 12 µs if somebody does.
pub const SLICE: usize = 16;

/// How long a purge keeps a lock. Lending it more often would take longer than what is done in between:
/// varnishd's expiry thread wants it for each object that was killed.
pub const HOLD: Duration = Duration::from_micros(200);

/// Most entries of a kind in a shard. What is left below 2³² is for the marks of purges under way.
const ENTRIES_MAX: u32 = u32::MAX - (1 << 24);

/// How long a purge works before it sleeps, without any lock, for [`REST`]. The locks that `act` takes are
/// not fair: a thread that takes varnishd's expiry mutex a million times a second gets it each time, and a
/// fetch that wants it to insert its object would wait for the end of the purge.
const WORK: Duration = Duration::from_micros(800);
const REST: Duration = Duration::from_micros(50);

/// Objects of a key in one shard from which on those who free what is killed stand aside.
const MASS: u32 = 1_024;

/// Objects for which [`Index::walk`] calls `act` without letting go of the lock.
const WALK_OBJECTS: usize = 64;

/// Entries that [`Index::walk`] looks at without letting go of the lock, vacant ones included.
const WALK_SLOTS: usize = 1024;

/// An object of the cache: the address of its objcore. Opaque here, and never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u64);

/// Why an object was not registered. Nothing has changed in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    /// It is registered already, maybe with other keys: the caller has missed its removal.
    #[error("the object is registered already")]
    Registered,
    /// There are no more entries. The caller should kill the object, which no key purge would find.
    #[error("the index is full")]
    Full,
}

/// What is in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Registered objects.
    pub objects: u64,
    /// Keys, counted once in each shard where an object has them.
    pub keys: u64,
    /// Pairs of an object and a key that a purge of the key would find.
    pub pairs: u64,
    /// Bytes that all of it takes.
    pub memory_bytes: u64,
}

/// Where [`Index::walk`] goes on. The default is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    shard: usize,
    slot: u32,
}

/// The index. See the module's documentation.
pub struct Index {
    shards: [Shard; SHARDS],
    aside: Aside,
}

impl Index {
    /// An empty index, of about 100 kB.
    pub fn new() -> Self {
        Index::with_limit(ENTRIES_MAX)
    }

    /// An index of which each shard takes at most `entries_max` objects, as many keys and as many pairs.
    pub fn with_limit(entries_max: u32) -> Self {
        Index {
            shards: std::array::from_fn(|_| Shard::new(entries_max.min(ENTRIES_MAX))),
            aside: Aside::default(),
        }
    }

    /// Registers an object whose fetch began at `started`. Keys may repeat, or be none.
    ///
    /// # Errors
    /// See [`InsertError`].
    pub fn insert(
        &self,
        object: ObjectId,
        started: Time,
        keys: &[KeyHash],
    ) -> Result<(), InsertError> {
        self.shard(object).lock().insert(object, started, keys)
    }

    /// Forgets an object and its keys; false if it was not registered.
    pub fn remove(&self, object: ObjectId) -> bool {
        let mut state = self.shard(object).lock();
        let at = state.find_object(object);
        if at == NIL {
            return false;
        }
        state.remove(at);
        true
    }

    /// Waits while a purge of very many objects kills them, for 100 ms at most: for a thread that frees
    /// what is killed and has time.
    pub fn stand_aside(&self) {
        self.aside.wait();
    }

    /// When the object's fetch began; `None` if it is not registered.
    pub fn started(&self, object: ObjectId) -> Option<Time> {
        let state = self.shard(object).lock();
        let at = state.find_object(object);
        (at != NIL).then(|| Time::from_us(state.objects[at].started))
    }

    /// Calls `act` for each object that has the key and whose fetch began at `cutoff` or before; returns
    /// for how many.
    ///
    /// With `drain` these objects leave the key's list first: they are being killed, and no other purge
    /// of this key shall find them again. They stay registered until they are removed.
    ///
    /// Every object that has the key from the beginning to the end of the call is visited once. Those that
    /// come or go meanwhile may or may not be; the call ends in any case, after at most as many visits as
    /// the key had objects when their shard's turn came.
    pub fn purge_key(
        &self,
        key: KeyHash,
        cutoff: Time,
        drain: bool,
        act: &mut dyn FnMut(ObjectId),
    ) -> u64 {
        let mut mass = Mass {
            aside: &self.aside,
            purging: None,
            works_since: Instant::now(),
        };
        let mut purge = |shard: &Shard| shard.purge_key(key, cutoff, drain, act, &mut mass);
        self.shards.iter().map(&mut purge).sum()
    }

    /// Calls `act` for the next objects, `max` or [`WALK_OBJECTS`] of them at most, maybe for none, and returns
    /// where to go on; `None` at the end.
    ///
    /// Every object that is registered from the beginning to the end of a walk is visited once; those
    /// that come or go meanwhile may or may not be. A walk ends if the index does not grow faster than it
    /// goes: entries do not move, and new ones take vacant places first.
    pub fn walk(
        &self,
        cursor: Cursor,
        max: usize,
        act: &mut dyn FnMut(ObjectId, Time),
    ) -> Option<Cursor> {
        let state = self.shards.get(cursor.shard)?.lock();
        let mut left = max.clamp(1, WALK_OBJECTS);
        let mut slot = cursor.slot;
        for _ in 0..WALK_SLOTS {
            if slot >= state.objects.end() {
                let shard = cursor.shard + 1;
                return (shard < SHARDS).then_some(Cursor { shard, slot: 0 });
            }
            if left == 0 {
                break;
            }
            match state.objects.peek(slot) {
                None => slot = (slot | (crate::slab::CHUNK - 1)) + 1,
                Some(object) => {
                    slot += 1;
                    if object.started != VACANT {
                        left -= 1;
                        act(ObjectId(object.id), Time::from_us(object.started));
                    }
                }
            }
        }
        Some(Cursor { slot, ..cursor })
    }

    /// What is in the index, as each shard had it when its lock was last let go. Takes no lock.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            counts.objects += shard.objects.load(Ordering::Relaxed);
            counts.keys += shard.keys.load(Ordering::Relaxed);
            counts.pairs += shard.pairs.load(Ordering::Relaxed);
            counts.memory_bytes += shard.memory_bytes.load(Ordering::Relaxed);
        }
        counts
    }

    fn shard(&self, object: ObjectId) -> &Shard {
        // The table takes the low bits.
        &self.shards[(mix(object.0) >> 61) as usize % SHARDS]
    }
}

impl Default for Index {
    fn default() -> Self {
        Index::new()
    }
}

/// Spreads the bits of an address, of which the low ones and the high ones hardly vary. Addresses are
/// not chosen by clients, so the hash needs no secret. (The finaliser of splitmix64.)
fn mix(id: u64) -> u64 {
    let id = (id ^ (id >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let id = (id ^ (id >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    id ^ (id >> 31)
}

/// The start of a vacant object's fetch.
const VACANT: i64 = i64::MIN;

/// 24 bytes.
#[derive(Clone, Copy)]
struct Object {
    id: u64,
    started: i64,
    /// The first of its memberships.
    first: u32,
    chain: u32,
}

/// 32 bytes, all of them on one cache line: a lookup compares a key or two.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Key {
    hash: [u32; 4],
    chain: u32,
    /// Both ends of the list of its members.
    newest: u32,
    oldest: u32,
    /// Members, without the marks of purges.
    members: u32,
}

/// That an object has a key: 20 bytes.
#[derive(Clone, Copy)]
struct Member {
    /// [`NIL`] for the mark of a purge that is under way.
    object: u32,
    /// [`NIL`] once it was drained from the key's list.
    key: u32,
    newer: u32,
    older: u32,
    /// The object's next membership.
    sibling: u32,
}

impl Slot for Object {
    const VACANT: Object = Object {
        id: 0,
        started: VACANT,
        first: NIL,
        chain: NIL,
    };
    fn link(&self) -> u32 {
        self.chain
    }
    fn set_link(&mut self, link: u32) {
        self.chain = link;
    }
}

impl Hashed for Object {
    fn hash(&self) -> u32 {
        mix(self.id) as u32
    }
}

impl Slot for Key {
    const VACANT: Key = Key {
        hash: [0; 4],
        chain: NIL,
        newest: NIL,
        oldest: NIL,
        members: 0,
    };
    fn link(&self) -> u32 {
        self.chain
    }
    fn set_link(&mut self, link: u32) {
        self.chain = link;
    }
}

impl Hashed for Key {
    fn hash(&self) -> u32 {
        self.hash[0]
    }
}

impl Slot for Member {
    const VACANT: Member = Member {
        object: NIL,
        key: NIL,
        newer: NIL,
        older: NIL,
        sibling: NIL,
    };
    fn link(&self) -> u32 {
        self.sibling
    }
    fn set_link(&mut self, link: u32) {
        self.sibling = link;
    }
}

fn words(key: KeyHash) -> [u32; 4] {
    [0, 32, 64, 96].map(|shift| (key.0 >> shift) as u32)
}

/// A shard, on cache lines of its own.
#[repr(align(128))]
struct Shard {
    state: Fair<State>,
    objects: AtomicU64,
    keys: AtomicU64,
    pairs: AtomicU64,
    memory_bytes: AtomicU64,
}

impl Shard {
    fn new(entries_max: u32) -> Self {
        let shard = Shard {
            state: Fair::new(State {
                objects: Slab::new(),
                keys: Slab::new(),
                members: Slab::new(),
                by_id: Table::new(),
                by_hash: Table::new(),
                pairs: 0,
                entries_max,
            }),
            objects: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            pairs: AtomicU64::new(0),
            memory_bytes: AtomicU64::new(0),
        };
        drop(shard.lock());
        shard
    }

    fn lock(&self) -> Locked<'_> {
        Locked {
            shard: self,
            state: self.state.lock(),
        }
    }

    fn purge_key(
        &self,
        key: KeyHash,
        cutoff: Time,
        drain: bool,
        act: &mut dyn FnMut(ObjectId),
        mass: &mut Mass<'_>,
    ) -> u64 {
        // It goes after the lock does, also when `act` panics.
        let mut mark = None;
        let mut state = self.lock();
        let at = state.find_key(key);
        if at == NIL {
            return 0;
        }
        let mut pass = Pass {
            next: state.keys[at].oldest,
            steps: state.keys[at].members,
            cutoff: cutoff.as_us(),
            drain,
            acted: 0,
        };
        if pass.steps >= MASS {
            mass.begin();
        }
        let mut slice = SLICE;
        if pass.steps as usize > SLICE {
            match state.add_mark(at) {
                Some(member) => {
                    mark = Some(Mark {
                        shard: self,
                        member,
                    })
                }
                // Millions of purges are under way at once, which no machine has threads for. Then
                // rather in one go than not at all.
                None => slice = usize::MAX,
            }
        }
        let mut since = Instant::now();
        loop {
            state.pass(&mut pass, slice, act);
            let Some(mark) = &mark else { break };
            if pass.next == NIL {
                break;
            }
            if since.elapsed() >= HOLD {
                state.move_mark(mark.member, pass.next);
                drop(state);
                mass.rest();
                state = self.lock();
                pass.next = state.members[mark.member].newer;
                since = Instant::now();
            }
        }
        pass.acted
    }
}

/// How a purge of very many objects gets on with others, from the first shard that has many to its end.
struct Mass<'a> {
    aside: &'a Aside,
    purging: Option<Purging<'a>>,
    works_since: Instant,
}

impl Mass<'_> {
    fn begin(&mut self) {
        self.purging.get_or_insert_with(|| self.aside.purge());
    }

    fn rest(&mut self) {
        if self.works_since.elapsed() >= WORK {
            std::thread::sleep(REST);
            self.works_since = Instant::now();
        }
    }
}

/// The place of a purge in a key's list while it lets go of the lock, and what keeps the key from
/// vanishing meanwhile. Other purges step over it.
struct Mark<'a> {
    shard: &'a Shard,
    member: u32,
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        let mut state = self.shard.lock();
        state.unlink(self.member);
        state.members.free(self.member);
    }
}

/// A locked shard, which publishes its counts before it is unlocked.
struct Locked<'a> {
    shard: &'a Shard,
    state: MutexGuard<'a, State>,
}

impl Locked<'_> {
    fn publish(&self) {
        let (shard, state) = (self.shard, &*self.state);
        let store = |count: &AtomicU64, n: u64| count.store(n, Ordering::Relaxed);
        store(&shard.objects, state.objects.len().into());
        store(&shard.keys, state.keys.len().into());
        store(&shard.pairs, state.pairs);
        store(&shard.memory_bytes, state.memory_bytes() as u64);
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.publish();
    }
}

impl Deref for Locked<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

/// How far a purge has come in one shard.
struct Pass {
    /// The next member to visit, from the oldest to the newest; [`NIL`] at the end.
    next: u32,
    /// Visits left: members that come meanwhile do not keep the purge from ending.
    steps: u32,
    cutoff: i64,
    drain: bool,
    acted: u64,
}

/// What a shard's lock guards.
struct State {
    objects: Slab<Object>,
    keys: Slab<Key>,
    members: Slab<Member>,
    by_id: Table,
    by_hash: Table,
    /// Members on the lists of all keys.
    pairs: u64,
    entries_max: u32,
}

impl State {
    fn find_object(&self, object: ObjectId) -> u32 {
        self.by_id
            .find(&self.objects, mix(object.0) as u32, |o| o.id == object.0)
    }

    fn find_key(&self, key: KeyHash) -> u32 {
        let hash = words(key);
        self.by_hash
            .find(&self.keys, key.0 as u32, |k| k.hash == hash)
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Shard>()
            + self.objects.memory_bytes()
            + self.keys.memory_bytes()
            + self.members.memory_bytes()
            + self.by_id.memory_bytes()
            + self.by_hash.memory_bytes()
    }

    fn insert(
        &mut self,
        object: ObjectId,
        started: Time,
        keys: &[KeyHash],
    ) -> Result<(), InsertError> {
        if self.find_object(object) != NIL {
            return Err(InsertError::Registered);
        }
        if self.objects.len() >= self.entries_max {
            return Err(InsertError::Full);
        }
        let at = self
            .objects
            .alloc(Object {
                id: object.0,
                started: started.as_us().max(VACANT + 1),
                first: NIL,
                chain: NIL,
            })
            .ok_or(InsertError::Full)?;
        self.by_id.insert(&mut self.objects, at);
        for key in keys {
            if self.add_member(at, *key).is_none() {
                self.remove(at);
                return Err(InsertError::Full);
            }
        }
        Ok(())
    }

    /// Gives the object a key; `None` if there are no more entries.
    fn add_member(&mut self, object: u32, key: KeyHash) -> Option<()> {
        let mut at = self.find_key(key);
        if at == NIL {
            if self.keys.len() >= self.entries_max {
                return None;
            }
            at = self.keys.alloc(Key {
                hash: words(key),
                ..Key::VACANT
            })?;
            self.by_hash.insert(&mut self.keys, at);
        }
        let newest = self.keys[at].newest;
        // A key that repeats: the lock is held all along, so nothing is newer than its first membership.
        if newest != NIL && self.members[newest].object == object {
            return Some(());
        }
        let member = if self.members.len() < self.entries_max {
            self.members.alloc(Member {
                object,
                key: at,
                sibling: self.objects[object].first,
                ..Member::VACANT
            })
        } else {
            None
        };
        let Some(member) = member else {
            self.drop_if_empty(at);
            return None;
        };
        self.objects[object].first = member;
        self.link_newest(member);
        self.keys[at].members += 1;
        self.pairs += 1;
        Some(())
    }

    /// Forgets an object.
    fn remove(&mut self, object: u32) {
        let mut member = self.objects[object].first;
        while member != NIL {
            let sibling = self.members[member].sibling;
            if self.members[member].key != NIL {
                self.drain(member);
            }
            self.members.free(member);
            member = sibling;
        }
        self.by_id.remove(&mut self.objects, object);
        self.objects.free(object);
    }

    /// Takes a member off its key's list; it stays the object's.
    fn drain(&mut self, member: u32) {
        self.pairs -= 1;
        let key = self.members[member].key;
        self.keys[key].members -= 1;
        self.unlink(member);
    }

    /// Visits up to `slice` members.
    fn pass(&mut self, pass: &mut Pass, slice: usize, act: &mut dyn FnMut(ObjectId)) {
        let mut left = slice;
        while pass.next != NIL && left > 0 {
            let at = pass.next;
            let member = self.members[at];
            pass.next = member.newer;
            if member.object == NIL {
                continue;
            }
            left -= 1;
            pass.steps -= 1;
            if pass.steps == 0 {
                pass.next = NIL;
            }
            let object = self.objects[member.object];
            if object.started <= pass.cutoff {
                if pass.drain {
                    self.drain(at);
                }
                pass.acted += 1;
                act(ObjectId(object.id));
            }
        }
    }

    /// Puts a purge's mark behind the oldest member of a key.
    fn add_mark(&mut self, key: u32) -> Option<u32> {
        let mark = self.members.alloc(Member {
            key,
            ..Member::VACANT
        })?;
        self.link_older(mark, self.keys[key].oldest);
        Some(mark)
    }

    /// Moves a mark to the older side of `next`, a member of the same key.
    fn move_mark(&mut self, mark: u32, next: u32) {
        self.cut(mark);
        self.link_older(mark, next);
    }

    /// Puts a member on its key's list, as the newest.
    fn link_newest(&mut self, member: u32) {
        let key = self.members[member].key;
        let older = std::mem::replace(&mut self.keys[key].newest, member);
        self.members[member].newer = NIL;
        self.members[member].older = older;
        match older {
            NIL => self.keys[key].oldest = member,
            older => self.members[older].newer = member,
        }
    }

    /// Puts a member on its key's list, on the older side of another.
    fn link_older(&mut self, member: u32, newer: u32) {
        let key = self.members[member].key;
        let older = std::mem::replace(&mut self.members[newer].older, member);
        self.members[member].newer = newer;
        self.members[member].older = older;
        match older {
            NIL => self.keys[key].oldest = member,
            older => self.members[older].newer = member,
        }
    }

    /// Takes a member off its key's list, and the key away with the last of them.
    fn unlink(&mut self, member: u32) {
        self.cut(member);
        let key = std::mem::replace(&mut self.members[member].key, NIL);
        self.drop_if_empty(key);
    }

    /// Takes a member off its key's list.
    fn cut(&mut self, member: u32) {
        let Member {
            key, newer, older, ..
        } = self.members[member];
        match newer {
            NIL => self.keys[key].newest = older,
            newer => self.members[newer].older = older,
        }
        match older {
            NIL => self.keys[key].oldest = newer,
            older => self.members[older].newer = newer,
        }
    }

    fn drop_if_empty(&mut self, key: u32) {
        if self.keys[key].newest == NIL {
            self.by_hash.remove(&mut self.keys, key);
            self.keys.free(key);
        }
    }
}
