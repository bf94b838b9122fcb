//! Asked to stop: how a forward leaves.

use crate::support::{Fake, Node, Program, soon};
use nix::sys::signal::Signal;
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;

#[tokio::test]
async fn asked_to_stop_it_says_goodbye_and_is_gone_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut node = Node::start().await;
        let mut program = Program::start(&node.fake, &["forward", "sandbox/web", "80"]);
        let mut tunnel = node.tunnel().await;
        program.line().await;
        let pid = program.pid();
        nix::sys::signal::kill(pid, signal).unwrap();
        let (run, goodbye) = tokio::join!(program.end(), tunnel.hear());
        assert_eq!(run.code, 0, "{run:?}");
        assert!(
            matches!(&goodbye, Some(Event::Ending(e)) if e.code == "done"),
            "{goodbye:?}"
        );
    }
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_goodbye() {
    let mut took = Vec::new();
    // The goodbye takes a second always; a busy machine does not do so each time.
    for _ in 0..5 {
        let mut node = Node::start().await;
        let mut program = Program::start(&node.fake, &["forward", "sandbox/web", "80"]);
        let _tunnel = node.tunnel().await;
        program.line().await;
        let asked = Instant::now();
        program.signal(Signal::SIGINT);
        tokio::time::sleep(Duration::from_millis(50)).await;
        program.signal(Signal::SIGINT);
        assert_eq!(program.end().await.code, 0);
        if asked.elapsed() < Duration::from_millis(900) {
            return;
        }
        took.push(asked.elapsed());
    }
    panic!("it waited each time: {took:?}");
}

#[tokio::test]
async fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let mut node = Node::start().await;
    let mut nohup = std::process::Command::new("sh");
    nohup.args([
        "-c",
        "trap '' HUP; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_sternline"),
    ]);
    nohup.args(["forward", "sandbox/web", "80", "-o", "json"]);
    nohup
        .env("STERNLINE_SOCKET", &node.fake.socket)
        .process_group(0);
    let mut program = Program::spawn(nohup.into());
    let mut tunnel = node.tunnel().await;
    assert_eq!(program.event().await["event"], "ready");
    program.signal(Signal::SIGHUP);
    let rejected = pb::Rejected {
        listener_id: 0,
        ..pb::Rejected::default()
    };
    tunnel.say(Event::Rejected(rejected)).await;
    // It lives on and tells what comes after.
    assert_eq!(program.event().await["event"], "rejected");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().await.code, 0);
}

#[tokio::test]
async fn a_background_job_obeys_an_interrupt_that_is_meant_for_it() {
    let mut node = Node::start().await;
    let mut job = std::process::Command::new("sh");
    // As a shell without job control starts one.
    job.args([
        "-c",
        "trap '' INT; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_sternline"),
    ]);
    job.args(["forward", "sandbox/web", "80"]);
    job.env("STERNLINE_SOCKET", &node.fake.socket);
    let mut program = Program::spawn(job.into());
    let _tunnel = node.tunnel().await;
    program.line().await;
    program.signal(Signal::SIGINT);
    assert_eq!(program.end().await.code, 0);
}

#[tokio::test]
async fn an_interrupt_during_set_up_frees_what_was_bound() {
    let (upgrading, mut upgrades) = tokio::sync::mpsc::unbounded_channel();
    let fake = Fake::builder()
        .stream(move |raw| {
            let upgrading = upgrading.clone();
            async move {
                let _ = upgrading.send(());
                let _held = raw;
                std::future::pending::<()>().await;
            }
        })
        .start()
        .await;
    let program = Program::start(&fake, &["forward", "sandbox/web", "80"]);
    soon("the Upgrade", upgrades.recv()).await.unwrap();
    program.signal(Signal::SIGINT);
    let run = program.end().await;
    assert_eq!((run.code, run.stdout.len()), (0, 0), "{run:?}");
    assert_eq!(fake.requests().stopped, ["s1"]);
}
