//! `powderhorn-sim`: runs scenarios and swarms, computes single points of the curves, sizes fleets and
//! draws the figures.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use powderhorn_sim::converge::{self, ConvergeArgs};
use powderhorn_sim::figures::cost::{self, PointArgs};
use powderhorn_sim::figures::footprint::{self, FootprintArgs};
use powderhorn_sim::figures::{self, FiguresArgs};
use powderhorn_sim::scenario::Scenario;
use powderhorn_sim::size::{self, SizeArgs};
use powderhorn_sim::swarm::{self, SwarmArgs};

/// A run is a hundred million small allocations of one thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(
    name = "powderhorn-sim",
    about = "What Powderhorn's protocol does, in virtual time and from a seed"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario and prints what came of it as JSON; fails if a mark was missed
    Run {
        /// The TOML file
        scenario: PathBuf,
        /// Decides all chance
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Random fleets, random faults, then peace: each seed must end in agreement
    Swarm(SwarmArgs),
    /// One point of the seeds' and the paper's curves, as a line of JSON
    Converge(ConvergeArgs),
    /// What a fleet of this size costs and how fast it is
    Size(SizeArgs),
    /// Draws the figures
    Figures(FiguresArgs),
    /// One point of the cost's curves, as a line of JSON
    Cost(PointArgs),
    /// What a fleet takes of this process's memory; the figures ask for it
    #[command(hide = true)]
    Footprint(FootprintArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("powderhorn-sim: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all was as it should be.
fn run(command: Command) -> Result<bool, Box<dyn std::error::Error>> {
    match command {
        Command::Run { scenario, seed } => {
            let read = Scenario::read(&scenario)?;
            let bar = bar(1_000);
            let begun = Instant::now();
            let (report, _) = read.run(seed, &mut |done| bar.set_position((done * 1e3) as u64))?;
            bar.finish_and_clear();
            say(&serde_json::to_string_pretty(&report)?)?;
            // Not in the report, which is the same each time.
            let (events, seconds) = (report.events, begun.elapsed().as_secs_f64());
            let rate = events as f64 / seconds;
            eprintln!("{events} events in {seconds:.1} s: {rate:.0} a second");
            for missed in report.missed() {
                eprintln!("missed: {missed}");
            }
            if let Some(violation) = &report.violation {
                eprintln!("never to happen: {violation}");
            }
            if !report.passed() {
                let path = quoted(&scenario);
                eprintln!("failed; to see it again: powderhorn-sim run {path} --seed {seed}");
            }
            Ok(report.passed())
        }
        Command::Swarm(args) => {
            let bar = bar(args.count());
            let done = swarm::run(&args, &mut || bar.inc(1));
            bar.finish_and_clear();
            say(&serde_json::to_string(&done)?)?;
            for failure in &done.failures {
                eprintln!(
                    "seed {}: {}; to see it again: {}",
                    failure.seed, failure.what, failure.replay
                );
            }
            Ok(done.failures.is_empty())
        }
        Command::Converge(args) => {
            let bar = match args.count() {
                0 => spinner("computing"),
                runs => bar(runs),
            };
            let answer = converge::run(&args, &mut || bar.inc(1));
            bar.finish_and_clear();
            say(&answer?.to_string())?;
            Ok(true)
        }
        Command::Size(args) => {
            let bar = spinner("a fleet of this kind is being run");
            let answer = size::run(&args);
            bar.finish_and_clear();
            say(&serde_json::to_string_pretty(&answer?)?)?;
            Ok(true)
        }
        Command::Cost(args) => {
            let bar = spinner("a fleet of so many nodes is being run");
            let measured = cost::point(&args);
            bar.finish_and_clear();
            say(&serde_json::to_string(&measured)?)?;
            Ok(true)
        }
        Command::Footprint(args) => {
            let got = footprint::run(&args).ok_or("no /proc/self/status to measure memory by")?;
            say(&serde_json::to_string(&got)?)?;
            Ok(true)
        }
        Command::Figures(args) => {
            let bar = spinner("");
            let (mut drawn, all) = (0, args.count());
            let done = figures::run(&args, &mut |name| {
                drawn += 1;
                let line = format!("{name}, {drawn} of {all}");
                if bar.is_hidden() {
                    eprintln!("{line}");
                }
                bar.set_message(line);
            });
            bar.finish_and_clear();
            done?;
            Ok(true)
        }
    }
}

/// Prints a line. Whoever stopped reading does not want it.
fn say(line: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    // What cannot be quoted is a zero byte, which no path has.
    shlex::try_quote(&path).map_or_else(|_| path.clone(), |word| word.into_owned())
}

/// A progress bar, which shows nothing where nobody looks.
fn bar(steps: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent}% {eta} left");
    let bar = ProgressBar::new(steps);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Shows that something is being done, what it is and since when, where somebody looks.
fn spinner(message: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(message);
    bar.enable_steady_tick(Duration::from_millis(100));
    match ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
