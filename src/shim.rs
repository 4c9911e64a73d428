//! The safe face of `c_shim/powderhorn_shim.h`; what operators see is in `operator`.

mod operator;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicI32;

use varnish::ffi::vrt_ctx;

pub use self::operator::{Command, Director, Listing, Show, counters};
use crate::guard;
use crate::host::ObjectDigest;

#[allow(non_camel_case_types, dead_code, missing_docs)]
mod raw {
    include!(concat!(env!("OUT_DIR"), "/powderhorn_shim.rs"));
}

/// A thread's own worker: varnishd's record of a thread that may touch objects.
///
/// Neither `Send` nor `Sync`: only the thread that it belongs to may use it.
#[derive(Clone, Copy)]
pub struct Worker(NonNull<raw::worker>);

impl Worker {
    /// Kills or softens every variant of the object with this digest; returns how many there
    /// were.
    ///
    /// A hard one also marks the fetches under way, so that no later request joins them; they say
    /// [`Inserted::dying`] then. Hold no lock that the callbacks of [`subscribe`] take.
    pub fn purge_digest(self, digest: &ObjectDigest, mode: Mode) -> u32 {
        if cfg!(feature = "canary-no-apply") {
            return 0;
        }
        // SAFETY: varnishd gave this thread the worker (WRK_BgThread, or the request or fetch
        // that is running VCL on it), and runs both without holding any of its locks.
        unsafe {
            raw::ph_purge_digest(
                self.0.as_ptr(),
                digest.as_ptr(),
                mode.raw(),
                None,
                std::ptr::null_mut(),
            )
        }
    }

    /// The same for a late purge: only those that `spare` says `false` of, and of fetches under
    /// way none. `spare` may take locks.
    pub fn purge_digest_sparing(
        self,
        digest: &ObjectDigest,
        mode: Mode,
        mut spare: impl FnMut(Object) -> bool,
    ) -> u32 {
        unsafe extern "C" fn ask<F: FnMut(Object) -> bool>(
            private: *mut c_void,
            object: u64,
        ) -> c_int {
            // SAFETY: `private` is the closure below, which nobody else uses during the call.
            let spare = unsafe { &mut *private.cast::<F>() };
            // Were it killed after a panic, a purge could not be told from a mistake.
            let spared = guard::catch("sparing", || spare(Object(object))).unwrap_or(true);
            c_int::from(spared)
        }
        fn callback<F: FnMut(Object) -> bool>(
            _: &F,
        ) -> unsafe extern "C" fn(*mut c_void, u64) -> c_int {
            ask::<F>
        }

        if cfg!(feature = "canary-no-apply") {
            return 0;
        }
        let callback = callback(&spare);
        // SAFETY: the worker is this thread's own, as above. varnishd holds a reference on each
        // object that `spare` is asked about, and no lock.
        unsafe {
            raw::ph_purge_digest(
                self.0.as_ptr(),
                digest.as_ptr(),
                mode.raw(),
                Some(callback),
                std::ptr::from_mut(&mut spare).cast(),
            )
        }
    }

    /// The headers of an object: `each` gets one `Name: value` at a time.
    pub fn each_header(self, object: Object, mut each: impl FnMut(&[u8])) {
        let mut each: &mut dyn FnMut(&[u8]) = &mut each;
        // SAFETY: the worker is this thread's own. The object is alive, by the contract of its
        // type, and has had its headers since it could be found. `each` outlives the call.
        unsafe {
            raw::ph_each_header(
                self.0.as_ptr(),
                object.0,
                Some(one_header),
                std::ptr::from_mut(&mut each).cast(),
            );
        }
    }

    /// Adds a background worker's counters to varnishd's.
    pub fn flush_stats(self) {
        // SAFETY: the worker is this thread's own; Pool_Sumstat takes varnishd's stats lock.
        unsafe { raw::ph_flush_stats(self.0.as_ptr()) }
    }
}

