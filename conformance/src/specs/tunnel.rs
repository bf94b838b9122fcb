//! HTTP/2 with roles turned round (§4).

use crate::{
    context::{Context, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, failed},
    wire::{frame, tunnel::Manner},
};
use std::time::Duration;
use sternline_api::protocol::CONTROL_PROTOCOL;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "tunnel.push-off", "4.1", [], "Server push is off.", push_off),
    spec!(required "tunnel.control-first", "5.1", [], "The first request is the control stream, as §5.1 spells it.", control_first),
    spec!(required "tunnel.ping-under-stall", "4.4", [], "PINGs are answered while a stream is stalled.", ping_under_stall),
    spec!(required "tunnel.pings", "4.4", ["slow"], "The node sends a PING every limits.ping_interval_ms.", pings),
    spec!(required "tunnel.dead-peer", "4.4", ["slow"], "A peer that answers no PING is dropped within three intervals.", dead_peer),
    spec!(required "tunnel.small-window", "8", [], "The node sends no more than a stream's window allows.", small_window),
];

async fn push_off(context: &Context) -> Step {
    let forward = context.forward().await?;
    let settings = forward.tunnel.shared.lock().settings.clone();
    let push = settings.and_then(|settings| settings.get(&frame::SETTING_ENABLE_PUSH).copied());
    check(
        push == Some(0),
        "SETTINGS_ENABLE_PUSH = 0",
        format!("{push:?}"),
    )
}

async fn control_first(context: &Context) -> Step {
    let forward = context.forward().await?;
    let stream = &forward.control.stream;
    for (name, value) in [
        (":method", "CONNECT"),
        (":protocol", CONTROL_PROTOCOL),
        (":scheme", "http"),
        (":authority", "session"),
        (":path", "/control"),
    ] {
        let seen = stream.field(name).unwrap_or_default();
        check(seen == value, &format!("{name} = {value}"), seen)?;
    }
    let first = forward.tunnel.shared.lock().streams.keys().next().copied();
    check(
        first == Some(stream.id),
        "the control stream before any other",
        format!("{first:?}"),
    )
}

async fn ping_under_stall(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (inside, stream) = forward.connect().await?;
    // The pod reads nothing; the node takes what it wants and then no more.
    super::pod::fill(&stream, 64 << 20).await?;
    context.step("filled a stream until the node gave no more window");
    forward.tunnel.alive().await?;
    drop(inside);
    Ok(())
}

async fn pings(context: &Context) -> Step {
    let forward = context.forward().await?;
    let interval = Duration::from_millis(context.limits().ping_interval_ms);
    let wait = interval * 2 + context.patience / 2;
    let seen = forward
        .tunnel
        .shared
        .wait_for(wait, "a PING from the node", |state| {
            (state.pings > 0).then_some(())
        });
    seen.await
}

async fn dead_peer(context: &Context) -> Step {
    let pod = context.pod().await?;
    let manner = Manner {
        pongs: false,
        ..Manner::default()
    };
    let forward = context.forward_in(&pod, 0, manner).await?;
    let interval = Duration::from_millis(context.limits().ping_interval_ms);
    context.step("answers no PING");
    forward
        .tunnel
        .closed(interval * 3 + Duration::from_secs(4))
        .await
}

async fn small_window(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let manner = Manner {
        window: 1000,
        release: false,
        ..Manner::default()
    };
    let tunnel = context.redeem_as(&opened.place, manner).await?;
    let control = tunnel.control().await?;
    // `ready` may be longer than 1000 bytes.
    control.stream.release(65_535);
    control.ready().await?;
    let Some(address) = opened.addresses().first().copied() else {
        return failed("an address that listens", "none");
    };
    let mut inside = pod.connect(address).await?;
    let stream = tunnel.accept().await?;
    let sent = super::pod::pattern(3000, 5);
    super::pod::write(&mut inside, &sent, context.patience).await?;
    let mut received = stream.receive(1000).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    check(
        stream.waiting() == 0,
        "1000 bytes",
        format!("{} more", stream.waiting()),
    )?;
    stream.release(2000);
    received.extend(stream.receive(2000).await?);
    super::pod::same(&sent, &received)?;
    tunnel.clean("flow control is kept")
}
