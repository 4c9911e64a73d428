//! The origin behind the fleet: every URL exists, and its content has a version.
//!
//! A cache that still serves version 1 after [`Origin::bump_all`] is stale, whoever says
//! otherwise; this is what the demo and the fleet tests look at. Responses may be cached for a
//! day, so that an object leaves a cache in a test only because it was purged. A POST gives its URL
//! new content, for people who try a fleet by hand. `/slow/<ms>/…` is answered that much later, with
//! the content of when it was asked for.

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::http::read_head;

/// A connection without a request for so long is closed.
const IDLE: Duration = Duration::from_secs(120);

/// A running origin server on loopback. Dropping it closes its connections and joins its threads.
#[derive(Debug)]
pub struct Origin {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    addr: SocketAddr,
    /// The version of every URL that has no own one.
    version: AtomicU64,
    state: Mutex<State>,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    versions: HashMap<String, u64>,
    requests: HashMap<String, u64>,
    connections: Vec<(TcpStream, JoinHandle<()>)>,
}

impl Shared {
    /// A thread that panicked has not left the maps half changed: they are only counted in.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn version_of(&self, state: &State, url: &str) -> u64 {
        let all = self.version.load(Ordering::SeqCst);
        state.versions.get(url).copied().unwrap_or(0).max(all)
    }

    fn bump(&self, url: &str) -> u64 {
        let mut state = self.state();
        let version = self.version_of(&state, url) + 1;
        state.versions.insert(url.to_owned(), version);
        version
    }
}

