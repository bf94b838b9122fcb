//! Tunnels and tickets, by a client of our own: what is beyond the first
//! tunnel of a session.

use crate::support::client::{Tunnel, call, redeem, request, split};
use crate::support::node::Pod;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, is_at_least, same, until};
use anyhow::{Context as _, Result, bail, ensure};
use std::net::SocketAddr;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use sternline_e2e::report::{Echo, Listeners, Many};

themed! {
    every node:
        a_ticket_resumes_a_session_and_works_once,
        a_ticket_takes_the_place_of_a_tunnel_that_still_lives,
        a_joined_tunnel_shares_the_work_and_its_loss_ends_nothing,
        the_tunnels_of_a_session_have_a_limit,
        a_listener_is_added_and_removed_at_the_clients_wish,
        tickets_end_with_their_session;
    container runtimes:
}

/// A session with one tunnel, and a hold.
struct Up {
    address: SocketAddr,
    target: Target,
    session: pb::ReversePortForwardResponse,
    tunnel: Tunnel,
    tickets: pb::Tickets,
}

impl Up {
    async fn on(shim: &Shim, pod: &Pod) -> Result<Self> {
        let target = Target::start(Manner::Echo).await?;
        let mut wish = request(pod, &[8080]);
        wish.options = Some(pb::SessionOptions {
            hold_ms: 20_000,
            ..Default::default()
        });
        let session = call(shim, wish).await?;
        let (address, path) = split(&session.url)?;
        let stream = redeem(address, &path).await?;
        let mut tunnel = Tunnel::serve(stream, target.address()).await?;
        let ready = tunnel.ready().await?;
        same("hold", ready.hold_ms, 20_000)?;
        let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
        Ok(Self {
            address,
            target,
            session,
            tunnel,
            tickets: ready.tickets.context("no tickets")?,
        })
    }

    /// One more tunnel, for a ticket.
    async fn redeem(&self, ticket: &str) -> Result<Tunnel> {
        let path = format!("/v1alpha1/sessions/{ticket}");
        let stream = redeem(self.address, &path).await?;
        Tunnel::serve(stream, self.target.address()).await
    }
}

async fn a_ticket_resumes_a_session_and_works_once(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let mut up = Up::on(&shim, &pod).await?;
    let ticket = up.tickets.resume.clone();

    up.tunnel.cut().await;
    let mut tunnel = up.redeem(&ticket).await?;

    let again = tunnel.ready().await?;
    same("session", &again.session_id, &up.session.session_id)?;
    same("addresses", &again.bound, &up.session.bound)?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    let fresh = again.tickets.context("no fresh tickets")?.resume;
    ensure!(fresh != ticket, "the ticket does not rotate");
    // Refused, or dropped once it is seen whose place it would take.
    if let Ok(mut second) = up.redeem(&ticket).await
        && let Ok(ready) = second.ready().await
    {
        bail!("a ticket works twice: {ready:?}");
    }
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    is_at_least("streams of the tunnel that came first", tunnel.streams(), 2)
}

async fn a_ticket_takes_the_place_of_a_tunnel_that_still_lives(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let mut up = Up::on(&shim, &pod).await?;

    let mut newer = up.redeem(&up.tickets.resume).await?;

    newer.ready().await?;
    // The old one is told why, and carries nothing more.
    let mut last = None;
    while let Some(event) = up.tunnel.event().await? {
        last = Some(event);
    }
    let Some(Event::Ending(ending)) = last else {
        bail!("the old tunnel's last event was {last:?}, not that it was superseded");
    };
    same("reason", ending.code.as_str(), "superseded")?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    until("one tunnel to be left", SOON, || async {
        Ok((shim.sessions().await?[0].tunnels == 1).then_some(()))
    })
    .await
}

