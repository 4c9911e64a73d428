//! `powderhorn`: what an operator does with a shell. It makes keys, checks configuration files, and asks a node,
//! through varnishadm or over HTTP, for the state of the fleet.
//!
//! | file | story |
//! |---|---|
//! | `args.rs` | the command line |
//! | `keygen.rs`, `check.rs` | what needs no running Varnish |
//! | `node.rs` | a node that is asked: one of two ways |
//! | `adm.rs`, `http.rs` | the two ways |
//! | `show.rs` | answers, for people |
//! | `health.rs` | a status, for a monitoring system |
#![forbid(unsafe_code)]

mod adm;
mod args;
mod check;
mod health;
mod http;
mod keygen;
mod node;
mod show;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command};
use crate::node::{Node, Problem};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell if the terminal is gone.
            let _ = error.print();
            let usage = if error.use_stderr() {
                // A monitoring system would take clap's 2 for "critical".
                let health = std::env::args().any(|argument| argument == "check-health");
                if health { health::UNKNOWN } else { 2 }
            } else {
                0
            };
            return ExitCode::from(usage);
        }
    };
    match run(cli.command) {
        Ok((text, status)) => match print(&text) {
            Ok(()) => ExitCode::from(status),
            Err(error) => {
                eprintln!("powderhorn: standard output: {error}");
                ExitCode::FAILURE
            }
        },
        Err(problem) => {
            eprintln!("powderhorn: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Who reads only the first lines (`| head`) has no complaint.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// What to print, and the exit status.
fn run(command: Command) -> Result<(String, u8), Problem> {
    let text = match command {
        Command::Keygen { file } => keygen::run(&file)?,
        Command::Check { file } => check::run(&file)?,
        Command::Status { node, json } => {
            let status = Node::new(&node).status()?;
            if json {
                show::json(&status)
            } else {
                show::status(&status)
            }
        }
        Command::Peers { node, json } => {
            let status = Node::new(&node).status()?;
            if json {
                // The list itself has no place for it.
                let left_out = show::peers_left_out(&status);
                if left_out > 0 {
                    eprintln!("powderhorn: {left_out} peers are left out: raise cli_limit");
                }
                show::json(&status["peers"])
            } else {
                show::peers(&status)
            }
        }
        Command::Purge { node, url, host } => {
            let (url, host) = node::target(&url, host.as_deref())?;
            Node::new(&node).purge(&url, &host)?
        }
        Command::Trace { node, id, json } => {
            let receipt = Node::new(&node).trace(&id)?;
            if json {
                show::json(&receipt)
            } else {
                show::trace(&receipt)
            }
        }
        Command::CheckHealth { node, limits } => {
            let status = Node::new(&node).status();
            return Ok(health::run(status, &limits));
        }
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "powderhorn", &mut out);
            String::from_utf8_lossy(&out).into_owned()
        }
        Command::Man { dir } => man(dir.as_deref())?,
    };
    Ok((text, 0))
}

/// One page for the command and one for each of its subcommands, as git has them.
fn man(dir: Option<&std::path::Path>) -> Result<String, Problem> {
    let failed = |e: io::Error| Problem::new(format!("writing the man pages: {e}"));
    let command = Cli::command().disable_help_subcommand(true);
    if let Some(dir) = dir {
        clap_mangen::generate_to(command, dir).map_err(failed)?;
        return Ok(String::new());
    }
    let mut out = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut out)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}
