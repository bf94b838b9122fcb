//! The WebSocket form (§3.3).

use crate::{
    context::{Context, Opened, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, within},
    wire::{
        tunnel::{Manner, Tunnel},
        upgrade::{Socket, WEBSOCKET_ACCEPT},
    },
};
use sternline_api::{protocol::STREAM_PROTOCOL, v1alpha1 as pb};

pub(super) const SPECS: &[Spec] = &[
    spec!(required "websocket.fields", "3.3", [], "The 101 of the WebSocket form accepts the key and carries the protocol.", fields),
    spec!(required "websocket.single-bytes", "3.3", [], "Where one message ends and the next begins means nothing.", single_bytes),
    spec!(required "websocket.ping", "3.3", [], "WebSocket pings are answered.", ping),
    spec!(required "websocket.text", "3.3", [], "A text message is a protocol error: the tunnel ends.", text),
    spec!(required "websocket.close", "3.3", [], "A close frame ends the tunnel: the listeners are free.", close),
    spec!(required "websocket.malformed", "3.4", [], "A handshake without its key or its version 13: 400, invalid_request.", malformed),
    spec!(recommended "websocket.no-extensions", "3.3", [], "No extension is negotiated.", no_extensions),
];

async fn opened(context: &Context) -> Step<Opened> {
    let pod = context.pod().await?;
    context.open(&pod, &[tcp("127.0.0.1", 0)]).await
}

/// A tunnel inside a WebSocket, with `most` bytes in a message.
async fn start(context: &Context, opened: &Opened, most: usize) -> Step<(Socket, Tunnel)> {
    let place = &opened.place;
    let answer = place
        .ask(place.websocket().as_bytes(), context.patience)
        .await?;
    context.step(format!("upgraded to WebSocket: {}", answer.status));
    let answer = answer.switched()?;
    let (socket, inside) = Socket::new(answer.io, answer.rest, most);
    let tunnel = Tunnel::start(
        Box::new(inside),
        Vec::new(),
        Manner::default(),
        context.patience,
    );
    Ok((socket, tunnel))
}

async fn fields(context: &Context) -> Step {
    let opened = opened(context).await?;
    let place = &opened.place;
    let answer = place
        .ask(place.websocket().as_bytes(), context.patience)
        .await?
        .switched()?;
    let good = answer.field("upgrade").eq_ignore_ascii_case("websocket")
        && answer.field("sec-websocket-accept") == WEBSOCKET_ACCEPT
        && answer.field("sec-websocket-protocol") == STREAM_PROTOCOL;
    check(
        good,
        &format!("{WEBSOCKET_ACCEPT} and {STREAM_PROTOCOL}"),
        format!("{:?}", answer.fields),
    )
}

async fn single_bytes(context: &Context) -> Step {
    let opened = opened(context).await?;
    let (_socket, tunnel) = start(context, &opened, 1).await?;
    tunnel.control().await?.ready().await?;
    tunnel.alive().await
}

async fn ping(context: &Context) -> Step {
    let opened = opened(context).await?;
    let (mut socket, tunnel) = start(context, &opened, 65_536).await?;
    tunnel.control().await?.ready().await?;
    socket.ping(b"are you there");
    within(
        context.patience,
        "a pong with the same bytes",
        socket.ponged(b"are you there"),
    )
    .await
}

async fn text(context: &Context) -> Step {
    let opened = opened(context).await?;
    let (socket, tunnel) = start(context, &opened, 65_536).await?;
    tunnel.control().await?.ready().await?;
    socket.text(b"text");
    tunnel.closed(context.patience).await
}

async fn close(context: &Context) -> Step {
    let opened = opened(context).await?;
    let (socket, tunnel) = start(context, &opened, 65_536).await?;
    tunnel.control().await?.ready().await?;
    socket.close();
    context.step("sent a close frame");
    tunnel.closed(context.patience).await?;
    context
        .eventually("no tunnel is left", || async {
            let listed = context.list("").await?;
            let own = |one: &&pb::Session| one.session_id == opened.response.session_id;
            let left = listed.iter().find(own).filter(|one| one.tunnels > 0);
            Ok(left.map(|session| format!("{session:?}")))
        })
        .await
}

async fn malformed(context: &Context) -> Step {
    for (field, other) in [
        ("Sec-WebSocket-Key", "X-Key"),
        ("Version: 13", "Version: 8"),
    ] {
        let opened = opened(context).await?;
        let request = opened.place.websocket().replacen(field, other, 1);
        let answer = opened
            .place
            .ask(request.as_bytes(), context.patience)
            .await?;
        context.step(format!("{other:?} instead of {field:?}: {}", answer.status));
        check(answer.status == 400, "400", answer.status)?;
        let body = answer.refusal(context.patience).await?;
        check(body["reason"] == "invalid_request", "invalid_request", body)?;
    }
    Ok(())
}

async fn no_extensions(context: &Context) -> Step {
    let opened = opened(context).await?;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\nUpgrade:";
    let request = opened.place.websocket().replacen("Upgrade:", offer, 1);
    let answer = opened
        .place
        .ask(request.as_bytes(), context.patience)
        .await?
        .switched()?;
    let extensions = answer.field("sec-websocket-extensions").to_owned();
    check(
        extensions.is_empty(),
        "no Sec-WebSocket-Extensions",
        extensions,
    )
}
