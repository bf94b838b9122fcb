//! The control stream.

use crate::support::{Tunnel, link, settings, settle, soon, tunnel, tunnel_over};
use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Request};
use std::time::Duration;
use sternline_api::v1alpha1::{
    ControlMessage, Draining, Ending, Ready, Rejected, control_message::Event,
};
use sternline_tunnel::control::encode;
use sternline_tunnel::{Acceptor, ControlReceiver, ControlStream, Dialer, Incoming, TunnelError};

fn ready() -> Event {
    Event::Ready(Ready {
        session_id: "s".to_owned(),
        hold_ms: 1_000,
        ..Ready::default()
    })
}

fn ending(message: &str) -> Event {
    Event::Ending(Ending {
        code: "done".to_owned(),
        message: message.to_owned(),
    })
}

/// (the node's half, the client's half)
async fn controls(tunnel: &mut Tunnel) -> (ControlStream, ControlStream) {
    let node = soon(tunnel.dialer.control()).await.expect("open");
    let client = soon(tunnel.controls.recv()).await.expect("open");
    (node, client)
}

#[tokio::test]
async fn messages_come_in_order_both_ways() {
    let mut tunnel = tunnel(&settings()).await;
    let (node, client) = controls(&mut tunnel).await;
    let (mut node_tx, mut node_rx) = node.split();
    let (mut client_tx, mut client_rx) = client.split();
    let events = [
        ready(),
        Event::Rejected(Rejected {
            reason: "connection_limit".to_owned(),
            listener_id: 1,
            count: 7,
        }),
        Event::Draining(Draining {
            deadline_ms: 1,
            // Larger than a frame and nearly as large as may be.
            message: "x".repeat(65_000),
        }),
    ];
    for event in &events {
        let (there, got, back, answered) = soon(async {
            tokio::join!(
                node_tx.send(event.clone()),
                client_rx.recv(),
                client_tx.send(event.clone()),
                node_rx.recv(),
            )
        })
        .await;
        assert!(there.is_ok() && back.is_ok());
        assert_eq!(got.unwrap().as_ref(), Some(event));
        assert_eq!(answered.unwrap().as_ref(), Some(event));
    }
    node_tx.finish().await;
    assert_eq!(soon(client_rx.recv()).await.unwrap(), None);
    client_tx.finish().await;
    assert_eq!(soon(node_rx.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn the_first_message_needs_no_answer() {
    let mut tunnel = tunnel(&settings()).await;
    let node = soon(tunnel.dialer.control()).await.expect("open");
    let (mut tx, _rx) = node.split();
    tx.send(ready()).await.expect("sent");
    let (_tx, mut rx) = soon(tunnel.controls.recv()).await.unwrap().split();
    assert_eq!(soon(rx.recv()).await.unwrap(), Some(ready()));
}

#[tokio::test]
async fn too_long_a_message_is_not_sent_and_harms_nothing() {
    let mut tunnel = tunnel(&settings()).await;
    let (node, client) = controls(&mut tunnel).await;
    let ((mut tx, _rx), (_tx, mut rx)) = (node.split(), client.split());
    let error = tx.send(ending(&"x".repeat(70_000))).await;
    assert!(error.unwrap_err().is_protocol());
    tx.send(ready()).await.unwrap();
    assert_eq!(soon(rx.recv()).await.unwrap(), Some(ready()));
}

#[tokio::test]
async fn the_last_message_leaves_before_a_close() {
    for close_at_once in [false, true] {
        let mut tunnel = tunnel(&settings()).await;
        let (node, client) = controls(&mut tunnel).await;
        let ((mut tx, rx), (_tx, mut client_rx)) = (node.split(), client.split());
        tx.send(ending("bye")).await.unwrap();
        tx.finish().await;
        drop(rx);
        drop(tunnel.dialer);
        if close_at_once {
            tunnel.driver.abort();
        }
        assert_eq!(soon(client_rx.recv()).await.unwrap(), Some(ending("bye")));
    }
}

#[tokio::test]
async fn the_last_message_of_the_client_leaves_before_a_close() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (dialer, driver) = Dialer::handshake(far, &settings()).await.unwrap();
    tokio::spawn(driver);
    let mut acceptor = Acceptor::handshake(near, &settings()).await.unwrap();
    let node = tokio::spawn(async move {
        let control = dialer.control().await.unwrap();
        let (_tx, mut rx) = control.split();
        let event = rx.recv().await.unwrap();
        drop(dialer);
        event
    });
    let Some(Incoming::Control(control)) = soon(acceptor.next()).await.unwrap() else {
        panic!("the control stream comes first");
    };
    let (mut tx, _rx) = control.split();
    tx.send(ending("bye")).await.unwrap();
    let closing = tokio::spawn(acceptor.close());
    tx.finish().await;
    assert_eq!(soon(node).await.unwrap(), Some(ending("bye")));
    soon(closing).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_given_up() {
    let mut tunnel = tunnel(&settings()).await;
    let (node, _client) = controls(&mut tunnel).await;
    let (mut tx, _rx) = node.split();
    // The window is full after a few.
    let error = loop {
        if let Err(error) = tx.send(ending(&"x".repeat(20_000))).await {
            break error;
        }
    };
    assert!(matches!(error, TunnelError::Slow { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_last_message_is_waited_for_a_second_at_most() {
    let (node, client, link) = link(4 * 1024, None);
    let mut tunnel = tunnel_over(node, client, &settings()).await;
    let (node, _client) = controls(&mut tunnel).await;
    let (mut tx, _rx) = node.split();
    link.cut();
    tx.send(ending(&"x".repeat(20_000))).await.unwrap();
    let begun = tokio::time::Instant::now();
    tx.finish().await;
    let waited = begun.elapsed();
    let second = Duration::from_secs(1)..=Duration::from_millis(1_010);
    assert!(second.contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_without_extended_connect_is_one_clear_error() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (dialer, driver) = Dialer::handshake(far, &settings()).await.unwrap();
    let driver = tokio::spawn(driver);
    let mut server = h2::server::handshake(near).await.unwrap();
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    let error = dialer.control().await.expect_err("not offered");
    assert!(error.to_string().contains("extended CONNECT"), "{error}");
    drop(dialer);
    soon(driver).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refused_control_stream_is_one_clear_error() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (dialer, driver) = Dialer::handshake(far, &settings()).await.unwrap();
    tokio::spawn(driver);
    let mut builder = h2::server::Builder::new();
    let mut server = builder
        .enable_connect_protocol()
        .handshake::<_, Bytes>(near)
        .await
        .unwrap();
    tokio::spawn(async move {
        while let Some(Ok((_, mut respond))) = server.accept().await {
            let refused = http::Response::builder().status(403).body(()).unwrap();
            let _ = respond.send_response(refused, true);
        }
    });
    let (_tx, mut rx) = soon(dialer.control()).await.unwrap().split();
    let error = soon(rx.recv()).await.unwrap_err();
    assert!(matches!(error, TunnelError::ControlRefused(s) if s == 403));
}

/// What a client makes of `bytes` on its control stream, which then ends or
/// stays open.
async fn received(bytes: Vec<u8>, end: bool) -> (ControlReceiver, impl Sized) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let (mut requests, connection) = h2::client::handshake(far).await.expect("open");
    tokio::spawn(connection);
    let mut acceptor = Acceptor::handshake(near, &settings()).await.expect("open");
    let (tx, rx) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut tx = Some(tx);
        while let Ok(Some(incoming)) = acceptor.next().await {
            if let (Incoming::Control(control), Some(tx)) = (incoming, tx.take()) {
                drop(tx.send(control));
            }
        }
    });
    crate::support::until(|| requests.is_extended_connect_protocol_enabled()).await;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_static("http://session/control");
    request
        .extensions_mut()
        .insert(Protocol::from_static("sternline-control"));
    let (_answer, mut body) = requests.send_request(request, false).expect("open");
    body.send_data(bytes.into(), end).expect("open");
    let (sender, receiver) = soon(rx).await.expect("open").split();
    (receiver, (sender, body, requests, _answer))
}

fn wire(event: Event) -> Vec<u8> {
    let message = ControlMessage { event: Some(event) };
    encode(&message).expect("short").to_vec()
}

#[tokio::test]
async fn events_of_a_newer_release_are_passed_over() {
    // Field 99 of the message, and a message without an event.
    let mut bytes = vec![3, 0x9a, 0x06, 0x00, 0];
    bytes.extend(wire(ready()));
    let (mut rx, _open) = received(bytes, true).await;
    assert_eq!(soon(rx.recv()).await.unwrap(), Some(ready()));
    assert_eq!(soon(rx.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_no_message_is_an_error_and_no_wait() {
    let whole = wire(ending("whole"));
    let mut oversize = Vec::new();
    prost::encode_length_delimiter(65_537, &mut oversize).unwrap();
    for (bytes, end) in [
        (whole[..whole.len() - 1].to_vec(), true), // cut short
        (vec![0x80], true),                        // inside a length
        (oversize, false),                         // announced, never sent
        (vec![0xff; 10], false),                   // a length without end
        (vec![4, 0xff, 0xff, 0xff, 0xff], false),  // no protobuf
    ] {
        let (mut rx, _open) = received(bytes.clone(), end).await;
        let error = soon(rx.recv()).await.expect_err("no message");
        assert!(error.is_protocol(), "{bytes:?}: {error}");
    }
}

#[tokio::test]
async fn a_control_stream_reset_at_once_leaves_the_tunnel_alone() {
    let mut tunnel = tunnel(&settings()).await;
    let control = soon(tunnel.dialer.control()).await.unwrap();
    drop(control);
    settle().await;
    tunnel.assert_alive().await;
}
