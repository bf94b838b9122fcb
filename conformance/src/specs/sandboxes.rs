//! What becomes of sandboxes: stopped, removed (§2.2, §5.5, §11).

use super::ends::{GONE, released};
use crate::{
    context::{Context, request, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, within},
};
use tonic::Code::{FailedPrecondition, NotFound};

pub(super) const SPECS: &[Spec] = &[
    spec!(required "sandbox.removed", "2.2", [], "A sandbox that was removed fails with sandbox_not_found.", removed),
    spec!(required "sandbox.stopped", "11", [], "A sandbox that was stopped and not removed fails with sandbox_not_ready.", stopped),
    spec!(required "sandbox.stop-ends", "5.5", [], "When the sandbox is stopped and not removed, ending says sandbox_gone.", stop_ends),
    spec!(required "sandbox.stop-released", "1", [], "Nothing keeps the network namespace of a sandbox that was stopped and not removed.", stop_released),
];

async fn removed(context: &Context) -> Step {
    let pod = context.pod().await?;
    // The node has seen it.
    context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    pod.remove().await?;
    context.step("removed the sandbox");
    let request = request(&pod.id, &[tcp("127.0.0.1", 0)]);
    context
        .refused(request, NotFound, "sandbox_not_found")
        .await
        .map(drop)
}

async fn stopped(context: &Context) -> Step {
    let pod = context.pod().await?;
    pod.stop().await?;
    context.step("stopped the sandbox");
    let request = request(&pod.id, &[tcp("127.0.0.1", 0)]);
    context
        .refused(request, FailedPrecondition, "sandbox_not_ready")
        .await
        .map(drop)
}

async fn stop_ends(context: &Context) -> Step {
    let forward = context.forward().await?;
    forward.pod.stop().await?;
    context.step("stopped the sandbox");
    let code = forward.control.ending_within(GONE).await?.code;
    check(code == "sandbox_gone", "sandbox_gone", code)?;
    let id = &forward.opened.response.session_id;
    let unlisted = async {
        while context
            .list("")
            .await?
            .iter()
            .any(|one| one.session_id == *id)
        {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    };
    within(context.patience, "the session is not listed", unlisted).await?
}

async fn stop_released(context: &Context) -> Step {
    let pod = context.pod().await?;
    let (_, link) = pod.attach().await?;
    let forward = context.forward_in(&pod, 0, Default::default()).await?;
    // The suite's own end would keep the namespace.
    drop(forward.connect().await?);
    pod.stop().await?;
    context.step(format!("stopped the sandbox, whose interface is {link}"));
    released(&link).await
}
