//! A server for misses whose way through varnishd's whole fetch is to be measured: it answers each
//! request with the same few bytes, at once.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
    Cache-Control: max-age=86400\r\nContent-Length: 7\r\n\r\ncontent";

/// Starts it on a free port of 127.0.0.1, for the life of this process.
pub fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    std::thread::Builder::new()
        .name("origin".into())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection that fails, or finds no thread, is varnishd's to replace.
                let _ = std::thread::Builder::new().spawn(move || serve(stream));
            }
        })?;
    Ok(addr)
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line == b"\r\n" {
            writer.write_all(RESPONSE)?;
        }
        line.clear();
    }
    Ok(())
}
