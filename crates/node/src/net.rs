//! The UDP sockets. A datagram that cannot be sent is a datagram lost: counted, and repaired by
//! anti-entropy as any other.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::sys;

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot receive on {address}: {source}")]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// A bound socket that no runtime drives yet.
#[derive(Debug)]
pub(crate) struct Bound {
    pub socket: std::net::UdpSocket,
    pub local: SocketAddr,
    pub receive_bytes: usize,
    pub send_bytes: usize,
}

/// Binds `address`, with buffers of `buffer_bytes` or as near as the system allows.
pub(crate) fn bind(address: SocketAddr, buffer_bytes: usize) -> Result<Bound, BindError> {
    let error = |source| BindError { address, source };
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )
    .map_err(error)?;
    if address.is_ipv6() {
        // IPv4 has a socket of its own: each address has one form then.
        socket.set_only_v6(true).map_err(error)?;
    }
    // The system may give less than was asked for, which the status shows; drops are counted.
    let _ = socket.set_recv_buffer_size(buffer_bytes);
    let _ = socket.set_send_buffer_size(buffer_bytes);
    socket.set_nonblocking(true).map_err(error)?;
    socket.bind(&address.into()).map_err(error)?;
    let (receive_bytes, send_bytes) = (
        socket.recv_buffer_size().unwrap_or(0),
        socket.send_buffer_size().unwrap_or(0),
    );
    let socket: std::net::UdpSocket = socket.into();
    let local = socket.local_addr().map_err(error)?;
    Ok(Bound {
        socket,
        local,
        receive_bytes,
        send_bytes,
    })
}

/// The sockets of a node, one for each address family at most.
pub(crate) struct Sockets {
    pub v4: Option<UdpSocket>,
    pub v6: Option<UdpSocket>,
}

impl Sockets {
    /// Hands bound sockets to the tokio runtime that the caller runs in.
    pub fn new(bound: Vec<std::net::UdpSocket>) -> io::Result<Sockets> {
        let mut sockets = Sockets { v4: None, v6: None };
        for socket in bound {
            let v4 = socket.local_addr()?.is_ipv4();
            let socket = UdpSocket::from_std(socket)?;
            *(if v4 { &mut sockets.v4 } else { &mut sockets.v6 }) = Some(socket);
        }
        Ok(sockets)
    }

    fn for_address(&self, to: SocketAddr) -> Option<&UdpSocket> {
        if to.is_ipv4() {
            self.v4.as_ref()
        } else {
            self.v6.as_ref()
        }
    }

    /// Sends without waiting.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let socket = self
            .for_address(to)
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        socket.try_send_to(datagram, to).map(drop)
    }

    /// Receives without waiting; `None` when nothing is there.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<io::Result<(usize, SocketAddr)>> {
        for socket in self.v4.iter().chain(&self.v6) {
            match socket.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok((len, from)) => return Some(Ok((len, crate::config::canonical(from)))),
                Err(error) => return Some(Err(error)),
            }
        }
        None
    }

    /// Returns when something can be received; never, without sockets.
    pub async fn readable(&self) {
        async fn one(socket: Option<&UdpSocket>) {
            match socket {
                // An error shows at the next receive.
                Some(socket) => drop(socket.readable().await),
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = one(self.v4.as_ref()) => {}
            () = one(self.v6.as_ref()) => {}
        }
    }

    /// Datagrams dropped by the kernel for want of buffer space.
    pub fn drops(&self) -> u64 {
        self.v4
            .iter()
            .chain(&self.v6)
            .filter_map(sys::socket_drops)
            .sum()
    }
}
