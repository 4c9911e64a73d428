//! The varnishds that are measured, each alone in its process, with VCLs that differ only in what is
//! compared.
//!
//! Caches are filled without an origin: `vcl_backend_error` makes objects that are inserted as any other,
//! and quickly. A request with [`ORIGIN_HEADER`] is fetched, through all of the VCL.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use powderhorn_fleet::cleanup::{self, WorkDir};
use powderhorn_fleet::fleet;
use powderhorn_fleet::varnish::{Settings, VarnishError, Varnishd};

use crate::load::{self, LoadError, Shape};
use crate::origin;

/// How long a varnishd may take to start: most of it is the C compiler.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a counter may take to show what was done.
const COUNTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Misses under way while a cache is filled.
const FILL: Shape = Shape {
    connections: 32,
    depth: 8,
};
/// The header of a request whose value becomes the object's `xkey` header.
pub const KEYS_HEADER: &str = "X-Keys";

/// Has a miss fetched from the origin instead of made up.
pub const ORIGIN_HEADER: &str = "X-Origin";

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A varnishd does not run.
    #[error(transparent)]
    Varnish(#[from] VarnishError),
    /// A varnishd does not answer as it should.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Files could not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no VMOD to measure.
    #[error("no libvmod_powderhorn.so next to this program or in POWDERHORN_VMOD")]
    NoVmod,
    /// What a varnishd says of itself cannot be what was to be measured.
    #[error("{name}: {what}")]
    Unfit {
        /// Which.
        name: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// Whose purges a varnishd has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Our VMOD and the VCL shipped with it, as a single node.
    Powderhorn,
    /// No VMOD but varnishd's own `std`: PURGE by `return (purge)`, BAN by `std.ban()`.
    Stock,
    /// Debian's xkey.
    Xkey,
}

impl Side {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Side::Powderhorn => "powderhorn",
            Side::Stock => "stock",
            Side::Xkey => "xkey",
        }
    }
}

/// A varnishd, alone in its own directory, which goes with it.
pub struct Server {
    side: Side,
    varnish: Varnishd,
    _dir: WorkDir,
}

/// What else a varnishd is given.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Parameters of varnishd.
    pub params: Vec<(&'static str, &'static str)>,
    /// VCL between the imports and the rest.
    pub vcl: String,
    /// Our VMOD's config; a single node without one.
    pub config: Option<PathBuf>,
}

impl Server {
    /// Starts a varnishd with an empty cache.
    pub fn start(side: Side, options: &Options) -> Result<Server, ServerError> {
        let io = |what| move |source| ServerError::Io { what, source };
        cleanup::install().map_err(io("waiting for signals"))?;
        let dir = WorkDir::new("powderhorn-bench").map_err(io("making a work directory"))?;
        let vmods = dir.path().join("vmods");
        std::fs::create_dir(&vmods).map_err(io("making a work directory"))?;
        if side == Side::Powderhorn {
            let vmod = fleet::find_vmod().ok_or(ServerError::NoVmod)?;
            let vmod = std::path::absolute(vmod).map_err(io("finding the VMOD"))?;
            std::os::unix::fs::symlink(vmod, vmods.join("libvmod_powderhorn.so"))
                .map_err(io("linking the VMOD"))?;
        }
        // All caches are larger than what goes in; the log costs the same everywhere.
        let params = [("vsl_space", "80M"), ("thread_pool_min", "100")];
        let params = params.iter().chain(&options.params);
        let settings = Settings {
            name: side.name().into(),
            vcl: vcl(side, options, origin()?),
            vmod_dir: Some(vmods),
            vcl_dir: Some(fleet::find_vcl_dir()),
            storage: "12g".into(),
            params: params
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            extensions: Vec::new(),
        };
        let mut varnish = Varnishd::spawn(dir.path(), settings)?;
        varnish.wait_ready(START_TIMEOUT)?;
        Ok(Server {
            side,
            varnish,
            _dir: dir,
        })
    }

    /// Whether it is that side's.
    pub fn is(&self, side: Side) -> bool {
        self.side == side
    }

    /// Where it serves.
    pub fn addr(&self) -> SocketAddr {
        self.varnish.addr()
    }

    /// Fetches `count` URLs; `make(n, url, keys)` writes the n-th and its keys.
    pub fn fill(
        &self,
        count: u64,
        mut make: impl FnMut(u64, &mut String, &mut String),
    ) -> Result<(), ServerError> {
        let (mut url, mut keys) = (String::new(), String::new());
        load::run(self.addr(), FILL, count, |n, out| {
            url.clear();
            keys.clear();
            make(n, &mut url, &mut keys);
            if keys.is_empty() {
                load::request(out, "GET", &url, &[]);
            } else {
                load::request(out, "GET", &url, &[(KEYS_HEADER, &keys)]);
            }
        })?;
        Ok(())
    }

    /// A counter of varnishd's, such as `MAIN.n_object`.
    pub fn counter(&self, name: &str) -> Result<u64, ServerError> {
        let output = std::process::Command::new("varnishstat")
            .arg("-n")
            .arg(self.varnish.workdir())
            .args(["-1", "-f", name])
            .output()
            .map_err(|source| ServerError::Io {
                what: "starting varnishstat",
                source,
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value = text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
        });
        value.ok_or_else(|| ServerError::Unfit {
            name: self.side.name(),
            what: format!("varnishstat has no {name}"),
        })
    }

