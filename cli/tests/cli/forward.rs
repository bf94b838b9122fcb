//! `sternline forward` against a well-behaved node.

use crate::support::{Node, Program, echo, exchange, soon};
use nix::sys::signal::Signal;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

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
