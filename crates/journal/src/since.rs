//! Since when this boot has gone on with what earlier boots left, so that a second start in it finds the same
//! ages, and gives no second grace.

use std::io;

use powderhorn_protocol::time::Time;

use crate::clock::Anchor;
use crate::files::{Files, LINE_BYTES_MAX, SINCE};

/// The first start of the boot of `now`, which is this one if the file tells of no earlier one; then it is noted.
pub fn first_start(files: &Files, now: &Anchor) -> Anchor {
    match read(files) {
        Ok(Some(since)) if since.boot_id == now.boot_id && since.boot <= now.boot => return since,
        Ok(_) => {}
        Err(error) => log::warn!(
            "journal: since when this boot lasts cannot be read in {}: {error}",
            files.dir().display()
        ),
    }
    if let Err(error) = files.replace(SINCE, line(now).as_bytes()) {
        log::warn!(
            "journal: since when this boot lasts cannot be noted in {}: {error}",
            files.dir().display()
        );
    }
    *now
}

fn read(files: &Files) -> io::Result<Option<Anchor>> {
    let Some(bytes) = files.read_small(SINCE, LINE_BYTES_MAX)? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    parse(text)
        .filter(|since| text == line(since))
        .map(Some)
        .ok_or_else(|| io::Error::other("it is not a boot, two clocks and their checksum"))
}

fn parse(text: &str) -> Option<Anchor> {
    let mut words = text.split(' ');
    let boot_id = u128::from_str_radix(words.next()?, 16).ok()?;
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    Some(Anchor {
        boot_id: boot_id.to_be_bytes(),
        boot: Time::from_us(number()? as i64),
        wall_ms: number()?,
    })
}

fn line(since: &Anchor) -> String {
    let text = format!(
        "{:032x} {:016x} {:016x}",
        u128::from_be_bytes(since.boot_id),
        since.boot.as_us(),
        since.wall_ms
    );
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))
}
