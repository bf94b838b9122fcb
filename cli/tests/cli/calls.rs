//! `sternline sessions`, `stop` and `version`, and wrong command lines.

use crate::support::{Fake, Program};
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::v1alpha1 as pb;
use sternline_api::{Failure, Reason};

fn session(session_id: &str, ago: Duration) -> pb::Session {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - ago;
    pb::Session {
        session_id: session_id.into(),
        sandbox_id: "web".into(),
        state: pb::SessionState::Active.into(),
        bound: vec![pb::Bound {
            listener_id: 0,
            address: "::1".into(),
            port: 8080,
        }],
        created_at_ms: u64::try_from(created.as_millis()).unwrap(),
        connections: 1,
        connections_total: 3,
        ..pb::Session::default()
    }
}

#[tokio::test]
async fn sessions_are_a_table_in_kubectls_manner() {
    let sessions = vec![
        session("young\x1b[2J", Duration::from_secs(300)),
        session("oldest-of-them", Duration::from_secs(7200)),
    ];
    let fake = Fake::builder().sessions(sessions).start().await;
    let run = Program::run(&fake, &["sessions"]).await;
    assert_eq!(run.code, 0);
    assert_eq!(
        run.stdout,
        [
            "SESSION          SANDBOX   POD      STATE    LISTENING    CONNECTIONS   REJECTED   AGE",
            "oldest-of-them   web       <none>   active   [::1]:8080   1/3           0          120m",
            "young[2J         web       <none>   active   [::1]:8080   1/3           0          5m",
        ]
    );
    let run = Program::run(&fake, &["sessions", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&run.stdout.concat()).unwrap();
    assert_eq!(json["sessions"][0]["session_id"], "oldest-of-them");
    assert_eq!(
        json["sessions"][0]["bound"][0],
        json!({"listener_id": 0, "address": "::1", "port": 8080})
    );
    run.is_clean();
}

#[tokio::test]
async fn what_could_not_be_printed_is_no_success() {
    let fake = Fake::builder().start().await;
    for words in [&["version"][..], &["sessions", "-o", "json"], &["--help"]] {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let code = tokio::process::Command::new(env!("CARGO_BIN_EXE_sternline"))
            .args(words)
            .env("STERNLINE_SOCKET", &fake.socket)
            .stdout(full.unwrap())
            .status()
            .await
            .unwrap()
            .code();
        assert_eq!(code, Some(1), "{words:?}");
    }
}

#[tokio::test]
async fn no_sessions_is_said_and_no_failure() {
    let fake = Fake::builder().start().await;
    let run = Program::run(&fake, &["sessions", "sandbox/web"]).await;
    assert_eq!(
        (run.code, run.stderr.as_str(), run.stdout.len()),
        (0, "No sessions found.\n", 0)
    );
}

#[tokio::test]
async fn stop_tries_every_id_and_keeps_the_code() {
    let fake = Fake::builder()
        .stop(|id| match id.as_str() {
            "a" => Ok(()),
            _ => Err(Failure::new(Reason::SandboxNotFound, format!("no session {id}")).into()),
        })
        .start()
        .await;
    let run = Program::run(&fake, &["stop", "b", "session/a"]).await;
    assert_eq!(run.stdout, ["session/a stopped"]);
    run.failed(3, "no session b");
    assert_eq!(fake.requests().stopped, ["b", "a"]);
}

#[tokio::test]
async fn version_asks_the_server_where_there_is_one() {
    let fake = Fake::builder().start().await;
    let run = Program::run(&fake, &["version"]).await;
    let ours = env!("CARGO_PKG_VERSION");
    assert_eq!(run.stdout[0], format!("Client Version: {ours}"));
    assert!(
        run.stdout[1].starts_with("Server Version: fake 9.8.7[2J (v1alpha1, "),
        "{run:?}"
    );
    run.is_clean();
    let run = Program::run(&fake, &["version", "--client"]).await;
    assert_eq!((run.code, run.stdout.len()), (0, 1));
    let run = Program::run(&fake, &["version", "-o", "json", "--socket", "/nowhere"]).await;
    run.failed(6, "/nowhere");
    let json: serde_json::Value = serde_json::from_str(&run.stdout.concat()).unwrap();
    assert_eq!(json["client"]["version"], ours);
    assert!(
        json["server_error"].as_str().unwrap().contains("/nowhere"),
        "{json}"
    );
    let run = Program::run(&fake, &["version", "--socket", "/nowhere"]).await;
    assert_eq!(run.stdout, [format!("Client Version: {ours}")]);
    run.failed(6, "/nowhere");
}

#[tokio::test]
async fn status_tells_what_the_server_does() {
    let fake = Fake::builder().start().await;
    let endpoint = format!("unix://{}", fake.socket.display());
    let run = Program::run(&fake, &["status", "--socket", &endpoint]).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
    assert_eq!(run.stdout[0], "Runtime:      fake 9.8.7[2J");
    run.is_clean();
    let run = Program::run(&fake, &["status", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&run.stdout.concat()).unwrap();
    assert_eq!(json["feature"]["enabled"], false);
    assert_eq!(json["conditions"][0]["message"], "asleep");
    let run = Program::run(&fake, &["status", "--socket", "/nowhere"]).await;
    run.failed(6, "/nowhere");
}

#[tokio::test]
async fn a_usage_error_does_not_ask_for_the_socket() {
    let fake = Fake::builder().start().await;
    let run = Program::run(&fake, &["stop"]).await;
    assert_eq!(run.code, 2);
    let usage = run.stderr.lines().find(|line| line.starts_with("Usage:"));
    assert!(!usage.unwrap().contains("--socket"), "{run:?}");
}

#[tokio::test]
async fn a_wrong_command_line_is_refused_before_contact() {
    let fake = Fake::builder().start().await;
    for (args, what) in [
        (
            &["forward", "sandbox/web", "65536"][..],
            "65536 is out of range",
        ),
        (&["forward", "sandbox/web", "-1"], "\"-1\" is not a number"),
        (
            &["forward", "sandbox/web", "http"],
            "\"http\" is not a number",
        ),
        (
            &["forward", "sandbox/web", "0"],
            "free port (0) needs a target",
        ),
        (&["forward", "sandbox/web", "80:0"], "target port 0"),
        (
            &["forward", "sandbox/web", "80", "localhost:80:3000"],
            "already asked for by \"80\"",
        ),
        (&["forward", "web", "80"], "write sandbox/web"),
        (
            &["forward", "sandbox/a/b", "80"],
            "characters that no id has",
        ),
        (&["forward", "pod/web", "80"], "kubectl plug-in"),
        (&["forward", "sandbox/web"], "SPEC"),
        (
            &["forward", "sandbox/web", "80", "--"],
            "command after -- is missing",
        ),
        (
            &["forward", "sandbox/web", "80", "--", ""],
            "command after -- is missing",
        ),
        (
            &[
                "forward",
                "sandbox/web",
                "80",
                "--ready-file",
                "/nowhere/ready",
                "--",
                "true",
            ],
            "/nowhere/ready cannot be written",
        ),
        (
            &["forward", "sandbox/web", "80", "--hold", "x"],
            "span of time",
        ),
        (&["sessions", "pod/web"], "kubectl plug-in"),
        (&["stop", "a/b"], "no session id"),
        (&["fetch"], "fetch"),
    ] {
        let run = Program::run(&fake, args).await;
        assert_eq!((run.code, run.stdout.len()), (2, 0), "{args:?}: {run:?}");
        assert!(run.stderr.starts_with("error: "), "{args:?}: {run:?}");
        assert!(run.stderr.contains(what), "{args:?}: {run:?}");
    }
    assert!(fake.requests().forwards.is_empty());
}

#[tokio::test]
async fn help_goes_to_standard_output() {
    let fake = Fake::builder().start().await;
    let run = Program::run(&fake, &["forward", "--help"]).await;
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(
        run.stdout
            .iter()
            .any(|line| line.contains("sternline forward sandbox/web 9003"))
    );
}
