//! `hack/krew`: the manifest by which krew installs the plug-in.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn krew(url: &str, sums: &str) -> Output {
    let dist = tempfile::tempdir().unwrap();
    std::fs::write(dist.path().join("SHA256SUMS"), sums).unwrap();
    Command::new("hack/krew")
        .args(["https://example.com/sternline", url])
        .arg(dist.path())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .output()
        .unwrap()
}

fn sums() -> String {
    let sum = |digit: &str, platform: &str| {
        format!(
            "{}  sternline-{VERSION}-{platform}.tar.gz\n",
            digit.repeat(64)
        )
    };
    sum("a", "linux-amd64") + &sum("b", "linux-arm64")
}

#[test]
fn the_manifest_names_each_archive_with_its_sum() {
    let done = krew("https://example.com/v1/", &sums());
    assert!(done.status.success(), "{done:?}");
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(!text.contains('@'), "{text}");
    for (platform, digit) in [("linux-amd64", "a"), ("linux-arm64", "b")] {
        let entry = format!(
            "uri: https://example.com/v1/sternline-{VERSION}-{platform}.tar.gz\n      sha256: {}\n",
            digit.repeat(64)
        );
        assert!(text.contains(&entry), "{entry}: {text}");
    }
    assert!(text.contains(&format!("version: v{VERSION}\n")), "{text}");
}

#[test]
fn without_a_sum_or_a_url_there_is_no_manifest() {
    let amd64 = sums().lines().next().unwrap().to_owned();
    for (url, sums, says) in [
        ("https://example.com", amd64, "no sum of sternline"),
        ("http://example.com", sums(), "no https URL"),
        ("https://example.com/a|b", sums(), "no URL"),
    ] {
        let done = krew(url, &sums);
        assert!(!done.status.success() && done.stdout.is_empty(), "{done:?}");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains(says), "{says}: {said}");
    }
}
