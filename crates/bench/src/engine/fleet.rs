//! Three varnishds on this machine, one of which gets the purges: how many each applies in a second.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use powderhorn_fleet::cleanup::WorkDir;
use powderhorn_fleet::http::Client as HttpClient;
use powderhorn_fleet::varnish::free_udp_port;

use super::{Bench, thousands};
use crate::load::{self, HOST, Shape};
use crate::report::{Better, Row};
use crate::servers::{Options, Server, Side};

const NODES: usize = 3;
/// Purges of one measurement.
const PURGES: u64 = 100_000;
/// Purges that one request issues in VCL.
const BATCH: u64 = 100;
/// How long the last of them may take to be applied everywhere.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long nodes may take to hear each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A fleet whose nodes gossip with each other over loopback.
pub struct Nodes {
    /// The varnishds. The purges go to the first.
    pub servers: Vec<Server>,
    _dir: WorkDir,
}

impl Nodes {
    /// Starts them and waits until a purge at the first is applied by all. `limits` is that part of
    /// their config.
    pub fn start(count: usize, limits: &str) -> Result<Nodes, Box<dyn Error>> {
        let dir = WorkDir::new("powderhorn-bench-fleet")?;
        let key = dir.path().join("fleet.key");
        write_key(&key)?;
        let ports: Vec<_> = (0..count)
            .map(|_| free_udp_port())
            .collect::<Result<_, _>>()?;
        let vcl = purge_many();
        let mut servers = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let config = dir.path().join(format!("node-{index}.toml"));
            let mut text = format!(
                "[node]\nname = \"node-{index}\"\nlisten = \"{}:{port}\"\n\n[fleet]\nkey_file = \"{}\"\n\
                 \n[journal]\ndir = \"{}\"\n",
                Ipv4Addr::LOCALHOST,
                key.display(),
                dir.path().join(format!("state-{index}")).display()
            );
            for (peer, port) in ports.iter().enumerate().filter(|(peer, _)| *peer != index) {
                text += &format!(
                    "\n[[peer]]\nname = \"node-{peer}\"\naddress = \"{}:{port}\"\n",
                    Ipv4Addr::LOCALHOST
                );
            }
            text += &format!("\n[limits]\n{limits}\n");
            std::fs::write(&config, text)?;
            let options = Options {
                params: vec![
                    // Room for the status and for the ids of a hundred purges.
                    ("workspace_client", "256k"),
                    // Each purge leaves varnishd an objhead, which it frees after this many seconds.
                    ("critbit_cooloff", "60"),
                ],
                vcl: vcl.clone(),
                config: Some(config),
            };
            servers.push(Server::start(Side::Powderhorn, &options)?);
        }
        let nodes = Nodes { servers, _dir: dir };
        let begin = Instant::now();
        loop {
            let before = nodes.applied()?;
            nodes.purge_one()?;
            std::thread::sleep(Duration::from_millis(50));
            let after = nodes.applied()?;
            if before
                .iter()
                .zip(&after)
                .all(|(before, after)| after > before)
            {
                return Ok(nodes);
            }
            if begin.elapsed() > CONNECT_TIMEOUT {
                return Err("the nodes do not hear each other".into());
            }
        }
    }

    fn purge_one(&self) -> Result<(), load::LoadError> {
        load::run(self.servers[0].addr(), Shape::ONE, 1, |_, out| {
            load::request(out, "PURGE", "/warm-up", &[]);
        })?;
        Ok(())
    }

    /// How many purges each node has applied.
    pub fn applied(&self) -> Result<Vec<u64>, Box<dyn Error>> {
        self.servers
            .iter()
            .map(|server| self.counter(server, "applied"))
            .collect()
    }

    /// A counter of a node's status.
    pub fn counter(&self, server: &Server, name: &str) -> Result<u64, Box<dyn Error>> {
        let mut client = HttpClient::new(server.addr(), HOST, Duration::from_secs(10));
        let status: serde_json::Value = serde_json::from_slice(&client.get("/.status")?.body)?;
        let value = status
            .get("counters")
            .and_then(|counters| counters.get(name));
        let value = value.and_then(serde_json::Value::as_u64);
        value.ok_or_else(|| format!("the status has no counter {name}").into())
    }

    /// Waits until every node has applied `count` more than `before`; when that was.
    pub fn wait_applied(&self, before: &[u64], count: u64) -> Result<Instant, Box<dyn Error>> {
        let begin = Instant::now();
        loop {
            let now = Instant::now();
            let applied = self.applied()?;
            if before
                .iter()
                .zip(&applied)
                .all(|(before, after)| after - before >= count)
            {
                return Ok(now);
            }
            if begin.elapsed() > TIMEOUT {
                return Err(format!("{count} purges, applied {applied:?} from {before:?}").into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Adds the rows.
pub fn run(bench: &mut Bench<'_>) -> Result<(), Box<dyn Error>> {
    let nodes = Nodes::start(NODES, "")?;
    let shape = Shape {
        connections: 8,
        depth: 16,
    };
    for batch in [1, BATCH] {
        for present in [false, true] {
            let mut rates = Vec::new();
            let mut lost = 0;
            for _ in 0..bench.arguments.runs {
                if present {
                    for server in &nodes.servers {
                        server.fill(PURGES, |n, url, _| *url = object(n))?;
                    }
                }
                let before = nodes.applied()?;
                let repaired = recovered(&nodes)?;
                let begin = Instant::now();
                load::run(nodes.servers[0].addr(), shape, PURGES / batch, |n, out| {
                    let path = if present { "/o" } else { "/absent" };
                    if batch == 1 {
                        let url = object(n).replacen("/o", path, 1);
                        load::request(out, "PURGE", &url, &[]);
                    } else {
                        load::request(out, "PURGEMANY", &format!("{path}/{n}"), &[]);
                    }
                })?;
                let done = nodes.wait_applied(&before, PURGES)?;
                rates.push(PURGES as f64 / (done - begin).as_secs_f64());
                lost += recovered(&nodes)? - repaired;
            }
            let how = if batch == 1 {
                "one a request".into()
            } else {
                format!("{batch} a request")
            };
            let state = if present { "present" } else { "absent" };
            bench.report.row(&Row {
                metric: format!("purges applied in each of {NODES} varnishds, {state}, {how}"),
                unit: "/s",
                better: Better::More,
                ours: rates,
                against: None,
            })?;
            bench.report.say(&format!(
                "  {} purges issued at one of them, until the last was applied by all; {lost} of {} \
                 deliveries were recovered by gossip",
                thousands(PURGES),
                thousands(PURGES * (NODES as u64 - 1) * bench.arguments.runs as u64)
            ))?;
        }
    }
    Ok(())
}

fn recovered(nodes: &Nodes) -> Result<u64, Box<dyn Error>> {
    let counts = nodes
        .servers
        .iter()
        .map(|server| nodes.counter(server, "recovered"));
    counts.sum()
}

/// URLs of which a batch has those with the same hundreds.
fn object(n: u64) -> String {
    format!("/o/{}-{}", n / BATCH, n % BATCH)
}

/// VCL that issues a batch of purges for one request, and shows the status.
fn purge_many() -> String {
    let mut vcl = String::from(
        "sub vcl_recv {\n    if (req.url == \"/.status\") {\n        return (synth(200, \"Status\"));\n    }\n\
         if (req.method == \"PURGEMANY\") {\n",
    );
    for n in 0..BATCH {
        vcl += &format!("        set req.http.x-id = powderhorn.purge(req.url + \"-{n}\");\n");
    }
    vcl += "        return (synth(200, \"Purged\"));\n    }\n}\n\
            sub vcl_synth {\n    if (req.url == \"/.status\") {\n\
            set resp.body = powderhorn.status(\"json\");\n        return (deliver);\n    }\n}\n";
    vcl
}

fn write_key(path: &Path) -> io::Result<()> {
    let mut key = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let text = key
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let path: PathBuf = path.into();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{text}")
}