impl Origin {
    /// Starts an origin on a free port of 127.0.0.1. Every URL is at version 1.
    pub fn start() -> io::Result<Origin> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let shared = Arc::new(Shared {
            addr: listener.local_addr()?,
            version: AtomicU64::new(1),
            state: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let acceptor = std::thread::Builder::new().name("origin".into()).spawn({
            let shared = shared.clone();
            move || accept(&listener, &shared)
        })?;
        Ok(Origin {
            shared,
            acceptor: Some(acceptor),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// New content for every URL. Returns the version that they all have now.
    pub fn bump_all(&self) -> u64 {
        let mut state = self.shared.state();
        let highest = state.versions.values().copied().max().unwrap_or(0);
        state.versions.clear();
        let version = self.shared.version.load(Ordering::SeqCst).max(highest) + 1;
        self.shared.version.store(version, Ordering::SeqCst);
        version
    }

    /// New content for one URL. Returns its version.
    pub fn bump(&self, url: &str) -> u64 {
        self.shared.bump(url)
    }

    /// The current version of a URL.
    pub fn version(&self, url: &str) -> u64 {
        self.shared.version_of(&self.shared.state(), url)
    }

    /// How many requests for this URL have arrived.
    pub fn requests(&self, url: &str) -> u64 {
        self.shared.state().requests.get(url).copied().unwrap_or(0)
    }

    /// How many requests have arrived in all.
    pub fn requests_total(&self) -> u64 {
        self.shared.state().requests.values().sum()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The acceptor sits in accept(): a connection of our own wakes it.
        let woken = TcpStream::connect_timeout(&self.shared.addr, Duration::from_secs(1)).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken) {
            let _ = acceptor.join();
        }
        let connections = std::mem::take(&mut self.shared.state().connections);
        for (stream, _) in &connections {
            let _ = stream.shutdown(Shutdown::Both);
        }
        for (_, thread) in connections {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: the next connection that ends frees one.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let Ok(handle) = stream.try_clone() else {
            continue;
        };
        let thread = std::thread::Builder::new()
            .name("origin-conn".into())
            .spawn({
                let shared = shared.clone();
                move || {
                    // A cache that goes away in the middle of a request is nothing to report.
                    let _ = serve(stream, &shared);
                }
            });
        if let Ok(thread) = thread {
            let mut state = shared.state();
            state
                .connections
                .retain(|(_, thread)| !thread.is_finished());
            state.connections.push((handle, thread));
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(stream);
    while !shared.stop.load(Ordering::SeqCst) {
        let head = read_head(&mut reader)?;
        let mut lines = head.lines();
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, url) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let mut none_match = None;
        let mut close = false;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("if-none-match") {
                none_match = Some(value);
            } else if name.eq_ignore_ascii_case("connection") {
                close = value.eq_ignore_ascii_case("close");
            }
        }
        let mut version = {
            let mut state = shared.state();
            *state.requests.entry(url.to_owned()).or_default() += 1;
            shared.version_of(&state, url)
        };
        // The body of a POST, if any, is not read and would be taken for a request.
        close |= !matches!(method, "GET" | "HEAD");
        if method == "POST" {
            version = shared.bump(url);
        }
        // The content is that of the request's arrival, as a slow application's may be.
        if let Some(delay) = delay_of(url) {
            std::thread::sleep(delay);
        }
        let etag = format!("\"v{version}\"");
        let body = format!("version {version} of {url}\n");
        let (status, body) = match method {
            "GET" if none_match == Some(&etag) => ("304 Not Modified", None),
            "GET" | "HEAD" | "POST" => ("200 OK", Some(body)),
            _ => ("405 Method Not Allowed", Some(String::new())),
        };
        let mut out = format!(
            "HTTP/1.1 {status}\r\nCache-Control: public, max-age=86400\r\nETag: {etag}\r\n\
             X-Version: {version}\r\nContent-Type: text/plain\r\n"
        );
        if let Some(body) = &body {
            out.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        out.push_str(if close {
            "Connection: close\r\n\r\n"
        } else {
            "\r\n"
        });
        if let Some(body) = body.filter(|_| method != "HEAD") {
            out.push_str(&body);
        }
        reader.get_mut().write_all(out.as_bytes())?;
        if close {
            return Ok(());
        }
    }
    Ok(())
}

/// `/slow/<ms>/…` is answered so many milliseconds late, a minute at most.
fn delay_of(url: &str) -> Option<Duration> {
    let ms = url.strip_prefix("/slow/")?.split('/').next()?;
    let ms: u64 = ms.parse().ok()?;
    Some(Duration::from_millis(ms.min(60_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Client, Request};

    #[test]
    fn content_changes_with_its_version_and_requests_are_counted() {
        let origin = Origin::start().unwrap();
        let mut client = Client::new(origin.addr(), "demo.test", Duration::from_secs(5));
        let urls = ["/a", "/b", "/a"];
        let requests: Vec<_> = urls.iter().map(|url| Request::get(*url)).collect();
        let responses = client.pipeline(&requests).unwrap();
        assert_eq!(responses[0].text(), "version 1 of /a\n");
        assert_eq!(responses[1].header("x-version"), Some("1"));
        assert_eq!((origin.requests("/a"), origin.requests_total()), (2, 3));

        assert_eq!(origin.bump("/a"), 2);
        assert_eq!(client.get("/a").unwrap().header("etag"), Some("\"v2\""));
        assert_eq!(client.get("/b").unwrap().header("x-version"), Some("1"));
        assert_eq!(origin.bump_all(), 3);
        assert_eq!((origin.version("/a"), origin.version("/b")), (3, 3));

        let unchanged = Request::get("/b").with("If-None-Match", "\"v3\"");
        assert_eq!(client.send(&unchanged).unwrap().status, 304);
        let changed = Request::get("/b").with("If-None-Match", "\"v2\"");
        assert_eq!(client.send(&changed).unwrap().status, 200);
    }

    #[test]
    fn a_drop_ends_idle_connections_at_once() {
        let origin = Origin::start().unwrap();
        let mut client = Client::new(origin.addr(), "demo.test", Duration::from_secs(5));
        client.get("/").unwrap();
        let start = std::time::Instant::now();
        drop(origin);
        assert!(start.elapsed() < Duration::from_secs(5));
        assert!(client.get("/").is_err());
    }
}
