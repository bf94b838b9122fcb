//! What is written down of a forward: by the API server and by the gateway.

use crate::shared::check::{same, says, until};
use crate::support::cluster::Cluster;
use crate::support::forward::{Forward, SOON};
use crate::support::install::NAMESPACE;
use crate::support::runner::themed;
use crate::support::shop::{self, SHOP};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

themed! {
    the_audits_of_api_server_and_gateway_agree,
}

/// Lines of JSON, other lines left out.
fn records(text: &str) -> impl Iterator<Item = Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
}

/// What the API server wrote when a forward of a user was over.
async fn of_api_server(cluster: &Cluster, user: &str) -> Result<Value> {
    until("a record of the API server", SOON, || async {
        let log = cluster.control().lock().await.audit_log();
        let mut all = records(&log).filter(|record| {
            record["user"]["username"] == user
                && record["objectRef"]["subresource"] == "portforward"
                && record["stage"] == "ResponseComplete"
        });
        let found = all.next();
        anyhow::ensure!(all.next().is_none(), "two forwards of {user}");
        Ok(found)
    })
    .await
}

/// What the gateways wrote of it, by the word for what happened.
async fn of_gateways(cluster: &Cluster, user: &str, event: &str) -> Result<Value> {
    let words = format!(
        "logs --namespace {NAMESPACE} --selector app.kubernetes.io/name=sternline-gateway --tail=-1"
    );
    until("a record of the gateways", SOON, || async {
        let log = cluster.admin().run(&words).await?;
        let mut all = records(&log)
            .filter(|record| record["requester"]["user"] == user && record["event"] == event);
        let found = all.next();
        anyhow::ensure!(all.next().is_none(), "two forwards of {user}");
        Ok(found)
    })
    .await
}

/// The values of a field of a query.
fn asked(uri: &str, field: &str) -> Vec<String> {
    let (_, query) = uri.split_once('?').unwrap_or_default();
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    let values = values.filter(|(key, _)| *key == field);
    values.map(|(_, value)| value.replace("%3A", ":")).collect()
}

/// Compares the two, field by field.
fn agree(theirs: &Value, ours: &Value) -> Result<()> {
    let empty = || json!("");
    let uid = theirs["user"].get("uid").cloned().unwrap_or_else(empty);
    same(
        "the user",
        &ours["requester"]["user"],
        &theirs["user"]["username"],
    )?;
    same("the user's uid", &ours["requester"]["uid"], &uid)?;
    same(
        "the user's groups",
        &ours["requester"]["groups"],
        &theirs["user"]["groups"],
    )?;
    let object = &theirs["objectRef"];
    same(
        "the namespace",
        &ours["pod"]["namespace"],
        &object["namespace"],
    )?;
    same("the pod", &ours["pod"]["name"], &object["name"])?;
    let uri = theirs["requestURI"].as_str().context("a URI")?;
    let listeners = ours["listeners"].as_array().context("listeners")?;
    let listeners = listeners.iter().map(|listener| {
        let address = match listener["address"].as_str() {
            Some("") => "localhost",
            address => address?,
        };
        Some(format!("{address}:{}", listener["port"].as_u64()?))
    });
    let listeners: Option<Vec<_>> = listeners.collect();
    same(
        "the ports",
        listeners.context("ports")?,
        asked(uri, "listen"),
    )?;
    // Both clocks are this machine's, and both write microseconds.
    let time = ours["time"].as_str().context("a time")?;
    let from = theirs["requestReceivedTimestamp"]
        .as_str()
        .context("a time")?;
    let until = theirs["stageTimestamp"].as_str().context("a time")?;
    anyhow::ensure!(from <= time && time <= until, "{from} {time} {until}");
    Ok(())
}

async fn the_audits_of_api_server_and_gateway_agree(cluster: &Cluster) -> Result<()> {
    shop::open(cluster).await?;
    let admin = cluster.admin();
    for (user, role) in [("granted", "sternline-user"), ("denied", "looking")] {
        let words = format!(
            "create role looking --namespace {SHOP} --verb get --resource pods.reverse.sternline.dev/portforward"
        );
        if user == "denied" {
            admin.run(&words).await?;
        }
        let kind = if role == "looking" {
            "role"
        } else {
            "clusterrole"
        };
        let words =
            format!("create rolebinding {user} --namespace {SHOP} --{kind} {role} --user {user}");
        admin.run(&words).await?;
    }

    let user = cluster.user("granted", &["testers"])?;
    let forward = Forward::start_in(SHOP, &user, "pod/plain 9003 127.0.0.1:0:9004")?;
    forward.pod().await?;
    forward.stop().await?;
    let theirs = of_api_server(cluster, "granted").await?;
    same("the answer", &theirs["responseStatus"]["code"], &json!(101))?;
    let begun = of_gateways(cluster, "granted", "tunnel_start").await?;
    let over = of_gateways(cluster, "granted", "tunnel_end").await?;
    agree(&theirs, &begun)?;
    // Both close after a goodbye.
    let end = over["end"].as_str().unwrap_or_default();
    anyhow::ensure!(["client_closed", "node_closed"].contains(&end), "{over}");
    for field in [
        "requester",
        "pod",
        "listeners",
        "node",
        "grant_id",
        "session_id",
    ] {
        same(field, &over[field], &begun[field])?;
    }
    let groups = json!(["testers", "system:authenticated"]);
    same("groups", &begun["requester"]["groups"], &groups)?;
    let listeners = json!([{"address": "", "port": 9003}, {"address": "127.0.0.1", "port": 0}]);
    same("listeners", &begun["listeners"], &listeners)?;
    let words = format!("get pod plain --namespace {SHOP} -o json");
    let pod: Value = serde_json::from_str(&admin.run(&words).await?)?;
    same(
        "the pod's uid",
        &begun["pod"]["uid"],
        &pod["metadata"]["uid"],
    )?;
    same("the node", &begun["node"], &pod["spec"]["nodeName"])?;

    let user = cluster.user("denied", &["developers"])?;
    let forward = Forward::start_in(SHOP, &user, "plain 9003 0.0.0.0:9004")?;
    let said = forward.refused(4).await?;
    let theirs = of_api_server(cluster, "denied").await?;
    // So it says of whatever it passes on as an Upgrade: the refusal is in ours alone.
    same("the answer", &theirs["responseStatus"]["code"], &json!(101))?;
    let ours = of_gateways(cluster, "denied", "refused").await?;
    agree(&theirs, &ours)?;
    same("the end", &ours["end"], &json!("forbidden"))?;
    let message = ours["message"].as_str().context("a sentence")?;
    says("the user was told, which", &said, message)?;
    shop::close(cluster).await
}
