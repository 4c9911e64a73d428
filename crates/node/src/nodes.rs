//! The nodes file: the list of nodes that Varnish's own discovery tools write, as a file of
//! sections and entries.
//!
//! ```text
//! # a comment
//! [fra]
//! cache-fra-07 = 192.0.2.7:6081
//! cache-fra-08 = https://[2001:db8::8]
//!
//! [lon]
//! cache-lon-01 = cache-lon-01.example.org
//! ```
//!
//! A section is a site, an entry a node: its name, and its IPv4 address, its IPv6 address or its host
//! name. What the entry says of HTTP, its scheme and its port, is not about gossip and does not count:
//! the port is `fleet.nodes_port`. Entries without any section are nodes without a site; where there
//! is a section, each entry is in one. A node that is listed twice is one node, at its first place.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use powderhorn_protocol::bounds::NAME_BYTES_MAX;

use crate::address::{HostName, PeerAddress, decimal, of_one_node};
use crate::config::{PEERS_MAX, PeerConfig};

/// Largest nodes file: room for the most peers with the longest lines.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// Why a nodes file is not used. The peers that it named before stay.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file as a whole is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A line is neither a section, an entry nor a comment.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads a nodes file. `port` is that of all nodes' gossip.
pub(crate) fn load(path: &Path, port: u16) -> Result<Vec<PeerConfig>, NodesError> {
    let failed = |source| NodesError::Read {
        path: path.into(),
        source,
    };
    let unfit = |problem| NodesError::File {
        path: path.into(),
        problem,
    };
    // A pipe would make the runtime's thread wait for its writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(unfit("is not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let mut limited = file.take(FILE_BYTES_MAX + 1);
    limited.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unfit("is larger than 2 MiB"));
    }
    parse(path, &text, port)
}

/// Takes the nodes out of `text`; errors name `path`.
pub(crate) fn parse(path: &Path, text: &str, port: u16) -> Result<Vec<PeerConfig>, NodesError> {
    let mut nodes: Vec<PeerConfig> = Vec::new();
    let mut site: Option<&str> = None;
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for (index, line) in text.lines().enumerate() {
        let error = |problem| NodesError::Line {
            path: path.into(),
            line: index + 1,
            problem,
        };
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        if let Some(rest) = content.strip_prefix('[') {
            let section = rest.strip_suffix(']').map(str::trim).unwrap_or_default();
            if !visible(section) {
                return Err(error(format!(
                    "a section is [name], the name 1 to {NAME_BYTES_MAX} visible ASCII characters \
                     without spaces, not {content:?}"
                )));
            }
            if site.is_none() && !nodes.is_empty() {
                return Err(error("there are entries above the first section".into()));
            }
            site = Some(section);
            continue;
        }
        let Some((name, value)) = content.split_once('=') else {
            return Err(error(format!(
                "must be name = address, a [section] or a # comment, not {content:?}"
            )));
        };
        let (name, value) = (name.trim(), value.trim());
        if !visible(name) {
            return Err(error(format!(
                "a node's name must be 1 to {NAME_BYTES_MAX} visible ASCII characters without \
                 spaces, not {name:?}"
            )));
        }
        let Some(address) = address(value, port) else {
            return Err(error(format!(
                "{name}: must be an IP address or a host name, with a port or without, not \
                 {value:?}"
            )));
        };
        if !names.insert((site, name)) {
            return Err(error(format!("{name}: twice in its section")));
        }
        if !addresses.insert(address.clone()) {
            continue;
        }
        if nodes.len() == PEERS_MAX {
            return Err(error(format!("too many nodes: at most {PEERS_MAX}")));
        }
        nodes.push(PeerConfig {
            name: name.into(),
            site: site.unwrap_or_default().into(),
            address,
        });
    }
    if nodes.is_empty() {
        // Whoever writes it may have begun to. A fleet without any node has no use for it.
        let problem = "names no node";
        return Err(NodesError::File {
            path: path.into(),
            problem,
        });
    }
    Ok(nodes)
}

fn visible(text: &str) -> bool {
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len());
    fits && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What an entry says of where the node is, with the port of gossip in the place of its own.
