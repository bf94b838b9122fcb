//! From nothing to an installation that serves, from the manifests alone.

use crate::shared::check::{same, says};
use crate::shared::runtime::Runtime;
use crate::support::cluster::Cluster;
use crate::support::inside::{Inmate, running};
use crate::support::install::{self, NAMESPACE};
use crate::support::runner::themed;
use anyhow::{Context as _, Result};
use std::io::Write as _;

themed! {
    everything_comes_up_from_the_manifests,
    every_overlay_is_taken_by_the_api_server,
    the_api_is_discovered_and_disturbs_nothing,
    the_roles_permit_what_they_say,
    the_containers_have_what_they_need_and_no_more,
    the_gateway_fits_into_a_restricted_namespace,
}

/// CAP_NET_BIND_SERVICE and CAP_SYS_ADMIN.
const OF_BINDER: [u8; 2] = [10, 21];

async fn everything_comes_up_from_the_manifests(cluster: &Cluster) -> Result<()> {
    let before = std::time::Instant::now();
    install::install(cluster).await?;
    let seconds = before.elapsed().as_secs_f64();
    writeln!(std::io::stdout(), "cluster: installed in {seconds:.1} s")?;
    let words = format!("get pods --namespace {NAMESPACE} -o jsonpath={{.items[*].spec.nodeName}}");
    let nodes = cluster.admin().run(&words).await?;
    let mut nodes: Vec<_> = nodes.split_whitespace().collect();
    nodes.sort_unstable();
    same(
        "nodes of gateways and shims",
        nodes,
        vec!["one", "one", "two", "two"],
    )
}

async fn every_overlay_is_taken_by_the_api_server(cluster: &Cluster) -> Result<()> {
    let overlays = install::overlays()?;
    same("how many overlays there are", overlays.len(), 6)?;
    for overlay in overlays {
        let all = install::manifests_of(cluster, &overlay).await?;
        // What this cluster does not have: kinds of OpenShift, services with IPv6.
        let foreign = match overlay.as_str() {
            "openshift" => "\nkind: SecurityContextConstraints\n",
            "ipv6" => "\nkind: Service\n",
            _ => "\nkind: Nothing\n",
        };
        let manifests = all.split("\n---\n");
        let (foreign, ours): (Vec<_>, Vec<_>) =
            manifests.partition(|text| format!("\n{text}\n").contains(foreign));
        let expected = usize::from(["openshift", "ipv6"].contains(&overlay.as_str()));
        same(
            "manifests that cannot be tried here",
            foreign.len(),
            expected,
        )?;
        let tried = cluster.admin().try_out(&ours.join("\n---\n")).await;
        tried.with_context(|| format!("overlay {overlay}"))?;
    }
    Ok(())
}

async fn the_api_is_discovered_and_disturbs_nothing(cluster: &Cluster) -> Result<()> {
    let admin = cluster.admin();
    let resources = admin
        .run("get --raw /apis/reverse.sternline.dev/v1alpha1")
        .await?;
    says("discovery", &resources, "pods/portforward")?;
    // The plain word still means what it meant.
    let pods = admin.run("get pods --namespace people").await?;
    says("kubectl get pods", &pods, "on-one")?;
    admin.run("create namespace passing").await?;
    admin
        .run("delete namespace passing --wait --timeout=60s")
        .await
        .map(drop)
}

/// Whether `user` may, in the namespace of people.
async fn may(cluster: &Cluster, user: &str, verb: &str, resource: &str) -> Result<bool> {
    let user = cluster.user(user, &[])?;
    let review = format!(
        "apiVersion: authorization.k8s.io/v1\nkind: SelfSubjectAccessReview\nspec:\n  \
         resourceAttributes: {{ namespace: people, verb: {verb}, group: reverse.sternline.dev, \
         resource: pods, subresource: {resource} }}\n"
    );
    let answer = user.create(&review, "{.status.allowed}").await?;
    Ok(answer.trim() == "true")
}

