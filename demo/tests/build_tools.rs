//! `need-build-tools.sh` installs a missing C compiler where it may, and else
//! names the command that does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A machine on whose PATH are only these programs, each a line of shell.
fn on_a_machine_with(programs: &[(&str, &str)]) -> Output {
    let bin = TempDir::new().expect("a scratch directory");
    for (name, line) in programs {
        let path = bin.path().join(name);
        let line = line.replace("BIN", bin.path().to_str().expect("a plain path"));
        fs::write(&path, format!("#!/bin/sh\n{line}\n")).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    Command::new("/bin/sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/need-build-tools.sh"))
        .env("PATH", bin.path())
        .output()
        .expect("a shell")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An apt-get that "installs" a compiler.
const APT: (&str, &str) = (
    "apt-get",
    "if [ \"$1\" = install ]; then echo '#!/bin/sh' >BIN/cc; /bin/chmod +x BIN/cc; fi",
);

#[test]
fn with_everything_there_it_does_nothing() {
    let output = on_a_machine_with(&[("cargo", "exit 9"), ("cc", "exit 9")]);
    assert!(output.status.success(), "{}", errors(&output));
    assert!(output.stdout.is_empty());
}

#[test]
fn root_gets_the_compiler_installed() {
    let output = on_a_machine_with(&[("cargo", ""), ("id", "echo 0"), APT]);
    assert!(output.status.success(), "{}", errors(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Installing a C compiler"));
}

#[test]
fn others_are_told_the_command() {
    let output = on_a_machine_with(&[("cargo", ""), ("id", "echo 1000"), APT]);
    assert_eq!(output.status.code(), Some(1));
    let errors = errors(&output);
    assert!(errors.contains("sudo apt-get install"), "{errors}");
    assert!(errors.contains("gcc"), "{errors}");
}

#[test]
fn an_installation_that_brings_no_compiler_fails() {
    let output = on_a_machine_with(&[("cargo", ""), ("id", "echo 0"), ("dnf", "exit 0")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("still no cc"));
}

#[test]
fn a_machine_without_cargo_is_told_so() {
    let output = on_a_machine_with(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("cargo is not on the PATH"));
}
