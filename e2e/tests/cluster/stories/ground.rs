//! The ground that the others stand on: without it they would prove nothing.

use crate::shared::check::{same, says, until};
use crate::shared::image::PROBE;
use crate::support::cluster::Cluster;
use crate::support::runner::themed;
use anyhow::{Context as _, Result};
use std::time::Duration;
use sternline_e2e::report::Echo;

/// Bound on what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(30);

themed! {
    each_node_runs_its_own_pods_in_a_network_of_its_own,
    pods_reach_pods_of_the_other_node_and_of_their_own,
    a_service_is_found_by_name_and_leads_to_its_pod_from_both_nodes,
    a_user_without_rights_may_do_nothing_and_the_attempt_is_recorded,
    an_api_server_that_is_killed_comes_back,
}

/// Runs the probe in a pod of people's and reads its echo.
async fn echo(cluster: &Cluster, pod: &str, to: &str) -> Result<()> {
    let words = format!("exec --namespace people {pod} -- {PROBE} echo --to {to} --bytes 100000");
    let said = cluster.admin().run(&words).await?;
    let line = said.lines().last().unwrap_or_default();
    let echo: Echo = serde_json::from_str(line).with_context(|| format!("it said {said:?}"))?;
    same("bytes that came back", echo.bytes, 100_000)
}

async fn address(cluster: &Cluster, pod: &str) -> Result<String> {
    let words = format!("get pod {pod} --namespace people -o jsonpath={{.status.podIP}}");
    cluster.admin().run(&words).await
}

async fn each_node_runs_its_own_pods_in_a_network_of_its_own(cluster: &Cluster) -> Result<()> {
    for worker in cluster.workers() {
        let machine = worker.machine();
        let pod = format!("on-{}", machine.name());
        let address = address(cluster, &pod).await?;
        let subnet = format!("10.244.{}.", machine.address().octets()[3]);
        says("the address of a pod", &address, &subnet)?;
        // The link to it is on its node, and on no other.
        for other in cluster.workers() {
            let routes = other.machine().run("ip route")?;
            let link = format!("{address} dev veth");
            let there = other.machine().name() == machine.name();
            same("whether a node has the link", routes.contains(&link), there)?;
        }
    }
    Ok(())
}

async fn pods_reach_pods_of_the_other_node_and_of_their_own(cluster: &Cluster) -> Result<()> {
    for from in ["on-one", "on-two"] {
        for to in ["on-one", "on-two"] {
            let to = address(cluster, to).await?;
            echo(cluster, from, &format!("{to}:8080")).await?;
        }
    }
    Ok(())
}

async fn a_service_is_found_by_name_and_leads_to_its_pod_from_both_nodes(
    cluster: &Cluster,
) -> Result<()> {
    let service = "get service echo --namespace people -o jsonpath={.spec.clusterIP}";
    let service = cluster.admin().run(service).await?;
    for from in ["on-one", "on-two"] {
        echo(cluster, from, &format!("{service}:80")).await?;
        echo(cluster, from, "echo.people.svc:80").await?;
    }
    Ok(())
}

async fn a_user_without_rights_may_do_nothing_and_the_attempt_is_recorded(
    cluster: &Cluster,
) -> Result<()> {
    let nobody = cluster.user("nobody-in-particular", &[])?;
    let path = "/apis/reverse.sternline.dev/v1alpha1/namespaces/people/pods/on-one/portforward";
    let answer = nobody.attempt(&format!("get --raw {path}")).await?;
    same("the exit code", answer.code, 1)?;
    let refused = "Error from server (Forbidden)";
    says("what kubectl says", &answer.stderr, refused)?;
    until("a line of the audit log", SOON, || async {
        let log = cluster.control().lock().await.audit_log();
        let of = |line: &&str| line.contains("nobody-in-particular") && line.contains(path);
        Ok(log.lines().any(|line| of(&line)).then_some(()))
    })
    .await
}

async fn an_api_server_that_is_killed_comes_back(cluster: &Cluster) -> Result<()> {
    cluster.control().lock().await.restart_api_server().await?;
    cluster
        .admin()
        .run_until("get --raw /readyz", 4 * SOON)
        .await?;
    let node = "wait node --all --for=condition=Ready --timeout=60s";
    cluster.admin().run_until(node, 4 * SOON).await?;
    echo(cluster, "on-one", "echo.people.svc:80").await
}
