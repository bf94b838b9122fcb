//! `sternline forward` against a well-behaved node.

use crate::support::{Node, Program, soon};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A server of the workstation that sends back what it gets, with the ends
/// kept apart: it answers only after it read to the end.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
            });
        }
    });
    port
}

/// Sends, ends, and reads to the end.
async fn exchange(mut pod: TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    pod.write_all(bytes).await?;
    pod.shutdown().await?;
    let mut all = Vec::new();
    pod.read_to_end(&mut all).await?;
    Ok(all)
}

#[tokio::test]
async fn a_connection_in_the_pod_comes_out_at_the_target() {
    let mut node = Node::start().await;
    let port = echo().await;
    let args = [
        "forward",
        "sandbox/web",
        &format!("8080:{port}"),
        &format!("0:localhost:{port}"),
    ];
    let mut program = Program::start(&node.fake, &args);
    let tunnel = node.tunnel().await;
    let lines = [
        program.line().await,
        program.line().await,
        program.line().await,
        program.line().await,
    ];
    assert_eq!(
        lines,
        [
            format!("Forwarding from 127.0.0.1:8080 in sandbox/web -> localhost:{port}"),
            format!("Forwarding from [::1]:8080 in sandbox/web -> localhost:{port}"),
            format!("Forwarding from 127.0.0.1:40001 in sandbox/web -> localhost:{port}"),
            format!("Forwarding from [::1]:40001 in sandbox/web -> localhost:{port}"),
        ]
    );
    let (pod, relayed) = tunnel.connect(1).await;
    let sent = vec![7; 300_000];
    assert_eq!(soon("the echo", exchange(pod, &sent)).await.unwrap(), sent);
    assert_eq!(program.line().await, "Handling connection for 40001");
    let relayed = soon("the end", relayed).await.unwrap();
    assert_eq!((relayed.from_socket, relayed.to_socket), (300_000, 300_000));
    program.signal(Signal::SIGINT);
    assert_eq!(program.end().await.code, 0);
}

#[tokio::test]
async fn the_call_and_the_upgrade_ask_for_what_was_typed() {
    let mut node = Node::start().await;
    let args = [
        "forward",
        "sandbox/4f1c",
        "8080:1",
        "[::1]:0:2",
        "127.0.0.2:3:4",
        "--hold",
        "30s",
    ];
    let mut program = Program::start(&node.fake, &args);
    let tunnel = node.tunnel().await;
    program.line().await;
    let request = &node.fake.requests().forwards[0];
    let by = pb::target::By::SandboxId("4f1c".into());
    assert_eq!(request.target, Some(pb::Target { by: Some(by) }));
    assert_eq!(request.options.as_ref().map(|o| o.hold_ms), Some(30_000));
    let listeners: Vec<_> = request
        .listeners
        .iter()
        .map(|l| (l.address.as_str(), l.port))
        .collect();
    assert_eq!(listeners, [("", 8080), ("::1", 0), ("127.0.0.2", 3)]);
    let head = tunnel.head.to_ascii_lowercase();
    assert!(
        head.starts_with("get /v1alpha1/sessions/token-secret http/1.1\r\n"),
        "{head}"
    );
    for field in [
        "upgrade: sternline\r\n",
        "connection: upgrade\r\n",
        "sternline-protocol: v1alpha1.reverse.sternline.dev\r\n",
        "host: localhost\r\n",
    ] {
        assert!(head.contains(field), "{field} is not in {head}");
    }
}

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
async fn a_target_that_is_down_resets_its_connection_and_nothing_else() {
    let mut node = Node::start().await;
    let up = echo().await;
    let down = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let specs = [format!("80:{up}"), format!("81:{down}")];
    let program = Program::start(
        &node.fake,
        &["forward", "sandbox/web", &specs[0], &specs[1]],
    );
    let mut tunnel = node.tunnel().await;
    for _ in 0..2 {
        let (pod, relayed) = tunnel.connect(1).await;
        let error = soon("the reset", exchange(pod, b""))
            .await
            .expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let end = soon("the refusal", relayed).await.unwrap().end;
        assert_eq!(
            end,
            sternline_tunnel::End::Refused(sternline_api::Reason::TargetRefused)
        );
    }
    // The node is told once that the target is down.
    let told = tunnel.hear().await;
    assert_eq!(
        told,
        Some(Event::Target(pb::TargetState {
            listener_id: 1,
            up: false
        }))
    );
    let (pod, _) = tunnel.connect(0).await;
    assert_eq!(soon("the echo", exchange(pod, b"x")).await.unwrap(), b"x");
    program.signal(Signal::SIGINT);
    assert!(matches!(tunnel.hear().await, Some(Event::Ending(_))));
    let run = program.end().await;
    assert_eq!(run.code, 0);
    let said = format!(
        "error: connection for 81: cannot reach localhost:{down}: dial 127.0.0.1:{down}: connect: connection refused\n"
    );
    assert_eq!(run.stderr, said.repeat(2));
}

