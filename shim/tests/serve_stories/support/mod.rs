//! A shim in this process, a binder that listens on this machine's loopback, and
//! a client that is nothing but the protocol.

#![allow(dead_code, unused_imports, reason = "each test binary uses a part")]

pub(crate) mod binder;
pub(crate) mod client;
pub(crate) mod gateway;
pub(crate) mod node;
pub(crate) mod tls;

pub(crate) use binder::FakeBinder;
pub(crate) use client::{Client, Head, Stream, head_of, pod, pod_reset};
pub(crate) use node::Node;

use std::time::Duration;
use sternline_api::v1alpha1 as pb;

/// Longer than any step takes.
pub(crate) const STEP: Duration = Duration::from_secs(20);

/// Waits for a step, and fails the test if it does not come to an end.
pub(crate) async fn within<F: Future>(what: &str, step: F) -> F::Output {
    tokio::time::timeout(STEP, step)
        .await
        .unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A listener on a free port of 127.0.0.1.
pub(crate) fn free() -> pb::Listener {
    at("127.0.0.1", 0)
}

/// A listener.
pub(crate) fn at(address: &str, port: u32) -> pb::Listener {
    pb::Listener {
        protocol: pb::Protocol::Tcp.into(),
        address: address.into(),
        port,
    }
}

/// A request for `listeners` in sandbox `web`.
pub(crate) fn request(listeners: &[pb::Listener]) -> pb::ReversePortForwardRequest {
    in_sandbox("web", listeners)
}

/// A request for `listeners` in a sandbox.
pub(crate) fn in_sandbox(id: &str, listeners: &[pb::Listener]) -> pb::ReversePortForwardRequest {
    pb::ReversePortForwardRequest {
        target: Some(pb::Target {
            by: Some(pb::target::By::SandboxId(id.into())),
        }),
        listeners: listeners.to_vec(),
        ..pb::ReversePortForwardRequest::default()
    }
}

/// The same with a hold.
pub(crate) fn held(
    mut request: pb::ReversePortForwardRequest,
    hold: Duration,
) -> pb::ReversePortForwardRequest {
    request.options = Some(pb::SessionOptions {
        hold_ms: u64::try_from(hold.as_millis()).expect("short"),
        ..pb::SessionOptions::default()
    });
    request
}
