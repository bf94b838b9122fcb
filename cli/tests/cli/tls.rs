//! `sternline forward` to a node that is reached over TLS.

use crate::support::{Authority, Fake, Front, Node, Program, Run};
use sternline_api::v1alpha1 as pb;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const FORWARD: [&str; 3] = ["forward", "sandbox/web", "8080:3000"];

/// A forward that comes up over TLS, and ends when it is asked to.
async fn comes_up(host: &str, config: rustls::ServerConfig, flags: &[&str], roots: Option<&str>) {
    let front = Front::new().await;
    let mut node = Node::behind(front.url(host)).await;
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = format!("8080:{}", target.local_addr().unwrap().port());
    front.serve(config, node.fake.dir.path().join("streaming.sock"));
    let args = [&["forward", "sandbox/web", &spec], flags].concat();
    let mut command = Program::command(&node.fake, &args);
    if let Some(roots) = roots {
        command.env("SSL_CERT_FILE", roots);
    }
    let mut program = Program::spawn(command);
    let tunnel = node.tunnel().await;
    assert!(tunnel.head.contains(&format!("{host}:")), "{}", tunnel.head);
    program.line().await;
    let (mut pod, _relayed) = tunnel.connect(0).await;
    let (mut io, _) = target.accept().await.unwrap();
    pod.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    io.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    program.signal(nix::sys::signal::Signal::SIGTERM);
    let run = program.end().await;
    assert_eq!(run.code, 0, "{run:?}");
    run.is_clean();
}

/// The end of a forward that does not come up.
async fn refused(host: &str, config: rustls::ServerConfig, flags: &[&str]) -> Run {
    let front = Front::new().await;
    let node = Node::behind(front.url(host)).await;
    front.serve(config, node.fake.dir.path().join("streaming.sock"));
    let run = Program::run(&node.fake, &[&FORWARD[..], flags].concat()).await;
    assert!(run.stdout.is_empty(), "{run:?}");
    // What was bound is given back.
    assert_eq!(node.fake.requests().stopped, ["s1"]);
    run
}

#[tokio::test]
async fn a_node_that_proves_who_it_is_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::new("node CA");
    let file = ca.write(&dir.path().join("ca.crt"));
    let trusted = ["--ca-file", &file];
    comes_up(
        "127.0.0.1",
        ca.server("127.0.0.1", 4000, None),
        &trusted,
        None,
    )
    .await;
    comes_up(
        "localhost",
        ca.server("localhost", 4000, None),
        &trusted,
        None,
    )
    .await;
    let named = ["--ca-file", &file, "--tls-server-name", "node-1.example"];
    comes_up(
        "127.0.0.1",
        ca.server("node-1.example", 4000, None),
        &named,
        None,
    )
    .await;
    // The CAs of the system, wherever it says that they are.
    comes_up(
        "localhost",
        ca.server("localhost", 4000, None),
        &[],
        Some(&file),
    )
    .await;
}

#[tokio::test]
async fn a_node_that_cannot_is_named_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, other) = (Authority::new("node CA"), Authority::new("another CA"));
    let twin = Authority::new("node CA");
    let file = ca.write(&dir.path().join("ca.crt"));
    let trusted = ["--ca-file", &file];
    let cases = [
        (
            other.server("127.0.0.1", 4000, None),
            "is not signed by a CA of --ca-file",
        ),
        (
            twin.server("127.0.0.1", 4000, None),
            "another CA of the same name",
        ),
        (
            ca.server("127.0.0.1", 2001, None),
            "it must be renewed on the node",
        ),
        (
            ca.server("node-2", 4000, None),
            "is not for 127.0.0.1 but for node-2",
        ),
    ];
    for (config, sentence) in cases {
        refused("127.0.0.1", config, &trusted)
            .await
            .failed(6, sentence);
    }
    let named = ["--ca-file", &file, "--tls-server-name", "node-3"];
    refused("127.0.0.1", ca.server("127.0.0.1", 4000, None), &named)
        .await
        .failed(6, "is not for node-3");
}

#[tokio::test]
async fn a_node_that_wants_a_certificate_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, clients) = (Authority::new("node CA"), Authority::new("client CA"));
    let file = ca.write(&dir.path().join("ca.crt"));
    let config = || ca.server("127.0.0.1", 4000, Some(&clients));
    refused("127.0.0.1", config(), &["--ca-file", &file])
        .await
        .failed(
            4,
            "asks for a client certificate: give one with --client-cert",
        );
    let (cert, key) = ca.issue_to(dir.path());
    let foreign = [
        "--ca-file",
        &file,
        "--client-cert",
        &cert,
        "--client-key",
        &key,
    ];
    // What the node says may come before the request is on its way, or after.
    for _ in 0..10 {
        refused("127.0.0.1", config(), &foreign)
            .await
            .failed(4, "does not know the CA");
    }
    let (cert, key) = clients.issue_to(dir.path());
    let known = [
        "--ca-file",
        &file,
        "--client-cert",
        &cert,
        "--client-key",
        &key,
    ];
    comes_up("127.0.0.1", config(), &known, None).await;
}

#[tokio::test]
async fn what_is_no_tls_of_today_is_explained_in_bounded_time() {
    /// A fatal alert, protocol_version (RFC 8446, section 6.2).
    const TOO_NEW: &[u8] = &[0x15, 3, 3, 0, 2, 2, 70];
    let dir = tempfile::tempdir().unwrap();
    let file = Authority::new("node CA").write(&dir.path().join("ca.crt"));
    let cases: [(Option<&'static [u8]>, i32, &str); 4] = [
        (
            Some(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            1,
            "does not speak TLS",
        ),
        (Some(TOO_NEW), 6, "no TLS version or cipher in common"),
        (Some(b""), 7, "broke off during the TLS handshake"),
        (None, 6, "did not answer within 300ms"),
    ];
    for (what, code, sentence) in cases {
        let front = Front::new().await;
        let node = Node::behind(front.url("127.0.0.1")).await;
        front.say(what);
        let trusting = [&FORWARD[..], &["--ca-file", &file]].concat();
        let hasty = [&trusting[..], &["--request-timeout", "300ms"]].concat();
        // Time enough for those that answer.
        let args = if what.is_some() { trusting } else { hasty };
        Program::run(&node.fake, &args).await.failed(code, sentence);
    }
}

#[tokio::test]
async fn bad_files_are_found_before_anything_is_contacted() {
    let fake = Fake::builder()
        .forward(|_| Ok(pb::ReversePortForwardResponse::default()))
        .start()
        .await;
    for (flags, sentence) in [
        (
            ["--ca-file", "/nowhere/ca.crt"],
            "--ca-file /nowhere/ca.crt: no such file",
        ),
        (
            ["--tls-server-name", "a b"],
            "neither a DNS name nor an IP address",
        ),
    ] {
        let run = Program::run(&fake, &[&FORWARD[..], &flags].concat()).await;
        run.failed(2, sentence);
    }
    assert!(fake.requests().forwards.is_empty());
}
