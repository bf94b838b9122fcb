//! Forwards that are refused, each with its Status, before the 101.

use crate::forward::{ADA, FORWARD, PROTOCOL, all, raw};
use crate::support::cluster::{Cluster, Gateway};
use crate::support::shim::Shim;
use crate::support::until;
use serde_json::{Value, json};
use std::time::SystemTime;
use sternline_api::{Failure, Reason};
use sternline_gateway::authority::{Keyring, Lifetimes};

async fn refusal(gateway: &Gateway, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
    let opened = gateway.proxy.forward(path, fields).await;
    let (code, status) = opened.expect_err("refused");
    assert_eq!(status["kind"], "Status", "{status}");
    assert_eq!(status["code"], code, "{status}");
    (code, status)
}

fn cause(status: &Value) -> &str {
    let cause = &status["details"]["causes"][0]["reason"];
    cause.as_str().unwrap_or_default()
}

/// Who may not is told so, and written down; the node hears nothing of it.
#[tokio::test]
async fn a_user_without_the_right_is_refused_and_recorded() {
    let (_cluster, shim, gateway) = all(&[]).await;
    let mut fields = raw();
    fields[0].1 = "eve";
    let (code, status) = refusal(&gateway, FORWARD, &fields).await;
    assert_eq!((code, cause(&status)), (403, "forbidden"));
    assert_eq!(status["reason"], "Forbidden");
    let message = status["message"].as_str().expect("a sentence");
    assert!(message.contains("user \"eve\" cannot create"), "{message}");
    let record = gateway.recorded("refused").await;
    assert_eq!(record["requester"]["user"], "eve");
    assert_eq!(record["end"], "forbidden");
    assert_eq!(record["listeners"], json!([{"address": "", "port": 9003}]));
    assert_eq!(shim.with(|state| state.calls.len()), 0);
}

/// Listening wide is a right of its own, which ada has not.
#[tokio::test]
async fn listening_wide_needs_another_right() {
    let (_cluster, shim, gateway) = all(&[]).await;
    let wide = format!("{FORWARD}&listen=0.0.0.0:80");
    let (code, status) = refusal(&gateway, &wide, &raw()).await;
    assert_eq!((code, cause(&status)), (403, "wide_bind_denied"));
    assert_eq!(shim.with(|state| state.calls.len()), 0);
}

/// What is wrong with the request is found out before anything is asked.
#[tokio::test]
async fn requests_that_cannot_be_meant_are_refused() {
    let (cluster, shim, gateway) = all(&["--max-hold", "1m"]).await;
    cluster.api.asked();
    let spdy = [&ADA[..], &[("upgrade", "SPDY/3.1")]].concat();
    let later = [
        ("upgrade", "sternline"),
        ("sternline-protocol", "v9.reverse.sternline.dev"),
    ];
    let later = [&ADA[..], &later].concat();
    let ticket = [&raw()[..], &[("sternline-ticket", "../../x")]].concat();
    let (longer, none) = (format!("{FORWARD}0"), FORWARD.replace("9003", "0x50"));
    for (path, fields, code, word) in [
        (FORWARD, &spdy, 426, "upgrade_required"),
        (FORWARD, &later, 400, "version_unsupported"),
        (FORWARD, &ticket, 404, "token_unknown"),
        (
            &longer.replace("30s0", "61s"),
            &raw(),
            400,
            "invalid_request",
        ),
        (&none, &raw(), 400, "invalid_request"),
    ] {
        let (answered, status) = refusal(&gateway, path, fields).await;
        assert_eq!((answered, cause(&status)), (code, word), "{status}");
    }
    let asked = cluster.api.asked();
    assert!(
        !asked.iter().any(|ask| ask.contains("reviews")),
        "{asked:?}"
    );
    assert_eq!(shim.with(|state| state.calls.len()), 0);
}

/// What a node refuses comes through with its word and its sentence.
#[tokio::test]
async fn what_the_node_refuses_is_told() {
    let (_cluster, shim, gateway) = all(&[]).await;
    let taken = Failure::new(Reason::PortInUse, "127.0.0.1:9003 is taken by nginx");
    shim.with(|state| state.refuse_call = Some(taken));
    let (code, status) = refusal(&gateway, FORWARD, &raw()).await;
    assert_eq!((code, cause(&status)), (409, "port_in_use"));
    assert_eq!(status["message"], "127.0.0.1:9003 is taken by nginx");
    assert_eq!(gateway.recorded("refused").await["end"], "port_in_use");
}

