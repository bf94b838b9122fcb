//! The streaming endpoint against clients that are strange, careless or
//! hostile.

use crate::support::client::{Tunnel, call, redeem, request, split, upgrade, websocket};
use crate::support::http::{Answer, get, read_answer, read_head, send};
use crate::support::node::Pod;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, same, says, until};
use anyhow::{Context as _, Result, ensure};
use std::net::SocketAddr;
use std::time::Duration;
use sternline_api::protocol::STREAM_PROTOCOL;
use sternline_api::v1alpha1::Ending;
use sternline_api::v1alpha1::control_message::Event;
use sternline_e2e::pattern::checksum;
use sternline_e2e::report::{Echo, Transfer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

themed! {
    every node:
        the_raw_form_carries_a_session,
        the_websocket_form_carries_a_session,
        a_unix_socket_carries_a_session,
        a_token_works_once,
        a_token_works_until_it_expires,
        an_unknown_token_is_not_found,
        without_an_upgrade_it_says_which,
        an_upgrade_to_something_else_is_refused,
        an_unknown_version_is_answered_with_the_known_ones,
        a_method_other_than_get_is_refused,
        bytes_before_the_101_are_refused,
        oversized_headers_are_refused,
        a_malformed_websocket_handshake_is_refused,
        a_client_that_says_nothing_is_dropped,
        a_client_that_never_reads_is_dropped,
        a_client_that_speaks_no_http2_is_dropped,
        a_thousand_careless_clients_leave_it_usable;
    container runtimes:
}

/// A session that waits for its client.
struct Waiting {
    address: SocketAddr,
    path: String,
    target: Target,
}

impl Waiting {
    async fn on(shim: &Shim, pod: &Pod) -> Result<Self> {
        let session = call(shim, request(pod, &[8080])).await?;
        let (address, path) = split(&session.url)?;
        let target = Target::start(Manner::Echo).await?;
        Ok(Self {
            address,
            path,
            target,
        })
    }

    /// The raw form with one thing changed.
    fn request(&self, from: &str, to: &str) -> String {
        upgrade(&self.path).replace(from, to)
    }

    /// Sends a request that must be refused with a status and a word.
    async fn refused(&self, request: &str, status: u16, word: &str) -> Result<Answer> {
        let answer = send(self.address, request.as_bytes()).await?;
        is_refusal(&answer, status, word)?;
        Ok(answer)
    }

    /// The token still leads to a working session.
    async fn still_works(&self, pod: &Pod) -> Result<()> {
        let stream = redeem(self.address, &self.path).await?;
        let mut tunnel = Tunnel::serve(stream, self.target.address()).await?;
        tunnel.ready().await?;
        let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
        Ok(())
    }
}

fn is_refusal(answer: &Answer, status: u16, word: &str) -> Result<()> {
    same(&format!("status of {answer:?}"), answer.status, status)?;
    let head = answer.head.to_lowercase();
    says("the head", &head, "content-type: application/json")?;
    let body: serde_json::Value = serde_json::from_str(&answer.body)
        .with_context(|| format!("the body is {:?}", answer.body))?;
    same("reason", body["reason"].as_str(), Some(word))?;
    let message = body["message"].as_str().unwrap_or_default();
    ensure!(!message.is_empty(), "no sentence in {body}");
    Ok(())
}

async fn the_raw_form_carries_a_session(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let stream = redeem(waiting.address, &waiting.path).await?;
    let mut tunnel = Tunnel::serve(stream, waiting.target.address()).await?;
    let ready = tunnel.ready().await?;
    same("addresses", ready.bound.len(), 2)?;
    let _: Echo = pod
        .probe("echo --to 127.0.0.1:8080 --bytes 1000000")
        .await?;
    // A goodbye ends it at once.
    tunnel.say(Event::Ending(Ending {
        code: "done".to_owned(),
        message: String::new(),
    }));
    shim.idle(SOON).await
}

async fn the_websocket_form_carries_a_session(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let mut stream = TcpStream::connect(waiting.address).await?;
    let request = websocket_request(&waiting.path, key, STREAM_PROTOCOL);
    stream.write_all(request.as_bytes()).await?;

    let answer = read_head(&mut stream).await?;

    same(&format!("{answer:?}"), answer.status, 101)?;
    says("the head", &answer.head, &derive_accept_key(key.as_bytes()))?;
    says("the head", &answer.head, STREAM_PROTOCOL)?;
    let io = websocket(stream).await;
    let mut tunnel = Tunnel::serve(io, waiting.target.address()).await?;
    tunnel.ready().await?;
    let _: Echo = pod
        .probe("echo --to 127.0.0.1:8080 --bytes 5000000")
        .await?;
    let (seed, bytes) = (4, 1_000_000);
    drop(tunnel);
    shim.idle(SOON).await?;

    // Half-closes too.
    let waiting = Waiting::on(&shim, &pod).await?;
    let answering = Target::start(Manner::AnswerAtTheEnd { seed, bytes }).await?;
    let mut stream = TcpStream::connect(waiting.address).await?;
    let request = websocket_request(&waiting.path, key, STREAM_PROTOCOL);
    stream.write_all(request.as_bytes()).await?;
    read_head(&mut stream).await?;
    let to = format!("127.0.0.1:{}", answering.port()).parse()?;
    let mut tunnel = Tunnel::serve(websocket(stream).await, to).await?;
    tunnel.ready().await?;
    let inside: Transfer = pod
        .probe("finish-first --to 127.0.0.1:8080 --send 1000000")
        .await?;
    same(
        "SHA-256 of the answer",
        inside.received_sha256,
        checksum(seed, bytes),
    )
}

fn websocket_request(path: &str, key: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: shim\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

async fn a_unix_socket_carries_a_session(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let socket = stage.directory().join("streaming.sock");
    let flags = format!("--streaming-address unix:{}", socket.display());
    let (pod, shim) = (stage.pod("web").await?, stage.shim(&flags).await?);
    let session = call(&shim, request(&pod, &[8081])).await?;
    says("the URL", &session.url, "http+unix://%2F")?;
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&socket)?.permissions().mode();
    same("mode", mode & 0o777, 0o600)
}

async fn a_token_works_once(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let _first = redeem(waiting.address, &waiting.path).await?;
    let second = upgrade(&waiting.path);
    waiting
        .refused(&second, 404, "token_unknown")
        .await
        .map(drop)
}

async fn a_token_works_until_it_expires(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("--token-ttl 1s").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let late = upgrade(&waiting.path);
    waiting.refused(&late, 404, "token_unknown").await?;
    shim.idle(SOON).await
}

async fn an_unknown_token_is_not_found(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    let address = shim.streaming_address()?;
    for path in [
        "/v1alpha1/sessions/nosuch",
        "/v1alpha1/sessions/",
        "/",
        "/v1alpha1/sessions/a/b",
    ] {
        let answer = send(address, upgrade(path).as_bytes()).await?;
        is_refusal(&answer, 404, "token_unknown").with_context(|| path.to_owned())?;
    }
    Ok(())
}

async fn without_an_upgrade_it_says_which(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let answer = get(waiting.address, &waiting.path).await?;
    is_refusal(&answer, 426, "upgrade_required")?;
    let head = answer.head.to_lowercase();
    says("the head", &head, "upgrade: ")?;
    says("the head", &head, "sternline")?;
    says("the head", &head, "websocket")?;
    waiting.still_works(&pod).await
}

async fn an_upgrade_to_something_else_is_refused(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let wrong = waiting.request("Upgrade: sternline", "Upgrade: SPDY/3.1");
    waiting.refused(&wrong, 426, "upgrade_required").await?;
    waiting.still_works(&pod).await
}

async fn an_unknown_version_is_answered_with_the_known_ones(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let raw = waiting.request(STREAM_PROTOCOL, "v9.reverse.sternline.dev");
    let websocket = websocket_request(
        &waiting.path,
        "dGhlIHNhbXBsZSBub25jZQ==",
        "v9.reverse.sternline.dev",
    );
    for request in [raw, websocket] {
        let answer = waiting
            .refused(&request, 400, "version_unsupported")
            .await?;
        let body: serde_json::Value = serde_json::from_str(&answer.body)?;
        let supported = serde_json::json!([STREAM_PROTOCOL]);
        same("supported", &body["supported"], &supported)?;
    }
    waiting.still_works(&pod).await
}

async fn a_method_other_than_get_is_refused(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let post = waiting.request("GET ", "POST ");
    waiting.refused(&post, 405, "invalid_request").await?;
    waiting.still_works(&pod).await
}

async fn bytes_before_the_101_are_refused(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let early = upgrade(&waiting.path) + "early";
    let answer = send(waiting.address, early.as_bytes()).await?;
    // The 101 is on its way when they are noticed: no status is left to refuse
    // with, and the session ends.
    same(&format!("status of {answer:?}"), answer.status, 101)?;
    same("what follows the 101", answer.body.as_str(), "")?;
    shim.idle(SOON).await
}

async fn oversized_headers_are_refused(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let padding = format!("Host: shim\r\nX-Padding: {}", "x".repeat(1024 * 1024));
    let huge = waiting.request("Host: shim", &padding);
    let answer = send(waiting.address, huge.as_bytes()).await?;
    same("status", answer.status, 431)?;
    let many: String = (0..1000).map(|n| format!("\r\nX-{n}: y")).collect();
    let many = waiting.request("Host: shim", &format!("Host: shim{many}"));
    let answer = send(waiting.address, many.as_bytes()).await?;
    same("status", answer.status, 431)?;
    waiting.still_works(&pod).await
}

async fn a_malformed_websocket_handshake_is_refused(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let good = websocket_request(&waiting.path, "dGhlIHNhbXBsZSBub25jZQ==", STREAM_PROTOCOL);
    for (from, to) in [
        ("Version: 13", "Version: 8"),
        ("Sec-WebSocket-Key: ", "X-Key: "),
    ] {
        let answer = send(waiting.address, good.replace(from, to).as_bytes()).await?;
        is_refusal(&answer, 400, "invalid_request").with_context(|| to.to_owned())?;
    }
    Ok(())
}

async fn a_client_that_says_nothing_is_dropped(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    for beginning in ["", "GET /v1alpha1/sess"] {
        let mut stream = TcpStream::connect(shim.streaming_address()?).await?;
        stream.write_all(beginning.as_bytes()).await?;
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest));
        closed.await.context("the connection stays open")?.ok();
    }
    Ok(())
}

