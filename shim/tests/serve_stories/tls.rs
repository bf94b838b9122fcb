//! The streaming endpoint over TLS.

use crate::support::client::{self, upgrade};
use crate::support::tls::{Authority, Files, connect, stream};
use crate::support::{Client, Node, eventually, free, head_of, pod, request, within};
use rustls::client::ClientConfig;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn start(files: &Files, more: &[&str]) -> Node {
    let flags = files.flags();
    let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    flags.extend(more);
    Node::start(&flags).await
}

fn address(node: &Node) -> &str {
    node.streaming.strip_prefix("https://").expect("over TLS")
}

/// Redeems a URL over TLS.
async fn come(node: &Node, url: &str, config: ClientConfig) -> Client {
    let mut io = stream(address(node), config).await;
    client::send(&mut io, &upgrade(&node.path(url))).await;
    assert_eq!(head_of(&mut io).await.status, 101);
    Client::serve(io, "tls").await
}

fn handshakes(node: &Node, result: &str) -> f64 {
    node.metric(&format!(
        "sternline_streaming_handshakes_total{{result=\"{result}\"}}"
    ))
}

async fn counted(node: &Node, result: &str, count: f64) {
    let what = format!("{count} handshakes that ended {result}");
    eventually(&what, async || handshakes(node, result) == count).await;
}

/// What Status says about the certificate: the word, and the sentence.
async fn certificate(node: &Node) -> (String, String) {
    let mut call = node.call.clone();
    let status = within("Status", call.status(pb::StatusRequest {})).await;
    let conditions = status.expect("an answer").into_inner().conditions;
    let mut found = conditions.into_iter();
    let found = found.find(|condition| condition.r#type == "StreamingCertificate");
    let found = found.expect("a condition");
    assert_eq!(found.status, found.reason.is_empty());
    (found.reason, found.message)
}

#[tokio::test]
async fn a_session_runs_over_tls() {
    let ca = Authority::new();
    let files = Files::new(&ca.issue("127.0.0.1"));
    let node = start(&files, &[]).await;
    let answer = node.open(request(&[free()])).await;
    let mut client = come(&node, &answer.url, ca.client(None)).await;
    client.ready().await;
    let (greeting, mut io) = pod(&answer.bound[0]).await;
    assert_eq!(greeting, "tls/0");
    io.write_all(b"there and back").await.expect("sent");
    io.shutdown().await.expect("shut down");
    let mut echo = String::new();
    within("the echo", io.read_to_string(&mut echo))
        .await
        .expect("an orderly end");
    assert_eq!(echo, "there and back");
    counted(&node, "ok", 1.0).await;
    let expiry = node.metric("sternline_streaming_certificate_expiry_timestamp_seconds");
    assert!(expiry > 1e9, "{expiry}");
    assert_eq!(certificate(&node).await, (String::new(), String::new()));
}

#[tokio::test]
async fn the_host_of_the_url_can_be_named() {
    let files = Files::new(&Authority::new().issue("node-1"));
    let flags = [
        "--streaming-address",
        "0.0.0.0:0",
        "--streaming-host",
        "node-1",
    ];
    let node = start(&files, &flags).await;
    let url = node.open(request(&[free()])).await.url;
    assert!(url.starts_with("https://node-1:"), "{url}");
}

#[tokio::test]
async fn inside_is_http_1_1_and_nothing_else() {
    let ca = Authority::new();
    let node = start(&Files::new(&ca.issue("127.0.0.1")), &[]).await;
    let offering = |protocols: &[&[u8]]| {
        let mut config = ca.client(None);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config
    };
    let io = connect(address(&node), offering(&[b"h2", b"http/1.1"])).await;
    let io = io.expect("TLS");
    assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let error = connect(address(&node), offering(&[b"h2"])).await;
    let error = error.expect_err("nothing in common").to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    counted(&node, "failed", 1.0).await;
}

#[tokio::test]
async fn a_refusal_ends_orderly() {
    let ca = Authority::new();
    let node = start(&Files::new(&ca.issue("127.0.0.1")), &[]).await;
    let mut io = stream(address(&node), ca.client(None)).await;
    client::send(&mut io, &upgrade("/v1alpha1/sessions/nobody-has-this")).await;
    let mut answer = String::new();
    within("the refusal", io.read_to_string(&mut answer))
        .await
        .expect("an end with close_notify");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(answer.contains("token_unknown"), "{answer}");
}

/// A first message that offers TLS 1.2 at most, as RFC 5246 has it.
fn older_client() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    // No session, one cipher suite, no compression.
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    // supported_groups and signature_algorithms.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut message = vec![1, 0, 0, hello.len() as u8];
    message.extend(hello);
    let mut record = vec![0x16, 3, 1, 0, message.len() as u8];
    record.extend(message);
    record
}

