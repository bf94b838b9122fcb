//! The program: what it refuses before it looks at any node.

use std::{
    fs,
    process::{Command, Output},
};

/// Runs it against an endpoint that is not there.
fn conformance(flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sternline-conformance"));
    command.args(["--endpoint", "/nowhere/call.sock", "--standalone"]);
    command.args(flags).output().expect("the program runs")
}

#[track_caller]
fn refused(flags: &[&str], code: i32, part: &str) {
    let output = conformance(flags);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
    assert!(said.contains(part), "{flags:?}: {part:?} is not in {said}");
    assert!(
        !said.contains("/nowhere"),
        "the endpoint came first: {said}"
    );
}

#[test]
fn numbers_that_let_nothing_run_are_usage_errors() {
    for flag in ["--timeout", "--parallel", "--patience"] {
        refused(&[flag, "0"], 2, flag);
    }
}

#[test]
fn a_report_that_cannot_be_written_is_noticed_first() {
    let file = std::env::temp_dir().join(format!("sternline-no-directory-{}", std::process::id()));
    fs::write(&file, "").expect("a file");
    let path = file.to_str().expect("plain letters");
    refused(&["--report-dir", path], 3, path);
    refused(
        &["--report-dir", path, "--report-prefix", "a/b"],
        2,
        "--report-prefix \"a/b\"",
    );
    fs::remove_file(&file).expect("ours");
}

#[test]
fn the_authorities_of_a_certificate_may_be_in_the_file() {
    let dir = std::env::temp_dir().join(format!("sternline-config-{}", std::process::id()));
    fs::create_dir(&dir).expect("a directory");
    let [config, none] = ["config", "none"].map(|name| dir.join(name));
    fs::write(&config, "tls-ca: ca.pem\n").expect("a file");
    fs::write(&none, "").expect("a file");
    let [config, none] = [&config, &none].map(|path| path.to_str().expect("plain letters"));
    let flags = ["--tls-cert", "own.pem", "--tls-key", "own.key"];
    refused(&flags, 2, "--tls-ca");
    refused(&[&flags[..], &["--config", none]].concat(), 2, "--tls-ca");
    // It goes on as far as the endpoint, which is not there.
    let output = conformance(&[&flags[..], &["--config", config]].concat());
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    fs::remove_dir_all(&dir).expect("ours");
}
