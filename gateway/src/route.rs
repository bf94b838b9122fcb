//! From a pod to the shim of its node.

use crate::access;
use crate::identity::User;
use crate::kube::{self, Api, Ask, List, Pod};
use crate::policy;
use crate::request::ForwardRequest;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use sternline_api::v1alpha1 as pb;
use sternline_api::{Failure, Reason};

/// Where a forward leads that may be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The pod, in the incarnation that is there now.
    pub pod: pb::Pod,
    /// Its node.
    pub node: String,
    /// The shim there.
    pub shim: SocketAddr,
}

/// Decides, by what the Kubernetes API says at the moment: what was true for the
/// forward before may be true no more.
pub struct Router {
    /// The Kubernetes API.
    pub api: Arc<dyn Api>,
    /// Namespace of the shims.
    pub namespace: String,
    /// Name of their DaemonSet.
    pub shims: String,
    /// Their port.
    pub port: u16,
}

impl Router {
    /// Whether the user may have this forward, and where it leads.
    ///
    /// # Errors
    /// Why it cannot be had. Whoever may not ask learns nothing about the pod.
    pub async fn route(&self, user: &User, asked: &ForwardRequest) -> Result<Route, Failure> {
        access::check(&*self.api, user, asked).await?;
        let pod = self.pod(asked).await?;
        let node = node_of(&pod, asked)?;
        let (allowed, shim) = tokio::join!(policy::check(&*self.api, &pod), self.shim(node));
        allowed?;
        Ok(Route {
            node: node.to_owned(),
            shim: shim?,
            pod: pb::Pod {
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            },
        })
    }

    async fn pod(&self, asked: &ForwardRequest) -> Result<Pod, Failure> {
        let ForwardRequest { namespace, pod, .. } = asked;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let found: Option<Pod> = kube::find(&*self.api, Ask::get(path)).await?;
        found.ok_or_else(|| {
            Failure::new(
                Reason::SandboxNotFound,
                format!("pods {pod:?} not found: namespace {namespace:?} has no such pod"),
            )
        })
    }

    /// The shim of a node, as its DaemonSet has it there now.
    async fn shim(&self, node: &str) -> Result<SocketAddr, Failure> {
        let selector =
            percent_encoding::utf8_percent_encode(node, percent_encoding::NON_ALPHANUMERIC);
        let path = format!(
            "/api/v1/namespaces/{}/pods?fieldSelector=spec.nodeName%3D{selector}",
            self.namespace
        );
        let pods: List<Pod> = kube::read(&*self.api, Ask::get(path)).await?;
        let found = best(&pods.items, node, &self.shims).ok_or_else(|| {
            Failure::new(
                Reason::NodeUnavailable,
                format!(
                    "node {node:?} has no shim that runs: see kubectl --namespace {} get pods --output wide; nodes with Windows, or that DaemonSet {:?} does not tolerate, never have one",
                    self.namespace, self.shims
                ),
            )
        })?;
        Ok((found, self.port).into())
    }
}

/// The node of a pod that can be listened in.
fn node_of<'a>(pod: &'a Pod, asked: &ForwardRequest) -> Result<&'a str, Failure> {
    let name = format!("pod \"{}/{}\"", asked.namespace, asked.pod);
    let refused = |reason, what: &str| Err(Failure::new(reason, format!("{name} {what}")));
    if let Some(uid) = asked.uid.as_ref().filter(|uid| **uid != pod.metadata.uid) {
        let what = format!(
            "is another one than was meant: it has uid {}, not {uid}: forward again to the new one",
            pod.metadata.uid
        );
        return refused(Reason::PodReplaced, &what);
    }
    match pod.status.phase.as_str() {
        "Succeeded" | "Failed" => {
            return refused(
                Reason::SandboxNotReady,
                "has completed: nothing runs in it any more",
            );
        }
        _ if pod.metadata.deletion_timestamp.is_some() => {
            return refused(
                Reason::SandboxNotReady,
                "is being deleted: forward to its successor",
            );
        }
        "Pending" | "" => {
            return refused(
                Reason::SandboxNotReady,
                "is pending: wait until it runs, kubectl describe says what it waits for",
            );
        }
        _ => {}
    }
    if pod.spec.node_name.is_empty() {
        return refused(
            Reason::SandboxNotReady,
            "is on no node yet: wait until it runs",
        );
    }
    let asks_for = pod.spec.node_selector.get("kubernetes.io/os");
    let os = pod.spec.os.as_ref().map(|os| &os.name).or(asks_for);
    if os.is_some_and(|os| os == "windows") {
        return refused(
            Reason::VmRuntime,
            "runs on Windows, where there is no network namespace to listen in",
        );
    }
    if pod.spec.host_network {
        return refused(
            Reason::HostNetwork,
            "uses its node's own network: a listener would be one of the node; forward to a pod with a network of its own",
        );
    }
    Ok(&pod.spec.node_name)
}

/// The address of the best pod of the DaemonSet on a node: one that is ready, else
/// one that runs.
fn best(pods: &[Pod], node: &str, daemon_set: &str) -> Option<IpAddr> {
    let usable = pods.iter().filter(|pod| {
        // The selector was only asked for.
        pod.spec.node_name == node
            && pod.metadata.is_of_daemon_set(daemon_set)
            && pod.metadata.deletion_timestamp.is_none()
            && pod.status.phase == "Running"
    });
    let addressed = usable.filter_map(|pod| Some((pod, pod.status.pod_ip.parse().ok()?)));
    let best = addressed.max_by_key(|(pod, _)| pod.status.is("Ready"));
    best.map(|(_, address)| address)
}

#[cfg(test)]
mod tests;
