//! Straight to the doors of gateways and nodes, without or with a certificate.

use crate::shared::check::{same, until};
use crate::shared::enclosure::STATE;
use crate::support::cluster::Cluster;
use crate::support::control::FRONT_PROXY;
use crate::support::forward::{PEOPLE, SOON};
use crate::support::pki::{Authority, Subject};
use crate::support::pods::{self, counted};
use crate::support::runner::themed;
use crate::support::stolen::{self, GATEWAY, Keys, PORTS, bundle, node_name};
use crate::support::tls::{Identity, Visitor};
use anyhow::{Context as _, Result};
use std::path::Path;

themed! {
    whoever_only_says_who_it_is_is_nobody_to_a_gateway,
    a_node_hears_nobody_but_gateways,
}

/// The head of a forward's request from somebody's pod, but for who it is that asks.
fn upgrade() -> String {
    format!(
        "GET /apis/reverse.sternline.dev/v1alpha1/namespaces/{PEOPLE}/pods/on-one/portforward\
         ?listen=9013&hold=0s HTTP/1.1\r\nHost: {GATEWAY}\r\nConnection: Upgrade\r\n\
         Upgrade: sternline\r\nSternline-Protocol: v1alpha1.reverse.sternline.dev\r\n"
    )
}

/// Certificates with the name of the front proxy or of its authority, which are not
/// the front proxy's.
async fn nearly_front_proxies(cluster: &Cluster) -> Result<Vec<(&'static str, Identity)>> {
    let named = Subject::user(FRONT_PROXY, &["system:masters"]);
    let other = Authority::new("front-proxy", Path::new(STATE).join("intruders"))?;
    let control = cluster.control().lock().await;
    let real = &control.front_proxy().authority;
    let another = real.issue(&Subject::user("not-the-front-proxy", &[]))?;
    Ok(vec![
        ("another CA's", Identity::of(&other.issue(&named)?)?),
        (
            "of the cluster's CA",
            Identity::of(&cluster.authority().issue(&named)?)?,
        ),
        (
            "of the front proxy's CA for another name",
            Identity::of(&another)?,
        ),
    ])
}

async fn whoever_only_says_who_it_is_is_nobody_to_a_gateway(cluster: &Cluster) -> Result<()> {
    let gateways = pods::of(cluster, "sternline-gateway").await?;
    let shims = pods::of(cluster, "sternline-shim").await?;
    let counts = async || -> Result<[f64; 3]> {
        let forwards = "sternline_gateway_forwards_total{result=";
        let calls = "sternline_calls_total{call=\"ReversePortForward\"";
        Ok([
            counted(
                cluster,
                &gateways,
                &format!("{forwards}\"unauthenticated\"}}"),
            )
            .await?,
            counted(cluster, &gateways, &format!("{forwards}\"ok\"}}")).await?,
            counted(cluster, &shims, calls).await?,
        ])
    };
    let [strangers, forwards, calls] = counts().await?;
    let nobody = Visitor::trusting(&bundle(cluster).await?)?;
    let forged = format!(
        "{}X-Remote-User: admin\r\nX-Remote-Group: system:masters\r\n\r\n",
        upgrade()
    );
    let mut visitors = vec![("none", nobody.clone())];
    for (what, identity) in nearly_front_proxies(cluster).await? {
        visitors.push((what, nobody.showing(&identity)));
    }
    let mut refused = strangers;
    for gateway in &gateways {
        let to = (gateway.address, PORTS[0]).into();
        for (what, visitor) in &visitors {
            let answer = visitor.ask(to, GATEWAY, &forged).await?;
            let answer = answer.context("not a word")?;
            let with = format!("the answer to a certificate {what}");
            same(&with, answer.code, 401)?;
            same(
                &with,
                answer.json()?["reason"].clone(),
                "Unauthorized".into(),
            )?;
            refused += 1.0;
        }
    }
    same(
        "what was counted",
        counts().await?,
        [refused, forwards, calls],
    )?;

    // The same words are believed of the front proxy: they were not refused for less.
    let control = cluster.control().lock().await;
    let front_proxy = nobody.showing(&Identity::of(&control.front_proxy().pair)?);
    drop(control);
    let to = (gateways[0].address, PORTS[0]).into();
    let answer = front_proxy.ask(to, GATEWAY, &forged).await?;
    same(
        "the answer to the front proxy",
        answer.context("not a word")?.code,
        101,
    )
}

async fn a_node_hears_nobody_but_gateways(cluster: &Cluster) -> Result<()> {
    let shims = pods::of(cluster, "sternline-shim").await?;
    let one = pods::on("one", &shims)?;
    let to = (one.address, PORTS[1]).into();
    let name = node_name("one");
    let nobody = Visitor::trusting(&bundle(cluster).await?)?;
    let mut visitors = vec![("nothing", nobody.clone())];
    let admin = cluster
        .authority()
        .issue(&Subject::user("admin-of-all", &["system:masters"]))?;
    for (what, identity) in [
        (
            "the certificate of node two",
            stolen::node(cluster, "two").await?,
        ),
        ("its own certificate", stolen::node(cluster, "one").await?),
        ("the certificate of an administrator", Identity::of(&admin)?),
    ] {
        visitors.push((what, nobody.showing(&identity)));
    }
    let metric = "sternline_streaming_handshakes_total{result=\"client_certificate\"}";
    let calls = "sternline_calls_total";
    let count = async |metric: &str| counted(cluster, &shims, metric).await;
    let (before, calls_before) = (count(metric).await?, count(calls).await?);
    let mut refused = before;
    // All of them have the token of a node's service account besides.
    let request = format!(
        "GET /v1alpha1/sessions/none HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\n\
         Upgrade: sternline\r\nSternline-Protocol: v1alpha1.reverse.sternline.dev\r\n\
         Authorization: Bearer {}\r\n\r\n",
        stolen::token("two")?
    );
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (what, visitor) in &visitors {
        for (protocol, words) in [("http/1.1", request.as_str()), ("h2", preface)] {
            let heard = visitor.say(to, &name, protocol, words).await?;
            same(&format!("{protocol} with {what}"), heard, None)?;
            refused += 1.0;
        }
    }
    until("every refusal to be counted", SOON, || async {
        Ok((count(metric).await? == refused).then_some(()))
    })
    .await?;
    same("calls", count(calls).await?, calls_before)?;

    // With the keys of the authority it is a gateway, and is heard.
    let gateway = nobody.showing(&Keys::take(cluster).await?.gateway()?);
    let answer = gateway.ask(to, &name, &request).await?;
    same(
        "the answer to a gateway",
        answer.context("not a word")?.code,
        403,
    )?;
    let heard = gateway.say(to, &name, "h2", preface).await?;
    same("whether it is heard", heard.is_some(), true)
}
