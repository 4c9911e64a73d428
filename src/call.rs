//! What every VCL function needs around its own work.

use std::cell::RefCell;

use varnish::ffi::{VCL_DURATION, VCL_STRING, vtim_dur};
use varnish::vcl::{Ctx, IntoVCL, LogTag, VclError, Workspace};

use crate::{guard, shim};

/// A DURATION, in seconds. The bindings know an argument for one by the name of its type; in std's they would put it
/// themselves, and panic at a negative one where nothing catches that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Duration(f64);

impl Duration {
    /// `None` for a negative one.
    pub fn to_std(self) -> Option<std::time::Duration> {
        let whole = |seconds: f64| std::time::Duration::try_from_secs_f64(seconds).ok();
        whole(self.0).or_else(|| (self.0 > 0.0).then_some(std::time::Duration::MAX))
    }
}

impl From<VCL_DURATION> for Duration {
    fn from(duration: VCL_DURATION) -> Self {
        Duration(duration.0.0)
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Duration(duration.as_secs_f64())
    }
}

impl IntoVCL<VCL_DURATION> for Duration {
    fn into_vcl(self, _: &mut Workspace) -> Result<VCL_DURATION, VclError> {
        Ok(VCL_DURATION(vtim_dur(self.0)))
    }
}

/// Why a VCL function did not do its work.
pub enum Problem {
    /// A VCL error: the transaction fails, a VCL that is being loaded is refused.
    Fail(String),
    /// The same, if what a client sent may be the reason: VCL can answer 400 (`refused()`).
    Refuse(String),
    /// The VCL goes on with a string that is not set, a FALSE …; the text is in the log as a
    /// VCL_Error. For what is nobody's mistake and may be over a moment later.
    Log(String),
}

/// What went wrong last in a transaction.
struct Trouble {
    vxid: u64,
    refused: bool,
    text: String,
}

thread_local! {
    /// A transaction's VCL runs on one thread.
    static TROUBLE: RefCell<Option<Trouble>> = const { RefCell::new(None) };
}

/// What went wrong last in this transaction, and whether a client's argument may be the reason.
pub fn trouble(ctx: &Ctx<'_>) -> Option<(String, bool)> {
    let vxid = shim::ctx_vxid(ctx.raw)?;
    TROUBLE.with_borrow(|trouble| {
        let trouble = trouble.as_ref().filter(|trouble| trouble.vxid == vxid)?;
        Some((trouble.text.clone(), trouble.refused))
    })
}

impl<E: Into<String>> From<E> for Problem {
    fn from(text: E) -> Self {
        Problem::Fail(text.into())
    }
}

/// Runs the body of a VCL function. A panic in it is counted, logged and becomes a VCL error.
pub fn call<T: Default>(
    ctx: &mut Ctx<'_>,
    name: &'static str,
    body: impl FnOnce(&Ctx<'_>) -> Result<T, Problem>,
) -> Result<T, VclError> {
    let problem = match guard::catch(name, || body(ctx)) {
        Some(Ok(value)) => return Ok(value),
        Some(Err(problem)) => problem,
        None => Problem::Fail("internal error, see varnishlog -g raw -i Error".to_owned()),
    };
    // A record of Varnish's log is one line.
    let line = |text: String| format!("powderhorn.{name}(): {text}").replace('\n', " ");
    let (text, fail, refused) = match problem {
        Problem::Fail(text) => (line(text), true, false),
        Problem::Refuse(text) => (line(text), true, true),
        Problem::Log(text) => (line(text), false, false),
    };
    if let Some(vxid) = shim::ctx_vxid(ctx.raw) {
        let text = text.clone();
        TROUBLE.set(Some(Trouble {
            vxid,
            refused,
            text,
        }));
    }
    // Nothing may fail in vcl_fini: varnishd asserts it. There is no transaction either.
    if fail && shim::ctx_may_fail(ctx.raw) {
        return Err(VclError::String(text));
    }
    ctx.log(LogTag::VclError, text);
    Ok(T::default())
}

/// A place on the workspace for a string.
pub struct Space<'ws>(&'ws mut [u8]);

impl<'ws> Space<'ws> {
    /// Takes room for `len_max` bytes. Do it before the work: what has been done cannot be
    /// reported without it.
    pub fn take(ctx: &Ctx<'ws>, len_max: usize) -> Result<Self, Problem> {
        shim::ctx_space(ctx.raw, len_max.saturating_add(1))
            .map(Space)
            .ok_or_else(|| format!("the workspace has no room for {len_max} bytes").into())
    }

    /// Writes the string. One that does not fit is cut.
    pub fn fill(self, text: &[u8]) -> VCL_STRING {
        let Space(space) = self;
        let len = text.len().min(space.len().saturating_sub(1));
        for (to, from) in space.iter_mut().zip(text.iter().take(len)) {
            *to = *from;
        }
        // The bytes were zero, so a zero ends the string.
        VCL_STRING(space.as_ptr().cast())
    }
}

/// Returns a string of any length up to [`KEPT_BYTES_MAX`](shim::KEPT_BYTES_MAX), whatever room the
/// workspace has: on the heap, until the task ends.
pub fn long_reply(ctx: &Ctx<'_>, text: &str) -> Result<VCL_STRING, Problem> {
    let space = shim::ctx_keep(ctx.raw, text.len().saturating_add(1)).map(Space);
    let space = space.ok_or_else(|| {
        Problem::Log(format!(
            "{} bytes more are too many: {} are kept for a request",
            text.len(),
            shim::KEPT_BYTES_MAX
        ))
    })?;
    Ok(space.fill(text.as_bytes()))
}
