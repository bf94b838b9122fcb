//! `docs/requirements.md` lists every requirement, and every test that it names
//! exists.

use std::collections::BTreeMap;
use std::fs;
use sternline_docs::{code, read, root, rows};

/// The areas of requirements, each with its highest number.
const AREAS: [(&str, u32); 4] = [("S", 8), ("P", 18), ("R", 11), ("U", 16)];

/// Rows of the page: id, its tests, its state.
fn listed() -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for row in rows(&read("docs/requirements.md")) {
        let [id, _, state, tests] = row.as_slice() else {
            continue;
        };
        if id == "id" {
            continue;
        }
        let twice = all.insert(id.clone(), (tests.clone(), state.clone()));
        assert!(twice.is_none(), "{id} stands twice");
    }
    all
}

#[test]
fn every_requirement_is_listed_once() {
    let listed = listed();
    let expected: Vec<String> = AREAS
        .iter()
        .flat_map(|(area, last)| (1..=*last).map(move |n| format!("{area}{n}")))
        .collect();
    for id in &expected {
        assert!(listed.contains_key(id), "{id} is not listed");
    }
    assert_eq!(listed.len(), expected.len(), "rows for unknown ids");
}

#[test]
fn what_is_not_open_names_a_test() {
    for (id, (tests, state)) in listed() {
        match state.as_str() {
            "yes" | "partly" => assert!(code(&tests).count() > 0, "{id} names no test"),
            "open" => {}
            other => panic!("{id}: {other:?} is none of yes, partly, open"),
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let mut seen = 0;
    for (id, (tests, _)) in listed() {
        for named in code(&tests) {
            seen += 1;
            let (path, name) = named
                .split_once("::")
                .unwrap_or_else(|| panic!("{id}: {named} is not of the form FILE::TEST"));
            let text = fs::read_to_string(root().join(path))
                .unwrap_or_else(|error| panic!("{id}: {path}: {error}"));
            assert!(is_test(&text, name), "{id}: {path} has no test {name}");
        }
    }
    assert!(seen > 0, "no test is named at all");
}

/// Whether a file has a test function of this name: marked by an attribute, by
/// a macro that stands around it alone, or named again in the list of a harness
/// of its own.
fn is_test(text: &str, name: &str) -> bool {
    let Some(at) = text.find(&format!("fn {name}(")) else {
        return false;
    };
    let before = text[..at].trim_end().trim_end_matches("async").trim_end();
    let marked = before
        .lines()
        .rev()
        .map(str::trim)
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
        .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    let listed = text.lines().any(|line| {
        let line = line.trim().trim_end_matches([',', ';']);
        line == name
    });
    marked || listed || before.ends_with("! {")
}
