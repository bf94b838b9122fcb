//! A reset arrives as a reset, and never as an end.

use crate::support::{
    PLENTY, Raw, Side, assert_reset, ended, incoming, kind, pattern, request, reset, settings,
    settle, soon, tcp_pair, tunnel, until,
};
use std::time::Duration;
use sternline_tunnel::{Dialer, End, Relayed, relay};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const CONNECT_ERROR: u32 = 10;

#[tokio::test]
async fn a_reset_in_the_pod_reaches_the_target() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.pod.write_all(b"half a requ").await.unwrap();
    let mut got = [0; 11];
    soon(forward.target.read_exact(&mut got)).await.unwrap();
    reset(forward.pod);
    assert_reset(&mut forward.target).await;
    assert_eq!(ended(forward.node).await.end, End::SocketReset);
    let client = ended(forward.client).await.end;
    assert_eq!(client, End::PeerReset(CONNECT_ERROR));
    tunnel.assert_nothing_held().await;
    tunnel.assert_alive().await;
}

#[tokio::test]
async fn a_reset_at_the_target_reaches_the_pod() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.target.write_all(b"half an ans").await.unwrap();
    let mut got = [0; 11];
    soon(forward.pod.read_exact(&mut got)).await.unwrap();
    reset(forward.target);
    assert_reset(&mut forward.pod).await;
    assert_eq!(ended(forward.client).await.end, End::SocketReset);
    let node = ended(forward.node).await.end;
    assert_eq!(node, End::PeerReset(CONNECT_ERROR));
    tunnel.assert_alive().await;
}

#[tokio::test]
async fn a_reset_by_the_target_after_the_pod_ended_reaches_the_pod() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.pod.shutdown().await.unwrap();
    assert_eq!(soon(forward.target.read(&mut [0])).await.unwrap(), 0);
    reset(forward.target);
    assert_reset(&mut forward.pod).await;
    let node = ended(forward.node).await.end;
    assert_eq!(node, End::PeerReset(CONNECT_ERROR));
}

#[tokio::test]
async fn a_reset_by_the_pod_after_its_own_end_reaches_the_target() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.pod.shutdown().await.unwrap();
    // The target has seen the end: the stream is over in this direction, and
    // only a look for resets can find one now.
    assert_eq!(soon(forward.target.read(&mut [0])).await.unwrap(), 0);
    reset(forward.pod);
    until(|| forward.client.is_finished()).await;
    assert_eq!(ended(forward.node).await.end, End::SocketReset);
    let client = ended(forward.client).await.end;
    assert_eq!(client, End::PeerReset(CONNECT_ERROR));
    // A FIN came before, so that reads end cleanly; writes must fail.
    soon(async { while forward.target.write_all(b"x").await.is_ok() {} }).await;
}

/// A node whose workstation is a hand-written peer; one stream is open.
async fn node_of_raw(window: u32) -> (TcpStream, JoinHandle<Relayed>, Raw) {
    let (io, far) = tokio::io::duplex(64 * 1024);
    let (dialer, driver) = Dialer::handshake(io, &settings()).await.expect("handshake");
    tokio::spawn(driver);
    let mut raw = Raw::server(far, window).await;
    let (near, pod) = tcp_pair().await;
    let node = tokio::spawn(async move {
        // The peer's SETTINGS come first, so that its window is known.
        settle().await;
        let stream = dialer.connect(request(7)).await.expect("open");
        let side = Side::new(PLENTY);
        relay(near, stream, &side.options).await
    });
    let head = raw.find(|frame| frame.kind == kind::HEADERS).await;
    assert_eq!(head.stream, 1);
    (pod, node, raw)
}

#[tokio::test]
async fn a_reset_is_noticed_while_there_is_no_window() {
    let (mut pod, node, mut raw) = node_of_raw(1_000).await;
    raw.answer(1);
    raw.flush().await;
    pod.write_all(&pattern(1, 50_000)).await.unwrap();
    let sent: usize = raw.gather().await.iter().map(|f| f.payload.len()).sum();
    assert_eq!(sent, 1_000, "as much as there is window");
    reset(pod);
    let end = raw.find(|frame| frame.kind == kind::RST_STREAM).await;
    assert_eq!((end.stream, end.number()), (1, CONNECT_ERROR));
    assert_eq!(ended(node).await.end, End::SocketReset);
}

#[tokio::test]
async fn a_reset_by_the_peer_is_noticed_while_there_is_no_window() {
    let (mut pod, node, mut raw) = node_of_raw(1_000).await;
    raw.answer(1);
    raw.flush().await;
    pod.write_all(&pattern(1, 50_000)).await.unwrap();
    raw.gather().await;
    raw.reset(1, CONNECT_ERROR);
    raw.flush().await;
    assert_eq!(ended(node).await.end, End::PeerReset(CONNECT_ERROR));
    assert_reset(&mut pod).await;
}

#[tokio::test]
async fn a_reset_waits_for_the_answer() {
    let (pod, node, mut raw) = node_of_raw(65_535).await;
    reset(pod);
    let early = raw.gather().await;
    assert!(early.is_empty(), "before the answer: {early:?}");
    raw.answer(1);
    raw.flush().await;
    let end = raw.find(|frame| frame.kind == kind::RST_STREAM).await;
    assert_eq!((end.stream, end.number()), (1, CONNECT_ERROR));
    assert_eq!(ended(node).await.end, End::SocketReset);
}

