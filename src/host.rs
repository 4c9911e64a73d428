//! Which object a URL and a host name: the digest that `vcl_hash` of builtin.vcl makes of them.

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

/// Reads the text that VCL makes of a BLOB, `:base64:`, if it holds exactly 32 bytes.
pub fn digest_from_blob_text(text: &[u8]) -> Option<ObjectDigest> {
    let base64 = text.strip_prefix(b":")?.strip_suffix(b"=:")?;
    // 43 characters of six bits are 32 bytes and two bits over, which must be zero.
    if base64.len() != 43 {
        return None;
    }
    let mut digest = [0u8; 32];
    let (mut bits, mut bits_len) = (0u32, 0u32);
    let mut out = digest.iter_mut();
    for c in base64 {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        bits_len += 6;
        if bits_len >= 8 {
            bits_len -= 8;
            *out.next()? = (bits >> bits_len) as u8;
            bits &= (1 << bits_len) - 1;
        }
    }
    (bits == 0).then_some(digest)
}
