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

const MARK: &[u8] = b"\0powderhorn library version ";

/// The mark of this library. Nobody reads it here; it is for the next one.
#[used]
static OWN_MARK: &str = concat!(
    "\0powderhorn library version ",
    env!("CARGO_PKG_VERSION"),
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
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".+~-".contains(byte);
    let marks = file.windows(MARK.len()).enumerate();
    let mut marks = marks.filter(|(_, window)| *window == MARK);
    marks.find_map(|(at, _)| {
        let rest = file.get(at + MARK.len()..)?;
        let len = rest
            .iter()
            .take(VERSION_BYTES_MAX)
            .position(|byte| *byte == 0)?;
        // The mark as this function has it is in the file, too, with something else behind it.
        let version = rest
            .get(..len)
            .filter(|v| v.first().is_some_and(u8::is_ascii_digit))?;
        let version = version.iter().all(plain).then_some(version)?;
        String::from_utf8(version.to_vec()).ok()
    })
}
