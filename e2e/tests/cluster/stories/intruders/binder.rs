//! At the binder, in place of its serve.

use crate::shared::check::{same, says};
use crate::support::cluster::Cluster;
use crate::support::inside::{Inmate, running_on};
use crate::support::pods::{self, Pod};
use crate::support::runner::themed;
use crate::support::stolen::{self, Keys, grant, sign};
use anyhow::{Context as _, Result};
use prost::Message as _;
use std::io::Write as _;
use std::time::Duration;
use sternline_api::listen::{Bind, Listen};
use sternline_api::v1alpha1::{Grant, SignedGrant};
use sternline_api::{Failure, Reason};
use sternline_shim::binder::{BindRequest, Binder as _, PodRef, ProcessBinder, SandboxTarget};

themed! {
    the_binder_binds_for_grants_alone_and_never_in_the_nodes_network,
}

/// The binder of a node, as serve has it.
struct Binder(ProcessBinder);

impl Binder {
    fn of(inmate: &Inmate) -> Self {
        let socket = inmate.path("/run/sternline-binder/for-serve/binder.sock");
        Self(ProcessBinder::new(&socket))
    }

    /// Asks it to listen on a port in a pod.
    async fn bind(&self, pod: &Pod, port: u16, grant: &[u8]) -> Result<(), Failure> {
        let target = SandboxTarget::Pod(PodRef {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        });
        let request = BindRequest {
            target,
            listeners: vec![Listen {
                id: 0,
                bind: Bind::Loopback,
                port,
            }],
            backlog: 1,
            grant: grant.to_vec(),
        };
        self.0.bind(request).await.map(drop)
    }

    /// What it says to who asks for a port in a pod and shows `what`.
    async fn refusal(&self, what: &str, asked: (&Pod, u16), grant: &[u8]) -> Result<Failure> {
        let (pod, port) = asked;
        let refused = self.bind(pod, port, grant).await.err();
        let refused = refused.with_context(|| format!("it took {what}"))?;
        let said = std::io::stdout();
        writeln!(&said, "cluster: the binder, shown {what}: {refused}")?;
        Ok(refused)
    }
}

/// A pod in the network of its node.
const IN_THE_NODES_NETWORK: &str = r#"apiVersion: v1
kind: Namespace
metadata: { name: intruders }
---
apiVersion: v1
kind: Pod
metadata: { name: of-the-node, namespace: intruders }
spec:
  nodeName: two
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers: [{ name: probe, image: "127.0.0.1:5000/probe:1" }]
"#;

async fn the_binder_binds_for_grants_alone_and_never_in_the_nodes_network(
    cluster: &Cluster,
) -> Result<()> {
    let admin = cluster.admin();
    admin.apply(IN_THE_NODES_NETWORK).await?;
    let ready = "wait pod/of-the-node --namespace intruders --for=condition=Ready --timeout=120s";
    admin.run(ready).await?;
    let told = binder_is_asked(cluster).await;
    admin
        .run("delete namespace intruders --wait --timeout=120s")
        .await?;
    told
}

async fn binder_is_asked(cluster: &Cluster) -> Result<()> {
    let people = pods::found(cluster, "--namespace people --selector at=two").await?;
    let own = &people[0];
    let host = pods::found(cluster, "--namespace intruders")
        .await?
        .remove(0);
    let gateways = pods::of(cluster, "sternline-gateway").await?;
    let other = pods::on("two", &gateways)?;
    let keys = Keys::take(cluster).await?.gateway()?;
    let node = stolen::node(cluster, "two").await?;
    let good = grant(own, 9013);
    let signed = |grant: &Grant| sign(grant, &keys).map(|signed| signed.encode_to_vec());
    let widened = SignedGrant {
        grant: grant(own, 80).encode_to_vec(),
        ..sign(&good, &keys)?
    };
    let binder = Binder::of(&running_on("two", "/sternline-shim binder")?);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    // Until it can be asked.
    while let Err(failure) = binder.bind(own, 9013, &signed(&good)?).await {
        let early = failure.reason == Reason::RuntimeUnavailable;
        anyhow::ensure!(early && tokio::time::Instant::now() < deadline, "{failure}");
    }

    let expired = Grant {
        expires_at_ms: good.issued_at_ms - 1,
        ..good.clone()
    };
    let elsewhere = Grant {
        node: "one".to_owned(),
        ..good.clone()
    };
    let of_a_node = sign(&good, &node)?.encode_to_vec();
    let (signed_good, widened) = (signed(&good)?, widened.encode_to_vec());
    let (expired, elsewhere) = (signed(&expired)?, signed(&elsewhere)?);
    for (what, grant, sentence) in [
        ("nothing", Vec::new(), "missing"),
        ("a grant that is over", expired, "expired"),
        ("another node's grant", elsewhere, "node \"one\""),
        ("a grant that a node signed", of_a_node, "no gateway"),
    ] {
        let refused = binder.refusal(what, (own, 9013), &grant).await?;
        same(what, refused.reason, Reason::Forbidden)?;
        says(what, &refused.message, sentence)?;
    }
    for (what, asked, grant, sentence) in [
        ("a grant for less", (own, 9014), &signed_good, "not permit"),
        ("a grant made wider", (own, 80), &widened, "no gateway"),
        (
            "another pod's grant",
            (other, 9013),
            &signed_good,
            "not for the pod",
        ),
        (
            "a pod's grant in the node's network",
            (&host, 9013),
            &signed_good,
            "not for the pod",
        ),
    ] {
        let refused = binder.refusal(what, asked, grant).await?;
        same(what, refused.reason, Reason::Forbidden)?;
        says(what, &refused.message, sentence)?;
    }
    // Whatever gateways say.
    let what = "a grant for the node's network";
    let granted = signed(&grant(&host, 9013))?;
    let refused = binder.refusal(what, (&host, 9013), &granted).await?;
    same(what, refused.reason, Reason::HostNetwork)
}
