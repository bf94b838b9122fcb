//! Sandboxes for the specs, each with a probe inside. What they are (plain
//! network namespaces with a name, or pods of a container runtime) is no matter
//! of the specs.

mod names;
mod namespace;
mod pods;
mod sandbox;

pub use pods::PodSettings;
pub(crate) use sandbox::Sandbox;

use crate::{
    run::Run,
    verdict::{Step, Verdict},
};
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::RwLock;

/// Where runs of the suite keep their locks and sockets.
pub(crate) const RUN_DIR: &str = "/run/sternline-conformance";

/// Longest wait for everything to be removed. A runtime takes a second for a pod
/// on a quiet machine.
const CLOSING: Duration = Duration::from_secs(60);

/// What the sandboxes of a run are.
#[derive(Clone, Debug)]
pub enum Sandboxes {
    /// Network namespaces with a name in this directory.
    Namespaces(PathBuf),
    /// Pods of a container runtime.
    Pods(Box<PodSettings>),
}

/// Makes sandboxes, and gives those that are as good as new out again.
#[derive(Debug)]
pub(crate) struct Fixture {
    run: Run,
    source: Source,
    made: AtomicU32,
    free: Mutex<VecDeque<Sandbox>>,
    /// Read-locked by whoever makes or removes a sandbox, which nothing
    /// interrupts: the end waits for them. `true` once it has come.
    over: Arc<RwLock<bool>>,
}

#[derive(Debug)]
enum Source {
    Names(names::Names),
    Pods(Box<pods::Pods>),
}

impl Fixture {
    /// Begins a run whose files are below `run_dir`; nothing is made yet. The
    /// error says why the environment cannot be used.
    pub(crate) fn begin(sandboxes: &Sandboxes, run_dir: &Path) -> Result<Arc<Self>, String> {
        let run = Run::begin(run_dir).map_err(|error| {
            let dir = run_dir.display();
            format!("{dir} cannot be used for the suite's own files (root is needed): {error}")
        })?;
        let source = match sandboxes {
            Sandboxes::Namespaces(dir) => Source::Names(names::Names::new(dir)?),
            Sandboxes::Pods(settings) => Source::Pods(Box::new(pods::Pods::new(settings)?)),
        };
        Ok(Arc::new(Self {
            run,
            source,
            made: AtomicU32::new(0),
            free: Mutex::default(),
            over: Arc::default(),
        }))
    }

    /// Removes what killed runs left, sees to the probe and makes one sandbox.
    /// The error says why the environment cannot be used.
    pub(crate) async fn prepare(self: &Arc<Self>) -> Result<(), String> {
        match &self.source {
            Source::Names(names) => names.sweep(&self.run),
            Source::Pods(pods) => Box::pin(pods.prepare(&self.run)).await?,
        }
        match self.sandbox().await {
            Ok(sandbox) => {
                self.give_back(sandbox, true).await;
                Ok(())
            }
            Err(Verdict::Broken(why)) => Err(format!("no sandbox can be made: {why}")),
            Err(
                Verdict::Skipped(why)
                | Verdict::Environment(why)
                | Verdict::Failed { seen: why, .. },
            ) => Err(why),
        }
    }

    /// A sandbox in which nothing listens.
    pub(crate) async fn sandbox(self: &Arc<Self>) -> Step<Sandbox> {
        let free = self.lock().pop_front();
        match free {
            Some(free) => Ok(free),
            None => self.make(false).await,
        }
    }

    /// A sandbox that uses the node's own network. There is no probe in it.
    pub(crate) async fn host(self: &Arc<Self>) -> Step<Sandbox> {
        self.make(true).await
    }

    /// Made by a task of its own: whoever waits for it may be interrupted.
    async fn make(self: &Arc<Self>, host: bool) -> Step<Sandbox> {
        let fixture = Arc::clone(self);
        let made = tokio::spawn(async move {
            let over = Arc::clone(&fixture.over).read_owned().await;
            if *over {
                return Err(Verdict::Broken("the run is over".into()));
            }
            let number = fixture.made.fetch_add(1, Ordering::Relaxed);
            match &fixture.source {
                Source::Names(names) => names.make(&fixture.run, number, host).await,
                Source::Pods(pods) => Box::pin(pods.make(&fixture.run, number, host)).await,
            }
        });
        made.await
            .unwrap_or_else(|error| Err(Verdict::Broken(error.to_string())))
    }

    /// Takes a sandbox back. It is given out again only when `clean` and when
    /// nothing listens in it; else it is removed, which is not waited for.
    pub(crate) async fn give_back(&self, sandbox: Sandbox, clean: bool) {
        let as_new = clean
            && !sandbox.is_spoilt()
            && sandbox.listening().await.is_ok_and(|all| all.is_empty());
        if as_new {
            self.lock().push_back(sandbox);
            return;
        }
        let busy = Arc::clone(&self.over).read_owned().await;
        tokio::spawn(async move {
            // What could not be removed now is tried again at the end.
            let _ = sandbox.remove().await;
            drop(busy);
        });
    }

    /// Removes everything that the run made. The error names what is left.
    pub(crate) async fn close(&self) -> Result<(), String> {
        let closing = async {
            *self.over.write().await = true;
            self.lock().clear();
            match &self.source {
                Source::Names(names) => names.close(&self.run),
                Source::Pods(pods) => Box::pin(pods.close(&self.run)).await,
            }
        };
        match tokio::time::timeout(CLOSING, closing).await {
            Ok(closed) => closed,
            Err(_) => Err(format!(
                "not everything was removed within {CLOSING:?}; what the name stcf-{} is part of is \
                 left, and removed by the next run",
                self.run.id
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Sandbox>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
