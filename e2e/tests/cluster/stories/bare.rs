//! A cluster that knows nothing of Sternline yet.

use crate::shared::check::says;
use crate::support::cluster::Cluster;
use crate::support::doctor::Findings;
use crate::support::forward::{Forward, PEOPLE};
use crate::support::runner::themed;
use anyhow::Result;

themed! {
    everybody_is_told_how_to_install,
}

async fn everybody_is_told_how_to_install(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin();
    // The role that every cluster has; that of Sternline is not there to be bound.
    admin
        .run(&format!(
            "create rolebinding newcomer --namespace {PEOPLE} --clusterrole view --user newcomer"
        ))
        .await?;
    let newcomer = cluster.user("newcomer", &[])?;

    for user in [admin, &newcomer] {
        let forward = Forward::start(user, "deploy/php 9003")?;
        let said = forward.refused(6).await?;
        says("it", &said, "Sternline is not installed in this cluster")?;
        says("it", &said, "`kubectl apply -k`")?;
    }

    let found = Findings::of(admin, PEOPLE, "deploy/php").await?;
    let missing = "Sternline is not installed in this cluster";
    found.has("FAIL", "APIService", missing)?;
    found.has("FAIL", "APIService", "`kubectl apply -k`")?;
    found.has("FAIL", "gateway", missing)?;
    found.has("ok", "node", "is ready")?;
    found.failed(2)?;

    let found = Findings::of(&newcomer, PEOPLE, "deploy/php").await?;
    found.has("skip", "APIService", "you may not look")?;
    found.has("FAIL", "gateway", missing)?;
    found.has(
        "FAIL",
        "rights",
        "ask an administrator for the role sternline-user",
    )?;
    found.failed(3)?;
    let words = format!("delete rolebinding newcomer --namespace {PEOPLE}");
    admin.run(&words).await.map(drop)
}
