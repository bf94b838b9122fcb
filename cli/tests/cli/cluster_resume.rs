//! A connection through a cluster that is lost, and taken up again.

use crate::support::{Cluster, Program, echo, exchange, status};
use nix::sys::signal::Signal;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use sternline_api::v1alpha1::{self as pb, control_message::Event};

const HELD: [&str; 6] = ["web", "80:1", "--hold", "20s", "-o", "json"];

#[tokio::test]
async fn a_session_is_taken_up_with_its_ticket_in_a_header() {
    let mut cluster = Cluster::start(20_000).await;
    let port = echo().await;
    let spec = format!("80:{port}");
    let mut program = Program::spawn(cluster.command(&["web", &spec]));
    let tunnel = cluster.tunnel().await;
    assert_eq!(tunnel.token, "");
    program.line().await;
    program.line().await;
    let (open, _) = tunnel.connect(0).await;
    assert_eq!(exchange(open, b"before").await.unwrap(), b"before");
    program.line().await;
    tunnel.cut();
    let tunnel = cluster.tunnel().await;
    assert_eq!(tunnel.token, "RESUME-SECRET");
    let forwards = cluster.forwards();
    assert_eq!(forwards.len(), 2);
    assert_eq!(
        forwards[0].path, forwards[1].path,
        "the same, without the ticket"
    );
    assert_eq!(forwards[1].header("authorization"), "Bearer TOKEN-SECRET");
    let (open, _) = tunnel.connect(0).await;
    assert_eq!(exchange(open, b"after").await.unwrap(), b"after");
    program.line().await;
    program.signal(Signal::SIGTERM);
    let run = program.end().await;
    assert_eq!(run.code, 0);
    let mut notes = run.stderr.lines();
    let lost = notes.next().unwrap();
    assert!(
        lost.starts_with("warning: the connection to pod/web is lost"),
        "{run:?}"
    );
    assert!(lost.ends_with("trying for 20s to come back"), "{run:?}");
    assert!(
        notes.next().unwrap().starts_with("Reconnected to pod/web"),
        "{run:?}"
    );
    run.is_clean();
}

/// Answers those who come back with `refusals`, each once.
fn answering(cluster: &Cluster, refusals: Vec<(u16, String)>) {
    let next = AtomicUsize::new(0);
    cluster.hook(move |seen| match seen.is_forward() {
        true => refusals.get(next.fetch_add(1, SeqCst)).cloned(),
        false => None,
    });
}

/// Loses the tunnel of a forward while the server answers `refusals` to those who
/// come back, each once; what happens then is up to the caller.
async fn refused(refusals: Vec<(u16, String)>) -> (Cluster, Program) {
    let mut cluster = Cluster::start(20_000).await;
    let mut program = Program::spawn(cluster.command(&HELD));
    let tunnel = cluster.tunnel().await;
    assert_eq!(program.event().await["event"], "ready");
    answering(&cluster, refusals);
    tunnel.cut();
    assert_eq!(program.event().await["event"], "lost");
    (cluster, program)
}

#[tokio::test]
async fn a_server_that_starts_again_is_tried_until_it_is_up() {
    // As one says that has not read its objects yet.
    let (mut cluster, mut program) = refused(vec![
        status(401, "Unauthorized", "Unauthorized", ""),
        status(403, "Forbidden", "not yet ready", ""),
        (404, "404 page not found".into()),
        (503, "service unavailable".into()),
        status(503, "ServiceUnavailable", "going away", "draining"),
        status(503, "ServiceUnavailable", "no node", "node_unavailable"),
        status(
            503,
            "ServiceUnavailable",
            "no answer",
            "cluster_unavailable",
        ),
    ])
    .await;
    let _tunnel = cluster.tunnel().await;
    assert_eq!(program.event().await["event"], "reconnected");
    assert_eq!(cluster.forwards().len(), 9);
}

#[tokio::test]
async fn asked_to_stop_meanwhile_it_comes_back_to_say_goodbye() {
    let (mut cluster, program) = refused(vec![(503, "service unavailable".into()); 1000]).await;
    // Told while nothing comes through: what comes then is the goodbye.
    program.signal(Signal::SIGTERM);
    cluster.hook(|_| None);
    let mut tunnel = cluster.tunnel().await;
    let said = tunnel.hear().await;
    assert!(
        matches!(&said, Some(Event::Ending(end)) if end.code == "done"),
        "{said:?}"
    );
    let run = program.end().await;
    assert_eq!(run.code, 0, "{run:?}");
}