/// A node of a release that does not go with this one is named, whether it is the call or
/// the stream that they have no version of in common.
#[tokio::test]
async fn a_shim_of_another_version_is_named() {
    let (_cluster, shim, gateway) = all(&[]).await;
    shim.with(|state| state.other_version = true);
    let (code, status) = refusal(&gateway, FORWARD, &raw()).await;
    assert_eq!((code, cause(&status)), (400, "version_unsupported"));
    assert_eq!(
        status["message"],
        "the shim of node \"worker-1\" does not serve the call in version v1alpha1, which this gateway speaks: use releases that go together"
    );
    let said = "no streaming protocol in common: this node speaks v9.reverse.sternline.dev";
    shim.with(|state| {
        state.other_version = false;
        state.refuse_stream = Some(Failure::new(Reason::VersionUnsupported, said));
    });
    let (code, status) = refusal(&gateway, FORWARD, &raw()).await;
    assert_eq!((code, cause(&status)), (400, "version_unsupported"));
    assert_eq!(status["message"], said);
}

/// A session that nobody can stream is ended at once: its ports are free again.
#[tokio::test]
async fn a_session_that_cannot_be_streamed_is_stopped() {
    let (_cluster, shim, gateway) = all(&[]).await;
    let off = Failure::new(Reason::FeatureOff, "switched off meanwhile");
    shim.with(|state| state.refuse_stream = Some(off));
    let (code, status) = refusal(&gateway, FORWARD, &raw()).await;
    assert_eq!((code, cause(&status)), (503, "feature_off"));
    assert!(
        status["details"]["retryAfterSeconds"].is_number(),
        "{status}"
    );
    until(async || shim.with(|state| (state.stopped == ["s1"]).then_some(()))).await;
}

/// A limit is the client's to wait for.
#[tokio::test]
async fn one_user_cannot_take_all_the_room() {
    let (_cluster, _shim, gateway) = all(&["--max-sessions-per-user", "2"]).await;
    let first = gateway.proxy.forward(FORWARD, &raw()).await.expect("room");
    let _second = gateway.proxy.forward(FORWARD, &raw()).await.expect("room");
    let (code, status) = refusal(&gateway, FORWARD, &raw()).await;
    assert_eq!((code, cause(&status)), (429, "session_limit"));
    drop(first);
    until(async || gateway.proxy.forward(FORWARD, &raw()).await.ok()).await;
}

/// Whoever answers at the shim's address must be the shim of that very node: nobody
/// else is told anything.
#[tokio::test]
async fn a_certificate_of_another_node_or_authority_is_refused() {
    let another = Keyring::generate(SystemTime::now(), &Lifetimes::default());
    let another = another.expect("a root");
    for stolen in [true, false] {
        let cluster = Cluster::installed();
        let (shim, listener) = Shim::bind().await;
        cluster.with_pod(shim.address.ip());
        let port = shim.address.port().to_string();
        let gateway = Gateway::start(&cluster, &["--shim-port", &port]).await;
        match stolen {
            true => shim.serve(listener, &cluster.ring(), "worker-2"),
            false => shim.serve(listener, &another, "worker-1"),
        }
        let (code, status) = refusal(&gateway, FORWARD, &raw()).await;
        assert_eq!((code, cause(&status)), (503, "node_unavailable"));
        let told = shim.with(|state| state.calls.len() + state.streams.len());
        assert_eq!(told, 0);
    }
}

/// A node that is not there is named, and what to look at.
#[tokio::test]
async fn a_shim_that_cannot_be_reached_is_named() {
    let cluster = Cluster::installed();
    let (shim, listener) = Shim::bind().await;
    cluster.with_pod(shim.address.ip());
    let port = shim.address.port().to_string();
    let gateway = Gateway::start(&cluster, &["--shim-port", &port]).await;
    drop(listener);
    let (code, status) = refusal(&gateway, FORWARD, &raw()).await;
    assert_eq!((code, cause(&status)), (503, "node_unavailable"));
    let message = status["message"].as_str().expect("a sentence");
    assert!(message.contains("\"worker-1\""), "{message}");
}

/// A method that opens nothing.
#[tokio::test]
async fn other_methods_are_refused() {
    let (_cluster, _shim, gateway) = all(&[]).await;
    let request = http::Request::delete(FORWARD)
        .header("host", "gateway")
        .header("X-Remote-User", "ada")
        .header("sternline-protocol", PROTOCOL);
    let request = request.body(Default::default()).expect("a request");
    let response = gateway.proxy.send(request).await;
    assert_eq!(response.status(), 405);
}
