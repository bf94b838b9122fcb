//! Pods that are made long after everything else, forwards from them, and what
//! becomes of those when something else changes.

use super::cluster::Cluster;
use super::forward::{Forward, SOON, probe_in};
use super::inside::{Inmate, running};
use super::install::NAMESPACE;
use super::kubectl::Kubectl;
use crate::shared::check::{same, until};
use crate::shared::enclosure::STATE;
use crate::shared::image::PROBE;
use crate::shared::process::Process;
use crate::shared::target::{Manner, Target};
use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use sternline_e2e::report::Echo;

/// Where those pods are.
pub(crate) const LATE: &str = "late";

/// One of them, on node `one`.
pub(crate) const ONE: &str = "late-one";

/// The other, on node `two`.
pub(crate) const TWO: &str = "late-two";

/// Who may forward from them.
///
/// # Errors
/// No certificate can be made.
pub(crate) fn developer(cluster: &Cluster) -> Result<Kubectl> {
    cluster.user("late-developer", &[])
}

/// A forward of port 9003 from a pod, and the server that it leads to.
pub(crate) struct Line {
    pod: &'static str,
    pub(crate) target: Target,
    pub(crate) forward: Forward,
}

impl Line {
    /// Starts it, and waits until it listens.
    ///
    /// # Errors
    /// It does not.
    pub(crate) async fn up(cluster: &Cluster, pod: &'static str, flags: &str) -> Result<Self> {
        let target = Target::start(Manner::Echo).await?;
        let words = format!("{pod} 9003:{} {flags}", target.port());
        let forward = Forward::start_in(LATE, &developer(cluster)?, &words)?;
        Ok(Self {
            pod,
            target,
            forward: forward.listens().await?,
        })
    }

    /// The same, again and again until one does.
    ///
    /// # Errors
    /// None does.
    pub(crate) async fn up_at_last(
        cluster: &Cluster,
        pod: &'static str,
        flags: &str,
    ) -> Result<Self> {
        until("a forward to come up", 4 * SOON, || async {
            Ok(Self::up(cluster, pod, flags).await.ok())
        })
        .await
    }

    /// Sends bytes from the pod and expects them back.
    ///
    /// # Errors
    /// They do not come.
    pub(crate) async fn echoes(&self, cluster: &Cluster) -> Result<()> {
        let words = "echo --to 127.0.0.1:9003 --bytes 100000 --timeout 60";
        let echo: Echo = probe_in(LATE, cluster, self.pod, words).await?;
        same("bytes that came back", echo.bytes, 100_000)
    }

    /// Waits until it has this on standard error.
    ///
    /// # Errors
    /// It does not say it, or ends.
    pub(crate) async fn complains_of(&mut self, what: &str) -> Result<()> {
        let process = self.forward.process();
        let said = until(what, 4 * SOON, || {
            let (ended, said) = (process.ended(), process.stderr().contains(what));
            async move {
                ensure!(said || ended.is_none(), "it ended with {ended:?}");
                Ok(said.then_some(()))
            }
        });
        let said = said.await;
        said.with_context(|| self.forward.process().story())
    }

    /// Holds a connection from the pod until either end ends it.
    ///
    /// # Errors
    /// It does not stand.
    pub(crate) async fn hold(&self, cluster: &Cluster) -> Result<Process> {
        let held = inside(cluster, self.pod, "hold --to 127.0.0.1:9003 --timeout 60")?;
        let holds = |line: &str| line.contains("holding").then_some(());
        held.line("a connection to stand", SOON, holds).await?;
        Ok(held)
    }
}

/// Starts the probe in a pod and leaves it running.
///
/// # Errors
/// It cannot be started.
pub(crate) fn inside(cluster: &Cluster, pod: &str, words: &str) -> Result<Process> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("inside-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut command = cluster.admin().command()?;
    let words = format!("exec --namespace {LATE} {pod} -- {PROBE} {words}");
    command.args(words.split_whitespace());
    Process::start(&name, command, Path::new(STATE))
}

/// The process of a container in whose environment a variable has this value.
///
/// # Errors
/// There is none.
pub(crate) fn process_of(command: &str, variable: &str, value: &str) -> Result<Inmate> {
    for inmate in running(command)? {
        if inmate.variable(variable)?.as_deref() == Some(value) {
            return Ok(inmate);
        }
    }
    bail!("no {command} has {variable}={value}")
}

/// A metric of each pod of ours with this name, its labels added up. What is not
/// ready is left out.
///
/// # Errors
/// The API server does not answer.
pub(crate) async fn metric(
    cluster: &Cluster,
    name: &str,
    metric: &str,
) -> Result<Vec<(String, f64)>> {
    let admin = cluster.admin();
    let words = format!(
        "get pods --namespace {NAMESPACE} --selector app.kubernetes.io/name={name} \
         -o jsonpath={{.items[*].metadata.name}}"
    );
    let mut found = Vec::new();
    for pod in admin.run(&words).await?.split_whitespace() {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:10252/proxy/metrics");
        let answer = admin.attempt(&format!("get --raw {path}")).await?;
        if answer.code == 0 {
            let lines = answer.stdout.lines();
            let lines = lines.filter_map(|line| line.strip_prefix(metric));
            let mine = lines.filter(|rest| rest.starts_with([' ', '{']));
            let values = mine.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
            found.push((pod.to_owned(), values.sum()));
        }
    }
    Ok(found)
}

/// The same of all of them together.
///
/// # Errors
/// As [`metric`].
pub(crate) async fn total(cluster: &Cluster, name: &str, of: &str) -> Result<f64> {
    let each = metric(cluster, name, of).await?;
    Ok(each.iter().map(|(_, value)| value).sum())
}
