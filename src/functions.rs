//! The work behind the VCL functions.

use std::ffi::CStr;

use powderhorn_engine::{CheckError, keys, tags};
use powderhorn_node::purge::{Ban, BanField, BanOperator, BanTest, Host, Keys};
use powderhorn_node::{IdText, IssueError, MessageIds, Outcome, Purge, fit};
use varnish::ffi::VCL_STRING;
use varnish::vcl::Ctx;

use crate::call::{Problem, Space, long_reply, trouble};
use crate::host::{self, ObjectDigest};
use crate::runtime::{self, VclState};
use crate::{admin, apply, blob, counters, director, engine, receipts, records, shim};

/// The version of this VMOD, as C wants it.
pub const VERSION: &CStr = match CStr::from_bytes_with_nul(VERSION_BYTES) {
    Ok(version) => version,
    Err(_) => c"",
};
const VERSION_BYTES: &[u8] = concat!(env!("POWDERHORN_VERSION"), "\0").as_bytes();

/// Most bytes of keys that one call takes: some hundred thousand keys, and a thousand datagrams.
const KEYS_BYTES_MAX: usize = 1 << 20;

pub fn start(ctx: &Ctx<'_>, vcl: Option<&VclState>, config: &CStr) -> Result<(), Problem> {
    if !shim::ctx_in_init(ctx.raw) {
        return Err("only possible in vcl_init".into());
    }
    let primer_text = shim::ctx_blob_text(ctx.raw, &blob::PRIMER);
    if !primer_text.is_some_and(|text| blob::learn(&text)) {
        return Err("this Varnish writes BLOBs in a way that purge_hash() cannot read".into());
    }
    let vcl = vcl.ok_or("this VCL was not announced to the VMOD")?;
    let path = match config.to_bytes() {
        b"single-node" => None,
        b"" => return Err("the config's path is not set or empty".into()),
        path => Some(std::str::from_utf8(path).map_err(|_| "the config's path is not UTF-8")?),
    };
    runtime::prepare(vcl, path).map_err(|e| e.to_string())?;
    vcl.show(|| director::add(ctx.raw));
    Ok(())
}

pub fn url_digest(ctx: &Ctx<'_>, url: &CStr, host: &CStr) -> Result<ObjectDigest, Problem> {
    let url = given(url, "the URL")?;
    let host = match host.to_bytes() {
        b"req.http.host" => host_of_request(ctx)?,
        host => host::normalise_host(given_bytes(host, "the host")?),
    };
    Ok(host::url_digest(url, &host))
}

pub fn hash_digest(ctx: &Ctx<'_>, hash: &CStr) -> Result<ObjectDigest, Problem> {
    match hash.to_bytes() {
        b"req.hash" => shim::ctx_digest(ctx.raw)
            .ok_or_else(|| "there is no req.hash before vcl_hash, nor without a request".into()),
        text => blob::digest(text).ok_or_else(|| {
            "the hash is not set or not a BLOB of 32 bytes: give it req.hash".into()
        }),
    }
}

/// A string that must be there: falling back to something else would purge another object than was
/// meant.
fn given<'a>(text: &'a CStr, what: &str) -> Result<&'a [u8], Problem> {
    given_bytes(text.to_bytes(), what)
}

fn given_bytes<'a>(text: &'a [u8], what: &str) -> Result<&'a [u8], Problem> {
    match text {
        b"" => Err(Problem::Refuse(format!("{what} is not set or empty"))),
        text => Ok(text),
    }
}

/// The host that builtin.vcl's vcl_hash takes for this request.
fn host_of_request(ctx: &Ctx<'_>) -> Result<Vec<u8>, Problem> {
    match shim::ctx_host(ctx.raw) {
        Some(host) => Ok(host::normalise_host(&host)),
        None => shim::ctx_server_ip(ctx.raw)
            .ok_or_else(|| "there is no request to take the host from".into()),
    }
}

/// The purges by all keys in `text`.
pub fn key_purges(text: &[u8], soft: bool) -> Result<Vec<Purge>, Problem> {
    let split: Vec<_> = keys::split(text).collect();
    if split.is_empty() {
        return Err(Problem::Refuse("there is no key".to_owned()));
    }
    let packed = Keys::pack(split.iter().map(AsRef::as_ref)).map_err(refuse)?;
    let purge = if soft { Purge::SoftKeys } else { Purge::Keys };
    Ok(packed.into_iter().map(purge).collect())
}

