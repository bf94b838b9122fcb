//! `docs/operations.md` lists the flags, limits, metrics, words and log lines
//! that there are.

use clap::CommandFactory as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use sternline_api::Reason;
use sternline_docs::{code, read, root, rows, section, sources};
use sternline_shim::limits::Limits;
use sternline_shim::metrics::{self, Exporter, Kind};
use sternline_tunnel::budget::{ProcessBudget, Traffic};

const PAGE: &str = "docs/operations.md";

/// Long flags of a command with their defaults, `--help` and `--version` left
/// out.
fn flags(command: &clap::Command) -> Vec<(String, String)> {
    command
        .get_arguments()
        .filter_map(|flag| {
            let name = flag
                .get_long()
                .filter(|n| !["help", "version"].contains(n))?;
            let default = flag.get_default_values().iter();
            let default: Vec<_> = default.filter_map(|value| value.to_str()).collect();
            let default = match default.join(" ").as_str() {
                _ if !flag.get_action().takes_values() => "off".to_owned(),
                other => other.to_owned(),
            };
            Some((format!("--{name}"), default))
        })
        .collect()
}

#[test]
fn every_flag_of_the_shim_is_listed_with_its_default() {
    let page = read(PAGE);
    let cli = sternline_shim::config::Cli::command();
    for name in ["serve", "binder"] {
        let table = section(&page, &format!("### Flags of `sternline-shim {name}`"));
        let mut listed: Vec<(String, String)> = rows(table)
            .into_iter()
            .skip(1)
            .map(|row| (row[0].replace('`', ""), row[1].replace('`', "")))
            .collect();
        let mut real = flags(cli.find_subcommand(name).expect(name));
        listed.sort();
        real.sort();
        assert_eq!(listed, real, "{name}");
    }
    let known = cli.get_subcommands().count();
    assert_eq!(known, 2, "a subcommand whose flags nobody looks at");
}

#[test]
fn every_flag_of_the_command_line_is_listed() {
    let page = read(PAGE);
    let text = section(&page, "## The command line");
    let mut cli = sternline_cli::args::Cli::command();
    // Global flags belong to every subcommand only once it is built.
    cli.build();
    for command in cli.get_subcommands().filter(|c| c.get_name() != "help") {
        for (flag, _) in flags(command) {
            let listed = text.contains(&format!("`{flag}`")) || text.contains(&format!("`{flag} "));
            assert!(
                listed,
                "{PAGE} does not list {flag} of {}",
                command.get_name()
            );
        }
    }
}

/// Flags of both programs that take a span of time, by their type.
#[test]
fn a_span_of_time_has_one_name_in_every_help() {
    let (mut cli, mut shim) = (
        sternline_cli::args::Cli::command(),
        sternline_shim::config::Cli::command(),
    );
    cli.build();
    shim.build();
    let mut seen = 0;
    for command in cli.get_subcommands().chain(shim.get_subcommands()) {
        for flag in command.get_arguments() {
            if flag.get_value_parser().type_id() != std::any::TypeId::of::<Duration>() {
                continue;
            }
            let names = flag.get_value_names().unwrap_or_default();
            assert_eq!(names, ["SPAN"], "{} {flag}", command.get_name());
            seen += 1;
        }
    }
    assert!(seen > 8, "only {seen} flags");
}