/// Where varnishd looks for VMODs: directories with colons between them.
pub fn vmod_path() -> Option<String> {
    // SAFETY: the pointer is varnishd's own string, which nobody changes in the child.
    let path = unsafe { raw::ph_vmod_path() };
    if path.is_null() {
        return None;
    }
    // SAFETY: as above, and it ends with NUL as C strings do.
    let path = unsafe { CStr::from_ptr(path) };
    path.to_str().ok().map(str::to_owned)
}

/// Runs `body` on a new varnishd background thread.
pub fn start_worker(name: &'static CStr, body: impl FnOnce(Worker) + Send + 'static) {
    type Body = Box<dyn FnOnce(Worker) + Send>;

    unsafe extern "C" fn run(worker: *mut raw::worker, private: *mut c_void) {
        // SAFETY: this is the pointer made below, and varnishd runs the function once.
        let body = unsafe { Box::from_raw(private.cast::<Body>()) };
        if let Some(worker) = NonNull::new(worker) {
            guard::catch("the apply thread", || body(Worker(worker)));
        }
    }

    let body: Box<Body> = Box::new(Box::new(body));
    // SAFETY: varnishd keeps the name's pointer; it is static. `run` frees the body.
    unsafe { raw::ph_start_worker(name.as_ptr(), Some(run), Box::into_raw(body).cast()) }
}

/// What becomes of an object that is purged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is gone at once.
    Hard,
    /// Its TTL ends; grace and keep stay.
    Soft,
}

impl Mode {
    fn raw(self) -> raw::ph_mode {
        match self {
            Mode::Hard => raw::PH_HARD,
            Mode::Soft => raw::PH_SOFT,
        }
    }
}

/// An object in the cache, alive for as long as this value is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object(u64);

impl Object {
    /// The object's name: opaque, and its own until its EXPIRE has been called.
    pub fn id(self) -> u64 {
        self.0
    }

    /// The object of this name.
    ///
    /// # Safety
    /// `id` is from [`Object::id`], and `on_expire` has not returned for it, nor will while the
    /// value is used: the caller holds the lock that `on_expire` takes to forget it.
    pub unsafe fn from_id(id: u64) -> Self {
        Self(id)
    }

    /// No lookup hits it from the return on.
    pub fn kill(self) {
        if cfg!(feature = "canary-no-apply") {
            return;
        }
        // SAFETY: the object is alive, by the contract of this type; HSH_Kill may be called on any
        // thread. It takes the mutexes of the objhead and of the expiry, which come after all
        // others.
        unsafe { raw::ph_kill(self.0) }
    }

    /// Its TTL ends now, its grace and keep stay. Returns whether it was fresh.
    pub fn soften(self) -> bool {
        if cfg!(feature = "canary-no-apply") {
            return false;
        }
        // SAFETY: the object is alive, by the contract of this type; EXP_Rearm may be called on
        // any thread and takes the expiry's mutex.
        unsafe { raw::ph_soften(self.0) != 0 }
    }

    /// Whether its INSERT and its EXPIRE have been sent.
    pub fn expiry(self) -> Expiry {
        // SAFETY: the object is alive, by the contract of this type; one byte of it is read,
        // atomically.
        match unsafe { raw::ph_expiry(self.0) } {
            raw::PH_EXPIRY_OWNS => Expiry::Owns,
            raw::PH_EXPIRY_INSERTING => Expiry::Inserting,
            _ => Expiry::Over,
        }
    }
}

/// How varnishd's expiry stands to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// EXPIRE is still to come.
    Owns,
    /// INSERT is being sent, or was a moment ago.
    Inserting,
    /// EXPIRE is being sent, or has been.
    Over,
}

/// Which fetch: one attempt of one transaction. A retry is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FetchId {
    fetch: u64,
    attempt: u64,
}

/// What INSERT tells of an object.
pub struct Inserted<'call> {
    raw: &'call raw::ph_inserted,
    worker: NonNull<raw::worker>,
}

