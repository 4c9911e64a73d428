//! Headers of a response, as the lines that the cache hands out.

use std::borrow::Cow;

use powderhorn_protocol::purge::BanField;

use crate::keys::{KeyHash, KeyHasher, split};

/// The URL that an object was fetched for is in this header of it: what `ban url` looks at.
pub const URL_HEADER: &str = "x-url";
/// The host that an object was fetched for is in this one.
pub const HOST_HEADER: &str = "x-host";
/// Surrogate keys that the shipped VCL makes of an object's other headers. In a header of its own it can set them each
/// time: a 304 brings back the object as it was stored, so that what is added to another header would be added again.
pub const KEYS_HEADER: &str = "X-Powderhorn-Keys";

/// Which header of an object a ban's test looks at.
pub(crate) fn header_of(field: BanField<'_>) -> &[u8] {
    match field {
        BanField::Url => URL_HEADER.as_bytes(),
        BanField::Host => HOST_HEADER.as_bytes(),
        BanField::Header(name) => name,
    }
}

/// A response's headers, to be read as often as needed.
pub trait Headers {
    /// Calls `with` for each line, `Name: value`, in the response's order.
    fn each(&self, with: &mut dyn FnMut(&[u8]));
}

/// A name and its value, without the white space around that.
pub(crate) fn parts(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    Some((name, value.get(1..)?.trim_ascii()))
}

/// The value of the first header of this name, as Varnish's bans take it.
pub(crate) fn first<'a>(lines: &'a [Vec<u8>], name: &[u8]) -> Option<&'a [u8]> {
    let mut parts = lines.iter().filter_map(|line| parts(line));
    let found = parts.find(|(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

/// Which headers hold surrogate keys.
#[derive(Clone, Debug)]
pub struct KeyHeaders {
    names: Vec<String>,
}

impl KeyHeaders {
    /// These ones, in any case, and [`KEYS_HEADER`].
    pub fn new(names: &[String]) -> KeyHeaders {
        let mut all = KeyHeaders {
            names: names.to_vec(),
        };
        if !all.has(KEYS_HEADER.as_bytes()) {
            all.names.push(KEYS_HEADER.to_owned());
        }
        all
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether this header is one of them.
    pub fn has(&self, name: &[u8]) -> bool {
        let is = |key_header: &String| key_header.as_bytes().eq_ignore_ascii_case(name);
        self.names.iter().any(is)
    }

    /// The keys of a response, hashed. They may repeat.
    pub fn hashes(&self, hasher: &KeyHasher, headers: &dyn Headers) -> Vec<KeyHash> {
        let mut hashes = Vec::new();
        headers.each(&mut |line| {
            let Some((name, value)) = parts(line) else {
                return;
            };
            if self.has(name) {
                hashes.extend(split(value).map(|key| hasher.hash(&key)));
            }
        });
        hashes
    }
}

/// A field's name in the words of a ban.
pub(crate) fn ban_field(name: &[u8]) -> Cow<'static, str> {
    Cow::Owned(format!("obj.http.{}", String::from_utf8_lossy(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lines(&'static [&'static str]);

    impl Headers for Lines {
        fn each(&self, with: &mut dyn FnMut(&[u8])) {
            self.0.iter().for_each(|line| with(line.as_bytes()));
        }
    }

    #[test]
    fn keys_come_from_all_headers_that_are_named_and_from_no_other() {
        let hasher = KeyHasher::new([1, 2]);
        let headers = KeyHeaders::new(&["xkey".into(), "Cache-Groups".into()]);
        let lines = Lines(&[
            "XKEY: a b,c",
            "Content-Type: text/html",
            "xkey:d",
            "xkey2: no",
            "cache-groups: \"e f\"",
            "broken",
            "x-powderhorn-keys: g",
        ]);
        let expected: Vec<KeyHash> = ["a", "b", "c", "d", "e f", "g"]
            .iter()
            .map(|key| hasher.hash(key.as_bytes()))
            .collect();
        assert_eq!(headers.hashes(&hasher, &lines), expected);
    }
}
