//! The small HTTP server outside: what a developer would run on a laptop.

use anyhow::{Context as _, Result};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// A request longer than this is not one of the demo's.
const MAX_REQUEST: usize = 8 * 1024;
/// How long one client may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the server on a free port of 127.0.0.1 and serves `body` to
/// everyone, one connection after the other, until the process ends.
///
/// # Errors
/// No free port.
pub(crate) fn start(body: String) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .context("the demo's HTTP server found no free port on 127.0.0.1")?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A client that went away is its own affair.
            let _ = answer(client, &body);
        }
    });
    Ok(addr)
}

fn answer(mut client: TcpStream, body: &str) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    client.set_nodelay(true)?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let read = client.read(&mut buffer)?;
        if read == 0 || request.len() + read > MAX_REQUEST {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..read]);
    }
    let length = body.len();
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    client.write_all(response.as_bytes())
}
