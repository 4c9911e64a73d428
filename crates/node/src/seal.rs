//! Sealing and opening datagrams: XChaCha20-Poly1305 under a fleet key. docs/DESIGN.md has the
//! layout. There is no way to send or to take a datagram in the clear.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Tag, XNonce};
use powderhorn_protocol::bounds::{DATAGRAM_BYTES_MAX, SEAL_BYTES};
use rand::RngCore;

use crate::keys::Keyring;

/// The version that datagrams begin with.
pub const VERSION: u8 = 1;

const KEY_ID: usize = 1;
const NONCE: usize = 5;
const TEXT: usize = 29;
const TAG_BYTES: usize = 16;
const _: () = assert!(TEXT + TAG_BYTES == SEAL_BYTES);

/// Why a datagram was not opened. It is dropped; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short to be sealed, or longer than a datagram may be.
    #[error("not the length of a sealed datagram")]
    Length,
    /// Of another version of the format.
    #[error("version {0}")]
    Version(u8),
    /// Sealed with a key that is not in the key file.
    #[error("unknown key")]
    UnknownKey,
    /// Not sealed by the fleet, or changed on the way.
    #[error("seal broken")]
    Broken,
}

/// Seals and opens for one fleet.
#[derive(Debug)]
pub struct Sealer {
    keyring: Keyring,
    associated: Vec<u8>,
}

impl Sealer {
    /// Seals for the fleet of this name: nodes of a fleet with another name cannot open it, even
    /// with the same key.
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

    /// Seals `plaintext` into `out`, which is emptied first. `rng` must be cryptographic. Whether
    /// it could be done: it cannot if the plaintext is larger than a datagram.
    pub fn seal(&self, rng: &mut impl RngCore, plaintext: &[u8], out: &mut Vec<u8>) -> bool {
        out.clear();
        let Some(key) = self.keyring.sealing() else {
            return false;
        };
        if plaintext.len() + SEAL_BYTES > DATAGRAM_BYTES_MAX {
            return false;
        }
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        out.push(VERSION);
        out.extend_from_slice(&key.id);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plaintext);
        let text = &mut out[TEXT..];
        match key
            .cipher
            .encrypt_in_place_detached(&XNonce::from(nonce), &self.associated, text)
        {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                true
            }
            Err(_) => false,
        }
    }

    /// Opens `datagram` in place and returns the plaintext in it.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<&'a [u8], OpenError> {
        let length = SEAL_BYTES..=DATAGRAM_BYTES_MAX;
        if !length.contains(&datagram.len()) {
            return Err(OpenError::Length);
        }
        let (head, rest) = datagram.split_at_mut(TEXT);
        if head[0] != VERSION {
            return Err(OpenError::Version(head[0]));
        }
        let (mut id, mut nonce) = ([0; 4], [0; 24]);
        id.copy_from_slice(&head[KEY_ID..NONCE]);
        nonce.copy_from_slice(&head[NONCE..]);
        let key = self.keyring.find(id).ok_or(OpenError::UnknownKey)?;
        let (text, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        let tag = Tag::from_slice(tag);
        key.cipher
            .decrypt_in_place_detached(&XNonce::from(nonce), &self.associated, text, tag)
            .map_err(|_| OpenError::Broken)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn sealer(fleet: &str, keys: &[u8]) -> Sealer {
        let text: Vec<String> = keys
            .iter()
            .map(|byte| format!("{byte:02x}").repeat(32))
            .collect();
        Sealer::new(
            fleet,
            Keyring::parse(Path::new("keys"), &text.join("\n")).unwrap(),
        )
    }

    fn sealed(sealer: &Sealer, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(sealer.seal(&mut rand::rng(), text, &mut out));
        out
    }

    #[test]
    fn what_is_sealed_opens() {
        let sealer = sealer("fleet", &[1]);
        for len in [0, 1, 100, DATAGRAM_BYTES_MAX - SEAL_BYTES] {
            let text = vec![7; len];
            assert_eq!(sealer.open(&mut sealed(&sealer, &text)).unwrap(), text);
        }
        let too_long = vec![7; DATAGRAM_BYTES_MAX - SEAL_BYTES + 1];
        assert!(!sealer.seal(&mut rand::rng(), &too_long, &mut Vec::new()));
    }

    #[test]
    fn every_single_bit_flip_and_truncation_is_rejected() {
        let sealer = sealer("fleet", &[1, 2]);
        let good = sealed(&sealer, b"thirty-two bytes or a little more");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open(&mut bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(
                sealer.open(&mut good[..len].to_vec()).is_err(),
                "length {len}"
            );
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(sealer.open(&mut longer).is_err());
    }

    #[test]
    fn another_fleet_or_key_does_not_open() {
        let good = sealed(&sealer("fleet", &[1]), b"text");
        assert_eq!(
            sealer("other", &[1]).open(&mut good.clone()),
            Err(OpenError::Broken)
        );
        assert_eq!(
            sealer("fleet", &[2]).open(&mut good.clone()),
            Err(OpenError::UnknownKey)
        );
        assert!(sealer("fleet", &[2, 1]).open(&mut good.clone()).is_ok());
    }
}
