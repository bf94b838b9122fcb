//! Nothing is left over, and nothing secret is logged: in a process of its own,
//! because both are looked for in the whole process.

#[path = "serve_stories/support/mod.rs"]
mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Client, Node, eventually, free, held, in_sandbox, pod, request};
use tokio::io::AsyncWriteExt as _;

/// What the process holds open, standing descriptors of the runtime included.
fn descriptors() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").expect("Linux");
    open.count()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One of everything that may go wrong, and some that go well. Gives the secrets
/// that were in use.
async fn round(node: &Node) -> Vec<String> {
    let mut secrets = Vec::new();
    // Never redeemed, and stopped.
    let answer = node.open(request(&[free()])).await;
    secrets.push(answer.url.rsplit('/').next().expect("a token").to_owned());
    node.stop_session(&answer.session_id)
        .await
        .expect("stopped");
    // Refused after the bind.
    node.refused(request(&[support::at("127.0.0.1", 65536)]))
        .await;
    // Upgraded and silent, then gone.
    let answer = node.open(request(&[free()])).await;
    drop(node.upgrade(&answer.url).await);
    // Too hasty.
    let answer = node.open(request(&[free()])).await;
    let mut io = node.stream().await;
    let hasty = support::client::upgrade(&node.path(&answer.url)) + "x";
    support::client::send(&mut io, &hasty).await;
    drop(io);
    // With connections, joined, resumed, said goodbye to.
    let hold = Duration::from_secs(60);
    let mut client = node.session(held(request(&[free()]), hold)).await;
    let ready = client.ready().await;
    let tickets = ready.tickets.expect("tickets");
    secrets.extend([tickets.join.clone(), tickets.resume]);
    let (_, mut connection) = pod(&ready.bound[0]).await;
    connection.write_all(b"x").await.expect("sent");
    let joined = Client::serve(node.upgrade(&tickets.join).await, "second").await;
    let tickets = client.tickets().await;
    secrets.extend([tickets.join, tickets.resume.clone()]);
    drop((client, joined));
    let mut client = Client::serve(node.upgrade(&tickets.resume).await, "third").await;
    client.ready().await;
    client.add(1, 1, free());
    client.changed().await;
    client.goodbye().await;
    // The sandbox goes away.
    let mut client = node.session(in_sandbox("gone", &[free()])).await;
    client.ready().await;
    node.binder.remove("gone");
    assert_eq!(client.ending().await.code, "sandbox_gone");
    node.binder.restore("gone");
    // Cut off without a word.
    let mut client = node.session(request(&[free()])).await;
    let bound = client.ready().await.bound;
    let _connection = pod(&bound[0]).await;
    drop(client);
    eventually("the end of all sessions", async || {
        node.sessions().await.is_empty()
    })
    .await;
    secrets
}

#[tokio::test]
async fn nothing_is_left_over_and_no_secret_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let mut node = Node::start(&[]).await;
    let mut secrets = round(&node).await;
    eventually("rest", async || node.at_rest()).await;
    let before = descriptors();
    for _ in 0..4 {
        secrets.extend(round(&node).await);
    }
    eventually("rest", async || node.at_rest()).await;
    eventually("the descriptors' return", async || descriptors() <= before).await;
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    secrets.extend(round(&node).await);
    eventually("the tasks' end", async || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
            <= tasks
    })
    .await;
    let status = node
        .call
        .clone()
        .status(sternline_api::v1alpha1::StatusRequest {})
        .await;
    let status = status.expect("a status").into_inner();
    assert_eq!((status.sessions, status.connections), (0, 0));
    node.terminate();
    node.stopped().await;

    let log = String::from_utf8_lossy(&log.0.lock().expect("whole")).into_owned();
    assert!(
        log.contains("session ended") && log.contains("TRACE"),
        "{log}"
    );
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!log.contains(secret.as_str()), "{secret} is in the log");
    }
}