/// The cached body of the request.
pub fn body(ctx: &Ctx<'_>) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::new();
    let read = shim::ctx_each_body_part(ctx.raw, |part| {
        body.extend_from_slice(part);
        body.len() <= KEYS_BYTES_MAX
    });
    if body.len() > KEYS_BYTES_MAX {
        let problem = format!("the body has more than {KEYS_BYTES_MAX} bytes");
        return Err(Problem::Refuse(problem));
    }
    read.map_err(refuse)?;
    Ok(body)
}

/// The surrogate keys in `field`, or if that is empty in a body of Fastly's API, with spaces between them.
fn api_keys(ctx: &Ctx<'_>, field: &CStr) -> Result<Vec<u8>, Problem> {
    if !field.is_empty() {
        return Ok(field.to_bytes().to_vec());
    }
    let body: serde_json::Value = serde_json::from_slice(&body(ctx)?).map_err(refuse)?;
    let keys = body.get("surrogate_keys").and_then(|keys| keys.as_array());
    let keys = keys.and_then(|keys| keys.iter().map(|key| key.as_str()).collect());
    let keys: Vec<&str> = keys.ok_or_else(|| {
        Problem::Refuse(r#"the body is not {"surrogate_keys": ["key", …]}"#.to_owned())
    })?;
    // A space in a key would make two of it, here as there.
    let joined = keys.join(" ");
    if joined.contains('\0') {
        return Err(Problem::Refuse("a key has a zero byte in it".to_owned()));
    }
    Ok(joined.into_bytes())
}

/// The purges by the keys of a request of Fastly's API. Refused, with nothing purged, if [`api_ids`] could not
/// answer it.
pub fn api_purges(ctx: &Ctx<'_>, field: &CStr, soft: bool) -> Result<Vec<Purge>, Problem> {
    let keys = api_keys(ctx, field)?;
    let answer = ids_json(&keys, &"-".repeat(IdText::BYTES_MAX)).len();
    if answer >= shim::KEPT_BYTES_MAX {
        return Err(Problem::Refuse(format!(
            "too many keys at once: their answer would have {answer} bytes, and {} are the most",
            shim::KEPT_BYTES_MAX
        )));
    }
    key_purges(&keys, soft)
}

/// The answer of Fastly's API: each key of the request with the purge's id.
pub fn api_ids(ctx: &Ctx<'_>, id: &CStr, field: &CStr) -> Result<VCL_STRING, Problem> {
    let id = String::from_utf8_lossy(given(id, "the id")?);
    long_reply(ctx, &ids_json(&api_keys(ctx, field)?, &id))
}

/// A JSON object that gives each of these keys this id.
fn ids_json(text: &[u8], id: &str) -> String {
    let id = serde_json::Value::from(id).to_string();
    let pair = |key: &[u8]| {
        let key = serde_json::Value::from(String::from_utf8_lossy(key));
        format!("{key}:{id}")
    };
    let pairs: Vec<String> = keys::split(text).map(|key| pair(&key)).collect();
    format!("{{{}}}", pairs.join(","))
}

fn refuse(error: impl std::fmt::Display) -> Problem {
    Problem::Refuse(error.to_string())
}

pub fn url_ban(ctx: &Ctx<'_>, regex: &CStr, host: &CStr) -> Result<Purge, Problem> {
    let host = match host.to_bytes() {
        b"*" => None,
        b"req.http.host" => Some(host_of_request(ctx)?),
        host => Some(host::normalise_host(given_bytes(host, "the host")?)),
    };
    let url = BanTest {
        field: BanField::Url,
        operator: BanOperator::Match,
        argument: given(regex, "the regular expression")?,
    };
    let host = host.as_ref().map(|host| BanTest {
        field: BanField::Host,
        operator: BanOperator::Equal,
        argument: host,
    });
    ban(&[url].into_iter().chain(host).collect::<Vec<_>>())
}

pub fn header_ban(name: &CStr, regex: &CStr) -> Result<Purge, Problem> {
    ban(&[BanTest {
        field: BanField::Header(given(name, "the header's name")?),
        operator: BanOperator::Match,
        argument: given(regex, "the regular expression")?,
    }])
}

/// What `ban()` is given.
pub struct Tests<'a> {
    pub url: &'a CStr,
    pub host: &'a CStr,
    pub content_type: &'a CStr,
    /// Names and regular expressions; [`NO_HEADER`] for none.
    pub headers: [(&'a CStr, &'a CStr); 2],
}

/// As a header's name: there is no such test. (VCL gives a variable that is not set as an empty string.)
const NO_HEADER: &[u8] = b"-";
/// As a regular expression for the URL, the host or the content type: all of them.
const ANY: &[u8] = b".*";

