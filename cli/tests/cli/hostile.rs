//! `sternline forward` against servers that break, lie or attack: each ends in
//! one clear sentence, in bounded time, and reaches nothing that was not typed.

use crate::support::{Fake, Node, Program, Raw, Tunnel, soon};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use sternline_api::{Failure, Reason};
use tokio::io::AsyncReadExt;
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

fn loopback(listener_id: u32, port: u32) -> pb::Bound {
    pb::Bound {
        listener_id,
        address: "127.0.0.1".into(),
        port,
    }
}

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

/// The end of a forward whose node announces so.
async fn announced(
    change: impl Fn(pb::Ready) -> pb::Ready + Send + Sync + 'static,
) -> crate::support::Run {
    let mut node = Node::announcing(0, change).await;
    let program = Program::start(&node.fake, &FORWARD);
    let _tunnel = node.tunnel().await;
    let run = program.end().await;
    assert!(run.stdout.is_empty(), "{run:?}");
    run
}

/// The end of a forward whose node then says so.
async fn said(event: Event) -> crate::support::Run {
    let mut node = Node::start().await;
    let program = Program::start(&node.fake, &FORWARD);
    let mut tunnel = node.tunnel().await;
    tunnel.say(event).await;
    program.end().await
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
            "https://127.0.0.1:80/v1alpha1/sessions/SECRET".to_owned(),
            "neither http nor",
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

#[tokio::test]
async fn garbage_or_silence_after_the_101_is_given_up() {
    let upgraded = |then: &'static [u8], hold: bool| async move {
        let fake = Fake::builder()
            .stream(move |mut raw: Raw| async move {
                raw.upgrade().await;
                raw.send(then).await;
                let mut sink = Vec::new();
                if hold {
                    let _ = raw.io.read_to_end(&mut sink).await;
                }
            })
            .start()
            .await;
        let run = Program::run(&fake, &HASTY).await;
        assert!(run.stdout.is_empty(), "{run:?}");
        assert_eq!(fake.requests().stopped, ["s1"]);
        run
    };
    upgraded(
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n......................",
        true,
    )
    .await
    .failed(1, "does not speak the protocol that it agreed to");
    upgraded(b"", true).await.failed(7, "within 300ms");
    upgraded(b"", false).await.failed(7, "before");
    // A head that never ends.
    let fake = Fake::builder()
        .stream(|mut raw| async move {
            raw.send("HTTP/1.1 101 Swi").await;
            std::future::pending::<()>().await;
        })
        .start()
        .await;
    Program::run(&fake, &HASTY)
        .await
        .failed(6, "did not answer within 300ms");
}

#[tokio::test]
async fn a_tunnel_without_an_announcement_is_given_up() {
    let silent = Fake::builder()
        .stream(|raw| async move {
            let tunnel = Tunnel::open(raw, None).await;
            let _ = tunnel.driver.await;
        })
        .start()
        .await;
    let run = Program::run(&silent, &HASTY).await;
    run.failed(7, "did not announce the session within 300ms");
    assert!(run.stdout.is_empty());

    let hasty = Fake::builder()
        .stream(|raw| async move {
            let mut tunnel = Tunnel::open(raw, None).await;
            tunnel.say(Event::Tickets(pb::Tickets::default())).await;
            let _ = tunnel.driver.await;
        })
        .start()
        .await;
    Program::run(&hasty, &FORWARD)
        .await
        .failed(1, "was not the announcement");

    let ending = Fake::builder()
        .stream(|raw| async move {
            let mut tunnel = Tunnel::open(raw, None).await;
            let message = "sandbox web was removed".into();
            tunnel
                .say(Event::Ending(pb::Ending {
                    code: "sandbox_gone".into(),
                    message,
                }))
                .await;
            // A node stays until the client leaves.
            let _ = tunnel.driver.await;
        })
        .start()
        .await;
    Program::run(&ending, &FORWARD)
        .await
        .failed(9, "sandbox web was removed");
}

#[tokio::test]
async fn an_announcement_of_anything_else_is_refused() {
    let run = announced(|ready| pb::Ready {
        bound: vec![loopback(0, 8081)],
        ..ready
    })
    .await;
    run.failed(
        1,
        "listens on 127.0.0.1:8081 as listener 0, which you did not ask for",
    );
    let run = announced(|mut ready| {
        ready.bound.push(loopback(1, 22));
        ready
    })
    .await;
    run.failed(
        1,
        "listens on 127.0.0.1:22 as listener 1, which you did not ask for",
    );
    let run = announced(|mut ready| {
        ready.bound[0].address = "0.0.0.0".into();
        ready
    })
    .await;
    run.failed(1, "0.0.0.0:8080");
    let run = announced(|ready| pb::Ready {
        bound: Vec::new(),
        ..ready
    })
    .await;
    run.failed(1, "does not say that it listens on localhost:8080");
    let run = announced(|ready| pb::Ready {
        session_id: "s2".into(),
        ..ready
    })
    .await;
    run.failed(1, "announced another session");
}

