//! Peers that break rules, and storms that break none.

use crate::support::{
    Raw, acceptor, assert_reset, ended, incoming, kind, request, reset, settings, settle, soon,
    tcp_pair, tunnel, unix_pair,
};
use sternline_api::Reason;
use sternline_tunnel::{Acceptor, Dialer, End, Settings};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc::UnboundedReceiver;

const REFUSED_STREAM: u32 = 7;

async fn assert_works(
    raw: &mut Raw,
    stream: u32,
    streams: &mut UnboundedReceiver<sternline_tunnel::IncomingStream>,
) {
    raw.connect(stream);
    raw.flush().await;
    // Those that were reset may still come through first.
    soon(async {
        loop {
            let stream = streams.recv().await.expect("the tunnel is open");
            tokio::spawn(async move {
                if let Ok(open) = stream.accept() {
                    std::future::pending::<()>().await;
                    drop(open);
                }
            });
            if streams.is_empty() {
                settle().await;
                if streams.is_empty() {
                    break;
                }
            }
        }
    })
    .await;
    let answer = raw.find(|frame| frame.kind == kind::HEADERS && frame.stream == stream);
    assert_eq!(answer.await.payload[0], 0x88);
}

/// The library's own limit is 20, and a port scanner in the pod would reach it.
#[tokio::test]
async fn connections_reset_at_once_leave_the_tunnel_alone() {
    for pairs in [21, 250] {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut raw = Raw::client(far).await;
        let (acceptor, mut streams) = acceptor(near, &settings()).await;
        for at in 0..pairs {
            raw.connect(at * 2 + 1);
            raw.reset(at * 2 + 1, 10);
        }
        // All in one read: none is accepted before its reset.
        raw.flush().await;
        assert_works(&mut raw, pairs * 2 + 1, &mut streams).await;
        assert!(!acceptor.is_finished());
    }
}

#[tokio::test]
async fn more_resets_than_any_node_makes_end_the_tunnel() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut raw = Raw::client(far).await;
    let (acceptor, _streams) = acceptor(near, &settings()).await;
    for at in 0..2_000 {
        raw.connect(at * 2 + 1);
        raw.reset(at * 2 + 1, 10);
    }
    raw.flush().await;
    let error = ended(acceptor).await.expect_err("too many");
    assert!(error.is_protocol(), "{error}");
}

#[tokio::test]
async fn streams_above_the_limit_are_refused_and_the_others_live() {
    let settings = Settings {
        max_streams: 4,
        ..settings()
    };
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut raw = Raw::client(far).await;
    let (_acceptor, mut streams) = acceptor(near, &settings).await;
    // One more than the limit is for the control stream.
    let mut open = Vec::new();
    for at in 0..5 {
        raw.connect(at * 2 + 1);
        raw.flush().await;
        open.push(incoming(&mut streams).await.accept().expect("open"));
    }
    raw.connect(11);
    raw.flush().await;
    let refused = raw.find(|frame| frame.kind == kind::RST_STREAM).await;
    assert_eq!((refused.stream, refused.number()), (11, REFUSED_STREAM));
    drop(open.remove(0));
    raw.find(|frame| frame.kind == kind::RST_STREAM && frame.stream == 1)
        .await;
    assert_works(&mut raw, 13, &mut streams).await;
}

#[tokio::test]
async fn a_thousand_pods_that_connect_and_reset_leave_the_tunnel_alone() {
    let settings = Settings {
        max_streams: 1_100,
        buffer_bytes: 1_101 * 8 * 1024,
        ..settings()
    };
    let mut tunnel = tunnel(&settings).await;
    let mut nodes = Vec::new();
    for _ in 0..1_000 {
        let (near, pod) = tcp_pair().await;
        let stream = tunnel.dialer.connect(request(7)).await.expect("open");
        nodes.push(tunnel.node.relay(near, stream));
        reset(pod);
    }
    for at in 0..1_000 {
        let stream = incoming(&mut tunnel.streams).await;
        if at % 2 == 0 {
            stream.reject(Reason::TargetRefused, "no");
        } else {
            let (near, _target) = unix_pair();
            drop(tunnel.client.relay(near, stream.accept().expect("open")));
        }
    }
    for node in nodes {
        let end = ended(node).await.end;
        let expected = [End::SocketReset, End::Refused(Reason::TargetRefused)];
        assert!(expected.contains(&end), "{end:?}");
    }
    tunnel.assert_alive().await;
    assert!(!tunnel.driver.is_finished());
}

#[tokio::test]
async fn empty_frames_come_to_no_socket_and_too_many_end_the_tunnel() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut raw = Raw::client(far).await;
    let (acceptor, mut streams) = acceptor(near, &settings()).await;
    raw.connect(1);
    for _ in 0..50 {
        raw.data(1, &[]);
    }
    raw.flush().await;
    let _open = incoming(&mut streams).await.accept().expect("open");
    settle().await;
    assert!(!acceptor.is_finished());
    for _ in 0..100 {
        raw.data(1, &[]);
    }
    raw.flush().await;
    assert!(ended(acceptor).await.expect_err("a flood").is_protocol());
}

#[tokio::test]
async fn more_than_the_window_resets_the_stream_that_sent_it() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut raw = Raw::client(far).await;
    let (_acceptor, mut streams) = acceptor(near, &settings()).await;
    raw.connect(1);
    raw.flush().await;
    let mut waiting = incoming(&mut streams).await;
    let waiting =
        tokio::spawn(async move { waiting.buffer_while(std::future::pending::<()>()).await });
    for _ in 0..8 {
        raw.data(1, &[0; 10_000]);
    }
    raw.flush().await;
    let end = raw.find(|frame| frame.kind == kind::RST_STREAM).await;
    assert_eq!((end.stream, end.number()), (1, 3), "FLOW_CONTROL_ERROR");
    assert_eq!(ended(waiting).await, None);
    assert_works(&mut raw, 3, &mut streams).await;
}

#[tokio::test]
async fn a_tunnel_that_breaks_resets_its_streams() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.tcp().await;
    tunnel.acceptor.abort();
    assert_reset(&mut forward.pod).await;
    assert_reset(&mut forward.target).await;
    let (node, client) = forward.ends().await;
    assert_eq!((node.end, client.end), (End::TunnelLost, End::TunnelLost));
    tunnel.assert_nothing_held().await;
    assert!(tunnel.dialer.connect(request(7)).await.is_err());
}

#[tokio::test]
async fn a_peer_that_is_no_http2_is_an_error_and_no_hang() {
    let (near, mut far) = tokio::io::duplex(1024);
    far.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(soon(Acceptor::handshake(near, &settings())).await.is_err());

    let (near, mut far) = tokio::io::duplex(1024);
    let (dialer, driver) = Dialer::handshake(near, &settings()).await.expect("open");
    let driver = tokio::spawn(driver);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    assert!(ended(driver).await.is_err());
    assert!(dialer.connect(request(7)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_waited_for_within_bounds() {
    let (near, _far) = tokio::io::duplex(1024);
    let begun = tokio::time::Instant::now();
    assert!(Acceptor::handshake(near, &settings()).await.is_err());
    assert!(begun.elapsed() <= settings().dial_timeout * 2);
}