pub fn tests_ban(tests: &Tests<'_>) -> Result<Purge, Problem> {
    let url = given(tests.url, "the regular expression for the URL")?;
    let host = given(tests.host, "the regular expression for the host")?;
    let content_type = given(tests.content_type, "the regular expression for the type")?;
    // Objects carry their host in lower case.
    let any_case = [b"(?i)", host].concat();
    let mut fields = Vec::new();
    if url != ANY {
        fields.push((BanField::Url, url));
    }
    if host != ANY {
        fields.push((BanField::Host, any_case.as_slice()));
    }
    if content_type != ANY {
        fields.push((BanField::Header(b"Content-Type"), content_type));
    }
    for (name, regex) in tests.headers {
        if name.to_bytes() != NO_HEADER {
            let name = given(name, "the header's name")?;
            let regex = given(regex, "the regular expression for a header")?;
            fields.push((BanField::Header(name), regex));
        }
    }
    if fields.is_empty() {
        let problem = "everything would be banned: purge_all() is for that";
        return Err(Problem::Refuse(problem.to_owned()));
    }
    let tests = fields.into_iter().map(|(field, argument)| BanTest {
        field,
        operator: BanOperator::Match,
        argument,
    });
    ban(&tests.collect::<Vec<_>>())
}

fn ban(tests: &[BanTest<'_>]) -> Result<Purge, Problem> {
    Ok(Purge::Ban(Ban::new(tests).map_err(refuse)?))
}

/// The tags that `regex` names, with spaces between them; not set if there is more to it, or objects
/// do not carry `header` as surrogate keys.
pub fn tags(ctx: &Ctx<'_>, header: &CStr, regex: &CStr) -> Result<VCL_STRING, Problem> {
    let engine = engine::get().map_err(|e| e.to_string())?;
    if !engine.is_key_header(header.to_bytes()) {
        return Ok(VCL_STRING::default());
    }
    let Some(named) = tags::named(regex.to_bytes()) else {
        return Ok(VCL_STRING::default());
    };
    let joined = named.join(&b' ');
    Ok(Space::take(ctx, joined.len())?.fill(&joined))
}

pub fn flush(host: &CStr) -> Result<Purge, Problem> {
    let host = host::normalise_host(given(host, "the host")?);
    Ok(Purge::Flush(Host::new(&host).map_err(refuse)?))
}

pub fn escape(ctx: &Ctx<'_>, text: &CStr) -> Result<VCL_STRING, Problem> {
    let escaped = tags::escape(text.to_bytes());
    Ok(Space::take(ctx, escaped.len())?.fill(&escaped))
}

pub fn glob(ctx: &Ctx<'_>, text: &CStr) -> Result<VCL_STRING, Problem> {
    let regex = tags::glob(given(text, "the glob")?);
    Ok(Space::take(ctx, regex.len())?.fill(&regex))
}

/// Why the last purge of this transaction failed.
pub fn problem(ctx: &Ctx<'_>) -> Result<VCL_STRING, Problem> {
    match trouble(ctx) {
        Some((text, _)) => Ok(Space::take(ctx, text.len())?.fill(text.as_bytes())),
        None => Ok(VCL_STRING::default()),
    }
}

pub fn refused(ctx: &Ctx<'_>) -> bool {
    trouble(ctx).is_some_and(|(_, refused)| refused)
}

pub fn mark(ctx: &Ctx<'_>) -> Result<(), Problem> {
    match engine::mark(ctx.raw) {
        true => Ok(()),
        false => Err("only possible in vcl_backend_fetch".into()),
    }
}

pub fn may_retry(ctx: &Ctx<'_>) -> Result<bool, Problem> {
    let fetch = shim::ctx_fetch(ctx.raw).ok_or("only possible in vcl_backend_response")?;
    Ok(fetch.may_retry)
}

/// URL (or else host) that a fetch is for.
pub fn fetched(ctx: &Ctx<'_>, host: bool) -> Result<VCL_STRING, Problem> {
    let fetched = shim::ctx_fetched(ctx.raw).ok_or("only possible in backend VCL")?;
    let text = if host { fetched.1 } else { fetched.0 };
    Ok(Space::take(ctx, text.len())?.fill(&text))
}

pub fn overtaken(ctx: &Ctx<'_>) -> Result<bool, Problem> {
    let engine = engine::get().map_err(|e| e.to_string())?;
    Ok(engine::overtaken(engine, ctx.raw).ok_or("only possible in vcl_backend_response")?)
}

/// Applies a purge of one object here and sends it to the fleet; its id.
pub fn purge_digest(
    ctx: &Ctx<'_>,
    digest: ObjectDigest,
    soft: bool,
) -> Result<VCL_STRING, Problem> {
    let (space, id) = issue_digest(ctx, digest, soft)?;
    Ok(space.fill(id.text().as_str().as_bytes()))
}

/// The same; the id, and a place for its text.
pub fn issue_digest<'ws>(
    ctx: &Ctx<'ws>,
    digest: ObjectDigest,
    soft: bool,
) -> Result<(Space<'ws>, MessageIds), Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let worker = shim::ctx_worker(ctx.raw).ok_or("only possible while a request is handled")?;
    let purge = match soft {
        true => Purge::SoftDigest(digest),
        false => Purge::Digest(digest),
    };
    let space = Space::take(ctx, IdText::BYTES_MAX)?;
    receipts::begin();
    // It takes some microseconds and cannot fail, but for a cache that shuts down.
    let outcome = apply::apply_issued(worker, std::slice::from_ref(&purge));
    if outcome != Outcome::Applied {
        return Err(Problem::Log("the cache shuts down".to_owned()));
    }
    let issued = node.issue_applied(purge).map_err(here_only)?;
    records::issued(issued.into());
    receipts::wait_journalled(node)?;
    Ok((space, issued.into()))
}

