//! Requests that have to be refused, and with which word (§2.2, §2.3, §2.5).

use crate::{
    context::{Context, port, refusal, request, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, failed, skip},
};
use std::collections::HashMap;
use sternline_api::v1alpha1::{self as pb, target::By};
use tonic::Code::{FailedPrecondition, InvalidArgument, NotFound, PermissionDenied};

pub(super) const SPECS: &[Spec] = &[
    spec!(required "request.target-missing", "2.2", [], "A request that names no sandbox fails with invalid_request.", target_missing),
    spec!(required "request.sandbox-unknown", "2.2", [], "An id that no sandbox has fails with NOT_FOUND, sandbox_not_found.", sandbox_unknown),
    spec!(required "request.sandbox-prefix", "2.2", [], "A prefix of an id that fits only one sandbox is enough.", sandbox_prefix),
    spec!(required "request.sandbox-ambiguous", "2.2", [], "A prefix that fits several sandboxes fails with sandbox_ambiguous.", sandbox_ambiguous),
    spec!(required "request.pod-forbidden", "2.2", [], "A target by pod is honoured only from a gateway: forbidden.", pod_forbidden),
    spec!(required "request.requester-forbidden", "2.2", [], "A requester is honoured only from a gateway: forbidden.", requester_forbidden),
    spec!(required "request.grant-forbidden", "2.2", [], "A grant is honoured only from a gateway: forbidden.", grant_forbidden),
    spec!(required "request.listeners-missing", "2.2", [], "A request without listeners fails with invalid_request.", listeners_missing),
    spec!(required "request.port-range", "2.3", [], "A port beyond 65535 fails with invalid_request.", port_range),
    spec!(required "request.address-syntax", "2.3", [], "Names, brackets, zones and ports are no addresses: invalid_request.", address_syntax),
    spec!(required "request.address-mapped", "2.3", [], "An IPv4 address mapped into IPv6 is refused.", address_mapped),
    spec!(required "request.protocol-unknown", "2.3", [], "A protocol other than TCP fails with invalid_request.", protocol_unknown),
    spec!(required "request.protocol-unset", "2.3", [], "An unset protocol is read as TCP.", protocol_unset),
    spec!(required "request.collision", "2.3", [], "Two listeners that would take the same address fail with invalid_request.", collision),
    spec!(required "request.collision-free-ports", "2.3", [], "Two listeners that ask for free ports do not collide.", free_ports),
    spec!(required "request.hold-too-long", "2.2", [], "A hold beyond limits.max_hold_ms fails with invalid_request.", hold_too_long),
    spec!(required "request.labels-many", "2.2", [], "More than 16 labels fail with invalid_request.", labels_many),
    spec!(required "request.labels-long", "2.2", [], "Labels longer than 63 and 253 bytes fail with invalid_request.", labels_long),
    spec!(required "request.host-network", "11", [], "A sandbox that uses the node's own network fails with host_network.", host_network),
];

async fn target_missing(context: &Context) -> Step {
    let request = pb::ReversePortForwardRequest {
        listeners: vec![tcp("", 0)],
        ..Default::default()
    };
    context
        .refused(request, InvalidArgument, "invalid_request")
        .await?;
    let empty = request_with("", tcp("", 0));
    context
        .refused(empty, InvalidArgument, "invalid_request")
        .await
        .map(drop)
}

fn request_with(sandbox: &str, listener: pb::Listener) -> pb::ReversePortForwardRequest {
    request(sandbox, &[listener])
}

async fn sandbox_unknown(context: &Context) -> Step {
    // An id as runtimes give them.
    let id = "0badcafe".repeat(8);
    let request = request_with(&id, tcp("", 0));
    let message = context
        .refused(request, NotFound, "sandbox_not_found")
        .await?;
    check(
        message.contains(&id[..8]),
        "a sentence that names the id",
        message,
    )
}

async fn sandbox_prefix(context: &Context) -> Step {
    let pod = context.pod().await?;
    let prefix = &pod.id[..pod.id.len() - 1];
    let answer = context
        .call(request_with(prefix, tcp("127.0.0.1", 0)))
        .await;
    match answer {
        Ok(opened) => {
            let address = opened.bound.first().and_then(pb::Bound::to_addr);
            let there = pod.listening().await?;
            let other = address.is_none_or(|address| !there.contains(&address));
            check(
                !other,
                "a listener in the sandbox that was meant",
                format!("{there:?}"),
            )
        }
        Err(status) => failed("the call succeeds", crate::context::describe(&status)),
    }
}

async fn sandbox_ambiguous(context: &Context) -> Step {
    let mut pods = vec![context.pod().await?];
    // Runtimes give random hexadecimal ids: of 17 two begin alike for certain.
    let prefix = loop {
        if pods.len() > 17 {
            return skip("no two sandboxes have ids that begin alike");
        }
        let next = context.pod().await?;
        let alike = pods.iter().map(|pod| common(&pod.id, &next.id)).max();
        if let Some(alike) = alike.filter(|alike| *alike > 0) {
            break next.id[..alike].to_owned();
        }
        pods.push(next);
    };
    let request = request_with(&prefix, tcp("", 0));
    context
        .refused(request, InvalidArgument, "sandbox_ambiguous")
        .await
        .map(drop)
}

