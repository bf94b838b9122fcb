//! Carries a tunnel: bytes both ways, which nobody here reads.

use crate::metrics;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Bytes that an idle direction has room for. A control message fits.
const SMALL: usize = 4 * 1024;

/// Bytes that a busy direction has room for: two records of TLS. A thousand tunnels
/// that are busy both ways hold 64 MiB.
const LARGE: usize = 32 * 1024;

/// How long an end may take to be told of the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client's side closed.
    Client,
    /// The node's side closed.
    Node,
    /// The gateway goes away.
    Draining,
}

impl End {
    /// The word in audit records.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client_closed",
            Self::Node => "node_closed",
            Self::Draining => "draining",
        }
    }
}

/// What was carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the node to the client.
    pub from_node: u64,
    /// Bytes from the client to the node.
    pub to_node: u64,
    /// How it ended.
    pub end: End,
}

/// Carries bytes until either side ends, or `over`; then both are ended. A tunnel
/// has half-closes inside itself, so that one end of it is the end of it. However
/// long nothing moves, nothing happens.
pub async fn carry<C, N>(client: C, node: N, over: CancellationToken) -> Carried
where
    C: AsyncRead + AsyncWrite,
    N: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_node, mut to_node) = tokio::io::split(node);
    let (down, up) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = {
        let mut downward = pin!(pump(
            &mut from_node,
            &mut to_client,
            &down,
            metrics::from_node
        ));
        let upward = pump(&mut from_client, &mut to_node, &up, metrics::to_node);
        tokio::select! {
            // What a side said before it ended goes first.
            biased;
            end = &mut downward => match end {
                Broken::Reader => End::Node,
                Broken::Writer => End::Client,
            },
            end = upward => match end {
                Broken::Reader => End::Client,
                Broken::Writer => {
                    // A client that reads slowly has not heard yet why.
                    let _ = timeout(FAREWELL, downward).await;
                    End::Node
                }
            },
            () = over.cancelled() => End::Draining,
        }
    };
    // Both at once: one of them may be gone.
    let _ = tokio::join!(
        timeout(FAREWELL, to_client.shutdown()),
        timeout(FAREWELL, to_node.shutdown())
    );
    Carried {
        from_node: down.into_inner(),
        to_node: up.into_inner(),
        end,
    }
}

/// Which end of a direction is over.
enum Broken {
    Reader,
    Writer,
}

async fn pump<R, W>(
    from: &mut ReadHalf<R>,
    to: &mut WriteHalf<W>,
    total: &AtomicU64,
    count: fn(u64),
) -> Broken
where
    R: AsyncRead,
    W: AsyncWrite,
{
    let mut buffer = vec![0; SMALL];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return Broken::Reader,
            Ok(read) => read,
        };
        let written = async {
            to.write_all(&buffer[..read]).await?;
            // TLS keeps what the socket did not take.
            to.flush().await
        };
        if written.await.is_err() {
            return Broken::Writer;
        }
        total.fetch_add(read as u64, Relaxed);
        count(read as u64);
        if read == buffer.len() && read < LARGE {
            buffer.resize(LARGE, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    struct Ends {
        client: DuplexStream,
        node: DuplexStream,
        over: CancellationToken,
        carried: JoinHandle<Carried>,
    }

    fn ends() -> Ends {
        let (client, inner) = duplex(1024);
        let (node, outer) = duplex(1024);
        let over = CancellationToken::new();
        Ends {
            client,
            node,
            carried: tokio::spawn(carry(inner, outer, over.clone())),
            over,
        }
    }

    #[tokio::test]
    async fn everything_arrives_both_ways() {
        let Ends {
            client,
            node,
            carried,
            ..
        } = ends();
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut client_in, mut client_out) = tokio::io::split(client);
        let (mut node_in, mut node_out) = tokio::io::split(node);
        let (mut down, mut up) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        let (a, b, c, d) = tokio::join!(
            client_out.write_all(&bytes),
            node_out.write_all(&bytes),
            client_in.read_exact(&mut down),
            node_in.read_exact(&mut up),
        );
        a.and(b).expect("taken");
        c.and(d).expect("all of it");
        assert!(down == bytes && up == bytes);
        client_out.shutdown().await.expect("closed");
        let carried = carried.await.expect("no panic");
        assert_eq!((carried.from_node, carried.to_node), (300_000, 300_000));
        assert_eq!(carried.end, End::Client);
    }

    #[tokio::test]
    async fn last_words_arrive_and_then_the_end() {
        let Ends {
            mut client,
            mut node,
            carried,
            over: _over,
        } = ends();
        node.write_all(b"ending").await.expect("taken");
        drop(node);
        let mut said = String::new();
        client.read_to_string(&mut said).await.expect("in order");
        assert_eq!(said, "ending");
        assert_eq!(carried.await.expect("no panic").end, End::Node);
        client.write_all(b"x").await.expect_err("nobody is there");
    }

    #[tokio::test]
    async fn last_words_arrive_at_a_client_that_reads_late() {
        let Ends {
            mut client,
            mut node,
            carried,
            over: _over,
        } = ends();
        // More than the client's side has room for.
        node.write_all(&[7; 2000]).await.expect("taken");
        drop(node);
        client.write_all(b"x").await.expect("taken");
        tokio::task::yield_now().await;
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.expect("in order");
        assert_eq!(said.len(), 2000);
        assert_eq!(carried.await.expect("no panic").end, End::Node);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_tunnel_is_left_alone() {
        let Ends {
            mut client,
            mut node,
            carried,
            over,
        } = ends();
        sleep(Duration::from_secs(7 * 24 * 3600)).await;
        client.write_all(b"still there?").await.expect("taken");
        let mut heard = [0; 12];
        node.read_exact(&mut heard).await.expect("heard");
        over.cancel();
        let carried = carried.await.expect("no panic");
        assert_eq!((carried.to_node, carried.end), (12, End::Draining));
        assert_eq!(client.read(&mut heard).await.expect("closed"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_reads_nothing_does_not_hold_the_end_up() {
        let Ends {
            client: _client,
            mut node,
            carried,
            over,
        } = ends();
        // More than the way has room for.
        let flood = async { while node.write_all(&[0; 1024]).await.is_ok() {} };
        let _ = timeout(Duration::from_secs(1), flood).await;
        over.cancel();
        assert_eq!(carried.await.expect("no panic").end, End::Draining);
    }
}
