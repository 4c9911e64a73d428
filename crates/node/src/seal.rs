//! Sealing and opening datagrams: XChaCha20-Poly1305 under a fleet key.
//!
//! ```text
//! version 1 | key id 4 | nonce 24 | ciphertext | tag 16
//! ```
//!
//! Associated data: `"powderhorn" ‖ version ‖ fleet name`, so that a fleet cannot open what another
//! fleet with the same key has sealed. Nonces are 24 random bytes, so that neither restarts nor
//! cloned machines can make one repeat. There is no way to send or to take a datagram in the clear.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Tag, XNonce};
use powderhorn_protocol::bounds::{DATAGRAM_BYTES_MAX, PLAINTEXT_BYTES_MAX, SEAL_BYTES};
use rand::{CryptoRng, RngCore};

use crate::keys::{KeyId, Keyring};

/// The version that each datagram begins with.
pub const VERSION: u8 = 1;

const NONCE_BYTES: usize = 24;
const HEAD_BYTES: usize = 1 + 4 + NONCE_BYTES;
const TAG_BYTES: usize = 16;
const _: () = assert!(HEAD_BYTES + TAG_BYTES == SEAL_BYTES);

/// Why a datagram was not opened. It is dropped; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than a seal alone, or longer than a datagram may be.
    #[error("not the length of a sealed datagram")]
    Length,
    /// Of another version of the format.
    #[error("of version {0}, not {VERSION}")]
    Version(u8),
    /// Sealed with a key that is not in the key file.
    #[error("sealed with an unknown key")]
    UnknownKey,
    /// Not sealed by this fleet, or changed on the way.
    #[error("the seal is broken")]
    Broken,
}

/// A plaintext that cannot be sealed. Nothing may be sent of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes do not fit into a datagram")]
pub struct SealError(pub usize);

/// Seals and opens for one fleet.
#[derive(Debug)]
pub struct Sealer {
    keyring: Keyring,
    associated: Vec<u8>,
}

impl Sealer {
    /// Seals for the fleet of this name.
    pub fn new(fleet: &str, keyring: Keyring) -> Self {
        let mut associated = b"powderhorn".to_vec();
        associated.push(VERSION);
        associated.extend_from_slice(fleet.as_bytes());
        Sealer {
            keyring,
            associated,
        }
    }

    /// The keys in use.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Exchanges the keys.
    pub fn set_keyring(&mut self, keyring: Keyring) {
        self.keyring = keyring;
    }

