//! An origin and N varnishds with the VMOD, each with its own gossip address, on loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::avalanche::Avalanche;
use crate::cleanup::{self, WorkDir};
use crate::http::{Client, HttpError, Request, Response};
use crate::origin::Origin;
use crate::varnish::{Settings, VarnishError, Varnishd, free_udp_port};

/// The `Host` of every request: part of what is hashed, so the same for all nodes.
pub const HOST: &str = "demo.test";
/// The header in which the shipped VCL returns a purge's id.
pub const ID_HEADER: &str = "X-Powderhorn-Id";
/// How long varnishds may take to come up: 0.4 s each on an idle machine, most of it the C compiler;
/// ten times that with two cores shared by many, and far more while the disk is throttled.
pub const START_TIMEOUT: Duration = Duration::from_secs(150);
/// How long one request may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A purge that takes less came with its dissemination and not with a round of anti-entropy.
const AT_ONCE: Duration = Duration::from_millis(100);
/// In a node's directory, its configuration and its state directory.
const CONFIG: &str = "powderhorn.toml";
const STATE: &str = "state";
/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(10);

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many varnishds.
    pub nodes: usize,
    /// Gossip goes through an [`Avalanche`] with this seed, or straight from node to node.
    pub relay_seed: Option<u64>,
    /// The VMOD, e.g. from [`find_vmod`]. Without one a purge stays on the node that got it: what
    /// a test that must fail and a baseline to compare with need.
    pub vmod: Option<PathBuf>,
    /// Where `powderhorn.vcl` is, e.g. from [`find_vcl_dir`].
    pub vcl_dir: PathBuf,
}

/// Why there is no fleet, or why it does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Files, ports or threads could not be had. Nothing runs.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A varnishd does not run. In [`Fleet::start`] nothing else runs either.
    #[error(transparent)]
    Varnish(#[from] VarnishError),
    /// A node did not answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A node answered a PURGE with something else than 200 and an id.
    #[error("{node} answered PURGE {url} with {status}: {body}")]
    Refused {
        /// Which node.
        node: String,
        /// What was to be purged.
        url: String,
        /// What it answered.
        status: u16,
        /// And the text of it.
        body: String,
    },
    /// The nodes do not hear each other.
    #[error(
        "after {waited:?} a purge sent to {from} is still unknown to {to}; {to} says:\n{status}"
    )]
    Deaf {
        /// Where it was sent.
        from: String,
        /// Who has not heard of it.
        to: String,
        /// The deadline that passed.
        waited: Duration,
        /// The status of `to`.
        status: String,
    },
}

/// One node of the fleet.
#[derive(Debug)]
pub struct Node {
    /// `node-1`, `node-2`, ….
    pub name: String,
    /// Where it gossips.
    pub gossip: SocketAddr,
    /// Its varnishd.
    pub varnish: Varnishd,
}

/// A running fleet. Dropping it ends all of it and removes its files.
#[derive(Debug)]
pub struct Fleet {
    // Dropped in this order: the varnishds first, what they depend on later.
    /// The varnishds.
    pub nodes: Vec<Node>,
    /// The relay, if the plan has one.
    pub relay: Option<Avalanche>,
    /// The server behind all of them.
    pub origin: Origin,
    dir: WorkDir,
}

