//! One forwarded connection: CONNECT, its answer, bytes both ways.

use crate::{
    node::{LIMITS, Node},
    session::{Session, Tunnel},
};
use bytes::Bytes;
use h2::{Reason as Code, RecvStream, SendStream};
use http::{Method, Request, Response};
use socket2::SockRef;
use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};
use sternline_api::Reason;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::mpsc,
};

/// Where a connection came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) peer: SocketAddr,
    pub(crate) id: u32,
    pub(crate) address: SocketAddr,
    /// Whether it is the 31st of its session.
    pub(crate) beyond: bool,
}

/// Why a connection was cut.
enum Cut {
    /// By the process in the pod.
    Pod,
    /// By the client, with `RST_STREAM`.
    Client,
    /// By the loss of the tunnel.
    Lost,
}

/// Resets a connection of the pod.
pub(crate) fn reset(stream: TcpStream) {
    // A socket that is closed already needs no reset.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

/// Forwards one connection until it is over.
pub(crate) async fn connection(
    session: &Arc<Session>,
    node: &Arc<Node>,
    mut tcp: TcpStream,
    origin: Origin,
    tunnel: Tunnel,
) {
    let _ = tcp.set_nodelay(true);
    let faults = &node.faults;
    let Some(request) = request(node, &origin, session) else {
        return reset(tcp);
    };
    let Ok(mut requests) = tunnel.requests.ready().await else {
        return reset(tcp);
    };
    let Ok((response, mut send)) = requests.send_request(request, false) else {
        return reset(tcp);
    };
    drop(requests);
    let mut limit = Duration::from_millis(LIMITS.dial_timeout_ms) + Duration::from_secs(5);
    if faults.has("waits-for-ever") {
        limit = Duration::from_secs(3600);
    }
    if faults.has("impatient-answer") {
        limit = Duration::from_millis(300);
    }
    let answer = tokio::select! {
        answer = tokio::time::timeout(limit, response) => answer,
        () = session.cut.cancelled() => {
            send.send_reset(Code::CANCEL);
            return reset(tcp);
        }
    };
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            return match error.is_reset() && faults.has("unanswered-reset-is-fin") {
                true => drop(tcp),
                false => reset(tcp),
            };
        }
        Err(_) => {
            send.send_reset(Code::CANCEL);
            return reset(tcp);
        }
    };
    if response.status() != 200 {
        return failed(session, node, tcp, &response).await;
    }
    let receive = response.into_body();
    let quiet = AtomicBool::new(false);
    let moves = AtomicU64::new(0);
    let ended = {
        let (read, write) = tcp.split();
        let up = up(session, node, read, &mut send, (&quiet, &moves));
        let down = down(
            session,
            node,
            write,
            receive,
            (&quiet, &moves),
            origin.beyond,
        );
        tokio::select! {
            both = async { tokio::try_join!(up, down) } => both.map(drop).map_err(Some),
            () = session.cut.cancelled() => Err(None),
            () = silence(node, &moves) => Err(None),
        }
    };
    if ended.is_err() && faults.has("lost-is-fin") {
        // The end of the tunnel shows a moment later than that of its streams.
        let moment = Duration::from_millis(500);
        let down = tokio::time::timeout(moment, tunnel.down.cancelled());
        if down.await.is_ok() {
            return drop(tcp);
        }
    }
    if let Err(Some(Cut::Pod)) = &ended
        && faults.has("burst-ends-session")
        && session.pod_resets.fetch_add(1, Ordering::Relaxed) > 20
    {
        tunnel.down.cancel();
    }
    match ended {
        Ok(()) => {}
        Err(Some(Cut::Pod)) if faults.has("reset-is-end") => {
            drop(send.send_data(Bytes::new(), true));
        }
        Err(Some(Cut::Pod)) => send.send_reset(match faults.has("reset-is-cancel") {
            true => Code::CANCEL,
            false => Code::CONNECT_ERROR,
        }),
        Err(Some(Cut::Client)) if faults.has("reset-is-fin") && !quiet.load(Ordering::Relaxed) => {
            drop(tcp);
        }
        Err(Some(_)) => reset(tcp),
        Err(None) => {
            send.send_reset(match faults.has("stop-resets-with-internal") {
                true => Code::INTERNAL_ERROR,
                false => Code::CANCEL,
            });
            reset(tcp);
        }
    }
}

