//! The fields of pods, workloads and services that are looked at.

use super::selector::LabelSelector;
use crate::clean::clean;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A list of objects.
#[derive(Debug, Deserialize)]
pub(in crate::cluster) struct List<T> {
    #[serde(default = "Vec::new")]
    pub(in crate::cluster) items: Vec<T>,
}

/// Anything that has a name.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Named {
    pub(super) metadata: Metadata,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::cluster) struct Metadata {
    pub(in crate::cluster) name: String,
    pub(super) uid: String,
    pub(super) creation_timestamp: Option<String>,
    pub(super) deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::cluster) struct Pod {
    pub(in crate::cluster) metadata: Metadata,
    pub(super) spec: PodSpec,
    pub(super) status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
    pub(super) host_network: bool,
    containers: Vec<Container>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    container_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    pub(super) phase: String,
    reason: Option<String>,
    conditions: Option<Vec<Condition>>,
    container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    reason: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    state: Option<ContainerState>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Waiting>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: Option<String>,
}

impl Pod {
    pub(in crate::cluster) fn is_ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter().flatten();
        conditions.any(|one| one.r#type == "Ready" && one.status == "True")
    }

    /// The ports that its containers name.
    pub(super) fn ports(&self) -> Vec<(String, u16)> {
        let all = self.spec.containers.iter();
        let all = all.chain(self.spec.init_containers.iter().flatten());
        all.flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| Some((port.name.clone()?, port.container_port)))
            .collect()
    }

    /// How it is, for a person: `pod/web is Pending (ImagePullBackOff)`.
    pub(in crate::cluster) fn state(&self) -> String {
        let waiting = self.status.container_statuses.iter().flatten();
        let mut waiting = waiting.filter_map(|one| one.state.as_ref()?.waiting.as_ref());
        let why = waiting
            .find_map(|waiting| waiting.reason.clone())
            .or_else(|| self.status.reason.clone())
            .or_else(|| self.why_on_no_node());
        let phase = match (
            &self.metadata.deletion_timestamp,
            self.status.phase.as_str(),
        ) {
            (Some(_), _) => "being deleted",
            (None, "") => "unknown",
            (None, phase) => phase,
        };
        let state = match why {
            None => format!("pod/{} is {phase}", self.metadata.name),
            Some(why) => format!("pod/{} is {phase} ({why})", self.metadata.name),
        };
        clean(&state)
    }

    /// What the scheduler says where it finds no node for it.
    fn why_on_no_node(&self) -> Option<String> {
        let mut conditions = self.status.conditions.iter().flatten();
        let one = conditions.find(|one| one.r#type == "PodScheduled" && one.status == "False")?;
        one.reason.clone()
    }
}

/// A Deployment, StatefulSet, DaemonSet, ReplicaSet or Job.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Workload {
    pub(super) spec: WorkloadSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkloadSpec {
    pub(super) selector: Option<LabelSelector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    pub(super) spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceSpec {
    pub(super) selector: Option<BTreeMap<String, String>>,
    pub(super) ports: Option<Vec<ServicePort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ServicePort {
    name: Option<String>,
    port: u16,
    target_port: Option<PortRef>,
}

/// A port of a pod, by its number or by the name of a container's.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum PortRef {
    Number(u16),
    Name(String),
}

impl ServicePort {
    /// Its name, and where it leads in a pod.
    pub(super) fn named(self) -> Option<(String, PortRef)> {
        let target = self.target_port.unwrap_or(PortRef::Number(self.port));
        Some((self.name?, target))
    }
}
