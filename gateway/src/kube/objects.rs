//! Objects of the Kubernetes API, as far as they are looked at here.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Metadata of any object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace, if it is in one.
    pub namespace: String,
    /// Which incarnation of its name it is.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// What it belongs to.
    pub owner_references: Vec<OwnerReference>,
    /// When somebody began to delete it.
    pub deletion_timestamp: Option<String>,
}

impl Metadata {
    /// Whether the DaemonSet of this name, in its namespace, manages the object.
    #[must_use]
    pub fn is_of_daemon_set(&self, name: &str) -> bool {
        let mut owners = self.owner_references.iter();
        owners.any(|one| {
            let kind = (one.api_version.as_str(), one.kind.as_str());
            one.controller && kind == ("apps/v1", "DaemonSet") && one.name == name
        })
    }
}

/// What an object belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Its group and version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it manages the object.
    pub controller: bool,
}

/// A list of objects.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    /// What is in it.
    pub items: Vec<T>,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its metadata.
    pub metadata: Metadata,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Its metadata.
    pub metadata: Metadata,
    /// What was asked for.
    pub spec: PodSpec,
    /// How it is.
    pub status: PodStatus,
}

/// What a pod was asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node that it is on; empty until one was chosen.
    pub node_name: String,
    /// Whether it uses the node's own network.
    pub host_network: bool,
    /// What the node runs.
    pub os: Option<PodOs>,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
}

/// An operating system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodOs {
    /// Its name: `linux` or `windows`.
    pub name: String,
}

/// How a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Its address; empty until it has one.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// What is true of it.
    pub conditions: Vec<Condition>,
}

/// Something that is true of an object, or is not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

impl PodStatus {
    /// Whether this is said of it.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        let mut all = self.conditions.iter();
        all.any(|one| one.kind == kind && one.status == "True")
    }
}
