//! How a tunnel ends.

use crate::support::{Raw, kind, pattern, request, settings, settle, soon, tunnel, unix_pair};
use std::time::Duration;
use sternline_tunnel::{Acceptor, Dialer, End, Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn a_tunnel_ends_with_its_last_dialer_and_stream() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.unix().await;
    let second = tunnel.dialer.clone();
    drop(tunnel.dialer);
    settle().await;
    assert!(!tunnel.driver.is_finished());
    drop(second);
    settle().await;
    assert!(!tunnel.driver.is_finished(), "a stream is still open");
    forward.pod.write_all(b"last").await.unwrap();
    forward.pod.shutdown().await.unwrap();
    let mut got = Vec::new();
    soon(forward.target.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"last");
    drop(forward.target);
    assert_eq!(soon(forward.node).await.unwrap().end, End::Clean);
    soon(tunnel.driver).await.unwrap().unwrap();
    soon(tunnel.acceptor).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_read_before_the_dialer_went_still_arrives() {
    let mut tunnel = tunnel(&settings()).await;
    let mut forward = tunnel.unix().await;
    let sent = pattern(1, 150_000);
    let writer = tokio::spawn({
        let sent = sent.clone();
        async move {
            forward.pod.write_all(&sent).await.expect("open");
            forward.pod.shutdown().await.expect("open");
            forward.pod
        }
    });
    drop(tunnel.dialer);
    let mut got = Vec::new();
    soon(forward.target.read_to_end(&mut got)).await.unwrap();
    assert!(got == sent);
    soon(writer).await.unwrap();
}

#[tokio::test]
async fn closing_sends_what_is_left() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (dialer, driver) = Dialer::handshake(far, &settings()).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut acceptor = Acceptor::handshake(near, &settings()).await.unwrap();
    let node = crate::support::Side::new(crate::support::PLENTY);
    let client = crate::support::Side::new(crate::support::PLENTY);
    let (pod_near, mut pod) = unix_pair();
    let (target_near, mut target) = unix_pair();
    let (accepted, stream) = tokio::join!(acceptor.next(), dialer.connect(request(7)));
    let _node = node.relay(pod_near, stream.unwrap());
    let Some(Incoming::Stream(stream)) = accepted.unwrap() else {
        panic!("a stream");
    };
    let relay = client.relay(target_near, stream.accept().unwrap());
    let sent = pattern(1, 30_000);
    target.write_all(&sent).await.unwrap();
    target.shutdown().await.unwrap();
    // The relay hands all of it over while nobody moves the tunnel.
    crate::support::until(|| client.options.traffic.from_socket() >= 16 * 1024).await;
    pod.shutdown().await.unwrap();
    drop(dialer);
    soon(acceptor.close()).await;
    let mut got = Vec::new();
    soon(pod.read_to_end(&mut got)).await.unwrap();
    assert!(got == sent, "{} of {}", got.len(), sent.len());
    assert_eq!(soon(relay).await.unwrap().end, End::Clean);
    soon(driver).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_takes_a_second_at_most() {
    let mut tunnel = tunnel(&settings()).await;
    let _stuck = tunnel.unix().await;
    let (near, far) = tokio::io::duplex(256);
    // A peer that stopped reading.
    let raw = Raw::client(far).await;
    let acceptor = Acceptor::handshake(near, &settings()).await.unwrap();
    let begun = tokio::time::Instant::now();
    acceptor.close().await;
    assert!(begun.elapsed() <= Duration::from_millis(1_010));
    drop(raw);
}

#[tokio::test]
async fn no_empty_frame_is_sent_but_the_last() {
    let (io, far) = tokio::io::duplex(64 * 1024);
    let (dialer, driver) = Dialer::handshake(io, &settings()).await.unwrap();
    tokio::spawn(driver);
    let mut raw = Raw::server(far, 100).await;
    raw.gather().await;
    let side = crate::support::Side::new(crate::support::PLENTY);
    let (near, mut pod) = unix_pair();
    let _relay = side.relay(near, dialer.connect(request(7)).await.unwrap());
    let sent = pattern(1, 3_000);
    pod.write_all(&sent).await.unwrap();
    pod.shutdown().await.unwrap();
    let mut got = Vec::new();
    // Window in drops, and now and then none at all.
    let mut ended = false;
    while !ended {
        for frame in raw.gather().await {
            if frame.kind == kind::DATA {
                ended |= frame.is_end_stream();
                assert!(ended || !frame.payload.is_empty(), "an empty frame");
                got.extend(frame.payload);
            }
        }
        raw.window_update(1, 1 + got.len() as u32 % 97);
        raw.flush().await;
    }
    assert_eq!(got, sent);
}