async fn a_joined_tunnel_shares_the_work_and_its_loss_ends_nothing(
    stage: &mut Stage,
) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let mut up = Up::on(&shim, &pod).await?;

    let mut second = up.redeem(&up.tickets.join).await?;
    until("both tunnels to be up", SOON, || async {
        Ok((shim.sessions().await?[0].tunnels == 2).then_some(()))
    })
    .await?;
    let Some(Event::Tickets(fresh)) = up.tunnel.event().await? else {
        bail!("no fresh tickets after one was used");
    };
    ensure!(fresh.join != up.tickets.join, "the ticket does not rotate");
    let many: Many = pod
        .probe("many --to 127.0.0.1:8080 --connections 20 --bytes 10000")
        .await?;
    same("carried their data", many.ok, 20)?;
    is_at_least("streams of the second tunnel", second.streams(), 5)?;
    is_at_least("streams of the first tunnel", up.tunnel.streams(), 5)?;

    second.cut().await;

    until("one tunnel to be left", SOON, || async {
        Ok((shim.sessions().await?[0].tunnels == 1).then_some(()))
    })
    .await?;
    let many: Many = pod
        .probe("many --to 127.0.0.1:8080 --connections 20 --bytes 10000")
        .await?;
    same("carried their data", many.ok, 20)
}

async fn the_tunnels_of_a_session_have_a_limit(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--max-tunnels-per-session 2").await?;
    let mut up = Up::on(&shim, &pod).await?;
    let _second = up.redeem(&up.tickets.join).await?;
    let Some(Event::Tickets(fresh)) = up.tunnel.event().await? else {
        bail!("no fresh tickets after one was used");
    };
    // None to be had, or one that is refused.
    if !fresh.join.is_empty() {
        let refused = up.redeem(&fresh.join).await.err();
        let refused = refused.context("a third tunnel joined")?.to_string();
        crate::support::says("the refusal", &refused, "429")?;
    }
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn a_listener_is_added_and_removed_at_the_clients_wish(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let mut up = Up::on(&shim, &pod).await?;

    up.tunnel.say(Event::AddListener(pb::AddListener {
        request_id: 7,
        listener_id: 3,
        listener: Some(pb::Listener {
            port: 9090,
            ..Default::default()
        }),
    }));

    let Some(Event::ListenerChanged(added)) = up.tunnel.event().await? else {
        bail!("no answer to the wish for a listener");
    };
    same("answer to", added.request_id, 7)?;
    same("error", added.error.as_str(), "")?;
    same("addresses", added.bound.len(), 2)?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:9090").await?;

    // A taken port and a wide address are refused as they are by the call.
    let _taken = pod
        .spawn("listen --address 127.0.0.1:9091 --keep true")
        .await?;
    until("the port to be taken", SOON, || async {
        let bound: Listeners = pod.probe("listeners").await?;
        Ok(bound
            .listeners
            .iter()
            .any(|a| a.port() == 9091)
            .then_some(()))
    })
    .await?;
    for (request_id, address, port, error) in [
        (8, "", 9091, "port_in_use"),
        (9, "0.0.0.0", 9092, "wide_bind_denied"),
    ] {
        up.tunnel.say(Event::AddListener(pb::AddListener {
            request_id,
            listener_id: request_id,
            listener: Some(pb::Listener {
                address: address.to_owned(),
                port,
                ..Default::default()
            }),
        }));
        let Some(Event::ListenerChanged(refused)) = up.tunnel.event().await? else {
            bail!("no answer to the wish for {address}:{port}");
        };
        same("error", refused.error.as_str(), error)?;
    }

    up.tunnel.say(Event::RemoveListener(pb::RemoveListener {
        request_id: 10,
        listener_id: 3,
    }));
    let Some(Event::ListenerChanged(removed)) = up.tunnel.event().await? else {
        bail!("no answer to the wish to remove a listener");
    };
    same("error", removed.error.as_str(), "")?;
    let output = pod.run("listen --address 127.0.0.1:9090").await?;
    same("free", (output.code, output.stderr), (0, String::new()))?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn tickets_end_with_their_session(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let up = Up::on(&shim, &pod).await?;
    let stop = pb::StopSessionRequest {
        session_id: up.session.session_id.clone(),
    };
    shim.client().stop_session(stop).await?;
    for ticket in [&up.tickets.join, &up.tickets.resume] {
        let refused = up.redeem(ticket).await.err();
        let refused = refused.context("a ticket outlives its session")?;
        crate::support::says("the refusal", &refused.to_string(), "404")?;
    }
    Ok(())
}
