//! Nothing stays behind: what was started and made is on one list, and a signal empties it.
//!
//! Drops do the work when a run ends or panics. Ctrl-C and SIGTERM run no drops, so a thread waits
//! for them and does the same from the list. Only a SIGKILL of this process gets past both; the
//! managers then get their own SIGTERM from the kernel (see `varnish.rs`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long varnishds may take to end on a signal before they are killed.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Started {
    /// Managers, each the leader of a process group of its own.
    managers: Vec<Pid>,
    dirs: Vec<PathBuf>,
}

static STARTED: Mutex<Started> = Mutex::new(Started {
    managers: Vec::new(),
    dirs: Vec::new(),
});
/// Somebody waits in [`wait_for_signal`] and cleans up on its own.
static AWAITED: AtomicBool = AtomicBool::new(false);
static ARRIVED: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

fn started() -> MutexGuard<'static, Started> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on SIGINT, SIGTERM and SIGHUP end what is on the list before they end this process.
/// Further calls change nothing.
pub fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if INSTALLED.set(()).is_err() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if AWAITED.swap(false, Ordering::SeqCst) {
                    *ARRIVED.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                    ARRIVED.1.notify_all();
                    continue;
                }
                eprintln!("\ninterrupted: ending what was started");
                // Who waits for the list must not end this process as if it had failed by itself.
                let _kept = end_all();
                std::process::exit(128 + signal);
            }
        })?;
    Ok(())
}

/// Blocks until one of the signals of [`install`] arrives. That signal ends nothing: the caller
/// goes on and drops what it has; the next one cleans up and exits as usual.
pub fn wait_for_signal() {
    AWAITED.store(true, Ordering::SeqCst);
    let mut arrived = ARRIVED.0.lock().unwrap_or_else(PoisonError::into_inner);
    while !*arrived {
        arrived = ARRIVED
            .1
            .wait(arrived)
            .unwrap_or_else(PoisonError::into_inner);
    }
    *arrived = false;
}

/// Ends all. While what it returns lives, nothing can be started, or forgotten, any more.
fn end_all() -> MutexGuard<'static, Started> {
    let started = started();
    for &manager in &started.managers {
        let _ = kill_process(manager, Signal::TERM);
    }
    let deadline = Instant::now() + STOP_GRACE;
    for &manager in &started.managers {
        // Reaped here or by its owner: either way waitpid() stops saying "still running".
        while matches!(waitpid(Some(manager), WaitOptions::NOHANG), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = kill_process_group(manager, Signal::KILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    for dir in &started.dirs {
        let _ = std::fs::remove_dir_all(dir);
    }
    started
}

pub(crate) fn add_manager(manager: Pid) {
    started().managers.push(manager);
}

pub(crate) fn remove_manager(manager: Pid) {
    started().managers.retain(|pid| *pid != manager);
}

/// A directory that is gone when this value is.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    /// Makes a new directory below the system's directory for temporary files (`TMPDIR`).
    pub fn new(prefix: &str) -> io::Result<WorkDir> {
        let base = std::env::temp_dir();
        for attempt in 0u32.. {
            let path = base.join(format!("{prefix}.{}.{attempt}", std::process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    started().dirs.push(path.clone());
                    return Ok(WorkDir { path });
                }
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1_000 => {}
                Err(error) => {
                    let message = format!("cannot make {}: {error}", path.display());
                    return Err(io::Error::new(error.kind(), message));
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        started().dirs.retain(|dir| *dir != self.path);
    }
}
