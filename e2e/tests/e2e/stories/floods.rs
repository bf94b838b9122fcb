//! Floods: somebody does at once, or over and over, what is harmless once.

use crate::support::client::{Tunnel, call, redeem, request, split};
use crate::support::node::Pod;
use crate::support::runner::themed;
use crate::support::shim::Shim;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, is_at_least, same, until};
use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::SocketAddr;
use sternline_api::v1alpha1::control_message::Event;
use sternline_e2e::report::{Echo, Storm};
use tokio::net::TcpStream;

themed! {
    every node:
        ten_thousand_silent_connections_keep_nobody_out,
        a_hundred_thousand_resets_by_a_pod_harm_nobody,
        four_thousand_tunnels_are_not_to_be_had;
    container runtimes:
}

/// Connections to the streaming endpoint that stay open and say nothing.
const SILENT: usize = 10_000;

/// Tunnels that a client asks for.
const TUNNELS: usize = 4_096;

/// A session with its first tunnel.
struct Up {
    address: SocketAddr,
    target: Target,
    tunnel: Tunnel,
    join: String,
}

impl Up {
    async fn on(shim: &Shim, pod: &Pod) -> Result<Self> {
        let session = call(shim, request(pod, &[8080])).await?;
        let (address, path) = split(&session.url)?;
        let target = Target::start(Manner::Echo).await?;
        let stream = redeem(address, &path).await?;
        let mut tunnel = Tunnel::serve(stream, target.address()).await?;
        let tickets = tunnel.ready().await?.tickets.context("no tickets")?;
        let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
        Ok(Self {
            address,
            target,
            tunnel,
            join: tickets.join,
        })
    }
}

async fn has_descriptors(shim: &Shim, most: usize) -> Result<()> {
    let what = format!("the shim to be back at {most} descriptors");
    until(&what, SOON, || async {
        Ok((shim.usage()?.descriptors <= most).then_some(()))
    })
    .await
}

async fn ten_thousand_silent_connections_keep_nobody_out(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    // The first session makes what stays: connections to the runtime.
    let first = Up::on(&shim, &pod).await?;
    let address = first.address;
    drop(first);
    shim.idle(SOON).await?;
    let before = shim.usage()?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    ensure!(
        hard >= SILENT as u64 + 1_000,
        "a process here may open {hard} descriptors only: raise the hard limit of open files"
    );

    let mut silent = Vec::with_capacity(SILENT);
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(address).await?);
    }

    let up = Up::on(&shim, &pod).await?;
    let now = shim.usage()?;
    is_at_least("room for all of them", SILENT, now.descriptors)?;
    let grown = now.memory_peak.saturating_sub(before.memory);
    ensure!(grown < 64 << 20, "silence cost {grown} bytes");
    drop((silent, up));
    has_descriptors(&shim, before.descriptors).await
}

async fn a_hundred_thousand_resets_by_a_pod_harm_nobody(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{} 8081:{}", target.port(), target.port());
    let mut forward = stage.forward(&shim, &pod, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8081").await?;
    let before = shim.usage()?;

    // Whose pod it is makes no difference to a flood, and all of it takes minutes
    // on a busy machine.
    let rounds = if stage.node().makes_pods() { 1 } else { 10 };
    let mut resets = 0;
    for _ in 0..rounds {
        let storm: Storm = pod
            .probe("storm --to 127.0.0.1:8080 --connections 10000")
            .await?;
        resets += storm.resets;
        // What is left in the queue may take every place once more.
        until("an exchange on the other listener", SOON, || async {
            let output = pod.run("echo --to 127.0.0.1:8081").await?;
            Ok((output.code == 0).then_some(()))
        })
        .await?;
    }

    is_at_least("resets", resets, rounds * 9_000)?;
    shim.connections_are(0, SOON).await?;
    has_descriptors(&shim, before.descriptors).await?;
    let grown = shim.usage()?.memory.saturating_sub(before.memory);
    ensure!(grown < 64 << 20, "the shim kept {grown} bytes of it");
    same("the forward", forward.ended(), None)
}

async fn four_thousand_tunnels_are_not_to_be_had(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--max-tunnels-per-session 4").await?;
    let mut up = Up::on(&shim, &pod).await?;

    let mut tunnels = Vec::new();
    let mut refused = 0;
    while tunnels.len() + refused < TUNNELS {
        let path = format!("/v1alpha1/sessions/{}", up.join);
        match redeem(up.address, &path).await {
            Ok(stream) => tunnels.push(Tunnel::serve(stream, up.target.address()).await?),
            Err(_) => {
                refused += 1;
                continue;
            }
        }
        ensure!(tunnels.len() < 4, "more tunnels than the limit");
        if let Some(Event::Tickets(fresh)) = up.tunnel.event().await? {
            up.join = fresh.join;
        }
    }

    same("tunnels besides the first", tunnels.len(), 3)?;
    same("tunnels", shim.sessions().await?[0].tunnels, 4)?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}
