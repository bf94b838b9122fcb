//! Forwarded connections (§6, §7, §8).

use super::pod;
use crate::{
    context::{Context, Forward, tcp},
    spec::{Spec, spec},
    verdict::{Step, check, failed},
    wire::{
        frame::CONNECT_ERROR,
        stream::Stream,
        tunnel::{Manner, Tunnel},
    },
};
use std::time::Duration;
use tokio::net::TcpStream;

pub(super) const SPECS: &[Spec] = &[
    spec!(required "stream.connect", "6.1", [], "A connection is a plain CONNECT to the address and port as bound.", connect),
    spec!(required "stream.authority-v6", "6.1", [], "An IPv6 authority is in brackets.", authority_v6),
    spec!(required "stream.listener-id", "6.1", [], "sternline-listener is the id of the listener that accepted.", listener_id),
    spec!(required "stream.forwarded", "6.1", [], "forwarded names the address and port of the connecting process.", forwarded),
    spec!(required "stream.bytes-from-pod", "6.2", [], "Bytes from the pod arrive unchanged and in order.", from_pod),
    spec!(required "stream.bytes-to-pod", "6.2", [], "Bytes to the pod arrive unchanged and in order.", to_pod),
    spec!(required "stream.late-answer", "6.2", [], "A connection whose target takes its time is held, not refused.", late_answer),
    spec!(required "stream.half-close-by-pod", "7", [], "A half-close by the pod becomes END_STREAM; the other direction stays open.", half_close_by_pod),
    spec!(required "stream.half-close-by-client", "7", [], "END_STREAM becomes a half-close; the other direction stays open.", half_close_by_client),
    spec!(required "stream.data-before-end", "7", [], "END_STREAM comes after all data.", data_before_end),
    spec!(required "stream.reset-by-pod", "7", [], "A reset by the pod becomes RST_STREAM(CONNECT_ERROR).", reset_by_pod),
    spec!(required "stream.reset-by-client", "7", [], "RST_STREAM becomes a reset of the pod's connection.", reset_by_client),
    spec!(required "stream.reset-after-end", "7", [], "RST_STREAM after END_STREAM still resets the pod's connection.", reset_after_end),
    spec!(required "stream.no-empty-data", "7", [], "No DATA frame without payload, but for END_STREAM.", no_empty_data),
    spec!(required "stream.small-frames", "8", [], "Single bytes to a pod that does not read do not end the tunnel.", small_frames),
    spec!(required "stream.stall-by-client", "8", [], "A stream without window does not stall its neighbour.", stall_by_client),
    spec!(required "stream.stall-by-pod", "8", [], "A pod that does not read does not stall the other connections.", stall_by_pod),
    spec!(required "stream.backpressure", "8", [], "Window is granted only for bytes that the pod's socket has taken.", backpressure),
    spec!(required "stream.many", "8", [], "Many connections at once all carry bytes.", many),
    spec!(required "stream.burst", "8", [], "Connections that are reset before they are answered do not end the session.", burst),
];

async fn connect(context: &Context) -> Step {
    let forward = context.forward().await?;
    let _inside = forward.pod.connect(forward.address).await?;
    let stream = forward.tunnel.request().await?;
    let method = stream.field(":method").unwrap_or_default();
    check(method == "CONNECT", "CONNECT", method)?;
    let plain = [":protocol", ":scheme", ":path"]
        .iter()
        .all(|name| stream.field(name).is_none());
    check(plain, "no :protocol, :scheme or :path", "one of them")?;
    let authority = stream.field(":authority").unwrap_or_default();
    check(
        authority == forward.address.to_string(),
        &forward.address.to_string(),
        authority,
    )
}

async fn authority_v6(context: &Context) -> Step {
    let pod = context.pod().await?;
    pod.needs_v6().await?;
    let opened = context.open(&pod, &[tcp("::1", 0)]).await?;
    let tunnel = context.redeem(&opened.place).await?;
    tunnel.control().await?.ready().await?;
    let Some(address) = opened.addresses().first().copied() else {
        return failed("an address that listens", "none");
    };
    let _inside = pod.connect(address).await?;
    let authority = tunnel
        .request()
        .await?
        .field(":authority")
        .unwrap_or_default();
    check(
        authority == address.to_string(),
        &address.to_string(),
        authority,
    )
}

async fn listener_id(context: &Context) -> Step {
    let pod = context.pod().await?;
    let opened = context
        .open(&pod, &[tcp("127.0.0.1", 0), tcp("127.0.0.2", 0)])
        .await?;
    let tunnel = context.redeem(&opened.place).await?;
    tunnel.control().await?.ready().await?;
    for (expected, address) in opened.addresses().into_iter().enumerate().rev() {
        let _inside = pod.connect(address).await?;
        let seen = tunnel
            .request()
            .await?
            .field("sternline-listener")
            .unwrap_or_default();
        check(
            seen == expected.to_string(),
            &format!("sternline-listener = {expected}"),
            seen,
        )?;
    }
    Ok(())
}

