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
    for warning in warnings(&config) {
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

/// What the one who runs this may read, and varnishd's child may not; and the other way round.
fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(key) = &config.key_file {
        if let Ok(meta) = fs::metadata(key) {
            let varnish = group_id(GROUP);
            let by_group = meta.mode() & 0o040 != 0 && varnish == Some(meta.gid());
            let key = key.display();
            if meta.mode() & 0o007 != 0 {
                warnings.push(format!(
                    "everybody on this host may read or write {key}: chmod 0640 {key}"
                ));
            } else if varnish.is_some() && !by_group {
                warnings.push(format!(
                    "varnishd's group may not read {key}: chgrp {GROUP} {key} && chmod 0640 {key}"
                ));
            }
        }
    }
    if let Some(dir) = &config.journal.dir {
        if !dir.is_dir() {
            let dir = dir.display();
            warnings.push(format!(
                "{dir} is not a directory: install -d -o vcache -g {GROUP} -m 0750 {dir}"
            ));
        }
    }
    warnings
}
