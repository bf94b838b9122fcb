//! Completion as kubectl asks its plug-ins for it: the words typed so far, the
//! last of them begun. Answered are words that may stand in its place, one a line,
//! and a number that says how a shell is to take them.

use crate::args::{ClusterArgs, Plugin};
use crate::cluster::object::Kind;
use crate::cluster::{Api, kubeconfig, pod};
use crate::output::Output;
use clap::{Arg, Command, CommandFactory as _};
use std::ffi::OsString;
use std::time::Duration;
use tokio::time::timeout;

/// Longest wait for everything: somebody sits before the shell.
const PATIENCE: Duration = Duration::from_secs(3);

/// What follows is the shell's own business, as names of files.
const FILES: u8 = 0;
/// Nothing but what is answered.
const ONLY_THESE: u8 = 4;
/// The same, and the word goes on.
const ONLY_THESE_GO_ON: u8 = 4 + 2;

/// Prints what may stand in place of the last of `words`. What fails answers
/// nothing: a shell has no place for errors.
pub async fn complete(words: &[OsString], output: &Output) {
    let words: Vec<_> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let answered = timeout(PATIENCE, answer(&words)).await;
    let (found, directive) = answered.unwrap_or((Vec::new(), ONLY_THESE));
    for word in found {
        output.line(word);
    }
    output.line(format!(":{directive}"));
}

/// What is asked for, as far as it was typed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Typed {
    /// Words that are neither flags nor their values.
    plain: Vec<String>,
    /// The flag whose value is begun.
    flag: Option<String>,
    /// Whether a command to wrap is begun.
    command: bool,
    cluster: Vec<(String, String)>,
}

impl Typed {
    /// Reads every word but the last.
    fn read(command: &Command, words: &[String]) -> Self {
        let mut typed = Self::default();
        for word in words {
            if let Some(flag) = typed.flag.take() {
                typed.cluster.push((flag, word.clone()));
            } else if word == "--" {
                typed.command = true;
                break;
            } else if let Some(long) = word.strip_prefix("--") {
                match long.split_once('=') {
                    Some((name, value)) => typed.cluster.push((name.to_owned(), value.to_owned())),
                    None if takes_value(command, |arg| arg.get_long() == Some(long)) => {
                        typed.flag = Some(long.to_owned());
                    }
                    None => {}
                }
            } else if let Some(letter) = word.strip_prefix('-').and_then(|rest| rest.chars().next())
            {
                let mut known = command.get_arguments();
                let long = known
                    .find(|arg| arg.get_short() == Some(letter))
                    .and_then(Arg::get_long);
                if let Some(long) =
                    long.filter(|long| takes_value(command, |arg| arg.get_long() == Some(long)))
                {
                    match word[2..].trim_start_matches('=') {
                        "" => typed.flag = Some(long.to_owned()),
                        value => typed.cluster.push((long.to_owned(), value.to_owned())),
                    }
                }
            } else {
                typed.plain.push(word.clone());
            }
        }
        typed
    }

    fn cluster(&self) -> ClusterArgs {
        let value = |name: &str| {
            let mut all = self.cluster.iter().rev();
            all.find(|(flag, _)| flag == name)
                .map(|(_, value)| value.clone())
        };
        let groups = self.cluster.iter().filter(|(flag, _)| flag == "as-group");
        ClusterArgs {
            namespace: value("namespace"),
            context: value("context"),
            kubeconfig: value("kubeconfig").map(Into::into),
            as_user: value("as"),
            as_uid: value("as-uid"),
            as_group: groups.map(|(_, group)| group.clone()).collect(),
            ..ClusterArgs::default()
        }
    }
}

fn takes_value(command: &Command, is_it: impl Fn(&Arg) -> bool) -> bool {
    let mut all = command.get_arguments();
    all.any(|arg| is_it(arg) && arg.get_action().takes_values())
}

async fn answer(words: &[String]) -> (Vec<String>, u8) {
    let Some((last, before)) = words.split_last() else {
        return (Vec::new(), ONLY_THESE);
    };
    let mut command = Plugin::command();
    command.build();
    let typed = Typed::read(&command, before);
    let begins = |all: Vec<String>| {
        all.into_iter()
            .filter(|one| one.starts_with(last.as_str()))
            .collect()
    };
    if typed.command {
        return (Vec::new(), FILES);
    }
    if let Some(flag) = &typed.flag {
        return match flag.as_str() {
            "namespace" => (
                begins(names(&typed, "/api/v1/namespaces").await),
                ONLY_THESE,
            ),
            "context" => (begins(contexts(&typed)), ONLY_THESE),
            "output" => (begins(vec!["text".into(), "json".into()]), ONLY_THESE),
            "kubeconfig" | "ready-file" => (Vec::new(), FILES),
            _ => (Vec::new(), ONLY_THESE),
        };
    }
    if last.starts_with('-') {
        let flags = command.get_arguments().filter_map(Arg::get_long);
        return (
            begins(flags.map(|flag| format!("--{flag}")).collect()),
            ONLY_THESE,
        );
    }
    let is_doctor = typed.plain.first().is_some_and(|word| word == "doctor");
    match typed.plain.len() - usize::from(is_doctor) {
        0 => places(&typed, last, is_doctor).await,
        _ => (Vec::new(), ONLY_THESE),
    }
}