#[test]
fn the_ends_of_connections_are_those_of_the_command_line() {
    let page = read(PAGE);
    let table = section(&page, "## The command line");
    let table = table
        .split("| `end` of `closed` |")
        .nth(1)
        .expect("a table");
    let table = table.split("\n\n").next().unwrap_or(table);
    let listed: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.trim().strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    let source = read("cli/src/forward/connection.rs");
    let (_, labels) = source.split_once("fn end_label").expect("the words");
    let reasons = labels.split("Reason::").skip(1).map(|rest| {
        let name: String = rest
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        let reason = Reason::ALL.iter().find(|r| format!("{r:?}") == name);
        reason
            .unwrap_or_else(|| panic!("no {name}"))
            .label()
            .to_owned()
    });
    let real: BTreeSet<String> = reasons.chain(["clean".to_owned()]).collect();
    assert_eq!(listed, real);
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

#[test]
fn every_metric_is_listed() {
    let page = read(PAGE);
    let listed: Vec<Vec<String>> = rows(section(&page, "## Metrics"))
        .into_iter()
        .filter(|row| row[0].starts_with("`sternline_"))
        .map(|row| row[..3].iter().map(|cell| cell.replace('`', "")).collect())
        .collect();
    let real: Vec<Vec<String>> = metrics::ALL
        .iter()
        .map(|metric| {
            vec![
                metric.name.to_owned(),
                kind(metric.kind).to_owned(),
                metric.labels.join(", "),
            ]
        })
        .collect();
    assert_eq!(listed, real);
}

#[test]
fn every_label_has_a_bound() {
    let page = read(PAGE);
    let bounded: BTreeMap<String, usize> = rows(section(&page, "## Metrics"))
        .into_iter()
        .filter(|row| row.len() == 3 && row[0] != "label")
        .map(|row| (row[0].replace('`', ""), row[1].parse().expect("a number")))
        .collect();
    let labels = metrics::ALL.iter().flat_map(|metric| metric.labels);
    let labels: BTreeSet<String> = labels.map(ToString::to_string).collect();
    assert_eq!(bounded.keys().cloned().collect::<BTreeSet<_>>(), labels);
    for of_the_table in ["status", "reason", "type", "end"] {
        // `ok` and `session_ended` on top.
        assert!(
            Reason::ALL.len() + 2 <= bounded[of_the_table],
            "{of_the_table}"
        );
    }
}

/// The label names of a line such as `name{a="1",b="2"} 3`, without those that
/// the format itself adds.
fn labels(line: &str) -> Vec<String> {
    let inside = line
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let pairs = inside.map_or("", |(inside, _)| inside).split(',');
    let names = pairs
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, _)| name.trim());
    names
        .filter(|name| *name != "le" && *name != "quantile")
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_is_served_is_what_is_listed() {
    let traffic = Arc::new(Traffic::default());
    let exporter = Exporter::install(traffic, ProcessBudget::new(1)).expect("the first");
    // Everything happens once, so that everything is served.
    let _active = (
        metrics::Active::connection(),
        metrics::Active::listener(),
        metrics::Active::session(),
        metrics::Active::tunnel(),
    );
    metrics::connection_ended("ok", Duration::from_millis(1));
    metrics::rejected(Reason::ConnectionLimit);
    metrics::session_ended(Reason::Done);
    metrics::failed(Reason::PortInUse);
    metrics::called("Version", tonic::Code::Ok);
    metrics::set_up(Duration::from_millis(1));
    metrics::handshake("ok");
    metrics::certificate_expires(std::time::SystemTime::now());
    metrics::certificate_reloaded(true);
    metrics::limits(&Limits::default(), 1024);
    let text = exporter.render();

    let mut served: Vec<(String, String, Vec<String>)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| {
            let sample = text
                .lines()
                .find(|line| {
                    line.starts_with(&format!("{name}{{"))
                        || line.starts_with(&format!("{name}_bucket{{"))
                })
                .unwrap_or_default();
            (name.to_owned(), kind.to_owned(), labels(sample))
        })
        .collect();
    let mut listed: Vec<_> = metrics::ALL
        .iter()
        .map(|m| {
            let labels = m.labels.iter().map(ToString::to_string).collect();
            (m.name.to_owned(), kind(m.kind).to_owned(), labels)
        })
        .collect();
    served.sort();
    listed.sort();
    assert_eq!(served, listed);
}

#[test]
fn refusals_are_listed_with_words_and_exit_codes_of_the_error_table() {
    let page = read(PAGE);
    let mut seen = 0;
    for row in rows(section(&page, "### What the call refuses"))
        .iter()
        .skip(1)
    {
        for word in code(&row[0]) {
            let reason = Reason::from_label(word).unwrap_or_else(|| panic!("no word {word}"));
            assert_eq!(row[1], reason.exit().to_string(), "{word}");
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} words");
}

#[test]
fn the_steps_of_the_set_up_are_logged_as_the_page_says() {
    let page = read(PAGE);
    let section = section(&page, "### The forward does not come up");
    let (cli, shim) = section.split_once("sternline-shim serve -v").expect("both");
    for (part, table) in [("cli/src", cli), ("shim/src", shim)] {
        let source = sources(&root().join(part));
        let table = rows(table);
        let lines: Vec<&str> = table.iter().flat_map(|row| code(&row[0])).collect();
        assert!(lines.len() > 4, "only {lines:?}");
        for line in lines {
            let logged = source.contains(&format!("\"{line}\""));
            assert!(logged, "nothing in {part} logs {line:?}");
        }
    }
}
