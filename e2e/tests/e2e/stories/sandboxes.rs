//! Which sandbox: each that cannot be had is refused with a sentence of its
//! own.

use crate::support::runner::themed;
use crate::support::stage::Stage;
use crate::support::target::{Manner, Target};
use crate::support::{client, same};
use anyhow::{Context as _, Result};
use sternline_api::v1alpha1 as pb;
use sternline_e2e::report::Echo;

themed! {
    every node:
        the_beginning_of_an_id_is_enough,
        an_unknown_id_is_not_found,
        a_malformed_id_is_refused_before_anything_is_contacted,
        the_beginning_of_several_ids_is_ambiguous,
        a_pod_on_the_nodes_own_network_is_refused;
    container runtimes:
        a_stopped_pod_is_not_ready,
        a_removed_pod_is_not_found,
        without_its_runtime_the_shim_says_so
}

async fn the_beginning_of_an_id_is_enough(stage: &mut Stage) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    // One pod: any beginning of its id is its own.
    let place = format!("sandbox/{}", &pod.id()[..pod.id().len() - 1]);
    let words = format!("8080:{}", target.port());
    let _forward = stage.forward_at(&shim, &place, &words).await?;
    let _: Echo = pod.probe("echo --to 127.0.0.1:8080").await?;
    same(
        "sandbox",
        &shim.sessions().await?[0].sandbox_id,
        &pod.id().to_owned(),
    )
}

async fn an_unknown_id_is_not_found(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    let refusal = stage.refused(&shim, "sandbox/deadbeef", "8080").await?;
    refusal.is(3, &["deadbeef"])
}

async fn a_malformed_id_is_refused_before_anything_is_contacted(stage: &mut Stage) -> Result<()> {
    let mut shim = stage.shim("").await?;
    let pod = stage.pod("web").await?;
    // Also by the shim, if a client lets it through.
    for id in ["", "../net", "a/b", "a b", "\u{1b}[31m", &"x".repeat(300)] {
        let mut request = client::request(&pod, &[8080]);
        let by = pb::target::By::SandboxId(id.to_owned());
        request.target = Some(pb::Target { by: Some(by) });
        let status = client::call(&shim, request).await;
        let status = status.err().with_context(|| format!("{id:?} was taken"))?;
        let word = client::reason(&status);
        let bad = ["invalid_request", "sandbox_not_found"].contains(&word.as_str());
        same(&format!("{id:?} refused, with {status}"), bad, true)?;
    }
    shim.kill().await?;
    for place in [
        "sandbox/",
        "sandbox/../net",
        "sandbox/a/b",
        "pod/web",
        "web%00",
    ] {
        let refusal = stage.refused(&shim, place, "8080").await?;
        refusal.is(2, &[])?;
    }
    Ok(())
}

async fn the_beginning_of_several_ids_is_ambiguous(stage: &mut Stage) -> Result<()> {
    let shim = stage.shim("").await?;
    // Ids of containers are hex digits: of seventeen, two begin alike. Those of
    // namespaces begin as they were named.
    let mut ids: Vec<String> = Vec::new();
    let prefix = loop {
        let pod = stage.pod(&format!("twin{}", ids.len())).await?;
        let first = pod.id()[..1].to_owned();
        if ids.iter().any(|id| id.starts_with(&first)) {
            break first;
        }
        ids.push(pod.id().to_owned());
    };

    let place = format!("sandbox/{prefix}");
    let refusal = stage.refused(&shim, &place, "8080").await?;

    refusal.is(2, &[&prefix])
}

async fn a_pod_on_the_nodes_own_network_is_refused(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.host_network_pod("web").await?, stage.shim("").await?);
    let place = format!("sandbox/{}", pod.id());

    let refusal = stage.refused(&shim, &place, "8080:3000").await?;

    refusal.is(6, &["network"])?;
    let connection = tokio::net::TcpStream::connect("127.0.0.1:8080").await;
    same("nothing listens on the node", connection.is_err(), true)
}

async fn a_stopped_pod_is_not_ready(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    pod.stop().await?;
    let place = format!("sandbox/{}", pod.id());
    let refusal = stage.refused(&shim, &place, "8080").await?;
    refusal.is(3, &["not ready"])
}

async fn a_removed_pod_is_not_found(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    pod.remove().await?;
    let place = format!("sandbox/{}", pod.id());
    let refusal = stage.refused(&shim, &place, "8080").await?;
    refusal.is(3, &[&pod.id()[..12]])
}

async fn without_its_runtime_the_shim_says_so(stage: &mut Stage) -> Result<()> {
    let (pod, shim) = (stage.pod("web").await?, stage.shim("").await?);
    let place = format!("sandbox/{}", pod.id());

    let node = stage.node().clone();
    node.pause_runtime().await?;
    let refusal = stage.refused(&shim, &place, "8080").await;
    let mut caller = shim.client();
    let status = caller.status(pb::StatusRequest {}).await;
    node.resume_runtime().await?;

    refusal?.is(6, &["runtime"])?;
    let conditions = status?.into_inner().conditions;
    let runtime = conditions.iter().find(|c| c.r#type == "RuntimeReachable");
    same("RuntimeReachable", runtime.map(|c| c.status), Some(false))?;
    let words = format!("8080:{}", Target::start(Manner::Echo).await?.port());
    stage.forward_at(&shim, &place, &words).await.map(drop)
}
