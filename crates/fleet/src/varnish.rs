//! Starts real varnishds in directories of their own and ends them again.
//!
//! Every varnishd runs with `-j none` (no user to change to, no capability needed), a small log
//! and few threads, so that five of them fit on a small machine; it needs neither /proc nor
//! mounts. The manager is the leader of its own process group: Ctrl-C on the terminal does not
//! reach it behind our back, and a group kill takes manager and child together.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::cleanup;

/// Ports are taken from here: below the range from which Linux gives out ports by itself, so that
/// no outgoing connection sits on one between our look at it and varnishd's.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How often a varnishd whose port was snatched away is started again on another one.
const PORT_RETRIES_MAX: u32 = 5;
/// How much of a varnishd's output an error shows, in bytes.
const LOG_TAIL_BYTES: usize = 4_096;
/// Between two looks at a process that starts or ends.
const POLL: Duration = Duration::from_millis(10);

/// What to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For people; in errors.
    pub name: String,
    /// The whole VCL, given to varnishd in a file.
    pub vcl: String,
    /// Searched for `import powderhorn;` before varnishd's own directory.
    pub vmod_dir: Option<PathBuf>,
    /// Searched for `include "powderhorn.vcl";` before varnishd's own directories.
    pub vcl_dir: Option<PathBuf>,
    /// Memory for objects, e.g. `64m`.
    pub storage: String,
    /// More parameters: `-p NAME=VALUE`.
    pub params: Vec<(String, String)>,
    /// Libraries that varnishd is started with: `-E LIBRARY`.
    pub extensions: Vec<PathBuf>,
}

/// Why a varnishd does not run. Nothing of it runs any more in any of these cases.
#[derive(Debug, thiserror::Error)]
pub enum VarnishError {
    /// The program could not be started, or a file could not be written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The manager ended: most often a VCL that does not compile. `log` says why.
    #[error("varnishd of {name} ended ({status}); it said:\n{log}")]
    Ended {
        /// Whose.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its output.
        log: String,
    },
    /// The cache child did not come up in time.
    #[error("varnishd of {name} does not run after {waited:?}; it said:\n{log}")]
    NotReady {
        /// Whose.
        name: String,
        /// The deadline that passed.
        waited: Duration,
        /// The end of its output.
        log: String,
    },
    /// `varnishadm` failed.
    #[error("varnishadm {command} on {name}: {message}")]
    Adm {
        /// Whose.
        name: String,
        /// What was asked.
        command: String,
        /// What it said.
        message: String,
    },
}

/// A running varnishd. Dropping it ends it.
#[derive(Debug)]
pub struct Varnishd {
    settings: Settings,
    dir: PathBuf,
    addr: SocketAddr,
    env: Vec<(String, String)>,
    manager: Child,
    /// SIGTERM was sent; a second one would make the manager leave without its child.
    stopping: bool,
    stopped: bool,
}

impl Varnishd {
    /// Starts a varnishd whose files live below `dir`, which must exist. Returns at once: see
    /// [`Varnishd::wait_ready`]. Call it from a thread that stays: the manager gets a SIGTERM when
    /// the thread that started it ends, which is how it learns of our SIGKILL.
    pub fn spawn(dir: &Path, settings: Settings) -> Result<Varnishd, VarnishError> {
        let vcl = dir.join("node.vcl");
        std::fs::write(&vcl, &settings.vcl).map_err(io_error("writing node.vcl"))?;
        let port = free_port(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let manager = spawn_manager(dir, addr, &settings, &[])?;
        Ok(Varnishd {
            settings,
            dir: dir.to_owned(),
            addr,
            env: Vec::new(),
            manager,
            stopping: false,
            stopped: false,
        })
    }

    /// Waits until the cache child runs and answers.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<(), VarnishError> {
        self.wait_for_worker(timeout, None)
    }

