//! Programs as a kubeconfig names them, made of a shell.

use super::super::kubeconfig::{Exec, Secret, Variable};
use super::*;
use std::time::UNIX_EPOCH;

/// 2030-01-01, so many seconds before what the programs below say.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_893_456_000 - 60)
}

fn late() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_893_456_000 - 5)
}

/// A program that writes down each run and answers with the number of runs.
fn program(log: &Path, status: &str) -> Exec {
    let script = r#"echo "$KUBERNETES_EXEC_INFO" >> "$LOG"
n=$(wc -l < "$LOG" | tr -d ' ')
echo "{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"t$n\"$STATUS}}""#;
    let variable = |name: &str, value: &str| Variable {
        name: name.to_owned(),
        value: Secret(value.to_owned()),
    };
    Exec {
        api_version: "client.authentication.k8s.io/v1".to_owned(),
        command: "sh".to_owned(),
        args: Some(vec!["-c".to_owned(), script.to_owned()]),
        env: Some(vec![
            variable("LOG", log.to_str().expect("text")),
            variable("STATUS", status),
        ]),
        provide_cluster_info: true,
        interactive_mode: Some("Never".to_owned()),
        ..Exec::default()
    }
}

fn credentials(auth: Auth, clock: Clock) -> Credentials {
    Credentials {
        auth,
        identity: None,
        info: ClusterInfo::default(),
        held: None,
        clock,
        latest: Mutex::default(),
    }
}

fn said(pass: &Pass) -> &str {
    let value = pass.authorization.as_ref().expect("something");
    assert!(value.is_sensitive());
    value.to_str().expect("text")
}

#[tokio::test]
async fn a_program_runs_once_as_long_as_its_answer_is_valid() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let ends = r#","expirationTimestamp":"2030-01-01T00:00:00Z""#;
    let mut credentials = credentials(Auth::Exec(Box::new(program(&log, ends))), noon);
    for fresh in [true, false, false] {
        let pass = credentials.get(None).await.expect("a pass");
        assert_eq!((said(&pass), pass.is_fresh), ("Bearer t1", fresh));
    }
    // Refused, though valid: asked again, and once for all that were refused.
    for _ in 0..2 {
        let pass = credentials.get(Some(1)).await.expect("a pass");
        assert_eq!((said(&pass), pass.answer), ("Bearer t2", 2));
    }
    credentials.clock = late;
    let pass = credentials.get(None).await.expect("a pass");
    assert_eq!(said(&pass), "Bearer t3");
    let asked = std::fs::read_to_string(&log).expect("a log");
    assert_eq!(asked.lines().count(), 3, "{asked}");
    let question: serde_json::Value =
        serde_json::from_str(asked.lines().next().expect("a line")).expect("JSON");
    assert_eq!(question["kind"], "ExecCredential");
    assert_eq!(question["spec"]["interactive"], false);
    assert_eq!(question["spec"]["cluster"]["server"], "");
}

#[tokio::test]
async fn an_answer_without_an_end_is_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let exec = program(&dir.path().join("log"), "");
    let credentials = credentials(Auth::Exec(Box::new(exec)), late);
    for _ in 0..3 {
        let pass = credentials.get(None).await.expect("a pass");
        assert_eq!(said(&pass), "Bearer t1");
    }
}

#[tokio::test]
async fn a_program_that_fails_is_named_with_its_hint() {
    let exec = |command: &str, args: &[&str]| Exec {
        api_version: "client.authentication.k8s.io/v1".to_owned(),
        command: command.to_owned(),
        args: Some(args.iter().map(|one| (*one).to_owned()).collect()),
        install_hint: Some("get it from\nthe shop\x1b[2J".to_owned()),
        ..Exec::default()
    };
    for (exec, what) in [
        (exec("no-such-program", &[]), "get it from the shop[2J"),
        (exec("sh", &["-c", "exit 3"]), "failed with exit status: 3"),
        (
            exec("sh", &["-c", "echo nothing"]),
            "ExecCredential in JSON",
        ),
        (Exec::default(), "apiVersion"),
    ] {
        let credentials = credentials(Auth::Exec(Box::new(exec)), noon);
        let fault = credentials.get(None).await.expect_err(what);
        assert!(fault.message.contains(what), "{fault}");
    }
}

#[tokio::test]
async fn tokens_of_files_are_read_anew_and_names_are_encoded() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    let credentials_of_file = credentials(Auth::TokenFile(file.clone()), noon);
    assert!(credentials_of_file.get(None).await.is_err());
    for token in ["one", "two"] {
        std::fs::write(&file, format!("{token}\n")).expect("written");
        let pass = credentials_of_file.get(None).await.expect("a pass");
        assert_eq!(said(&pass), format!("Bearer {token}"));
    }
    let basic = credentials(Auth::Basic("a".into(), Secret("b".into())), noon);
    assert_eq!(said(&basic.get(None).await.expect("a pass")), "Basic YTpi");
    let broken = credentials(Auth::Token(Secret("a\nb".into())), noon);
    let fault = broken.get(None).await.expect_err("no header");
    assert!(!fault.message.contains("a\nb"), "{fault}");
}
