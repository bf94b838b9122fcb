//! The control plane: etcd, API server, controller manager and scheduler.

use super::machine::Machine;
use super::network::{CONTROL, SERVICES};
use super::pki::{API_PORT, Authority, Pair, Subject, api_hosts, signing_key};
use crate::shared::process::Process;
use crate::shared::runtime::built;
use crate::shared::system::program;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Everything that happens to Sternline, its own machinery's leases and events aside.
const AUDIT: &str = r#"apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources: [{ group: reverse.sternline.dev }]
- level: None
"#;

/// The one name that is allowed in a front proxy's certificate.
pub(crate) const FRONT_PROXY: &str = "front-proxy-client";

/// The processes.
pub(crate) struct Control {
    machine: Machine,
    front_proxy: FrontProxy,
    api_server: Vec<String>,
    programs: PathBuf,
    etcd: Process,
    api: Process,
    others: Vec<Process>,
}

/// As what the API server comes to those behind it.
pub(crate) struct FrontProxy {
    pub(crate) authority: Authority,
    pub(crate) pair: Pair,
}

impl FrontProxy {
    fn new(directory: &Path) -> Result<Self> {
        let authority = Authority::new("front-proxy", directory.join("front-proxy"))?;
        let pair = authority.issue(&Subject::user(FRONT_PROXY, &[]))?;
        Ok(Self { authority, pair })
    }
}

impl Control {
    /// Starts etcd and the API server.
    ///
    /// # Errors
    /// A program is missing or cannot be started.
    pub(crate) fn start(machine: Machine, authority: &Authority) -> Result<Self> {
        let programs = programs()?;
        let directory = machine.directory().to_owned();
        let etcd = machine.spawn(
            &program("etcd")?,
            &[
                format!("--data-dir={}", directory.join("etcd.data").display()),
                "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
                "--advertise-client-urls=http://127.0.0.1:2379".to_owned(),
                "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        )?;
        let front_proxy = FrontProxy::new(&directory)?;
        let api_server = api_server(&directory, authority, &front_proxy)?;
        let api = machine.spawn(&programs.join("kube-apiserver"), &api_server)?;
        Ok(Self {
            machine,
            front_proxy,
            api_server,
            programs,
            etcd,
            api,
            others: Vec::new(),
        })
    }

    /// Starts what needs an API server that answers.
    ///
    /// # Errors
    /// As [`Control::start`].
    pub(crate) fn go_on(&mut self, authority: &Authority) -> Result<()> {
        let controllers = authority.kubeconfig("system:kube-controller-manager", &[])?;
        let scheduler = authority.kubeconfig("system:kube-scheduler", &[])?;
        let key = self.token_key();
        let start = |name: &str, arguments: &[String]| {
            self.machine.spawn(&self.programs.join(name), arguments)
        };
        let controllers = start(
            "kube-controller-manager",
            &[
                flag("kubeconfig", &controllers),
                flag("root-ca-file", &authority.certificate()),
                flag("service-account-private-key-file", &key),
                "--use-service-account-credentials=true".to_owned(),
                "--leader-elect=false".to_owned(),
                // An image that is rolled out is there at once.
                "--node-monitor-period=2s".to_owned(),
            ],
        )?;
        let scheduler = start(
            "kube-scheduler",
            &[
                flag("kubeconfig", &scheduler),
                "--leader-elect=false".to_owned(),
            ],
        )?;
        self.others = vec![controllers, scheduler];
        Ok(())
    }

    /// The key with which it signs tokens of service accounts.
    pub(crate) fn token_key(&self) -> PathBuf {
        self.machine.directory().join("tokens.key")
    }

    /// As what the API server comes to those behind it.
    pub(crate) fn front_proxy(&self) -> &FrontProxy {
        &self.front_proxy
    }

    /// What the API server's audit log has so far.
    pub(crate) fn audit_log(&self) -> String {
        fs::read_to_string(self.machine.directory().join("audit.log")).unwrap_or_default()
    }

    /// Kills the API server and starts another.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) async fn restart_api_server(&mut self) -> Result<()> {
        self.api.kill().await?;
        let program = self.programs.join("kube-apiserver");
        self.api = self.machine.spawn(&program, &self.api_server)?;
        Ok(())
    }

    /// The end of what all of it said.
    pub(crate) fn story(&self) -> String {
        let all = [&self.etcd, &self.api].into_iter().chain(&self.others);
        all.map(Process::story).collect()
    }
}

/// Where the parts of a cluster were built.
///
/// # Errors
/// They are not there; the error says how to get them.
pub(crate) fn programs() -> Result<PathBuf> {
    built("kubernetes")?.context("hack/runtimes lists no kubernetes")
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn api_server(
    directory: &Path,
    authority: &Authority,
    front_proxy: &FrontProxy,
) -> Result<Vec<String>> {
    let serving = authority.issue(&Subject {
        name: "kube-apiserver",
        groups: &[],
        hosts: &api_hosts(),
    })?;
    let to_kubelets = authority.issue(&Subject::user(
        "kube-apiserver-kubelet-client",
        &["system:masters"],
    ))?;
    let (private, public) = signing_key(directory)?;
    let policy = directory.join("audit-policy.yaml");
    fs::write(&policy, AUDIT)?;
    let mut flags: Vec<String> = [
        "--etcd-servers=http://127.0.0.1:2379",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--kubelet-preferred-address-types=InternalIP",
        // No kube-proxy here: straight to the pods behind a service.
        "--enable-aggregator-routing=true",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        // Nothing of ours may need it.
        "--allow-privileged=false",
    ]
    .map(str::to_owned)
    .into();
    flags.extend([
        format!("--advertise-address={CONTROL}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        flag("client-ca-file", &authority.certificate()),
        flag("tls-cert-file", &serving.certificate),
        flag("tls-private-key-file", &serving.key),
        flag("kubelet-certificate-authority", &authority.certificate()),
        flag("kubelet-client-certificate", &to_kubelets.certificate),
        flag("kubelet-client-key", &to_kubelets.key),
        format!("--requestheader-allowed-names={FRONT_PROXY}"),
        flag(
            "requestheader-client-ca-file",
            &front_proxy.authority.certificate(),
        ),
        flag("proxy-client-cert-file", &front_proxy.pair.certificate),
        flag("proxy-client-key-file", &front_proxy.pair.key),
        flag("service-account-key-file", &public),
        flag("service-account-signing-key-file", &private),
        flag("audit-policy-file", &policy),
        flag("audit-log-path", &directory.join("audit.log")),
    ]);
    Ok(flags)
}