    fn wait_for_worker(
        &mut self,
        timeout: Duration,
        former: Option<Pid>,
    ) -> Result<(), VarnishError> {
        let start = Instant::now();
        let mut retries = 0;
        loop {
            if let Some(status) = self.manager.try_wait().map_err(io_error("waiting"))? {
                cleanup::remove_manager(Pid::from_child(&self.manager));
                let log = self.log_tail();
                if !log.contains("Address already in use") || retries == PORT_RETRIES_MAX {
                    self.stopped = true;
                    let name = self.settings.name.clone();
                    return Err(VarnishError::Ended { name, status, log });
                }
                retries += 1;
                let port =
                    free_port(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())?;
                self.addr.set_port(port);
                self.manager = self.spawn_again()?;
            }
            let running = self
                .adm(&["status"])
                .is_ok_and(|status| status.contains("running"));
            if running && self.worker().is_ok_and(|worker| Some(worker) != former) {
                return Ok(());
            }
            if start.elapsed() >= timeout {
                let log = self.log_tail();
                self.stop();
                let name = self.settings.name.clone();
                return Err(VarnishError::NotReady {
                    name,
                    waited: timeout,
                    log,
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Where it serves HTTP.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its `-n`.
    pub fn workdir(&self) -> PathBuf {
        workdir(&self.dir)
    }

    /// The manager's process id.
    pub fn manager(&self) -> Pid {
        Pid::from_child(&self.manager)
    }

    /// The cache child's process id at this moment.
    pub fn worker(&self) -> Result<Pid, VarnishError> {
        let answer = self.adm(&["pid"])?;
        let pid = answer
            .lines()
            .find_map(|line| line.strip_prefix("Worker:"))
            .and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        pid.ok_or_else(|| self.adm_error(&["pid"], answer))
    }

    /// Runs a command over `varnishadm -n` and returns what it printed.
    pub fn adm(&self, command: &[&str]) -> Result<String, VarnishError> {
        let output = Command::new("varnishadm")
            .arg("-n")
            .arg(self.workdir())
            .args(["-t", "5"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .map_err(io_error("starting varnishadm"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(self.adm_error(command, text(&output.stderr) + &text(&output.stdout)))
        }
    }

    fn adm_error(&self, command: &[&str], message: String) -> VarnishError {
        let name = self.settings.name.clone();
        VarnishError::Adm {
            name,
            command: command.join(" "),
            message: message.trim().to_owned(),
        }
    }

    /// Kills the cache child with SIGKILL and waits until its manager has started another one,
    /// with an empty cache.
    pub fn crash_child(&mut self, timeout: Duration) -> Result<(), VarnishError> {
        let worker = self.worker()?;
        self.kill(worker)?;
        self.wait_restarted(worker, timeout)
    }

    /// Kills the cache child `worker` with SIGKILL, at once.
    pub fn kill(&self, worker: Pid) -> Result<(), VarnishError> {
        kill_process(worker, Signal::KILL)
            .map_err(|errno| io_error("killing the child")(errno.into()))
    }

    /// Waits until a cache child that is not `former` runs and answers.
    pub fn wait_restarted(&mut self, former: Pid, timeout: Duration) -> Result<(), VarnishError> {
        self.wait_for_worker(timeout, Some(former))
    }

    /// Kills manager and child at once with SIGKILL, as the power does. Its files stay.
    pub fn kill_all(&mut self) {
        if !std::mem::replace(&mut self.stopped, true) {
            let _ = kill_process_group(self.manager(), Signal::KILL);
            let _ = self.manager.wait();
            cleanup::remove_manager(self.manager());
        }
    }

    /// Further environment variables, from the next start on.
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.env.retain(|(other, _)| other != name);
        self.env.push((name.to_owned(), value.into()));
    }

    /// Starts it anew, at the same address and with the same files, after [`Varnishd::stop`] or
    /// [`Varnishd::kill_all`]. Returns at once: see [`Varnishd::wait_ready`].
    pub fn start_again(&mut self) -> Result<(), VarnishError> {
        self.stop();
        self.manager = self.spawn_again()?;
        (self.stopping, self.stopped) = (false, false);
        Ok(())
    }

    fn spawn_again(&self) -> Result<Child, VarnishError> {
        spawn_manager(&self.dir, self.addr, &self.settings, &self.env)
    }

    /// The end of what manager and child have printed so far.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(log_path(&self.dir)).unwrap_or_default();
        let tail = log
            .get(log.len().saturating_sub(LOG_TAIL_BYTES)..)
            .unwrap_or_default();
        match String::from_utf8_lossy(tail).trim_end() {
            "" => "(nothing)".to_owned(),
            text => text.to_owned(),
        }
    }

    /// Asks it to end and returns at once; [`Varnishd::stop`] waits.
    pub fn begin_stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) && !self.stopped {
            let _ = kill_process(self.manager(), Signal::TERM);
        }
    }

    /// Ends it: SIGTERM, a bounded wait, then SIGKILL for manager and child. Says whether it
    /// ended by itself and in order.
    pub fn stop(&mut self) -> bool {
        if self.stopped {
            return true;
        }
        self.begin_stop();
        let deadline = Instant::now() + cleanup::STOP_GRACE;
        let status = loop {
            match self.manager.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL / 2),
                Ok(None) | Err(_) => break None,
            }
        };
        let in_order = status.is_some_and(|status| status.success());
        if !in_order {
            // A manager that ended in order has reaped its child. After any other end the child
            // may be left, and with it the group.
            let _ = kill_process_group(self.manager(), Signal::KILL);
            let _ = self.manager.wait();
        }
        cleanup::remove_manager(self.manager());
        self.stopped = true;
        in_order
    }
}

impl Drop for Varnishd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn workdir(dir: &Path) -> PathBuf {
    dir.join("n")
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("varnishd.log")
}

fn spawn_manager(
    dir: &Path,
    addr: SocketAddr,
    settings: &Settings,
    env: &[(String, String)],
) -> Result<Child, VarnishError> {
    let log = File::create(log_path(dir)).map_err(io_error("making varnishd.log"))?;
    let log_too = log.try_clone().map_err(io_error("making varnishd.log"))?;
    let mut command = if in_path("setpriv") {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "varnishd"]);
        command
    } else {
        Command::new("varnishd")
    };
    command.args(["-F", "-j", "none", "-n"]).arg(workdir(dir));
    command
        .args(["-a", &addr.to_string(), "-f"])
        .arg(dir.join("node.vcl"));
    command.args(["-s", &format!("malloc,{}", settings.storage)]);
    let mut param = |name: &str, value: &str| {
        command.args(["-p", &format!("{name}={value}")]);
    };
    param("vsl_space", "8M");
    param("thread_pools", "1");
    param("thread_pool_min", "20");
    param("thread_pool_max", "200");
    // Tests keep connections open between their steps.
    param("timeout_idle", "60");
    if let Some(vmods) = &settings.vmod_dir {
        let own = "/usr/lib/x86_64-linux-gnu/varnish/vmods:/usr/lib/varnish/vmods";
        param("vmod_path", &format!("{}:{own}", vmods.display()));
    }
    if let Some(vcls) = &settings.vcl_dir {
        param(
            "vcl_path",
            &format!("{}:/etc/varnish:/usr/share/varnish/vcl", vcls.display()),
        );
    }
    for (name, value) in &settings.params {
        param(name, value);
    }
    for library in &settings.extensions {
        command.arg("-E").arg(library);
    }
    command
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        .process_group(0);
    let manager = command
        .spawn()
        .map_err(io_error("starting varnishd (is it installed?)"))?;
    cleanup::add_manager(Pid::from_child(&manager));
    Ok(manager)
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// A UDP port of 127.0.0.1 that is free now and was not given out by this process before.
pub fn free_udp_port() -> Result<u16, VarnishError> {
    free_port(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
}

fn free_port(is_free: impl Fn(u16) -> bool) -> Result<u16, VarnishError> {
    // Processes start at different places, and one process never gives out the same port twice.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let places = PORTS.len() as u16;
    let start = (std::process::id().wrapping_mul(2_654_435_761) >> 16) as u16;
    for _ in 0..1_000 {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + start.wrapping_add(step) % places;
        if is_free(port) {
            return Ok(port);
        }
    }
    let what = format!("no free port in {PORTS:?}");
    Err(VarnishError::Io {
        what,
        source: io::ErrorKind::AddrInUse.into(),
    })
}

fn io_error(what: &str) -> impl FnOnce(io::Error) -> VarnishError {
    let what = what.to_owned();
    |source| VarnishError::Io { what, source }
}
