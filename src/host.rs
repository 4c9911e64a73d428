//! Which object is meant: the digest that `vcl_hash` of builtin.vcl makes of a URL and a host.

use sha2::{Digest, Sha256};

/// SHA-256: the key of an object in the cache.
pub type ObjectDigest = [u8; 32];

/// Lower case, and without the port if that is one of HTTP's two defaults.
///
/// `vcl/powderhorn.vcl` does the same to the Host of every request, so that `Example.com:80` and
/// `example.com` name one object. Other ports are part of the name.
pub fn normalise_host(host: &[u8]) -> Vec<u8> {
    let bare = host
        .strip_suffix(b":80")
        .or_else(|| host.strip_suffix(b":443"))
        .unwrap_or(host);
    bare.to_ascii_lowercase()
}

/// `SHA256(url ‖ 0x00 ‖ host ‖ 0x00)`: varnishd ends each `hash_data()` with a zero byte.
pub fn url_digest(url: &[u8], host: &[u8]) -> ObjectDigest {
    let mut sha = Sha256::new();
    sha.update(url);
    sha.update([0]);
    sha.update(host);
    sha.update([0]);
    sha.finalize().into()
}