#[tokio::test]
async fn asked_to_stop_before_the_announcement_it_leaves_no_listener_behind() {
    let mut cluster = Cluster::start(20_000).await;
    cluster.pause();
    let mut program = Program::spawn(cluster.command(&["web", "80", "-v"]));
    program.complains_of("the connection is upgraded").await;
    program.signal(Signal::SIGINT);
    program.complains_of("asked to stop").await;
    cluster.go_on();
    let mut tunnel = cluster.tunnel().await;
    let said = tunnel.hear().await;
    assert!(
        matches!(&said, Some(Event::Ending(end)) if end.code == "done"),
        "{said:?}"
    );
    let run = program.end().await;
    assert_eq!((run.code, run.stdout.len()), (0, 0), "{run:?}");
}

#[tokio::test]
async fn a_gateway_that_refuses_is_the_end_at_once() {
    for (cause, code, exit) in [("forbidden", 403, 4), ("pod_replaced", 409, 3)] {
        let (cluster, program) = refused(vec![status(code, "Gone", "no more", cause)]).await;
        let run = program.end().await;
        run.failed(exit, "no more");
        assert_eq!(cluster.forwards().len(), 2, "{cause}");
    }
}

fn unknown() -> (u16, String) {
    status(404, "NotFound", "no such session", "token_unknown")
}

#[tokio::test]
async fn a_session_that_no_node_knows_is_asked_for_anew() {
    let refusals = vec![
        status(503, "ServiceUnavailable", "no shim", "node_unavailable"),
        unknown(),
        status(409, "Conflict", "the shim before has it", "port_in_use"),
        status(503, "ServiceUnavailable", "no shim", "node_unavailable"),
    ];
    let mut cluster = Cluster::start(20_000).await;
    let args = ["web", "80:1", "0:2", "--hold", "20s", "-o", "json"];
    let mut program = Program::spawn(cluster.command(&args));
    let tunnel = cluster.tunnel().await;
    assert_eq!(program.event().await["event"], "ready");
    answering(&cluster, refusals);
    tunnel.cut();
    assert_eq!(program.event().await["event"], "lost");
    let tunnel = cluster.tunnel().await;
    let back = program.event().await;
    assert_eq!(
        (&back["event"], &back["new_session"]),
        (&json!("reconnected"), &json!(true))
    );
    let forwards = cluster.forwards();
    let tickets: Vec<_> = forwards
        .iter()
        .map(|one| one.header("sternline-ticket"))
        .collect();
    let ticket = "RESUME-SECRET";
    assert_eq!(tickets, ["", ticket, ticket, "", "", ""]);
    // The port that was free is the one that it was.
    let path = forwards[0].path.replace("%3A0&", "%3A40001&");
    assert_eq!(forwards[5].path, path);
    // The new session is come back to as the one before was.
    tunnel.cut();
    assert_eq!(program.event().await["event"], "lost");
    assert_eq!(cluster.tunnel().await.token, ticket);
    assert_eq!(program.event().await["new_session"], json!(false));
}

#[tokio::test]
async fn a_shim_that_goes_is_no_end_for_who_wants_the_listeners_held() {
    for (hold, exit) in [("20s", None), ("0", Some(9))] {
        let mut cluster = Cluster::start(if exit.is_none() { 20_000 } else { 0 }).await;
        let mut program = Program::spawn(cluster.command(&["web", "80:1", "--hold", hold]));
        let mut tunnel = cluster.tunnel().await;
        program.line().await;
        answering(&cluster, vec![unknown()]);
        let message = "sandbox web: the node's shim is shutting down";
        tunnel
            .say(Event::Ending(pb::Ending {
                code: "draining".into(),
                message: message.into(),
            }))
            .await;
        if let Some(exit) = exit {
            program.end().await.failed(exit, message);
            assert_eq!(cluster.forwards().len(), 1);
            continue;
        }
        let _tunnel = cluster.tunnel().await;
        program.complains_of("Reconnected to pod/web").await;
        program.signal(Signal::SIGTERM);
        let run = program.end().await;
        assert_eq!(run.code, 0, "{run:?}");
        let said = "in a new session: connections were refused meanwhile";
        assert!(run.stderr.contains(said), "{run:?}");
        assert!(run.stderr.contains(message), "{run:?}");
    }
}

#[tokio::test]
async fn without_a_hold_a_lost_connection_is_the_end() {
    let mut cluster = Cluster::start(0).await;
    let mut program = Program::spawn(cluster.command(&["web", "80", "--hold", "0"]));
    let tunnel = cluster.tunnel().await;
    program.line().await;
    tunnel.cut();
    program
        .end()
        .await
        .failed(7, "the connection to pod/web is lost");
}

#[tokio::test]
async fn it_is_given_up_when_the_hold_is_over() {
    let mut cluster = Cluster::start(700).await;
    let mut program = Program::spawn(cluster.command(&["web", "80", "-o", "json"]));
    let tunnel = cluster.tunnel().await;
    program.event().await;
    cluster.down(true);
    tunnel.cut();
    assert_eq!(program.event().await["hold_ms"], json!(700));
    program
        .end()
        .await
        .failed(7, "did not come back while the listeners were held");
}
