//! Coming back to a session that the node holds.

use crate::support::{Fake, Node, Program, Run, Tunnel, soon};
use nix::sys::signal::Signal;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;

const HELD: [&str; 5] = ["forward", "sandbox/web", "0:3000", "--hold", "5s"];

/// A node that holds sessions for so long.
async fn holding(hold_ms: u64) -> Node {
    Node::announcing(hold_ms, |ready| ready).await
}

#[tokio::test]
async fn a_lost_tunnel_comes_back_with_the_latest_ticket() {
    let mut node = holding(5_000).await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = format!("0:{}", target.local_addr().unwrap().port());
    let args = ["forward", "sandbox/web", &spec, "--hold", "5s"];
    let mut program = Program::start(&node.fake, &args);
    let mut first = node.tunnel().await;
    assert_eq!(first.token, "TOKEN-SECRET");
    program.line().await;
    let (mut pod, _) = first.connect(0).await;
    let mut led = soon("the target", target.accept()).await.unwrap().0;
    let tickets = pb::Tickets {
        join: String::new(),
        resume: "RESUME-SECRET-2".into(),
    };
    first.say(Event::Tickets(tickets)).await;
    first.sender.finish().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.driver.abort();
    // The connection that was open is reset at both ends.
    let mut byte = [0];
    soon("the reset", led.read(&mut byte))
        .await
        .expect_err("reset");
    soon("the reset", pod.read(&mut byte))
        .await
        .expect_err("reset");
    let second = node.tunnel().await;
    assert_eq!(second.token, "RESUME-SECRET-2");
    let (_pod, _) = second.connect(0).await;
    soon("the target", target.accept()).await.unwrap();
    program.complains().await;
    program.complains().await;
    program.signal(Signal::SIGINT);
    let run = program.end().await;
    assert_eq!(run.code, 0, "{run:?}");
    run.is_clean();
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{run:?}");
    assert!(lines[0].contains("1 open connection was reset"), "{run:?}");
    assert!(
        lines[1].starts_with("Reconnected to sandbox/web after "),
        "{run:?}"
    );
    // The listeners are announced once.
    let announced = run
        .stdout
        .iter()
        .filter(|l| l.starts_with("Forwarding"))
        .count();
    assert_eq!(announced, 2);
}

#[tokio::test]
async fn without_a_hold_a_lost_tunnel_is_the_end() {
    let mut node = holding(0).await;
    let mut program = Program::start(&node.fake, &HELD);
    let tunnel = node.tunnel().await;
    program.line().await;
    tunnel.cut();
    program
        .end()
        .await
        .failed(7, "the connection to sandbox/web is lost");
}

/// A forward without a hold, at a node that outlives restarts for so long.
async fn restarting(restart_hold_ms: u64) -> Node {
    Node::announcing(0, move |ready| pb::Ready {
        restart_hold_ms,
        ..ready
    })
    .await
}

/// A server that announces the session and no longer knows it when the client
/// comes back; told so, it cuts the tunnel.
async fn forgetful(times: pb::Ready, header: &'static str) -> (Fake, Arc<Notify>) {
    let announced = Arc::new(Notify::new());
    let cut = Arc::clone(&announced);
    let fake = Fake::builder().stream(move |mut raw| {
        let (cut, times) = (Arc::clone(&cut), times.clone());
        async move {
            if raw.token() != "TOKEN-SECRET" {
                let head = format!("HTTP/1.1 404 Not Found\r\n{header}Content-Length: 0\r\n\r\n");
                raw.send(&head).await;
                return;
            }
            let ready = pb::Ready {
                session_id: "s1".into(),
                bound: vec![pb::Bound {
                    listener_id: 0,
                    address: "::1".into(),
                    port: 9,
                }],
                tickets: Some(pb::Tickets {
                    join: String::new(),
                    resume: "RESUME-SECRET".into(),
                }),
                ..times
            };
            let tunnel = Tunnel::open(raw, Some(ready)).await;
            cut.notified().await;
            tunnel.cut();
        }
    });
    (fake.start().await, announced)
}

/// Runs the program, whose tunnel is cut once it has said that it is up.
async fn lost_once_up(fake: &Fake, announced: &Notify, args: &[&str]) -> Run {
    let mut program = Program::start(fake, args);
    program.line().await;
    announced.notify_one();
    program.end().await
}

const PLAIN: [&str; 5] = ["forward", "sandbox/web", "0:3000", "-o", "json"];

#[tokio::test]
async fn a_server_that_restarts_is_waited_for_without_a_hold() {
    let mut node = restarting(5_000).await;
    let mut program = Program::start(&node.fake, &PLAIN);
    let tunnel = node.tunnel().await;
    let ready = program.event().await;
    assert_eq!(
        (&ready["event"], &ready["hold_ms"]),
        (&json!("ready"), &json!(0))
    );
    tunnel.cut();
    let lost = program.event().await;
    assert_eq!(
        (&lost["event"], &lost["hold_ms"]),
        (&json!("lost"), &json!(5000))
    );
    let back = node.tunnel().await;
    assert_ne!(back.token, "TOKEN-SECRET", "it came with its ticket");
    assert_eq!(program.event().await["event"], "reconnected");
    program.signal(Signal::SIGINT);
    assert_eq!(program.end().await.code, 0);
}

