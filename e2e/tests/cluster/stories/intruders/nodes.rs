//! With the identity of one node, against another.

use crate::shared::check::{same, says, until};
use crate::support::cluster::Cluster;
use crate::support::forward::{Forward, PEOPLE, SOON};
use crate::support::impostor::Impostor;
use crate::support::inside::running_on;
use crate::support::install::NAMESPACE;
use crate::support::network::CONTROL;
use crate::support::pki::API_PORT;
use crate::support::pods::{self, counted};
use crate::support::runner::themed;
use crate::support::stolen::{self, PORTS, node_name};
use crate::support::tls::Visitor;
use anyhow::{Context as _, Result};
use std::fs;
use std::io::Write as _;

themed! {
    a_stolen_token_is_good_for_its_own_node_alone,
    a_gateway_says_nothing_to_another_node_than_it_looks_for,
}

async fn a_stolen_token_is_good_for_its_own_node_alone(cluster: &Cluster) -> Result<()> {
    let gateways = pods::of(cluster, "sternline-gateway").await?;
    let to = (gateways[0].address, PORTS[0]).into();
    let count = async |result: &str| {
        let metric = format!("sternline_gateway_node_certificates_total{{result=\"{result}\"}}");
        counted(cluster, &gateways, &metric).await
    };
    let refused_before = count("refused").await?;

    // Whatever is asked for, the answer is for the node of the token's pod.
    let token = stolen::token("one")?;
    let (_, answer) = stolen::enrol(cluster, to, "two", &token).await?;
    same("the answer to node one's token", answer.code, 200)?;
    let answer = answer.json()?;
    let certificate = answer["certificate"].as_str().context("no certificate")?;
    for (node, expected) in [("one", true), ("two", false)] {
        let is_for = stolen::is_for(certificate, &node_name(node))?;
        same(&format!("whether it is for node {node}"), is_for, expected)?;
    }

    let admin = cluster.admin();
    let created = async |account: &str| admin.run(&format!("create token {account}")).await;
    let ours = "--audience sternline-gateway";
    for (what, token, code) in [
        ("no token", String::new(), 401),
        (
            "a token that nobody signed",
            token[..token.len() - 8].to_owned(),
            401,
        ),
        (
            "a token for the API server",
            created(&format!("sternline-shim --namespace {NAMESPACE}")).await?,
            401,
        ),
        (
            "a token of no pod",
            created(&format!("sternline-shim --namespace {NAMESPACE} {ours}")).await?,
            403,
        ),
        (
            "a token of another account",
            created(&format!("default --namespace {PEOPLE} {ours}")).await?,
            403,
        ),
    ] {
        let (_, answer) = stolen::enrol(cluster, to, "two", token.trim()).await?;
        same(&format!("the answer to {what}"), answer.code, code)?;
    }
    same(
        "what was refused",
        count("refused").await?,
        refused_before + 5.0,
    )?;

    // And the API server knows the account of shims for nothing at all.
    let api = fs::read_to_string(cluster.authority().certificate())?;
    let host = CONTROL;
    let request = format!(
        "GET /api/v1/namespaces/{PEOPLE}/pods HTTP/1.1\r\nHost: {host}\r\n\
         Connection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    let api = Visitor::trusting(&api)?;
    let answer = api
        .ask((host, API_PORT).into(), &host.to_string(), &request)
        .await?;
    same(
        "the API server's answer",
        answer.context("not a word")?.code,
        401,
    )
}

async fn a_gateway_says_nothing_to_another_node_than_it_looks_for(cluster: &Cluster) -> Result<()> {
    let shim = running_on("two", "/sternline-shim serve")?;
    // Node one's certificate, and then node two's, to show that it is asked at all.
    for (node, is_heard) in [("one", false), ("two", true)] {
        let impostor = Impostor::start(&shim, &stolen::node(cluster, node).await?)?;
        let mut forward = Forward::start(cluster.admin(), "on-two 9003")?;
        same("the exit code", forward.exit().await?.code, 6)?;
        let said = forward.process().stderr();
        says("it", &said, "the shim of node \"two\"")?;
        let came = until("a connection at the impostor's", SOON, || async {
            Ok(impostor.heard().into_iter().next())
        });
        let what = format!("whether {node} was told anything");
        same(&what, !came.await?.is_empty(), is_heard)?;
        writeln!(
            std::io::stdout(),
            "cluster: as {node} in place of two: {}",
            said.trim()
        )?;
    }
    Ok(())
}
