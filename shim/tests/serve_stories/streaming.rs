//! The streaming endpoint, byte by byte.

use crate::support::client::{self, is_free, upgrade};
use crate::support::{Client, Head, Node, eventually, free, head_of, pod, request, within};
use std::time::Duration;
use sternline_api::protocol::STREAM_PROTOCOL;
use sternline_tunnel::websocket::WebSocketIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn ask(node: &Node, text: &str) -> Head {
    let mut io = node.stream().await;
    client::send(&mut io, text).await;
    head_of(&mut io).await
}

fn reason(head: &Head) -> &str {
    head.body["reason"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_token_works_once_and_only_known_ones_do() {
    let node = Node::start(&[]).await;
    let url = node.open(request(&[free()])).await.url;
    let mut client = Client::serve(node.upgrade(&url).await, "first").await;
    client.ready().await;
    let again = node.try_upgrade(&url).await.expect_err("used");
    assert_eq!((again.status, reason(&again)), (404, "token_unknown"));
    let unknown = node
        .try_upgrade(&"0".repeat(32))
        .await
        .expect_err("unknown");
    assert_eq!((unknown.status, reason(&unknown)), (404, "token_unknown"));
    assert_eq!(
        node.metric("sternline_errors_total{type=\"token_unknown\"}"),
        2.0
    );
    assert_eq!(node.sessions().await.len(), 1, "the session goes on");
}

#[tokio::test]
async fn a_token_that_nobody_brings_frees_everything_at_its_expiry() {
    let node = Node::start(&["--token-ttl", "150ms"]).await;
    let answer = node.open(request(&[free()])).await;
    assert!(!is_free(&answer.bound[0]));
    eventually("the end", async || node.sessions().await.is_empty()).await;
    assert!(is_free(&answer.bound[0]) && node.at_rest());
    let late = node.try_upgrade(&answer.url).await.expect_err("expired");
    assert_eq!((late.status, reason(&late)), (404, "token_unknown"));
    assert_eq!(
        node.metric("sternline_sessions_total{end=\"token_expired\"}"),
        1.0
    );
}

/// A client that brought its token in time is let in, however long it then takes
/// to speak.
#[tokio::test]
async fn a_client_that_came_in_time_is_not_late() {
    let node = Node::start(&["--token-ttl", "3s"]).await;
    let url = node.open(request(&[free()])).await.url;
    let io = node.upgrade(&url).await;
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let mut client = Client::serve(io, "first").await;
    client.ready().await;
}

#[tokio::test]
async fn what_cannot_be_upgraded_is_told_why_and_costs_no_token() {
    let node = Node::start(&[]).await;
    let url = node.open(request(&[free()])).await.url;
    let path = node.path(&url);
    let good = upgrade(&path);
    let websocket = |fields: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: {STREAM_PROTOCOL}\r\n{fields}\r\n"
        )
    };
    let cases = [
        (
            format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"),
            426,
            "upgrade_required",
        ),
        (
            good.replace("Upgrade: sternline", "Upgrade: SPDY/3.1"),
            426,
            "upgrade_required",
        ),
        (
            good.replace("HTTP/1.1", "HTTP/1.0"),
            426,
            "upgrade_required",
        ),
        (
            good.replace(STREAM_PROTOCOL, "v9.reverse.sternline.dev"),
            400,
            "version_unsupported",
        ),
        (good.replace("GET", "POST"), 405, "invalid_request"),
        (good.replace("/sessions/", "/else/"), 404, "token_unknown"),
        (
            websocket("Sec-WebSocket-Version: 13\r\n"),
            400,
            "invalid_request",
        ),
        (
            websocket(
                "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ),
            400,
            "invalid_request",
        ),
    ];
    for (text, status, word) in cases {
        let head = ask(&node, &text).await;
        assert_eq!((head.status, reason(&head)), (status, word), "{text}");
        assert!(head.text.contains("content-type: application/json"));
        assert!(head.body["message"].as_str().is_some_and(|m| m.len() > 20));
        match status {
            426 => assert!(head.text.contains("upgrade: sternline, websocket")),
            405 => assert!(head.text.contains("allow: get")),
            _ => {}
        }
        if word == "version_unsupported" {
            assert_eq!(head.body["supported"][0], STREAM_PROTOCOL);
        }
    }
    Client::serve(node.upgrade(&url).await, "first")
        .await
        .ready()
        .await;
}

#[tokio::test]
async fn a_head_may_be_16_kib_long_and_not_much_longer() {
    let node = Node::start(&[]).await;
    let url = node.open(request(&[free()])).await.url;
    let good = upgrade(&node.path(&url));
    let padded = |len: usize| {
        let field = "X-Padding: \r\n".len();
        let padding = "x".repeat(len - good.len() - field);
        good.replace("\r\n\r\n", &format!("\r\nX-Padding: {padding}\r\n\r\n"))
    };
    let head = ask(&node, &padded(64 * 1024)[..40 * 1024]).await;
    assert_eq!(head.status, 431);
    assert_eq!(ask(&node, &padded(16 * 1024)).await.status, 101);
}

#[tokio::test]
async fn both_forms_carry_connections() {
    let node = Node::start(&[]).await;
    let raw = node.open(request(&[free()])).await;
    let mut client = Client::serve(node.upgrade(&raw.url).await, "raw").await;
    client.ready().await;
    let (greeting, mut io) = pod(&raw.bound[0]).await;
    assert_eq!(greeting, "raw/0");
    io.write_all(b"there and back").await.expect("sent");
    io.shutdown().await.expect("shut down");
    let mut echo = String::new();
    within("the echo", io.read_to_string(&mut echo))
        .await
        .expect("an orderly end");
    assert_eq!(echo, "there and back");

    let other = node.open(request(&[free()])).await;
    let mut io = node.stream().await;
    let text = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v0.example, {STREAM_PROTOCOL}\r\n\r\n",
        node.path(&other.url)
    );
    client::send(&mut io, &text).await;
    let head = head_of(&mut io).await;
    assert_eq!(head.status, 101);
    assert!(
        head.text.contains("connection: upgrade\r\n"),
        "a proxy may take anything more for its own: {}",
        head.text
    );
    assert!(
        head.text.contains("s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{}",
        head.text
    );
    assert!(
        head.text
            .contains(&format!("sec-websocket-protocol: {STREAM_PROTOCOL}"))
    );
    let io = Box::new(WebSocketIo::client(io).await);
    let mut client = Client::serve(io, "websocket").await;
    client.ready().await;
    assert_eq!(pod(&other.bound[0]).await.0, "websocket/0");
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let node = Node::start(&["--streaming-address", "UNIX"]).await;
    let answer = node.open(request(&[free()])).await;
    assert!(answer.url.starts_with("http+unix://%2F"), "{}", answer.url);
    let mut client = Client::serve(node.upgrade(&answer.url).await, "unix").await;
    client.ready().await;
    assert_eq!(pod(&answer.bound[0]).await.0, "unix/0");
}

#[tokio::test]
async fn bytes_before_the_101_end_the_session() {
    let node = Node::start(&[]).await;
    let answer = node.open(request(&[free()])).await;
    let mut io = node.stream().await;
    let hasty = upgrade(&node.path(&answer.url)) + "too early";
    client::send(&mut io, &hasty).await;
    within("the close", async {
        let mut rest = Vec::new();
        let _ = io.read_to_end(&mut rest).await;
    })
    .await;
    eventually("the end", async || node.sessions().await.is_empty()).await;
    assert!(is_free(&answer.bound[0]));
    assert_eq!(
        node.metric("sternline_sessions_total{end=\"protocol_error\"}"),
        1.0
    );
}

#[tokio::test]
async fn a_client_that_leaves_before_its_tunnel_is_up_ends_the_session() {
    let node = Node::start(&[]).await;
    let hold = crate::support::held(request(&[free()]), Duration::from_secs(600));
    let answer = node.open(hold).await;
    drop(node.upgrade(&answer.url).await);
    // It has no ticket to come back with, so there is nothing to hold for.
    eventually("the end", async || node.sessions().await.is_empty()).await;
    assert!(is_free(&answer.bound[0]) && node.at_rest());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_speaks_no_http2_is_given_up() {
    let node = Node::start(&["--dial-timeout", "5m"]).await;
    let hold = crate::support::held(request(&[free()]), Duration::from_secs(600));
    let answer = node.open(hold).await;
    let _mute = node.upgrade(&answer.url).await;
    let began = tokio::time::Instant::now();
    while !node.sessions().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(began.elapsed() < Duration::from_secs(30), "no bound");
    }
    assert!(is_free(&answer.bound[0]));
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_is_cut_off() {
    let node = Node::start(&[]).await;
    let mut io = node.stream().await;
    let began = tokio::time::Instant::now();
    client::send(&mut io, "GET /v1alpha1").await;
    let mut rest = Vec::new();
    within("the cut", io.read_to_end(&mut rest))
        .await
        .expect("closed");
    assert!(began.elapsed() < Duration::from_secs(15));
}