impl Fleet {
    /// Starts everything and waits until each varnishd answers. Call it from a thread that stays
    /// (see [`Varnishd::spawn`]).
    pub fn start(plan: &Plan) -> Result<Fleet, FleetError> {
        let io = |what| move |source| FleetError::Io { what, source };
        cleanup::install().map_err(io("waiting for signals"))?;
        let dir = WorkDir::new("powderhorn-fleet").map_err(io("making a work directory"))?;
        let origin = Origin::start().map_err(io("starting the origin"))?;
        let gossip = (0..plan.nodes)
            .map(|_| Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_udp_port()?))))
            .collect::<Result<Vec<_>, VarnishError>>()?;
        let relay = plan
            .relay_seed
            .map(|seed| Avalanche::start(seed, &gossip))
            .transpose();
        let relay = relay.map_err(io("starting the relay"))?;

        // The shipped VCL says `import powderhorn;`, so the file needs its canonical name.
        let vmods = dir.path().join("vmods");
        std::fs::create_dir(&vmods).map_err(io("making a work directory"))?;
        if let Some(vmod) = &plan.vmod {
            let vmod = std::path::absolute(vmod).map_err(io("finding the VMOD"))?;
            std::os::unix::fs::symlink(vmod, vmods.join("libvmod_powderhorn.so"))
                .map_err(io("linking the VMOD"))?;
        }
        let key_file = dir.path().join("fleet.key");
        write_private(&key_file, &new_key().map_err(io("reading /dev/urandom"))?)
            .map_err(io("writing the key"))?;

        let mut fleet = Fleet {
            nodes: Vec::new(),
            relay,
            origin,
            dir,
        };
        for (index, &gossip_addr) in gossip.iter().enumerate() {
            let name = format!("node-{}", index + 1);
            let dir = fleet.dir.path().join(&name);
            std::fs::create_dir(&dir).map_err(io("making a work directory"))?;
            let mut config = format!(
                "[node]\nname = \"{name}\"\nsite = \"loopback\"\nlisten = \"{gossip_addr}\"\n\n\
                 [fleet]\nname = \"demo\"\nkey_file = \"{}\"\n\n[journal]\ndir = \"{}\"\n",
                key_file.display(),
                dir.join(STATE).display()
            );
            for (peer, &direct) in gossip.iter().enumerate().filter(|(peer, _)| *peer != index) {
                let address = fleet.relay.as_ref().map(|relay| relay.address(index, peer));
                let address = address
                    .unwrap_or(Ok(direct))
                    .map_err(io("asking the relay"))?;
                config.push_str(&format!(
                    "\n[[peer]]\nname = \"node-{}\"\nsite = \"loopback\"\naddress = \"{address}\"\n",
                    peer + 1
                ));
            }
            let config_path = dir.join(CONFIG);
            std::fs::write(&config_path, config).map_err(io("writing powderhorn.toml"))?;
            let settings = Settings {
                name: name.clone(),
                vcl: vcl(
                    fleet.origin.addr(),
                    plan.vmod.is_some().then_some(&config_path),
                    &name,
                ),
                vmod_dir: Some(vmods.clone()),
                vcl_dir: Some(plan.vcl_dir.clone()),
                storage: "256m".into(),
                params: Vec::new(),
                extensions: Vec::new(),
            };
            let varnish = Varnishd::spawn(&dir, settings)?;
            fleet.nodes.push(Node {
                name,
                gossip: gossip_addr,
                varnish,
            });
        }
        for node in &mut fleet.nodes {
            node.varnish.wait_ready(START_TIMEOUT)?;
        }
        Ok(fleet)
    }

    /// A new connection to a node.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn client(&self, node: usize) -> Client {
        Client::new(self.nodes[node].varnish.addr(), HOST, REQUEST_TIMEOUT)
    }

    /// Sends `PURGE url` to a node. Returns the purge's id.
    pub fn purge(&self, node: usize, url: &str) -> Result<String, FleetError> {
        let response = self.client(node).send(&Request::purge(url))?;
        self.purge_id(node, url, &response)
    }

    /// The id in the response to a PURGE.
    pub fn purge_id(
        &self,
        node: usize,
        url: &str,
        response: &Response,
    ) -> Result<String, FleetError> {
        match response.header(ID_HEADER) {
            Some(id) if response.status == 200 && !id.is_empty() => Ok(id.to_owned()),
            _ => Err(FleetError::Refused {
                node: self.nodes[node].name.clone(),
                url: url.to_owned(),
                status: response.status,
                body: response.text(),
            }),
        }
    }

    /// Waits until a purge sent to any node is known to all others at once: sessions are proven,
    /// and what follows travels at network speed. On a network that loses datagrams it is content
    /// with purges that arrive at all, once `timeout` has passed.
    pub fn wait_connected(&self, timeout: Duration) -> Result<(), FleetError> {
        let start = Instant::now();
        for from in 0..self.nodes.len() {
            while self.warm_up(from, start, timeout)? > AT_ONCE && start.elapsed() < timeout {}
        }
        Ok(())
    }

    /// Purges something at a node; returns how long it took until the last node knew of it.
    fn warm_up(
        &self,
        from: usize,
        start: Instant,
        timeout: Duration,
    ) -> Result<Duration, FleetError> {
        let id = self.purge(from, "/.fleet/warm-up")?;
        let sent = Instant::now();
        for to in 0..self.nodes.len() {
            let mut client = self.client(to);
            while !knows(&mut client, &id)? {
                if start.elapsed() >= timeout {
                    return Err(FleetError::Deaf {
                        from: self.nodes[from].name.clone(),
                        to: self.nodes[to].name.clone(),
                        waited: timeout,
                        status: client.get("/.fleet/status")?.text(),
                    });
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(sent.elapsed())
    }

    /// What all varnishds have printed, for a failing test to show.
    pub fn logs(&self) -> String {
        let log = |node: &Node| format!("--- {}\n{}\n", node.name, node.varnish.log_tail());
        self.nodes.iter().map(log).collect()
    }

    /// Ends all varnishds. Says whether each ended by itself and in order.
    pub fn stop(&mut self) -> bool {
        self.nodes
            .iter_mut()
            .for_each(|node| node.varnish.begin_stop());
        self.nodes
            .iter_mut()
            .map(|node| node.varnish.stop())
            .fold(true, |all, one| all & one)
    }

    /// Where the fleet's files are until it is dropped.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node's `powderhorn.toml`, which may be changed before the node starts anew.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn config(&self, node: usize) -> PathBuf {
        self.dir().join(&self.nodes[node].name).join(CONFIG)
    }

    /// A node's state directory.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn state(&self, node: usize) -> PathBuf {
        self.dir().join(&self.nodes[node].name).join(STATE)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a node says that it has applied the purge with this id.
pub fn knows(client: &mut Client, id: &str) -> Result<bool, HttpError> {
    Ok(client.get(&format!("/.fleet/knows?id={id}"))?.status == 200)
}

/// Whether a node has an object for this URL. Looks only: nothing is fetched on a miss.
pub fn is_cached(client: &mut Client, url: &str) -> Result<bool, HttpError> {
    let request = Request::get(url).with("Cache-Control", "only-if-cached");
    Ok(client.send(&request)?.status == 200)
}

/// Whether a response came out of the cache, by the header that the fleet's VCL sets.
pub fn is_hit(response: &Response) -> bool {
    response.header("X-Cache") == Some("HIT")
}

/// The VCL of a node: what a user writes around the shipped one, and URLs to look inside.
fn vcl(origin: SocketAddr, config: Option<&PathBuf>, name: &str) -> String {
    let vmod = match config {
        Some(config) => VCL_WITH_VMOD.replace("@CONFIG@", &config.display().to_string()),
        None => VCL_WITHOUT_VMOD.to_owned(),
    };
    VCL.replace("@HOST@", &origin.ip().to_string())
        .replace("@PORT@", &origin.port().to_string())
        .replace("@NAME@", name)
        .replace("@VMOD@", &vmod)
}

const VCL: &str = r#"vcl 4.1;

backend origin {
    .host = "@HOST@";
    .port = "@PORT@";
}
@VMOD@
# A request that only looks: whether there is an object, without fetching one.
sub vcl_miss {
    if (req.http.Cache-Control ~ "only-if-cached") {
        return (synth(504, "Not cached"));
    }
}

sub vcl_deliver {
    set resp.http.X-Node = "@NAME@";
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
    } else {
        set resp.http.X-Cache = "MISS";
    }
}
"#;

const VCL_WITH_VMOD: &str = r#"
import powderhorn;
include "powderhorn.vcl";

sub vcl_init {
    powderhorn.start("@CONFIG@");
}

sub vcl_recv {
    if (req.url ~ "^/\.fleet/knows\?id=") {
        if (powderhorn.knows(regsub(req.url, "^[^=]*=", ""))) {
            return (synth(200, "Applied"));
        }
        return (synth(404, "Not applied"));
    }
    if (req.url ~ "^/\.fleet/(status|status\.json|digest)$") {
        return (synth(200, "Status"));
    }
}

sub vcl_synth {
    if (req.url == "/.fleet/status") {
        set resp.http.Content-Type = "text/plain";
        set resp.body = powderhorn.status();
        return (deliver);
    }
    if (req.url == "/.fleet/status.json") {
        set resp.http.Content-Type = "application/json";
        set resp.body = powderhorn.status("json");
        return (deliver);
    }
    if (req.url == "/.fleet/digest") {
        set resp.http.Content-Type = "text/plain";
        set resp.body = powderhorn.digest();
        return (deliver);
    }
}
"#;

const VCL_WITHOUT_VMOD: &str = r#"
sub vcl_recv {
    if (req.method == "PURGE") {
        return (purge);
    }
    if (req.url ~ "^/\.fleet/") {
        return (synth(200, "No VMOD"));
    }
}

sub vcl_synth {
    if (req.method == "PURGE") {
        set resp.http.X-Powderhorn-Id = "none";
    }
}
"#;

/// Where the VMOD is: `POWDERHORN_VMOD`, or next to the running program (for a test: next to the
/// directory of its binary), which is where cargo puts both.
pub fn find_vmod() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("POWDERHORN_VMOD").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    // Without /proc the program's path is only known as it was called.
    let program = std::env::current_exe().ok();
    let program = program.or_else(|| std::env::args_os().next().map(PathBuf::from))?;
    let mut dirs = program.ancestors().skip(1).take(2);
    dirs.find_map(|dir| Some(dir.join("libvmod_powderhorn.so")).filter(|path| path.is_file()))
}

/// Where `powderhorn.vcl` is: `POWDERHORN_VCL_DIR`, or the source tree that this was built from.
pub fn find_vcl_dir() -> PathBuf {
    match std::env::var_os("POWDERHORN_VCL_DIR").filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vcl"),
    }
}

/// A new fleet key: 32 random bytes in hexadecimal.
fn new_key() -> io::Result<String> {
    let mut key = [0; 32];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut key)?;
    let mut text = String::new();
    for byte in key {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    Ok(text)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}
