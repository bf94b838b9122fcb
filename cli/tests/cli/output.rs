//! What `sternline forward` prints, and the ready file it writes.

use crate::support::{Node, Program, echo, exchange, soon};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;

#[tokio::test]
async fn json_tells_every_event_with_its_bytes() {
    let mut node = Node::start().await;
    let port = echo().await;
    let spec = format!("0:{port}");
    let mut program = Program::start(&node.fake, &["forward", "sandbox/web", &spec, "-o", "json"]);
    let mut tunnel = node.tunnel().await;
    let target = format!("localhost:{port}");
    assert_eq!(
        program.event().await,
        json!({"event": "ready", "session_id": "s1", "place": "sandbox/web", "hold_ms": 0, "bound": [
            {"listener_id": 0, "address": "127.0.0.1", "port": 40000, "target": target},
            {"listener_id": 0, "address": "::1", "port": 40000, "target": target},
        ]})
    );
    let (pod, _) = tunnel.connect(0).await;
    let peer = pod.local_addr().unwrap().to_string();
    soon("the echo", exchange(pod, b"hello")).await.unwrap();
    assert_eq!(
        program.event().await,
        json!({"event": "connection", "connection": 1, "listener_id": 0, "port": 40000,
               "peer": peer, "target": target})
    );
    let closed = program.event().await;
    assert_eq!(closed["event"], "closed");
    assert_eq!(
        (&closed["bytes_from_pod"], &closed["bytes_to_pod"]),
        (&json!(5), &json!(5))
    );
    assert_eq!(
        (&closed["end"], &closed["connection"]),
        (&json!("clean"), &json!(1))
    );
    let rejected = pb::Rejected {
        reason: "connection_limit".into(),
        listener_id: 0,
        count: 7,
    };
    tunnel.say(Event::Rejected(rejected)).await;
    let rejected = program.event().await;
    assert_eq!(
        (&rejected["event"], &rejected["count"]),
        (&json!("rejected"), &json!(7))
    );
    assert_eq!(
        (&rejected["reason"], &rejected["port"]),
        (&json!("connection_limit"), &json!(40000))
    );
    program.signal(Signal::SIGTERM);
    let ended = program.event().await;
    assert_eq!(
        ended,
        json!({"event": "ended", "reason": "done", "message": "asked to stop", "exit_code": 0,
               "connections": 1, "bytes_from_pod": 5, "bytes_to_pod": 5})
    );
    let run = program.end().await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn the_ready_file_is_there_while_everything_listens() {
    let mut node = Node::start().await;
    let path = node.fake.dir.path().join("ready.json");
    let shown = path.to_str().unwrap();
    let mut program = Program::start(
        &node.fake,
        &[
            "forward",
            "sandbox/web",
            "0:3000",
            "--quiet",
            "--ready-file",
            shown,
        ],
    );
    let _tunnel = node.tunnel().await;
    let text = soon("the ready file", async {
        loop {
            match std::fs::read(&path) {
                // Whoever sees it sees all of it.
                Ok(bytes) => break serde_json::from_slice::<serde_json::Value>(&bytes).unwrap(),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await;
    assert_eq!(text["bound"][0]["port"], 40000);
    assert_eq!(text["pid"], program.pid().as_raw());
    program.signal(Signal::SIGTERM);
    program.close_stdout();
    assert_eq!(program.end().await.code, 0);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_ready_file_takes_the_place_of_nothing_else() {
    let node = Node::start().await;
    let dir = node.fake.dir.path();
    let precious = dir.join("precious");
    std::fs::write(&precious, "not ours").unwrap();
    let link = dir.join("link");
    std::os::unix::fs::symlink(&precious, &link).unwrap();
    let socket = dir.join("socket");
    let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [&precious, &link, &socket] {
        let shown = path.to_str().unwrap();
        let words = ["forward", "sandbox/web", "80", "--ready-file", shown];
        let run = Program::run(&node.fake, &words).await;
        assert_eq!(run.code, 2, "{shown}: {}", run.stderr);
        assert!(run.stderr.contains(shown), "{}", run.stderr);
    }
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "not ours");
}

#[tokio::test]
async fn a_closed_standard_output_ends_the_forward_with_a_word() {
    let mut node = Node::start().await;
    let port = echo().await;
    let mut program = Program::start(
        &node.fake,
        &["forward", "sandbox/web", &format!("80:{port}")],
    );
    let tunnel = node.tunnel().await;
    program.line().await;
    program.line().await;
    program.close_stdout();
    // Line after line, until one finds it closed: a process that another test
    // is just starting may hold our end open for a moment.
    let connecting = async {
        while let Some((pod, _)) = tunnel.try_connect(0).await {
            let _ = exchange(pod, b"x").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (run, ()) = tokio::join!(program.end(), connecting);
    run.failed(1, "standard output is closed");
}

#[tokio::test]
async fn quiet_prints_errors_alone() {
    let mut node = Node::start().await;
    let mut program = Program::start(&node.fake, &["forward", "sandbox/web", "80:1", "-q"]);
    let tunnel = node.tunnel().await;
    let (pod, _) = tunnel.connect(0).await;
    soon("the reset", exchange(pod, b""))
        .await
        .expect_err("reset");
    program.complains().await;
    program.signal(Signal::SIGINT);
    let _tunnel = tunnel;
    let run = program.end().await;
    assert!(run.stdout.is_empty(), "{run:?}");
    assert!(
        run.stderr.starts_with("error: connection for 80: "),
        "{run:?}"
    );
}

#[tokio::test]
async fn verbose_walks_the_set_up_and_keeps_secrets() {
    let mut node = Node::start().await;
    let program = Program::start(&node.fake, &["forward", "sandbox/web", "80:1", "-vvv"]);
    let tunnel = node.tunnel().await;
    let (pod, _) = tunnel.connect(0).await;
    soon("the reset", exchange(pod, b""))
        .await
        .expect_err("reset");
    program.signal(Signal::SIGINT);
    let _tunnel = tunnel;
    let run = program.end().await;
    let mut rest = run.stderr.as_str();
    for step in [
        "connecting to the shim",
        "asking for the listeners",
        "the listeners are bound",
        "connecting to the streaming endpoint",
        "the connection is upgraded",
        "waiting for the announcement",
        "the session is announced",
        "asked to stop",
    ] {
        let at = rest
            .find(step)
            .unwrap_or_else(|| panic!("{step:?} is not in {rest}"));
        rest = &rest[at..];
    }
    run.is_clean();
}
