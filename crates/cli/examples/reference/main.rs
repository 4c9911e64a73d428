//! Writes the reference pages out of the sources: the VCL functions from the VMOD's docstrings, the keys of
//! powderhorn.toml from the documentation of the configuration.
//!
//! ```text
//! cargo run -p powderhorn-cli --example reference -- vcl man > vmod_powderhorn.3
//! cargo run -p powderhorn-cli --example reference -- config man > powderhorn.toml.5
//! cargo run -p powderhorn-cli --example reference -- vcl markdown --check docs/VCL.md
//! ```
//!
//! With `--check FILE` nothing is written: it fails if the file is not what would be written.
//! It also fails for a function or a key without documentation, and if the keys that are documented are not those that
//! are read.

mod markdown;
mod pages;
mod roff;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("reference: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (what, form, check) = match words[..] {
        [what, form] => (what, form, None),
        [what, form, "--check", file] => (what, form, Some(file)),
        _ => return Err("vcl|config man|markdown [--check FILE]".into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = match what {
        "vcl" => pages::vcl(&root)?,
        "config" => pages::config(&root)?,
        _ => return Err(format!("not a page: {what}")),
    };
    let text = match form {
        "man" => roff::render(&page),
        "markdown" => markdown::render(&page),
        _ => return Err(format!("not a form: {form}")),
    };
    match check {
        None => {
            print!("{text}");
            Ok(())
        }
        Some(file) => {
            let there = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
            if there == text {
                return Ok(());
            }
            Err(format!(
                "{file} is not what the sources say: cargo run -p powderhorn-cli --example reference -- {what} {form} > {file}"
            ))
        }
    }
}
