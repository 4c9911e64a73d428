//! Which version of this library is installed: an upgrade of the package leaves the old one running until
//! varnishd is restarted, and the status says so.
//!
//! varnishd maps a copy of each VMOD, so what is mapped says nothing. The file is looked for where
//! varnishd looks for VMODs, and a mark in it tells its version.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use powderhorn_node::{Node, Time, boot_clock};

use crate::shim;

/// Time between two looks at the file.
const INTERVAL: Duration = Duration::from_secs(5);

/// A larger file is not this library.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Longest version.
const VERSION_BYTES_MAX: usize = 64;

/// What stands before the version in [`OWN_MARK`].
const MARK_BYTES: usize = "\0powderhorn library version ".len();

/// The mark of this library, for the next one to read.
static OWN_MARK: &str = concat!(
    "\0powderhorn library version ",
    env!("POWDERHORN_VERSION"),
    "\0"
);

/// Looks for the installed version now and then.
#[derive(Default)]
pub struct Installed {
    looked: Option<Time>,
    /// What told the file from others when it was last read: device, inode, size, time of change.
    seen: Option<(u64, u64, u64, i64)>,
}

impl Installed {
    /// Tells the node which version is installed, if that may have changed.
    pub fn look(&mut self, node: &Node) {
        let now = boot_clock();
        if self
            .looked
            .is_some_and(|looked| now.since(looked) < INTERVAL)
        {
            return;
        }
        self.looked = Some(now);
        let Some((path, seen)) = find() else {
            return;
        };
        if self.seen == Some(seen) {
            return;
        }
        self.seen = Some(seen);
        let version = fs::read(path).ok().as_deref().and_then(version_in);
        node.set_installed(version.unwrap_or_else(|| "another one".to_owned()));
    }
}

/// The library's file, as varnishd would find it.
fn find() -> Option<(PathBuf, (u64, u64, u64, i64))> {
    shim::vmod_path()?.split(':').find_map(|dir| {
        let path = PathBuf::from(dir).join("libvmod_powderhorn.so");
        let about = fs::metadata(&path).ok()?;
        let fits = about.is_file() && about.len() <= FILE_BYTES_MAX;
        let seen = (about.dev(), about.ino(), about.len(), about.mtime());
        fits.then_some((path, seen))
    })
}

/// The version after the mark.
fn version_in(file: &[u8]) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".+~-:".contains(byte);
    // Looked for by itself, so that no linker leaves it out and no compiler writes its beginning anywhere else.
    let mark = std::hint::black_box(OWN_MARK).as_bytes();
    let mark = mark.get(..MARK_BYTES)?;
    let marks = file.windows(MARK_BYTES).enumerate();
    let mut marks = marks.filter(|(_, window)| *window == mark);
    marks.find_map(|(at, _)| {
        let rest = file.get(at + MARK_BYTES..)?;
        let len = rest
            .iter()
            .take(VERSION_BYTES_MAX)
            .position(|byte| *byte == 0)?;
        let version = rest
            .get(..len)
            .filter(|v| v.first().is_some_and(u8::is_ascii_digit))?;
        let version = version.iter().all(plain).then_some(version)?;
        String::from_utf8(version.to_vec()).ok()
    })
}
