//! What the call takes, refuses and tells.

use crate::support::client::is_free;
use crate::support::node::refusal;
use crate::support::{Node, at, eventually, free, held, in_sandbox, request, within};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::v1alpha1 as pb;
use tonic::Code;

fn labelled(labels: Vec<(String, String)>) -> pb::ReversePortForwardRequest {
    let mut request = request(&[free()]);
    request.options = Some(pb::SessionOptions {
        labels: labels.into_iter().collect(),
        ..pb::SessionOptions::default()
    });
    request
}

#[tokio::test]
async fn each_bad_request_is_refused_with_its_code_word_and_sentence() {
    let node = Node::start(&["--max-hold", "10s"]).await;
    let ok = request(&[free()]);
    let pod = pb::target::By::Pod(pb::Pod::default());
    let many = (0..17).map(|n| (n.to_string(), String::new())).collect();
    let udp = pb::Listener {
        protocol: 2,
        ..free()
    };
    let cases = [
        (
            pb::ReversePortForwardRequest::default(),
            Code::InvalidArgument,
            "invalid_request",
            "sandbox id",
        ),
        (
            in_sandbox("", &[free()]),
            Code::InvalidArgument,
            "invalid_request",
            "sandbox id",
        ),
        (
            in_sandbox("missing", &[free()]),
            Code::NotFound,
            "sandbox_not_found",
            "sandbox missing",
        ),
        (
            pb::ReversePortForwardRequest {
                target: Some(pb::Target { by: Some(pod) }),
                ..ok.clone()
            },
            Code::PermissionDenied,
            "forbidden",
            "gateway",
        ),
        (
            pb::ReversePortForwardRequest {
                requester: Some(pb::Requester::default()),
                ..ok.clone()
            },
            Code::PermissionDenied,
            "forbidden",
            "gateway",
        ),
        (
            pb::ReversePortForwardRequest {
                grant: vec![1],
                ..ok.clone()
            },
            Code::PermissionDenied,
            "forbidden",
            "gateway",
        ),
        (
            request(&[]),
            Code::InvalidArgument,
            "invalid_request",
            "no listeners",
        ),
        (
            request(&[at("", 65536)]),
            Code::InvalidArgument,
            "invalid_request",
            "65536",
        ),
        (
            request(&[at("localhost", 80)]),
            Code::InvalidArgument,
            "invalid_request",
            "localhost",
        ),
        (
            request(&[udp]),
            Code::InvalidArgument,
            "invalid_request",
            "protocol",
        ),
        (
            request(&[at("", 8080), at("127.0.0.1", 8080)]),
            Code::InvalidArgument,
            "invalid_request",
            "0 and 1",
        ),
        (
            request(&[at("0.0.0.0", 0)]),
            Code::PermissionDenied,
            "wide_bind_denied",
            "--allow-wide-bind",
        ),
        (
            held(ok.clone(), Duration::from_millis(7_200_500)),
            Code::InvalidArgument,
            "invalid_request",
            "a hold of 2h500ms is longer than the 10s that this node allows (--max-hold)",
        ),
        (
            labelled(many),
            Code::InvalidArgument,
            "invalid_request",
            "17 labels",
        ),
        (
            labelled(vec![("k".repeat(64), String::new())]),
            Code::InvalidArgument,
            "invalid_request",
            "63 bytes",
        ),
        (
            labelled(vec![("k".into(), "v".repeat(254))]),
            Code::InvalidArgument,
            "invalid_request",
            "253",
        ),
    ];
    for (request, code, word, part) in cases {
        let refused = node.refused(request).await;
        assert_eq!((refused.0, refused.1.as_str()), (code, word), "{refused:?}");
        assert!(refused.2.contains(part), "{refused:?} lacks {part:?}");
    }
    assert_eq!(
        node.metric("sternline_errors_total{type=\"forbidden\"}"),
        3.0
    );
    let refused = "sternline_calls_total{call=\"ReversePortForward\",code=\"NotFound\"}";
    assert_eq!(node.metric(refused), 1.0);
    assert!(node.at_rest(), "a refused call leaves nothing");
}

#[tokio::test]
async fn a_sentence_stays_short_whatever_was_asked_for() {
    let node = Node::start(&[]).await;
    // As a header it would be three times as long, and break the connection.
    let address = "\u{e9}".repeat(50_000);
    let (code, word, sentence) = node.refused(request(&[at(&address, 80)])).await;
    assert_eq!(
        (code, word.as_str()),
        (Code::InvalidArgument, "invalid_request")
    );
    assert!(sentence.len() < 2000, "{} bytes", sentence.len());
}

#[tokio::test]
async fn a_taken_port_is_a_conflict_and_leaves_none_of_the_others() {
    let node = Node::start(&[]).await;
    let taken = node.open(request(&[free()])).await.bound[0].clone();
    let other = at("127.0.0.9", taken.port);
    let (code, word, sentence) = node
        .refused(request(&[other, at("127.0.0.1", taken.port)]))
        .await;
    assert_eq!((code, word.as_str()), (Code::AlreadyExists, "port_in_use"));
    assert!(sentence.contains(&taken.port.to_string()), "{sentence}");
    let other = pb::Bound {
        address: "127.0.0.9".into(),
        ..taken
    };
    assert!(is_free(&other), "half a session stays bound");
}

