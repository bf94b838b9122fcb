//! Servers on the workstation that behave well or badly, and tell what they
//! saw.

use super::check::until;
use anyhow::Result;
use sha2::{Digest as _, Sha256};
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sternline_e2e::pattern;
use sternline_e2e::report::End;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// More than any story opens at once: a target is never what turns a
/// connection away.
const BACKLOG: u32 = 4096;

/// What a target does with each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Send everything back.
    Echo,
    /// Read to the end; only then send this many bytes of the pattern of this
    /// seed.
    AnswerAtTheEnd { seed: u64, bytes: u64 },
    /// Send this many bytes of the pattern of this seed, finish, and go on
    /// reading.
    FinishFirst { seed: u64, bytes: u64 },
    /// Close at once.
    Close,
    /// Send everything back once, then reset.
    Reset,
    /// Never read, never write.
    Stall,
    /// Never read, write without end.
    Flood,
}

/// An address of 127.0.0.1 on which nobody listens.
///
/// # Errors
/// There is none.
pub(crate) fn nobody() -> Result<SocketAddr> {
    // Closed by the time this returns, which an aborted task's is not.
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?)
}

/// A connection as the target saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bytes that came.
    pub(crate) received: u64,
    /// SHA-256 of them.
    pub(crate) sha256: String,
    /// How it ended.
    pub(crate) end: End,
}

/// A running target; dropping it closes everything.
pub(crate) struct Target {
    address: SocketAddr,
    seen: Arc<Mutex<Seens>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seens {
    accepted: usize,
    ended: Vec<Seen>,
}

impl Target {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// It cannot listen.
    pub(crate) async fn start(manner: Manner) -> Result<Self> {
        Self::start_at("127.0.0.1:0".parse()?, manner).await
    }

    /// Listens on a given address.
    ///
    /// # Errors
    /// It cannot listen.
    pub(crate) async fn start_at(address: SocketAddr, manner: Manner) -> Result<Self> {
        let socket = match address.is_ipv4() {
            true => TcpSocket::new_v4()?,
            false => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Seens::default()));
        let task = tokio::spawn(serve(listener, manner, seen.clone()));
        Ok(Self {
            address,
            seen,
            task,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Connections taken so far.
    pub(crate) fn accepted(&self) -> usize {
        lock(&self.seen).accepted
    }

    /// Whether every connection that was taken has ended.
    pub(crate) fn all_ended(&self) -> bool {
        let seen = lock(&self.seen);
        seen.accepted == seen.ended.len()
    }

    /// The connections that have ended, which are forgotten.
    pub(crate) fn take_ended(&self) -> Vec<Seen> {
        let mut seen = lock(&self.seen);
        let ended = std::mem::take(&mut seen.ended);
        seen.accepted -= ended.len();
        ended
    }

    /// Waits until `count` connections have ended, and returns them.
    ///
    /// # Errors
    /// They do not within `within`.
    pub(crate) async fn ended(&self, count: usize, within: Duration) -> Result<Vec<Seen>> {
        let what = format!("{count} connections of the target to end");
        until(&what, within, || async {
            let ended = lock(&self.seen).ended.clone();
            Ok((ended.len() >= count).then_some(ended))
        })
        .await
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(seen: &Mutex<Seens>) -> std::sync::MutexGuard<'_, Seens> {
    seen.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn serve(listener: TcpListener, manner: Manner, seen: Arc<Mutex<Seens>>) {
    // Dropped with the target, and its connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        lock(&seen).accepted += 1;
        let seen = seen.clone();
        connections.spawn(async move {
            let one = treat(stream, manner).await;
            lock(&seen).ended.push(one);
        });
    }
}

async fn treat(mut stream: TcpStream, manner: Manner) -> Seen {
    let _ = stream.set_nodelay(true);
    let mut count = Count::default();
    let result = match manner {
        Manner::Echo => count.read(&mut stream, true, false).await,
        Manner::Reset => {
            let read = count.read(&mut stream, true, true).await;
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            read
        }
        Manner::AnswerAtTheEnd { seed, bytes } => {
            let read = count.read(&mut stream, false, false).await;
            let _ = write_pattern(&mut stream, seed, bytes).await;
            read
        }
        Manner::FinishFirst { seed, bytes } => {
            let written = write_pattern(&mut stream, seed, bytes).await;
            let finished = stream.shutdown().await;
            let read = count.read(&mut stream, false, false).await;
            written.and(finished).and(read)
        }
        Manner::Close => Ok(()),
        Manner::Stall => std::future::pending().await,
        Manner::Flood => loop {
            if let Err(error) = stream.write_all(&[0x46; 16 * 1024]).await {
                break Err(error);
            }
        },
    };
    Seen {
        received: count.bytes,
        sha256: pattern::hex(&count.hash.finalize()),
        end: result.as_ref().err().map_or(End::Eof, End::from),
    }
}

async fn write_pattern(stream: &mut TcpStream, seed: u64, bytes: u64) -> std::io::Result<()> {
    let mut buf = vec![0; 64 * 1024];
    let mut sent = 0;
    while sent < bytes {
        let n = usize::try_from(bytes - sent).map_or(buf.len(), |left| left.min(buf.len()));
        pattern::fill(seed, sent, &mut buf[..n]);
        stream.write_all(&buf[..n]).await?;
        sent += n as u64;
    }
    Ok(())
}

#[derive(Default)]
struct Count {
    bytes: u64,
    hash: Sha256,
}

impl Count {
    async fn read(
        &mut self,
        stream: &mut TcpStream,
        echo: bool,
        once: bool,
    ) -> std::io::Result<()> {
        let mut buf = vec![0; 64 * 1024];
        loop {
            let n = stream.read(&mut buf).await?;
            if n == 0 {
                return Ok(());
            }
            self.bytes += n as u64;
            self.hash.update(&buf[..n]);
            if echo {
                stream.write_all(&buf[..n]).await?;
            }
            if once {
                return Ok(());
            }
        }
    }
}
