//! One tunnel: HTTP/2 with the node as the client.

use crate::{
    control,
    faults::Faults,
    filter,
    node::{Kind, LIMITS, Node, Pass, lock},
    session::{Session, Tunnel, WORD},
    upgrade::Io,
};
use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, SendRequest},
    ext::Protocol,
};
use http::{Method, Request};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use sternline_api::{
    Reason,
    protocol::CONTROL_PROTOCOL,
    v1alpha1::{self as pb, control_message::Event},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Serves a tunnel until it is over.
pub(crate) async fn run(io: Io, node: Arc<Node>, pass: Pass) {
    let session = pass.session;
    session.redeem();
    let io = filter::wrap(io, &node.faults, Arc::clone(&session.stalled));
    let mut builder = Builder::new();
    builder
        .initial_window_size(128 * 1024)
        .initial_connection_window_size((1 << 31) - 1)
        .max_concurrent_reset_streams(1000)
        .enable_push(node.faults.has("push-on"));
    let Ok((requests, mut connection)) = builder.handshake::<_, Bytes>(io).await else {
        return lost(&session, pass.kind).await;
    };
    let pings = connection.ping_pong();
    let down = CancellationToken::new();
    let over = down.clone();
    let driver = tokio::spawn(async move {
        tokio::select! {
            _ = connection => {}
            () = over.cancelled() => {}
        }
    });
    let pinging =
        pings.map(|pings| tokio::spawn(ping(pings, Arc::clone(&node.faults), down.clone())));
    let up = start(&node, &session, pass.kind, requests, &down).await;
    if let Some(number) = up {
        let _ = driver.await;
        down.cancel();
        remove(&session, number).await;
    } else {
        driver.abort();
        lost(&session, pass.kind).await;
    }
    if let Some(pinging) = pinging {
        pinging.abort();
    }
}

async fn ping(mut pings: PingPong, faults: Arc<Faults>, down: CancellationToken) {
    let interval = Duration::from_millis(LIMITS.ping_interval_ms);
    let slowly = faults.has("pings-slowly");
    loop {
        tokio::time::sleep(if slowly { interval * 5 } else { interval }).await;
        let patience = if slowly { interval / 2 } else { interval * 2 };
        let pong = tokio::time::timeout(patience, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) && !faults.has("never-dead") {
            return down.cancel();
        }
    }
}

/// Adds the tunnel to its session; `None` when it cannot be used.
async fn start(
    node: &Arc<Node>,
    session: &Arc<Session>,
    kind: Kind,
    requests: SendRequest<Bytes>,
    down: &CancellationToken,
) -> Option<u64> {
    let number = session.numbers.fetch_add(1, Ordering::Relaxed);
    let joined = kind == Kind::Join;
    let mut tunnel = Tunnel {
        number,
        requests: requests.clone(),
        down: down.clone(),
        joined,
        control: None,
    };
    if joined {
        lock(&session.tunnels).push(tunnel);
        let tickets = session.tickets();
        session.tell(Event::Tickets(tickets)).await;
    } else {
        let sender = open_control(node, session, requests, down).await?;
        tunnel.control = Some(sender.clone());
        let old = std::mem::take(&mut *lock(&session.tunnels));
        for old in old {
            let ending = pb::Ending {
                code: Reason::Superseded.label().into(),
                message: "A newer tunnel took its place.".into(),
            };
            if let Some(control) = &old.control
                && !node.faults.has("no-superseded")
            {
                let _ = control.send(Event::Ending(ending)).await;
            }
            tokio::spawn(async move {
                tokio::time::sleep(WORD).await;
                old.down.cancel();
            });
        }
        lock(&session.tunnels).push(tunnel);
        let ready = ready(node, session, kind);
        let _ = sender.send(Event::Ready(ready)).await;
    }
    session.up.send_replace(lock(&session.tunnels).len());
    Some(number)
}

fn ready(node: &Node, session: &Arc<Session>, kind: Kind) -> pb::Ready {
    let faults = &node.faults;
    let mut ready = pb::Ready {
        session_id: session.id.clone(),
        bound: session.bound.clone(),
        limits: Some(node.limits()),
        hold_ms: u64::try_from(session.hold.as_millis()).unwrap_or(u64::MAX),
        tickets: Some(session.tickets()),
        restart_hold_ms: 0,
    };
    if faults.has("ready-other-session") {
        ready.session_id.push('x');
    }
    if faults.has("ready-without-limits") {
        ready.limits = None;
    }
    if faults.has("ready-without-hold") {
        ready.hold_ms = 0;
    }
    let unbound = if kind == Kind::Resume {
        "resume-without-bound"
    } else {
        "ready-without-bound"
    };
    if faults.has(unbound) {
        ready.bound.clear();
    }
    ready
}

/// Opens the control stream; what is sent into the channel goes out on it.
async fn open_control(
    node: &Arc<Node>,
    session: &Arc<Session>,
    requests: SendRequest<Bytes>,
    down: &CancellationToken,
) -> Option<mpsc::Sender<Event>> {
    // The client's SETTINGS say whether extended CONNECT may be used.
    for _ in 0..1000 {
        if requests.is_extended_connect_protocol_enabled() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let path = if node.faults.has("control-elsewhere") {
        "other"
    } else {
        "control"
    };
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://session/{path}"))
        .extension(Protocol::from_static(CONTROL_PROTOCOL))
        .body(())
        .ok()?;
    let (response, stream) = requests
        .ready()
        .await
        .ok()?
        .send_request(request, false)
        .ok()?;
    let (sender, events) = mpsc::channel(64);
    tokio::spawn(control::send(stream, events));
    let (session, node, down) = (Arc::clone(session), Arc::clone(node), down.clone());
    let answers = sender.clone();
    tokio::spawn(async move {
        if let Ok(response) = response.await {
            control::receive(response.into_body(), answers, &session, &node, &down).await;
        }
    });
    Some(sender)
}

/// Takes a tunnel that is over out of its session.
async fn remove(session: &Arc<Session>, number: u64) {
    let (life_line, left) = {
        let mut tunnels = lock(&session.tunnels);
        let at = tunnels.iter().position(|tunnel| tunnel.number == number);
        let Some(at) = at else { return };
        let gone = tunnels.swap_remove(at);
        if gone.control.is_some() {
            tunnels.drain(..).for_each(|joined| joined.down.cancel());
        }
        (gone.control.is_some(), tunnels.len())
    };
    session.up.send_replace(left);
    if life_line {
        lost(session, Kind::First).await;
    }
}

/// The tunnel with the control stream is lost: the hold begins.
async fn lost(session: &Arc<Session>, kind: Kind) {
    let Some(node) = session.node.upgrade() else {
        return;
    };
    if kind == Kind::Join {
        return;
    }
    let number = session.numbers.load(Ordering::Relaxed);
    let mut hold = session.hold;
    if node.faults.has("hold-short") {
        // Long enough to be resumed in, as another spec does.
        hold = hold.min(Duration::from_millis(1500));
    }
    if node.faults.has("hold-for-ever") && !hold.is_zero() {
        hold = Duration::from_secs(3600);
    }
    tokio::time::sleep(hold).await;
    if session.numbers.load(Ordering::Relaxed) == number {
        session.end(Reason::TunnelLost).await;
    }
}
