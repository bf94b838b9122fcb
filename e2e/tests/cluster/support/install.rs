//! Sternline, installed as a user installs it: from `deploy/`, with the name of the
//! image alone set, as `kustomize edit set image` does.

use super::cluster::Cluster;
use crate::shared::enclosure::STATE;
use crate::shared::runtime::Runtime;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What is shipped.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");

/// Where it is installed.
pub(crate) const NAMESPACE: &str = "sternline";

/// Every overlay that is shipped, in order.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn overlays() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(Path::new(DEPLOY).join("overlays"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// What an overlay that is shipped makes.
///
/// # Errors
/// kubectl cannot make it.
pub(crate) async fn manifests_of(cluster: &Cluster, overlay: &str) -> Result<String> {
    let words = format!("kustomize {DEPLOY}/overlays/{overlay}");
    cluster.admin().run(&words).await
}

/// Writes the kustomization of this cluster and answers its directory.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn kustomization(runtime: Runtime) -> Result<PathBuf> {
    let directory = Path::new(STATE).join("install");
    fs::create_dir_all(&directory)?;
    let overlay = match runtime {
        Runtime::CriO => "crio",
        _ => "containerd",
    };
    let deploy = from(&directory)?;
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\n\
         kind: Kustomization\n\
         resources: [{deploy}/overlays/{overlay}]\n\
         images:\n\
         - {{ name: sternline, newName: 127.0.0.1:5000/sternline, newTag: \"1\" }}\n"
    );
    fs::write(directory.join("kustomization.yaml"), text)?;
    Ok(directory)
}

/// Where what is shipped is, as kustomize wants it: a path from here to there.
fn from(directory: &Path) -> Result<String> {
    let up = "../".repeat(directory.components().count() - 1);
    let deploy = fs::canonicalize(DEPLOY)?;
    let deploy = deploy.strip_prefix("/").context("an absolute path")?;
    Ok(format!("{up}{}", deploy.display()))
}

/// A flag that is added to a container: kind and name of what has it, its place
/// there, and the flag.
pub(crate) type Flag = (&'static str, &'static str, usize, &'static str);

/// Applies what is installed again, with more flags, as an administrator's own
/// kustomization adds them; without any it is as it was at first. Waits for nothing.
///
/// # Errors
/// A file cannot be written, or the API server refuses something.
pub(crate) async fn apply_with(cluster: &Cluster, flags: &[Flag]) -> Result<()> {
    let base = kustomization(cluster.runtime())?;
    let directory = Path::new(STATE).join("install-with");
    fs::create_dir_all(&directory)?;
    let mut text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\n\
         kind: Kustomization\n\
         resources: [../{}]\n\
         patches:\n",
        base.file_name().context("a name")?.display()
    );
    for (kind, name, container, flag) in flags {
        let path = format!("/spec/template/spec/containers/{container}/args/-");
        text += &format!(
            "- target: {{ kind: {kind}, name: {name} }}\n  \
             patch: '[{{\"op\": \"add\", \"path\": \"{path}\", \"value\": \"{flag}\"}}]'\n"
        );
    }
    fs::write(directory.join("kustomization.yaml"), text)?;
    let apply = format!("apply -k {}", directory.display());
    cluster.admin().run(&apply).await.map(drop)
}

/// Installs it and waits until every pod is ready and the API is served.
///
/// # Errors
/// The API server refuses something, or a pod does not become ready.
pub(crate) async fn install(cluster: &Cluster) -> Result<()> {
    let directory = kustomization(cluster.runtime())?;
    let apply = format!("apply -k {}", directory.display());
    cluster.admin().run(&apply).await?;
    cluster
        .rolled_out("deployment/sternline-gateway", NAMESPACE)
        .await?;
    cluster
        .rolled_out("daemonset/sternline-shim", NAMESPACE)
        .await?;
    let served =
        "wait apiservice/v1alpha1.reverse.sternline.dev --for=condition=Available --timeout=60s";
    cluster.admin().run(served).await.map(drop)
}

/// Applies what is installed again with these components beside its own, on both
/// nodes at once, which takes half the time, and waits until every shim is ready.
///
/// # Errors
/// As [`install`].
pub(crate) async fn change(cluster: &Cluster, components: &[&str]) -> Result<()> {
    kustomization(cluster.runtime())?;
    let directory = Path::new(STATE).join("changed");
    fs::create_dir_all(&directory)?;
    let deploy = from(&directory)?;
    let components: Vec<_> = components
        .iter()
        .map(|name| format!("{deploy}/components/{name}"))
        .collect();
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\n\
         kind: Kustomization\n\
         resources: [../install]\n\
         components: [{}]\n\
         patches:\n\
         - target: {{ kind: DaemonSet }}\n  \
           patch: |\n    \
             - {{ op: replace, path: /spec/updateStrategy/rollingUpdate/maxUnavailable, value: 2 }}\n",
        components.join(", ")
    );
    fs::write(directory.join("kustomization.yaml"), text)?;
    let apply = format!("apply -k {}", directory.display());
    cluster.admin().run(&apply).await?;
    cluster
        .rolled_out("daemonset/sternline-shim", NAMESPACE)
        .await
}

/// Takes it away as the page says: the APIService first.
///
/// # Errors
/// Something does not go.
pub(crate) async fn uninstall(cluster: &Cluster) -> Result<()> {
    let directory = kustomization(cluster.runtime())?;
    let first = "delete apiservice v1alpha1.reverse.sternline.dev --wait";
    cluster.admin().run(first).await?;
    let rest = format!(
        "delete -k {} --ignore-not-found --wait",
        directory.display()
    );
    cluster.admin().run(&rest).await.map(drop)
}

/// Changes the DaemonSet of the shims by a patch without spaces.
///
/// # Errors
/// The API server refuses it.
pub(crate) async fn patch_shims(cluster: &Cluster, patch: &str) -> Result<()> {
    let words = format!(
        "patch daemonset sternline-shim --namespace {NAMESPACE} --type strategic --patch {patch}"
    );
    cluster.admin().run(&words).await.map(drop)
}

/// The names of the shims' pods on a node.
///
/// # Errors
/// The API server refuses.
pub(crate) async fn shims_of(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let words = format!(
        "get pods --namespace {NAMESPACE} --selector app.kubernetes.io/name=sternline-shim \
         --field-selector spec.nodeName={node} -o jsonpath={{.items[*].metadata.name}}"
    );
    let names = cluster.admin().run(&words).await?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}
