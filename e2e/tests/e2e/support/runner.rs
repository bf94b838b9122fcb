//! Runs the stories and counts them.

use super::binder::Form;
use super::enclosure::{self, Part};
use super::leftovers::Inventory;
use super::node::{Node, Runtime};
use super::programs;
use super::recorder::Recorder;
use super::stage::Stage;
use crate::endurance::Endurance;
use crate::shared::watchdog::Watchdog;
use crate::stories;
use anyhow::{Context as _, Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use std::future::Future;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternline_e2e::record::Record;

/// Longest a story may take.
const LIMIT: Duration = Duration::from_secs(240);

/// Longest that anything may outlive its story.
const TIDY: Duration = Duration::from_secs(30);

/// A story as a function.
pub(crate) type Tell =
    for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// One story: what happens to somebody, and what must come of it.
pub(crate) struct Story {
    /// Theme and sentence.
    pub(crate) name: &'static str,
    /// What it cannot be told without.
    pub(crate) needs: Needs,
    pub(crate) tell: Tell,
}

/// What a story is about, beyond any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// Pods of a container runtime.
    Pods,
    /// A release of the runtime from before this one.
    Predecessor,
}

impl Needs {
    /// Why a story with these needs says nothing about `runtime`.
    pub(crate) fn missing(self, runtime: Runtime) -> Option<&'static str> {
        match self {
            Self::Pods | Self::Predecessor if !runtime.is_cri() => {
                Some("plain namespaces have no container runtime")
            }
            Self::Predecessor if runtime.predecessor().is_none() => {
                Some("there is no older release of it that every machine can have")
            }
            _ => None,
        }
    }
}

/// Lists the stories of a theme: those of every node, those that are about pods
/// of a container runtime, and those that also need an older release of it.
macro_rules! themed {
    (every node: $($any:ident),* ; container runtimes: $($cri:ident),*
     $(; upgraded runtimes: $($upgraded:ident),*)? $(,)?) => {
        /// Every story of this theme.
        pub(crate) fn stories() -> Vec<crate::support::runner::Story> {
            vec![
                $(themed!(@one $any, Nothing),)*
                $(themed!(@one $cri, Pods),)*
                $($(themed!(@one $upgraded, Predecessor),)*)?
            ]
        }
    };
    (@one $name:ident, $needs:ident) => {
        crate::support::runner::Story {
            name: concat!(module_path!(), "::", stringify!($name)),
            needs: crate::support::runner::Needs::$needs,
            tell: |stage| Box::pin($name(stage)),
        }
    };
}
pub(crate) use themed;

/// The whole run.
///
/// # Errors
/// It cannot begin: something is missing.
pub(crate) fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let runtime = Runtime::chosen()?;
    // An unknown form is found out before anything is started.
    Form::chosen()?;
    let endurance = Endurance::chosen()?;
    if arguments.list {
        let nobody =
            |_: &Story| -> Box<dyn FnOnce() -> Result<(), Failed> + Send> { Box::new(|| Ok(())) };
        return Ok(libtest_mimic::run(&arguments, trials(runtime, nobody)).exit_code());
    }
    if let Part::Over(code) = enclosure::enter("sternline-e2e", programs::prepare)? {
        return Ok(code);
    }
    let recorder = Arc::new(Recorder::from_environment()?);
    let executor = tokio::runtime::Runtime::new()?;
    let executor = Arc::new(executor);
    let probe = programs::probe()?;
    let node = executor
        .block_on(Node::start(runtime, &probe))
        .with_context(|| format!("{} does not start", runtime.name()))?;
    if let Some(endurance) = endurance {
        let code = executor.block_on(endurance.run(&node));
        return executor.block_on(node.stop()).and(code);
    }

    recorder.record(&Record::Begun {
        runtime: runtime.name().to_owned(),
        version: node.version().to_owned(),
    })?;

    let run = |story: &Story| -> Box<dyn FnOnce() -> Result<(), Failed> + Send> {
        let (node, executor, recorder) = (node.clone(), executor.clone(), recorder.clone());
        let (name, tell) = (story.name, story.tell);
        Box::new(move || {
            let start = Instant::now();
            let told = tell_story(name, tell, &node, &executor);
            let recorded = recorder.record(&Record::Told {
                story: short(name).to_owned(),
                passed: told.is_ok(),
                seconds: start.elapsed().as_secs_f64(),
            });
            told.and(recorded).map_err(|error| failed(&error))
        })
    };
    let conclusion = libtest_mimic::run(&arguments, trials(runtime, run));
    executor.block_on(node.stop())?;
    let mut out = std::io::stdout();
    for story in stories::all() {
        if let Some(reason) = story.needs.missing(runtime) {
            let (story, reason) = (short(story.name).to_owned(), reason.to_owned());
            writeln!(
                out,
                "not applicable on {}: {story}: {reason}",
                runtime.name()
            )?;
            recorder.record(&Record::NotApplicable { story, reason })?;
        }
    }
    recorder.over()?;

    let ran = conclusion.num_passed + conclusion.num_failed;
    let place = match runtime.is_cri() {
        true => format!("real pods ({})", node.version()),
        false => "plain network namespaces (standalone)".to_owned(),
    };
    let form = match Form::chosen()? {
        Form::Whole => "the shim in one process",
        Form::Apart => "serve and binder in two processes",
    };
    writeln!(out, "{ran} end-to-end tests ran on {place}, {form}")?;
    Ok(conclusion.exit_code())
}

fn trials(
    runtime: Runtime,
    run: impl Fn(&Story) -> Box<dyn FnOnce() -> Result<(), Failed> + Send>,
) -> Vec<Trial> {
    stories::all()
        .iter()
        .filter(|story| story.needs.missing(runtime).is_none())
        .map(|story| Trial::test(short(story.name), run(story)).with_kind(runtime.name()))
        .collect()
}

/// Theme and sentence.
fn short(name: &str) -> &str {
    name.trim_start_matches("e2e::stories::")
}

/// Tells one story and tidies up after it, whatever came of it.
fn tell_story(
    name: &str,
    tell: Tell,
    node: &Arc<Node>,
    executor: &tokio::runtime::Runtime,
) -> Result<()> {
    let _watchdog = Watchdog::start(name, LIMIT + 3 * TIDY);
    let before = Inventory::take()?;
    let mut stage = Stage::new(node.clone())?;
    let told = catch_unwind(AssertUnwindSafe(|| {
        executor.block_on(async {
            tokio::time::timeout(LIMIT, tell(&mut stage))
                .await
                .unwrap_or_else(|_| Err(anyhow!("not through after {LIMIT:?}")))
        })
    }));
    let told = told.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("panicked: {}", text.unwrap_or("?")))
    });
    let told = told.map_err(|error| anyhow!("{error:?}\n{}", stage.logs()));
    let _entered = executor.enter();
    drop(stage);
    let tidied = executor.block_on(async {
        node.tidy().await?;
        before.restored(TIDY).await
    });
    told.and(tidied)
}

fn failed(error: &anyhow::Error) -> Failed {
    Failed::from(format!("{error:?}"))
}