async fn forwarded(context: &Context) -> Step {
    let forward = context.forward().await?;
    let inside = forward.pod.connect(forward.address).await?;
    let own = inside
        .local_addr()
        .map_err(crate::verdict::broken("the pod's own address"))?;
    let seen = forward
        .tunnel
        .request()
        .await?
        .field("forwarded")
        .unwrap_or_default();
    let expected = format!("for=\"{own}\"");
    check(
        seen.to_ascii_lowercase().contains(&expected),
        &expected,
        seen,
    )
}

/// More than a stream's window, less than what makes a spec slow.
const LENGTH: usize = 1 << 20;

/// Receives piece by piece: each has its own patience.
async fn receive_all(stream: &Stream, length: usize) -> Step<Vec<u8>> {
    let mut received = Vec::with_capacity(length);
    while received.len() < length {
        let piece = (length - received.len()).min(65_536);
        received.extend(stream.receive(piece).await?);
    }
    Ok(received)
}

async fn from_pod(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connect().await?;
    let sent = pod::pattern(LENGTH, 1);
    let (written, received) = tokio::join!(
        pod::write(&mut inside, &sent, context.patience * 5),
        receive_all(&stream, LENGTH)
    );
    written?;
    pod::same(&sent, &received?)
}

async fn to_pod(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connect().await?;
    let sent = pod::pattern(LENGTH, 2);
    let (written, received) = tokio::join!(
        stream.send(&sent),
        pod::read(&mut inside, LENGTH, context.patience * 5)
    );
    written?;
    pod::same(&sent, &received?)
}

async fn late_answer(context: &Context) -> Step {
    let forward = context.forward().await?;
    let mut inside = forward.pod.connect(forward.address).await?;
    let stream = forward.tunnel.request().await?;
    pod::write(&mut inside, b"hello", context.patience).await?;
    let limit = Duration::from_millis(context.limits().dial_timeout_ms);
    tokio::time::sleep((limit / 2).min(Duration::from_secs(1))).await;
    stream.answer("200", &[]);
    context.step("answered after a while");
    let received = stream.receive(5).await?;
    pod::same(b"hello", &received)
}

async fn half_close_by_pod(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connect().await?;
    pod::shut(&mut inside).await?;
    context.step("the pod half-closed");
    stream.ended().await?;
    stream.send(b"still here").await?;
    let received = pod::read(&mut inside, 10, context.patience).await?;
    pod::same(b"still here", &received)
}

async fn half_close_by_client(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connected().await?;
    stream.end();
    context.step("sent END_STREAM");
    pod::end(&mut inside, context.patience).await?;
    pod::write(&mut inside, b"still here", context.patience).await?;
    let received = stream.receive(10).await?;
    pod::same(b"still here", &received)
}

async fn data_before_end(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connect().await?;
    let sent = pod::pattern(100_000, 3);
    let write = async {
        pod::write(&mut inside, &sent, context.patience).await?;
        pod::shut(&mut inside).await
    };
    let (written, received) = tokio::join!(write, stream.receive(sent.len()));
    written?;
    pod::same(&sent, &received?)?;
    stream.ended().await
}

async fn reset_by_pod(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (inside, stream) = forward.connected().await?;
    pod::abort(inside)?;
    context.step("the pod reset its connection");
    let code = stream.was_reset().await?;
    check(code == CONNECT_ERROR, "CONNECT_ERROR (10)", code)
}

async fn reset_by_client(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connected().await?;
    stream.reset(CONNECT_ERROR);
    context.step("sent RST_STREAM");
    pod::reset(&mut inside, context.patience).await
}

