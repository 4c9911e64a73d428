//! Runs every `tests/vtc/*.vtc` with varnishtest, against the library that was built beside this
//! test. Names begin with b (basic), c (complex), d (drop-in VCL, a client each), r (regression), f (the fence), k (kinds
//! of purges), o (what operators see) or s (what stock Varnish does, and why the fence exists).
//!
//! `cargo build && cargo test --test vtc [-- part-of-a-name]`. In a VTC, `${vmod}` is the library,
//! `${vcl}` the directory of the ready-made VCL, `${lib}` the directory of the VTCs, `${set_clock}` a library to preload
//! that sets a process's wall clock.

use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::SystemTime;

use libtest_mimic::{Arguments, Failed, Trial};

const LIBRARY: &str = "libvmod_powderhorn.so";
/// Nearly all of a VTC is the C compiler at its VCLs: a second or two, ten for the longest. This is
/// for a machine that does much else.
const TEST_TIMEOUT_S: u32 = 90;
/// Each VTC runs up to five varnishds; more at a time only slow each other down.
const TESTS_AT_A_TIME_MAX: usize = 2;
const LOG_LINES_SHOWN: usize = 80;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let threads = arguments.test_threads.unwrap_or(TESTS_AT_A_TIME_MAX);
    arguments.test_threads = Some(threads.clamp(1, TESTS_AT_A_TIME_MAX));

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = Scratch::new();
    let prepared = varnishtest_exists()
        .and_then(|()| Ok((library()?, clock_library(root, scratch.as_ref()?)?)));
    let (library, set_clock) = match (prepared, arguments.list) {
        (Ok(libraries), _) => libraries,
        (Err(_), true) => Default::default(),
        (Err(problem), false) => {
            eprintln!("vtc: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let trials = match vtcs(&root.join("tests/vtc")) {
        Ok(files) => files
            .into_iter()
            .map(|file| trial(root, &library, &set_clock, file))
            .collect(),
        Err(e) => {
            eprintln!("vtc: tests/vtc: {e}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(scratch);
    conclusion.exit_code()
}

/// A directory for as long as the tests run.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, String> {
        let name = format!("powderhorn-vtc-{}", std::process::id());
        let path = env::temp_dir().join(name);
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Scratch(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind hurts nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Compiles the library that sets a process's wall clock, with the compiler that varnishd has for
/// its VCL.
fn clock_library(root: &Path, scratch: &Scratch) -> Result<PathBuf, String> {
    let library = scratch.0.join("set_clock.so");
    let compiled = Command::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(root.join("tests/clock/set_clock.c"))
        .status()
        .map_err(|e| format!("cc cannot be run (Debian: package gcc): {e}"))?;
    match compiled.success() {
        true => Ok(library),
        false => Err("tests/clock/set_clock.c does not compile".to_owned()),
    }
}

fn varnishtest_exists() -> Result<(), String> {
    Command::new("varnishtest")
        .arg("-h")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map(|_| ())
        .map_err(|e| format!("varnishtest cannot be run (Debian: package varnish): {e}"))
}

/// `POWDERHORN_VMOD`, or else the library of this test's own profile, which lies beside the
/// directory of this binary: `target/<profile>/deps/vtc-…`.
fn library() -> Result<PathBuf, String> {
    let library = match env::var_os("POWDERHORN_VMOD").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => {
            // Cargo calls it by its full path; without /proc there is no other way to know.
            let this = env::args_os().next().map(PathBuf::from).unwrap_or_default();
            let profile = this.parent().and_then(Path::parent);
            profile.ok_or("POWDERHORN_VMOD is not set")?.join(LIBRARY)
        }
    };
    let hint = match library
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str())
    {
        Some("release") => "cargo build --release",
        _ => "cargo build",
    };
    let Ok(built) = fs::metadata(&library).and_then(|meta| meta.modified()) else {
        return Err(format!(
            "{} is missing: run `{hint}` first",
            library.display()
        ));
    };
    for source in sources(&library) {
        if newest(&source).is_some_and(|changed| changed > built) {
            return Err(format!(
                "{} is older than {}: run `{hint}` first",
                library.display(),
                source.display()
            ));
        }
    }
    Ok(library)
}

/// What the library was made from: cargo writes `library: source source …` beside it.
fn sources(library: &Path) -> Vec<PathBuf> {
    let list = fs::read_to_string(library.with_extension("d")).unwrap_or_default();
    let sources = list
        .split_once(": ")
        .map(|(_, sources)| sources)
        .unwrap_or_default();
    sources
        .split_ascii_whitespace()
        .map(PathBuf::from)
        .collect()
}

fn newest(path: &Path) -> Option<SystemTime> {
    if path.is_dir() {
        let entries = fs::read_dir(path).ok()?.flatten();
        entries.filter_map(|entry| newest(&entry.path())).max()
    } else {
        fs::metadata(path).ok()?.modified().ok()
    }
}

fn vtcs(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "vtc") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn trial(root: &Path, library: &Path, set_clock: &Path, file: PathBuf) -> Trial {
    let name = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let vmod = format!("vmod={}", library.display());
    let vcl = format!("vcl={}", root.join("vcl").display());
    let lib = format!("lib={}", root.join("tests/vtc").display());
    let set_clock = format!("set_clock={}", set_clock.display());
    Trial::test(name, move || {
        run(Command::new("varnishtest")
            .args(["-v", "-t", &TEST_TIMEOUT_S.to_string()])
            .args(["-D", &vmod, "-D", &vcl, "-D", &lib, "-D", &set_clock])
            .arg(&file))
    })
}

/// varnishtest ends itself, and the varnishds it started, when its time is over.
fn run(command: &mut Command) -> Result<(), Failed> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("varnishtest: {e}"))?;
    let mut log = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_end(&mut log)
            .map_err(|e| format!("varnishtest: {e}"))?;
    }
    let status = child.wait().map_err(|e| format!("varnishtest: {e}"))?;
    if status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&log);
    Err(format!("{status}\n{}", shown(&log)).into())
}

/// The end of a VTC's log, and the step that it was at. Without the manager's pings: of a VTC that waited until its time
/// was over, nothing else would be seen.
fn shown(log: &str) -> String {
    let is_ping = |line: &str| line.ends_with("- Rd ping") || line.contains("- Wr 200 19 PONG ");
    let mut lines: Vec<&str> = log.lines().filter(|line| !is_ping(line)).collect();
    lines.dedup_by(|later, time| {
        let both = later.starts_with("**** dT") && time.starts_with("**** dT");
        if both {
            *time = *later;
        }
        both
    });
    let step = lines.iter().rfind(|line| line.contains(" top   === "));
    let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    format!(
        "the last step: {}\n{}",
        step.unwrap_or(&"none"),
        shown.join("\n")
    )
}
