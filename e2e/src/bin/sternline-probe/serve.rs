//! A server that outlives its connections.

use crate::{Args, Outcome, report};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use sternline_e2e::report::Listening;

/// Sends back whatever comes until its peer finishes, on a thread a connection.
pub(crate) fn echo(args: &Args) -> Outcome {
    let address: SocketAddr = args.need("address")?;
    args.done()?;
    let listener = TcpListener::bind(address)?;
    report(&Listening {
        listening: listener.local_addr()?,
        pid: std::process::id(),
    })?;
    for connection in listener.incoming() {
        let connection = connection?;
        // A peer that goes away is no failure of the server.
        std::thread::spawn(move || give_back(connection).ok());
    }
    Ok(())
}

fn give_back(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = connection.read(&mut buf)?;
        if n == 0 {
            return Ok(());
        }
        connection.write_all(&buf[..n])?;
    }
}