impl Inserted<'_> {
    /// The object, until its `on_expire`.
    pub fn object(&self) -> Object {
        Object(self.raw.object)
    }

    /// Its key in the cache.
    pub fn digest(&self) -> &ObjectDigest {
        // SAFETY: varnishd's objhead, which the object keeps alive, holds DIGEST_LEN bytes.
        unsafe { &*self.raw.digest.cast::<ObjectDigest>() }
    }

    /// When its fetch began (the first attempt), in seconds of the wall clock; none if no fetch
    /// made it.
    pub fn fetch_began(&self) -> Option<f64> {
        (!self.raw.t_first.is_nan()).then_some(self.raw.t_first)
    }

    /// The attempt that made it.
    pub fn fetch(&self) -> Option<FetchId> {
        (self.raw.fetch != 0).then_some(FetchId {
            fetch: self.raw.fetch,
            attempt: self.raw.attempt,
        })
    }

    /// The id of the object whose body a 304 of the origin revives. It may have expired by now.
    pub fn revives(&self) -> Option<u64> {
        (self.raw.revives != 0).then_some(self.raw.revives)
    }

    /// Hit-for-miss or hit-for-pass: nobody is given what is in it.
    pub fn empty(&self) -> bool {
        self.raw.empty != 0
    }

    /// The origin answered 304, and the object that this one revives has been killed by now.
    pub fn revives_dying(&self) -> bool {
        self.raw.revives_dying != 0
    }

    /// A purge found its fetch under way: varnishd removes it right after this call.
    pub fn dying(&self) -> bool {
        self.raw.dying != 0
    }

    /// Its headers: `each` gets one `Name: value` at a time.
    ///
    /// # Panics
    /// If `each` does: what was not seen must not be taken for not there.
    pub fn each_header(&self, mut each: impl FnMut(&[u8])) {
        let mut each = EachHeader {
            each: &mut each,
            panicked: false,
        };
        // SAFETY: this is the INSERT callback, on the worker that varnishd called it with; the
        // object has its headers by then. `each` outlives the call.
        unsafe {
            raw::ph_each_header(
                self.worker.as_ptr(),
                self.raw.object,
                Some(one_header),
                std::ptr::from_mut(&mut each).cast(),
            );
        }
        assert!(!each.panicked, "a header could not be read");
    }
}

struct EachHeader<'a> {
    each: &'a mut dyn FnMut(&[u8]),
    panicked: bool,
}

unsafe extern "C" fn one_header(private: *mut c_void, line: *const c_char, len: usize) {
    // SAFETY: `private` is the `each` of the caller, which nobody else uses during the call, and
    // the line is `len` bytes long and stays for the call.
    let (each, line) = unsafe {
        (
            &mut *private.cast::<EachHeader<'_>>(),
            std::slice::from_raw_parts(line.cast::<u8>(), len),
        )
    };
    each.panicked |= guard::catch("a header", || (each.each)(line)).is_none();
}

/// The headers of the backend's response, one `Name: value` at a time; none outside of
/// `vcl_backend_response` and what follows it.
pub fn ctx_each_beresp_header(ctx: &vrt_ctx, mut each: impl FnMut(&[u8])) {
    let mut each = EachHeader {
        each: &mut each,
        panicked: false,
    };
    // SAFETY: `ctx` is the live context of a VCL call, and VCL changes no header meanwhile. `each`
    // outlives the call.
    unsafe {
        raw::ph_each_beresp_header(
            ctx_ptr(ctx),
            Some(one_header),
            std::ptr::from_mut(&mut each).cast(),
        );
    }
    assert!(!each.panicked, "a header could not be read");
}

