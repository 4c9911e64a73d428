//! What operators see, and varnishd asks us for: commands of varnishadm, the director, the figures.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use varnish::ffi::vrt_ctx;

use super::{POWDERHORN_CLAIMED, ctx_ptr, raw};
use crate::{admin, guard};

/// A command of varnishadm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `powderhorn.status`
    Status,
    /// `powderhorn.peers`
    Peers,
    /// `powderhorn.digest`
    Digest,
    /// `powderhorn.streams`
    Streams,
    /// `powderhorn.trace <id>`
    Trace,
    /// `powderhorn.purge <url> <host>`
    Purge,
    /// `powderhorn.flush <host>`
    Flush,
}

impl Command {
    fn new(number: c_uint) -> Option<Command> {
        Some(match number {
            raw::PH_COMMAND_STATUS => Command::Status,
            raw::PH_COMMAND_PEERS => Command::Peers,
            raw::PH_COMMAND_DIGEST => Command::Digest,
            raw::PH_COMMAND_STREAMS => Command::Streams,
            raw::PH_COMMAND_TRACE => Command::Trace,
            raw::PH_COMMAND_PURGE => Command::Purge,
            raw::PH_COMMAND_FLUSH => Command::Flush,
            _ => return None,
        })
    }
}

/// The text could not be made: a panic was caught.
const PANICKED: &str = "internal error, see varnishlog -g raw -i Error";

/// Answers a command of varnishadm, on varnishd's CLI thread.
///
/// `varnishd -E` and `import powderhorn from "a path"` map the library twice: the copy that has the
/// commands then asks the one that runs.
///
/// # Safety
/// As `powderhorn_shim.h` says: `args` are `n` strings, and `reply` takes what it is given with `private`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn powderhorn_command_1(
    command: c_uint,
    json: c_int,
    args: *const *const c_char,
    n: usize,
    room: usize,
    reply: raw::ph_reply_f,
    private: *mut c_void,
) -> c_uint {
    if POWDERHORN_CLAIMED.load(Ordering::Acquire) == 0 {
        if let Some(other) = other_copys_commands() {
            // SAFETY: the running copy's function of the same name, which takes what this one takes.
            return unsafe { other(command, json, args, n, room, reply, private) };
        }
    }
    let answer = guard::catch("a command", || {
        let word = |i| {
            // SAFETY: varnishd's words of one command line: `n` strings that end with a zero byte and
            // stay for the call.
            unsafe { CStr::from_ptr(*args.add(i)) }.to_bytes()
        };
        let args: Vec<&[u8]> = (0..n).map(word).collect();
        match Command::new(command) {
            Some(command) => admin::answer(command, &args, json != 0, room),
            None => admin::Answer::cant("this version does not know the command"),
        }
    });
    let answer = answer.unwrap_or_else(|| admin::Answer::cant(PANICKED));
    send(reply, private, &answer.text);
    answer.status
}

type Commands = unsafe extern "C" fn(
    c_uint,
    c_int,
    *const *const c_char,
    usize,
    usize,
    raw::ph_reply_f,
    *mut c_void,
) -> c_uint;

/// The commands of the copy of this library that runs, if it is another one.
fn other_copys_commands() -> Option<Commands> {
    let found = super::other_copys(c"powderhorn_command_1")?;
    // SAFETY: what a copy of this library exports under this name has this type; another type takes
    // another number at its end.
    Some(unsafe { std::mem::transmute::<NonNull<c_void>, Commands>(found) })
}

fn send(reply: raw::ph_reply_f, private: *mut c_void, text: &str) {
    if let Some(reply) = reply {
        // SAFETY: the length goes with the pointer, and `private` is what came with `reply`.
        unsafe { reply(private, text.as_ptr().cast(), text.len()) }
    }
}

/// What `backend.list` asks for.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    /// `-p`
    pub details: bool,
    /// `-j`
    pub json: bool,
    /// Bytes that are left in the answer.
    pub room: usize,
}

/// What a director shows.
#[derive(Clone, Copy)]
pub struct Show {
    /// Text for varnishd's list. JSON must be right even if something goes wrong: [`Show::broken`].
    pub list: fn(Listing) -> String,
    /// The same without asking anybody.
    pub broken: fn(Listing) -> &'static str,
    /// Whether all is well, and since when that is so, in seconds since 1970.
    pub healthy: fn() -> (bool, f64),
}

static SHOW: OnceLock<Show> = OnceLock::new();

/// A VCL's director, deleted when it is dropped.
#[derive(Debug)]
pub struct Director(NonNull<raw::director>);

// SAFETY: the pointer is only given back to varnishd, on the CLI thread: VCLs are loaded and discarded
// there, and ph_delete_director asserts it.
unsafe impl Send for Director {}
// SAFETY: as above.
unsafe impl Sync for Director {}

impl Director {
    /// Gives the VCL that is being loaded its director. What it shows is the same for all.
    pub fn add(ctx: &vrt_ctx, show: Show) -> Option<Director> {
        unsafe extern "C" fn list(
            details: c_int,
            json: c_int,
            room: usize,
            reply: raw::ph_reply_f,
            private: *mut c_void,
        ) {
            let Some(show) = SHOW.get() else { return };
            let listing = Listing {
                details: details != 0,
                json: json != 0,
                room,
            };
            match guard::catch("backend.list", || (show.list)(listing)) {
                Some(text) => send(reply, private, &text),
                None => send(reply, private, (show.broken)(listing)),
            }
        }
        unsafe extern "C" fn healthy(changed: *mut f64) -> c_int {
            let Some(show) = SHOW.get() else { return 0 };
            let (healthy, since) = guard::catch("healthy", show.healthy).unwrap_or((false, 0.0));
            // SAFETY: a double of the caller's.
            if let Some(changed) = unsafe { changed.as_mut() } {
                *changed = since;
            }
            c_int::from(healthy)
        }

        SHOW.get_or_init(|| show);
        // SAFETY: `ctx` is the live context of vcl_init, on the CLI thread; the functions are static and
        // the library is never unmapped (-z nodelete).
        let director = unsafe { raw::ph_add_director(ctx_ptr(ctx), Some(list), Some(healthy)) };
        NonNull::new(director.cast_mut()).map(Director)
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        // SAFETY: made by ph_add_director, and nobody else deletes it. varnishd's state of a VCL is
        // dropped as the VCL is discarded, on the CLI thread, before it asserts that it has no
        // directors any more.
        unsafe { raw::ph_delete_director(self.0.as_ptr()) }
    }
}

/// Room for `n` figures that varnishstat shows as `name.*`, as `doc` describes them, for the life of
/// the process. On the CLI thread.
pub fn counters(name: &'static CStr, n: usize, doc: &'static CStr) -> &'static [AtomicU64] {
    let bytes = doc.to_bytes_with_nul();
    // SAFETY: name and doc are static; the memory is `n` aligned 64-bit numbers, starts as zeroes,
    // is written by nobody else, and is never given back.
    unsafe {
        let room = raw::ph_counters(name.as_ptr(), n, bytes.as_ptr().cast(), bytes.len());
        std::slice::from_raw_parts(room.cast::<AtomicU64>(), n)
    }
}
