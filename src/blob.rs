//! Reads the text that VCL makes of a BLOB for a function that takes a STRING: `:base64:`.
//!
//! Not quite base64: Varnish 7.5 to 8.0 write `r` for `q` and `q` for `r`, so a digest decoded by
//! the standard is often another object's. So the alphabet is learnt from the varnishd that this
//! library is in: right with this bug, and without it.

use std::sync::OnceLock;

use crate::host::ObjectDigest;

/// The text of these 48 bytes spells the whole alphabet: their groups of six bits are 0, 1 … 63.
pub const PRIMER: [u8; 48] = primer();

const NOT_A_LETTER: u8 = u8::MAX;

/// What each byte of text stands for.
#[derive(PartialEq, Eq, Debug)]
pub struct Alphabet([u8; 256]);

static ALPHABET: OnceLock<Alphabet> = OnceLock::new();

/// Learns this varnishd's alphabet from its text of [`PRIMER`]. False if that is no alphabet.
pub fn learn(primer_text: &[u8]) -> bool {
    if ALPHABET.get().is_none() {
        match Alphabet::from_primer(primer_text) {
            Some(alphabet) => _ = ALPHABET.set(alphabet),
            None => return false,
        }
    }
    true
}

/// The digest in the text of a BLOB of exactly 32 bytes. `None` also before [`learn`].
pub fn digest(text: &[u8]) -> Option<ObjectDigest> {
    ALPHABET.get()?.digest(text)
}

impl Alphabet {
    /// Reads 64 different letters between two colons.
    pub fn from_primer(text: &[u8]) -> Option<Self> {
        let letters = text.strip_prefix(b":")?.strip_suffix(b":")?;
        let mut values = [NOT_A_LETTER; 256];
        for (value, letter) in (0u8..).zip(letters) {
            let slot = values.get_mut(usize::from(*letter))?;
            if *slot != NOT_A_LETTER {
                return None;
            }
            *slot = value;
        }
        (letters.len() == 64).then_some(Alphabet(values))
    }

    /// Reads the text of a BLOB of exactly 32 bytes.
    pub fn digest(&self, text: &[u8]) -> Option<ObjectDigest> {
        let letters = text.strip_prefix(b":")?.strip_suffix(b"=:")?;
        // 43 groups of six bits are 32 bytes and two bits over, which are zero.
        if letters.len() != 43 {
            return None;
        }
        let mut digest = [0u8; 32];
        let (mut bits, mut bits_len) = (0u32, 0u32);
        let mut out = digest.iter_mut();
        for letter in letters {
            let six = *self
                .0
                .get(usize::from(*letter))
                .filter(|six| **six != NOT_A_LETTER)?;
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
}

const fn primer() -> [u8; 48] {
    let mut bytes = [0; 48];
    let mut group = 0;
    while group < 16 {
        let first = 4 * group as u32;
        let bits = (first << 18) | ((first + 1) << 12) | ((first + 2) << 6) | (first + 3);
        bytes[3 * group] = (bits >> 16) as u8;
        bytes[3 * group + 1] = (bits >> 8) as u8;
        bytes[3 * group + 2] = bits as u8;
        group += 1;
    }
    bytes
}
