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
