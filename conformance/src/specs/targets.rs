//! Targets that fail (§6.2).

use super::pod;
use crate::{
    context::Context,
    spec::{Spec, spec},
    verdict::Step,
};
use std::time::Duration;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "target.refused", "6.2", [], "502 connection_refused resets the pod's connection.", refused),
    spec!(required "target.timeout", "6.2", [], "504 without Proxy-Status resets the pod's connection.", timeout),
    spec!(required "target.unknown-listener", "6.2", [], "500 destination_not_found resets the pod's connection.", unknown_listener),
    spec!(required "target.reset-unanswered", "7", [], "RST_STREAM instead of an answer resets the pod's connection.", reset_unanswered),
    spec!(required "target.next-connects", "6.2", [], "A connection that failed does not end the session.", next_connects),
    spec!(required "target.no-answer", "6.2", ["slow"], "Without an answer the pod's connection is reset 5 s after limits.dial_timeout_ms.", no_answer),
];

async fn answer(context: &Context, status: &str, error: Option<&str>) -> Step {
    let forward = context.forward().await?;
    let mut inside = forward.pod.connect(forward.address).await?;
    let stream = forward.tunnel.request().await?;
    match error {
        Some(error) => stream.refuse(status, error),
        None => stream.answer(status, &[]),
    }
    context.step(format!("answered {status}, {error:?}"));
    pod::reset(&mut inside, context.patience).await
}

async fn refused(context: &Context) -> Step {
    answer(context, "502", Some("connection_refused")).await
}

async fn timeout(context: &Context) -> Step {
    answer(context, "504", None).await
}

async fn unknown_listener(context: &Context) -> Step {
    answer(context, "500", Some("destination_not_found")).await
}

async fn reset_unanswered(context: &Context) -> Step {
    let forward = context.forward().await?;
    let mut inside = forward.pod.connect(forward.address).await?;
    let stream = forward.tunnel.request().await?;
    stream.reset(crate::wire::frame::CANCEL);
    context.step("sent RST_STREAM instead of an answer");
    pod::reset(&mut inside, context.patience).await
}

async fn next_connects(context: &Context) -> Step {
    let forward = context.forward().await?;
    let mut failing = forward.pod.connect(forward.address).await?;
    forward.tunnel.request().await?.refuse("502", "dns_error");
    context.step("answered 502, dns_error");
    // The node has acted on it by then; how the connection ends is another spec's.
    let _ = pod::reset(&mut failing, context.patience).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (mut inside, stream) = forward.connect().await?;
    stream.send(b"next").await?;
    let received = pod::read(&mut inside, 4, context.patience).await?;
    pod::same(b"next", &received)
}

async fn no_answer(context: &Context) -> Step {
    let forward = context.forward().await?;
    let mut inside = forward.pod.connect(forward.address).await?;
    let _stream = forward.tunnel.request().await?;
    context.step("answers nothing");
    let limit = Duration::from_millis(context.limits().dial_timeout_ms);
    pod::reset(&mut inside, limit + Duration::from_secs(7)).await
}
