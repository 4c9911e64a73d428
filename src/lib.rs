//! The VMOD: purges that reach every node of a Varnish fleet.
//!
//! ```vcl
//! import powderhorn;
//! include "powderhorn.vcl";
//!
//! sub vcl_init {
//!     powderhorn.start("/etc/varnish/powderhorn.toml");
//! }
//! ```
//!
//! | file | story |
//! |---|---|
//! | `lib.rs` | the functions that VCL sees |
//! | `runtime.rs` | one runtime per process: when it starts, who is refused |
//! | `receipts.rs` | where a purge has got to |
//! | `apply.rs` | purges on their way into the cache: the fleet's and our own |
//! | `adopt.rs` | objects that were in the cache before the VMOD |
//! | `engine.rs` | objects on their way into the cache: what varnishd tells of them |
//! | `host.rs`, `blob.rs` | url and host, or req.hash, → digest |
//! | `admin.rs`, `errands.rs` | what the commands of `varnishadm` show, and the purges that they issue |
//! | `director.rs` | the fleet in `varnishadm backend.list` |
//! | `counters.rs` | the figures that varnishstat shows |
//! | `records.rs`, `logger.rs` | Varnish's log: a record for each purge applied, and what is worth a notice |
//! | `installed.rs` | which version is installed, if another one than this |
//! | `call.rs`, `guard.rs` | errors, strings and panics at the boundary |
//! | `shim.rs`, `shim/` | the safe face of `c_shim/`, which alone touches varnishd's internals |

mod admin;
mod adopt;
mod apply;
mod blob;
mod call;
mod counters;
mod director;
mod engine;
mod errands;
mod functions;
mod guard;
mod host;
mod installed;
mod logger;
mod receipts;
mod records;
mod runtime;
mod shim;
mod uptime;

/// Purges that reach every node of a Varnish fleet.
#[varnish::vmod]
mod powderhorn {
    use std::ffi::CStr;

    use powderhorn_node::Purge;
    use varnish::ffi::VCL_STRING;
    use varnish::vcl::{Ctx, Event, VclError};

    use crate::call::{Duration, call};
    use crate::runtime::{self, VclState};
    use crate::{functions, receipts, shim};

    /// Remembers each VCL's config from its load on; starts the runtime when a VCL becomes warm.
    #[event]
    pub fn event(
        ctx: &mut Ctx,
        #[shared_per_vcl] vcl: &mut Option<Box<VclState>>,
        event: Event,
    ) -> Result<(), VclError> {
        let vcl = vcl.get_or_insert_default();
        // COLD and DISCARD may not fail, and LOAD has nothing to fail at.
        let Event::Warm = event else { return Ok(()) };
        let started = call(ctx, "start", |_| {
            Ok(runtime::warm(vcl).map_err(|e| e.to_string())?)
        });
        if started.is_err() {
            shim::ctx_let_warm_fail(ctx.raw);
        }
        started
    }

    /// Names the config file. Call it in `vcl_init`.
    ///
    /// Without an argument ("single-node"): a single node that purges itself. The file is
    /// read and checked at once, and a mistake in it (file, line and key are named) keeps the
    /// VCL from loading. The runtime starts when the VCL becomes warm and stays for the life of
    /// the cache process: another VCL may name the same config, and is refused with another. After
    /// an edit of the file, loading a VCL applies what can change at run time; keys that only a
    /// restart of Varnish changes are named in the log and in the status until then.
    pub fn start(
        ctx: &mut Ctx,
        #[shared_per_vcl] vcl: Option<&VclState>,
        #[default("single-node")] config: &CStr,
    ) -> Result<(), VclError> {
        call(ctx, "start", |ctx| functions::start(ctx, vcl, config))
    }

