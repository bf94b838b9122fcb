//! What is made for `share/` is whole, and correct to those who read it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use sternline_share::{COMPLETIONS, Page, pages};

fn flags(page: &Page) -> Vec<String> {
    let flags = page.command().get_arguments();
    let visible = flags.filter(|flag| !flag.is_hide_set());
    visible
        .filter_map(|flag| Some(format!("\\-\\-{}", flag.get_long()?.replace('-', "\\-"))))
        .collect()
}

fn headings(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix(".SH "))
        .map(|heading| heading.trim_matches('"').to_owned())
        .collect()
}

#[test]
fn every_program_and_command_has_a_page() {
    let names: BTreeSet<String> = pages().iter().map(Page::reference).collect();
    let expected = [
        "sternline(1)",
        "sternline-completion(1)",
        "sternline-conformance(1)",
        "sternline-forward(1)",
        "sternline-gateway(8)",
        "sternline-gateway-serve(8)",
        "sternline-kubectl(1)",
        "sternline-kubectl-doctor(1)",
        "sternline-sessions(1)",
        "sternline-shim(8)",
        "sternline-shim-binder(8)",
        "sternline-shim-serve(8)",
        "sternline-status(1)",
        "sternline-stop(1)",
        "sternline-version(1)",
    ];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn every_page_has_its_sections_and_every_flag() {
    for page in pages() {
        let (name, text) = (page.reference(), page.roff().unwrap());
        let headings = headings(&text);
        for wanted in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXAMPLES",
            "EXIT STATUS",
            "SEE ALSO",
        ] {
            let count = headings.iter().filter(|h| *h == wanted).count();
            assert_eq!(count, 1, "{name}: {wanted} in {headings:?}");
        }
        for flag in flags(&page) {
            assert!(text.contains(&flag), "{name}: {flag} is missing");
        }
    }
}

#[test]
fn pages_name_pages_that_exist() {
    let names: BTreeSet<String> = pages().iter().map(Page::reference).collect();
    for page in pages() {
        let text = page.roff().unwrap().replace("\\-", "-");
        let (_, see) = text.split_once(".SH \"SEE ALSO\"\n").unwrap();
        let see: Vec<&str> = see.lines().map(|line| line.trim_end_matches(',')).collect();
        assert!(
            !see.contains(&page.reference().as_str()),
            "{see:?} names itself"
        );
        for other in see.iter().filter(|other| other.starts_with("sternline")) {
            assert!(
                names.contains(*other),
                "{}: no page {other}",
                page.reference()
            );
        }
    }
}

#[test]
fn groff_has_nothing_to_warn_of() {
    let directory = tempfile::tempdir().unwrap();
    sternline_share::write(directory.path()).unwrap();
    for page in pages() {
        let file = directory.path().join(page.path());
        let done = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-rCHECKSTYLE=3"])
            .arg(&file)
            .output()
            .expect("groff: hack/install-test-deps installs it");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success() && said.is_empty(),
            "{}: {said}",
            file.display()
        );
        let shown = String::from_utf8_lossy(&done.stdout).to_uppercase();
        assert!(shown.contains(&page.name().to_uppercase()), "{shown}");
    }
}

#[test]
fn each_file_is_where_its_reader_looks() {
    let directory = tempfile::tempdir().unwrap();
    sternline_share::write(directory.path()).unwrap();
    let there = |path: &Path| directory.path().join(path).is_file();
    assert!(there(Path::new("man/man8/sternline-shim.8")));
    for (shell, path) in COMPLETIONS {
        assert!(there(Path::new(path)), "{shell:?}: {path}");
    }
}
