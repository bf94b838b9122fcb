//! A node that goes away, and one whose feature is switched off.

use crate::support::{Node, Program, soon};
use serde_json::json;
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn draining() -> Event {
    Event::Draining(pb::Draining {
        deadline_ms: 10_000,
        message: "sandbox web: the node is shutting down".into(),
    })
}

fn ending(code: &str) -> Event {
    Event::Ending(pb::Ending {
        code: code.into(),
        message: "sandbox web: over".into(),
    })
}

#[tokio::test]
async fn a_node_that_drains_is_told_and_connections_stay_until_the_end() {
    let mut node = Node::start().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = format!("0:{}", target.local_addr().unwrap().port());
    let args = ["forward", "sandbox/web", &spec, "--output", "json"];
    let mut program = Program::start(&node.fake, &args);
    let mut tunnel = node.tunnel().await;
    assert_eq!(program.event().await["event"], "ready");
    let (mut pod, _) = tunnel.connect(0).await;
    let mut led = soon("the target", target.accept()).await.unwrap().0;
    assert_eq!(program.event().await["event"], "connection");

    tunnel.say(draining()).await;
    let told = json!({
        "event": "draining", "deadline_ms": 10_000,
        "message": "sandbox web: the node is shutting down",
    });
    assert_eq!(program.event().await, told);
    // The connection that is open goes on.
    led.write_all(b"x").await.unwrap();
    assert_eq!(soon("a byte", pod.read_u8()).await.unwrap(), b'x');

    tunnel.say(ending("draining")).await;
    let run = program.end().await;
    run.failed(9, "the server ended the session: sandbox web: over");
}

/// Its hold is no way back: whoever heard the end does not return.
#[tokio::test]
async fn what_the_node_ended_is_not_come_back_to() {
    for (code, exit) in [("draining", 9), ("feature_off", 6)] {
        let mut node = Node::announcing(5_000, |ready| ready).await;
        let args = ["forward", "sandbox/web", "0:3000", "--hold", "5s"];
        let mut program = Program::start(&node.fake, &args);
        let mut tunnel = node.tunnel().await;
        program.line().await;
        if code == "draining" {
            tunnel.say(draining()).await;
        }
        tunnel.say(ending(code)).await;
        let run = program.end().await;
        run.failed(exit, "the server ended the session: sandbox web: over");
        let warned = run.stderr.contains(
            "warning: the server ends this session within 10s: sandbox web: the node is shutting down",
        );
        assert_eq!(warned, code == "draining", "{run:?}");
    }
}
