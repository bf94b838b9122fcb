//! `sternline forward` against nodes that break, lie or attack once the tunnel is
//! there: each ends in one clear sentence, in bounded time, and reaches nothing
//! that was not typed.

use crate::support::{Fake, Node, Program, Raw, Tunnel, soon};
use std::time::Duration;
use sternline_api::Reason;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
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
