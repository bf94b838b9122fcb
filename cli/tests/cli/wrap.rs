//! `sternline forward ... -- COMMAND`.

use crate::support::{Fake, Node, Program, Run, soon};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use sternline_api::{Failure, Reason};

/// Starts a forward with a command.
fn wrap(node: &Node, command: &[&str]) -> Program {
    let args = [&["forward", "sandbox/web", "80:3000", "-q", "--"], command].concat();
    Program::start(&node.fake, &args)
}

/// The end of a forward with a command, which nobody disturbs.
async fn wrapped(command: &[&str]) -> Run {
    let mut node = Node::start().await;
    let program = wrap(&node, command);
    let mut tunnel = node.tunnel().await;
    let run = tokio::join!(program.end(), async {
        // The forward ends with the command, with a goodbye.
        let goodbye = tunnel.hear().await;
        assert!(
            matches!(&goodbye, Some(Event::Ending(e)) if e.code == "done"),
            "{goodbye:?}"
        );
        drop(tunnel);
    });
    run.0
}

#[tokio::test]
async fn its_exit_code_is_ours() {
    for code in [0, 1, 2, 42, 125] {
        let run = wrapped(&["sh", "-c", &format!("exit {code}")]).await;
        assert_eq!((run.code, run.stderr.as_str()), (code, ""), "{run:?}");
    }
    assert_eq!(wrapped(&["sh", "-c", "kill -9 $$"]).await.code, 128 + 9);
}

#[tokio::test]
async fn what_cannot_start_is_126_and_what_is_missing_127() {
    wrapped(&["no-such-command-here"])
        .await
        .failed(127, "\"no-such-command-here\" was not found");
    wrapped(&["/"]).await.failed(126, "cannot be executed");
}

#[tokio::test]
async fn it_starts_when_the_forward_is_up_and_prints_after_our_lines() {
    let mut node = Node::start().await;
    let args = ["forward", "sandbox/web", "80:3000", "--", "echo", "started"];
    let mut program = Program::start(&node.fake, &args);
    let tunnel = node.tunnel().await;
    assert!(
        program
            .line()
            .await
            .starts_with("Forwarding from 127.0.0.1:80 ")
    );
    assert!(
        program
            .line()
            .await
            .starts_with("Forwarding from [::1]:80 ")
    );
    assert_eq!(program.line().await, "started");
    let _tunnel = tunnel;
}

#[tokio::test]
async fn its_environment_tells_what_is_bound() {
    let mut node = Node::start().await;
    let script = "echo $STERNLINE_BOUND $STERNLINE_PORT";
    let args = [
        "forward",
        "sandbox/web",
        "0:3000",
        "127.0.0.1:81",
        "-q",
        "--",
    ];
    let args = [&args[..], &["sh", "-c", script]].concat();
    let mut program = Program::start(&node.fake, &args);
    let tunnel = node.tunnel().await;
    assert_eq!(
        program.line().await,
        "127.0.0.1:40000,[::1]:40000,127.0.0.1:81 40000"
    );
    let _tunnel = tunnel;
}

#[tokio::test]
async fn a_forward_that_never_comes_up_is_125_and_starts_nothing() {
    let fake = Fake::builder()
        .forward(|_| Err(Failure::new(Reason::PortInUse, "port 80 is taken").into()))
        .start()
        .await;
    let mark = fake.dir.path().join("mark");
    let args = [
        "forward",
        "sandbox/web",
        "80",
        "--",
        "touch",
        mark.to_str().unwrap(),
    ];
    Program::run(&fake, &args)
        .await
        .failed(125, "port 80 is taken");
    assert!(!mark.exists());
    // So is one that was asked to stop before it was up.
    let hanging = Fake::builder()
        .stream(|raw| async move {
            let _held = raw;
            std::future::pending::<()>().await;
        })
        .start()
        .await;
    let program = Program::start(&hanging, &args);
    soon("the call", async {
        while hanging.requests().forwards.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    program.signal(Signal::SIGINT);
    assert_eq!(program.end().await.code, 125);
    assert!(!mark.exists());
}

#[tokio::test]
async fn signals_are_passed_on_and_it_decides() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut node = Node::start().await;
        let script = "trap 'echo INT; exit 3' INT; trap 'echo TERM; exit 3' TERM; \
                      trap 'echo HUP; exit 3' HUP; echo up; while :; do sleep 0.01; done";
        let mut program = wrap(&node, &["sh", "-c", script]);
        let tunnel = node.tunnel().await;
        assert_eq!(program.line().await, "up");
        program.signal(signal);
        assert_eq!(
            program.line().await,
            signal.as_str().trim_start_matches("SIG")
        );
        assert_eq!(program.end().await.code, 3);
        drop(tunnel);
    }
    // One that dies of it.
    let mut node = Node::start().await;
    let mut program = wrap(&node, &["sh", "-c", "echo up; exec sleep 60"]);
    let _tunnel = node.tunnel().await;
    program.line().await;
    program.signal(Signal::SIGTERM);
    assert_eq!(program.end().await.code, 128 + 15);
}

