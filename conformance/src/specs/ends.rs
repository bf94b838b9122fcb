//! How sessions end, and what they leave behind (§4.5, §5.5, §7).

use super::pod;
use crate::{
    context::{Context, Forward},
    spec::{Spec, spec},
    verdict::{Step, check, failed},
    wire::frame::CANCEL,
};
use std::time::Duration;

/// A stopped sandbox ends its sessions within a poll of the node and a little.
pub(super) const GONE: Duration = Duration::from_secs(4);

pub(super) const SPECS: &[Spec] = &[
    spec!(required "end.client-gone", "9.3", [], "A lost tunnel without a hold frees the listeners at once.", client_gone),
    spec!(required "end.client-gone-resets", "7", [], "Loss of the tunnel resets every connection of the pod.", client_gone_resets),
    spec!(required "end.stop-tells", "5.5", [], "A session that is stopped sends ending with stopped.", stop_tells),
    spec!(required "end.stop-closes", "4.5", [], "After ending the node closes the tunnel.", stop_closes),
    spec!(required "end.stop-resets", "7", [], "A session that is stopped resets its connections: RST_STREAM(CANCEL).", stop_resets),
    spec!(required "end.no-time-wait", "5.5", [], "What a session leaves does not keep the application from its port.", no_time_wait),
    spec!(required "end.sandbox-gone", "5.5", [], "When the sandbox is removed, ending says sandbox_gone.", sandbox_gone),
    spec!(required "end.sandbox-gone-listed", "5.5", [], "A session whose sandbox is removed is no longer listed.", sandbox_gone_listed),
    spec!(required "end.namespace-released", "1", [], "Nothing keeps the network namespace of a removed sandbox.", namespace_released),
    spec!(required "end.waiting-released", "1", [], "A session that nobody redeemed does not keep a removed sandbox's namespace.", waiting_released),
    spec!(required "end.reopened", "2.2", [], "After the end of a session the same port can be had again at once.", reopened),
];

async fn client_gone(context: &Context) -> Step {
    let Forward {
        pod,
        tunnel,
        control,
        address,
        ..
    } = context.forward().await?;
    drop((tunnel, control));
    context.step("closed the tunnel's connection");
    context.freed(&pod, address, context.patience).await
}

async fn client_gone_resets(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connected().await?;
    drop((forward, stream));
    context.step("closed the tunnel's connection");
    pod::reset(&mut inside, context.patience).await
}

async fn stopped(context: &Context) -> Step<Forward> {
    let forward = context.forward().await?;
    let id = forward.opened.response.session_id.clone();
    match context.stop(&id).await {
        Ok(()) => Ok(forward),
        Err(status) => failed("the session is stopped", crate::context::describe(&status)),
    }
}

async fn stop_tells(context: &Context) -> Step {
    let ending = stopped(context).await?.control.ending().await?;
    let good = ending.code == "stopped" && !ending.message.is_empty();
    check(good, "stopped, and a sentence", format!("{ending:?}"))
}

async fn stop_closes(context: &Context) -> Step {
    stopped(context)
        .await?
        .tunnel
        .closed(context.patience)
        .await
}

async fn stop_resets(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connected().await?;
    if let Err(status) = context.stop(&forward.opened.response.session_id).await {
        return failed("the session is stopped", crate::context::describe(&status));
    }
    pod::reset(&mut inside, context.patience).await?;
    let code = stream.was_reset().await?;
    check(code == CANCEL, "CANCEL (8)", code)
}

async fn no_time_wait(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (_inside, _stream) = forward.connected().await?;
    if let Err(status) = context.stop(&forward.opened.response.session_id).await {
        return failed("the session is stopped", crate::context::describe(&status));
    }
    // An application without SO_REUSEADDR, while its peer is still there.
    let taken = forward.pod.try_listen(forward.address).await?;
    match taken {
        Ok(_) => Ok(()),
        Err(error) => failed("an application can listen on the port", error.to_string()),
    }
}

async fn sandbox_gone(context: &Context) -> Step {
    let forward = context.forward().await?;
    forward.pod.remove().await?;
    context.step("removed the sandbox");
    let code = forward.control.ending_within(GONE).await?.code;
    check(code == "sandbox_gone", "sandbox_gone", code)
}

async fn sandbox_gone_listed(context: &Context) -> Step {
    let forward = context.forward().await?;
    forward.pod.remove().await?;
    context.step("removed the sandbox");
    let id = &forward.opened.response.session_id;
    let gone = async {
        loop {
            let listed = context.list("").await?;
            if !listed.iter().any(|session| session.session_id == *id) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    crate::verdict::within(GONE, "the session is not listed", gone).await?
}

/// Waits until the node's end of a veth pair is gone, as it is with the
/// namespace of the other.
pub(super) async fn released(link: &str) -> Step {
    // Asked of the kernel: /sys may be that of another network namespace.
    let there = || nix::net::if_::if_nametoindex(link).is_ok();
    let gone = async {
        while there() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // The kernel takes its time over many of them.
    crate::verdict::within(GONE * 4, "the kernel releases the namespace", gone).await
}

async fn namespace_released(context: &Context) -> Step {
    let pod = context.pod().await?;
    let (_, link) = pod.attach().await?;
    let forward = context.forward_in(&pod, 0, Default::default()).await?;
    drop(forward.connect().await?);
    pod.remove().await?;
    context.step(format!("removed the sandbox, whose interface is {link}"));
    released(&link).await
}

async fn waiting_released(context: &Context) -> Step {
    let pod = context.pod().await?;
    let (_, link) = pod.attach().await?;
    context.open(&pod, &[crate::context::tcp("", 0)]).await?;
    pod.remove().await?;
    context.step(format!("removed the sandbox, whose interface is {link}"));
    released(&link).await
}

async fn reopened(context: &Context) -> Step {
    let forward = stopped(context).await?;
    let port = forward.address.port();
    context
        .open(&forward.pod, &[crate::context::tcp("127.0.0.1", port)])
        .await?;
    let there = forward.pod.try_listen(forward.address).await?;
    let taken = there
        .as_ref()
        .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse);
    check(taken, "the port listens again", format!("{there:?}"))
}
