//! Where a peer is: an address, or a name that is looked up again and again.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Longest host name, and longest part of one between dots (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Where a peer receives and sends from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerAddress {
    /// Always there.
    Fixed(SocketAddr),
    /// Wherever the name leads to.
    Name(HostName),
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        PeerAddress::Fixed(address)
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Fixed(address) => address.fmt(f),
            PeerAddress::Name(name) => name.fmt(f),
        }
    }
}

/// A host's name, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName {
    host: String,
    port: u16,
}

impl HostName {
    /// `None` if it is no host's name. Names that the C library takes for addresses in an ancient
    /// form ("127.1") are none.
    pub fn new(host: &str, port: u16) -> Option<HostName> {
        let labels = host.strip_suffix('.').unwrap_or(host);
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let fine =
            |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(letter);
        let last = labels.rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|byte| byte.is_ascii_digit())
            || last
                .get(..2)
                .is_some_and(|two| two.eq_ignore_ascii_case("0x"));
        if number || labels.len() > HOST_BYTES_MAX || !labels.split('.').all(fine) {
            return None;
        }
        Some(HostName {
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// `text` as "host:port".
    pub fn parse(text: &str) -> Option<HostName> {
        let (host, port) = text.rsplit_once(':')?;
        HostName::new(host, decimal(port)?)
    }

    /// The name.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A port's number; nothing but digits.
pub(crate) fn decimal(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// The address without what does not tell nodes apart: an IPv4 address that is written as IPv6 is
/// that IPv4 address, and flow labels and scopes are nobody's name.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether one node can have it.
pub(crate) fn of_one_node(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}

pub(crate) fn same_family(a: SocketAddr, b: SocketAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

pub(crate) fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_what_is_none() {
        for name in [
            "a:1024",
            "Cache-1.Example.org.:4277",
            "7up:4277",
            "_x.y:65535",
        ] {
            let parsed = HostName::parse(name).expect(name);
            assert_eq!(parsed.to_string(), name.to_ascii_lowercase());
        }
        let long = format!("{}:4277", "a".repeat(64));
        let longer = format!("{}a:4277", "ab.".repeat(90));
        for text in [
            "",
            ":4277",
            "a",
            "a:",
            "a:+80",
            "a:65536",
            "a..b:4277",
            ".a:4277",
            "127.1:4277",
            "a.0x7f:4277",
            "a b:4277",
            "ä:4277",
            "a:1:2",
            "[::1]:4277",
            ".:4277",
            &long,
            &longer,
        ] {
            assert_eq!(HostName::parse(text), None, "{text}");
        }
    }
}
