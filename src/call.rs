//! What every VCL function needs around its own work.

use std::ffi::CStr;

use varnish::ffi::VCL_STRING;
use varnish::vcl::{Ctx, VclError};

use crate::{guard, shim};

/// Runs the body of a VCL function. An error becomes a VCL error: the transaction fails, a VCL
/// that is being loaded is refused. So does a panic, after it has been counted and logged.
pub fn call<T: Default>(
    ctx: &Ctx<'_>,
    name: &'static str,
    body: impl FnOnce() -> Result<T, String>,
) -> Result<T, VclError> {
    let problem = match guard::catch(name, body) {
        Some(Ok(value)) => return Ok(value),
        Some(Err(problem)) => problem,
        None => "internal error, see varnishlog -g raw -i Error".to_owned(),
    };
    // A record of Varnish's log is one line.
    let text = format!("powderhorn.{name}(): {problem}").replace('\n', " ");
    if shim::ctx_may_fail(ctx.raw) {
        Err(VclError::String(text))
    } else {
        // Nothing may fail in vcl_fini: varnishd asserts it.
        shim::log(shim::Loudness::Error, &text);
        Ok(T::default())
    }
}

/// A place on the workspace for a string.
pub struct Space<'ws>(&'ws mut [u8]);

impl<'ws> Space<'ws> {
    /// Takes room for `len_max` bytes. Do it before the work: what has been done cannot be
    /// reported without it.
    pub fn take(ctx: &Ctx<'ws>, len_max: usize) -> Result<Self, String> {
        shim::ctx_space(ctx.raw, len_max.saturating_add(1))
            .map(Space)
            .ok_or_else(|| format!("the workspace has no room for {len_max} bytes"))
    }

    /// Writes the string. One that does not fit is cut.
    pub fn fill(self, text: &str) -> VCL_STRING {
        let Space(space) = self;
        let len = text.len().min(space.len().saturating_sub(1));
        for (to, from) in space.iter_mut().zip(text.as_bytes().iter().take(len)) {
            *to = *from;
        }
        // The bytes were zero, so a zero ends the string.
        VCL_STRING(space.as_ptr().cast())
    }
}

/// Returns a string that may be long. If the workspace has no room for it, `instead` takes its
/// place; there is a VCL error only if that has no room either.
pub fn long_reply(
    ctx: &Ctx<'_>,
    text: &str,
    instead: impl FnOnce(usize) -> String,
) -> Result<VCL_STRING, String> {
    // Asking for too much would mark the workspace as overflown and so fail the transaction.
    let room = shim::ctx_room(ctx.raw);
    if text.len() < room {
        return Ok(Space::take(ctx, text.len())?.fill(text));
    }
    let instead = instead(room);
    Ok(Space::take(ctx, instead.len())?.fill(&instead))
}

/// The bytes of an argument, if it was given, is set and is not empty.
pub fn text(arg: Option<&CStr>) -> Option<&[u8]> {
    arg.map(CStr::to_bytes).filter(|bytes| !bytes.is_empty())
}
