//! Pods of Sternline's own, as whoever wants something of them finds them.

use super::cluster::Cluster;
use super::install::NAMESPACE;
use anyhow::{Context as _, Result};
use std::net::IpAddr;
use sternline_api::v1alpha1 as pb;

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) address: IpAddr,
}

/// The gateways, or the shims.
///
/// # Errors
/// There are none, or one has no address.
pub(crate) async fn of(cluster: &Cluster, what: &str) -> Result<Vec<Pod>> {
    let labels = format!("--namespace {NAMESPACE} --selector app.kubernetes.io/name={what}");
    found(cluster, &labels).await
}

/// Those that kubectl finds by these words.
///
/// # Errors
/// As [`of`].
pub(crate) async fn found(cluster: &Cluster, words: &str) -> Result<Vec<Pod>> {
    let words = format!("get pods {words} -o json");
    let list = cluster.admin().run(&words).await?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let read = |pod: &serde_json::Value| {
        let text = |path: &str| pod.pointer(path)?.as_str().map(str::to_owned);
        Some(Pod {
            namespace: text("/metadata/namespace")?,
            name: text("/metadata/name")?,
            uid: text("/metadata/uid")?,
            node: text("/spec/nodeName")?,
            address: text("/status/podIP")?.parse().ok()?,
        })
    };
    let items = list["items"].as_array().context("no list")?;
    // Those of before an update may be on their way out.
    let stays = |pod: &&serde_json::Value| pod["metadata"]["deletionTimestamp"].is_null();
    let pods: Option<Vec<_>> = items.iter().filter(stays).map(read).collect();
    let pods = pods.context("one has no address")?;
    anyhow::ensure!(!pods.is_empty(), "there are none: get {words}");
    Ok(pods)
}

/// The one on this node.
///
/// # Errors
/// There is none.
pub(crate) fn on<'a>(node: &str, pods: &'a [Pod]) -> Result<&'a Pod> {
    let mut pods = pods.iter();
    let found = pods.find(|pod| pod.node == node);
    found.with_context(|| format!("none on {node}"))
}

/// What all of them together have counted under names that begin so.
///
/// # Errors
/// One does not tell.
pub(crate) async fn counted(cluster: &Cluster, pods: &[Pod], metric: &str) -> Result<f64> {
    let mut sum = 0.0;
    for Pod { name, .. } in pods {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:10252/proxy/metrics");
        let page = cluster.admin().run(&format!("get --raw {path}")).await?;
        for line in page.lines().filter(|line| line.starts_with(metric)) {
            let (_, value) = line.rsplit_once(' ').context("no value")?;
            sum += value.parse::<f64>()?;
        }
    }
    Ok(sum)
}

impl From<&Pod> for pb::Pod {
    fn from(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }
    }
}
