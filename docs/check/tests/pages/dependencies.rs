//! `docs/dependencies.md` justifies each direct dependency, and no other.

use std::collections::BTreeSet;
use sternline_docs::{code, read, root, rows, sources};

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

/// The crates of the workspace, as their directories.
fn members() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let line = manifest.lines().find(|line| line.starts_with("members = "));
    let names = line.expect("members").split('"').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

/// What a crate takes from there.
fn taken(member: &str) -> BTreeSet<String> {
    read(&format!("{member}/Cargo.toml"))
        .lines()
        .filter_map(|line| {
            line.split_once(".workspace = true")
                .or_else(|| line.split_once(" = { workspace = true"))
        })
        .map(|(name, _)| name.to_owned())
        .collect()
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
    let (mut used, mut idle) = (BTreeSet::new(), Vec::new());
    for member in members() {
        let taken = taken(&member);
        let text = sources(&root().join(&member));
        for name in taken.intersection(&declared()) {
            let path = format!("{}::", name.replace('-', "_"));
            // The generated code of the protos is no file of ours.
            let generated = member == "api" && name == "tonic-prost";
            if !text.contains(&path) && !generated {
                idle.push(format!("{member}/Cargo.toml: {name}"));
            }
        }
        used.extend(taken);
    }
    for name in declared().difference(&used) {
        idle.push(format!("Cargo.toml: {name}"));
    }
    assert!(idle.is_empty(), "declared and not used: {idle:?}");
}