/// The fetch that runs a backend VCL.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// This attempt. It is the same in `vcl_backend_fetch`, in `vcl_backend_response` and at
    /// INSERT.
    pub id: FetchId,
    /// When the first attempt began, in seconds of the wall clock.
    pub began: Option<f64>,
    /// The object's key in the cache; none for a pass, whose object goes to one client only.
    pub digest: Option<ObjectDigest>,
    /// In `vcl_backend_response`: the origin answered 304.
    pub revives: bool,
    /// And what that revives has been killed.
    pub revives_dying: bool,
    /// This is `vcl_backend_fetch`.
    pub begins: bool,
    /// `return (retry)` would fetch again, and not fail.
    pub may_retry: bool,
}

fn raw_fetch(ctx: &vrt_ctx) -> Option<raw::ph_fetch> {
    let mut raw = std::mem::MaybeUninit::<raw::ph_fetch>::zeroed();
    // SAFETY: `ctx` is the live context of a VCL call. All of the struct may be zero.
    unsafe {
        let found = raw::ph_ctx_fetch(ctx_ptr(ctx), raw.as_mut_ptr()) != 0;
        found.then(|| raw.assume_init())
    }
}

/// The fetch that runs this VCL; none in client VCL.
///
/// Called in `vcl_backend_fetch`, it also takes back the mark of a purge that found an earlier
/// attempt under way, so that what is fetched again is not [`Inserted::dying`].
pub fn ctx_fetch(ctx: &vrt_ctx) -> Option<Fetch> {
    let raw = raw_fetch(ctx)?;
    Some(Fetch {
        id: FetchId {
            fetch: raw.fetch,
            attempt: raw.attempt,
        },
        began: (!raw.t_first.is_nan()).then_some(raw.t_first),
        digest: (raw.private_object == 0).then_some(raw.digest),
        revives: raw.revives != 0,
        revives_dying: raw.revives_dying != 0,
        begins: raw.begins != 0,
        may_retry: raw.may_retry != 0,
    })
}

/// URL and Host of the request that a fetch is for, as the lookup had them and whatever backend VCL
/// made of them since; none in client VCL.
pub fn ctx_fetched(ctx: &vrt_ctx) -> Option<(Vec<u8>, Vec<u8>)> {
    let raw = raw_fetch(ctx)?;
    let copy = |text: *const c_char| {
        if text.is_null() {
            return Vec::new();
        }
        // SAFETY: a header of the fetch's own request, which ends with a zero byte and lives as
        // long as the fetch; it is copied here.
        unsafe { CStr::from_ptr(text).to_bytes().to_vec() }
    };
    Some((copy(raw.url), copy(raw.host)))
}