async fn a_client_that_never_reads_is_dropped(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--ping-interval 500ms").await?;
    let waiting = Waiting::on(&shim, &pod).await?;
    // Upgrades, and neither reads nor writes after it: no HTTP/2 ever comes.
    let mut stream = TcpStream::connect(waiting.address).await?;
    stream.write_all(upgrade(&waiting.path).as_bytes()).await?;

    shim.idle(Duration::from_secs(60)).await?;

    let output = pod.run("listen --address 127.0.0.1:8080").await?;
    same("free", (output.code, output.stderr), (0, String::new()))
}

async fn a_client_that_speaks_no_http2_is_dropped(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let waiting = Waiting::on(&shim, &pod).await?;
    let mut stream = redeem(waiting.address, &waiting.path).await?;
    stream.write_all(&[0x58; 4096]).await?;
    shim.idle(SOON).await?;
    let output = pod.run("listen --address 127.0.0.1:8080").await?;
    same("free", (output.code, output.stderr), (0, String::new()))
}

async fn a_thousand_careless_clients_leave_it_usable(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let address = shim.streaming_address()?;
    // The first session makes what stays: connections to the runtime.
    let first = Waiting::on(&shim, &pod).await?;
    first.still_works(&pod).await?;
    shim.idle(SOON).await?;
    let before = shim.usage()?.descriptors;
    let mut idle = Vec::new();
    for number in 0..1000 {
        let mut stream = TcpStream::connect(address).await?;
        let garbage: &[u8] = match number % 4 {
            0 => b"\r\n\r\n\0\0\0garbage",
            1 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            2 => &[0x16, 3, 1, 2, 0, 1, 0],
            _ => {
                idle.push(stream);
                continue;
            }
        };
        stream.write_all(garbage).await?;
        stream.shutdown().await?;
        let _ = read_answer(&mut stream).await;
    }
    let waiting = Waiting::on(&shim, &pod).await?;
    waiting.still_works(&pod).await?;
    drop((idle, waiting));
    let what = format!("the shim to be back at {before} descriptors");
    until(&what, SOON, || async {
        Ok((shim.usage()?.descriptors <= before).then_some(()))
    })
    .await
}
