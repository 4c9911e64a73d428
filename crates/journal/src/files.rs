//! The directory and its files: the only calls that reach a disk.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use crate::format::{self, HEADER_BYTES, Header, VERSION};

/// No file of ours has such a number.
const NUMBERS_MAX: u64 = 1 << 62;
/// Beside a file of such a number nothing is written, so that there is always a next one.
const NUMBERS_FREE: u64 = 1 << 61;

/// What is about to be done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A directory is made or opened, or its names are read.
    Directory,
    /// A file is opened or made.
    Open,
    /// Bytes are appended.
    Write,
    /// A file or the directory is synced.
    Sync,
    /// A file is renamed.
    Rename,
    /// A file is removed.
    Remove,
    /// Bytes are read.
    Read,
}

/// Disks that fail when a test wants it.
pub trait Faults: Send + Sync {
    /// Called before each operation, which fails with this error. A write that is to fail leaves the
    /// first half of its bytes behind.
    fn check(&self, op: Op, path: &Path) -> io::Result<()>;
}

/// The kinds of files, by the end of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Messages in the order of their arrival.
    Log,
    /// Messages sorted by stream and seq.
    Segment,
    /// Something that was never finished.
    Unfinished,
}

impl Kind {
    fn ending(self) -> &'static str {
        match self {
            Kind::Log => "log",
            Kind::Segment => "seg",
            Kind::Unfinished => "tmp",
        }
    }
}

/// The name of the file of this number.
fn name_of(number: u64, kind: Kind) -> String {
    format!("{number:016x}.{}", kind.ending())
}

/// What the name of a file of the journal says; `None` for any other name. People and tools leave files in any
/// directory, so only the very name that [`name_of`] gives is one.
fn told_by(name: &OsStr) -> Option<(u64, Kind)> {
    let name = name.to_str()?;
    let (number, ending) = name.split_once('.')?;
    let kinds = [Kind::Log, Kind::Segment, Kind::Unfinished];
    let kind = kinds.into_iter().find(|kind| kind.ending() == ending)?;
    let number = u64::from_str_radix(number, 16).ok()?;
    // A number that cannot be counted on from is none of ours.
    (number < NUMBERS_MAX && name_of(number, kind) == name).then_some((number, kind))
}

/// The name of the file with the last epoch's stamp.
pub const STAMP: &str = "epoch";
/// The name of the file with the first start of this boot.
pub const SINCE: &str = "boot";
/// The name of the file with what has expired.
pub const EXPIRED: &str = "expired";
/// No file with a line of text is longer.
pub const LINE_BYTES_MAX: u64 = 4_096;

/// The state directory.
pub struct Files {
    dir: PathBuf,
    faults: Option<Arc<dyn Faults>>,
}

impl Files {
    pub fn new(dir: PathBuf, faults: Option<Arc<dyn Faults>>) -> Files {
        Files { dir, faults }
    }

    fn check(&self, op: Op, path: &Path) -> io::Result<()> {
        self.faults
            .as_ref()
            .map_or(Ok(()), |faults| faults.check(op, path))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, number: u64, kind: Kind) -> PathBuf {
        self.dir.join(name_of(number, kind))
    }

    pub fn make_dir(&self) -> io::Result<()> {
        self.check(Op::Directory, &self.dir)?;
        // What was purged is nobody else's business.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&self.dir)
    }