struct Subscriber {
    on_insert: fn(&Inserted<'_>),
    on_expire: fn(Object),
}

static SUBSCRIBER: OnceLock<Subscriber> = OnceLock::new();

/// From now on `on_insert` is called for every object that enters the cache and `on_expire` before
/// one is freed, also for those that were there before. A second call does nothing.
///
/// Both run with varnishd's events lock held for reading: they may take locks of ours, and kill
/// and soften, but they may not subscribe. Hold no lock that they take.
pub fn subscribe(on_insert: fn(&Inserted<'_>), on_expire: fn(Object)) {
    unsafe extern "C" fn insert(worker: *mut raw::worker, inserted: *const raw::ph_inserted) {
        // SAFETY: the shim's struct lives until this returns.
        let raw = unsafe { inserted.as_ref() };
        let (Some(worker), Some(raw), Some(subscriber)) =
            (NonNull::new(worker), raw, SUBSCRIBER.get())
        else {
            return;
        };
        let inserted = Inserted { raw, worker };
        if guard::catch("insert", || (subscriber.on_insert)(&inserted)).is_none() {
            // Better an object too few than one that no purge finds.
            inserted.object().kill();
        }
    }
    unsafe extern "C" fn expire(object: u64) {
        if let Some(subscriber) = SUBSCRIBER.get() {
            guard::catch("expire", || (subscriber.on_expire)(Object(object)));
        }
    }

    let first = SUBSCRIBER.set(Subscriber {
        on_insert,
        on_expire,
    });
    if first.is_ok() {
        // SAFETY: called once, as OnceLock says; the functions are static and the library is never
        // unmapped (-z nodelete).
        unsafe { raw::ph_subscribe(Some(insert), Some(expire)) }
    }
}

/// How many objects are in the cache, hit-for-miss ones included. Exact, and it walks the list of
/// bans: for seldom use.
pub fn objects_now() -> u64 {
    // SAFETY: takes varnishd's ban mutex; the caller holds no lock that comes after it.
    unsafe { raw::ph_objects_now() }
}

/// The digests of all objects in the cache; an object's variants repeat it. None if there are more
/// than `at_most`.
///
/// Holds the lock of varnishd's list of bans meanwhile, so this is for once in a process's life.
pub fn list_digests(at_most: usize) -> Option<Vec<ObjectDigest>> {
    let mut now = usize::try_from(objects_now()).ok()?;
    while now <= at_most {
        // More may have come when the list is walked.
        let room = now + now / 8 + 64;
        let mut digests = vec![ObjectDigest::default(); room];
        // SAFETY: there is room for that many digests of PH_DIGEST_BYTES. Takes varnishd's ban
        // mutex; the caller holds no lock that comes after it.
        now = unsafe { raw::ph_list_digests(digests.as_mut_ptr().cast(), room) };
        if now <= room {
            digests.truncate(now);
            return Some(digests);
        }
    }
    None
}

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The request has none, or this is not client VCL.
    #[error("the request has no body")]
    None,
    /// A body can be read in VCL only after this; the caller's VCL has to be changed.
    #[error("the body is not cached: call std.cache_req_body() in vcl_recv")]
    NotCached,
    /// It broke off, or `each` asked to stop. `each` may have seen some of it.
    #[error("the body could not be read")]
    Failed,
}

/// The cached body of the request, part by part, until `each` returns `false`.
///
/// # Errors
/// See [`BodyError`].
pub fn ctx_each_body_part(
    ctx: &vrt_ctx,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<(), BodyError> {
    unsafe extern "C" fn part(private: *mut c_void, bytes: *const c_char, len: usize) -> c_int {
        // SAFETY: `private` is the `each` below, which nobody else uses during the call, and the
        // part is `len` bytes long and stays for the call.
        let (each, bytes) = unsafe {
            (
                &mut *private.cast::<&mut dyn FnMut(&[u8]) -> bool>(),
                std::slice::from_raw_parts(bytes.cast::<u8>(), len),
            )
        };
        c_int::from(!guard::catch("a part of a body", || each(bytes)).unwrap_or(false))
    }

    let mut each: &mut dyn FnMut(&[u8]) -> bool = &mut each;
    // SAFETY: `ctx` is the live context of a VCL call; the request's own thread runs it, which may
    // read the body. `each` outlives the call.
    let result = unsafe {
        raw::ph_each_body_part(
            ctx_ptr(ctx),
            Some(part),
            std::ptr::from_mut(&mut each).cast(),
        )
    };
    match result {
        raw::PH_BODY_OK => Ok(()),
        raw::PH_BODY_NONE => Err(BodyError::None),
        raw::PH_BODY_NOT_CACHED => Err(BodyError::NotCached),
        _ => Err(BodyError::Failed),
    }
}

/// Room for varnishd's and PCRE2's messages.
const ERROR_BYTES: usize = 256;

/// The text that `call` wrote into its buffer.
fn with_error<T>(call: impl FnOnce(*mut c_char, usize) -> T) -> (T, String) {
    let mut buffer = [0u8; ERROR_BYTES];
    let result = call(buffer.as_mut_ptr().cast(), buffer.len());
    let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
    (result, text.to_string_lossy().into_owned())
}

/// How a header or a status is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanOperator {
    /// `~`: the regular expression matches.
    Match,
    /// `!~`
    NoMatch,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `>`, for durations.
    Greater,
}

impl BanOperator {
    fn raw(self) -> &'static CStr {
        match self {
            BanOperator::Match => c"~",
            BanOperator::NoMatch => c"!~",
            BanOperator::Equal => c"==",
            BanOperator::NotEqual => c"!=",
            BanOperator::Greater => c">",
        }
    }
}

