//! Tells the program which compiler built it: instruction counts of different
//! compilers are not the same.

use std::io::Write as _;
use std::process::Command;

fn main() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc).arg("--version").output();
    let version = version.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    let target = std::env::var("TARGET").unwrap_or_default();
    let mut out = std::io::stdout();
    let told = writeln!(
        out,
        "cargo::rustc-env=STERNLINE_BENCH_COMPILER={version}, {target}"
    )
    .and_then(|()| writeln!(out, "cargo::rerun-if-changed=build.rs"));
    assert!(told.is_ok(), "cargo does not listen");
}
