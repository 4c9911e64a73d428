//! The UDP sockets. A datagram that cannot be sent is a datagram lost: counted by its reason, and
//! repaired by anti-entropy as any other.

use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use rustix::net::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};

use crate::address::canonical;
use crate::counters::Counters;

/// Datagrams dropped at once: more than a receive buffer has, which is charged some 700 bytes for the smallest.
const DISCARD_MAX: usize = 1 << 17;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot receive on {address}: {source}")]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// A bound socket that never waits.
#[derive(Debug)]
pub(crate) struct Socket {
    udp: UdpSocket,
    pub local: SocketAddr,
    /// Size of the receive buffer, as the system counts.
    pub receive_bytes: usize,
    /// Size of the send buffer, as the system counts.
    pub send_bytes: usize,
}

impl Socket {
    /// Binds `address`, with buffers of `buffer_bytes` or as near as the system allows.
    pub fn bind(address: SocketAddr, buffer_bytes: usize) -> Result<Socket, BindError> {
        let bind = || {
            let domain = Domain::for_address(address);
            let socket = RawSocket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            if address.is_ipv6() {
                // IPv4 has a socket of its own: each address has one form then.
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            size_buffers(&socket, buffer_bytes);
            let receive_bytes = socket.recv_buffer_size()?;
            let send_bytes = socket.send_buffer_size()?;
            let udp = UdpSocket::from(socket);
            Ok(Socket {
                local: udp.local_addr()?,
                udp,
                receive_bytes,
                send_bytes,
            })
        };
        bind().map_err(|source| BindError { address, source })
    }

    /// The receiving side, for the tokio runtime that the caller runs in. Any thread may send
    /// meanwhile, without that runtime.
    pub fn receiver(&self) -> io::Result<Receiver> {
        let udp = tokio::net::UdpSocket::from_std(self.udp.try_clone()?)?;
        Ok(Receiver(udp))
    }

    /// Sends, or says why not.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        self.udp.send_to(datagram, to).map(drop)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }
}

/// See [`Socket::receiver`].
#[derive(Debug)]
pub(crate) struct Receiver(tokio::net::UdpSocket);

impl Receiver {
    /// The next datagram's length and sender; [`io::ErrorKind::WouldBlock`] if there is none. One
    /// that is longer than `buffer` is cut.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = self.0.try_recv_from(buffer)?;
        Ok((len, canonical(from)))
    }

    /// Drops what waits to be received; how many datagrams that was. Past tokio, which may not have heard of
    /// them yet.
    pub fn discard(&self) -> u64 {
        let socket = SockRef::from(&self.0);
        let mut count = 0;
        for _ in 0..DISCARD_MAX {
            match socket.recv(&mut [MaybeUninit::uninit()]) {
                Ok(_) => count += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An earlier datagram was refused where it went, for example.
                Err(_) => {}
            }
        }
        count
    }

    /// Whether there may be something to receive.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        // An error shows at the next receive.
        self.0.poll_recv_ready(context).map(drop)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Asks for buffers beyond the system's limit, which takes a right that the cache's process does
/// not have as a rule, and else for as much as the limit allows. What was granted is in the
/// status, and drops are counted, so getting less is no error.
fn size_buffers(socket: &RawSocket, bytes: usize) {
    if sockopt::set_socket_recv_buffer_size_force(socket, bytes).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, bytes).is_err() {
        let _ = socket.set_send_buffer_size(bytes);
    }
}

/// Whether `address` is one of this host's.
pub(crate) fn is_local(address: SocketAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
}

/// Counts a datagram that could not be sent.
pub(crate) fn count_send_error(counters: &Counters, error: &io::Error) {
    let counter = match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => &counters.net_send_full,
        Some(libc::EPERM | libc::EACCES) => &counters.net_send_forbidden,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN) => {
            &counters.net_send_unreachable
        }
        Some(libc::ECONNREFUSED) => &counters.net_send_refused,
        Some(libc::EMSGSIZE) => &counters.net_send_too_big,
        _ => &counters.net_send_errors,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

    fn bind(address: &str) -> Socket {
        Socket::bind(address.parse().expect("an address"), 1 << 20).expect("a socket")
    }

    #[test]
    fn both_families_can_have_the_same_port() {
        // Somebody else may have the port of the second family: then another pair is tried.
        let both = (0..20).any(|_| {
            let first = bind("[::]:0");
            let second = SocketAddr::from(([0, 0, 0, 0], first.local.port()));
            Socket::bind(second, 1 << 20).is_ok()
        });
        assert!(both);
    }

    #[test]
    fn what_the_kernel_drops_is_counted() {
        let (socket, sender) = (bind("127.0.0.1:0"), bind("127.0.0.1:0"));
        assert_eq!(sys::socket_drops(&socket), Some(0));
        for _ in 0..socket.receive_bytes / 1_200 + 100 {
            // A full send buffer is no matter here: what counts is what the receiver drops.
            let _ = sender.send(socket.local, &[0; 1_200]);
        }
        assert!(sys::socket_drops(&socket).is_some_and(|drops| drops > 0));
    }

    #[test]
    fn send_errors_are_told_apart() {
        let counters = Counters::default();
        let socket = bind("127.0.0.1:0");
        let error = socket.send(socket.local, &vec![0; 70_000]).unwrap_err();
        count_send_error(&counters, &error);
        let other_family = "[::1]:9".parse().unwrap();
        count_send_error(&counters, &socket.send(other_family, &[0]).unwrap_err());
        count_send_error(&counters, &io::Error::from_raw_os_error(libc::EPERM));
        count_send_error(&counters, &io::Error::from_raw_os_error(libc::ENETUNREACH));
        count_send_error(&counters, &io::Error::from_raw_os_error(libc::EAGAIN));
        let counts = [
            &counters.net_send_too_big,
            &counters.net_send_errors,
            &counters.net_send_forbidden,
            &counters.net_send_unreachable,
            &counters.net_send_full,
        ];
        assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [1; 5]);
    }

    #[test]
    fn this_hosts_addresses_are_known() {
        assert!(is_local("127.0.0.1:9".parse().unwrap()));
        assert!(!is_local("192.0.2.1:9".parse().unwrap()));
    }
}