/// One test of a ban, which hits what all of its tests hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanTest {
    /// A field of the object, `obj.http.x-url` for example.
    pub field: CString,
    /// How it is compared.
    pub operator: BanOperator,
    /// With what: text, or a regular expression that has passed [`screen_regex`].
    pub value: CString,
}

/// Why a ban was not made. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BanError {
    /// The same ban would fail again.
    #[error("{0}")]
    Invalid(String),
    /// The cache child shuts down.
    #[error("the cache is shutting down")]
    Closing,
}

/// Adds a ban, on any thread.
///
/// # Errors
/// See [`BanError`].
pub fn ban(tests: &[BanTest]) -> Result<(), BanError> {
    if cfg!(feature = "canary-no-apply") {
        return Ok(());
    }
    let raw: Vec<raw::ph_ban_test> = tests
        .iter()
        .map(|test| raw::ph_ban_test {
            field: test.field.as_ptr(),
            operator_: test.operator.raw().as_ptr(),
            value: test.value.as_ptr(),
        })
        .collect();
    let (result, text) = with_error(|error, len| {
        // SAFETY: the strings end with a zero byte and live until the call returns; varnishd copies
        // them. BAN_Commit may be called on any thread.
        unsafe { raw::ph_ban(raw.as_ptr(), raw.len(), error, len) }
    });
    match result {
        raw::PH_BAN_OK => Ok(()),
        raw::PH_BAN_CLOSING => Err(BanError::Closing),
        _ => Err(BanError::Invalid(text)),
    }
}

/// How many bans are not completed, whoever made them; counts up to `at_most`.
pub fn bans_live(at_most: u64) -> u64 {
    // SAFETY: takes varnishd's ban mutex; the caller holds no lock that comes after it.
    unsafe { raw::ph_bans_live(at_most) }
}

/// A regular expression as bans have them (PCRE2), with a limit on its steps.
pub struct Regex(NonNull<raw::ph_regex>);

// SAFETY: PCRE2 code is not changed by a match, and the limits were written before it was shared;
// each match makes match data of its own (vre_capture in vre.c).
unsafe impl Send for Regex {}
// SAFETY: as above.
unsafe impl Sync for Regex {}

impl Regex {
    /// Compiles it.
    ///
    /// # Errors
    /// What PCRE2 says of it.
    pub fn new(pattern: &CStr) -> Result<Self, String> {
        let (regex, text) = with_error(|error, len| {
            // SAFETY: the pattern ends with a zero byte and is read during the call only.
            unsafe { raw::ph_regex_compile(pattern.as_ptr(), error, len) }
        });
        NonNull::new(regex).map(Self).ok_or(text)
    }

