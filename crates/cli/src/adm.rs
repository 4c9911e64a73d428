//! The varnishd on this host, through varnishadm.
//!
//! A varnishd that was started with Powderhorn's commands (-E) has `powderhorn.status` and the others. Every
//! other one tells its status in its list of backends, and cannot be told to purge.

use std::ffi::OsString;
use std::io;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::args::NodeArgs;
use crate::node::{Problem, find};

/// What varnishd's management interface answers to a command that it does not know.
const UNKNOWN: &str = "Unknown request";

const NO_COMMANDS: &str = "this varnishd was started without Powderhorn's commands: add -E to its command line \
     (/usr/share/doc/varnish-powderhorn/examples has a drop-in for systemd), or name the node with --url http://NODE:PORT";

pub struct Adm {
    /// What leads to the varnishd.
    options: Vec<OsString>,
}

/// Why a command has no answer.
enum Refused {
    /// varnishd does not know the command.
    Unknown,
    Other(Problem),
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        match refused {
            Refused::Unknown => Problem::new(NO_COMMANDS),
            Refused::Other(problem) => problem,
        }
    }
}

impl Adm {
    pub fn new(args: &NodeArgs) -> Adm {
        let mut options: Vec<OsString> = Vec::new();
        if let Some(name) = &args.name {
            options.extend(["-n".into(), name.into()]);
        }
        if let Some(address) = &args.address {
            options.extend(["-T".into(), address.into()]);
        }
        if let Some(secret) = &args.secret {
            options.extend(["-S".into(), secret.into()]);
        }
        // varnishadm waits for whole seconds.
        let seconds = args.timeout.as_secs_f64().ceil() as u64;
        options.extend(["-t".into(), seconds.to_string().into()]);
        Adm { options }
    }

    pub fn status(&self) -> Result<Value, Problem> {
        let answer = match self.command(&["powderhorn.status", "-j"]) {
            Err(Refused::Unknown) => self.command(&["backend.list", "-j", "-p", "*.powderhorn"])?,
            other => other?,
        };
        let answer = json(&answer)?;
        find(&answer, "verdict").cloned().ok_or_else(|| {
            Problem::new(
                "this varnishd runs without Powderhorn: its VCL has to import powderhorn and to call \
                 powderhorn.start() in vcl_init (varnishadm vcl.list shows which VCL is active)",
            )
        })
    }

    pub fn purge(&self, url: &str, host: &str) -> Result<String, Problem> {
        let mut answer = self.command(&["powderhorn.purge", url, host])?;
        if !answer.ends_with('\n') {
            answer.push('\n');
        }
        Ok(answer.trim_start().to_owned())
    }

    pub fn trace(&self, id: &str) -> Result<Value, Problem> {
        let answer = json(&self.command(&["powderhorn.trace", "-j", id])?)?;
        find(&answer, "missing")
            .cloned()
            .ok_or_else(|| Problem::new(format!("varnishadm's answer is no receipt: {answer}")))
    }

    fn command(&self, words: &[&str]) -> Result<String, Refused> {
        let other = |text: String| Refused::Other(Problem::new(text));
        let output = Command::new("varnishadm")
            .args(&self.options)
            .args(words.iter().map(|word| quoted(word)))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => other(
                    "varnishadm is not on this host: install varnish, or name a node with --url http://NODE:PORT".into(),
                ),
                _ => other(format!("varnishadm: {error}")),
            })?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let said = format!("{said}\n{}", String::from_utf8_lossy(&output.stderr));
        if said.contains(UNKNOWN) {
            return Err(Refused::Unknown);
        }
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let text = format!("varnishadm: {}", lines.join("; "));
        // What varnishd itself refuses has nothing to do with rights.
        let hint = if said.contains("Command failed") {
            ""
        } else if said.contains("denied") || said.contains("Could not open") {
            " (run this as root, or as one who may read Varnish's secret and working directory)"
        } else {
            " (is varnishd running, and is this its -n? Run this as root, or name another node with --url http://NODE:PORT)"
        };
        Err(other(text + hint))
    }
}

fn json(answer: &str) -> Result<Value, Problem> {
    serde_json::from_str(answer)
        .map_err(|error| Problem::new(format!("varnishadm's answer is not JSON: {error}")))
}

/// varnishadm puts its arguments into a line as they are, and varnishd takes that line apart again.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut out = String::from("\"");
    for c in word.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_varnishds_line_would_take_apart_is_quoted() {
        assert_eq!(quoted("powderhorn.purge"), "powderhorn.purge");
        assert_eq!(quoted("/a?b=\"c\\d\""), r#""/a?b=\"c\\d\"""#);
        assert_eq!(quoted("a b"), r#""a b""#);
        assert_eq!(quoted(""), r#""""#);
    }
}
