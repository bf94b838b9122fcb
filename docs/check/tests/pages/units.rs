//! The units in `deploy/systemd` start what there is.

use clap::Parser as _;
use sternline_docs::{code, read, root, section};
use sternline_shim::config::{Cli, Command};

const DIRECTORY: &str = "deploy/systemd";

/// The units, by their names.
fn units() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(root().join(DIRECTORY)).expect("a directory");
    let names = entries.map(|entry| entry.expect("a file").file_name());
    let mut units: Vec<_> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.ends_with(".service"))
        .map(|name| {
            let text = read(&format!("{DIRECTORY}/{name}"));
            (name, text)
        })
        .collect();
    units.sort();
    units
}

/// The values of a directive, in the order of the file.
fn values<'a>(unit: &'a str, directive: &'a str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == directive)
        .map(|(_, value)| value)
        .collect()
}

/// The command line of a unit, with the flags that its comment shows in the place
/// of the variable for them.
fn command(unit: &str) -> Vec<String> {
    let start = values(unit, "ExecStart");
    assert_eq!(start.len(), 1, "{start:?}");
    let words = start[0].split_whitespace().flat_map(|word| {
        let Some(variable) = word.strip_prefix('$') else {
            return vec![word.to_owned()];
        };
        let shown = unit
            .lines()
            .filter(|line| line.starts_with('#'))
            .find_map(|line| line.split_once(&format!("{variable}=")));
        let (_, shown) = shown.unwrap_or_else(|| panic!("no example of {variable}"));
        shown.split_whitespace().map(str::to_owned).collect()
    });
    words.collect()
}

#[test]
fn the_program_reads_the_flags_of_every_unit() {
    let units = units();
    assert!(units.len() >= 3, "only {} units", units.len());
    for (name, unit) in &units {
        let words = command(unit);
        assert_eq!(words[0], "/usr/local/bin/sternline-shim", "{name}");
        assert!(words.iter().any(|word| word.starts_with("--")), "{name}");
        if let Err(error) = Cli::try_parse_from(&words) {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn the_two_processes_of_the_units_find_each_other() {
    let unit = |name: &str| read(&format!("{DIRECTORY}/{name}"));
    let (binder, serve) = (
        unit("sternline-binder.service"),
        unit("sternline-serve.service"),
    );
    let parsed = |unit| Cli::try_parse_from(command(unit)).expect("flags").command;
    let (Command::Binder(of_binder), Command::Serve(of_serve)) = (parsed(&binder), parsed(&serve))
    else {
        panic!("each starts its own half");
    };
    let address = of_serve.separation.binder.expect("beside a binder");
    assert_eq!(address.path(), of_binder.socket);
    let users = unit("sternline.sysusers.conf");
    let user = format!("u sternline {} ", of_binder.serve_uid.expect("a number"));
    assert!(users.lines().any(|line| line.starts_with(&user)), "{users}");
    assert_eq!(values(&serve, "User"), ["sternline"]);
    assert_eq!(values(&serve, "CapabilityBoundingSet"), [""]);
    for (config, unit) in [(&of_binder.socket, &binder), (&of_serve.socket, &serve)] {
        let made = format!("/run/{}", values(unit, "RuntimeDirectory").join(" "));
        assert_eq!(config.parent().and_then(|dir| dir.to_str()), Some(&*made));
    }
    // A binder that is restarted must not take serve and its sessions with it.
    for bond in ["BindsTo", "Requires", "Requisite", "PartOf"] {
        assert!(values(&serve, bond).is_empty(), "{bond}");
    }
}

#[test]
fn the_page_tells_how_each_unit_is_installed() {
    let page = read("docs/operations.md");
    let told = section(&page, "### As a service");
    for (name, unit) in units() {
        let name = name.trim_end_matches(".service").to_owned();
        assert!(
            told.contains(&format!("{DIRECTORY}/{name}.service")),
            "{name}"
        );
        let enabled = told.lines().filter(|line| line.contains("enable --now"));
        assert!(
            enabled
                .flat_map(str::split_whitespace)
                .any(|word| word == name),
            "{name} is not enabled"
        );
        for file in values(&unit, "EnvironmentFile") {
            let file = file.trim_start_matches('-');
            assert!(code(told).any(|word| word == file), "{file}");
        }
    }
}
