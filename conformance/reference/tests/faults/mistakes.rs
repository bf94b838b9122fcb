//! Mistakes of whoever runs the suite: they are no judgement of the implementation.

use super::Reference;
use sternline_conformance::{Commands, Report, Sandboxes, judge};
use sternline_reference::Setup;

/// Judges the unfaulted reference by some specs, with other commands.
async fn with(commands: impl FnOnce(&mut Commands), focus: &str) -> Report {
    let reference = Reference::start(None, Setup::Plain).expect("the reference starts");
    let mut options = reference.options();
    options.focus = vec![focus.into()];
    commands(&mut options.commands);
    let report = judge(&options, |_| {}).await;
    report.expect("the environment can be used: is this root?")
}

/// Names and reasons of what is wrong; empty when all is as it has to be.
pub(super) async fn find() -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |good: bool, what: String| {
        if !good {
            wrong.push(what);
        }
    };

    let reference = Reference::start(None, Setup::Plain).expect("the reference starts");
    let mut options = reference.options();
    let elsewhere = reference.dir.path().join("elsewhere");
    options.sandboxes = Sandboxes::Namespaces(elsewhere.clone());
    let judged = judge(&options, |_| {}).await;
    let named = |why: &String| why.contains("--netns-dir") && why.contains("elsewhere");
    expect(
        judged.as_ref().is_err_and(named),
        format!("another directory of sandboxes: {judged:?}"),
    );
    drop(reference);

    let command = "--restart-command \"false\"";
    let report = with(|commands| commands.restart = Some("false".into()), "drain.").await;
    let told = report.unjudged().any(|(_, why)| why.contains(command));
    expect(
        told && report.failures().count() == 0 && report.cut_short.is_some(),
        format!("a command that fails: {report:?}"),
    );

    let nothing = |commands: &mut Commands| {
        *commands = Commands {
            restart: Some("true".into()),
            off: Some("true".into()),
            on: Some("true".into()),
        };
    };
    for focus in ["drain.", "switch."] {
        let report = with(nothing, focus).await;
        let passed: Vec<_> = report
            .judged
            .iter()
            .filter(|one| one.has_passed())
            .collect();
        expect(
            passed.is_empty(),
            format!("commands that do nothing: {passed:?}"),
        );
    }
    wrong
}