#[tokio::test]
async fn what_is_no_tls_of_today_is_turned_away() {
    let node = start(&Files::new(&Authority::new().issue("127.0.0.1")), &[]).await;
    let answer_to = async |bytes: &[u8]| {
        let mut io = TcpStream::connect(address(&node)).await.expect("served");
        io.write_all(bytes).await.expect("sent");
        let mut answer = Vec::new();
        within("the close", io.read_to_end(&mut answer))
            .await
            .expect("no reset");
        answer
    };
    let clear = answer_to(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let clear = String::from_utf8(clear).expect("text");
    assert!(clear.starts_with("HTTP/1.1 400 "), "{clear}");
    assert!(clear.contains("speaks TLS only"), "{clear}");
    assert_eq!(answer_to(b"\x00garbage").await, b"");
    counted(&node, "not_tls", 2.0).await;
    // A fatal alert, protocol_version (RFC 8446, section 6.2).
    let old = answer_to(&older_client()).await;
    assert_eq!(old, [0x15, 3, 3, 0, 2, 2, 70]);
    counted(&node, "failed", 1.0).await;
    // A handshake record whose content is none.
    answer_to(&[0x16, 3, 1, 0, 4, 99, 99, 99, 99]).await;
    counted(&node, "failed", 2.0).await;
}

#[tokio::test]
async fn who_is_slow_is_cut_off() {
    let flags = ["--streaming-tls-handshake-timeout", "200ms"];
    let node = start(&Files::new(&Authority::new().issue("127.0.0.1")), &flags).await;
    let mut silent = TcpStream::connect(address(&node)).await.expect("served");
    let mut slow = TcpStream::connect(address(&node)).await.expect("served");
    slow.write_all(&older_client()[..20]).await.expect("sent");
    for io in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let closed = within("the close", io.read_to_end(&mut rest)).await;
        // Bytes that nobody read make the close a reset.
        assert!(closed.is_err() || rest.is_empty(), "{rest:?}");
    }
    counted(&node, "slow", 2.0).await;
}

#[tokio::test]
async fn the_silent_do_not_shut_the_others_out() {
    let ca = Authority::new();
    let flags = ["--streaming-tls-handshake-timeout", "5m"];
    let node = start(&Files::new(&ca.issue("127.0.0.1")), &flags).await;
    let answer = node.open(request(&[free()])).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(address(&node)).await.expect("served"));
    }
    let mut client = come(&node, &answer.url, ca.client(None)).await;
    client.ready().await;
    eventually("the eldest to go", async || {
        handshakes(&node, "evicted") >= 45.0
    })
    .await;
}

#[tokio::test]
async fn with_a_client_ca_a_certificate_of_it_is_needed() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&ca.issue("127.0.0.1"));
    let client_ca = files.write("clients.crt", &clients.pem());
    let flags = ["--streaming-client-ca", client_ca.to_str().expect("text")];
    let node = start(&files, &flags).await;
    let answer = node.open(request(&[free()])).await;
    let foreign = ca.issue("someone");
    for (identity, alert) in [(None, "CertificateRequired"), (Some(&foreign), "UnknownCA")] {
        // The client's part ends before the node looks at it.
        let io = connect(address(&node), ca.client(identity)).await;
        let mut io = io.expect("the client's part");
        let _ = io
            .write_all(upgrade(&node.path(&answer.url)).as_bytes())
            .await;
        let error = within("the alert", io.read_u8()).await;
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(alert), "{error}");
    }
    counted(&node, "client_certificate", 2.0).await;
    let known = clients.issue("someone");
    let mut client = come(&node, &answer.url, ca.client(Some(&known))).await;
    client.ready().await;
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_a_bad_one_for_none() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new(&old.issue("127.0.0.1"));
    let node = start(&files, &[]).await;
    let before = node.open(request(&[free()])).await;
    let after = node.open(request(&[free()])).await;
    let mut client = come(&node, &before.url, old.client(None)).await;
    client.ready().await;
    let (_, mut io) = pod(&before.bound[0]).await;

    let next = new.issue("127.0.0.1");
    files.write("tls.crt", &next.cert);
    let reloads = |result: &str| {
        node.metric(&format!(
            "sternline_streaming_certificate_reloads_total{{result=\"{result}\"}}"
        ))
    };
    eventually("the complaint", async || reloads("failed") == 1.0).await;
    let (word, sentence) = certificate(&node).await;
    assert_eq!(word, "certificate_not_loaded");
    assert!(sentence.contains("does not belong"), "{sentence}");
    assert!(connect(address(&node), old.client(None)).await.is_ok());

    files.put(&next);
    eventually("the new one", async || reloads("loaded") == 1.0).await;
    assert_eq!(certificate(&node).await.0, "");
    assert!(connect(address(&node), old.client(None)).await.is_err());
    counted(&node, "refused", 1.0).await;
    let mut second = come(&node, &after.url, new.client(None)).await;
    second.ready().await;

    // Meanwhile the first goes on.
    io.write_all(b"still here\n").await.expect("sent");
    let mut echo = [0; 11];
    within("the echo", io.read_exact(&mut echo))
        .await
        .expect("an echo");
    assert_eq!(&echo, b"still here\n");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(reloads("failed"), 1.0, "each is complained about once");
}
