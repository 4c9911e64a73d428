//! A configuration file, read as the VMOD reads it.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use powderhorn_node::Config;

use crate::keygen::{GROUP, group_id};
use crate::node::Problem;

pub fn run(path: &Path) -> Result<String, Problem> {
    let config = Config::load(path).map_err(|error| Problem::new(error.to_string()))?;
    let peers = match (config.peers.len(), sources(&config)) {
        (0, None) => "a single node".to_owned(),
        (0, Some(sources)) => format!("peers from {sources}"),
        (n, None) => format!("{n} peers listed"),
        (n, Some(sources)) => format!("{n} peers listed and those from {sources}"),
    };
    let journal = match &config.journal.dir {
        Some(dir) => format!("journal in {}", dir.display()),
        None => "no journal".to_owned(),
    };
    let mut out = format!(
        "{}: ok: node {}, fleet {}, {peers}, {journal}\n",
        path.display(),
        config.name,
        config.fleet
    );
    for warning in warnings(path, &config) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "warning: {warning}");
    }
    Ok(out)
}

fn sources(config: &Config) -> Option<String> {
    let file = config.discovery.nodes_file.iter();
    let mut sources: Vec<String> = file.map(|path| path.display().to_string()).collect();
    sources.extend(config.discovery.dns.iter().map(ToString::to_string));
    (!sources.is_empty()).then(|| sources.join(", "))
}

/// Whether somebody of this group may do what `bit` says (4 to read, 2 to write) with a file of this mode and group.
fn may(bit: u32, mode: u32, of_group: u32, group: u32) -> bool {
    mode & bit != 0 || mode & (bit << 3) != 0 && of_group == group
}

/// What the one who runs this may read, and varnishd's child may not; and the other way round.
fn warnings(path: &Path, config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let varnish = group_id(GROUP);
    let unreadable = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        (!may(4, meta.mode(), meta.gid(), varnish?)).then(|| {
            let path = path.display();
            format!(
                "varnishd's group may not read {path}: chgrp {GROUP} {path} && chmod 0640 {path}"
            )
        })
    };
    warnings.extend(unreadable(path));
    if let Some(key) = &config.key_file {
        let everybody = fs::metadata(key).is_ok_and(|meta| meta.mode() & 0o007 != 0);
        if everybody {
            let key = key.display();
            warnings.push(format!(
                "everybody on this host may read or write {key}: chmod 0640 {key}"
            ));
        }
        warnings.extend(unreadable(key));
    }
    if let Some(dir) = &config.journal.dir {
        let meta = fs::metadata(dir).ok().filter(fs::Metadata::is_dir);
        let name = dir.display();
        match meta {
            None => warnings.push(format!(
                "{name} is not a directory: install -d -o vcache -g {GROUP} -m 0750 {name}"
            )),
            // Another owner than root is varnishd's child.
            Some(meta)
                if meta.uid() == 0
                    && varnish.is_some_and(|group| !may(2, meta.mode(), meta.gid(), group)) =>
            {
                warnings.push(format!(
                    "varnishd's child may not write to {name}: chown vcache:{GROUP} {name} && chmod 0750 {name}"
                ));
            }
            Some(_) => {}
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_may_what_everybody_may_and_what_it_may_itself() {
        for (mode, of_group, reads, writes) in [
            (0o100_644, 0, true, false),
            (0o100_640, 0, false, false),
            (0o100_640, 7, true, false),
            (0o100_600, 7, false, false),
            (0o40_770, 7, true, true),
            (0o40_750, 0, false, false),
            (0o40_777, 0, true, true),
        ] {
            assert_eq!(may(4, mode, of_group, 7), reads, "{mode:o} {of_group}");
            assert_eq!(may(2, mode, of_group, 7), writes, "{mode:o} {of_group}");
        }
    }
}
