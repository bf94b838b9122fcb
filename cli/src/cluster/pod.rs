//! From what the user named to one pod that runs.

mod model;
mod selector;

use super::api::Api;
use super::object::{Kind, Object};
use crate::clean::clean;
use crate::fault::Fault;
use crate::span;
use model::{List, Named, Pod, PortRef, Service, Workload};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::time::Duration;
use sternline_api::Reason;
use tokio::time::{Instant, sleep};

/// Pause before the cluster is asked again for a pod that runs.
const PAUSE: Duration = Duration::from_secs(1);

/// Names that are offered at most.
const MOST_NAMES: usize = 500;

/// The pod to listen in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which incarnation of the name, where we may know.
    pub uid: Option<String>,
    /// The node it runs on, where we may know.
    pub node: Option<String>,
    /// Whether it uses its node's own network.
    pub host_network: bool,
    /// `None` where nobody may look.
    ports: Option<Vec<(String, u16)>>,
}

impl Chosen {
    /// Whether anything is known of the pod but its name.
    #[must_use]
    pub fn was_seen(&self) -> bool {
        self.ports.is_some()
    }

    /// The port of this name: of the service that led here, else of a container.
    ///
    /// # Errors
    /// There is none; in a sentence that lists those that there are.
    pub fn port(&self, name: &str) -> Result<u16, String> {
        let Some(ports) = &self.ports else {
            return Err(format!(
                "you may not look at pod/{}, so {name:?} is not known: give the port by its number",
                self.name
            ));
        };
        let mut known = ports.iter();
        if let Some((_, port)) = known.find(|(known, _)| known == name) {
            return Ok(*port);
        }
        let all: Vec<_> = ports
            .iter()
            .map(|(name, port)| format!("{} ({port})", clean(name)))
            .collect();
        let all = match all.is_empty() {
            true => "its containers name none".to_owned(),
            false => format!("it has {}", all.join(", ")),
        };
        Err(format!(
            "pod/{} has no port named {name:?}: {all}",
            self.name
        ))
    }
}

/// Finds the pod behind `object` in `namespace`, and waits up to `patience` until
/// one runs.
///
/// Of several, one that is ready, and of those the newest: after a rollout has
/// begun, the old ones are about to go.
///
/// # Errors
/// What the API server refused; exit code 3 where nothing runs.
pub async fn find(
    api: &Api,
    namespace: &str,
    object: &Object,
    patience: Duration,
) -> Result<Chosen, Fault> {
    tracing::info!(namespace, %object, "looking for the pod");
    let by = Instant::now() + patience;
    let behind = match object.kind {
        Kind::Pod => None,
        _ => Some(behind(api, namespace, object).await?),
    };
    loop {
        let why = match &behind {
            None => match pod_itself(api, namespace, object).await? {
                Ok(chosen) => return Ok(chosen),
                Err(why) => why,
            },
            Some((selector, ports)) => {
                let query = utf8_percent_encode(selector, NON_ALPHANUMERIC);
                let path = format!("{}?labelSelector={query}", Kind::Pod.path(namespace));
                let pods: List<Pod> = api.get(&path).await?;
                match pick(pods.items) {
                    Ok(pod) => return Ok(chosen(namespace, pod, ports)),
                    Err(why) => format!("{object}: {why}"),
                }
            }
        };
        if Instant::now() + PAUSE >= by {
            let waited = match patience {
                Duration::ZERO => String::new(),
                _ => format!(
                    ": waited for {}, --pod-running-timeout waits longer",
                    span::short(patience)
                ),
            };
            return Err(Fault::because(Reason::SandboxNotReady, why + &waited));
        }
        tracing::info!(%why, "waiting for a pod that runs");
        sleep(PAUSE).await;
    }
}

/// The names of all objects at this path, up to a few hundred.
///
/// # Errors
/// What the API server refused.
pub async fn names(api: &Api, path: &str) -> Result<Vec<String>, Fault> {
    let all: List<Named> = api.get(&format!("{path}?limit={MOST_NAMES}")).await?;
    let names = all.items.into_iter().map(|one| clean(&one.metadata.name));
    Ok(names.collect())
}

