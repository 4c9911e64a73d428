//! The safe face of `c_shim/powderhorn_shim.h`.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::NonNull;
use std::sync::atomic::AtomicI32;

use varnish::ffi::vrt_ctx;

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
    /// Kills every variant of the object with this digest; returns how many there were.
    pub fn purge(self, digest: &ObjectDigest) -> u32 {
        if cfg!(feature = "canary-no-apply") {
            return 0;
        }
        // SAFETY: varnishd gave this thread the worker (WRK_BgThread, or the request or fetch
        // that is running VCL on it), and runs both without holding any of its locks.
        unsafe { raw::ph_purge_digest(self.0.as_ptr(), digest.as_ptr()) }
    }

    /// Adds a background worker's counters to varnishd's.
    pub fn flush_stats(self) {
        // SAFETY: the worker is this thread's own; Pool_Sumstat takes varnishd's stats lock.
        unsafe { raw::ph_flush_stats(self.0.as_ptr()) }
    }
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

/// The worker of the request or the fetch whose VCL runs; none in `vcl_init` and `vcl_fini`.
pub fn ctx_worker(ctx: &vrt_ctx) -> Option<Worker> {
    // SAFETY: `ctx` is the live context of a VCL call, and so are the request and fetch in it.
    NonNull::new(unsafe { raw::ph_ctx_worker(ctx_ptr(ctx)) }).map(Worker)
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

/// How many bytes [`ctx_space`] can give.
pub fn ctx_room(ctx: &vrt_ctx) -> usize {
    // SAFETY: `ctx` is the live context of a VCL call; nobody else has its workspace reserved
    // while VCL runs.
    unsafe { raw::ph_ctx_room(ctx_ptr(ctx)) }
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
}

/// Writes one record that belongs to no transaction (`varnishlog -g raw`), from any thread.
pub fn log(loudness: Loudness, text: &str) {
    let level = match loudness {
        Loudness::Error => raw::PH_LOG_ERROR,
        Loudness::Notice => raw::PH_LOG_NOTICE,
        Loudness::Debug => raw::PH_LOG_DEBUG,
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
    // SAFETY: the loader's functions are called without a lock of ours; the symbol is an int in
    // every copy.
    unsafe {
        raw::ph_other_copy_claimed(c"POWDERHORN_CLAIMED".as_ptr(), POWDERHORN_CLAIMED.as_ptr()) != 0
    }
}

fn ctx_ptr(ctx: &vrt_ctx) -> *const raw::vrt_ctx {
    std::ptr::from_ref(ctx).cast()
}
