//! The fleet's keys, as a file has them: one a line, 64 hexadecimal digits. Blank lines do not
//! count, nor does what follows a `#`. The first key seals, all of them open.
//!
//! To rotate without losing a datagram: add the new key as the second on every node, then make it
//! the first on every node, then remove the old one on every node. Nobody has to be restarted: the
//! runtime looks at the file once a second and reads it again when it has changed. A file with a
//! mistake in it changes nothing; the keys in use stay in use.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use sha2::{Digest, Sha256};

use crate::watch::Stamp;

/// Most keys in a file: two are in use during a rotation, and each is looked through for each
/// datagram.
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
    #[error("{}: holds no key; make one with: openssl rand -hex 32", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The first four bytes of `SHA-256("powderhorn key id" ‖ key)`: safe to show.
pub type KeyId = [u8; 4];

pub(crate) struct FleetKey {
    pub id: KeyId,
    pub cipher: XChaCha20Poly1305,
}

/// The fleet's keys; at least one.
pub struct Keyring {
    keys: Vec<FleetKey>,
}

impl fmt::Debug for Keyring {
    /// Shows key ids, never a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.ids()).finish()
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
            let content = line.split('#').next().unwrap_or_default().trim();
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
            let id = key_id(&key);
            if keys.iter().any(|key| key.id == id) {
                return Err(error("the same key twice"));
            }
            let cipher = XChaCha20Poly1305::new(&key.into());
            keys.push(FleetKey { id, cipher });
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
    pub(crate) fn find(&self, id: KeyId) -> Option<&FleetKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// Ids of all keys, the sealing one first, in hexadecimal.
    pub fn ids(&self) -> Vec<String> {
        let hex = |key: &FleetKey| format!("{:08x}", u32::from_be_bytes(key.id));
        self.keys.iter().map(hex).collect()
    }
}

fn key_id(key: &[u8; 32]) -> KeyId {
    let digest = Sha256::new()
        .chain_update("powderhorn key id")
        .chain_update(key)
        .finalize();
    let mut id = KeyId::default();
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    id
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
        *byte = ((high << 4) | low) as u8;
    }
    Some(key)
}

/// Watches the key file for changes.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    /// The state last tried; `None` if the file could not be looked at.
    tried: Option<Stamp>,
}

impl KeyFile {
    /// Reads the file for the first time.
    pub fn open(path: &Path) -> Result<(KeyFile, Keyring), KeyError> {
        // Looked at before it is read: a change in between is read once more, not missed.
        let tried = Stamp::of(path);
        let keyring = Keyring::load(path)?;
        let file = KeyFile {
            path: path.into(),
            tried,
        };
        Ok((file, keyring))
    }

    /// What became of the file since the last call: `None` for no change.
    pub fn poll(&mut self) -> Option<Result<Keyring, KeyError>> {
        let now = Stamp::of(&self.path);
        if now == self.tried {
            return None;
        }
        self.tried = now;
        Some(Keyring::load(&self.path))
    }

    /// Whether everybody on this host can read the keys.
    pub fn world_readable(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|meta| meta.mode() & 0o004 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Keyring, String> {
        Keyring::parse(Path::new("fleet.key"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn comments_and_blank_lines_do_not_count() {
        let key = "0f".repeat(32);
        let other = "A0".repeat(32);
        let text = format!("# made on a Monday\n\n{key}  # old\r\n  {other}\n");
        let keyring = parse(&text).unwrap();
        assert_eq!(keyring.ids().len(), 2);
        assert_eq!(keyring.ids(), parse(&text.to_lowercase()).unwrap().ids());
    }

    /// The wire format's definition, computed by sha256sum(1).
    #[test]
    fn the_key_id_is_what_the_format_says() {
        assert_eq!(parse(&"00".repeat(32)).unwrap().ids(), ["0fdb8899"]);
    }

    #[test]
    fn errors_name_file_and_line_and_never_show_the_key() {
        let key = "0f".repeat(32);
        for (text, expected) in [
            (format!("{key}\n{key}"), "fleet.key:2: the same key twice"),
            (
                format!("\n{}", &key[1..]),
                "fleet.key:2: a key is 64 hexadecimal digits",
            ),
            (
                key.replacen('f', "g", 1),
                "fleet.key:1: a key is 64 hexadecimal digits",
            ),
            (
                "ß".repeat(32),
                "fleet.key:1: a key is 64 hexadecimal digits",
            ),
            (
                "# none\n".into(),
                "fleet.key: holds no key; make one with: openssl rand -hex 32",
            ),
        ] {
            assert_eq!(parse(&text).unwrap_err(), expected);
        }
        let many: String = (0..17)
            .map(|n| format!("{n:02x}").repeat(32) + "\n")
            .collect();
        assert_eq!(
            parse(&many).unwrap_err(),
            "fleet.key:17: too many keys: at most 16"
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", parse(&"0f".repeat(32)).unwrap());
        assert!(
            !shown.contains("0f0f") && !shown.contains("15, 15"),
            "{shown}"
        );
    }
}
