//! The server at the workstation's end: what it does with a connection is told
//! by the connection's first byte. What it counts is asked over a Unix socket,
//! past the path that is measured.

mod control;

pub(crate) use control::{Control, Count, counters};

use anyhow::{Context as _, Result};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The first byte of a connection.
pub(crate) mod verb {
    /// Answer one byte and close.
    pub(crate) const ANSWER: u8 = b'A';
    /// Send back every message of [`super::MESSAGE`] bytes, from a thread of
    /// its own, so that nothing else in this process delays it.
    pub(crate) const PING: u8 = b'P';
    /// An id follows, 8 bytes: read to the end and count.
    pub(crate) const SINK: u8 = b'S';
    /// Write until the connection ends.
    pub(crate) const SOURCE: u8 = b'G';
    /// Answer one byte, keep the connection until it is closed.
    pub(crate) const HOLD: u8 = b'I';
    /// Answer one byte, keep the connection although the peer finished.
    pub(crate) const HALF: u8 = b'H';
    /// Read nothing more.
    pub(crate) const UNREAD: u8 = b'U';
}

/// Length of the messages of [`verb::PING`], in bytes.
pub(crate) const MESSAGE: usize = 64;

/// Size of reads and writes of bulk, in bytes: large enough that this program
/// is not what is measured.
pub(crate) const BLOCK: usize = 256 * 1024;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// What connections share.
#[derive(Debug)]
struct Shared {
    counters: Arc<control::Counters>,
    /// Changes when kept connections are to go.
    drop: watch::Receiver<u64>,
}

/// Serves until it is killed.
///
/// # Errors
/// An address or a path is taken.
pub(crate) async fn serve(listen: SocketAddr, control: &std::path::Path) -> Result<()> {
    let listener = listen_on(listen)?;
    let (counters, drop) = control::serve(control)?;
    let shared = Arc::new(Shared { counters, drop });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: the generator reports what fails.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        // What one connection meets is reported by the generator at its end.
        tokio::spawn(async move { connection(stream, &shared).await.ok() });
    }
}

/// A listener with room for bursts.
///
/// # Errors
/// The address is taken.
pub(crate) fn listen_on(address: SocketAddr) -> Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&address.into())
        .and_then(|()| socket.listen(BACKLOG))
        .with_context(|| format!("cannot listen on {address}"))?;
    Ok(TcpListener::from_std(socket.into())?)
}

async fn connection(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    match stream.read_u8().await? {
        verb::ANSWER => stream.write_u8(verb::ANSWER).await?,
        verb::PING => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            std::thread::spawn(move || ping(stream));
        }
        verb::SINK => {
            let id = stream.read_u64().await?;
            let counter = shared.counters.of(id);
            let mut block = vec![0; BLOCK];
            loop {
                match stream.read(&mut block).await? {
                    0 => break,
                    n => counter.fetch_add(n as u64, Relaxed),
                };
            }
        }
        verb::SOURCE => {
            let block = vec![0x5a; BLOCK];
            loop {
                stream.write_all(&block).await?;
            }
        }
        verb::HOLD => {
            stream.write_u8(verb::HOLD).await?;
            stream.read_u8().await?;
        }
        verb::HALF => {
            stream.write_u8(verb::HALF).await?;
            keep(shared).await;
        }
        verb::UNREAD => keep(shared).await,
        _unknown => {}
    }
    Ok(())
}

/// Until the generator says that kept connections may go.
async fn keep(shared: &Shared) {
    let mut drop = shared.drop.clone();
    drop.mark_unchanged();
    let _ = drop.changed().await;
}

fn ping(mut stream: std::net::TcpStream) {
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).is_ok() {
        if stream.write_all(&message).is_err() {
            return;
        }
    }
}
