//! A small blocking HTTP/1.1 client for loopback: keep-alive, pipelining, deadlines.
//!
//! Tests and the demo poll varnishds in tight loops, and fill five caches with 10,000 objects each
//! in seconds. Both need a connection that stays open and a way to have many requests under way
//! on it; nothing else of HTTP matters here.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest header block that is read, in bytes; varnishd's own limit is 32 KiB by default.
const HEAD_BYTES_MAX: u64 = 64 * 1024;
/// Largest body that is read, in bytes: a wrong Content-Length must not eat the memory.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A request that has no body.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `PURGE`, ….
    pub method: &'static str,
    /// Path and query.
    pub url: String,
    /// Further headers; `Host` comes from the [`Client`].
    pub headers: Vec<(&'static str, String)>,
}

impl Request {
    /// A GET of `url` without further headers.
    pub fn get(url: impl Into<String>) -> Self {
        Request {
            method: "GET",
            url: url.into(),
            headers: Vec::new(),
        }
    }

    /// A PURGE of `url` without further headers.
    pub fn purge(url: impl Into<String>) -> Self {
        Request {
            method: "PURGE",
            url: url.into(),
            headers: Vec::new(),
        }
    }

    /// The same request with one more header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A response, read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status code, e.g. 200.
    pub status: u16,
    /// Names as received, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body without transfer coding.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name, in whatever case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What went wrong with a request. The connection is closed in every case; the next request opens
/// another one.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Connecting, writing or reading failed, or took longer than the client's timeout.
    #[error("{addr}: {source}")]
    Io {
        /// Whom the client talks to.
        addr: SocketAddr,
        /// What the socket said.
        source: io::Error,
    },
    /// What came back is not HTTP/1.1 as this client reads it.
    #[error("{addr}: malformed response: {what}")]
    Malformed {
        /// Whom the client talks to.
        addr: SocketAddr,
        /// Which part of it.
        what: &'static str,
    },
}

/// One connection to one server, opened when it is first needed and again after an error.
#[derive(Debug)]
pub struct Client {
    addr: SocketAddr,
    host: String,
    timeout: Duration,
    stream: Option<BufReader<Connection>>,
    last_read: Option<Instant>,
}

/// A connection that knows when the last bytes came.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    last_read: Option<Instant>,
}

impl Read for Connection {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(out);
        self.last_read = Some(Instant::now());
        read
    }
}

impl Client {
    /// A client of `addr` that sends `host` as its `Host` header. `timeout` bounds the connect and
    /// each single read and write.
    pub fn new(addr: SocketAddr, host: impl Into<String>, timeout: Duration) -> Self {
        Client {
            addr,
            host: host.into(),
            timeout,
            stream: None,
            last_read: None,
        }
    }

    /// When the last byte of the last response was there.
    pub fn last_read(&self) -> Option<Instant> {
        self.last_read
    }

    /// Sends one request and reads its response.
    pub fn send(&mut self, request: &Request) -> Result<Response, HttpError> {
        let mut responses = self.pipeline(std::slice::from_ref(request))?;
        responses.pop().ok_or(HttpError::Malformed {
            addr: self.addr,
            what: "no response",
        })
    }

    /// Sends a GET of `url`.
    pub fn get(&mut self, url: &str) -> Result<Response, HttpError> {
        self.send(&Request::get(url))
    }

    /// Sends all of `requests` at once and reads the responses in order. Keep a batch well below
    /// a socket buffer (some hundred requests): nothing is read while it is written.
    ///
    /// A connection that had been idle and turns out to be closed is replaced, and the batch sent
    /// again, once.
    pub fn pipeline(&mut self, requests: &[Request]) -> Result<Vec<Response>, HttpError> {
        let (responses, result) = self.pipeline_until_error(requests);
        result.map(|()| responses)
    }

    /// The same, with the answers that came before an error.
    pub fn pipeline_until_error(
        &mut self,
        requests: &[Request],
    ) -> (Vec<Response>, Result<(), HttpError>) {
        let reused = self.stream.is_some();
        let mut out = Vec::with_capacity(requests.len() * 128);
        for request in requests {
            out.extend_from_slice(request.method.as_bytes());
            out.push(b' ');
            out.extend_from_slice(request.url.as_bytes());
            out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
            out.extend_from_slice(self.host.as_bytes());
            for (name, value) in &request.headers {
                out.extend_from_slice(format!("\r\n{name}: {value}").as_bytes());
            }
            out.extend_from_slice(b"\r\n\r\n");
        }
        let mut responses = Vec::with_capacity(requests.len());
        let mut result = self.exchange(&out, requests, &mut responses);
        if result.is_err() && reused && responses.is_empty() {
            self.stream = None;
            result = self.exchange(&out, requests, &mut responses);
        }
        if result.is_err() {
            self.stream = None;
        }
        (responses, result)
    }