    /// Purges the object with this URL and host on every node, and returns the purge's id.
    ///
    /// Applied on this node when the call returns. For caches that hash URL and Host only, as
    /// builtin.vcl does; after another `vcl_hash` use `purge_hash()`. The host defaults to that of
    /// the request ("req.http.host"); upper case and the ports 80 and 443 do not count. A soft
    /// purge ends the object's TTL and leaves its grace and keep.
    pub unsafe fn purge(
        ctx: &mut Ctx,
        url: &CStr,
        #[default("req.http.host")] host: &CStr,
        #[default(false)] soft: bool,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "purge", |ctx| {
            let digest = functions::url_digest(ctx, url, host)?;
            functions::purge_digest(ctx, digest, soft)
        })
    }

    /// Purges the object with this hash on every node, and returns the purge's id.
    ///
    /// Takes the BLOB `req.hash`, whatever `vcl_hash` made it from, and by default ("req.hash")
    /// that of this request: then it is for what comes after `vcl_hash`. (The argument is declared
    /// as a STRING because the bindings know no BLOB; VCL makes `:base64:` of a BLOB.)
    pub unsafe fn purge_hash(
        ctx: &mut Ctx,
        #[default("req.hash")] hash: &CStr,
        #[default(false)] soft: bool,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "purge_hash", |ctx| {
            let digest = functions::hash_digest(ctx, hash)?;
            functions::purge_digest(ctx, digest, soft)
        })
    }

    /// Purges all objects that carry one of these surrogate keys, on every node, and returns the
    /// purge's id.
    ///
    /// Several keys are separated by spaces or commas. Objects carry them in the response headers
    /// that the config names (`purge.key_headers`: Surrogate-Key, xkey, Cache-Tag … by default), and
    /// in X-Powderhorn-Keys, where the VCL files of some clients put what they make of other headers.
    pub unsafe fn purge_key(
        ctx: &mut Ctx,
        keys: &CStr,
        #[default(false)] soft: bool,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "purge_key", |ctx| {
            let purges = functions::key_purges(keys.to_bytes(), soft)?;
            functions::purge(ctx, purges)
        })
    }

    /// The same with keys from the request's body, one a line or as in a header, thousands of them.
    ///
    /// Call `std.cache_req_body()` in `vcl_recv` before. The id is a range when the keys take
    /// several messages.
    pub unsafe fn purge_key_body(
        ctx: &mut Ctx,
        #[default(false)] soft: bool,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "purge_key_body", |ctx| {
            let purges = functions::key_purges(&functions::body(ctx)?, soft)?;
            functions::purge(ctx, purges)
        })
    }

    /// Bans all objects whose URL a regular expression (PCRE2) matches, on every node, and returns
    /// the purge's id.
    ///
    /// The host defaults to that of the request; "*" stands for every host. Objects must carry
    /// their URL and host as x-url and x-host, as `powderhorn.vcl` has it.
    pub unsafe fn ban_url(
        ctx: &mut Ctx,
        regex: &CStr,
        #[default("req.http.host")] host: &CStr,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "ban_url", |ctx| {
            let purge = functions::url_ban(ctx, regex, host)?;
            functions::purge(ctx, vec![purge])
        })
    }

    /// Bans all objects that have a response header in which a regular expression matches, on every
    /// node, and returns the purge's id.
    pub unsafe fn ban_header(
        ctx: &mut Ctx,
        name: &CStr,
        regex: &CStr,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "ban_header", |ctx| {
            functions::purge(ctx, vec![functions::header_ban(name, regex)?])
        })
    }

    /// Bans all objects that pass all of these tests, on every node, and returns the purge's id.
    ///
    /// Each test is a regular expression (PCRE2): for the URL, for the host (in any case), for the
    /// Content-Type, and for up to two more response headers, which are named. `.*` for the first three
    /// is no test, and one test must be left: `purge_all()` is for all objects. It is one ban, however
    /// many tests it has. Objects must carry their URL and host as x-url and x-host, as
    /// `powderhorn.vcl` has it.
    #[allow(clippy::too_many_arguments)] // VCL names them.
    pub unsafe fn ban(
        ctx: &mut Ctx,
        #[default(".*")] url: &CStr,
        #[default(".*")] host: &CStr,
        #[default(".*")] content_type: &CStr,
        #[default("-")] header: &CStr,
        #[default(".*")] regex: &CStr,
        #[default("-")] header_2: &CStr,
        #[default(".*")] regex_2: &CStr,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "ban", |ctx| {
            let purge = functions::tests_ban(&functions::Tests {
                url,
                host,
                content_type,
                headers: [(header, regex), (header_2, regex_2)],
            })?;
            functions::purge(ctx, vec![purge])
        })
    }

    /// The tags that a regular expression names, with spaces between them, for `purge_key()`.
    ///
    /// FOSHttpCache, API Platform and Magento ask for bans by `(^|,)(a|b)(,|$)` and the like on the header
    /// with an object's tags. If the regular expression does nothing but name tags, and objects carry
    /// this header as surrogate keys (`purge.key_headers`), these keys are what it asks for, and need no
    /// ban. Else the string is not set. A tag is taken whole: `(a)(,|$)`, as API Platform has it, would as a
    /// regular expression match one that ends in a as well.
    pub unsafe fn tags(ctx: &mut Ctx, header: &CStr, regex: &CStr) -> Result<VCL_STRING, VclError> {
        call(ctx, "tags", |ctx| functions::tags(ctx, header, regex))
    }

    /// The same as `purge_key()` for Fastly's API: `keys` may be a header that is not set, and the keys are then in
    /// the request's body, `{"surrogate_keys": ["a", "b"]}`. More keys than `json_ids()` can answer are refused.
    ///
    /// Call `std.cache_req_body()` in `vcl_recv` before.
    pub unsafe fn purge_json_keys(
        ctx: &mut Ctx,
        keys: &CStr,
        #[default(false)] soft: bool,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "purge_json_keys", |ctx| {
            let purges = functions::api_purges(ctx, keys, soft)?;
            functions::purge(ctx, purges)
        })
    }

    /// The answer to that, given the id and the same header: `{"a":"id","b":"id"}`.
    pub unsafe fn json_ids(ctx: &mut Ctx, id: &CStr, keys: &CStr) -> Result<VCL_STRING, VclError> {
        call(ctx, "json_ids", |ctx| functions::api_ids(ctx, id, keys))
    }

    /// Takes all objects of a host away, on every node, and returns the purge's id.
    ///
    /// Objects must carry their host as x-host, as `powderhorn.vcl` has it.
    pub unsafe fn flush(ctx: &mut Ctx, host: &CStr) -> Result<VCL_STRING, VclError> {
        call(ctx, "flush", |ctx| {
            functions::purge(ctx, vec![functions::flush(host)?])
        })
    }

    /// Takes all objects away, on every node, and returns the purge's id.
    ///
    /// A soft one ends their TTLs bit by bit, at the pace of the config's `purge.soft_rate`.
    pub unsafe fn purge_all(
        ctx: &mut Ctx,
        #[default(false)] soft: bool,
    ) -> Result<VCL_STRING, VclError> {
        let purge = match soft {
            true => Purge::SoftEverything,
            false => Purge::Everything,
        };
        call(ctx, "purge_all", |ctx| functions::purge(ctx, vec![purge]))
    }

    /// `text` as a regular expression that matches it and nothing else.
    pub unsafe fn escape(ctx: &mut Ctx, text: &CStr) -> Result<VCL_STRING, VclError> {
        call(ctx, "escape", |ctx| functions::escape(ctx, text))
    }

    /// A glob as a regular expression that matches the whole of a URL: `*` stands for anything, nothing
    /// else is special.
    pub unsafe fn glob(ctx: &mut Ctx, text: &CStr) -> Result<VCL_STRING, VclError> {
        call(ctx, "glob", |ctx| functions::glob(ctx, text))
    }

    /// What went wrong in the last call of this VMOD that did not work, in this request; not set if all
    /// worked. For the body of an answer: it is what the log has as VCL_Error.
    pub unsafe fn problem(ctx: &mut Ctx) -> Result<VCL_STRING, VclError> {
        call(ctx, "problem", functions::problem)
    }

    /// Whether it was refused for what it was given: a regular expression that is not valid, a key that
    /// is too long. If that came from a client, `vcl_synth` (where a VCL that failed ends) can answer 400.
    pub fn refused(ctx: &mut Ctx) -> Result<bool, VclError> {
        call(ctx, "refused", |ctx| Ok(functions::refused(ctx)))
    }

    /// Notes that an attempt to fetch begins. In `vcl_backend_fetch`; `powderhorn.vcl` does it.
    pub fn mark(ctx: &mut Ctx) -> Result<(), VclError> {
        call(ctx, "mark", functions::mark)
    }

    /// Whether `return (retry)` would fetch again. (After `max_retries` it would be an error.)
    pub fn may_retry(ctx: &mut Ctx) -> Result<bool, VclError> {
        call(ctx, "may_retry", functions::may_retry)
    }

    /// The URL that is being fetched, as the lookup had it, whatever backend VCL made of it since.
    pub unsafe fn fetched_url(ctx: &mut Ctx) -> Result<VCL_STRING, VclError> {
        call(ctx, "fetched_url", |ctx| functions::fetched(ctx, false))
    }

    /// The Host of what is being fetched, likewise.
    pub unsafe fn fetched_host(ctx: &mut Ctx) -> Result<VCL_STRING, VclError> {
        call(ctx, "fetched_host", |ctx| functions::fetched(ctx, true))
    }

    /// Whether a purge of what is being fetched came since the fetch began: the response may be the
    /// old one. In `vcl_backend_response`; `powderhorn.vcl` then fetches again.
    pub fn overtaken(ctx: &mut Ctx) -> Result<bool, VclError> {
        call(ctx, "overtaken", functions::overtaken)
    }

    /// What this node holds: for each stream (node and start), the ranges of its messages.
    pub unsafe fn digest(ctx: &mut Ctx) -> Result<VCL_STRING, VclError> {
        call(ctx, "digest", functions::digest)
    }

    /// Whether the purge with this id has been applied on this node. False for what is no id.
    pub fn knows(ctx: &mut Ctx, id: &CStr) -> Result<bool, VclError> {
        call(ctx, "knows", |_| functions::knows(id))
    }

    /// Purges as `purge()` does, waits until `nodes` nodes have applied it (0: all), this one counted, and
    /// returns the purge's id.
    ///
    /// It waits for `timeout` at most, and for 60 s at most, on the request's own thread; no more than 256 requests wait
    /// at a time. If it takes longer, or the timeout or the number of nodes is negative, the string is not set, and
    /// the purge is on its way all the same.
    pub unsafe fn purge_wait(
        ctx: &mut Ctx,
        url: &CStr,
        timeout: Duration,
        #[default(0)] nodes: i64,
        #[default("req.http.host")] host: &CStr,
        #[default(false)] soft: bool,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "purge_wait", |ctx| {
            let digest = functions::url_digest(ctx, url, host)?;
            let (space, id) = functions::issue_digest(ctx, digest, soft)?;
            receipts::wait_issued(id, receipts::Goal::new(timeout, nodes)?)?;
            Ok(space.fill(id.text().as_str().as_bytes()))
        })
    }

    /// Waits until `nodes` nodes have applied the purge with this id (0: all), this one counted, for
    /// `timeout` at most, as in `purge_wait()`; whether they have.
    pub fn wait(
        ctx: &mut Ctx,
        id: &CStr,
        timeout: Duration,
        #[default(0)] nodes: i64,
    ) -> Result<bool, VclError> {
        call(ctx, "wait", |_| {
            receipts::wait_text(id, receipts::Goal::new(timeout, nodes)?)
        })
    }

    /// Whether the `wait()` or `purge_wait()` just before, in the same VCL subroutine, has waited: it did not if
    /// 256 others were waiting, or if the timeout was negative, as `std.duration(text, -1s)` is for a text that
    /// is no duration.
    pub fn waited(ctx: &mut Ctx) -> Result<bool, VclError> {
        call(ctx, "waited", |_| Ok(receipts::waited()))
    }

    /// Where the purge with this id has been applied, as JSON: on which nodes, how long after its issue,
    /// and which are missing.
    ///
    /// The first call asks the fleet, so what the others say is there a moment later: call again, or
    /// `wait()` first.
    pub unsafe fn receipt(ctx: &mut Ctx, id: &CStr) -> Result<VCL_STRING, VclError> {
        call(ctx, "receipt", |ctx| receipts::receipt(ctx, id))
    }

    /// On how many nodes of how many the purge with this id has been applied, such as "4 of 5".
    pub unsafe fn applied(ctx: &mut Ctx, id: &CStr) -> Result<VCL_STRING, VclError> {
        call(ctx, "applied", |ctx| receipts::applied(ctx, id))
    }

    /// Whether the purge that was issued just before, in the same VCL subroutine, is in the journal and so
    /// survives this Varnish. True as well if the config says that there is no journal.
    ///
    /// With `journal.require` in the config the purge returns no id if it is not.
    pub fn journalled(ctx: &mut Ctx) -> Result<bool, VclError> {
        call(ctx, "journalled", |_| Ok(receipts::journalled()))
    }

    /// Whether this node has heard of no other for longer than the config's `limits.max_staleness`, or has since
    /// and not yet got what it missed: purges may be missing. Never, without that setting.
    pub fn isolated(ctx: &mut Ctx) -> Result<bool, VclError> {
        call(ctx, "isolated", |_| receipts::isolated())
    }

    /// The config's `limits.max_staleness`: what an isolated node has cached for longer may be stale. 0 if it
    /// is not set.
    pub fn max_staleness(ctx: &mut Ctx) -> Result<Duration, VclError> {
        call(ctx, "max_staleness", |_| {
            Ok(receipts::max_staleness()?.into())
        })
    }

    /// The state of the runtime, as "text" (the default) or "json".
    ///
    /// Of any length, whatever the workspace, as what `digest()` and `receipt()` return: at most 4 MiB for
    /// a request in all.
    pub unsafe fn status(
        ctx: &mut Ctx,
        #[default("text")] format: &CStr,
    ) -> Result<VCL_STRING, VclError> {
        call(ctx, "status", |ctx| functions::status(ctx, format))
    }

    /// All that there is to monitor, in the OpenMetrics text format: what varnishstat shows, figures of
    /// each peer, and how long the purges of each site took.
    pub unsafe fn metrics(ctx: &mut Ctx) -> Result<VCL_STRING, VclError> {
        call(ctx, "metrics", functions::metrics)
    }

    /// The version of this VMOD.
    pub unsafe fn version(ctx: &mut Ctx) -> Result<VCL_STRING, VclError> {
        call(ctx, "version", |_| {
            Ok(VCL_STRING(functions::VERSION.as_ptr()))
        })
    }
}