    /// Whether it matches; none if it takes too many steps to know.
    pub fn is_match(&self, subject: &[u8]) -> Option<bool> {
        // SAFETY: the regex is alive, and the length goes with the pointer.
        match unsafe {
            raw::ph_regex_match(self.0.as_ptr(), subject.as_ptr().cast(), subject.len())
        } {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Drop for Regex {
    fn drop(&mut self) {
        // SAFETY: made by ph_regex_compile, and nobody has it any more.
        unsafe { raw::ph_regex_free(self.0.as_ptr()) }
    }
}

/// Whether a ban may have this regular expression: varnishd panics, and so empties the cache, when
/// one takes too many steps. Finding out takes about a millisecond, and half a second at most.
///
/// # Errors
/// Why not, in words for who wrote it.
pub fn screen_regex(pattern: &CStr) -> Result<(), String> {
    let (result, text) = with_error(|error, len| {
        // SAFETY: the pattern ends with a zero byte and is read during the call only.
        unsafe { raw::ph_regex_screen(pattern.as_ptr(), error, len) }
    });
    if result == 0 { Ok(()) } else { Err(text) }
}

/// The worker of the request or the fetch whose VCL runs; none in `vcl_init` and `vcl_fini`.
pub fn ctx_worker(ctx: &vrt_ctx) -> Option<Worker> {
    // SAFETY: `ctx` is the live context of a VCL call, and so are the request and fetch in it.
    NonNull::new(unsafe { raw::ph_ctx_worker(ctx_ptr(ctx)) }).map(Worker)
}

/// The number of the transaction in the log; `None` where there is none.
pub fn ctx_vxid(ctx: &vrt_ctx) -> Option<u64> {
    // SAFETY: `ctx` is the live context of a VCL call. Its log is NULL or lives as long as that.
    let vsl = unsafe { ctx.vsl.as_ref() }?;
    Some(vsl.wid.vxid)
}

/// Whether VRT_fail has somewhere to put its message; it asserts so.
pub fn ctx_may_fail(ctx: &vrt_ctx) -> bool {
    // SAFETY: `ctx` is the live context of a VCL call.
    unsafe { raw::ph_ctx_may_fail(ctx_ptr(ctx)) != 0 }
}

/// Whether the VCL that runs is `vcl_init`.
pub fn ctx_in_init(ctx: &vrt_ctx) -> bool {
    // SAFETY: `ctx` is the live context of a VCL call.
    unsafe { raw::ph_ctx_in_init(ctx_ptr(ctx)) != 0 }
}

/// Call before the WARM event's handler returns an error.
pub fn ctx_let_warm_fail(ctx: &mut vrt_ctx) {
    // SAFETY: `ctx` is the live context of a WARM event, on the CLI thread, made for it alone.
    unsafe { raw::ph_ctx_let_warm_fail(std::ptr::from_mut(ctx).cast()) }
}

/// Most bytes that [`ctx_keep`] keeps for a task.
pub const KEPT_BYTES_MAX: usize = raw::PH_KEPT_BYTES_MAX as usize;

/// Zeroed bytes beside the workspace, until the task ends; `None` beyond [`KEPT_BYTES_MAX`].
pub fn ctx_keep<'task>(ctx: &vrt_ctx, len: usize) -> Option<&'task mut [u8]> {
    // SAFETY: `ctx` is the live context of a VCL call. The shim hands out these bytes once, zeroed, and
    // frees them at the end of the task, which is after the VCL call and so after the caller's 'task.
    unsafe {
        let start = NonNull::new(raw::ph_ctx_keep(ctx_ptr(ctx), len))?.cast::<u8>();
        Some(std::slice::from_raw_parts_mut(start.as_ptr(), len))
    }
}

/// Zeroed bytes that live until the transaction ends; `None` if the workspace has no room.
pub fn ctx_space<'ws>(ctx: &vrt_ctx, len: usize) -> Option<&'ws mut [u8]> {
    // SAFETY: `ctx` is the live context of a VCL call, and the workspace hands out these bytes
    // once. They are initialised before a slice is made of them. The caller's 'ws ends with the
    // VCL call, before the transaction does.
    unsafe {
        let start = NonNull::new(raw::ph_ctx_alloc(ctx_ptr(ctx), len))?.cast::<u8>();
        start.write_bytes(0, len);
        Some(std::slice::from_raw_parts_mut(start.as_ptr(), len))
    }
}

/// The Host header of the request, or in backend VCL that of the backend request.
pub fn ctx_host(ctx: &vrt_ctx) -> Option<Vec<u8>> {
    // SAFETY: `ctx` is the live context of a VCL call; a header's value ends with a zero byte
    // and stays where it is during the call. It is copied here.
    unsafe {
        let text = raw::ph_ctx_host(ctx_ptr(ctx));
        (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes().to_vec())
    }
}

/// What builtin.vcl hashes for a request without a Host.
pub fn ctx_server_ip(ctx: &vrt_ctx) -> Option<Vec<u8>> {
    // SAFETY: `ctx` is the live context of a VCL call. The string lives on its workspace, so it
    // is valid until the transaction ends; it is copied here.
    unsafe {
        let text = raw::ph_ctx_server_ip(ctx_ptr(ctx));
        (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes().to_vec())
    }
}

/// What vcl_hash made of this request, or in backend VCL of the one that is fetched for; `None` before
/// vcl_hash and where there is no request.
pub fn ctx_digest(ctx: &vrt_ctx) -> Option<[u8; 32]> {
    let mut digest = [0; raw::PH_DIGEST_BYTES as usize];
    // SAFETY: `ctx` is the live context of a VCL call, and as many bytes as there are are written.
    let known = unsafe { raw::ph_ctx_digest(ctx_ptr(ctx), digest.as_mut_ptr()) };
    (known != 0).then_some(digest)
}

/// The text that VCL makes of a BLOB of these bytes.
pub fn ctx_blob_text(ctx: &vrt_ctx, bytes: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: `ctx` is the live context of a VCL call; the bytes are only read during the call.
    // The string lives on the workspace, so it is valid until the transaction ends; copied here.
    unsafe {
        let text = raw::ph_ctx_blob_text(ctx_ptr(ctx), bytes.as_ptr().cast(), bytes.len());
        (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes().to_vec())
    }
}

/// Whether the cache child has begun to shut down; nothing may touch objects from then on.
pub fn closing() -> bool {
    // SAFETY: reads one int of varnishd's, atomically.
    unsafe { raw::ph_closing() != 0 }
}

/// How loud a record in Varnish's log is.
#[derive(Clone, Copy)]
pub enum Loudness {
    /// SLT_Error.
    Error,
    /// SLT_Notice.
    Notice,
    /// SLT_Debug, which varnishd masks unless told otherwise.
    Debug,
    /// SLT_VCL_Log: what happens all the time.
    Record,
}

/// Writes one record that belongs to no transaction (`varnishlog -g raw`), from any thread.
pub fn log(loudness: Loudness, text: &str) {
    let level = match loudness {
        Loudness::Error => raw::PH_LOG_ERROR,
        Loudness::Notice => raw::PH_LOG_NOTICE,
        Loudness::Debug => raw::PH_LOG_DEBUG,
        Loudness::Record => raw::PH_LOG_RECORD,
    };
    // SAFETY: the length goes with the pointer; VSL() locks and truncates to vsl_reclen.
    unsafe { raw::ph_log(level as c_int, text.as_ptr().cast(), text.len()) }
}

/// Not zero once this copy of the library runs the process's runtime.
///
/// Exported under its own name, so that another copy can find it.
#[unsafe(no_mangle)]
pub static POWDERHORN_CLAIMED: AtomicI32 = AtomicI32::new(0);

/// Whether another copy of this library in the same process runs a runtime.
pub fn other_copy_runs() -> bool {
    other_copys(CLAIMED).is_some()
}

/// The name of [`POWDERHORN_CLAIMED`].
const CLAIMED: &CStr = c"POWDERHORN_CLAIMED";

/// What another copy of this library, if it is the one that runs, exports as `wanted`.
fn other_copys(wanted: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the loader's functions are called without a lock of ours; the symbol is an int in
    // every copy.
    let found = unsafe {
        raw::ph_other_copy(
            CLAIMED.as_ptr(),
            POWDERHORN_CLAIMED.as_ptr(),
            wanted.as_ptr(),
        )
    };
    NonNull::new(found)
}

fn ctx_ptr(ctx: &vrt_ctx) -> *const raw::vrt_ctx {
    std::ptr::from_ref(ctx).cast()
}