    fn exchange(
        &mut self,
        out: &[u8],
        requests: &[Request],
        responses: &mut Vec<Response>,
    ) -> Result<(), HttpError> {
        let addr = self.addr;
        let io = |source| HttpError::Io { addr, source };
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&addr, self.timeout).map_err(io)?;
            stream.set_nodelay(true).map_err(io)?;
            stream.set_read_timeout(Some(self.timeout)).map_err(io)?;
            stream.set_write_timeout(Some(self.timeout)).map_err(io)?;
            let last_read = None;
            let connection = Connection { stream, last_read };
            self.stream = Some(BufReader::with_capacity(16 * 1024, connection));
        }
        let Some(reader) = self.stream.as_mut() else {
            return Err(HttpError::Malformed {
                addr,
                what: "no connection",
            });
        };
        reader.get_mut().stream.write_all(out).map_err(io)?;
        for request in requests {
            let (response, stays_open) =
                read_response(reader, request.method == "HEAD").map_err(|error| match error {
                    ReadError::Io(source) => HttpError::Io { addr, source },
                    ReadError::Malformed(what) => HttpError::Malformed { addr, what },
                })?;
            self.last_read = reader.get_ref().last_read;
            responses.push(response);
            if !stays_open {
                self.stream = None;
                break;
            }
        }
        if responses.len() < requests.len() {
            return Err(HttpError::Malformed {
                addr,
                what: "closed in the middle of a pipeline",
            });
        }
        Ok(())
    }
}

enum ReadError {
    Io(io::Error),
    Malformed(&'static str),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Io(error)
    }
}

/// Reads one response; the flag says whether the connection stays open after it.
fn read_response(
    reader: &mut impl BufRead,
    head_only: bool,
) -> Result<(Response, bool), ReadError> {
    let head = read_head(reader)?;
    let mut lines = head.lines();
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| digits.parse().ok())
        .ok_or(ReadError::Malformed("status line"))?;
    let mut response = Response {
        status,
        ..Response::default()
    };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(ReadError::Malformed("header"))?;
        response
            .headers
            .push((name.to_owned(), value.trim().to_owned()));
    }
    let mut stays_open = !response
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    if head_only || matches!(status, 100..=199 | 204 | 304) {
        return Ok((response, stays_open));
    }
    let chunked = response
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    if chunked {
        loop {
            let line = read_line(reader)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size =
                u64::from_str_radix(size, 16).map_err(|_| ReadError::Malformed("chunk size"))?;
            if size == 0 {
                while !read_line(reader)?.is_empty() {}
                break;
            }
            read_body(reader, size, &mut response.body)?;
            if !read_line(reader)?.is_empty() {
                return Err(ReadError::Malformed("chunk end"));
            }
        }
    } else if let Some(length) = response.header("content-length") {
        let length = length
            .parse()
            .map_err(|_| ReadError::Malformed("Content-Length"))?;
        read_body(reader, length, &mut response.body)?;
    } else {
        stays_open = false;
        reader
            .take(BODY_BYTES_MAX)
            .read_to_end(&mut response.body)?;
    }
    Ok((response, stays_open))
}

/// Reads up to and including the empty line that ends a header block.
pub(crate) fn read_head(reader: &mut impl BufRead) -> Result<String, io::Error> {
    let mut head = Vec::new();
    let mut limited = reader.take(HEAD_BYTES_MAX);
    loop {
        let before = head.len();
        if limited.read_until(b'\n', &mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = head.get(before..).unwrap_or_default();
        if line == b"\r\n" || line == b"\n" {
            head.truncate(before);
            return String::from_utf8(head).map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
}

fn read_line(reader: &mut impl BufRead) -> Result<String, io::Error> {
    let mut line = String::new();
    if reader.take(HEAD_BYTES_MAX).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn read_body(reader: &mut impl BufRead, length: u64, body: &mut Vec<u8>) -> Result<(), ReadError> {
    if length + body.len() as u64 > BODY_BYTES_MAX {
        return Err(ReadError::Malformed("body too large"));
    }
    if reader.take(length).read_to_end(body)? as u64 != length {
        return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}
