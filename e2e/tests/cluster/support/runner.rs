//! Brings the cluster up, tells the stories and counts them.

use super::cluster::{Clock, Cluster};
use super::{control, machine};
use crate::shared::enclosure::{self, Part};
use crate::shared::runtime::{Runtime, VARIABLE, built};
use crate::shared::system::program;
use crate::shared::watchdog::Watchdog;
use crate::shared::{programs, recipe};
use crate::stories;
use anyhow::{Context as _, Result, anyhow, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use std::future::Future;
use std::io::Write as _;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// What every run of this suite is called.
const SUITE: &str = "sternline-cluster";

/// Longest a story may take in which nothing waits for its own sake.
const LIMIT: Duration = Duration::from_secs(300);

/// Longest that all of it may take.
const RUN: Duration = Duration::from_secs(2400);

/// A story as a function.
pub(crate) type Tell =
    for<'a> fn(&'a Cluster) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// One story: what happens to somebody, and what must come of it.
pub(crate) struct Story {
    /// Theme and sentence.
    pub(crate) name: &'static str,
    pub(crate) tell: Tell,
}

/// Lists the stories of a theme.
macro_rules! themed {
    ($($name:ident),* $(,)?) => {
        /// Every story of this theme.
        pub(crate) fn stories() -> Vec<crate::support::runner::Story> {
            vec![$(crate::support::runner::Story {
                name: concat!(module_path!(), "::", stringify!($name)),
                tell: |cluster| Box::pin($name(cluster)),
            },)*]
        }
    };
}
pub(crate) use themed;

/// The whole run.
///
/// # Errors
/// It cannot begin: something is missing, or the cluster does not come up.
pub(crate) fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // Each goes on where the one before it ended.
    arguments.test_threads = Some(1);
    let runtime = chosen()?;
    if arguments.list {
        let nobody =
            |_: &Story| -> Box<dyn FnOnce() -> Result<(), Failed> + Send> { Box::new(|| Ok(())) };
        return Ok(libtest_mimic::run(&arguments, trials(nobody)).exit_code());
    }
    let before = machine::kernel_settings()?;
    if let Part::Over(code) = enclosure::enter(SUITE, || prepare(runtime))? {
        let after = machine::kernel_settings()?;
        if after != before {
            bail!("the run changed the kernel's settings from {before:?} to {after:?}");
        }
        return Ok(code);
    }
    let _watchdog = Watchdog::start("the run", RUN);
    let executor = Arc::new(tokio::runtime::Runtime::new()?);
    let mut clock = Clock::start();
    let cluster = executor.block_on(Cluster::start(runtime));
    let cluster = Arc::new(cluster.context("the cluster does not come up")?);
    let versions = executor.block_on(cluster.versions())?;
    writeln!(std::io::stdout(), "cluster: {versions}")?;

    let run = |story: &Story| -> Box<dyn FnOnce() -> Result<(), Failed> + Send> {
        let (cluster, executor) = (cluster.clone(), executor.clone());
        let tell = story.tell;
        Box::new(move || executor.block_on(told(tell, &cluster)))
    };
    let conclusion = libtest_mimic::run(&arguments, trials(run));
    let ran = conclusion.num_passed + conclusion.num_failed;
    clock.tell(&format!("{ran} stories were told on {versions}; over"))?;
    Ok(conclusion.exit_code())
}

async fn told(tell: Tell, cluster: &Cluster) -> Result<(), Failed> {
    let limit = LIMIT + stories::forwards::idle().unwrap_or_default();
    let told = tokio::time::timeout(limit, tell(cluster)).await;
    let told = told.unwrap_or_else(|_| Err(anyhow!("not through after {limit:?}")));
    match told {
        Ok(()) => Ok(()),
        Err(error) => {
            let story = cluster.story().await;
            Err(Failed::from(format!("{error:?}\n{story}")))
        }
    }
}

fn trials(run: impl Fn(&Story) -> Box<dyn FnOnce() -> Result<(), Failed> + Send>) -> Vec<Trial> {
    let all = stories::all();
    let trial = |story: &Story| {
        let name = story.name.trim_start_matches("cluster::stories::");
        Trial::test(name, run(story))
    };
    all.iter().map(trial).collect()
}

/// The runtime of the nodes. Kubelets of this release want containerd 2 or CRI-O.
fn chosen() -> Result<Runtime> {
    if std::env::var_os(VARIABLE).is_none() {
        return Ok(Runtime::Containerd2);
    }
    match Runtime::chosen()? {
        runtime @ (Runtime::Containerd2 | Runtime::CriO) => Ok(runtime),
        other => bail!(
            "{VARIABLE}={}: choose containerd-2 or cri-o for a cluster",
            other.name()
        ),
    }
}

/// What can be found out before anything is started.
fn prepare(runtime: Runtime) -> Result<()> {
    for name in ["etcd", "ip", "nft", "nsenter", "runc"] {
        program(name).context("run hack/install-test-deps kubernetes")?;
    }
    recipe::cni_plugins()?;
    control::programs()?;
    built("coredns")?;
    runtime.release().context("no release")?.directory()?;
    programs::cli()?;
    programs::image()?;
    programs::build_probe()
}