fn address(value: &str, port: u16) -> Option<PeerAddress> {
    let scheme = |name: &str| value.strip_prefix(name);
    let rest = scheme("http://").or_else(|| scheme("https://"));
    let rest = rest.map_or(value, |rest| rest.strip_suffix('/').unwrap_or(rest));
    let (host, own_port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (ip, after) = rest.split_once(']')?;
            let own_port = match after {
                "" => None,
                after => Some(after.strip_prefix(':')?),
            };
            (ip.parse::<Ipv6Addr>().ok()?.to_string(), own_port)
        }
        None => match rest.parse::<Ipv6Addr>() {
            Ok(ip) => (ip.to_string(), None),
            Err(_) => match rest.split_once(':') {
                Some((host, own_port)) => (host.to_owned(), Some(own_port)),
                None => (rest.to_owned(), None),
            },
        },
    };
    if let Some(own_port) = own_port {
        decimal(own_port).filter(|&own_port| own_port > 0)?;
    }
    match host.parse::<IpAddr>() {
        Ok(ip) if of_one_node(ip) => Some(SocketAddr::new(ip.to_canonical(), port).into()),
        Ok(_) => None,
        Err(_) => HostName::new(&host, port).map(PeerAddress::Name),
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let nodes = parse(Path::new("nodes.conf"), text, 4277);
        let show = |node: PeerConfig| format!("{}/{} {}", node.site, node.name, node.address);
        let show = |nodes: Vec<PeerConfig>| nodes.into_iter().map(show).collect();
        nodes.map(show).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_documented_is_read() {
        let text = "# this is a comment\n\n[Europe]\nFirst = 192.0.2.4:9090\r\n\
                    Second=https://192.0.2.9:6081/ # near\nThird = Example.com\n\n\
                    [ US ]\n\tAlpha = http://[2001:db8::2]\nBeta = [2001:db8::3]:80\n\
                    First = www.example.com:8080\nGamma = 2001:db8::4\nDelta = ::ffff:192.0.2.8\n\
                    Again = 192.0.2.4:80";
        let expected = [
            "Europe/First 192.0.2.4:4277",
            "Europe/Second 192.0.2.9:4277",
            "Europe/Third example.com:4277",
            "US/Alpha [2001:db8::2]:4277",
            "US/Beta [2001:db8::3]:4277",
            "US/First www.example.com:4277",
            "US/Gamma [2001:db8::4]:4277",
            "US/Delta 192.0.2.8:4277",
        ];
        assert_eq!(read(text).unwrap(), expected);
        assert_eq!(read("a = 192.0.2.4").unwrap(), ["/a 192.0.2.4:4277"]);
    }

    #[test]
    fn what_is_not_is_refused_with_file_and_line() {
        for (text, expected) in [
            ("", ": names no node"),
            ("# a = 192.0.2.1\n[x]\n", ": names no node"),
            ("[x]\n192.0.2.1\n", ":2: must be name = address"),
            ("[x\na = 192.0.2.1", ":1: a section is [name]"),
            ("[]\na = 192.0.2.1", ":1: a section is [name]"),
            ("[a b]\na = 192.0.2.1", ":1: a section is [name]"),
            ("[a] b\na = 192.0.2.1", ":1: a section is [name]"),
            ("a = 192.0.2.1\n\n[x]\n", ":3: there are entries above"),
            ("\na b = 192.0.2.1", ":2: a node's name must be"),
            ("= 192.0.2.1", ":1: a node's name must be"),
            ("a =", ":1: a: must be an IP address or a host name"),
            ("a = 192.0.2.1:", ":1: a: must be an IP"),
            ("a = 192.0.2.1:0", ":1: a: must be an IP"),
            ("a = 192.0.2.1:http", ":1: a: must be an IP"),
            ("a = 192.0.2.1:80:80", ":1: a: must be an IP"),
            ("a = 192.0.2.256", ":1: a: must be an IP"),
            ("a = 0.0.0.0", ":1: a: must be an IP"),
            ("a = [192.0.2.1]", ":1: a: must be an IP"),
            ("a = [::1]80", ":1: a: must be an IP"),
            ("a = [ff02::1]", ":1: a: must be an IP"),
            ("a = ftp://192.0.2.1", ":1: a: must be an IP"),
            ("a = http://192.0.2.1/x", ":1: a: must be an IP"),
            ("a = \"192.0.2.1\"", ":1: a: must be an IP"),
            ("a = 192.0.2.1, 192.0.2.2", ":1: a: must be an IP"),
            (
                "[x]\na = 192.0.2.1\na = 192.0.2.2",
                ":3: a: twice in its section",
            ),
        ] {
            let error = read(text).expect_err(text);
            assert!(
                error.starts_with(&format!("nodes.conf{expected}")),
                "{text:?}\n{error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
        let many = |count: usize| -> String {
            let line = |n: usize| format!("n{n} = 10.0.{}.{}\n", n / 256, n % 256);
            (0..count).map(line).collect()
        };
        assert_eq!(read(&many(PEERS_MAX)).unwrap().len(), PEERS_MAX);
        let error = read(&many(PEERS_MAX + 1)).unwrap_err();
        assert_eq!(error, "nodes.conf:4097: too many nodes: at most 4096");
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = StdRng::seed_from_u64(17);
        let pieces = [
            "[",
            "]",
            "=",
            ":",
            "#",
            "\n",
            " ",
            "http://",
            "/",
            "a",
            "::1",
            "192.0.2.1",
            "[x]\n",
            "a = ",
            "ß",
            "\0",
            "\r",
            "0",
            "65536",
            ".",
        ];
        let mut read_some = 0;
        for _ in 0..20_000 {
            let count = rng.random_range(0..12);
            let text: String = (0..count)
                .map(|_| pieces[rng.random_range(0..pieces.len())])
                .collect();
            read_some += usize::from(read(&text).is_ok());
            let bytes: Vec<u8> = (0..rng.random_range(0..64)).map(|_| rng.random()).collect();
            let _ = read(&String::from_utf8_lossy(&bytes));
        }
        assert!(read_some > 10, "{read_some}");
    }

    #[test]
    fn a_file_that_is_none_is_not_waited_for() {
        let error = load(Path::new("/dev/zero"), 4277).unwrap_err().to_string();
        assert_eq!(error, "/dev/zero: is not a regular file");
        let error = load(Path::new("/none/nodes.conf"), 4277)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("/none/nodes.conf: No such file"),
            "{error}"
        );
    }
}