    /// Seals `plaintext` into `out`, which is emptied first. On an error `out` is empty.
    pub fn seal<R: RngCore + CryptoRng>(
        &self,
        rng: &mut R,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        out.clear();
        let error = SealError(plaintext.len());
        let key = self.keyring.sealing().ok_or(error)?;
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(error);
        }
        let mut nonce = [0; NONCE_BYTES];
        rng.fill_bytes(&mut nonce);
        out.push(VERSION);
        out.extend_from_slice(&key.id);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plaintext);
        let nonce = XNonce::from(nonce);
        let text = out.get_mut(HEAD_BYTES..).unwrap_or_default();
        let sealed = key
            .cipher
            .encrypt_in_place_detached(&nonce, &self.associated, text);
        match sealed {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                Ok(())
            }
            Err(_) => {
                // Never leave a plaintext where a datagram is expected.
                out.clear();
                Err(error)
            }
        }
    }

    /// Opens `datagram` in place and returns the plaintext in it. Allocates nothing. On an error
    /// the buffer's content is of no use any more.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<&'a [u8], OpenError> {
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(OpenError::Length);
        }
        let (head, rest) = datagram
            .split_first_chunk_mut::<HEAD_BYTES>()
            .ok_or(OpenError::Length)?;
        let (text, tag) = rest
            .split_last_chunk_mut::<TAG_BYTES>()
            .ok_or(OpenError::Length)?;
        let [version, i0, i1, i2, i3, nonce @ ..] = *head;
        if version != VERSION {
            return Err(OpenError::Version(version));
        }
        let id: KeyId = [i0, i1, i2, i3];
        let key = self.keyring.find(id).ok_or(OpenError::UnknownKey)?;
        let (nonce, tag) = (XNonce::from(nonce), Tag::from(*tag));
        key.cipher
            .decrypt_in_place_detached(&nonce, &self.associated, text, &tag)
            .map_err(|_| OpenError::Broken)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn sealer(fleet: &str, keys: &[u8]) -> Sealer {
        let text: String = keys
            .iter()
            .map(|byte| format!("{byte:02x}").repeat(32) + "\n")
            .collect();
        let keyring = Keyring::parse(Path::new("keys"), &text);
        Sealer::new(fleet, keyring.expect("good keys"))
    }

    fn sealed(sealer: &Sealer, text: &[u8]) -> Vec<u8> {
        let mut out = b"what was there before".to_vec();
        sealer.seal(&mut rand::rng(), text, &mut out).expect("fits");
        out
    }

    #[test]
    fn what_is_sealed_opens() {
        let sealer = sealer("fleet", &[1]);
        for len in [0, 1, 100, PLAINTEXT_BYTES_MAX] {
            let text = vec![7; len];
            let mut datagram = sealed(&sealer, &text);
            assert_eq!(datagram.len(), len + SEAL_BYTES);
            assert_eq!(sealer.open(&mut datagram).unwrap(), text);
        }
        let mut out = vec![1];
        let too_long = vec![7; PLAINTEXT_BYTES_MAX + 1];
        let refused = sealer.seal(&mut rand::rng(), &too_long, &mut out);
        assert_eq!(refused, Err(SealError(PLAINTEXT_BYTES_MAX + 1)));
        assert!(out.is_empty());
    }

    #[test]
    fn every_single_bit_flip_and_truncation_is_rejected() {
        let sealer = sealer("fleet", &[1, 2]);
        for text in [&b""[..], b"one purge or some other message", &[9; 500]] {
            let good = sealed(&sealer, text);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(sealer.open(&mut bad).is_err(), "bit {bit}");
            }
            for len in 0..good.len() {
                assert!(
                    sealer.open(&mut good[..len].to_vec()).is_err(),
                    "{len} bytes"
                );
                let mut tail = good[good.len() - len..].to_vec();
                assert!(sealer.open(&mut tail).is_err(), "last {len} bytes");
            }
            let mut longer = good.clone();
            longer.push(0);
            assert!(sealer.open(&mut longer).is_err());
            assert_eq!(sealer.open(&mut good.clone()), Ok(text));
        }
    }

    #[test]
    fn each_reason_has_its_own_error() {
        let good = sealed(&sealer("fleet", &[1]), b"text");
        let open = |sealer: &Sealer, datagram: &[u8]| {
            sealer.open(&mut datagram.to_vec()).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&sealer("other", &[1]), &good), Err(OpenError::Broken));
        assert_eq!(open(&sealer("", &[1]), &good), Err(OpenError::Broken));
        let other_key = sealer("fleet", &[2]);
        assert_eq!(open(&other_key, &good), Err(OpenError::UnknownKey));
        let rotated = sealer("fleet", &[2, 1]);
        assert_eq!(open(&rotated, &good), Ok(b"text".to_vec()));
        assert_eq!(open(&rotated, &good[..44]), Err(OpenError::Length));
        assert_eq!(open(&rotated, &[1; 1_233]), Err(OpenError::Length));
        let mut later = good.clone();
        later[0] = 2;
        assert_eq!(open(&rotated, &later), Err(OpenError::Version(2)));
    }

    /// The fields are where the wire format says.
    #[test]
    fn a_sealed_datagram_is_laid_out_as_documented() {
        let sealer = sealer("fleet", &[1]);
        let datagram = sealed(&sealer, b"0123456789");
        assert_eq!(datagram.len(), 1 + 4 + 24 + 10 + 16);
        assert_eq!(datagram[0], 1);
        let id = u32::from_be_bytes(datagram[1..5].try_into().unwrap());
        assert_eq!([format!("{id:08x}")], *sealer.keyring().ids());
        assert_ne!(datagram[5..29], sealed(&sealer, b"0123456789")[5..29]);
        assert_ne!(&datagram[29..39], b"0123456789");
    }
}
