//! A namespace with one of each kind that leads to pods, and people who may forward
//! from them: `keeper` as a user of Sternline, `owner` as an administrator of it.

use super::cluster::Cluster;
use crate::shared::check::until;
use anyhow::Result;
use std::time::Duration;

/// Its name.
pub(crate) const SHOP: &str = "shop";

/// Pods in it.
const PODS: usize = 6;

/// Bound on their start.
const BOUND: Duration = Duration::from_secs(120);

/// Opens it, unless it is open, and waits until all of it runs.
///
/// # Errors
/// Something of it does not run.
pub(crate) async fn open(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin();
    admin.apply(include_str!("../manifests/shop.yaml")).await?;
    let ready = format!(
        "get pods --namespace {SHOP} -o jsonpath={{.items[*].status.containerStatuses[*].ready}}"
    );
    until("the pods of the shop to run", BOUND, || async {
        let said = admin.run(&ready).await?;
        let ready = said.split(' ').filter(|word| *word == "true").count();
        Ok((ready == PODS).then_some(()))
    })
    .await
}

/// Closes it for good.
///
/// # Errors
/// The API server refuses.
pub(crate) async fn close(cluster: &Cluster) -> Result<()> {
    let words = format!("delete namespace {SHOP} --wait=false");
    cluster.admin().run(&words).await.map(drop)
}
