//! The HTTP client that all sides are measured with: one thread, any number of connections, each with
//! a fixed number of requests under way.
//!
//! It has to cost little beside the server, on a machine where both share two cores. So requests are
//! made as bytes, and of a response only the status and the length are read.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::event::{Timespec, epoll};

use crate::stats::Samples;

/// Without an answer for so long a run is given up.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Read from a connection at a time, in bytes.
const READ_BYTES: usize = 32 * 1024;
/// The `Host` of all requests.
pub const HOST: &str = "bench.test";

/// Why a run failed; the numbers of it are worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A socket failed, or nobody answered.
    #[error("{addr}: {source}")]
    Io {
        /// The server.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// What came is not what this client reads: a status and a Content-Length.
    #[error("{addr}: a response that this client cannot read: {head}")]
    Malformed {
        /// The server.
        addr: SocketAddr,
        /// Its beginning.
        head: String,
    },
    /// An answer with another status than 200.
    #[error("{addr}: status {status} instead of 200: {head}")]
    Status {
        /// The server.
        addr: SocketAddr,
        /// What it answered.
        status: u16,
        /// The response's headers.
        head: String,
    },
}

/// How to ask.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections, all kept open.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
}

impl Shape {
    /// One request at a time.
    pub const ONE: Shape = Shape {
        connections: 1,
        depth: 1,
    };
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// From the first request to the last response.
    pub elapsed: Duration,
    /// From the moment each request was written to its response.
    pub latencies: Samples,
}