/// What may be named to listen in.
async fn places(typed: &Typed, last: &str, is_doctor: bool) -> (Vec<String>, u8) {
    if let Some((word, begun)) = last.split_once('/') {
        let Some(kind) = Kind::parse(word) else {
            return (Vec::new(), ONLY_THESE);
        };
        let all = names_of(typed, kind).await.into_iter();
        let fitting = all.filter(|name| name.starts_with(begun));
        return (
            fitting.map(|name| format!("{word}/{name}")).collect(),
            ONLY_THESE,
        );
    }
    let kinds = Kind::all().map(|(_, word)| format!("{word}/"));
    let kinds: Vec<_> = kinds.filter(|kind| kind.starts_with(last)).collect();
    let pods = names_of(typed, Kind::Pod).await.into_iter();
    let mut found: Vec<_> = pods.filter(|name| name.starts_with(last)).collect();
    if !is_doctor && "doctor".starts_with(last) {
        found.push("doctor".to_owned());
    }
    // A word that goes on is one of several, or the only one.
    let directive = match (found.is_empty(), kinds.is_empty()) {
        (true, false) => ONLY_THESE_GO_ON,
        _ => ONLY_THESE,
    };
    found.extend(kinds);
    (found, directive)
}

fn contexts(typed: &Typed) -> Vec<String> {
    let overrides = typed.cluster().overrides();
    let all = overrides.and_then(|overrides| kubeconfig::contexts(&overrides));
    all.unwrap_or_default()
}

fn api(typed: &Typed) -> Option<Api> {
    let overrides = typed.cluster().overrides().ok()?;
    Api::new(kubeconfig::load(&overrides).ok()?, PATIENCE, None).ok()
}

async fn names(typed: &Typed, path: &str) -> Vec<String> {
    match api(typed) {
        Some(api) => pod::names(&api, path).await.unwrap_or_default(),
        None => Vec::new(),
    }
}

async fn names_of(typed: &Typed, kind: Kind) -> Vec<String> {
    match api(typed) {
        Some(api) => {
            let path = kind.path(&api.access().namespace);
            pod::names(&api, &path).await.unwrap_or_default()
        }
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(words: &[&str]) -> Typed {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut command = Plugin::command();
        command.build();
        Typed::read(&command, &words)
    }

    async fn answered(words: &[&str]) -> (Vec<String>, u8) {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        answer(&words).await
    }

    #[test]
    fn flags_and_their_values_are_told_apart() {
        let read = typed(&[
            "-n",
            "shop",
            "--context=prod",
            "-v",
            "--as-group",
            "a",
            "-nother",
            "deploy/php",
            "80",
        ]);
        assert_eq!(read.plain, ["deploy/php", "80"]);
        let cluster = read.cluster();
        assert_eq!(cluster.namespace.as_deref(), Some("other"));
        assert_eq!(cluster.context.as_deref(), Some("prod"));
        assert_eq!(cluster.as_group, ["a"]);
        assert_eq!(typed(&["-n"]).flag.as_deref(), Some("namespace"));
        assert!(typed(&["web", "80", "--", "sh"]).command);
    }

    #[tokio::test]
    async fn what_needs_no_cluster_is_answered_without_one() {
        let none = "--kubeconfig=/nonexistent";
        assert_eq!(answered(&[]).await, (vec![], ONLY_THESE));
        let (flags, _) = answered(&["web", "--na"]).await;
        assert_eq!(flags, ["--namespace"]);
        assert_eq!(answered(&["-o", "j"]).await.0, ["json"]);
        assert_eq!(answered(&["--kubeconfig", ""]).await.1, FILES);
        assert_eq!(answered(&["web", "80", "--", "x"]).await.1, FILES);
        assert_eq!(
            answered(&[none, "dep"]).await,
            (vec!["deployment/".into()], ONLY_THESE_GO_ON)
        );
        assert_eq!(
            answered(&[none, "do"]).await,
            (vec!["doctor".into()], ONLY_THESE)
        );
        assert_eq!(
            answered(&[none, "doctor", "do"]).await.0,
            Vec::<String>::new()
        );
        assert_eq!(answered(&[none, "web", "8"]).await.0, Vec::<String>::new());
    }
}