#[tokio::test]
async fn a_target_can_be_a_unix_socket_and_speak_first() {
    let mut node = Node::start().await;
    let path = node.fake.dir.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 ready").await.unwrap();
    });
    let spec = format!("25:unix:{}", path.display());
    let mut program = Program::start(&node.fake, &["forward", "sandbox/web", &spec]);
    let tunnel = node.tunnel().await;
    assert!(
        program
            .line()
            .await
            .ends_with(&format!("-> unix:{}", path.display()))
    );
    let (mut pod, _) = tunnel.connect(0).await;
    let mut greeting = String::new();
    soon("the greeting", pod.read_to_string(&mut greeting))
        .await
        .unwrap();
    assert_eq!(greeting, "220 ready");
}

#[tokio::test]
async fn many_connections_at_once_under_a_small_limit_of_descriptors() {
    let mut node = Node::start().await;
    let port = echo().await;
    let mut command = Program::command(
        &node.fake,
        &["forward", "sandbox/web", &format!("80:{port}"), "--quiet"],
    );
    // The soft limit is raised: 200 connections would not fit in 64.
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -Sn 64; exec \"$0\" \"$@\""]);
    limited
        .arg(command.as_std().get_program())
        .args(command.as_std().get_args());
    limited.env("STERNLINE_SOCKET", &node.fake.socket);
    command = limited.into();
    let program = Program::spawn(command);
    let tunnel = node.tunnel().await;
    let mut pods = Vec::new();
    for _ in 0..200 {
        pods.push(tunnel.connect(0).await.0);
    }
    for pod in pods {
        assert_eq!(
            soon("the echo", exchange(pod, b"abc")).await.unwrap(),
            b"abc"
        );
    }
    program.signal(Signal::SIGINT);
    let run = program.end().await;
    assert_eq!(
        (run.code, run.stderr.as_str(), run.stdout.len()),
        (0, "", 0)
    );
}

#[tokio::test]
async fn exhausted_descriptors_turn_connections_away_and_the_session_lives() {
    let mut node = Node::start().await;
    let port = echo().await;
    let mut limited = std::process::Command::new("sh");
    limited.args([
        "-c",
        "ulimit -n 40; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_sternline"),
    ]);
    limited.args(["forward", "sandbox/web", &format!("80:{port}"), "--quiet"]);
    limited.env("STERNLINE_SOCKET", &node.fake.socket);
    let program = Program::spawn(limited.into());
    let tunnel = node.tunnel().await;
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(tunnel.connect(0).await);
    }
    let mut refused = 0;
    for (pod, _) in held {
        // Those that fit are echoed, the others reset.
        match soon("an end", exchange(pod, b"abc")).await {
            Ok(bytes) => assert_eq!(bytes, b"abc"),
            Err(_) => refused += 1,
        }
    }
    assert!((1..60).contains(&refused), "{refused}");
    let (pod, _) = tunnel.connect(0).await;
    assert_eq!(
        soon("the echo", exchange(pod, b"later")).await.unwrap(),
        b"later"
    );
    program.signal(Signal::SIGINT);
    let run = program.end().await;
    assert_eq!(run.code, 0);
    assert!(
        run.stderr.contains("connect: too many open files"),
        "{}",
        run.stderr
    );
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
    let program = Program::start(&node.fake, &["forward", "sandbox/web", "80:1", "-q"]);
    let tunnel = node.tunnel().await;
    let (pod, _) = tunnel.connect(0).await;
    soon("the reset", exchange(pod, b""))
        .await
        .expect_err("reset");
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
