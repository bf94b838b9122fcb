//! `docs/operations.md` lists the flags and metrics of the gateway.

use clap::CommandFactory as _;
use std::collections::{BTreeMap, BTreeSet};
use sternline_api::Reason;
use sternline_docs::{read, rows, section};
use sternline_gateway::config::Cli;
use sternline_gateway::metrics::{ALL, Kind};

const PAGE: &str = "docs/operations.md";

/// Long flags with their defaults.
fn flags(command: &clap::Command) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for flag in command.get_arguments() {
        let name = flag.get_long();
        let Some(name) = name.filter(|name| !["help", "version"].contains(name)) else {
            continue;
        };
        let default = flag.get_default_values().iter();
        let default: Vec<_> = default.filter_map(|value| value.to_str()).collect();
        let default = match default.join(" ") {
            _ if !flag.get_action().takes_values() => "off".to_owned(),
            other => other,
        };
        found.insert((format!("--{name}"), default));
    }
    found
}

#[test]
fn every_flag_is_listed_with_its_default() {
    let page = read(PAGE);
    let table = rows(section(&page, "### Flags of `sternline-gateway`"));
    let table = table.into_iter().skip(1);
    let listed: BTreeSet<(String, String)> = table
        .map(|row| (row[0].replace('`', ""), row[1].replace('`', "")))
        .collect();
    let cli = Cli::command();
    assert_eq!(listed, flags(&cli));
    let serve = cli.find_subcommand("serve").expect("serve");
    assert_eq!(listed, flags(serve), "the word changes nothing");
}

#[test]
fn every_metric_is_listed_and_every_label_bounded() {
    let page = read(PAGE);
    let table = rows(section(&page, "### Metrics of the gateway"));
    let listed: Vec<Vec<String>> = table
        .iter()
        .filter(|row| row[0].starts_with("`sternline_"))
        .map(|row| row[..3].iter().map(|cell| cell.replace('`', "")).collect())
        .collect();
    let kind = |kind| match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let real = ALL.iter().map(|metric| {
        let labels = metric.labels.join(", ");
        vec![metric.name.to_owned(), kind(metric.kind).to_owned(), labels]
    });
    assert_eq!(listed, real.collect::<Vec<_>>());

    let bounded: BTreeMap<String, usize> = table
        .iter()
        .filter(|row| row.len() == 3 && row[0] != "label")
        .map(|row| (row[0].replace('`', ""), row[1].parse().expect("a number")))
        .collect();
    let labels = ALL.iter().flat_map(|metric| metric.labels);
    let labels: BTreeSet<String> = labels.map(ToString::to_string).collect();
    assert_eq!(bounded.keys().cloned().collect::<BTreeSet<_>>(), labels);
    // `ok` and `unauthenticated` on top.
    assert!(Reason::ALL.len() + 2 <= bounded["result"]);
}