/// Of the pods at this path, the best whose name begins with that of the workload
/// that made it: whether it is ready, and its name, or how it is.
///
/// # Errors
/// What the API server refused.
pub async fn of_node(
    api: &Api,
    path: &str,
    workload: &str,
) -> Result<Option<(bool, String)>, Fault> {
    let pods: List<Pod> = api.get(path).await?;
    let prefix = format!("{workload}-");
    let own = pods
        .items
        .into_iter()
        .filter(|pod| pod.metadata.name.starts_with(&prefix));
    let best = own.max_by_key(Pod::is_ready);
    Ok(best.map(|pod| match pod.is_ready() {
        true => (true, clean(&pod.metadata.name)),
        false => (false, pod.state()),
    }))
}

/// A pod by its name; or why not yet.
async fn pod_itself(
    api: &Api,
    namespace: &str,
    object: &Object,
) -> Result<Result<Chosen, String>, Fault> {
    let pod: Pod = match api.get(&object.path(namespace)).await {
        Ok(pod) => pod,
        // Who may open a forward and not look at pods: the gateway looks.
        Err(fault) if fault.reason == Some(Reason::Forbidden) => {
            tracing::info!(%fault, "not allowed to look at the pod: going on without");
            return Ok(Ok(Chosen {
                namespace: namespace.to_owned(),
                name: object.name.clone(),
                uid: None,
                node: None,
                host_network: false,
                ports: None,
            }));
        }
        Err(fault) => return Err(fault),
    };
    let over = |what: &str| {
        Fault::because(
            Reason::SandboxNotReady,
            format!("{object} {what}: nothing can listen in it any more"),
        )
    };
    match pod.status.phase.as_str() {
        "Succeeded" => Err(over("has completed")),
        "Failed" => Err(over("has failed")),
        _ if pod.metadata.deletion_timestamp.is_some() => Err(over("is being deleted")),
        "Running" => Ok(Ok(chosen(namespace, pod, &[]))),
        _ => Ok(Err(format!("{object} does not run: {}", pod.state()))),
    }
}

/// The selector behind an object, and the ports that it names itself.
async fn behind(
    api: &Api,
    namespace: &str,
    object: &Object,
) -> Result<(String, Vec<(String, PortRef)>), Fault> {
    let path = object.path(namespace);
    let none = || {
        Fault::because(
            Reason::SandboxNotFound,
            format!("{object} has no selector, so it leads to no pod: name a pod"),
        )
    };
    if object.kind == Kind::Service {
        let service: Service = api.get(&path).await?;
        let labels = service.spec.selector.unwrap_or_default();
        let selector = selector::of_labels(&labels).ok_or_else(none)?;
        let ports = service.spec.ports.unwrap_or_default();
        let named = ports.into_iter().filter_map(model::ServicePort::named);
        return Ok((selector, named.collect()));
    }
    let workload: Workload = api.get(&path).await?;
    let selector = workload.spec.selector.unwrap_or_default();
    Ok((selector.to_query().ok_or_else(none)?, Vec::new()))
}

/// The best of the pods; or why there is none.
fn pick(pods: Vec<Pod>) -> Result<Pod, String> {
    let mut state = None;
    let running = pods.into_iter().filter(|pod| {
        let runs = pod.status.phase == "Running" && pod.metadata.deletion_timestamp.is_none();
        if !runs {
            state.get_or_insert_with(|| format!("none of its pods runs: {}", pod.state()));
        }
        runs
    });
    let best = running.max_by_key(|pod| {
        let created = pod.metadata.creation_timestamp.clone();
        (pod.is_ready(), created, pod.metadata.name.clone())
    });
    best.ok_or_else(|| state.unwrap_or_else(|| "it has no pods".to_owned()))
}

fn chosen(namespace: &str, pod: Pod, named: &[(String, PortRef)]) -> Chosen {
    let own = pod.ports();
    let led = named.iter().filter_map(|(name, port)| {
        let port = match port {
            PortRef::Number(port) => *port,
            PortRef::Name(other) => own.iter().find(|(name, _)| name == other)?.1,
        };
        Some((name.clone(), port))
    });
    let ports = Some(led.chain(own.iter().cloned()).collect());
    tracing::info!(pod = %clean(&pod.metadata.name), "the pod is chosen");
    Chosen {
        namespace: namespace.to_owned(),
        name: clean(&pod.metadata.name),
        uid: Some(pod.metadata.uid).filter(|uid| !uid.is_empty()),
        node: pod.spec.node_name.map(|name| clean(&name)),
        host_network: pod.spec.host_network,
        ports,
    }
}

#[cfg(test)]
mod tests;
