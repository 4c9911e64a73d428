//! The fleet's keys, as a file has them: one a line, 64 hexadecimal digits; blank lines and what
//! follows a `#` do not count. The first seals, all of them open.
//!
//! To rotate without losing a datagram: add the new key as the second on every node, then make it
//! the first on every node, then remove the old one on every node. The file is read again when it
//! changes.

use std::fmt;
use std::path::{Path, PathBuf};

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use sha2::{Digest, Sha256};

/// Most keys in a file: each key id that collides costs another try for each datagram.
pub const KEYS_MAX: usize = 16;

/// Why there are no keys. The ones in use before, if any, stay in use.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not a key.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it. Never shows the line itself: it may be a key with a typo in it.
        problem: &'static str,
    },
    /// There is no key in the file.
    #[error("{}: holds no key; make one by: openssl rand -hex 32", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

pub(crate) struct FleetKey {
    pub id: [u8; 4],
    pub cipher: XChaCha20Poly1305,
}

/// The fleet's keys; at least one.
pub struct Keyring {
    keys: Vec<FleetKey>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys)", self.keys.len())
    }
}

impl Keyring {
    /// Reads a key file.
    pub fn load(path: &Path) -> Result<Keyring, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Takes the keys out of `text`; errors name `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Keyring, KeyError> {
        let mut keys: Vec<FleetKey> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or("").trim();
            if content.is_empty() {
                continue;
            }
            let error = |problem| KeyError::Line {
                path: path.into(),
                line: index + 1,
                problem,
            };
            let key = decode(content).ok_or_else(|| error("a key is 64 hexadecimal digits"))?;
            if keys.len() == KEYS_MAX {
                return Err(error("too many keys: at most 16"));
            }
            let digest = Sha256::new()
                .chain_update("powderhorn key id")
                .chain_update(key);
            let mut id = [0; 4];
            id.copy_from_slice(&digest.finalize()[..4]);
            if keys.iter().any(|key| key.id == id) {
                return Err(error("the same key twice"));
            }
            keys.push(FleetKey {
                id,
                cipher: XChaCha20Poly1305::new(&key.into()),
            });
        }
        if keys.is_empty() {
            return Err(KeyError::Empty { path: path.into() });
        }
        Ok(Keyring { keys })
    }

    /// The key that seals.
    pub(crate) fn sealing(&self) -> Option<&FleetKey> {
        self.keys.first()
    }

    /// The key with this id.
    pub(crate) fn find(&self, id: [u8; 4]) -> Option<&FleetKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Ids of all keys, the sealing one first, in hexadecimal: safe to show.
    pub fn ids(&self) -> Vec<String> {
        self.keys
            .iter()
            .map(|key| key.id.iter().map(|b| format!("{b:02x}")).collect())
            .collect()
    }
}

fn decode(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut key = [0; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(*pair.first()?).to_digit(16)?;
        let low = char::from(*pair.last()?).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(key)
}
