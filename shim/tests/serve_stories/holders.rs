//! A taken port names the session that has it.

use crate::support::{Node, at, free, in_sandbox, request};

fn taken_by(session: &str, port: u32) -> String {
    format!(
        "127.0.0.1:{port} is already in use by session {session} in sandbox web: choose another port, or end it with `sternline stop {session}`"
    )
}

#[tokio::test]
async fn a_port_of_another_session_is_refused_with_its_id() {
    let node = Node::start(&[]).await;
    let mut client = node.session(request(&[free()])).await;
    let ready = client.ready().await;
    let (id, port) = (ready.session_id, ready.bound[0].port);

    let (code, word, sentence) = node
        .refused(request(&[free(), at("127.0.0.1", port)]))
        .await;
    assert_eq!(code, tonic::Code::AlreadyExists);
    assert_eq!(word, "port_in_use");
    assert_eq!(sentence, taken_by(&id, port));

    // A listener that is added later is refused alike, by its own session too.
    client.add(1, 9, at("127.0.0.1", port));
    let refused = client.changed().await;
    assert_eq!(refused.error, "port_in_use");
    assert_eq!(refused.message, taken_by(&id, port));
}

/// Who has the port in another sandbox, or is no session, is not known here.
#[tokio::test]
async fn only_a_session_of_the_same_sandbox_is_named() {
    let node = Node::start(&[]).await;
    let theirs = node.open(request(&[free()])).await;
    let app = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let app = u32::from(app.local_addr().expect("an address").port());
    for (sandbox, port) in [("other", theirs.bound[0].port), ("web", app)] {
        let (_, _, sentence) = node
            .refused(in_sandbox(sandbox, &[at("127.0.0.1", port)]))
            .await;
        let plain = format!("127.0.0.1:{port} is already in use in sandbox {sandbox}: ");
        assert!(sentence.starts_with(&plain), "{sentence}");
    }
}