#[tokio::test]
async fn what_a_terminal_signals_reaches_it_once() {
    let mut node = Node::start().await;
    let pty = nix::pty::openpty(None, None).unwrap();
    // While a command is started signals are not blocked, and nobody knows who
    // sent them: it says that it is up once every thread of ours blocks them.
    let script = "trap 'echo INT' INT; trap 'echo TERM; exit 5' TERM; \
        while grep -L 'SigBlk:.*4003$' /proc/$PPID/task/*/status | grep -q .; do sleep 0.01; done; \
        echo up; while :; do sleep 0.01; done";
    // The pty becomes the terminal of a session of its own.
    let mut command = std::process::Command::new("setsid");
    command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_sternline")]);
    command.args([
        "forward",
        "sandbox/web",
        "80",
        "-q",
        "-vv",
        "--",
        "sh",
        "-c",
        script,
    ]);
    command.env("STERNLINE_SOCKET", &node.fake.socket);
    let mut program = Program::spawn_on(command.into(), pty.slave.try_clone().unwrap().into());
    let _tunnel = node.tunnel().await;
    assert_eq!(program.line().await, "up");
    nix::unistd::write(&pty.master, b"\x03").unwrap();
    assert_eq!(program.line().await, "INT");
    // A second one would have come by now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    program.signal(Signal::SIGTERM);
    assert_eq!(program.line().await, "TERM");
    let run = program.end().await;
    assert_eq!(run.code, 5, "{run:?}");
    assert_eq!(run.stdout, ["up", "INT", "TERM"], "{run:?}");
    // Two at once could be one to the shell: what was done is in the log.
    assert_eq!(run.stderr.matches("signal passed on").count(), 1, "{run:?}");
    assert!(
        run.stderr
            .contains("the terminal signalled the command too"),
        "{run:?}"
    );
}

#[tokio::test]
async fn a_forward_lost_for_good_ends_it_with_7() {
    let mut node = Node::start().await;
    let mut program = wrap(
        &node,
        &[
            "sh",
            "-c",
            "trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.01; done",
        ],
    );
    let tunnel = node.tunnel().await;
    assert_eq!(program.line().await, "up");
    tunnel.cut();
    assert_eq!(program.line().await, "told");
    program
        .end()
        .await
        .failed(7, "the connection to sandbox/web is lost");
}

#[tokio::test]
async fn one_that_ignores_sigterm_is_killed_after_ten_seconds() {
    let mut node = Node::start().await;
    let mut program = wrap(
        &node,
        &[
            "sh",
            "-c",
            "trap '' TERM; echo $$; while :; do sleep 0.01; done",
        ],
    );
    let tunnel = node.tunnel().await;
    let pid = program.line().await;
    let cut = Instant::now();
    tunnel.cut();
    let run = program.end().await;
    assert_eq!(run.code, 7, "{run:?}");
    let after = cut.elapsed();
    assert!(after >= Duration::from_secs(9), "{after:?}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_session_that_the_server_ended_is_told_by_9() {
    let mut node = Node::start().await;
    let mut program = wrap(&node, &["sh", "-c", "echo up; exec sleep 60"]);
    let mut tunnel = node.tunnel().await;
    program.line().await;
    let message = "sandbox web was removed".into();
    tunnel
        .say(Event::Ending(pb::Ending {
            code: "sandbox_gone".into(),
            message,
        }))
        .await;
    program.end().await.failed(9, "sandbox web was removed");
}

#[tokio::test]
async fn a_reader_of_standard_output_that_goes_is_the_commands_business() {
    let mut node = Node::start().await;
    let args = [
        "forward",
        "sandbox/web",
        "80:1",
        "--",
        "sh",
        "-c",
        "exec >/dev/null; sleep 0.5; exit 4",
    ];
    let mut program = Program::start(&node.fake, &args);
    let tunnel = node.tunnel().await;
    program.line().await;
    program.line().await;
    program.close_stdout();
    // A line that nobody reads.
    let (_pod, _) = tunnel.connect(0).await;
    assert_eq!(program.end().await.code, 4);
}

#[tokio::test]
async fn it_gets_the_limits_and_signals_that_we_were_given() {
    let given = async |command: &[&str]| {
        let mut node = Node::start().await;
        let mut limited = std::process::Command::new("sh");
        limited.args(["-c", "trap '' USR1; ulimit -Sn 77; exec \"$0\" \"$@\""]);
        limited.arg(env!("CARGO_BIN_EXE_sternline"));
        limited
            .args(["forward", "sandbox/web", "80", "-q", "--"])
            .args(command);
        limited.env("STERNLINE_SOCKET", &node.fake.socket);
        let program = Program::spawn(limited.into());
        let _tunnel = node.tunnel().await;
        program.end().await.stdout
    };
    assert_eq!(given(&["sh", "-c", "ulimit -Sn"]).await, ["77"]);
    // A shell would make a mask of its own.
    let masks = given(&["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"]).await;
    assert_eq!(masks[0], "SigBlk:\t0000000000000000");
    let ignored = u64::from_str_radix(masks[1].trim_start_matches("SigIgn:\t"), 16).unwrap();
    let is_ignored = |signal: Signal| ignored & (1 << (signal as i32 - 1)) != 0;
    assert!(is_ignored(Signal::SIGUSR1), "{ignored:x}");
    assert!(!is_ignored(Signal::SIGPIPE), "{ignored:x}");
}
