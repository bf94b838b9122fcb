//! Forwards through a cluster: from the first request to the end.

use crate::support::{Cluster, Program, echo, exchange, pod, status};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_deployments_newest_ready_pod_reaches_this_machine() {
    let mut cluster = Cluster::start(30_000).await;
    cluster.put(
        "/apis/apps/v1/namespaces/shop/deployments/php",
        json!({"spec": {"selector": {"matchLabels": {"app": "php"}}}}),
    );
    let mut newer = pod("php-2", "Running");
    newer["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z".into();
    cluster.put(
        "/api/v1/namespaces/shop/pods?labelSelector=app%3Dphp",
        json!({"items": [pod("php-1", "Running"), newer, pod("php-3", "Pending")]}),
    );
    let port = echo().await;
    let spec = format!("xdebug:{port}");
    let mut program = Program::spawn(cluster.command(&["deploy/php", &spec]));
    let tunnel = cluster.tunnel().await;
    assert_eq!(
        program.line().await,
        format!("Forwarding from 127.0.0.1:9003 in pod/php-2 -> localhost:{port}")
    );
    program.line().await;
    let (pod, _) = tunnel.connect(0).await;
    assert_eq!(exchange(pod, b"hello").await.unwrap(), b"hello");
    assert_eq!(program.line().await, "Handling connection for 9003");
    let forwards = cluster.forwards();
    assert_eq!(
        forwards[0].path,
        "/apis/reverse.sternline.dev/v1alpha1/namespaces/shop/pods/php-2/portforward?listen=localhost%3A9003&hold=30000ms&uid=uid-php-2"
    );
    assert_eq!(forwards[0].header("upgrade"), "websocket");
    for seen in cluster.seen() {
        assert_eq!(
            seen.header("authorization"),
            "Bearer TOKEN-SECRET",
            "{seen:?}"
        );
    }
    assert_eq!(cluster.connections(), 1, "one for everything");
    program.signal(Signal::SIGINT);
    let run = program.end().await;
    assert_eq!(run.code, 0, "{run:?}");
    run.is_clean();
}

#[tokio::test]
async fn programs_are_told_the_namespace_and_commands_the_port() {
    let cluster = Cluster::start(0).await;
    let args = [
        "web",
        "0:3000",
        "-o",
        "json",
        "--",
        "sh",
        "-c",
        "echo $STERNLINE_PORT; exit 3",
    ];
    let run = Program::spawn(cluster.command(&args)).end().await;
    assert_eq!(run.code, 3, "{run:?}");
    let ready: serde_json::Value = serde_json::from_str(&run.stdout[0]).unwrap();
    assert_eq!(
        (&ready["place"], &ready["namespace"]),
        (&json!("pod/web"), &json!("shop"))
    );
    assert_eq!(run.stdout[1], "40000");
}

#[tokio::test]
async fn what_a_server_refuses_is_said_in_kubectls_words() {
    let cluster = Cluster::start(0).await;
    cluster.put("/apis/reverse.sternline.dev/v1alpha1", json!({}));
    for ((code, body), exit, says) in [
        (
            status(403, "Forbidden", "pods \"web\" is forbidden: no\x1b[2J", ""),
            4,
            "Error from server (Forbidden): pods \"web\" is forbidden: no[2J",
        ),
        (
            status(403, "Forbidden", "only get", "forbidden"),
            4,
            "Error from server (Forbidden): only get",
        ),
        (
            status(409, "Conflict", "port 80 is taken", "port_in_use"),
            5,
            "Error from server (Conflict): port 80",
        ),
        (
            status(409, "Conflict", "pod web: host network", "host_network"),
            6,
            "host network",
        ),
        (
            status(503, "ServiceUnavailable", "off", "feature_off"),
            6,
            "(ServiceUnavailable): off",
        ),
        (
            (404, "404 page not found\n".into()),
            6,
            "not installed in this cluster",
        ),
        (
            (503, "service unavailable".into()),
            6,
            "gateway of Sternline does not answer",
        ),
        (
            status(401, "Unauthorized", "Unauthorized", ""),
            4,
            "must be logged in",
        ),
        ((500, "oops".into()), 1, "(InternalServerError): oops"),
        ((200, "{}".into()), 1, "in place of a stream"),
    ] {
        cluster.hook(move |seen| seen.is_forward().then(|| (code, body.clone())));
        let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
        run.failed(exit, says);
        assert!(run.stdout.is_empty(), "{run:?}");
    }
}

/// Neither a gateway that speaks no stream of ours, nor one that serves the group in another
/// version alone, leaves anybody waiting.
#[tokio::test]
async fn a_gateway_of_another_version_is_named() {
    let cluster = Cluster::start(0).await;
    let both = "the client speaks \"v1alpha1.reverse.sternline.dev\", and this gateway v9.reverse.sternline.dev: use releases that go together";
    for ((code, body), says) in [
        (
            status(400, "BadRequest", both, "version_unsupported"),
            format!("Error from server (BadRequest): {both}"),
        ),
        (
            status(404, "NotFound", "the server could not find the requested resource", ""),
            "the server does not have reverse.sternline.dev/v1alpha1: Sternline is not installed in this cluster, or in a release that does not go with sternline".into(),
        ),
    ] {
        cluster.hook(move |seen| seen.is_forward().then(|| (code, body.clone())));
        let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
        run.failed(6, &says);
        assert_eq!(cluster.forwards().len(), 1, "it is not tried again");
        cluster.forget();
    }
}

#[tokio::test]
async fn without_an_install_nobody_is_sent_for_rights() {
    let cluster = Cluster::start(0).await;
    let refused = "Error from server (Forbidden): no right";
    for (code, exit, says) in [
        (404, 6, "Sternline is not installed in this cluster"),
        (200, 4, refused),
        (503, 4, refused),
    ] {
        cluster.hook(move |seen| match seen.path.as_str() {
            "/apis/reverse.sternline.dev/v1alpha1" => Some((code, "{}".into())),
            _ if seen.is_forward() => Some(status(403, "Forbidden", "no right", "")),
            _ => None,
        });
        let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
        run.failed(exit, says);
    }
}

#[tokio::test]
async fn objects_that_lead_nowhere_are_told() {
    let cluster = Cluster::start(0).await;
    cluster.put(
        "/api/v1/namespaces/shop/pods/done",
        pod("done", "Succeeded"),
    );
    cluster.put("/api/v1/namespaces/shop/services/bare", json!({"spec": {}}));
    cluster.put(
        "/api/v1/namespaces/shop/services/empty",
        json!({"spec": {"selector": {"a": "b"}}}),
    );
    cluster.put(
        "/api/v1/namespaces/shop/pods?labelSelector=a%3Db",
        json!({"items": []}),
    );
    for (args, exit, says) in [
        (&["gone", "80"][..], 3, "Error from server (NotFound)"),
        (&["done", "80"], 3, "has completed"),
        (&["svc/bare", "80"], 3, "has no selector"),
        (
            &["svc/empty", "80", "--pod-running-timeout", "0"],
            3,
            "service/empty: it has no pods",
        ),
        (
            &["web", "http"],
            2,
            "no port named \"http\": it has xdebug (9003)",
        ),
        (&["node/a", "80"], 2, "no kind"),
        (&["gone", "80", "--", "true"], 125, "NotFound"),
    ] {
        let run = Program::spawn(cluster.command(args)).end().await;
        run.failed(exit, says);
    }
    assert!(cluster.forwards().is_empty());
}

#[tokio::test]
async fn a_pod_that_starts_is_waited_for() {
    let mut cluster = Cluster::start(0).await;
    cluster.put("/api/v1/namespaces/shop/pods/web", pod("web", "Pending"));
    let mut program = Program::spawn(cluster.command(&["web", "80", "-v"]));
    while cluster.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.put("/api/v1/namespaces/shop/pods/web", pod("web", "Running"));
    let _tunnel = cluster.tunnel().await;
    assert!(program.line().await.starts_with("Forwarding from"));
}

#[tokio::test]
async fn who_may_not_look_at_pods_may_forward_still() {
    let mut cluster = Cluster::start(0).await;
    cluster.hook(|seen| {
        let (code, body) = status(403, "Forbidden", "no", "");
        (!seen.is_forward()).then_some((code, body))
    });
    let mut program = Program::spawn(cluster.command(&["web", "80"]));
    let _tunnel = cluster.tunnel().await;
    program.line().await;
    assert!(
        cluster.forwards()[0]
            .path
            .ends_with("?listen=localhost%3A80&hold=30000ms")
    );
    let run = Program::spawn(cluster.command(&["web", "xdebug"]))
        .end()
        .await;
    run.failed(2, "give the port by its number");
}

#[tokio::test]
async fn a_server_that_is_not_there_or_not_the_one_is_named() {
    let cluster = Cluster::start(0).await;
    cluster.down(true);
    let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
    run.failed(6, "unable to connect to the server https://127.0.0.1");
    cluster.down(false);
    let other = crate::support::Authority::new("other");
    other.write(&cluster.dir.path().join("other.pem"));
    let config = std::fs::read_to_string(cluster.config()).unwrap();
    std::fs::write(cluster.config(), config.replace("ca.pem", "other.pem")).unwrap();
    let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
    run.failed(6, "a CA that the kubeconfig does not trust");
    assert!(cluster.seen().is_empty(), "no credentials for a stranger");
    std::fs::write(cluster.config(), config.replace("api.test", "other.test")).unwrap();
    let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
    run.failed(6, "is for another name");
}

#[tokio::test]
async fn it_is_called_by_the_names_that_kubectl_knows() {
    let mut cluster = Cluster::start(0).await;
    let link = |name: &str| {
        let path = cluster.dir.path().join(name);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sternline"), &path).unwrap();
        path
    };
    let (long, short) = (link("kubectl-reverse_port_forward"), link("kubectl-rpf"));
    for (path, usage) in [
        (&long, "kubectl reverse-port-forward"),
        (&short, "kubectl rpf"),
    ] {
        let mut command = tokio::process::Command::new(path);
        command.arg("--help");
        let run = Program::spawn(command).end().await;
        assert_eq!(run.code, 0);
        let wanted = format!("Usage: {usage} [OPTIONS]");
        assert!(
            run.stdout.iter().any(|line| line.starts_with(&wanted)),
            "{run:?}"
        );
    }
    let mut command = tokio::process::Command::new(&short);
    command
        .args(["web", "80", "-n", "shop"])
        .env("KUBECONFIG", cluster.config());
    let mut program = Program::spawn(command);
    let _tunnel = cluster.tunnel().await;
    assert_eq!(
        program.line().await,
        "Forwarding from 127.0.0.1:80 in pod/web -> localhost:80"
    );
}