#[tokio::test]
async fn a_server_that_did_not_restart_says_so_and_the_forward_is_lost() {
    let (fake, announced) = forgetful(
        pb::Ready {
            restart_hold_ms: 60_000,
            ..pb::Ready::default()
        },
        "sternline-reason: token_unknown\r\n",
    )
    .await;
    let run = lost_once_up(&fake, &announced, &["forward", "sandbox/web", "[::1]:9"]).await;
    run.failed(7, "the connection to sandbox/web is lost");
}

#[tokio::test]
async fn it_is_given_up_when_the_hold_is_over() {
    let mut node = holding(700).await;
    let mut program = Program::start(&node.fake, &[&HELD[..], &["-o", "json"]].concat());
    let tunnel = node.tunnel().await;
    program.line().await;
    std::fs::remove_file(node.fake.dir.path().join("streaming.sock")).unwrap();
    let cut = Instant::now();
    tunnel.cut();
    let run = program.end().await;
    run.failed(7, "did not come back while the listeners were held");
    // The node's clock may be behind ours: nothing is left to it.
    assert_eq!(node.fake.requests().stopped, ["s1"]);
    assert!(cut.elapsed() > Duration::from_millis(200));
    let events: Vec<serde_json::Value> = run
        .stdout
        .iter()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let names: Vec<_> = events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["ready", "lost", "ended"]);
    assert_eq!(events[1]["hold_ms"], json!(700));
    assert_eq!(
        (&events[2]["reason"], &events[2]["exit_code"]),
        (&json!("tunnel_lost"), &json!(7))
    );
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_lost_at_once() {
    let (fake, announced) = forgetful(
        pb::Ready {
            hold_ms: 60_000,
            ..pb::Ready::default()
        },
        "",
    )
    .await;
    let args = ["forward", "sandbox/web", "[::1]:9", "--hold", "60s"];
    let run = lost_once_up(&fake, &announced, &args).await;
    run.failed(7, "refused with 404");
}

#[tokio::test]
async fn what_comes_back_must_be_what_was_there() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let mut node = Node::announcing(5_000, move |mut ready| {
        if !first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            ready.bound.iter_mut().for_each(|b| b.port += 1);
        }
        ready
    })
    .await;
    let mut program = Program::start(&node.fake, &HELD);
    let tunnel = node.tunnel().await;
    program.line().await;
    tunnel.cut();
    program
        .end()
        .await
        .failed(1, "came back with other listeners");
    assert_eq!(node.fake.requests().stopped, ["s1"]);
}

#[tokio::test]
async fn a_ticket_that_is_no_path_segment_is_not_used() {
    let mut node = Node::announcing(5_000, |mut ready| {
        ready.tickets = Some(pb::Tickets {
            join: String::new(),
            resume: "../../x\r\nA: b".into(),
        });
        ready
    })
    .await;
    let mut program = Program::start(&node.fake, &HELD);
    let tunnel = node.tunnel().await;
    program.line().await;
    tunnel.cut();
    program.end().await.failed(7, "is lost");
}

#[tokio::test]
async fn asked_to_stop_meanwhile_it_stops() {
    let mut node = holding(60_000).await;
    let mut program = Program::start(&node.fake, &[&HELD[..], &["-o", "json"]].concat());
    let tunnel = node.tunnel().await;
    assert_eq!(program.event().await["event"], "ready");
    std::fs::remove_file(node.fake.dir.path().join("streaming.sock")).unwrap();
    tunnel.cut();
    assert_eq!(program.event().await["event"], "lost");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.event().await["reason"], "done");
    assert_eq!(program.end().await.code, 0);
    // The hold is for those who come back.
    assert_eq!(node.fake.requests().stopped, ["s1"]);
}

#[tokio::test]
async fn a_command_that_ends_meanwhile_frees_the_listeners() {
    let mut node = holding(60_000).await;
    let running = node.fake.dir.path().join("running");
    std::fs::write(&running, "").unwrap();
    let script = format!(
        "while [ -e {} ]; do sleep 0.05; done; exit 3",
        running.display()
    );
    let command = ["-o", "json", "--", "sh", "-c", &script];
    let mut program = Program::start(&node.fake, &[&HELD[..], &command].concat());
    let tunnel = node.tunnel().await;
    assert_eq!(program.event().await["event"], "ready");
    std::fs::remove_file(node.fake.dir.path().join("streaming.sock")).unwrap();
    tunnel.cut();
    assert_eq!(program.event().await["event"], "lost");
    std::fs::remove_file(running).unwrap();
    assert_eq!(program.end().await.code, 3);
    assert_eq!(node.fake.requests().stopped, ["s1"]);
}
