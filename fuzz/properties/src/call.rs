//! The call: protobuf, then everything that is checked before a sandbox is
//! looked for.

use crate::node::node;
use prost::Message as _;
use sternline_api::listen::Listen;
use sternline_api::protocol::REASON_METADATA;
use sternline_api::v1alpha1::{
    self as pb, reverse_port_forward_service_server::ReversePortForwardService as _,
};
use sternline_api::{Failure, Reason};
use tonic::Request;

/// A request is written as it was read; what is let through to the binder obeys
/// every limit; every refusal has a word and a sentence; and a session that
/// nobody comes to leaves nothing behind.
pub(crate) fn check(data: &[u8]) {
    let Ok(request) = pb::ReversePortForwardRequest::decode(data) else {
        return;
    };
    let again = pb::ReversePortForwardRequest::decode(&request.encode_to_vec()[..]);
    assert_eq!(again.as_ref(), Ok(&request));
    if let Ok(listeners) = Listen::all_from_proto(&request.listeners) {
        assert_eq!(listeners.len(), request.listeners.len());
    }
    crate::run(async {
        let (shared, service) = node();
        match service.reverse_port_forward(Request::new(request)).await {
            Ok(answer) => {
                let url = answer.into_inner().url;
                assert!(url.starts_with(crate::node::STREAMING));
            }
            Err(status) => {
                assert!(status.metadata().contains_key(REASON_METADATA), "{status}");
                assert!(status.message().len() <= 2048, "{status}");
                assert_ne!(Failure::from(status).reason, Reason::Internal);
            }
        }
        // Nobody comes with the token.
        while !shared.registry.list().is_empty() {
            tokio::time::sleep(shared.limits.token_ttl).await;
        }
        assert!(shared.passes.is_empty());
    });
}
