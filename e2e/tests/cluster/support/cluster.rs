//! The cluster: everything that stands before the first story, and how long it took.

use super::control::Control;
use super::kubectl::Kubectl;
use super::machine::Machine;
use super::network::{self, CONTROL, NODES};
use super::pki::Authority;
use super::worker::Worker;
use crate::shared::enclosure::STATE;
use crate::shared::image::{Image, PROBE};
use crate::shared::programs;
use crate::shared::runtime::{Runtime, built, version};
use anyhow::{Context as _, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Bound on each step of the way up.
const STEP: Duration = Duration::from_secs(120);

/// A cluster that stands.
pub(crate) struct Cluster {
    control: Mutex<Control>,
    workers: Vec<Worker>,
    authority: Authority,
    admin: Kubectl,
    runtime: Runtime,
}

impl Cluster {
    /// Brings it up, step by step, and says how long each took.
    ///
    /// # Errors
    /// Something is missing or does not come up; the error has what it said.
    pub(crate) async fn start(runtime: Runtime) -> Result<Self> {
        let mut clock = Clock::start();
        let release = runtime.release().context("namespaces make no cluster")?;
        let coredns = built("coredns")?.context("hack/runtimes lists no coredns")?;
        let ours = programs::image()?;
        let (gateway, shim) = (ours.join("sternline-gateway"), ours.join("sternline-shim"));
        let probe = programs::probe()?;
        let images: Arc<[Image]> = [
            Image::probe(&probe)?,
            Image::pack(
                "sternline",
                &["/sternline-shim"],
                &[
                    ("/sternline-gateway", &gateway),
                    ("/sternline-shim", &shim),
                    // As an intruder's program, to have the rights of a container.
                    (PROBE, &probe),
                ],
            )?,
            Image::pack(
                "coredns",
                &["/coredns"],
                &[("/coredns", &coredns.join("coredns"))],
            )?,
        ]
        .into();
        let authority = Authority::new("cluster", Path::new(STATE).join("pki"))?;
        let admin = Kubectl::new(authority.kubeconfig("admin", &["system:masters"])?)?;
        network::lay()?;
        let control = Machine::start("control", CONTROL).await?;
        let mut machines = Vec::new();
        for (name, address) in NODES {
            machines.push(Machine::start(name, address).await?);
        }
        clock.tell("three machines stand")?;

        let control = Control::start(control, &authority)?;
        let mut this = Self {
            control: Mutex::new(control),
            workers: Vec::new(),
            authority,
            admin,
            runtime,
        };
        let up = this.go_up(&mut clock, machines, release, &images).await;
        match up {
            Ok(()) => Ok(this),
            Err(error) => Err(error.context(this.story().await)),
        }
    }

    async fn go_up(
        &mut self,
        clock: &mut Clock,
        machines: Vec<Machine>,
        release: crate::shared::runtime::Release,
        images: &Arc<[Image]>,
    ) -> Result<()> {
        self.admin.run_until("get --raw /readyz", STEP).await?;
        clock.tell("the API server is ready")?;
        self.control.get_mut().go_on(&self.authority)?;
        for machine in machines {
            let worker = Worker::start(machine, release, &self.authority, images.clone());
            self.workers.push(worker.await?);
        }
        self.admin
            .apply(include_str!("../manifests/dns.yaml"))
            .await?;
        for worker in &self.workers {
            let name = worker.machine().name();
            let ready = format!("wait node/{name} --for=condition=Ready --timeout=5s");
            self.admin.run_until(&ready, STEP).await?;
        }
        clock.tell("both nodes are ready")?;
        // The controllers make a namespace's account a moment after it.
        let account = "get serviceaccount default --namespace default";
        self.admin.run_until(account, STEP).await?;
        self.rolled_out("deployment/coredns", "kube-system").await?;
        clock.tell("DNS answers")?;
        self.admin
            .apply(include_str!("../manifests/people.yaml"))
            .await?;
        let pods = "wait pod --all --namespace people --for=condition=Ready --timeout=120s";
        self.admin.run(pods).await?;
        self.rolled_out("deployment/php", "people").await?;
        clock.tell("pods of people run")
    }

    /// kubectl of who may do everything.
    pub(crate) fn admin(&self) -> &Kubectl {
        &self.admin
    }

    /// kubectl of a user with a certificate.
    ///
    /// # Errors
    /// No certificate can be made.
    pub(crate) fn user(&self, name: &str, groups: &[&str]) -> Result<Kubectl> {
        Kubectl::new(self.authority.kubeconfig(name, groups)?)
    }

    /// kubectl of a user who is known by what `user` says in the kubeconfig.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn user_of(&self, name: &str, user: &str) -> Result<Kubectl> {
        Kubectl::new(self.authority.kubeconfig_of(name, user)?)
    }

    /// The CA of the cluster's people and machines.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn control(&self) -> &Mutex<Control> {
        &self.control
    }

    /// What the nodes run.
    pub(crate) fn runtime(&self) -> Runtime {
        self.runtime
    }

    pub(crate) fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Waits until a Deployment or DaemonSet runs as it is written.
    ///
    /// # Errors
    /// It does not within two minutes.
    pub(crate) async fn rolled_out(&self, what: &str, namespace: &str) -> Result<()> {
        let words = format!("rollout status {what} --namespace {namespace} --timeout=120s");
        self.admin.run(&words).await.map(drop)
    }

    /// What the API server's own words for it, and those of its parts, are.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn versions(&self) -> Result<String> {
        let nodes = "get nodes -o jsonpath={range.items[*]}{.metadata.name}:{.status.nodeInfo.kubeletVersion},\
                     {.status.nodeInfo.containerRuntimeVersion},{.status.nodeInfo.kernelVersion};{end}";
        let nodes = self.admin.run(nodes).await?;
        let server = self.admin.run("get --raw /version").await?;
        let server: serde_json::Value = serde_json::from_str(&server)?;
        let server = server["gitVersion"].as_str().unwrap_or("?");
        let dns = version("coredns").unwrap_or("?");
        Ok(format!(
            "API server {server}, CoreDNS {dns}, nodes {}",
            nodes.trim_end_matches(';')
        ))
    }

    /// What is there and what all of it said, for the report of a failure.
    pub(crate) async fn story(&self) -> String {
        let mut text = String::new();
        for words in [
            "get pods --all-namespaces -o wide",
            "get events --all-namespaces --field-selector type!=Normal",
            "logs --namespace sternline --selector app.kubernetes.io/name=sternline-gateway --tail=15 --prefix",
            "logs --namespace sternline --selector app.kubernetes.io/name=sternline-shim --all-containers --tail=15 --prefix",
        ] {
            if let Ok(answer) = self.admin.attempt(words).await {
                let _ = writeln!(text, "{}{}", answer.stdout, answer.stderr);
            }
        }
        text += &self.control.lock().await.story();
        let workers: String = self.workers.iter().map(Worker::story).collect();
        text + &workers
    }
}

/// Says how long the steps of something took.
pub(crate) struct Clock {
    begun: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let begun = Instant::now();
        Self { begun }
    }

    /// Says that `what` is so now.
    ///
    /// # Errors
    /// Nobody listens.
    pub(crate) fn tell(&mut self, what: &str) -> Result<()> {
        let seconds = self.begun.elapsed().as_secs_f64();
        writeln!(std::io::stdout(), "cluster: {what} after {seconds:.1} s")?;
        Ok(())
    }
}