async fn the_roles_permit_what_they_say(cluster: &Cluster) -> Result<()> {
    // Who, what the role permits: get, create, wide.
    for (role, get, wide) in [
        ("user", true, false),
        ("viewer", false, false),
        ("admin", true, true),
    ] {
        let name = format!("{role}-of-people");
        let words = format!(
            "create rolebinding {name} --namespace people --clusterrole sternline-{role} --user {name}"
        );
        cluster.admin().run(&words).await?;
        let said = |verb: &str| format!("{role} may {verb}");
        same(
            &said("get"),
            may(cluster, &name, "get", "portforward").await?,
            get,
        )?;
        same(
            &said("create"),
            may(cluster, &name, "create", "portforward").await?,
            get,
        )?;
        same(
            &said("wide"),
            may(cluster, &name, "create", "wideportforward").await?,
            wide,
        )?;
        let look = cluster
            .user(&name, &[])?
            .attempt("get pods --namespace people")
            .await?;
        same(&said("look"), look.code, 0)?;
    }
    Ok(())
}

/// Says what a process is, for whoever reads the log of the run.
fn describe(what: &str, inmate: &Inmate) -> Result<()> {
    let places = inmate.mounts()?;
    let places: Vec<_> = places
        .iter()
        .map(|(place, writes)| format!("{place}{}", if *writes { " (rw)" } else { "" }))
        .collect();
    writeln!(
        std::io::stdout(),
        "cluster: {what}: uid {}, capabilities {:?}, no_new_privs {}, seccomp {}, mounts {}",
        inmate.status("Uid")?,
        inmate.capabilities()?,
        inmate.status("NoNewPrivs")?,
        inmate.status("Seccomp")?,
        places.join(", ")
    )?;
    Ok(())
}

async fn the_containers_have_what_they_need_and_no_more(cluster: &Cluster) -> Result<()> {
    let gateways = running("/sternline-gateway serve")?;
    let serves = running("/sternline-shim serve")?;
    let binders = running("/sternline-shim binder")?;
    let counts = (gateways.len(), serves.len(), binders.len());
    same("gateways, serves and binders", counts, (2, 2, 2))?;
    for inmate in gateways.iter().chain(&serves).chain(&binders) {
        describe(
            inmate.command.split(" --").next().unwrap_or_default(),
            inmate,
        )?;
        same(
            "whether it is in a pod of this run",
            inmate.is_of_a_pod(),
            true,
        )?;
        // Our CRI-O is built without the library that it filters with; serve has a
        // filter of its own everywhere.
        let own = inmate.command.starts_with("/sternline-shim serve");
        let filtered = if own || cluster.runtime() != Runtime::CriO {
            "2"
        } else {
            "0"
        };
        same("seccomp", inmate.status("Seccomp")?, filtered.to_owned())?;
        same("no_new_privs", inmate.status("NoNewPrivs")?, "1".to_owned())?;
        let root = inmate.mounts()?.into_iter().find(|(place, _)| place == "/");
        same(
            "whether it may write its root",
            root.context("no root")?.1,
            false,
        )?;
    }
    for inmate in gateways.iter().chain(&serves) {
        same(
            "its user",
            inmate.status("Uid")?,
            "65532 65532 65532 65532".to_owned(),
        )?;
        same("its capabilities", inmate.capabilities()?, Vec::new())?;
    }
    let mut networks = Vec::new();
    for inmate in &binders {
        same(
            "the binder's capabilities",
            inmate.capabilities()?,
            OF_BINDER.to_vec(),
        )?;
        networks.push(inmate.namespace("net")?);
    }
    for inmate in &serves {
        networks.push(inmate.namespace("net")?);
    }
    for worker in cluster.workers() {
        let holder = Inmate {
            pid: worker.machine().pid(),
            command: String::new(),
        };
        networks.push(holder.namespace("net")?);
    }
    // A binder shares its network with nobody, serve its own with no node.
    let all = networks.len();
    networks.sort_unstable();
    networks.dedup();
    same("networks of binders, serves and nodes", networks.len(), all)
}

async fn the_gateway_fits_into_a_restricted_namespace(cluster: &Cluster) -> Result<()> {
    let all = install::manifests_of(cluster, "containerd").await?;
    let mut manifests = all.split("\n---\n");
    let gateway = manifests.find(|text| text.contains("kind: Deployment"));
    let gateway = gateway.context("no Deployment")?;
    let admin = cluster.admin();
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: strict\n  \
                     labels: { pod-security.kubernetes.io/warn: restricted }\n";
    admin.apply(namespace).await?;
    let gateway = gateway.replace("namespace: sternline", "namespace: strict");
    let warned = admin.try_out(&gateway).await?;
    same("warnings", warned, String::new())?;
    admin
        .run("delete namespace strict --wait=false")
        .await
        .map(drop)
}
