//! The engine of this process, and what varnishd tells it: which objects go in and out, and when
//! their fetches began.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use powderhorn_engine::headers::Headers;
use powderhorn_engine::index::ObjectId;
use powderhorn_engine::{Engine, Inserted, Settings, UNKNOWN};
use powderhorn_node::{PurgeConfig, Time, boot_clock};
use varnish::ffi::vrt_ctx;

use crate::apply::VarnishObjects;
use crate::runtime::RuntimeError;
use crate::shim::{self, FetchId, Object};

/// Set once, by the first start that works, and never taken back.
static ENGINE: OnceLock<Engine> = OnceLock::new();

thread_local! {
    /// The attempt to fetch that this thread began last, and when. One thread runs all of a fetch:
    /// its VCL, and the insertion of its object.
    static MARK: Cell<Option<(FetchId, Time)>> = const { Cell::new(None) };
    /// The object that this thread has inserted last.
    static INSERTED: Cell<u64> = const { Cell::new(0) };
}

/// The engine, if it runs.
pub fn get() -> Result<&'static Engine, RuntimeError> {
    ENGINE.get().ok_or(RuntimeError::NotRunning)
}

/// Starts it and has varnishd tell it of objects. Called on varnishd's CLI thread, once.
pub fn start(config: &PurgeConfig, seed: [u64; 2]) {
    let settings = Settings {
        key_headers: config.key_headers.clone(),
        bans_max: config.bans_max,
        soft_rate: config.soft_rate,
        seed,
        older_objects: true,
        ..Settings::default()
    };
    let engine = ENGINE.get_or_init(|| Engine::new(settings, boot_clock(), wall_clock_us()));
    shim::subscribe(inserted, expired);
    // What went in before the subscription holds a reference on a ban already.
    if shim::objects_now() == 0 {
        engine.no_older_objects();
    }
}

/// The object of this id. For what the engine does with an object that it has registered.
pub fn object(id: ObjectId) -> Object {
    // SAFETY: the engine calls with the lock held that `expired` takes, or from INSERT, before
    // varnishd has told anybody of the object's end.
    unsafe { Object::from_id(id.0) }
}

/// Shows the engine how the wall clock stands.
pub fn look_at_clock(engine: &Engine) {
    engine.clock().observe(boot_clock(), wall_clock_us());
}

/// `mark()`: an attempt to fetch begins now. False if none does.
pub fn mark(ctx: &vrt_ctx) -> bool {
    let Some(fetch) = shim::ctx_fetch(ctx).filter(|fetch| fetch.begins) else {
        return false;
    };
    MARK.set(Some((fetch.id, boot_clock())));
    true
}

/// `overtaken()`: whether a purge came during this attempt. `None` outside of a fetch.
pub fn overtaken(engine: &Engine, ctx: &vrt_ctx) -> Option<bool> {
    let fetch = shim::ctx_fetch(ctx)?;
    // The object of a pass goes to one client only.
    let Some(digest) = fetch.digest else {
        return Some(false);
    };
    let started = started(engine, Some(fetch.id), fetch.began);
    let response = Response(ctx);
    Some(fetch.revives_dying || engine.overtaken(&digest, started, fetch.revives, &response))
}

/// When a fetch began: as `mark()` noted it, or else when its first attempt did.
fn started(engine: &Engine, fetch: Option<FetchId>, began: Option<f64>) -> Time {
    match MARK.get() {
        Some((marked, at)) if Some(marked) == fetch => return at,
        _ => {}
    }
    let Some(began) = began else {
        // Nobody fetched it: it may be of any age.
        return UNKNOWN;
    };
    look_at_clock(engine);
    let earliest = engine.clock().earliest((began * 1e6) as i64);
    earliest.min(boot_clock())
}

fn inserted(inserted: &shim::Inserted<'_>) {
    let Some(engine) = ENGINE.get() else { return };
    let object = inserted.object();
    INSERTED.set(object.id());
    let fetched = Inserted {
        object: ObjectId(object.id()),
        digest: inserted.digest(),
        started: started(engine, inserted.fetch(), inserted.fetch_began()),
        revives: inserted.revives().map(ObjectId),
        empty: inserted.empty(),
        doomed: inserted.revives_dying() || inserted.dying(),
    };
    engine.inserted(&VarnishObjects, boot_clock(), &fetched, &Stored(inserted));
}

fn expired(object: Object) {
    if let Some(engine) = ENGINE.get() {
        // A fetch whose object was killed as it went in takes it out again itself, and its client
        // waits. Else it is varnishd's expiry thread that calls.
        let patient = INSERTED.replace(0) != object.id();
        engine.expired(ObjectId(object.id()), patient);
    }
}

/// Headers of an object that goes in.
struct Stored<'a>(&'a shim::Inserted<'a>);

impl Headers for Stored<'_> {
    fn each(&self, with: &mut dyn FnMut(&[u8])) {
        self.0.each_header(with);
    }
}

/// Headers of a backend's response.
struct Response<'a>(&'a vrt_ctx);

impl Headers for Response<'_> {
    fn each(&self, with: &mut dyn FnMut(&[u8])) {
        shim::ctx_each_beresp_header(self.0, with);
    }
}

/// Now, in µs since 1970.
fn wall_clock_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}
