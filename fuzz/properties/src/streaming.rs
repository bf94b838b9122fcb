//! The streaming endpoint: any bytes in place of an Upgrade, and any after it.

use crate::input::Input;
use crate::io::Peer;
use crate::node::{STREAMING, node};
use std::sync::Arc;
use sternline_api::protocol::STREAM_PROTOCOL;
use sternline_api::v1alpha1::{
    self as pb, reverse_port_forward_service_server::ReversePortForwardService as _,
};
use sternline_shim::streaming::serve_one;
use tokio_util::sync::CancellationToken;
use tonic::Request;

/// Stands for the secret of a session in the fuzzer's bytes.
const TOKEN: &[u8] = b"@TOKEN@";

/// Only a request with the secret and a known protocol is upgraded, every other
/// connection is answered or closed within a bound, and the session gives
/// everything back whatever came after the Upgrade.
pub(crate) fn check(data: &[u8]) {
    crate::run(async {
        let (shared, service) = node();
        let request = pb::ReversePortForwardRequest {
            target: Some(pb::Target {
                by: Some(pb::target::By::SandboxId("web".to_owned())),
            }),
            listeners: vec![pb::Listener::default()],
            ..pb::ReversePortForwardRequest::default()
        };
        let answer = service.reverse_port_forward(Request::new(request)).await;
        let url = answer.expect("a session").into_inner().url;
        let path = url.strip_prefix(STREAMING).expect("a URL of this node");
        let token = path.rsplit('/').next().expect("a token");
        let mut input = Input::new(data);
        let style = [input.byte(), input.byte(), input.byte()];
        let bytes = replace(input.rest(), token.as_bytes());
        let (peer, heard) = Peer::new(&mut Input::new(&style), &bytes);
        serve_one(peer, Arc::clone(&shared), CancellationToken::new()).await;
        let answer = heard.lock().expect("nobody panics with it").clone();
        if answer.starts_with(b"HTTP/1.1 101 ") {
            let said = String::from_utf8_lossy(&bytes);
            assert!(said.contains(token), "without the secret: {said:?}");
            assert!(said.contains(STREAM_PROTOCOL), "{said:?}");
            let lower = said.to_ascii_lowercase();
            assert!(
                lower.contains("upgrade:") && lower.contains("connection:"),
                "{said:?}"
            );
            assert!(said.contains("GET "), "{said:?}");
        } else if !answer.is_empty() && style[0] & 0x80 == 0 {
            assert!(answer.starts_with(b"HTTP/1."), "{answer:?}");
        }
        // Its token expires, or its tunnel is found dead.
        while !shared.registry.list().is_empty() {
            tokio::time::sleep(shared.limits.token_ttl).await;
        }
        assert!(shared.passes.is_empty(), "a pass outlives its session");
        assert_eq!(shared.budget.used(), 0, "bytes are still charged");
    });
}

fn replace(bytes: &[u8], token: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len() + token.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(TOKEN.len()).position(|window| window == TOKEN) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(token);
        rest = &rest[at + TOKEN.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
