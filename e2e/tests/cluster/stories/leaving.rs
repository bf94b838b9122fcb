//! Away with it: what was installed goes, and nothing else does.

use crate::shared::check::{same, until};
use crate::support::cluster::Cluster;
use crate::support::inside::running;
use crate::support::install;
use crate::support::runner::themed;
use anyhow::Result;
use std::time::Duration;

themed! {
    what_was_installed_goes_wholly,
}

/// Bound on the end of the last container.
const SOON: Duration = Duration::from_secs(60);

async fn what_was_installed_goes_wholly(cluster: &Cluster) -> Result<()> {
    install::uninstall(cluster).await?;
    let admin = cluster.admin();
    let kinds = "apiservices,clusterroles,clusterrolebindings,priorityclasses,namespaces";
    let names = admin.run(&format!("get {kinds} -o name")).await?;
    let left: Vec<_> = names
        .lines()
        .filter(|name| name.contains("sternline"))
        .collect();
    same("objects of the cluster that are left", left, Vec::new())?;
    let bound = admin
        .run("get rolebindings --namespace kube-system -o name")
        .await?;
    same(
        "whether a binding is left",
        bound.contains("sternline"),
        false,
    )?;
    until("the last container to end", SOON, || async {
        Ok(running("/sternline-")?
            .iter()
            .all(|found| found.command.contains("probe"))
            .then_some(()))
    })
    .await?;
    // And the rest goes on.
    admin.run("get pods --namespace people").await?;
    admin.run("create namespace passing").await?;
    admin
        .run("delete namespace passing --wait --timeout=60s")
        .await
        .map(drop)
}