    /// Fails unless the cache holds `least` objects and has never had to make room.
    pub fn expect_objects(&self, least: u64) -> Result<(), ServerError> {
        self.wait_counter("MAIN.n_object", least)?;
        match self.counter("MAIN.n_lru_nuked")? {
            0 => Ok(()),
            nuked => Err(ServerError::Unfit {
                name: self.side.name(),
                what: format!("{nuked} objects had to make room"),
            }),
        }
    }

    /// Waits for a counter to reach `least`: workers hand in their counts now and then.
    pub fn wait_counter(&self, name: &str, least: u64) -> Result<(), ServerError> {
        let deadline = Instant::now() + COUNTER_TIMEOUT;
        loop {
            let value = self.counter(name)?;
            if value >= least {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(ServerError::Unfit {
                    name: self.side.name(),
                    what: format!("{name} is {value} instead of {least}"),
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Resident memory of the cache process that no file stands behind, in bytes; `None` where there
    /// is no /proc.
    pub fn resident(&self) -> Result<Option<u64>, ServerError> {
        Ok(resident(
            &self.varnish.worker()?.as_raw_nonzero().to_string(),
        ))
    }

    /// CPU time that the cache process has used; `None` where there is no /proc.
    pub fn cpu(&self) -> Result<Option<Duration>, ServerError> {
        let pid = self.varnish.worker()?.as_raw_nonzero();
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return Ok(None);
        };
        // The name may hold spaces; after it come state, ppid, … with utime as the 12th.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux that Debian has.
        Ok(Some(Duration::from_millis(ticks * 10)))
    }
}

/// Anonymous resident memory of a process ("self" or a number), in bytes.
pub fn resident(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The one origin of this process.
fn origin() -> Result<SocketAddr, ServerError> {
    static ADDR: Mutex<Option<SocketAddr>> = Mutex::new(None);
    let mut started = ADDR.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(addr) = *started {
        return Ok(addr);
    }
    let what = "starting the origin";
    let addr = origin::start().map_err(|source| ServerError::Io { what, source })?;
    *started = Some(addr);
    Ok(addr)
}

fn vcl(side: Side, options: &Options, origin: SocketAddr) -> String {
    let start = match &options.config {
        Some(config) => format!("\"{}\"", config.display()),
        None => String::new(),
    };
    let own = match side {
        Side::Powderhorn => POWDERHORN.replace("@START@", &start),
        Side::Stock => STOCK.to_owned(),
        Side::Xkey => STOCK.to_owned() + XKEY,
    };
    let common = COMMON
        .replace("@HOST@", &origin.ip().to_string())
        .replace("@PORT@", &origin.port().to_string());
    format!("vcl 4.1;\nimport std;\n{own}{}{common}", options.vcl)
}

const POWDERHORN: &str = r#"
import powderhorn;
include "powderhorn.vcl";

sub vcl_init {
    powderhorn.start(@START@);
}

sub vcl_recv {
    if (req.method == "PURGEURL") {
        set req.http.x-id = powderhorn.purge(req.url);
        return (synth(200, "Purged"));
    }
}
"#;

const STOCK: &str = r#"
sub vcl_recv {
    if (req.method == "PURGE") {
        return (purge);
    }
}
"#;

const XKEY: &str = r#"
import xkey;

sub vcl_recv {
    if (req.method == "PURGEKEY") {
        set req.http.x-n = xkey.purge(req.http.xkey);
        return (synth(200, "Purged"));
    }
}
"#;

/// For [`Options::vcl`]: purges by key with our VMOD.
pub const POWDERHORN_KEYS: &str = r#"
sub vcl_recv {
    if (req.method == "PURGEKEY") {
        set req.http.x-id = powderhorn.purge_key(req.http.xkey);
        return (synth(200, "Purged"));
    }
}
"#;

// Answers to a purge are as short as our own VCL's: else varnishd's own page would cost the others.
const COMMON: &str = r#"
backend origin {
    .host = "@HOST@";
    .port = "@PORT@";
}

sub vcl_recv {
    if (req.method == "BAN") {
        if (std.ban("obj.http.x-url == " + req.url)) {
            return (synth(200, "Banned"));
        }
        return (synth(500, std.ban_error()));
    }
    if (req.method == "BANKEY") {
        if (std.ban("obj.http.xkey ~ " + req.http.xkey)) {
            return (synth(200, "Banned"));
        }
        return (synth(500, std.ban_error()));
    }
}

sub vcl_backend_fetch {
    if (!bereq.http.X-Origin) {
        return (error(200, "OK"));
    }
}

sub vcl_backend_error {
    set beresp.ttl = 1d;
    set beresp.http.x-url = bereq.url;
    if (bereq.http.X-Keys) {
        set beresp.http.xkey = bereq.http.X-Keys;
    }
    set beresp.body = "content";
    return (deliver);
}

sub vcl_backend_response {
    if (bereq.http.X-Keys) {
        set beresp.http.xkey = bereq.http.X-Keys;
    }
}

sub vcl_deliver {
    unset resp.http.x-url;
    unset resp.http.x-host;
    unset resp.http.xkey;
}

sub vcl_synth {
    set resp.http.Content-Type = "text/plain; charset=utf-8";
    set resp.body = resp.reason;
    return (deliver);
}
"#;
