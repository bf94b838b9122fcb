//! The control stream (§5).

use crate::{
    context::{Context, Forward},
    spec::{Spec, spec},
    verdict::{Step, check},
    wire::control::{done, encode},
};
use sternline_api::v1alpha1::{self as pb, control_message::Event};

pub(super) const SPECS: &[Spec] = &[
    spec!(required "control.ready-session", "5.4", [], "ready names the session of the call.", ready_session),
    spec!(required "control.ready-bound", "5.4", [], "ready tells the addresses that listen, as the call did.", ready_bound),
    spec!(required "control.ready-limits", "5.4", [], "ready tells the limits of the session.", ready_limits),
    spec!(required "control.ready-hold", "5.4", [], "ready tells the hold in force.", ready_hold),
    spec!(required "control.unknown-event", "5.2", [], "An event of an unknown kind is ignored.", unknown_event),
    spec!(required "control.frame-bounds", "5.2", [], "Where DATA frames begin and end means nothing to messages.", frame_bounds),
    spec!(required "control.too-long", "5.2", [], "A message of more than 65,536 bytes ends the tunnel.", too_long),
    spec!(required "control.target-event", "5.3", [], "A target that went down is information: the session goes on.", target_event),
    spec!(required "control.add-listener", "5.3", [], "add_listener is answered, with what listens or with an error.", add_listener),
    spec!(required "control.remove-unknown", "5.3", [], "remove_listener of an unknown id is answered with an error.", remove_unknown),
    spec!(required "control.done", "5.5", [], "ending with done frees the listeners at once, whatever the hold.", ending_done),
];

async fn ready_session(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (here, there) = (
        &forward.ready.session_id,
        &forward.opened.response.session_id,
    );
    check(here == there, there, here)
}

async fn ready_bound(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (here, there) = (&forward.ready.bound, &forward.opened.response.bound);
    check(here == there, &format!("{there:?}"), format!("{here:?}"))
}

async fn ready_limits(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (here, there) = (&forward.ready.limits, &context.status.limits);
    check(here == there, &format!("{there:?}"), format!("{here:?}"))
}

async fn ready_hold(context: &Context) -> Step {
    let hold = context.limits().max_hold_ms.min(2000);
    let pod = context.pod().await?;
    let forward = context.forward_in(&pod, hold, Default::default()).await?;
    let seen = forward.ready.hold_ms;
    check(seen == hold, &format!("{hold} ms"), seen)
}

async fn unknown_event(context: &Context) -> Step {
    let forward = context.forward().await?;
    // Field 1000, one byte of payload: 2 bytes of tag, a length, the byte.
    forward.control.stream.send(&[4, 0xc2, 0x3e, 1, 7]).await?;
    context.step("sent an event of field 1000");
    settled(context, &forward).await
}

/// The node has read what was sent, and the tunnel still works.
async fn settled(context: &Context, forward: &Forward) -> Step {
    forward.control.send(removal(1)).await?;
    // Read after what was sent before it. That it is answered is another spec's.
    let _ = answered(context, forward, 1).await;
    forward.tunnel.alive().await?;
    forward.connect().await.map(drop)
}

fn target() -> Event {
    Event::Target(pb::TargetState {
        listener_id: 0,
        up: false,
    })
}

/// A request that has to be answered, so that it shows that it was read.
fn removal(request_id: u32) -> Event {
    Event::RemoveListener(pb::RemoveListener {
        request_id,
        listener_id: 4_000_000,
    })
}

async fn answered(context: &Context, forward: &Forward, id: u32) -> Step<pb::ListenerChanged> {
    let expected = format!("listener_changed with request_id {id}");
    let answer = forward
        .control
        .find(context.patience, &expected, |event| match event {
            Event::ListenerChanged(changed) if changed.request_id == id => Some(changed),
            _ => None,
        });
    answer.await
}

async fn frame_bounds(context: &Context) -> Step {
    let forward = context.forward().await?;
    let mut bytes = encode(removal(71));
    bytes.extend(encode(removal(72)));
    let (first, rest) = bytes.split_at(3);
    for byte in first {
        forward.control.stream.send(&[*byte]).await?;
    }
    forward.control.stream.send(rest).await?;
    context.step("sent two messages, the first in pieces, the second in the frame of its end");
    answered(context, &forward, 71).await?;
    answered(context, &forward, 72).await.map(drop)
}

async fn too_long(context: &Context) -> Step {
    let forward = context.forward().await?;
    // 65,537 as a varint.
    forward.control.stream.send(&[0x81, 0x80, 0x04]).await?;
    context.step("announced a message of 65,537 bytes");
    let block = vec![0; 16_384];
    for _ in 0..4 {
        if forward.control.stream.send(&block).await.is_err() {
            break;
        }
    }
    forward.tunnel.closed(context.patience).await
}

async fn target_event(context: &Context) -> Step {
    let forward = context.forward().await?;
    forward.control.send(target()).await?;
    settled(context, &forward).await
}

async fn add_listener(context: &Context) -> Step {
    let forward = context.forward().await?;
    let add = pb::AddListener {
        request_id: 9,
        listener_id: 5,
        listener: Some(crate::context::tcp("127.0.0.1", 0)),
    };
    forward.control.send(Event::AddListener(add)).await?;
    let changed = answered(context, &forward, 9).await?;
    if !changed.error.is_empty() {
        return Ok(());
    }
    let Some(address) = changed.bound.first().and_then(pb::Bound::to_addr) else {
        return check(false, "an address or an error", format!("{changed:?}"));
    };
    let _inside = forward.pod.connect(address).await?;
    let stream = forward.tunnel.accept().await?;
    let id = stream.field("sternline-listener").unwrap_or_default();
    check(id == "5", "a connection of listener 5", id)
}

async fn remove_unknown(context: &Context) -> Step {
    let forward = context.forward().await?;
    forward.control.send(removal(12)).await?;
    let changed = answered(context, &forward, 12).await?;
    check(
        !changed.error.is_empty(),
        "an error",
        format!("{changed:?}"),
    )
}

async fn ending_done(context: &Context) -> Step {
    let hold = context.limits().max_hold_ms.min(60_000);
    let pod = context.pod().await?;
    let forward = context.forward_in(&pod, hold, Default::default()).await?;
    forward.control.send(done()).await?;
    context.step("sent ending with done");
    context.freed(&pod, forward.address, context.patience).await
}