#[tokio::test]
async fn a_listener_that_nobody_asked_for_leads_nowhere() {
    let mut node = Node::start().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = format!("8080:{}", target.local_addr().unwrap().port());
    let program = Program::start(&node.fake, &["forward", "sandbox/web", &spec, "-q"]);
    let mut tunnel = node.tunnel().await;
    for listener_id in [1, 7, u32::MAX] {
        let (mut pod, relayed) = tunnel.connect(listener_id).await;
        let mut byte = [0];
        soon("the reset", pod.read(&mut byte))
            .await
            .expect_err("reset");
        let end = relayed.await.unwrap().end;
        assert_eq!(end, sternline_tunnel::End::Refused(Reason::UnknownListener));
    }
    // The session lives, and nothing was dialled.
    let dialled = tokio::time::timeout(Duration::from_millis(50), target.accept()).await;
    assert!(dialled.is_err());
    let (_pod, _) = tunnel.connect(0).await;
    soon("the real one", target.accept()).await.unwrap();
    let ending = pb::Ending {
        code: "stopped".into(),
        message: "bye".into(),
    };
    tunnel.say(Event::Ending(ending)).await;
    let run = program.end().await;
    assert_eq!(run.code, 9);
    for listener_id in [1, 7, u32::MAX] {
        let said = format!("a connection for listener {listener_id}, which you did not ask for");
        assert!(run.stderr.contains(&said), "{run:?}");
    }
}

#[tokio::test]
async fn events_that_would_make_a_mapping_end_the_session() {
    for (event, what) in [
        (
            Event::AddListener(pb::AddListener {
                listener_id: 1,
                ..Default::default()
            }),
            "asked for a listener",
        ),
        (
            Event::ListenerChanged(pb::ListenerChanged {
                listener_id: 1,
                bound: vec![loopback(1, 22)],
                ..Default::default()
            }),
            "asked for a listener",
        ),
        (Event::Ready(pb::Ready::default()), "a second time"),
        (
            Event::RemoveListener(pb::RemoveListener::default()),
            "only a client",
        ),
    ] {
        said(event).await.failed(1, what);
    }
}

#[tokio::test]
async fn words_of_a_server_cannot_act_on_the_terminal() {
    let message = "gone\x1b]0;title\x07\u{9b}2J\r\nerror: forged".to_owned();
    let run = said(Event::Ending(pb::Ending {
        code: "sandbox_gone".into(),
        message,
    }))
    .await;
    run.failed(
        9,
        "sandbox/web: the server ended the session: gone]0;title2J error: forged",
    );
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
}

#[tokio::test]
async fn an_end_without_a_word_is_a_lost_connection() {
    let mut node = Node::start().await;
    let mut program = Program::start(&node.fake, &FORWARD);
    let tunnel = node.tunnel().await;
    program.line().await;
    tunnel.cut();
    program
        .end()
        .await
        .failed(7, "the connection to sandbox/web is lost");
}

#[tokio::test]
async fn a_hold_that_nobody_asked_for_is_not_believed() {
    for (hold, told) in [(None, None), (Some("400ms"), Some(400))] {
        let mut node = Node::announcing(u64::MAX, |ready| ready).await;
        let mut args = [&FORWARD[..], &["-o", "json"]].concat();
        args.extend(hold.iter().flat_map(|hold| ["--hold", hold]));
        let mut program = Program::start(&node.fake, &args);
        let tunnel = node.tunnel().await;
        let ready = program.event().await;
        assert_eq!(ready["hold_ms"].as_u64(), Some(told.unwrap_or(0)));
        std::fs::remove_file(node.fake.dir.path().join("streaming.sock")).unwrap();
        tunnel.cut();
        if told.is_some() {
            assert_eq!(program.event().await["hold_ms"].as_u64(), told);
        }
        assert_eq!(program.event().await["reason"], "tunnel_lost");
        assert_eq!(program.end().await.code, 7);
        // What the server holds nevertheless is given back.
        assert_eq!(node.fake.requests().stopped, ["s1"]);
    }
}

#[tokio::test]
async fn a_control_message_without_bounds_ends_the_session() {
    let mut node = Node::start().await;
    let program = Program::start(&node.fake, &FORWARD);
    let mut tunnel = node.tunnel().await;
    let count = u64::MAX;
    for _ in 0..5_000 {
        // A flood of valid messages is dropped where the reader is too slow.
        let rejected = pb::Rejected {
            reason: "x".repeat(10_000),
            listener_id: 9,
            count,
        };
        if tunnel.sender.send(Event::Rejected(rejected)).await.is_err() {
            break;
        }
    }
    let ending = pb::Ending {
        code: "stopped".into(),
        message: "enough".into(),
    };
    tunnel.say(Event::Ending(ending)).await;
    let run = program.end().await;
    assert_eq!(run.code, 9);
    run.is_clean();
    let longest = run.stderr.lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 1_200, "{longest}");
}
