//! Surrogate keys: how they stand in a header or a body, and the hash that the index knows them by.

use std::borrow::Cow;
use std::fmt;
use std::iter::FusedIterator;

use siphasher::sip128::SipHasher24;

/// A surrogate key, as the index knows it: 128 bits of a keyed hash of its bytes.
///
/// Two keys with the same hash would be purged together. At 128 bits nobody meets such a pair by
/// chance, and without the seed nobody can make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u128);

impl KeyHash {
    /// The half that the fence takes.
    pub const fn low64(self) -> u64 {
        self.0 as u64
    }
}

/// Hashes keys (SipHash-2-4, 128 bits).
#[derive(Clone)]
pub struct KeyHasher(SipHasher24);

impl KeyHasher {
    /// A hasher with this seed. It must be random and secret, and the same for as long as the index
    /// lives: whoever knows it could make keys that all fall into one bucket.
    pub fn new(seed: [u64; 2]) -> Self {
        let [k0, k1] = seed;
        KeyHasher(SipHasher24::new_with_keys(k0, k1))
    }

    /// The key's hash. Upper and lower case are different keys.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.0.hash(key).into())
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed is a secret.
        f.debug_struct("KeyHasher").finish_non_exhaustive()
    }
}

/// The keys in the value of one header, or in a body.
///
/// - Keys are separated by any number of spaces, tabs, carriage returns, line feeds and commas: all of
///   `a b`, `a, b`, `a,b` and one key a line. Empty keys do not count.
/// - A bare key may hold any other byte: `news/2024;x=1`, `a"b` and `ü` are keys.
/// - A key that begins with `"` is a string of RFC 9651, as Cache-Groups (RFC 9875) has them: it ends at
///   the next `"`, may hold spaces and commas, and `\"` and `\\` in it stand for `"` and `\`. So `"a"`
///   and `a` are the same key. Bytes from 128 on are taken as they are, although the RFC has none.
/// - Parameters after a string (`"a";x=1; y="b, c"`) are ignored, as RFC 9875 wants it. Anything else
///   that directly follows a string begins the next key.
/// - What begins with `"` but is no string (never closed, another escape, a control character before
///   its end) is a bare key, with the `"` in it. The RFC would ignore the whole field; but an object
///   with one key too few escapes its purge.
///
/// Takes time in proportion to the length of `value`, and memory only for a string with escapes.
pub fn split(value: &[u8]) -> Split<'_> {
    Split { rest: value }
}

/// What [`split`] returns.
#[derive(Clone, Debug)]
pub struct Split<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Split<'a> {
    type Item = Cow<'a, [u8]>;

    fn next(&mut self) -> Option<Cow<'a, [u8]>> {
        loop {
            let text = from_first(self.rest, |b| !is_separator(b));
            if text.is_empty() {
                self.rest = text;
                return None;
            }
            let Some((raw, after)) = string(text) else {
                // An unclosed string was looked at up to its end, but there is no other that begins in
                // there: the second would have closed the first. So this is not done twice.
                let after = from_first(text, is_separator);
                self.rest = after;
                return text.get(..text.len() - after.len()).map(Cow::Borrowed);
            };
            self.rest = after_parameters(after);
            if !raw.is_empty() {
                return Some(unescape(raw));
            }
        }
    }
}

impl FusedIterator for Split<'_> {}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',')
}

/// `text` from the first byte that `is` likes; empty if there is none.
fn from_first(text: &[u8], is: impl Fn(u8) -> bool) -> &[u8] {
    let at = text.iter().position(|b| is(*b)).unwrap_or(text.len());
    text.get(at..).unwrap_or_default()
}

/// If `text` begins with a string: what is between its quotes, and what follows it.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(b"\"")?;
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate() {
        match (escaped, byte) {
            (true, b'"' | b'\\') => escaped = false,
            (true, _) | (_, ..0x20 | 0x7f) => return None,
            (_, b'\\') => escaped = true,
            (_, b'"') => return Some((text.get(..at)?, text.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'\\') {
        return Cow::Borrowed(raw);
    }
    let mut bytes = raw.iter().copied();
    let mut key = Vec::with_capacity(raw.len());
    while let Some(byte) = bytes.next() {
        // `string` made sure that there is a byte after each `\`.
        key.push(if byte == b'\\' {
            bytes.next().unwrap_or(byte)
        } else {
            byte
        });
    }
    Cow::Owned(key)
}

/// What follows the parameters at the beginning of `text`.
fn after_parameters(mut text: &[u8]) -> &[u8] {
    let ends = |b: u8| b == b';' || is_separator(b);
    while let Some(parameter) = text.strip_prefix(b";") {
        let name = from_first(parameter, |b| b != b' ');
        if !name
            .first()
            .is_some_and(|b| b.is_ascii_lowercase() || *b == b'*')
        {
            return from_first(parameter, ends);
        }
        let after_name = from_first(name, |b| b == b'=' || ends(b));
        text = match after_name.strip_prefix(b"=") {
            None => after_name,
            Some(value) => match string(value.strip_prefix(b"%").unwrap_or(value)) {
                Some((_, after)) => after,
                None => from_first(value, ends),
            },
        };
    }
    text
}
