//! Certificates that end, and an authority that rotates, while sessions are up.

use super::changes::UPGRADED;
use super::crowd::ROOM;
use crate::shared::check::{is_at_least, same, until};
use crate::shared::enclosure::STATE;
use crate::support::cluster::Cluster;
use crate::support::forward::SOON;
use crate::support::install::{self, Flag, NAMESPACE};
use crate::support::late::{LATE, Line, ONE, TWO, metric};
use crate::support::runner::themed;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

themed! {
    certificates_end_and_the_authority_rotates_under_a_live_session,
    what_was_changed_is_put_back_under_a_live_session,
}

/// A root lives for 24 s, and a certificate is renewed every 5.
const SHORT: [&str; 3] = [
    "--root-lifetime=24s",
    "--overlap=8s",
    "--certificate-lifetime=8s",
];

/// Where the authority of before is kept meanwhile.
fn kept() -> PathBuf {
    Path::new(STATE).join("authority.json")
}

async fn part(cluster: &Cluster, object: &str, path: &str) -> Result<String> {
    let words = format!("get {object} --namespace {NAMESPACE} -o jsonpath={path}");
    cluster.admin().run(&words).await
}

/// The certificates that are trusted now.
async fn roots(cluster: &Cluster) -> Result<Vec<String>> {
    let bundle = part(cluster, "configmap/sternline-authority", "{.data.ca\\.crt}").await?;
    let roots = bundle.split("-----END CERTIFICATE-----");
    let roots = roots.map(|root| root.trim().to_owned());
    Ok(roots.filter(|root| !root.is_empty()).collect())
}

/// Whether none of these is trusted any more, and others are.
async fn replaced(cluster: &Cluster, before: &[String]) -> Result<Option<()>> {
    let now = roots(cluster).await?;
    let known = now.iter().any(|root| before.contains(root));
    Ok((!known && !now.is_empty()).then_some(()))
}

async fn patch_authority(cluster: &Cluster, patch: &Value) -> Result<()> {
    let words = format!(
        "patch secret sternline-authority --namespace {NAMESPACE} --type merge --patch {patch}"
    );
    cluster.admin().run(&words).await.map(drop)
}

/// How many certificates gateways have signed for nodes.
async fn signed(cluster: &Cluster) -> Result<BTreeMap<String, f64>> {
    let each = metric(
        cluster,
        "sternline-gateway",
        "sternline_gateway_node_certificates_total",
    );
    Ok(each.await?.into_iter().collect())
}

async fn certificates_end_and_the_authority_rotates_under_a_live_session(
    cluster: &Cluster,
) -> Result<()> {
    let authority = part(cluster, "secret/sternline-authority", "{.data}").await?;
    fs::write(kept(), authority)?;
    let short = SHORT.map(|flag| -> Flag { ("Deployment", "sternline-gateway", 0, flag) });
    let flags = [&[UPGRADED, ROOM], &short[..]].concat();
    install::apply_with(cluster, &flags).await?;
    cluster
        .rolled_out("deployment/sternline-gateway", NAMESPACE)
        .await?;
    // A root that was made for a year would last for a year: another is made at once.
    let long = roots(cluster).await?;
    patch_authority(cluster, &json!({ "data": null })).await?;
    until("another authority", 4 * SOON, || replaced(cluster, &long)).await?;

    // Without a hold: whatever cuts it ends it.
    let mut line = Line::up_at_last(cluster, ONE, "--hold 0s").await?;
    let open = line.hold(cluster).await?;
    let (before, signed_before) = (roots(cluster).await?, signed(cluster).await?);
    until("all roots to be other ones", 4 * SOON, || async {
        line.echoes(cluster).await?;
        replaced(cluster, &before).await
    })
    .await?;
    // Both nodes more than once: the certificates of then have ended.
    let before = |pod: &String| signed_before.get(pod).copied().unwrap_or_default();
    let signed_now = signed(cluster).await?;
    let renewed: f64 = signed_now.iter().map(|(pod, now)| now - before(pod)).sum();
    is_at_least("certificates of nodes", renewed, 4.0)?;

    line.echoes(cluster).await?;
    let newcomer = Line::up_at_last(cluster, TWO, "--hold 0s").await?;
    newcomer.echoes(cluster).await?;
    newcomer.forward.stop().await?;
    same("how it ended", line.forward.process().ended(), None)?;
    drop(open);
    line.forward.stop().await
}

async fn what_was_changed_is_put_back_under_a_live_session(cluster: &Cluster) -> Result<()> {
    let authority = fs::read_to_string(kept()).context("no authority was kept")?;
    let authority: BTreeMap<String, String> = serde_json::from_str(&authority)?;
    // What was announced meanwhile goes.
    let gone = ["next.crt", "next.key", "previous.crt"];
    let mut data: BTreeMap<_, _> = gone.map(|key| (key.to_owned(), Value::Null)).into();
    data.extend(
        authority
            .into_iter()
            .map(|(key, value)| (key, json!(value))),
    );
    patch_authority(cluster, &json!({ "data": data })).await?;
    let mut line = Line::up_at_last(cluster, ONE, "--hold 2m").await?;
    install::apply_with(cluster, &[]).await?;
    for what in ["daemonset/sternline-shim", "deployment/sternline-gateway"] {
        cluster.rolled_out(what, NAMESPACE).await?;
    }
    line.complains_of("Reconnected to pod/late-one").await?;
    line.echoes(cluster).await?;
    line.forward.stop().await?;
    let other = Line::up_at_last(cluster, TWO, "").await?;
    other.echoes(cluster).await?;
    other.forward.stop().await?;
    let delete = format!("delete namespace {LATE} --wait --timeout=60s");
    cluster.admin().run(&delete).await.map(drop)
}
