//! A node: a container runtime, a kubelet and kube-proxy on a machine of their own.

use super::control::programs;
use super::machine::Machine;
use super::network::{self, DNS_SERVICE, PODS, WORKSTATION};
use super::pki::{Authority, Subject};
use crate::shared::check::until;
use crate::shared::enclosure;
use crate::shared::image::{Image, REGISTRY};
use crate::shared::process::Process;
use crate::shared::recipe::Recipe;
use crate::shared::registry;
use crate::shared::runtime::Release;
use crate::shared::system::inside;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;

/// Bound on the start of a container runtime.
const PATIENCE: Duration = Duration::from_secs(60);

/// The processes.
pub(crate) struct Worker {
    machine: Machine,
    runtime: Process,
    kubelet: Process,
    proxy: Process,
}

impl Worker {
    /// Starts them, with a registry of `images` on the machine's loopback.
    ///
    /// # Errors
    /// A program is missing or cannot be started.
    pub(crate) async fn start(
        machine: Machine,
        release: Release,
        authority: &Authority,
        images: Arc<[Image]>,
    ) -> Result<Self> {
        let name = machine.name();
        serve(&machine, images)?;
        let directory = machine.directory().join("runtime");
        fs::create_dir_all(directory.join("cni"))?;
        let network = pod_network(&machine, &directory);
        fs::write(directory.join("cni/10-pods.conflist"), network)?;
        let recipe = Recipe::write(release, &directory)?;
        let command = recipe.command(&machine.enter()?)?;
        let mut runtime = Process::start("runtime", command, machine.directory())?;
        // A kubelet without a runtime ends, and nobody starts it again here.
        let socket = machine.path(recipe.socket);
        let up = until("the runtime to listen", PATIENCE, || {
            let (ended, socket) = (runtime.ended(), socket.clone());
            async move {
                if let Some(code) = ended {
                    bail!("the runtime ended with {code}");
                }
                Ok(UnixStream::connect(socket).await.ok().map(drop))
            }
        });
        let up = up.await;
        up.with_context(|| runtime.story())?;

        let user = format!("system:node:{name}");
        let kubeconfig = authority.kubeconfig(&user, &["system:nodes"])?;
        let kubelet = machine.spawn(
            &programs()?.join("kubelet"),
            &[
                format!(
                    "--config={}",
                    kubelet(&machine, &recipe, authority)?.display()
                ),
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--node-ip={}", machine.address()),
                format!("--hostname-override={name}"),
            ],
        )?;
        let proxy = machine.spawn(
            &programs()?.join("kube-proxy"),
            &[format!(
                "--config={}",
                proxy(&machine, authority)?.display()
            )],
        )?;
        Ok(Self {
            machine,
            runtime,
            kubelet,
            proxy,
        })
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The end of what all of it said.
    pub(crate) fn story(&self) -> String {
        let all = [&self.runtime, &self.kubelet, &self.proxy];
        let said: String = all.map(Process::story).concat();
        format!("node {}:\n{said}", self.machine.name())
    }
}

/// Runtimes speak clear text to a registry on loopback alone: so each has its own.
fn serve(machine: &Machine, images: Arc<[Image]>) -> Result<()> {
    let namespace = PathBuf::from(format!("/proc/{}/ns/net", machine.pid()));
    let listener = inside(&namespace, || {
        let listener = std::net::TcpListener::bind(REGISTRY)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })
    .with_context(|| format!("no registry on {}", machine.name()))?;
    registry::serve(tokio::net::TcpListener::from_std(listener)?, images);
    Ok(())
}

/// A link for each pod and no bridge, so that all that pods say is routed, and passes
/// what kube-proxy made.
fn pod_network(machine: &Machine, directory: &Path) -> String {
    let leases = directory.join("leases");
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{{
    "type": "ptp",
    "ipMasq": false,
    "ipam": {{
      "type": "host-local",
      "dataDir": "{leases}",
      "ranges": [[{{ "subnet": "{pods}" }}]],
      "routes": [{{ "dst": "0.0.0.0/0" }}]
    }}
  }}]
}}
"#,
        leases = leases.display(),
        pods = network::pods_of(machine.address())
    )
}

/// Writes the kubelet's configuration.
fn kubelet(machine: &Machine, recipe: &Recipe, authority: &Authority) -> Result<PathBuf> {
    let name = machine.name();
    let serving = authority.issue(&Subject {
        name: &format!("kubelet-{name}"),
        groups: &[],
        hosts: &[machine.address().to_string()],
    })?;
    // Two kubelets below one cgroup would end each other's pods.
    let cgroup = format!("{}/{name}", enclosure::cgroup_parent());
    for tree in enclosure::cgroup_trees() {
        fs::create_dir_all(tree.join(cgroup.trim_start_matches('/')))?;
    }
    let resolv = machine.directory().join("resolv.conf");
    fs::write(&resolv, format!("nameserver {WORKSTATION}\n"))?;
    let text = format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
authentication:
  anonymous: {{ enabled: false }}
  webhook: {{ enabled: true }}
  x509: {{ clientCAFile: {authority} }}
authorization: {{ mode: Webhook }}
tlsCertFile: {certificate}
tlsPrivateKeyFile: {key}
containerRuntimeEndpoint: unix://{socket}
cgroupDriver: cgroupfs
cgroupRoot: {cgroup}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
# Root may lack what lowering a score needs.
oomScoreAdj: 0
clusterDNS: [{DNS_SERVICE}]
clusterDomain: cluster.local
resolvConf: {resolv}
# A machine for tests may have little disk left.
evictionHard:
  memory.available: 1Mi
  nodefs.available: 0%
  nodefs.inodesFree: 0%
  imagefs.available: 0%
  imagefs.inodesFree: 0%
imageGCHighThresholdPercent: 100
# What is mounted of a ConfigMap follows it this fast.
syncFrequency: 5s
nodeStatusUpdateFrequency: 2s
"#,
        address = machine.address(),
        authority = authority.certificate().display(),
        certificate = serving.certificate.display(),
        key = serving.key.display(),
        socket = recipe.socket,
        resolv = resolv.display(),
    );
    let path = machine.directory().join("kubelet.yaml");
    fs::write(&path, text)?;
    Ok(path)
}

/// Writes kube-proxy's configuration.
fn proxy(machine: &Machine, authority: &Authority) -> Result<PathBuf> {
    let name = machine.name();
    // One file for all nodes: it is the same user.
    let kubeconfig = authority.kubeconfig("system:kube-proxy", &[])?;
    let text = format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: {name}
clusterCIDR: {PODS}
clientConnection: {{ kubeconfig: {kubeconfig} }}
# The kernel's own limits are not this machine's to change.
conntrack: {{ maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s }}
oomScoreAdj: 0
"#,
        kubeconfig = kubeconfig.display()
    );
    let path = machine.directory().join("kube-proxy.yaml");
    fs::write(&path, text)?;
    Ok(path)
}
