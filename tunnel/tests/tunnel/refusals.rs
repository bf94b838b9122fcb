//! What is refused, and how the refusal reads on the other side.

use crate::support::{acceptor, ended, incoming, request, settings, soon, tcp_pair, tunnel};
use h2::client::SendRequest;
use h2::ext::Protocol;
use http::{Method, Request, Response, StatusCode};
use sternline_api::Reason;
use sternline_tunnel::{End, IncomingStream};
use tokio::sync::mpsc::UnboundedReceiver;

type Requests = SendRequest<bytes::Bytes>;

/// A foreign node: an ordinary HTTP/2 client.
async fn foreign() -> (Requests, UnboundedReceiver<IncomingStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (requests, connection) = h2::client::handshake(far).await.expect("handshake");
    tokio::spawn(connection);
    let (_acceptor, streams) = acceptor(near, &settings()).await;
    crate::support::until(|| requests.is_extended_connect_protocol_enabled()).await;
    (requests, streams)
}

fn connect() -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri("10.0.0.7:8080")
        .body(())
        .expect("valid")
}

async fn status(requests: &mut Requests, request: Request<()>) -> StatusCode {
    answer(requests, request).await.status()
}

async fn answer(requests: &mut Requests, request: Request<()>) -> Response<h2::RecvStream> {
    let (answer, _body) = requests.send_request(request, false).expect("open");
    soon(answer).await.expect("an answer")
}

#[tokio::test]
async fn only_connect_is_served() {
    let (mut requests, mut streams) = foreign().await;
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        let request = Request::builder()
            .method(method)
            .uri("http://localhost/")
            .body(())
            .unwrap();
        let status = status(&mut requests, request).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
    assert!(streams.try_recv().is_err());
}

#[tokio::test]
async fn an_unknown_protocol_is_not_implemented() {
    let (mut requests, mut streams) = foreign().await;
    let mut request = connect();
    *request.uri_mut() = "http://session/x".parse().unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("connect-udp"));
    let status = status(&mut requests, request).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert!(streams.try_recv().is_err());
}

#[tokio::test]
async fn oversize_headers_are_refused_and_the_tunnel_lives() {
    let (mut requests, mut streams) = foreign().await;
    let mut request = connect();
    let value = "x".repeat(20_000).parse().unwrap();
    request.headers_mut().insert("x-large", value);
    let status = status(&mut requests, request).await;
    assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let (answer, _body) = requests.send_request(connect(), false).unwrap();
    let _open = incoming(&mut streams).await.accept().unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stream_tells_what_the_node_said_and_no_more() {
    let (mut requests, mut streams) = foreign().await;
    for (listener, expected) in [
        (None, None),
        (Some("4294967295"), Some(u32::MAX)),
        (Some("4294967296"), None),
        (Some("-1"), None),
        (Some("7 "), Some(7)),
        (Some("seven"), None),
    ] {
        let mut request = connect();
        if let Some(listener) = listener {
            let value = listener.parse().unwrap();
            request.headers_mut().insert("sternline-listener", value);
        }
        let (_answer, _body) = requests.send_request(request, false).unwrap();
        let stream = incoming(&mut streams).await;
        let known = stream.listener_id();
        if listener == Some("7 ") {
            // Space around a value is no part of it, or makes it no number.
            assert!(known.is_none() || known == expected);
        } else {
            assert_eq!(known, expected, "{listener:?}");
        }
        assert_eq!(stream.authority(), "10.0.0.7:8080");
        assert_eq!(stream.peer(), None);
    }
}

#[tokio::test]
async fn the_peers_address_is_read_in_every_form() {
    let (mut requests, mut streams) = foreign().await;
    for (field, expected) in [
        ("for=\"127.0.0.1:4711\"", Some("127.0.0.1:4711")),
        ("For=\"[::1]:4711\";proto=tcp", Some("[::1]:4711")),
        ("proto=tcp; for=\"[::1]:4711\"", Some("[::1]:4711")),
        ("for=unknown", None),
        ("", None),
        (";;=\";", None),
    ] {
        let mut request = connect();
        let value = field.parse().unwrap();
        request.headers_mut().insert("forwarded", value);
        let (_answer, _body) = requests.send_request(request, false).unwrap();
        let peer = incoming(&mut streams).await.peer();
        assert_eq!(peer, expected.map(|peer| peer.parse().unwrap()), "{field}");
    }
}

#[tokio::test]
async fn our_own_node_names_listener_address_and_peer() {
    let mut tunnel = tunnel(&settings()).await;
    for address in ["127.0.0.1:8080", "[::1]:8080"] {
        let mut connect = request(42);
        connect.bound = address.parse().unwrap();
        connect.peer = "[::1]:40000".parse().unwrap();
        let _stream = tunnel.dialer.connect(connect).await.unwrap();
        let stream = incoming(&mut tunnel.streams).await;
        assert_eq!(stream.listener_id(), Some(42));
        assert_eq!(stream.authority(), address);
        assert_eq!(stream.peer(), Some(connect.peer));
    }
}

#[tokio::test]
async fn a_rejection_carries_its_status_and_reason() {
    let (mut requests, mut streams) = foreign().await;
    let (answer, _body) = requests.send_request(connect(), false).unwrap();
    let stream = incoming(&mut streams).await;
    stream.reject(Reason::TargetRefused, "localhost:3000: \"refused\"\r\n");
    let answer = soon(answer).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    let why = answer.headers()["proxy-status"].to_str().unwrap();
    assert_eq!(
        why,
        "sternline; error=connection_refused; details=\"localhost:3000: refused\""
    );
    assert!(answer.into_body().is_end_stream());
}

#[tokio::test]
async fn a_rejection_resets_the_pod_and_names_its_reason() {
    let mut tunnel = tunnel(&settings()).await;
    for reason in [
        Reason::TargetRefused,
        Reason::TargetTimeout,
        Reason::TargetUnresolved,
        Reason::TargetUnreachable,
        Reason::TargetFailed,
        Reason::UnknownListener,
        Reason::ConnectionLimit,
    ] {
        let (near, mut pod) = tcp_pair().await;
        let stream = tunnel.dialer.connect(request(7)).await.unwrap();
        let node = tunnel.node.relay(near, stream);
        incoming(&mut tunnel.streams).await.reject(reason, "why");
        crate::support::assert_reset(&mut pod).await;
        assert_eq!(ended(node).await.end, End::Refused(reason));
    }
    tunnel.assert_nothing_held().await;
}