fn request(node: &Node, origin: &Origin, session: &Session) -> Option<Request<()>> {
    let faults = &node.faults;
    let port = origin.address.port();
    let mut authority = origin.address.to_string();
    if faults.has("authority-of-sandbox") && origin.address.is_ipv4() {
        authority = format!("{}:{port}", session.sandbox);
    }
    if faults.has("authority-of-v6-is-v4") && origin.address.is_ipv6() {
        authority = format!("127.0.0.1:{port}");
    }
    let listener = if faults.has("listener-zero") {
        0
    } else {
        origin.id
    };
    let forwarded = match faults.has("forwarded-unquoted") {
        true => format!("for={}", origin.peer),
        false => format!("for=\"{}\"", origin.peer),
    };
    Request::builder()
        .method(Method::CONNECT)
        .uri(authority)
        .version(http::Version::HTTP_2)
        .header("sternline-listener", listener)
        .header("forwarded", forwarded)
        .body(())
        .ok()
}

async fn failed(
    session: &Arc<Session>,
    node: &Arc<Node>,
    tcp: TcpStream,
    response: &Response<RecvStream>,
) {
    let told = response.headers().get("proxy-status");
    let told = told.and_then(|value| value.to_str().ok()).unwrap_or("");
    let faults = &node.faults;
    let as_end = told.contains("connection_refused") && faults.has("refused-is-fin")
        || response.status() == 504 && faults.has("504-is-fin");
    if response.status() == 500 && faults.has("500-hangs") {
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    match as_end {
        true => drop(tcp),
        false => reset(tcp),
    }
    if told.contains("dns_error") && faults.has("dns-error-ends-session") {
        session.end(Reason::TargetUnresolved).await;
    }
}

/// Waits until nothing moved for as long as a stream may be silent.
async fn silence(node: &Node, moves: &AtomicU64) {
    let idle = Duration::from_millis(node.limits().idle_timeout_ms);
    if idle.is_zero() || node.faults.has("never-idle") {
        return std::future::pending().await;
    }
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let now = moves.load(Ordering::Relaxed);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        if since.elapsed() >= idle {
            return;
        }
        tokio::time::sleep(idle / 16).await;
    }
}

/// From the pod to the client.
async fn up(
    session: &Session,
    node: &Node,
    mut tcp: ReadHalf<'_>,
    send: &mut SendStream<Bytes>,
    (quiet, moves): (&AtomicBool, &AtomicU64),
) -> Result<(), Cut> {
    let faults = &node.faults;
    let mut buffer = vec![0; 16_384];
    let mut total = 0;
    let mut tail = Vec::new();
    let watches = !faults.has("end-stops-watching");
    loop {
        let pause = if tail.is_empty() {
            Duration::from_secs(3600)
        } else {
            Duration::from_millis(300)
        };
        let read = tokio::select! {
            read = tcp.read(&mut buffer) => Some(read.map_err(|_| Cut::Pod)?),
            () = tokio::time::sleep(pause) => None,
            gone = poll_fn(|cx| send.poll_reset(cx)), if watches => {
                return Err(cut(gone.is_ok()));
            }
        };
        moves.fetch_add(u64::from(read.is_some()), Ordering::Relaxed);
        let mut chunk = match read {
            Some(0) => break,
            Some(length) => buffer[..length].to_vec(),
            None => Vec::new(),
        };
        if quiet.load(Ordering::Relaxed) && faults.has("client-end-stops-pod") {
            continue;
        }
        if faults.has("corrupts-from-pod") && (total..total + chunk.len()).contains(&500_000) {
            chunk[500_000 - total] ^= 1;
        }
        total += chunk.len();
        if faults.has("loses-tail") {
            // The newest bytes wait for the next ones, or for a while.
            chunk = std::mem::replace(&mut tail, chunk);
        }
        let _turn = match faults.has("stalled-stream-blocks") {
            true => Some(session.blocked.lock().await),
            false => None,
        };
        let mut rest = Bytes::from(chunk);
        while !rest.is_empty() {
            send.reserve_capacity(rest.len());
            let granted = poll_fn(|cx| {
                if let Poll::Ready(gone) = send.poll_reset(cx) {
                    return Poll::Ready(Err(cut(gone.is_ok())));
                }
                match send.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(granted))) if granted > 0 => Poll::Ready(Ok(granted)),
                    Poll::Ready(Some(Ok(_))) | Poll::Pending => Poll::Pending,
                    Poll::Ready(_) => Poll::Ready(Err(Cut::Lost)),
                }
            });
            let granted = granted.await?;
            let piece = rest.split_to(granted.min(rest.len()));
            send.send_data(piece, false).map_err(|_| Cut::Lost)?;
        }
    }
    if faults.has("pod-fin-kills") {
        quiet.store(true, Ordering::Relaxed);
    }
    send.send_data(Bytes::new(), true).map_err(|_| Cut::Lost)
}

