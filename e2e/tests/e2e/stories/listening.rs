//! Where it listens: the addresses that were asked for, all of them or none,
//! and reachable from nowhere else.

use crate::support::node::Pod;
use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{SOON, is_at_least, same};
use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use sternline_e2e::pattern::checksum;
use sternline_e2e::report::{Echo, Listeners, Listening, Transfer};

themed! {
    every node:
        a_lone_port_listens_on_both_loopback_addresses,
        an_address_listens_there_and_nowhere_else,
        port_0_is_chosen_by_the_node_reported_and_usable,
        a_port_below_1024_can_be_asked_for,
        several_ports_in_one_command_lead_each_to_its_own_target,
        several_sessions_in_one_pod_do_not_mix,
        a_taken_port_leaves_none_of_the_others_bound,
        a_port_taken_on_ipv6_alone_is_taken,
        two_forwards_of_one_port_the_second_is_refused,
        an_address_beyond_loopback_needs_leave,
        an_address_that_the_pod_does_not_have_is_refused;
    container runtimes:
        nobody_but_the_pod_reaches_it,
        with_leave_another_pod_reaches_a_wide_listener
}

async fn listeners(pod: &Pod) -> Result<Vec<SocketAddr>> {
    let found: Listeners = pod.probe("listeners").await?;
    Ok(found.listeners)
}

fn addresses(list: &[&str]) -> Result<Vec<SocketAddr>> {
    let parse = |text: &&str| text.parse().context("no address");
    list.iter().map(parse).collect()
}

async fn a_lone_port_listens_on_both_loopback_addresses(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let forward = stage
        .forward(&shim, &pod, &target.port().to_string())
        .await?;

    let port = target.port();
    let both = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    let expected = addresses(&[&both[0], &both[1]])?;
    same("listeners in the pod", listeners(&pod).await?, expected)?;
    for address in &both {
        let _: Echo = pod.probe(&format!("echo --to {address}")).await?;
    }
    let ready = &forward.events("ready")[0];
    same(
        "announced",
        ready["bound"].as_array().map(Vec::len),
        Some(2),
    )?;
    same("accepted by the target", target.accepted(), 2)
}

async fn an_address_listens_there_and_nowhere_else(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    for address in ["127.0.0.1:8080", "[::1]:8080", "127.0.0.9:8080"] {
        let spec = format!("{address}:{}", target.port());
        let mut forward = stage.forward(&shim, &pod, &spec).await?;
        same("listeners", listeners(&pod).await?, addresses(&[address])?)?;
        let _: Echo = pod.probe(&format!("echo --to {address}")).await?;
        forward.kill().await?;
        shim.idle(SOON).await?;
    }
    Ok(())
}

async fn port_0_is_chosen_by_the_node_reported_and_usable(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let spec = format!("0:{}", target.port());
    let forward = stage.forward(&shim, &pod, &spec).await?;

    let ready = forward.events("ready").remove(0);
    let bound = ready["bound"].as_array().context("no addresses")?.clone();
    let port = bound[0]["port"].as_u64().context("no port")?;
    is_at_least("port", port, 1)?;
    same("addresses", bound.len(), 2)?;
    same(
        "port of the other family",
        bound[1]["port"].as_u64(),
        Some(port),
    )?;
    for host in ["127.0.0.1", "[::1]"] {
        let _: Echo = pod.probe(&format!("echo --to {host}:{port}")).await?;
    }
    Ok(())
}

async fn a_port_below_1024_can_be_asked_for(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let spec = format!("80:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &spec).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:80").await?;
    Ok(())
}

async fn several_ports_in_one_command_lead_each_to_its_own_target(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let mut targets = Vec::new();
    let mut words = String::new();
    for seed in 1..=5 {
        let manner = Manner::FinishFirst { seed, bytes: 1000 };
        let target = Target::start(manner).await?;
        words += &format!("{}:{} ", 8080 + seed, target.port());
        targets.push(target);
    }
    let _forward = stage.forward(&shim, &pod, &words).await?;

    for seed in 1..=5 {
        let port = 8080 + seed;
        let heard: Transfer = pod
            .probe(&format!("finish-last --to 127.0.0.1:{port} --send 0"))
            .await?;
        same("who answered", heard.received_sha256, checksum(seed, 1000))?;
    }
    Ok(())
}

