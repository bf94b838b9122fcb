//! Connections that a limit ends while they are open.

use crate::support::{Node, Program, soon};
use serde_json::Value;
use std::time::Duration;
use sternline_tunnel::End;
use sternline_tunnel::budget::ProcessBudget;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

#[tokio::test]
async fn a_reader_too_slow_for_the_buffers_is_named() {
    let mut node = Node::start().await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = format!("8080:{}", target.local_addr().unwrap().port());
    let args = ["forward", "sandbox/web", &spec, "-o", "json"];
    let mut program = Program::start(&node.fake, &args);
    let mut tunnel = node.tunnel().await;
    assert_eq!(program.event().await["event"], "ready");
    tunnel.options.budget = ProcessBudget::new(1_000).session();
    // The process in the pod does not read.
    let (_pod, relayed) = tunnel.connect(0).await;
    let mut led = soon("the target", target.accept()).await.unwrap().0;
    let flood = async { while led.write_all(&[7; 65_536]).await.is_ok() {} };
    soon("the reset", flood).await;
    assert_eq!(relayed.await.unwrap().end, End::BufferLimit);
    assert_eq!(program.event().await["event"], "connection");
    assert_eq!(program.event().await["end"], "buffer_limit");
}

/// How a silent connection ended that the node gave up after `node`, where it
/// said that it would after `said`.
async fn given_up(node: Duration, said: Duration) -> Value {
    let (after, mut node) = (node, Node::impatient(said).await);
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = format!("8080:{}", target.local_addr().unwrap().port());
    let args = ["forward", "sandbox/web", &spec, "-o", "json"];
    let mut program = Program::start(&node.fake, &args);
    let mut tunnel = node.tunnel().await;
    assert_eq!(program.event().await["event"], "ready");
    tunnel.options.idle_timeout = Some(after);
    let (_pod, relayed) = tunnel.connect(0).await;
    let _led = soon("the target", target.accept()).await.unwrap().0;
    assert_eq!(program.event().await["event"], "connection");
    let closed = program.event().await;
    assert_eq!(relayed.await.unwrap().end, End::IdleTimeout);
    closed["end"].clone()
}

#[tokio::test]
async fn only_silence_as_long_as_the_limit_is_an_idle_timeout() {
    // The client's own clock rings after 6 s: the node's reset is here before.
    let idle = given_up(Duration::from_millis(4_500), Duration::from_secs(6)).await;
    assert_eq!(idle, "idle_timeout");
    let stopped = given_up(Duration::from_millis(100), Duration::from_secs(60)).await;
    assert_eq!(stopped, "stopped");
}
