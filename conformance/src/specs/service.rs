//! What is served beside the call, and what `Status` tells (§2.1, §2.4).

use crate::{
    context::{Context, describe},
    spec::{Spec, spec},
    verdict::{Step, check, failed},
};
use sternline_api::v1alpha1 as pb;
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::{http::uri::PathAndQuery, tokio_stream},
};
use tonic_prost::ProstCodec;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "service.health", "2.1", [], "gRPC health checking says that the server is serving.", health),
    spec!(required "service.reflection", "2.1", [], "Server reflection lists the service of the call.", reflection),
    spec!(required "service.counts", "2.4", [], "Status counts the sessions and connections that are open.", counts),
    spec!(required "service.protocols", "2.4", [], "Status names the runtime, and TCP as a protocol of listeners.", protocols),
];

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    /// 1: SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.reflection.v1.ServerReflectionRequest`, one kind of it.
#[derive(Clone, PartialEq, prost::Message)]
struct ReflectionRequest {
    #[prost(string, tag = "7")]
    list_services: String,
}

/// `grpc.reflection.v1.ServerReflectionResponse`, the answer to that kind.
#[derive(Clone, PartialEq, prost::Message)]
struct ReflectionResponse {
    #[prost(message, optional, tag = "6")]
    services: Option<ListedServices>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListedServices {
    #[prost(message, repeated, tag = "1")]
    service: Vec<ListedService>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ListedService {
    #[prost(string, tag = "1")]
    name: String,
}

async fn health(context: &Context) -> Step {
    let mut client = Grpc::new(context.channel.clone());
    let ask = async {
        client.ready().await.map_err(unready)?;
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let request = Request::new(HealthRequest::default());
        let codec = ProstCodec::<HealthRequest, HealthResponse>::default();
        client.unary(request, path, codec).await
    };
    match ask.await {
        Ok(answer) => {
            let status = answer.into_inner().status;
            check(status == 1, "SERVING (1)", status)
        }
        Err(status) => failed("SERVING", describe(&status)),
    }
}

async fn reflection(context: &Context) -> Step {
    let mut client = Grpc::new(context.channel.clone());
    let ask = async {
        client.ready().await.map_err(unready)?;
        let path =
            PathAndQuery::from_static("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
        let request = ReflectionRequest {
            list_services: "*".into(),
        };
        let request = Request::new(tokio_stream::once(request));
        let codec = ProstCodec::<ReflectionRequest, ReflectionResponse>::default();
        let answers = client.streaming(request, path, codec).await?;
        answers.into_inner().message().await
    };
    let services = match ask.await {
        Ok(answer) => answer
            .and_then(|answer| answer.services)
            .unwrap_or_default(),
        Err(status) => return failed("a list of services", describe(&status)),
    };
    let wanted = "sternline.v1alpha1.ReversePortForwardService";
    let listed = services.service.iter().any(|one| one.name == wanted);
    check(listed, wanted, format!("{services:?}"))
}

fn unready(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// `Status` as it is now.
async fn status(context: &Context) -> Step<pb::StatusResponse> {
    match context.client.clone().status(pb::StatusRequest {}).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => failed("Status answers", describe(&status)),
    }
}

async fn counts(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (_inside, _stream) = forward.connect().await?;
    context.step("a session is open, and a connection of it");
    // Others may be open beside it.
    context
        .eventually("at least one of each", || async {
            let now = status(context).await?;
            let counted = now.sessions >= 1 && now.connections >= 1;
            let seen = format!("{} and {}", now.sessions, now.connections);
            Ok((!counted).then_some(seen))
        })
        .await
}

async fn protocols(context: &Context) -> Step {
    let now = status(context).await?;
    let tcp = now.protocols.contains(&pb::Protocol::Tcp.into());
    let seen = format!("{:?} and {:?}", now.runtime, now.protocols);
    check(tcp && !now.runtime.is_empty(), "a name, and TCP", seen)
}