async fn reset_after_end(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (inside, stream) = forward.connected().await?;
    stream.end();
    // The pod's side has to be seen half-closed, or the reset may overtake it.
    if !matches!(
        tokio::time::timeout(context.patience, inside.readable()).await,
        Ok(Ok(()))
    ) {
        return failed("the pod sees the half-close", "nothing");
    }
    stream.reset(CONNECT_ERROR);
    context.step("sent END_STREAM, then RST_STREAM");
    // The process neither reads nor writes: its socket alone has to know.
    let expected = "an error on the pod's socket: its connection was reset";
    let failing = async {
        while matches!(inside.take_error(), Ok(None)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    crate::verdict::within(context.patience, expected, failing).await
}

async fn no_empty_data(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut inside, stream) = forward.connect().await?;
    for _ in 0..20 {
        pod::write(&mut inside, b"x", context.patience).await?;
        stream.receive(1).await?;
    }
    pod::shut(&mut inside).await?;
    stream.over(context.patience).await;
    forward.tunnel.clean("no empty DATA frame")
}

async fn small_frames(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (mut slow, stream) = forward.connect().await?;
    for _ in 0..20 {
        for _ in 0..150 {
            stream.send(b"x").await?;
        }
        // A node without time takes long over so many. All of them at once would
        // also keep the answers to its own PINGs waiting.
        forward.tunnel.alive_within(context.patience * 5).await?;
    }
    context.step("sent 3000 DATA frames of one byte; the pod read none");
    let received = pod::read(&mut slow, 3000, context.patience).await?;
    pod::same(&[b'x'; 3000], &received)?;
    context.step("the pod read all of them");
    let (mut inside, stream) = forward.connect().await?;
    carries(context, &mut inside, &stream).await
}

/// A few bytes each way.
pub(super) async fn carries(context: &Context, inside: &mut TcpStream, stream: &Stream) -> Step {
    pod::write(inside, b"ping", context.patience).await?;
    let received = stream.receive(4).await?;
    pod::same(b"ping", &received)?;
    stream.send(b"pong").await?;
    let received = pod::read(inside, 4, context.patience).await?;
    pod::same(b"pong", &received)
}

async fn stall_by_client(context: &Context) -> Step {
    let pod = context.pod().await?;
    let manner = Manner {
        window: 20_000,
        release: false,
        ..Manner::default()
    };
    let opened = context.open(&pod, &[tcp("127.0.0.1", 0)]).await?;
    let tunnel: Tunnel = context.redeem_as(&opened.place, manner).await?;
    tunnel.control().await?.ready().await?;
    let Some(address) = opened.addresses().first().copied() else {
        return failed("an address that listens", "none");
    };
    let mut stalled = pod.connect(address).await?;
    let stream = tunnel.accept().await?;
    pod::write(&mut stalled, &[0; 60_000], context.patience).await?;
    stream.receive(20_000).await?;
    context.step("a stream has no window left");
    let mut inside = pod.connect(address).await?;
    let neighbour = tunnel.accept().await?;
    carries(context, &mut inside, &neighbour).await
}

async fn stall_by_pod(context: &Context) -> Step {
    let forward = context.forward().await?;
    let (_stalled, stream) = forward.connect().await?;
    let sent = pod::fill(&stream, 64 << 20).await?;
    context.step(format!("sent {sent} bytes to a pod that does not read"));
    let (mut inside, neighbour) = forward.connect().await?;
    carries(context, &mut inside, &neighbour).await
}

async fn backpressure(context: &Context) -> Step {
    let forward: Forward = context.forward().await?;
    let (_inside, stream) = forward.connect().await?;
    let limit = context.limits().buffer_bytes_per_session;
    // What the kernel's own buffers of both ends may take on top.
    let kernel = 16 << 20;
    let most = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_add(kernel);
    if most > 256 << 20 {
        return crate::verdict::skip(format!("buffers of {limit} bytes are too large to fill"));
    }
    let sent = pod::fill(&stream, most).await?;
    check(
        sent < most,
        &format!("less than {most} bytes are taken"),
        sent,
    )
}

async fn many(context: &Context) -> Step {
    let forward = context.forward().await?;
    let count = context.limits().connections_per_session.min(256);
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push(forward.connect().await?);
    }
    context.step(format!("{count} connections are open"));
    for (inside, _) in &mut pairs {
        let own = inside
            .local_addr()
            .map_err(crate::verdict::broken("the pod's own address"))?;
        pod::write(inside, &own.port().to_be_bytes(), context.patience).await?;
    }
    for (inside, stream) in &mut pairs {
        let port = stream.receive(2).await?;
        stream.send(&port).await?;
        let back = pod::read(inside, 2, context.patience).await?;
        let own = inside
            .local_addr()
            .map_err(crate::verdict::broken("the pod's own address"))?;
        pod::same(&own.port().to_be_bytes(), &back)?;
    }
    Ok(())
}

async fn burst(context: &Context) -> Step {
    let forward = context.forward().await?;
    // Each of them may hold a place until it is answered.
    let count = (context.limits().connections_per_session - 1).min(60);
    for _ in 0..count {
        if let Ok(inside) = forward.pod.try_connect(forward.address).await? {
            pod::abort(inside)?;
        }
    }
    context.step(format!("{count} connections were made and reset at once"));
    forward.tunnel.alive().await?;
    // Those that were opened are answered as they come, until a live one.
    let mut live = forward.pod.connect(forward.address).await?;
    let port = live
        .local_addr()
        .map_err(crate::verdict::broken("the pod's own address"))?
        .port();
    loop {
        let stream = forward.tunnel.accept().await?;
        let peer = stream.field("forwarded").unwrap_or_default();
        if peer.contains(&format!(":{port}")) {
            return carries(context, &mut live, &stream).await;
        }
    }
}