/// What was to be sent and was only applied here.
fn here_only(error: IssueError) -> Problem {
    Problem::Log(format!("applied on this node only: {error}"))
}

/// Sends purges that belong together to the fleet, then applies them here. If they cannot be sent
/// now they are applied here all the same.
pub fn purge(ctx: &Ctx<'_>, purges: Vec<Purge>) -> Result<VCL_STRING, Problem> {
    receipts::begin();
    let node = runtime::node().map_err(|e| e.to_string())?;
    let engine = engine::get().map_err(|e| e.to_string())?;
    let worker = shim::ctx_worker(ctx.raw).ok_or("only possible while a request is handled")?;
    let cache = apply::VarnishCache::new(worker);
    for purge in &purges {
        engine.check(&cache, purge).map_err(|error| match error {
            CheckError::Invalid(_) => Problem::Refuse(error.to_string()),
            CheckError::TooManyBans { .. } => Problem::Log(error.to_string()),
        })?;
    }
    let id = Space::take(ctx, IdText::BYTES_MAX)?;
    let (ids, outcome) = match apply::issue(node, worker, &purges) {
        Ok(issued) => issued,
        Err(error) if error.only_unsent() => {
            apply::apply_issued(worker, &purges);
            return Err(here_only(error));
        }
        Err(error) => return Err(Problem::Log(error.to_string())),
    };
    match outcome {
        Outcome::Applied => {}
        Outcome::Failed => {
            let problem = "sent to the fleet, but not applied here yet: it is tried again";
            return Err(Problem::Log(problem.to_owned()));
        }
        Outcome::Unsupported => {
            let problem =
                "sent to the fleet, but this Varnish would not have it (see varnishlog -g raw)";
            return Err(Problem::Log(problem.to_owned()));
        }
    }
    if purges.contains(&Purge::SoftEverything) {
        node.wake_applier();
    }
    receipts::wait_journalled(node)?;
    Ok(id.fill(ids.text().as_str().as_bytes()))
}

pub fn digest(ctx: &Ctx<'_>) -> Result<VCL_STRING, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    long_reply(ctx, &node.digest_text(shim::KEPT_BYTES_MAX / 2))
}

pub fn knows(id: &CStr) -> Result<bool, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let id = id.to_str().ok();
    Ok(id
        .and_then(|id| id.parse::<MessageIds>().ok())
        .is_some_and(|id| node.knows(id)))
}

pub fn status(ctx: &Ctx<'_>, format: &CStr) -> Result<VCL_STRING, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    match format.to_bytes() {
        b"text" => long_reply(ctx, &admin::status_text(&node.status())),
        b"json" => {
            let mut status = admin::status_json(&node.status());
            let json = fit(&mut status, shim::KEPT_BYTES_MAX / 2);
            let json = json.ok_or("the status is too long to be shown")?;
            long_reply(ctx, &json)
        }
        _ => Err("the format is \"text\" or \"json\"".into()),
    }
}

pub fn metrics(ctx: &Ctx<'_>) -> Result<VCL_STRING, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    long_reply(ctx, &node.metrics(&counters::of_host()))
}