async fn several_sessions_in_one_pod_do_not_mix(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let (mut targets, mut forwards) = (Vec::new(), Vec::new());
    for seed in 1..=3 {
        let manner = Manner::FinishFirst { seed, bytes: 1000 };
        let target = Target::start(manner).await?;
        let words = format!("{}:{}", 8080 + seed, target.port());
        targets.push(target);
        forwards.push(stage.forward(&shim, &pod, &words).await?);
    }
    same("sessions", shim.sessions().await?.len(), 3)?;
    // The end of one is nothing to the others.
    forwards.remove(0).kill().await?;
    for seed in 2..=3 {
        let port = 8080 + seed;
        let heard: Transfer = pod
            .probe(&format!("finish-last --to 127.0.0.1:{port} --send 0"))
            .await?;
        same("who answered", heard.received_sha256, checksum(seed, 1000))?;
    }
    Ok(())
}

async fn a_taken_port_leaves_none_of_the_others_bound(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let taken = pod
        .spawn("listen --address 127.0.0.1:8082 --keep true")
        .await?;
    let _: Listening = taken.report(SOON).await?;
    let place = format!("sandbox/{}", pod.id());

    let refusal = stage
        .refused(&shim, &place, "8081:3000 8082:3000 8083:3000")
        .await?;

    refusal.is(5, &["127.0.0.1:8082"])?;
    let expected = addresses(&["127.0.0.1:8082"])?;
    same("listeners in the pod", listeners(&pod).await?, expected)?;
    same("sessions", shim.sessions().await?.len(), 0)
}

async fn a_port_taken_on_ipv6_alone_is_taken(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let taken = pod.spawn("listen --address [::1]:8080 --keep true").await?;
    let _: Listening = taken.report(SOON).await?;
    let place = format!("sandbox/{}", pod.id());

    let refusal = stage.refused(&shim, &place, "8080:3000").await?;

    refusal.is(5, &["[::1]:8080"])?;
    let expected = addresses(&["[::1]:8080"])?;
    same("listeners in the pod", listeners(&pod).await?, expected)
}

async fn two_forwards_of_one_port_the_second_is_refused(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let place = format!("sandbox/{}", pod.id());

    let refusal = stage.refused(&shim, &place, &words).await?;

    refusal.is(5, &["127.0.0.1:8080"])?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    Ok(())
}

async fn an_address_beyond_loopback_needs_leave(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let place = format!("sandbox/{}", pod.id());
    for address in ["0.0.0.0", "[::]", "10.88.0.99"] {
        let words = format!("{address}:8080:3000");
        let refusal = stage.refused(&shim, &place, &words).await?;
        refusal.is(4, &[address.trim_matches(['[', ']'])])?;
    }
    same("listeners in the pod", listeners(&pod).await?.len(), 0)
}

async fn an_address_that_the_pod_does_not_have_is_refused(stage: &mut Stage) -> Result<()> {
    let pod = stage.pod("web").await?;
    let shim = stage.shim("--allow-wide-bind").await?;
    let place = format!("sandbox/{}", pod.id());

    let words = "8080:3000 203.0.113.7:8081:3000";
    let refusal = stage.refused(&shim, &place, words).await?;

    refusal.is(5, &["203.0.113.7:8081"])?;
    same("listeners in the pod", listeners(&pod).await?.len(), 0)
}

async fn nobody_but_the_pod_reaches_it(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, other) = (stage.pod("web").await?, stage.pod("other").await?);
    let shim = stage.shim("").await?;
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;
    let ip = pod.ip().context("the pod has no address")?;

    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    let strangers = [
        (&pod, format!("{ip}:8080")),
        (&other, format!("{ip}:8080")),
        (&other, "127.0.0.1:8080".to_owned()),
    ];
    for (from, to) in strangers {
        let output = from.run(&format!("expect-refused --to {to}")).await?;
        same("refused", (output.code, output.stderr), (0, String::new()))?;
    }
    // And from the node itself, on the pod's address and on the node's own.
    for to in [format!("{ip}:8080"), "127.0.0.1:8080".to_owned()] {
        let connection = tokio::net::TcpStream::connect(to).await;
        let error = connection.err().map(|error| error.kind());
        same(
            "from the node",
            error,
            Some(std::io::ErrorKind::ConnectionRefused),
        )?;
    }
    same("accepted by the target", target.accepted(), 1)
}

async fn with_leave_another_pod_reaches_a_wide_listener(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, other) = (stage.pod("web").await?, stage.pod("other").await?);
    let shim = stage.shim("--allow-wide-bind").await?;
    let ip = pod.ip().context("the pod has no address")?;
    let words = format!("{ip}:8080:{}", target.port());
    let _forward = stage.forward(&shim, &pod, &words).await?;

    let _: Echo = other.probe(&format!("echo --to {ip}:8080")).await?;
    let output = pod.run("expect-refused --to 127.0.0.1:8080").await?;
    same("refused on loopback", output.code, 0)
}