impl Run {
    /// Responses per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// Appends a request to `out`.
pub fn request(out: &mut Vec<u8>, method: &str, url: &str, headers: &[(&str, &str)]) {
    for part in [method, " ", url, " HTTP/1.1\r\nHost: ", HOST, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers {
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Sends `count` requests; `make(n, out)` appends the n-th. Every answer must have the status 200.
pub fn run(
    addr: SocketAddr,
    shape: Shape,
    count: u64,
    make: impl FnMut(u64, &mut Vec<u8>),
) -> Result<Run, LoadError> {
    Client::connect(addr, shape.connections)?.run(shape.depth, count, make)
}

/// Open connections to one server.
pub struct Client {
    addr: SocketAddr,
    epoll: std::os::fd::OwnedFd,
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    input: Vec<u8>,
    /// When each request under way was written.
    under_way: VecDeque<Instant>,
    /// Of a body, bytes still to come.
    body_left: usize,
    wants_write: bool,
}

impl Client {
    /// Opens the connections.
    pub fn connect(addr: SocketAddr, connections: usize) -> Result<Client, LoadError> {
        let io = |source| LoadError::Io { addr, source };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| io(e.into()))?;
        let mut client = Client {
            addr,
            epoll,
            connections: Vec::new(),
        };
        for index in 0..connections {
            let stream = TcpStream::connect_timeout(&addr, TIMEOUT).map_err(io)?;
            stream.set_nodelay(true).map_err(io)?;
            stream.set_nonblocking(true).map_err(io)?;
            epoll::add(
                &client.epoll,
                stream.as_fd(),
                epoll::EventData::new_u64(index as u64),
                epoll::EventFlags::IN,
            )
            .map_err(|e| io(e.into()))?;
            client.connections.push(Connection {
                stream,
                out: Vec::new(),
                written: 0,
                input: Vec::new(),
                under_way: VecDeque::new(),
                body_left: 0,
                wants_write: false,
            });
        }
        Ok(client)
    }

    /// Sends `count` requests as [`run`] does, on connections that are open already.
    pub fn run(
        &mut self,
        depth: usize,
        count: u64,
        make: impl FnMut(u64, &mut Vec<u8>),
    ) -> Result<Run, LoadError> {
        self.run_while(depth, |made| made < count, make)
    }

    /// The same for as long as `more`, which is told how many requests were made, says so.
    pub fn run_while(
        &mut self,
        depth: usize,
        mut more: impl FnMut(u64) -> bool,
        mut make: impl FnMut(u64, &mut Vec<u8>),
    ) -> Result<Run, LoadError> {
        let addr = self.addr;
        let io = |source| LoadError::Io { addr, source };
        let mut made = 0;
        let mut next = |out: &mut Vec<u8>| {
            let go = more(made);
            if go {
                make(made, out);
                made += 1;
            }
            go
        };
        let mut run = Run::default();
        let begin = Instant::now();
        for index in 0..self.connections.len() {
            self.top_up(index, depth, &mut next).map_err(io)?;
        }
        let mut events = Vec::with_capacity(self.connections.len().max(1));
        let timeout = Timespec {
            tv_sec: TIMEOUT.as_secs() as i64,
            tv_nsec: 0,
        };
        while self.connections.iter().any(Connection::is_busy) {
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, Some(&timeout)) {
                Ok(0) => return Err(io(io::ErrorKind::TimedOut.into())),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(io(errno.into())),
            }
            for event in &events {
                let index = event.data.u64() as usize;
                self.take(index, &mut run.latencies)?;
                self.top_up(index, depth, &mut next).map_err(io)?;
            }
        }
        run.elapsed = begin.elapsed();
        Ok(run)
    }

    /// Sends one request and waits for its response.
    pub fn one(&mut self, make: impl FnOnce(&mut Vec<u8>)) -> Result<Duration, LoadError> {
        let mut make = Some(make);
        let run = self.run(1, 1, |_, out| {
            if let Some(make) = make.take() {
                make(out);
            }
        })?;
        Ok(run.elapsed)
    }

    /// Writes as many requests as are to be under way.
    fn top_up(
        &mut self,
        index: usize,
        depth: usize,
        next: &mut impl FnMut(&mut Vec<u8>) -> bool,
    ) -> io::Result<()> {
        let connection = &mut self.connections[index];
        // A whole pipeline at a time: single requests would cost the server a read each.
        let before = connection.under_way.len();
        if before <= depth / 2 {
            let fresh = (before..depth).take_while(|_| next(&mut connection.out));
            let (fresh, now) = (fresh.count(), Instant::now());
            connection.under_way.extend(std::iter::repeat_n(now, fresh));
        }
        while connection.written < connection.out.len() {
            match connection
                .stream
                .write(&connection.out[connection.written..])
            {
                Ok(n) => connection.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let done = connection.written == connection.out.len();
        if done {
            connection.out.clear();
            connection.written = 0;
        }
        if connection.wants_write == done {
            connection.wants_write = !done;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, !done);
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, connection.stream.as_fd(), data, flags)?;
        }
        Ok(())
    }

    /// Reads what has come.
    fn take(&mut self, index: usize, latencies: &mut Samples) -> Result<(), LoadError> {
        let addr = self.addr;
        let connection = &mut self.connections[index];
        let mut buffer = [0; READ_BYTES];
        loop {
            match connection.stream.read(&mut buffer) {
                Ok(0) => {
                    let source = io::ErrorKind::UnexpectedEof.into();
                    return Err(LoadError::Io { addr, source });
                }
                Ok(n) => {
                    connection.input.extend_from_slice(&buffer[..n]);
                    connection.consume(addr, latencies)?;
                    if n < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LoadError::Io { addr, source }),
            }
        }
    }
}

impl Connection {
    fn is_busy(&self) -> bool {
        !self.under_way.is_empty() || self.body_left > 0
    }

    fn consume(&mut self, addr: SocketAddr, latencies: &mut Samples) -> Result<(), LoadError> {
        let now = Instant::now();
        let mut at = 0;
        loop {
            let body = self.body_left.min(self.input.len() - at);
            at += body;
            self.body_left -= body;
            if self.body_left > 0 {
                break;
            }
            let rest = &self.input[at..];
            let Some(end) = memmem::find(rest, b"\r\n\r\n") else {
                break;
            };
            let head = &rest[..end];
            let text = || String::from_utf8_lossy(head).into_owned();
            let (status, length) =
                parse(head).ok_or_else(|| LoadError::Malformed { addr, head: text() })?;
            if status != 200 {
                return Err(LoadError::Status {
                    addr,
                    status,
                    head: text(),
                });
            }
            at += end + 4;
            self.body_left = length;
            if let Some(sent) = self.under_way.pop_front() {
                latencies.push(now - sent);
            }
        }
        self.input.drain(..at);
        Ok(())
    }
}

/// Status and Content-Length of a response's headers.
fn parse(head: &[u8]) -> Option<(u16, usize)> {
    let status = std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()?;
    const NAME: &[u8] = b"\ncontent-length:";
    let length = memchr::memchr_iter(b'\n', head).find_map(|at| {
        let line = head.get(at..)?;
        let (name, value) = line.split_at_checked(NAME.len())?;
        let value = value.split(|&b| b == b'\r').next()?;
        name.eq_ignore_ascii_case(NAME).then_some(value)
    })?;
    let length = std::str::from_utf8(length).ok()?.trim().parse().ok()?;
    Some((status, length))
}

/// A paced client: one request each `interval`, one at a time, until `stop`.
///
/// A response that is late makes the requests that were due meanwhile late, too, and their latency
/// counts from when they were due: otherwise a stall of any length would be one sample.
pub fn paced(
    addr: SocketAddr,
    interval: Duration,
    stop: &AtomicBool,
    mut make: impl FnMut(u64, &mut Vec<u8>),
) -> Result<Vec<(Instant, Duration)>, LoadError> {
    let mut client = Client::connect(addr, 1)?;
    let mut samples = Vec::new();
    let begin = Instant::now();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut due = begin + interval * n;
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
            // That the timer oversleeps is not the server's fault.
            due = Instant::now();
        }
        client.one(|out| make(u64::from(n), out))?;
        samples.push((due, due.elapsed()));
    }
    Ok(samples)
}
