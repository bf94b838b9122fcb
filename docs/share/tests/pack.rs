//! `hack/pack`: the archive of a release, here of small programs in place of ours.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAMS: [&str; 4] = [
    "sternline",
    "sternline-shim",
    "sternline-gateway",
    "sternline-conformance",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "linux-arm64",
        _ => "linux-amd64",
    }
}

/// A directory with programs that a C compiler made, linked as the flags say.
fn programs(flags: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("program.c");
    let text = "#include <stdio.h>\nint main(void) { return puts(\"program 1\") < 0; }\n";
    fs::write(&source, text).unwrap();
    for program in PROGRAMS {
        let done = Command::new("cc")
            .args(flags)
            .arg("-o")
            .args([&directory.path().join(program), &source])
            .status();
        assert!(done.expect("a C compiler").success());
    }
    directory
}

fn pack(platform: &str, programs: &Path, out: &Path, mask: &str) -> Output {
    let share = tempfile::tempdir().unwrap();
    sternline_share::write(share.path()).unwrap();
    Command::new("sh")
        .args(["-c", "umask $0 && exec hack/pack \"$@\"", mask, platform])
        .args([programs, share.path(), out])
        .current_dir(root())
        .env("SOURCE_DATE_EPOCH", "1000000000")
        .output()
        .unwrap()
}

/// Packs, and returns where the archive is.
fn packed(programs: &Path, out: &Path, mask: &str) -> PathBuf {
    let done = pack(platform(), programs, out, mask);
    assert!(done.status.success(), "{done:?}");
    let mut files = fs::read_dir(out).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

#[test]
fn the_archive_has_what_an_installation_needs_and_belongs_to_root() {
    let (programs, out) = (programs(&["-static"]), tempfile::tempdir().unwrap());
    let archive = packed(programs.path(), out.path(), "022");
    let done = Command::new("tar")
        .args(["--list", "--verbose", "--utc", "--file"])
        .arg(archive)
        .output()
        .unwrap();
    let list = String::from_utf8(done.stdout).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for (mode, file) in [
        ("-rwxr-xr-x", "bin/sternline"),
        ("-rwxr-xr-x", "bin/sternline-shim"),
        ("-rwxr-xr-x", "bin/sternline-gateway"),
        ("-rwxr-xr-x", "bin/sternline-conformance"),
        ("-rw-r--r--", "lib/systemd/system/sternline-shim.service"),
        ("-rw-r--r--", "lib/systemd/system/sternline-binder.service"),
        ("-rw-r--r--", "lib/systemd/system/sternline-serve.service"),
        ("-rw-r--r--", "lib/sysusers.d/sternline.conf"),
        ("-rw-r--r--", "share/doc/sternline/LICENSE"),
        ("-rw-r--r--", "share/man/man1/sternline-forward.1"),
        ("-rw-r--r--", "share/man/man8/sternline-shim.8"),
        ("-rw-r--r--", "share/man/man8/sternline-gateway.8"),
        ("-rw-r--r--", "share/bash-completion/completions/sternline"),
    ] {
        let path = format!(" sternline-{version}-{}/{file}", platform());
        let mut lines = list.lines();
        let line = lines.find(|line| line.ends_with(&path));
        let line = line.unwrap_or_else(|| panic!("no {path}:\n{list}"));
        assert!(line.starts_with(mode), "{line}");
    }
    for line in list.lines() {
        assert!(line.contains(" 0/0 "), "{line}");
        assert!(line.contains(" 2001-09-09 01:46 "), "{line}");
    }
}

#[test]
fn the_archive_is_the_same_whoever_packs_and_whenever() {
    let programs = programs(&["-static"]);
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = fs::read(packed(programs.path(), one.path(), "022")).unwrap();
    let shim = programs.path().join("sternline-shim");
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o700)).unwrap();
    let two = fs::read(packed(programs.path(), two.path(), "077")).unwrap();
    assert!(one == two, "{} and {} bytes", one.len(), two.len());
}

#[test]
fn a_program_that_needs_a_library_is_refused() {
    let (programs, out) = (programs(&[]), tempfile::tempdir().unwrap());
    let done = pack(platform(), programs.path(), out.path(), "022");
    assert!(!done.status.success(), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("not statically linked"), "{said}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn a_program_of_another_machine_is_refused() {
    let (programs, out) = (programs(&["-static"]), tempfile::tempdir().unwrap());
    let other = match platform() {
        "linux-amd64" => "linux-arm64",
        _ => "linux-amd64",
    };
    let done = pack(other, programs.path(), out.path(), "022");
    assert!(!done.status.success(), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains(&format!("not for {other}")), "{said}");
}
