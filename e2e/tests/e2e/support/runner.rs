//! Runs the stories and counts them.

use super::enclosure::{self, Part};
use super::leftovers::Inventory;
use super::node::{Node, Runtime};
use super::stage::Stage;
use super::{process, programs};
use crate::stories;
use anyhow::{Context as _, Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use std::future::Future;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

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
    /// Whether it is about pods of a container runtime.
    pub(crate) needs_cri: bool,
    pub(crate) tell: Tell,
}

/// Lists the stories of a theme: those of every node, and those that are about
/// pods of a container runtime.
macro_rules! themed {
    (every node: $($any:ident),* ; container runtimes: $($cri:ident),* $(,)?) => {
        /// Every story of this theme.
        pub(crate) fn stories() -> Vec<crate::support::runner::Story> {
            vec![
                $(themed!(@one $any, false),)*
                $(themed!(@one $cri, true),)*
            ]
        }
    };
    (@one $name:ident, $needs_cri:literal) => {
        crate::support::runner::Story {
            name: concat!(module_path!(), "::", stringify!($name)),
            needs_cri: $needs_cri,
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
    if arguments.list {
        let nobody =
            |_: &Story| -> Box<dyn FnOnce() -> Result<(), Failed> + Send> { Box::new(|| Ok(())) };
        return Ok(libtest_mimic::run(&arguments, trials(runtime, nobody)).exit_code());
    }
    if let Part::Over(code) = enclosure::enter(programs::prepare)? {
        return Ok(code);
    }
    let executor = tokio::runtime::Runtime::new()?;
    let executor = Arc::new(executor);
    let probe = programs::probe()?;
    let node = executor
        .block_on(Node::start(runtime, &probe))
        .with_context(|| format!("{} does not start", runtime.name()))?;

    let run = |story: &Story| -> Box<dyn FnOnce() -> Result<(), Failed> + Send> {
        let (node, executor) = (node.clone(), executor.clone());
        let (name, tell) = (story.name, story.tell);
        Box::new(move || tell_story(name, tell, &node, &executor).map_err(|error| failed(&error)))
    };
    let conclusion = libtest_mimic::run(&arguments, trials(runtime, run));
    executor.block_on(node.stop())?;

    let ran = conclusion.num_passed + conclusion.num_failed;
    let place = match runtime.is_cri() {
        true => format!("real pods ({})", node.version()),
        false => "plain network namespaces (standalone)".to_owned(),
    };
    writeln!(std::io::stdout(), "{ran} end-to-end tests ran on {place}")?;
    Ok(conclusion.exit_code())
}

fn trials(
    runtime: Runtime,
    run: impl Fn(&Story) -> Box<dyn FnOnce() -> Result<(), Failed> + Send>,
) -> Vec<Trial> {
    stories::all()
        .iter()
        .filter(|story| runtime.is_cri() || !story.needs_cri)
        .map(|story| {
            let name = story.name.trim_start_matches("e2e::stories::");
            Trial::test(name, run(story)).with_kind(runtime.name())
        })
        .collect()
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
        node.resume_runtime().await?;
        node.sweep().await?;
        before.restored(TIDY).await
    });
    told.and(tidied)
}

fn failed(error: &anyhow::Error) -> Failed {
    Failed::from(format!("{error:?}"))
}

/// Ends the run if a story blocks a thread, which no timer can end.
struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    fn start(name: &str, limit: Duration) -> Self {
        let (alive, gone) = channel::<()>();
        let name = name.to_owned();
        std::thread::spawn(move || {
            if gone.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let text = process::tail(&format!("error: {name} hangs: the run ends here"));
                let _ = std::io::stderr().write_all(text.as_bytes());
                std::process::exit(101);
            }
        });
        Self { _alive: alive }
    }
}
