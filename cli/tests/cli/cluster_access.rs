//! Who we are to a cluster, and which way leads there.

use crate::support::{Authority, Cluster, Program, status};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Writes a credential program that counts its runs, and the user that has it.
fn plugin(dir: &Path, expires: &str) -> (PathBuf, String) {
    let (script, log) = (dir.join("login"), dir.join("runs"));
    let text = format!(
        "#!/bin/sh\necho run >> {log}\nn=$(wc -l < {log} | tr -d ' ')\n\
         echo \"{{\\\"apiVersion\\\":\\\"client.authentication.k8s.io/v1\\\",\\\"kind\\\":\\\"ExecCredential\\\",\\\"status\\\":{{\\\"token\\\":\\\"SECRET-$n\\\"{expires}}}}}\"\n",
        log = log.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let user = "exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: ./login\n      interactiveMode: Never";
    (log, user.to_owned())
}

fn runs(log: &Path) -> usize {
    std::fs::read_to_string(log)
        .unwrap_or_default()
        .lines()
        .count()
}

#[tokio::test]
async fn a_credential_program_runs_once_for_set_up_and_resume() {
    let mut cluster = Cluster::start(20_000).await;
    let (log, user) = plugin(cluster.dir.path(), "");
    cluster.configure("127.0.0.1", "", &user);
    let mut program = Program::spawn(cluster.command(&["web", "80"]));
    let tunnel = cluster.tunnel().await;
    program.line().await;
    tunnel.cut();
    let _tunnel = cluster.tunnel().await;
    assert_eq!(runs(&log), 1);
    for seen in cluster.seen() {
        assert_eq!(seen.header("authorization"), "Bearer SECRET-1", "{seen:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_longer_accepted_is_asked_for_once_more() {
    let mut cluster = Cluster::start(0).await;
    let (log, user) = plugin(cluster.dir.path(), "");
    cluster.configure("127.0.0.1", "", &user);
    // Good for the pod, and no more for the stream.
    cluster.hook(|seen| {
        let old = seen.header("authorization") == "Bearer SECRET-1";
        (seen.is_forward() && old).then(|| status(401, "Unauthorized", "Unauthorized", ""))
    });
    let mut program = Program::spawn(cluster.command(&["web", "80"]));
    let _tunnel = cluster.tunnel().await;
    program.line().await;
    assert_eq!(runs(&log), 2);
    cluster.hook(|_| Some(status(401, "Unauthorized", "Unauthorized", "")));
    let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
    run.failed(4, "must be logged in");
    assert_eq!(runs(&log), 3, "a fresh answer is not asked for again");
}

#[tokio::test]
async fn an_answer_that_ends_is_asked_for_anew() {
    let cluster = Cluster::start(0).await;
    let expires = ",\\\"expirationTimestamp\\\":\\\"2020-01-01T00:00:00Z\\\"";
    let (log, user) = plugin(cluster.dir.path(), expires);
    cluster.configure("127.0.0.1", "", &user);
    cluster.hook(|seen| {
        seen.is_forward()
            .then(|| status(409, "Conflict", "no", "port_in_use"))
    });
    Program::spawn(cluster.command(&["web", "80"]))
        .end()
        .await
        .failed(5, "no");
    assert_eq!(runs(&log), 2);
}

#[tokio::test]
async fn a_certificate_is_shown_to_who_asks_for_one() {
    let clients = Authority::new("clients");
    let mut cluster = Cluster::asking(0, Some(&clients)).await;
    let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
    assert_eq!(run.code, 6, "{run:?}");
    let (cert, key) = clients.issue_to(cluster.dir.path());
    let user = format!("client-certificate: {cert}\n    client-key: {key}");
    cluster.configure("127.0.0.1", "", &user);
    let mut program = Program::spawn(cluster.command(&["web", "80"]));
    let _tunnel = cluster.tunnel().await;
    program.line().await;
    assert_eq!(cluster.seen()[0].header("authorization"), "");
}

#[tokio::test]
async fn another_user_is_acted_as_everywhere() {
    let mut cluster = Cluster::start(0).await;
    let args = [
        "web",
        "80",
        "--as",
        "jane",
        "--as-group",
        "a",
        "--as-group",
        "b",
        "--as-uid",
        "7",
    ];
    let mut program = Program::spawn(cluster.command(&args));
    let _tunnel = cluster.tunnel().await;
    program.line().await;
    for seen in cluster.seen() {
        assert_eq!(seen.header("impersonate-user"), "jane");
        assert_eq!(seen.header("impersonate-uid"), "7");
        let groups = seen.headers.get_all("impersonate-group").iter();
        assert_eq!(groups.collect::<Vec<_>>(), ["a", "b"]);
    }
}

/// A proxy that leads every CONNECT to `port`, and what was asked of it.
async fn proxy(port: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut io, _) = listener.accept().await.unwrap();
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(io.read_u8().await.unwrap());
                }
                log.lock().unwrap().push(String::from_utf8(head).unwrap());
                io.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")
                    .await
                    .unwrap();
                let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut io, &mut to).await;
            });
        }
    });
    (own, asked)
}

#[tokio::test]
async fn proxies_of_the_environment_and_of_the_kubeconfig_are_gone_through() {
    let mut cluster = Cluster::start(0).await;
    let (port, asked) = proxy(cluster.port).await;
    let url = format!("http://me:PROXY-SECRET@127.0.0.1:{port}");
    let host = "api.elsewhere.test";
    for (entry, variable) in [
        (String::new(), url.as_str()),
        (format!("proxy-url: {url}"), "http://127.0.0.1:1"),
    ] {
        cluster.configure(host, &entry, "token: TOKEN-SECRET");
        let mut command = cluster.command(&["web", "80"]);
        command.env("HTTPS_PROXY", variable);
        let mut program = Program::spawn(command);
        let _tunnel = cluster.tunnel().await;
        program.line().await;
        program.signal(nix::sys::signal::Signal::SIGINT);
        program.end().await.is_clean();
        let head = asked.lock().unwrap().pop().unwrap();
        assert!(
            head.starts_with(&format!("CONNECT {host}:{} HTTP/1.1\r\n", cluster.port)),
            "{head}"
        );
        assert!(head.contains("Proxy-Authorization: Basic "), "{head}");
    }
    cluster.configure(host, "", "token: TOKEN-SECRET");
    let mut command = cluster.command(&["web", "80"]);
    command
        .env("HTTPS_PROXY", &url)
        .env("NO_PROXY", ".elsewhere.test");
    let run = Program::spawn(command).end().await;
    run.failed(
        6,
        "unable to connect to the server https://api.elsewhere.test",
    );
    assert!(asked.lock().unwrap().is_empty(), "NO_PROXY names it");
}

#[tokio::test]
async fn a_kubeconfig_that_leads_nowhere_is_a_usage_error() {
    let cluster = Cluster::start(0).await;
    for (args, says) in [
        (
            &["web", "80", "--context", "prod"][..],
            "context \"prod\" does not exist: it has dev",
        ),
        (
            &["web", "80", "--kubeconfig", "/nonexistent"],
            "/nonexistent: no such file",
        ),
        (&["web", "80", "-n", "A"], "--namespace"),
        (&["web", "80", "--as-group", "a"], "go with --as"),
    ] {
        let run = Program::spawn(cluster.command(args)).end().await;
        run.failed(2, says);
    }
    std::fs::write(cluster.config(), "users: [SECRET").unwrap();
    let run = Program::spawn(cluster.command(&["web", "80"])).end().await;
    run.failed(2, "no kubeconfig in YAML");
    assert!(cluster.seen().is_empty());
}
