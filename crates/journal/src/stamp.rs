//! The stamp of the last epoch. Epochs are unique without it, by their random bits; with it they are also
//! in order for people.

use std::io;

use crate::files::{Files, LINE_BYTES_MAX, STAMP};

/// Reads the stamp: `Err` if the file is there and says nothing that can be used.
pub fn read(files: &Files) -> Result<Option<u64>, String> {
    let bytes = match files.read_small(STAMP, LINE_BYTES_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let stamp = text
        .get(..16)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    match stamp {
        Some(stamp) if text == line(stamp) => Ok(Some(stamp)),
        _ => Err("it is not a stamp and its checksum".into()),
    }
}

/// Puts the stamp in place, also for the time after a power cut.
pub fn write(files: &Files, stamp: u64) -> io::Result<()> {
    files.replace(STAMP, line(stamp).as_bytes())
}

fn line(stamp: u64) -> String {
    format!(
        "{stamp:016x} {:08x}\n",
        crc32fast::hash(&stamp.to_le_bytes())
    )
}
