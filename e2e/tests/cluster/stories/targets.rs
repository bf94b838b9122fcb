//! Everything that leads to a pod: each kind of object, and ports by their names.

use crate::shared::check::{same, says};
use crate::shared::target::{Manner, Target};
use crate::support::cluster::Cluster;
use crate::support::forward::{Forward, probe_in};
use crate::support::runner::themed;
use crate::support::shop::{self, SHOP};
use anyhow::Result;
use sternline_e2e::report::Echo;

themed! {
    every_kind_leads_to_a_pod_of_its_own,
    what_leads_nowhere_is_refused_in_kubectls_words,
}

/// What is named, what makes its pod, their label `app`, the port by its name and by
/// its number.
const KINDS: [(&str, &str, &str, &str, u16); 7] = [
    ("pod/plain", "", "plain", "debug", 9003),
    ("deploy/front", "ReplicaSet", "front", "debug", 9003),
    ("sts/db", "StatefulSet", "db", "debug", 9003),
    ("ds/agent", "DaemonSet", "agent", "debug", 9003),
    ("rs/old", "ReplicaSet", "old", "debug", 9003),
    ("job/load", "Job", "load", "9003", 9003),
    ("svc/front", "ReplicaSet", "front", "web", 9004),
];

async fn every_kind_leads_to_a_pod_of_its_own(cluster: &Cluster) -> Result<()> {
    shop::open(cluster).await?;
    let keeper = cluster.user("keeper", &[])?;
    let mut forwards = Vec::new();
    for (object, _, _, port, _) in KINDS {
        let target = Target::start(Manner::Echo).await?;
        let words = format!("{object} {port}:{}", target.port());
        forwards.push((target, Forward::start_in(SHOP, &keeper, &words)?));
    }
    for ((object, owner, app, _, port), (target, forward)) in KINDS.iter().zip(forwards) {
        let pod = forward.pod().await?;
        let part = "{.metadata.labels.app}/{.metadata.ownerReferences[0].kind}";
        let words = format!("get pod {pod} --namespace {SHOP} -o jsonpath={part}");
        let made = cluster.admin().run(&words).await?;
        same(object, made, format!("{app}/{owner}"))?;
        let words = format!("echo --to 127.0.0.1:{port} --bytes 1000 --timeout 60");
        let echo: Echo = probe_in(SHOP, cluster, &pod, &words).await?;
        same(object, echo.bytes, 1000)?;
        same("connections at its server", target.accepted(), 1)?;
        forward.stop().await?;
    }
    Ok(())
}

async fn what_leads_nowhere_is_refused_in_kubectls_words(cluster: &Cluster) -> Result<()> {
    shop::open(cluster).await?;
    let keeper = cluster.user("keeper", &[])?;
    for object in ["pod/none", "deploy/none", "job/none", "svc/none"] {
        let get = format!("get {object} --namespace {SHOP}");
        let kubectl = keeper.attempt(&get).await?.stderr;
        says("kubectl", &kubectl, "Error from server (NotFound)")?;
        let said = Forward::start_in(SHOP, &keeper, &format!("{object} 9003"))?;
        same(
            object,
            said.refused(3).await?,
            kubectl.trim_end().to_owned(),
        )?;
    }
    let said = Forward::start_in(SHOP, &keeper, "svc/front http:9003")?;
    let said = said.refused(2).await?;
    says("it", &said, "no port named \"http\"")?;
    says("it", &said, "web (9004), debug (9003)")
}