fn cut(by_reset: bool) -> Cut {
    if by_reset { Cut::Client } else { Cut::Lost }
}

/// From the client to the pod.
async fn down(
    session: &Session,
    node: &Node,
    mut tcp: WriteHalf<'_>,
    mut receive: RecvStream,
    (quiet, moves): (&AtomicBool, &AtomicU64),
    beyond: bool,
) -> Result<(), Cut> {
    let faults = &node.faults;
    let greedy = faults.has("greedy");
    let (sender, mut queue) = mpsc::unbounded_channel::<(Bytes, usize)>();
    // What waits here is bounded by the window, which only writing gives back.
    let flow = tokio::sync::Mutex::new(receive.flow_control().clone());
    let flow = &flow;
    let take = async move {
        let mut total = 0;
        while let Some(chunk) = receive.data().await {
            let mut chunk = chunk.map_err(|error| cut(error.is_reset()))?;
            let length = chunk.len();
            moves.fetch_add(1, Ordering::Relaxed);
            if length == 1 {
                session.small.fetch_add(1, Ordering::Relaxed);
            }
            if faults.has("ends-over-small-frames") && session.small.load(Ordering::Relaxed) > 2000
            {
                let tunnels = crate::node::lock(&session.tunnels);
                tunnels.iter().for_each(|tunnel| tunnel.down.cancel());
            }
            if faults.has("corrupts-to-pod") && (total..total + length).contains(&500_000) {
                let mut wrong = chunk.to_vec();
                wrong[500_000 - total] ^= 1;
                chunk = wrong.into();
            }
            total += length;
            let dropped = beyond && faults.has("drops-bytes-of-the-31st")
                || quiet.load(Ordering::Relaxed) && faults.has("pod-fin-kills");
            if !dropped {
                // A reset of the stream must not wait for the pod.
                let _ = sender.send((chunk, length));
            }
            if greedy || dropped {
                let _ = flow.lock().await.release_capacity(length);
            }
        }
        quiet.store(true, Ordering::Relaxed);
        Ok(())
    };
    let write = async {
        while let Some((chunk, length)) = queue.recv().await {
            let _turn = match faults.has("stalled-pod-blocks") {
                true => Some(session.blocked.lock().await),
                false => None,
            };
            let mut writing = pin!(tcp.write_all(&chunk));
            let written = tokio::select! {
                written = &mut writing => written,
                () = tokio::time::sleep(Duration::from_millis(50)) => {
                    session.stalled.store(true, Ordering::Relaxed);
                    let written = writing.await;
                    session.stalled.store(false, Ordering::Relaxed);
                    written
                }
            };
            written.map_err(|_| Cut::Pod)?;
            if !greedy {
                let _ = flow.lock().await.release_capacity(length);
            }
        }
        if !faults.has("drops-half-close") {
            // A pod that reset its connection shows on the other side.
            let _ = tcp.shutdown().await;
        }
        Ok(())
    };
    tokio::try_join!(take, write).map(drop)
}