#[tokio::test(start_paused = true)]
async fn a_reset_waits_for_the_answer_no_longer_than_the_answer_may_take() {
    let (pod, node, mut raw) = node_of_raw(65_535).await;
    reset(pod);
    let asked = tokio::time::Instant::now();
    let end = soon_paused(raw.next()).await.expect("open");
    assert_eq!((end.kind, end.number()), (kind::RST_STREAM, CONNECT_ERROR));
    let waited = asked.elapsed();
    let bound = settings().dial_timeout + Duration::from_secs(6);
    assert!(waited <= bound, "{waited:?}");
    assert_eq!(ended(node).await.end, End::SocketReset);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_a_time_out() {
    let (mut pod, node, mut raw) = node_of_raw(65_535).await;
    let end = soon_paused(raw.next()).await.expect("open");
    assert_eq!((end.kind, end.number()), (kind::RST_STREAM, CANCEL));
    let timed_out = End::Refused(sternline_api::Reason::TargetTimeout);
    assert_eq!(ended(node).await.end, timed_out);
    assert_reset(&mut pod).await;
}

/// Longer than every wait of the product.
async fn soon_paused<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(300), what)
        .await
        .expect("every wait is bounded")
}

#[tokio::test]
async fn whatever_code_a_peer_resets_with_it_is_no_clean_end() {
    for code in [NO_ERROR, REFUSED_STREAM, CANCEL, CONNECT_ERROR, 0x1234_5678] {
        let (mut pod, node, mut raw) = node_of_raw(65_535).await;
        raw.answer(1);
        raw.flush().await;
        raw.reset(1, code);
        raw.flush().await;
        assert_eq!(ended(node).await.end, End::PeerReset(code));
        assert_reset(&mut pod).await;
    }
}

#[tokio::test]
async fn a_reset_after_the_peers_end_is_no_clean_end() {
    for code in [NO_ERROR, CANCEL, CONNECT_ERROR] {
        let (mut pod, node, mut raw) = node_of_raw(65_535).await;
        raw.answer(1);
        raw.frame(kind::DATA, 1, 1, b"bye");
        raw.flush().await;
        let mut got = Vec::new();
        soon(pod.read_to_end(&mut got)).await.unwrap();
        assert_eq!(got, b"bye");
        raw.reset(1, code);
        raw.flush().await;
        assert_eq!(ended(node).await.end, End::PeerReset(code));
        soon(async { while pod.write_all(b"x").await.is_ok() {} }).await;
    }
}

#[tokio::test]
async fn dropping_the_nodes_relay_resets_both_sides() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.pod.write_all(b"x").await.unwrap();
    soon(forward.target.read_exact(&mut [0])).await.unwrap();
    forward.node.abort();
    assert_reset(&mut forward.pod).await;
    assert_reset(&mut forward.target).await;
    assert_eq!(ended(forward.client).await.end, End::PeerReset(CANCEL));
    tunnel.assert_nothing_held().await;
}

#[tokio::test]
async fn dropping_the_clients_relay_resets_both_sides() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    forward.pod.write_all(b"x").await.unwrap();
    soon(forward.target.read_exact(&mut [0])).await.unwrap();
    forward.client.abort();
    assert_reset(&mut forward.target).await;
    assert_reset(&mut forward.pod).await;
    assert_eq!(ended(forward.node).await.end, End::PeerReset(CANCEL));
}

#[tokio::test]
async fn a_stream_that_nobody_accepts_is_reset_when_dropped() {
    let mut tunnel = tunnel(&settings()).await;
    let (near, mut pod) = tcp_pair().await;
    let stream = tunnel.dialer.connect(request(7)).await.expect("open");
    let node = tunnel.node.relay(near, stream);
    drop(incoming(&mut tunnel.streams).await);
    assert_reset(&mut pod).await;
    assert_eq!(ended(node).await.end, End::PeerReset(CANCEL));
}

#[tokio::test]
async fn a_pod_that_resets_while_the_target_is_dialled_stops_the_dialling() {
    let mut tunnel = tunnel(&settings()).await;
    let (io, _pod) = tcp_pair().await;
    let stream = tunnel.dialer.connect(request(7)).await.expect("open");
    let node = tunnel.node.relay(io, stream);
    let mut waiting = incoming(&mut tunnel.streams).await;
    node.abort();
    let dialled = soon(waiting.buffer_while(std::future::pending::<()>())).await;
    assert_eq!(dialled, None);
}

#[tokio::test]
async fn so_does_one_that_had_sent_its_end_before() {
    let mut tunnel = tunnel(&settings()).await;
    let (io, mut pod) = tcp_pair().await;
    pod.shutdown().await.unwrap();
    let stream = tunnel.dialer.connect(request(7)).await.expect("open");
    let node = tunnel.node.relay(io, stream);
    let mut waiting = incoming(&mut tunnel.streams).await;
    // The end arrives while the target is dialled.
    let dialled = soon(waiting.buffer_while(settle())).await;
    assert_eq!(dialled, Some(()));
    node.abort();
    let dialled = soon(waiting.buffer_while(std::future::pending::<()>())).await;
    assert_eq!(dialled, None);
}