/// How many bytes two ids have in common from their beginning.
fn common(one: &str, other: &str) -> usize {
    let pairs = one.bytes().zip(other.bytes());
    pairs.take_while(|(a, b)| a == b).count()
}

async fn pod_forbidden(context: &Context) -> Step {
    let pod = pb::Pod {
        namespace: "default".into(),
        name: "web".into(),
        uid: "1".into(),
    };
    let request = pb::ReversePortForwardRequest {
        target: Some(pb::Target {
            by: Some(By::Pod(pod)),
        }),
        listeners: vec![tcp("", 0)],
        ..Default::default()
    };
    context
        .refused(request, PermissionDenied, "forbidden")
        .await
        .map(drop)
}

async fn requester_forbidden(context: &Context) -> Step {
    let pod = context.pod().await?;
    let mut request = request_with(&pod.id, tcp("", 0));
    request.requester = Some(pb::Requester {
        user: "jane".into(),
        ..Default::default()
    });
    context
        .refused(request, PermissionDenied, "forbidden")
        .await
        .map(drop)
}

async fn grant_forbidden(context: &Context) -> Step {
    let pod = context.pod().await?;
    let mut request = request_with(&pod.id, tcp("", 0));
    request.grant = b"grant".to_vec();
    context
        .refused(request, PermissionDenied, "forbidden")
        .await
        .map(drop)
}

async fn listeners_missing(context: &Context) -> Step {
    let pod = context.pod().await?;
    let request = request(&pod.id, &[]);
    context
        .refused(request, InvalidArgument, "invalid_request")
        .await
        .map(drop)
}

/// Each of these listeners alone has to be refused.
async fn invalid(context: &Context, listeners: &[pb::Listener]) -> Step {
    let pod = context.pod().await?;
    for listener in listeners {
        let request = request_with(&pod.id, listener.clone());
        context
            .refused(request, InvalidArgument, "invalid_request")
            .await?;
    }
    Ok(())
}

async fn port_range(context: &Context) -> Step {
    let far = pb::Listener {
        port: 65_536 + u32::from(port()),
        ..tcp("", 0)
    };
    invalid(context, &[far]).await
}

async fn address_syntax(context: &Context) -> Step {
    let wrong = ["localhost", "[::1]", "::1%lo", "127.0.0.1:80", "127.1", "*"];
    invalid(context, &wrong.map(|address| tcp(address, 0))).await
}

async fn address_mapped(context: &Context) -> Step {
    invalid(context, &[tcp("::ffff:127.0.0.1", 0)]).await
}

async fn protocol_unknown(context: &Context) -> Step {
    let other = pb::Listener {
        protocol: 17,
        ..tcp("", 0)
    };
    invalid(context, &[other]).await
}

async fn protocol_unset(context: &Context) -> Step {
    let pod = context.pod().await?;
    let unset = pb::Listener {
        protocol: 0,
        ..tcp("", 0)
    };
    context.open(&pod, &[unset]).await.map(drop)
}

async fn collision(context: &Context) -> Step {
    let pod = context.pod().await?;
    let port = port();
    for (one, other) in [("", ""), ("", "127.0.0.1"), ("::1", "")] {
        let request = request(&pod.id, &[tcp(one, port), tcp(other, port)]);
        context
            .refused(request, InvalidArgument, "invalid_request")
            .await?;
    }
    Ok(())
}

async fn free_ports(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context
        .open(&pod, &[tcp("127.0.0.1", 0), tcp("127.0.0.1", 0)])
        .await?;
    let addresses = opened.addresses();
    let differ = addresses.len() == 2 && addresses[0] != addresses[1];
    check(
        differ,
        "two addresses that differ",
        format!("{addresses:?}"),
    )
}

async fn hold_too_long(context: &Context) -> Step {
    let pod = context.pod().await?;
    let mut request = request_with(&pod.id, tcp("", 0));
    request.options = Some(pb::SessionOptions {
        hold_ms: context.limits().max_hold_ms + 1,
        ..Default::default()
    });
    context
        .refused(request, InvalidArgument, "invalid_request")
        .await
        .map(drop)
}

async fn labelled(context: &Context, labels: HashMap<String, String>) -> Step {
    let pod = context.pod().await?;
    let mut request = request_with(&pod.id, tcp("", 0));
    request.options = Some(pb::SessionOptions { hold_ms: 0, labels });
    let answer = context.call(request).await;
    refusal(answer.map(drop), InvalidArgument, "invalid_request").map(drop)
}

async fn labels_many(context: &Context) -> Step {
    labelled(
        context,
        (0..17)
            .map(|n| (format!("key{n}"), String::new()))
            .collect(),
    )
    .await
}

async fn labels_long(context: &Context) -> Step {
    labelled(context, [("k".repeat(64), String::new())].into()).await?;
    labelled(context, [(String::new(), "v".into())].into()).await?;
    labelled(context, [("key".into(), "v".repeat(254))].into()).await
}

async fn host_network(context: &Context) -> Step {
    let host = context.host_pod().await?;
    let request = request_with(&host.id, tcp("", 0));
    context
        .refused(request, FailedPrecondition, "host_network")
        .await
        .map(drop)
}