#[tokio::test]
async fn a_session_is_answered_and_listed_as_it_is() {
    let node = Node::start(&["--token-ttl", "30s", "--max-connections-per-session", "7"]).await;
    let mut asked = labelled(vec![("who".into(), "me".into())]);
    asked.listeners = vec![at("127.0.0.1", 0), at("", 0)];
    let answer = node.open(asked).await;
    let ids: Vec<_> = answer.bound.iter().map(|b| b.listener_id).collect();
    assert!(ids.starts_with(&[0, 1]) && ids.len() <= 3, "{ids:?}");
    assert!(answer.url.starts_with(&node.streaming));
    assert!(
        !answer.url.contains(&answer.session_id),
        "an id is no secret"
    );
    let token = answer.url.rsplit('/').next().expect("a token");
    assert!(token.len() >= 32, "128 bits");
    let limits = answer.limits.expect("limits");
    assert_eq!(
        (limits.connections_per_session, limits.token_ttl_ms),
        (7, 30_000)
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("now");
    let left = Duration::from_millis(answer.expires_at_ms) - now;
    assert!(left > Duration::from_secs(20) && left <= Duration::from_secs(30));

    let listed = node.sessions().await;
    assert_eq!(listed.len(), 1);
    let listed = &listed[0];
    assert_eq!(listed.session_id, answer.session_id);
    assert_eq!(listed.sandbox_id, "web");
    assert_eq!(listed.state(), pb::SessionState::Waiting);
    assert_eq!(listed.bound, answer.bound);
    assert_eq!(listed.labels["who"], "me");
    let uid = nix::unistd::getuid().to_string();
    assert_eq!(listed.requester.as_ref().expect("somebody").uid, uid);

    node.open(in_sandbox("other", &[free()])).await;
    let only = pb::ListSessionsRequest {
        sandbox_id: "oth".into(),
    };
    let only = node.call.clone().list_sessions(only).await.expect("listed");
    assert_eq!(only.into_inner().sessions.len(), 1);
}

#[tokio::test]
async fn status_and_version_tell_what_holds() {
    let node = Node::start(&["--allow-wide-bind"]).await;
    node.open(request(&[at("0.0.0.0", 0)])).await;
    let status = |node: &Node| {
        let mut call = node.call.clone();
        async move {
            let status = call.status(pb::StatusRequest {}).await;
            status.expect("a status").into_inner()
        }
    };
    let told = status(&node).await;
    assert!(told.wide_bind_allowed);
    assert_eq!((told.sessions, told.connections), (1, 0));
    assert_eq!(told.runtime, "fake");
    assert!(
        told.conditions
            .iter()
            .all(|c| c.status && c.message.is_empty())
    );

    node.binder.break_runtime("it does not answer (os error 2)");
    let told = status(&node).await;
    let reachable = told
        .conditions
        .iter()
        .find(|c| c.r#type == "RuntimeReachable");
    let reachable = reachable.expect("a condition");
    assert!(!reachable.status);
    assert_eq!(reachable.message, "it does not answer");

    let version = node.call.clone().version(pb::VersionRequest {}).await;
    let version = version.expect("a version").into_inner();
    assert_eq!(version.api_versions, ["v1alpha1"]);
    assert_eq!(version.protocols, ["v1alpha1.reverse.sternline.dev"]);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_stopped() {
    let node = Node::start(&[]).await;
    let id = node.open(request(&[free()])).await.session_id;
    for unknown in ["nothing-here", &id[..3], ""] {
        let refused = node.stop_session(unknown).await.expect_err("unknown");
        let (code, word, _) = refusal(&refused);
        assert_eq!(
            (code, &*word),
            (Code::NotFound, "session_not_found"),
            "{unknown:?}"
        );
    }
    node.stop_session(&id[..4]).await.expect("a prefix will do");
    assert!(node.at_rest());
}

/// A caller that goes away while the runtime is slow gets its sockets freed.
#[tokio::test]
async fn nothing_stays_bound_for_a_caller_that_went_away() {
    let node = Node::start(&["--max-sessions-per-node", "1"]).await;
    node.binder.stall();
    let mut call = node.another_call().await;
    let asking = tokio::spawn(async move { call.reverse_port_forward(request(&[free()])).await });
    eventually("the bind", async || !node.binder.last_bound().is_empty()).await;
    let addr = node.binder.last_bound()[0];
    let bound = pb::Bound::from_addr(0, addr);
    assert!(!is_free(&bound));
    let (_, word, _) = node.refused(request(&[free()])).await;
    assert_eq!(word, "session_limit", "its place is taken meanwhile");
    asking.abort();
    eventually("the socket's end", async || is_free(&bound)).await;
    eventually("the place to be free", async || {
        let mut call = node.call.clone();
        let again = call.reverse_port_forward(request(&[free()]));
        // Stalled again, rather than refused.
        tokio::time::timeout(Duration::from_millis(50), again)
            .await
            .is_err()
    })
    .await;
}

/// A binder that never answers is given up, with a sentence.
#[tokio::test(start_paused = true)]
async fn a_binder_that_hangs_is_given_up() {
    let node = Node::start(&[]).await;
    node.binder.stall();
    let asked = node
        .call
        .clone()
        .reverse_port_forward(request(&[free()]))
        .await;
    let (code, word, sentence) = refusal(&asked.expect_err("given up"));
    assert_eq!(
        (code, word.as_str()),
        (Code::Unavailable, "runtime_unavailable")
    );
    assert!(sentence.starts_with("sandbox web"), "{sentence}");
    let bound = pb::Bound::from_addr(0, node.binder.last_bound()[0]);
    assert!(is_free(&bound));
}

#[tokio::test]
async fn health_is_served() {
    let node = Node::start(&[]).await;
    let channel = node.channel();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let check = tonic_health::pb::HealthCheckRequest {
        service: "sternline.v1alpha1.ReversePortForwardService".into(),
    };
    let health = within("the check", health.check(check))
        .await
        .expect("known");
    assert_eq!(health.into_inner().status, 1, "SERVING");
}
