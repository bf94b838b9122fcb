//! The off switch on a node that serves.

use crate::support::client::is_free;
use crate::support::{Client, Node, eventually, free, held, pod, pod_reset, request, within};
use std::time::Duration;
use sternline_api::v1alpha1 as pb;

/// A switch file that says something, in a directory of its own.
fn switch(says: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("switch").display().to_string();
    std::fs::write(&path, says).expect("written");
    (dir, path)
}

async fn feature(node: &Node) -> pb::Feature {
    let status = within("Status", node.call.clone().status(pb::StatusRequest {})).await;
    let status = status.expect("an answer").into_inner();
    let feature = status.feature.expect("a switch");
    let ready = status.conditions.iter().find(|c| c.r#type == "Ready");
    assert_eq!(ready.expect("a condition").status, feature.enabled);
    feature
}

/// As `/readyz` does, which is 503 then.
#[tokio::test]
async fn a_node_that_cannot_record_what_it_must_says_that_it_is_not_ready() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit").display().to_string();
    let node = Node::start(&["--audit-log", &path, "--audit-required"]).await;
    drop(dir);
    // Recorded nowhere, which is found out: now, or already when the first line of
    // the log came too late for its file.
    let mut call = node.call.clone();
    let first = call.reverse_port_forward(request(&[free()]));
    let _ = within("the call", first).await;
    eventually("the condition", async || {
        let status = within("Status", node.call.clone().status(pb::StatusRequest {})).await;
        let status = status.expect("an answer").into_inner();
        let mut conditions = status.conditions.into_iter();
        let ready = conditions.find(|c| c.r#type == "Ready").expect("one");
        !ready.status && ready.reason == "audit_unavailable"
    })
    .await;
    let (_, word, _) = node.refused(request(&[free()])).await;
    assert_eq!(word, "audit_unavailable");
}

#[tokio::test]
async fn switched_off_every_session_ends_and_switched_on_they_come_again() {
    let (_dir, path) = switch("on\n");
    let node = Node::start(&["--switch-file", &path]).await;
    assert!(feature(&node).await.enabled);
    assert_eq!(node.metric("sternline_feature_enabled"), 1.0);
    let asked = || held(request(&[free()]), Duration::from_secs(600));
    let mut client = node.session(asked()).await;
    let ready = client.ready().await;
    let (_, mut connection) = pod(&ready.bound[0]).await;
    let waiting = node.open(request(&[free()])).await;
    let mut lost = node.session(asked()).await;
    let kept = lost.ready().await;
    drop(lost);
    eventually("the hold", async || {
        let held = pb::SessionState::Held;
        node.sessions().await.iter().any(|s| s.state() == held)
    })
    .await;

    std::fs::write(&path, "off\n").expect("written");

    let ending = client.ending().await;
    assert_eq!(ending.code, "feature_off");
    let sentence = "sandbox web: reverse port-forwarding was switched off on this node";
    assert_eq!(ending.message, sentence);
    pod_reset(&mut connection).await;
    eventually("the other ends", async || node.sessions().await.is_empty()).await;
    for bound in [&ready.bound[0], &waiting.bound[0], &kept.bound[0]] {
        assert!(is_free(bound), "{bound:?}");
    }
    let resume = kept.tickets.expect("tickets").resume;
    for pass in [&waiting.url, &resume] {
        let refused = node.try_upgrade(pass).await.expect_err("void");
        assert_eq!(refused.status, 503);
        assert_eq!(refused.body["reason"], "feature_off");
    }
    let (code, word, sentence) = node.refused(request(&[free()])).await;
    assert_eq!(code, tonic::Code::FailedPrecondition);
    assert_eq!(word, "feature_off");
    let why = format!("{path} says off");
    assert!(sentence.contains(&why), "{sentence}");
    let off = pb::Feature {
        enabled: false,
        message: why,
    };
    assert_eq!(feature(&node).await, off);
    assert_eq!(node.metric("sternline_feature_enabled"), 0.0);
    let ended = "sternline_sessions_total{end=\"feature_off\"}";
    assert_eq!(node.metric(ended), 3.0);

    std::fs::remove_file(&path).expect("removed");
    eventually("the switch", async || feature(&node).await.enabled).await;
    assert_eq!(node.metric("sternline_feature_enabled"), 1.0);
    let mut client = node.session(asked()).await;
    pod(&client.ready().await.bound[0]).await;
    // What was void stays so.
    let refused = node.try_upgrade(&waiting.url).await.expect_err("void");
    assert_eq!(refused.body["reason"], "token_unknown");
}

/// Off from the first moment, whatever the reason.
#[tokio::test]
async fn a_switch_that_is_not_understood_is_off_from_the_start() {
    let (_dir, path) = switch("maybe");
    let node = Node::start(&["--switch-file", &path]).await;
    let (code, word, sentence) = node.refused(request(&[free()])).await;
    assert_eq!(code, tonic::Code::FailedPrecondition);
    assert_eq!(word, "feature_off");
    assert!(sentence.contains("says neither on nor off"), "{sentence}");
    assert_eq!(node.metric("sternline_feature_enabled"), 0.0);
}

/// What is bound while the switch is turned is not handed out.
#[tokio::test]
async fn a_call_under_way_when_it_is_switched_off_is_refused() {
    let (_dir, path) = switch("on");
    let node = Node::start(&["--switch-file", &path]).await;
    node.binder.stall();
    let mut call = node.another_call().await;
    let asking = tokio::spawn(async move { call.reverse_port_forward(request(&[free()])).await });
    eventually("the bind", async || !node.binder.last_bound().is_empty()).await;
    std::fs::write(&path, "off").expect("written");
    eventually("the switch", async || !feature(&node).await.enabled).await;
    node.binder.go_on();
    let refused = asking.await.expect("no panic").expect_err("refused");
    assert_eq!(crate::support::node::refusal(&refused).1, "feature_off");
    let bound = pb::Bound::from_addr(0, node.binder.last_bound()[0]);
    assert!(is_free(&bound) && node.at_rest());
}

/// Who shuts down says that, whatever the switch says; and nothing that is
/// switched off holds a shutdown up.
#[tokio::test]
async fn switched_off_while_it_drains_it_is_gone_at_once() {
    let (_dir, path) = switch("on");
    let mut node = Node::start(&["--switch-file", &path, "--drain-timeout", "1h"]).await;
    let mut client: Client = node.session(request(&[free()])).await;
    let ready = client.ready().await;
    let (_, mut connection) = pod(&ready.bound[0]).await;
    node.terminate();
    eventually("the notice", async || {
        matches!(
            client.event().await,
            Some(pb::control_message::Event::Draining(_))
        )
    })
    .await;
    std::fs::write(&path, "off").expect("written");
    pod_reset(&mut connection).await;
    assert_eq!(client.ending().await.code, "feature_off");
    node.stopped().await;
}
