//! `docs/dependencies.md` justifies each direct dependency, and no other.

use std::collections::BTreeSet;
use sternline_docs::{code, read, rows};

/// Names of `[workspace.dependencies]`, our own crates left out.
fn declared() -> BTreeSet<String> {
    let manifest = read("Cargo.toml");
    manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with("sternline-"))
        .collect()
}

/// Names that some crate of the workspace takes from there.
fn used() -> BTreeSet<String> {
    let members = read("Cargo.toml");
    let members = members
        .lines()
        .find(|line| line.starts_with("members = "))
        .expect("members");
    let mut used = BTreeSet::new();
    for member in members.split('"').skip(1).step_by(2) {
        for line in read(&format!("{member}/Cargo.toml")).lines() {
            let name = line
                .split_once(".workspace = true")
                .or_else(|| line.split_once(" = { workspace = true"))
                .map(|(name, _)| name.to_owned());
            used.extend(name);
        }
    }
    used
}

#[test]
fn each_direct_dependency_is_justified() {
    let page = read("docs/dependencies.md");
    let listed: BTreeSet<String> = rows(&page)
        .iter()
        .skip(1)
        .filter_map(|row| code(row.first()?).next().map(str::to_owned))
        .collect();
    assert_eq!(listed, declared());
}

#[test]
fn no_dependency_is_declared_and_not_used() {
    let used = used();
    for name in declared() {
        assert!(used.contains(&name), "{name} is declared and not used");
    }
}
