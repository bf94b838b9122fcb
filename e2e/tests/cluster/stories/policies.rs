//! What a namespace wants, and who may listen where others connect.

use crate::shared::check::{same, says};
use crate::shared::target::{Manner, Target};
use crate::support::cluster::Cluster;
use crate::support::doctor::Findings;
use crate::support::forward::{Forward, probe, probe_in};
use crate::support::install;
use crate::support::kubectl::Kubectl;
use crate::support::runner::themed;
use crate::support::shop::{self, SHOP};
use anyhow::Result;
use sternline_e2e::report::Echo;

themed! {
    a_namespace_that_denies_is_obeyed,
    a_pod_under_default_deny_needs_its_namespaces_leave,
    listening_for_others_needs_the_right_and_nodes_that_let_it,
}

const ANNOTATION: &str = "reverse.sternline.dev/policy";

/// What administrators put into a namespace whose pods are to connect nowhere.
const DEFAULT_DENY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                            metadata: { name: strict, namespace: shop }\n\
                            spec: { podSelector: {}, policyTypes: [Egress] }\n";

/// Sets the namespace's annotation, or takes it away.
async fn say(cluster: &Cluster, policy: Option<&str>) -> Result<()> {
    let what = match policy {
        Some(policy) => format!("{ANNOTATION}={policy} --overwrite"),
        None => format!("{ANNOTATION}-"),
    };
    let words = format!("annotate namespace {SHOP} {what}");
    cluster.admin().run(&words).await.map(drop)
}

/// What a forward is refused with, by exit code 4.
async fn forbidden(user: &Kubectl, spec: &str) -> Result<String> {
    let forward = Forward::start_in(SHOP, user, &format!("pod/plain {spec}"))?;
    forward.refused(4).await
}

/// A forward that carries a connection from the pod.
async fn carries(cluster: &Cluster, user: &Kubectl) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let words = format!("pod/plain 9003:{}", target.port());
    let forward = Forward::start_in(SHOP, user, &words)?;
    forward.pod().await?;
    let words = "echo --to 127.0.0.1:9003 --bytes 1000 --timeout 60";
    let echo: Echo = probe_in(SHOP, cluster, "plain", words).await?;
    same("bytes that came back", echo.bytes, 1000)?;
    forward.stop().await
}

async fn a_namespace_that_denies_is_obeyed(cluster: &Cluster) -> Result<()> {
    shop::open(cluster).await?;
    let keeper = cluster.user("keeper", &[])?;
    for (policy, sentence) in [
        (
            "deny",
            "namespace \"shop\" wants no forwards: its annotation reverse.sternline.dev/policy says deny",
        ),
        (
            "Allow",
            "namespace \"shop\" has the annotation reverse.sternline.dev/policy=\"Allow\", which is neither allow nor deny",
        ),
    ] {
        say(cluster, Some(policy)).await?;
        // Whoever asks: the right to forward is another matter.
        for user in [&keeper, cluster.admin()] {
            let said = forbidden(user, "9003").await?;
            says(
                "it",
                &said,
                &format!("Error from server (Forbidden): {sentence}"),
            )?;
        }
        let found = Findings::of(cluster.admin(), SHOP, "pod/plain").await?;
        found.has("FAIL", "namespace", "denies forwards")?;
        found.failed(1)?;
    }
    say(cluster, None).await?;
    carries(cluster, &keeper).await
}

async fn a_pod_under_default_deny_needs_its_namespaces_leave(cluster: &Cluster) -> Result<()> {
    shop::open(cluster).await?;
    let keeper = cluster.user("keeper", &[])?;
    cluster.admin().apply(DEFAULT_DENY).await?;
    let said = forbidden(&keeper, "9003").await?;
    let sentence = "Error from server (Forbidden): pod \"shop/plain\" may not connect anywhere but where NetworkPolicy \"strict\" lets it";
    says("it", &said, sentence)?;
    says(
        "it",
        &said,
        "sets its annotation reverse.sternline.dev/policy=allow",
    )?;
    say(cluster, Some("allow")).await?;
    carries(cluster, &keeper).await?;
    say(cluster, None).await?;
    forbidden(&keeper, "9003").await?;
    let words = format!("delete networkpolicy strict --namespace {SHOP}");
    cluster.admin().run(&words).await?;
    carries(cluster, &keeper).await
}

async fn listening_for_others_needs_the_right_and_nodes_that_let_it(
    cluster: &Cluster,
) -> Result<()> {
    shop::open(cluster).await?;
    let keeper = cluster.user("keeper", &[])?;
    let owner = cluster.user("owner", &[])?;
    let without = "Error from server (Forbidden): pods.reverse.sternline.dev \"plain\" is forbidden: \
                   user \"keeper\" cannot create resource \"pods/wideportforward\"";
    says("it", &forbidden(&keeper, "0.0.0.0:9003").await?, without)?;
    // The nodes have a say of their own.
    let said = forbidden(&owner, "0.0.0.0:9003").await?;
    says("it", &said, "--allow-wide-bind")?;
    carries(cluster, &owner).await?;

    install::change(cluster, &["wide"]).await?;
    let told = others_connect(cluster, &owner).await;
    says("it", &forbidden(&keeper, "0.0.0.0:9003").await?, without)?;
    install::change(cluster, &[]).await?;
    install::install(cluster).await?;
    told?;
    forbidden(&owner, "0.0.0.0:9003").await.map(drop)
}

/// A forward to which a pod of the other node connects.
async fn others_connect(cluster: &Cluster, owner: &Kubectl) -> Result<()> {
    let target = Target::start(Manner::Echo).await?;
    let words = format!("pod/plain 0.0.0.0:9003:{}", target.port());
    let forward = Forward::start_in(SHOP, owner, &words)?;
    forward.pod().await?;
    let address = format!("get pod plain --namespace {SHOP} -o jsonpath={{.status.podIP}}");
    let address = cluster.admin().run(&address).await?;
    let words = format!("echo --to {address}:9003 --bytes 1000 --timeout 60");
    let echo: Echo = probe(cluster, "on-one", &words).await?;
    same("bytes that came back", echo.bytes, 1000)?;
    forward.stop().await
}
