//! `sternline forward` against servers that break, lie or attack before there is
//! a tunnel: each ends in one clear sentence, in bounded time, and reaches
//! nothing that was not typed.

use crate::support::{Fake, Program, Raw};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use sternline_api::v1alpha1 as pb;
use sternline_api::{Failure, Reason};
use tokio::net::TcpListener;

const FORWARD: [&str; 3] = ["forward", "sandbox/web", "8080:3000"];

/// With a short time-out, for servers that hang.
const HASTY: [&str; 5] = [
    "forward",
    "sandbox/web",
    "8080:3000",
    "--request-timeout",
    "300ms",
];

/// The end of a forward whose streaming endpoint answers so.
async fn answered(answer: &'static str) -> crate::support::Run {
    let fake = Fake::builder()
        .stream(move |mut raw| async move { raw.send(answer).await })
        .start()
        .await;
    let run = Program::run(&fake, &FORWARD).await;
    // Nothing was announced, and what was bound is given back.
    assert!(run.stdout.is_empty(), "{run:?}");
    assert_eq!(fake.requests().stopped, ["s1"]);
    run
}

#[tokio::test]
async fn refusals_keep_their_sentence_and_their_exit_code() {
    for (reason, exit) in [
        (Reason::SandboxNotFound, 3),
        (Reason::SandboxNotReady, 3),
        (Reason::SandboxAmbiguous, 2),
        (Reason::WideBindDenied, 4),
        (Reason::PortInUse, 5),
        (Reason::AddressUnavailable, 5),
        (Reason::HostNetwork, 6),
        (Reason::VmRuntime, 6),
        (Reason::FeatureOff, 6),
        (Reason::SessionLimit, 1),
    ] {
        let fake = Fake::builder()
            .forward(move |_| Err(Failure::new(reason, "the \x1b[31mreal\n reason").into()))
            .start()
            .await;
        let run = Program::run(&fake, &FORWARD).await;
        run.failed(exit, "error: the [31mreal reason");
    }
}

#[tokio::test]
async fn a_server_without_the_call_is_named() {
    let fake = Fake::builder()
        .forward(|_| Err(tonic::Status::unimplemented("unknown service")))
        .start()
        .await;
    Program::run(&fake, &FORWARD)
        .await
        .failed(6, "does not offer reverse port-forwarding");
}

#[tokio::test]
async fn a_socket_that_nobody_serves_or_that_hangs_is_named() {
    let fake = Fake::builder().start().await;
    let missing = fake.dir.path().join("missing.sock");
    let missing = missing.to_str().unwrap();
    let args = ["forward", "sandbox/web", "80", "--socket", missing];
    let run = Program::run(&fake, &args).await;
    run.failed(
        6,
        &format!(
            "cannot reach a Sternline shim at {missing}: no such file or directory: is it running?"
        ),
    );

    let silent = fake.dir.path().join("silent.sock");
    let _listener = tokio::net::UnixListener::bind(&silent).unwrap();
    let args = [&HASTY[..], &["--socket", silent.to_str().unwrap()]].concat();
    Program::run(&fake, &args)
        .await
        .failed(6, "did not answer within 300ms");

    let garbage = fake.dir.path().join("garbage.sock");
    let listener = tokio::net::UnixListener::bind(&garbage).unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut io, b"SSH-2.0-OpenSSH_9.2\r\n").await;
        }
    });
    let args = [&FORWARD[..], &["--socket", garbage.to_str().unwrap()]].concat();
    Program::run(&fake, &args)
        .await
        .failed(6, "is it a Sternline shim");
}

#[tokio::test]
async fn a_url_that_leads_elsewhere_is_not_followed() {
    // Something of the workstation that a server would like to have dialled.
    let elsewhere = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let dialled = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&dialled);
    tokio::spawn(async move {
        let _ = elsewhere.accept().await;
        seen.store(true, Ordering::Relaxed);
    });
    for (url, what) in [
        (
            "http://example.com:80/v1alpha1/sessions/SECRET".to_owned(),
            "other than loopback",
        ),
        (
            "ftp://127.0.0.1:80/v1alpha1/sessions/SECRET".to_owned(),
            "neither http, https nor",
        ),
        ("SECRET".to_owned(), "is none"),
        (
            format!("http://localhost:{port}@127.0.0.2:{port}/v1alpha1/sessions/SECRET"),
            "other than loopback",
        ),
        (format!("http://127.0.0.2:{port}/SECRET"), "another path"),
    ] {
        let fake = Fake::builder()
            .forward(move |_| {
                Ok(pb::ReversePortForwardResponse {
                    session_id: "s1".into(),
                    url: url.clone(),
                    ..pb::ReversePortForwardResponse::default()
                })
            })
            .start()
            .await;
        Program::run(&fake, &FORWARD).await.failed(1, what);
        assert_eq!(fake.requests().stopped, ["s1"]);
    }
    assert!(!dialled.load(Ordering::Relaxed));
    let redirect =
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    answered(redirect)
        .await
        .failed(1, "redirects elsewhere (302): that is never followed");
}

#[tokio::test]
async fn whatever_is_no_101_is_explained() {
    answered("").await.failed(7, "broke off before it answered");
    answered("SSH-2.0-OpenSSH_9.2\r\n\r\n")
        .await
        .failed(1, "does not answer in HTTP/1.1");
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 49\r\n\r\n{\"reason\":\"token_unknown\",\"message\":\"it is used\"}";
    answered(gone)
        .await
        .failed(7, "refused with 404: it is used");
    let version = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n{\"supported\":[\"v2.reverse\\u001b[2J\"]}";
    answered(version)
        .await
        .failed(6, "it speaks v2.reverse[2J, and");
    let other =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    answered(other)
        .await
        .failed(1, "switched to another protocol");
    let newer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: sternline\r\nSternline-Protocol: v9\r\n\r\n";
    answered(newer).await.failed(6, "chose protocol \"v9\"");
}

#[tokio::test]
async fn a_flood_instead_of_an_answer_is_bounded() {
    let flooded = |head: &'static str, flood: &'static [u8]| async move {
        let fake = Fake::builder()
            .stream(move |mut raw: Raw| async move {
                raw.send(head).await;
                for _ in 0..10_000 {
                    if tokio::io::AsyncWriteExt::write_all(&mut raw.io, flood)
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            })
            .start()
            .await;
        Program::run(&fake, &FORWARD).await
    };
    let run = flooded(
        "HTTP/1.1 101 Switching Protocols\r\n",
        b"X-Header: aaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
    )
    .await;
    run.failed(1, "does not answer in HTTP/1.1");
    let run = flooded(
        "HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n",
        &[b'x'; 4096],
    )
    .await;
    run.failed(1, "refused with 500");
    assert!(run.stderr.len() < 2_000, "{}", run.stderr.len());
}