    /// Locks the directory for as long as the file is open; `None` if somebody else has.
    pub fn lock(&self) -> io::Result<Option<File>> {
        self.check(Op::Directory, &self.dir)?;
        let dir = File::open(&self.dir)?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(dir)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The journal's files, by number, with their sizes.
    pub fn list(&self) -> io::Result<Vec<(u64, Kind, u64)>> {
        self.check(Op::Directory, &self.dir)?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Some((number, kind)) = told_by(&entry.file_name()) else {
                continue;
            };
            // To open a pipe takes as long as nobody writes to it.
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                files.push((number, kind, metadata.len()));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    /// An error that names it if a file of the journal was written by another version: what that has left is not
    /// to be touched, and has to go elsewhere before this one can use the directory. The same of one behind which there
    /// are too few numbers. A file that cannot be read says nothing here.
    pub fn check_version(&self) -> io::Result<()> {
        for (number, kind, bytes) in self.list()? {
            let path = self.path(number, kind);
            if number >= NUMBERS_FREE {
                let name = name_of(number, kind);
                return Err(io::Error::other(format!(
                    "{name} in it is none of Powderhorn's: move it away"
                )));
            }
            let mut header = [0; HEADER_BYTES];
            let Some(header) = header.get_mut(..HEADER_BYTES.min(bytes as usize)) else {
                continue;
            };
            let read = self.open(&path);
            let read = read.and_then(|file| self.read_at(&file, &path, 0, header));
            if let (Ok(()), Header::Version(version)) = (read, format::read_header(header)) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                return Err(io::Error::other(format!(
                    "{name} in it was written by another version of Powderhorn (format {version}, and this one \
                     has {VERSION}): move all that is in the directory away, or go back to that version"
                )));
            }
        }
        Ok(())
    }

    /// Makes a file anew. What has its name goes first: a link leads to somebody else's file, and to open a pipe takes
    /// as long as nobody reads from it.
    pub fn create(&self, path: &Path) -> io::Result<File> {
        self.check(Op::Open, path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o640).open(path)
    }

    /// Opens a log to go on in it after its first `len` bytes.
    pub fn reopen(&self, path: &Path, len: u64) -> io::Result<File> {
        self.check(Op::Open, path)?;
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(len)?;
        Ok(file)
    }

    /// Writes `bytes` at `offset`. After an error anything may be there.
    pub fn write_at(&self, file: &File, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.check(Op::Write, path) {
            let half = bytes.get(..bytes.len() / 2).unwrap_or(&[]);
            file.write_all_at(half, offset)?;
            return Err(error);
        }
        file.write_all_at(bytes, offset)
    }

    pub fn sync(&self, file: &File, path: &Path) -> io::Result<()> {
        self.check(Op::Sync, path)?;
        file.sync_data()
    }

    pub fn sync_dir(&self) -> io::Result<()> {
        self.check(Op::Sync, &self.dir)?;
        File::open(&self.dir)?.sync_all()
    }

    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check(Op::Rename, to)?;
        std::fs::rename(from, to)
    }

    /// Removes a file; that it is not there is no error.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.check(Op::Remove, path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    pub fn read_all(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.check(Op::Read, path)?;
        std::fs::read(path)
    }

    pub fn open(&self, path: &Path) -> io::Result<File> {
        self.check(Op::Open, path)?;
        File::open(path)
    }

    pub fn read_at(
        &self,
        file: &File,
        path: &Path,
        offset: u64,
        bytes: &mut [u8],
    ) -> io::Result<()> {
        self.check(Op::Read, path)?;
        file.read_exact_at(bytes, offset)
    }

    /// The error of a path that does not any more: see [`Files::is_at`].
    pub fn moved(path: &Path) -> io::Error {
        io::Error::other(format!("{} was removed or moved", path.display()))
    }

    /// Whether `path` still leads to the open file or directory. It does not when that was removed or moved, or when
    /// something was mounted over it.
    pub fn is_at(file: &File, path: &Path) -> io::Result<bool> {
        let there = match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        };
        let open = file.metadata()?;
        Ok((open.dev(), open.ino()) == (there.dev(), there.ino()))
    }

    /// Puts a small file in place, whole or not at all, also when the power fails.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, unfinished) = (self.dir.join(name), self.dir.join(format!("{name}.new")));
        let mut file = self.create(&unfinished)?;
        self.check(Op::Write, &unfinished)?;
        file.write_all(bytes)?;
        self.check(Op::Sync, &unfinished)?;
        file.sync_all()?;
        self.rename(&unfinished, &path)?;
        self.sync_dir()
    }

    /// A small file's bytes; `None` if there is none. A file that has more than `bytes_max` is cut off.
    pub fn read_small(&self, name: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        let path = self.dir.join(name);
        self.check(Op::Read, &path)?;
        let metadata = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        if !metadata.is_file() {
            // To open a pipe takes as long as nobody writes to it.
            return Err(io::Error::other("it is no file"));
        }
        let mut bytes = Vec::new();
        let file = File::open(&path)?;
        file.take(bytes_max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn what_others_leave_in_the_directory_is_no_file_of_the_journal() {
        let odd: [&[u8]; 16] = [
            b"a.b",
            b"x",
            b".",
            b".a",
            b".log",
            b"a.",
            b"1.log",
            b"0000000000000001",
            b"0000000000000001.log.1",
            b"00000000000000001.log",
            // Of the right length, but not as the journal writes them.
            b"+000000000000001.log",
            b"000000000000000A.log",
            b"4000000000000000.log",
            b"000000000000001\xff.log",
            b"\xff.\xff",
            "00000000000000\u{e9}.s\u{e9}".as_bytes(),
        ];
        for name in odd {
            assert_eq!(told_by(OsStr::from_bytes(name)), None, "{name:?}");
        }
        for kind in [Kind::Log, Kind::Segment, Kind::Unfinished] {
            for number in [0, 0x1a, NUMBERS_MAX - 1] {
                let name = name_of(number, kind);
                assert_eq!(told_by(OsStr::new(&name)), Some((number, kind)), "{name}");
            }
        }
    }
}
