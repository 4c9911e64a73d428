//! A new fleet key, in a file that only those may read who have to.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::node::Problem;

/// varnishd's child runs in this group, and reads the key.
pub const GROUP: &str = "varnish";

pub fn run(path: &Path) -> Result<String, Problem> {
    let mut key = [0u8; 32];
    OsRng
        .try_fill_bytes(&mut key)
        .map_err(|e| Problem::new(format!("no random numbers from the system: {e}")))?;
    let mut digits = String::new();
    for byte in key {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }

    // Closed to all others from its first moment on, whatever the umask.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| refused(path, &e))?;
    let readers = match fill(&file, &digits) {
        Ok(readers) => readers,
        Err(error) => {
            // Half a key is worse than none; the error above is what matters.
            let _ = fs::remove_file(path);
            return Err(Problem::new(format!("{}: {error}", path.display())));
        }
    };
    let path = path.display();
    Ok(match readers {
        Readers::Group => format!(
            "{path}: a new fleet key, readable by the group {GROUP}; copy it to every node of the fleet\n"
        ),
        Readers::Owner(why) => format!(
            "{path}: a new fleet key; copy it to every node of the fleet, and have the group {GROUP} read it there ({why} here)\n"
        ),
    })
}

enum Readers {
    Group,
    Owner(String),
}

fn fill(mut file: &File, digits: &str) -> io::Result<Readers> {
    writeln!(file, "{digits}")?;
    file.sync_all()?;
    let readers = match group_id(GROUP) {
        None => Readers::Owner(format!("there is no group {GROUP}")),
        Some(id) => match fchown(file, None, Some(id)) {
            Ok(()) => Readers::Group,
            Err(error) => Readers::Owner(format!("the file cannot be given to it: {error}")),
        },
    };
    // Another group than varnishd's has no business in it.
    let mode = match &readers {
        Readers::Group => 0o640,
        Readers::Owner(_) => 0o600,
    };
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(readers)
}

fn refused(path: &Path, error: &io::Error) -> Problem {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::AlreadyExists => Problem::new(format!(
            "{path} is there already, and a key is never overwritten: name another file"
        )),
        io::ErrorKind::PermissionDenied => Problem::new(format!(
            "{path}: {error}: run this as root, or name a file elsewhere"
        )),
        _ => Problem::new(format!("{path}: {error}")),
    }
}

/// A group of the system's own, as Debian's varnish makes it: those are in this file, wherever people's are.
pub fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        found.then(|| fields.nth(1)?.parse().ok())?
    })
}
