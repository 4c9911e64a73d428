//! The work behind the VCL functions.

use std::ffi::CStr;

use powderhorn_node::{MessageIds, Purge};
use varnish::ffi::VCL_STRING;
use varnish::vcl::Ctx;

use crate::call::{Problem, Space, long_reply};
use crate::host::{self, ObjectDigest};
use crate::runtime::{self, VclState};
use crate::{apply, blob, guard, shim};

/// The version of this VMOD, as C wants it.
pub const VERSION: &CStr = match CStr::from_bytes_with_nul(VERSION_BYTES) {
    Ok(version) => version,
    Err(_) => c"",
};
const VERSION_BYTES: &[u8] = concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes();

/// Room for an id: `node.stamp.random:seq`, and `-seq` should one purge ever be several messages.
const ID_BYTES_MAX: usize = 16 + 1 + 16 + 1 + 16 + 1 + 20 + 1 + 20;

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
    Ok(runtime::prepare(vcl, path).map_err(|e| e.to_string())?)
}

pub fn url_digest(ctx: &Ctx<'_>, url: &CStr, host: &CStr) -> Result<ObjectDigest, Problem> {
    let url = Some(url.to_bytes()).filter(|url| !url.is_empty());
    let url = url.ok_or("the URL is not set or empty")?;
    let host = match host.to_bytes() {
        b"req.http.host" => match shim::ctx_host(ctx.raw) {
            Some(host) => host::normalise_host(&host),
            // As builtin.vcl's vcl_hash does.
            None => {
                shim::ctx_server_ip(ctx.raw).ok_or("there is no request to take the host from")?
            }
        },
        // Falling back to the request's own host would purge another object than was meant.
        b"" => return Err("the host is not set or empty".into()),
        host => host::normalise_host(host),
    };
    Ok(host::url_digest(url, &host))
}

/// Sends the purge to the fleet, then applies it here.
pub fn purge(ctx: &Ctx<'_>, digest: ObjectDigest) -> Result<VCL_STRING, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let worker = shim::ctx_worker(ctx.raw).ok_or("only possible while a request is handled")?;
    let id = Space::take(ctx, ID_BYTES_MAX)?;
    let purge = Purge::Digest(digest);
    let ticket = node
        .issue(purge.clone())
        .map_err(|e| Problem::Log(e.to_string()))?;
    let text = ticket.ids().to_string();
    // Should this panic, the ticket is dropped and the apply thread does it.
    let outcome = apply::apply(worker, &purge);
    ticket.complete(outcome);
    Ok(id.fill(&text))
}

pub fn digest(ctx: &Ctx<'_>) -> Result<VCL_STRING, Problem> {
    let node = runtime::node().map_err(|e| e.to_string())?;
    let room = shim::ctx_room(ctx.raw).saturating_sub(1);
    let text = node.digest_text(room);
    long_reply(ctx, &text, |room| too_small(text.len(), room))
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
        b"text" => {
            let mut text = node.status().to_text();
            if guard::panics() > 0 {
                text += &format!("panics caught in the VMOD: {}\n", guard::panics());
            }
            long_reply(ctx, &text, |room| too_small(text.len(), room))
        }
        b"json" => {
            let mut json = serde_json::to_value(node.status()).map_err(|e| e.to_string())?;
            if let Some(fields) = json.as_object_mut() {
                fields.insert("vmod_panics".to_owned(), guard::panics().into());
            }
            let json = json.to_string();
            long_reply(ctx, &json, |room| {
                format!("{{\"error\":\"{}\"}}", too_small(json.len(), room))
            })
        }
        _ => Err("the format is \"text\" or \"json\"".into()),
    }
}

fn too_small(need: usize, room: usize) -> String {
    format!("the workspace has {room} bytes left and {need} are needed: raise workspace_client")
}
