//! The node: whatever makes sandboxes. The same stories run on every kind,
//! chosen by `STERNLINE_RUNTIME`.

pub(crate) mod cri;
pub(crate) mod daemon;
pub(crate) mod pod;
pub(crate) mod standalone;

use anyhow::{Context as _, Result, anyhow, bail};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

pub(crate) use crate::shared::runtime::Runtime;
pub(crate) use crate::shared::system::{inside, link_up, program, run};
pub(crate) use crate::shared::{image, registry};
pub(crate) use pod::{Pod, Spawned};

/// Bound on a runtime's word that it is ready.
const READY: Duration = Duration::from_secs(60);

/// How a pod shall be.
#[derive(Clone, Debug)]
pub(crate) struct PodWish {
    /// Its name.
    pub(crate) name: String,
    /// Whether it uses the node's own network.
    pub(crate) host_network: bool,
}

/// A node with a running source of sandboxes.
pub(crate) struct Node {
    version: String,
    kind: Kind,
}

enum Kind {
    Standalone(standalone::Standalone),
    Cri(Box<CriNode>),
}

struct CriNode {
    cri: cri::Cri,
    daemon: tokio::sync::Mutex<daemon::Daemon>,
}

impl Node {
    /// Starts what `runtime` needs and waits until it can make sandboxes.
    ///
    /// # Errors
    /// Something is missing or does not come up; the error says what to do.
    pub(crate) async fn start(runtime: Runtime, probe: &Path) -> Result<Arc<Self>> {
        let (version, kind) = match runtime {
            Runtime::Standalone => {
                let kind = standalone::Standalone::new(probe);
                ("standalone".to_owned(), Kind::Standalone(kind))
            }
            _ => {
                let listener = TcpListener::bind(image::REGISTRY).await;
                let listener =
                    listener.with_context(|| format!("no registry on {}", image::REGISTRY))?;
                registry::serve(listener, [image::Image::probe(probe)?].into());
                let release = runtime.release().context("no release")?;
                let daemon = daemon::Daemon::start(release).await?;
                let cri = cri::Cri::connect(daemon.socket()).await?;
                let version = cri.set_up(runtime).await;
                let version = version.map_err(|error| anyhow!("{error:#}; {}", daemon.story()))?;
                let daemon = tokio::sync::Mutex::new(daemon);
                (version, Kind::Cri(Box::new(CriNode { cri, daemon })))
            }
        };
        let node = Arc::new(Self { version, kind });
        // What the first pod makes for all, a bridge say, is no leftover.
        let first = PodWish {
            name: "first".to_owned(),
            host_network: false,
        };
        node.run_pod(&first).await?.remove().await?;
        Ok(node)
    }

    /// Name and version of what makes the sandboxes.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Whether its sandboxes are pods of a container runtime.
    pub(crate) fn makes_pods(&self) -> bool {
        matches!(self.kind, Kind::Cri(_))
    }

    /// How a shim is told where sandboxes come from.
    pub(crate) fn shim_flags(&self) -> Vec<String> {
        match &self.kind {
            Kind::Standalone(_) => vec!["--standalone".to_owned()],
            Kind::Cri(node) => {
                let endpoint = format!("unix://{}", node.cri.socket().display());
                vec!["--runtime-endpoint".to_owned(), endpoint]
            }
        }
    }

    /// Makes a sandbox in which the probe can be run.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn run_pod(self: &Arc<Self>, wish: &PodWish) -> Result<Pod> {
        match &self.kind {
            Kind::Standalone(standalone) => Ok(Pod::Standalone(standalone.run_pod(wish)?)),
            Kind::Cri(node) => {
                // The requests of the CRI are large values: not in every
                // story's future.
                let pod = Box::pin(node.cri.run_pod(wish)).await?;
                Ok(Pod::Cri(Box::new(pod)))
            }
        }
    }

    /// Whether there is a container runtime, which pods outlive.
    pub(crate) fn runtime_can_be_paused(&self) -> bool {
        matches!(self.kind, Kind::Cri(_))
    }

    /// Stops the container runtime; its pods live on.
    ///
    /// # Errors
    /// There is none, or it does not end.
    pub(crate) async fn pause_runtime(&self) -> Result<()> {
        match &self.kind {
            Kind::Standalone(_) => bail!("a standalone node has no container runtime"),
            Kind::Cri(node) => node.daemon.lock().await.stop().await,
        }
    }

    /// Starts the container runtime if it does not run, and waits until it
    /// answers.
    ///
    /// # Errors
    /// It does not come back.
    pub(crate) async fn resume_runtime(&self) -> Result<()> {
        let Kind::Cri(node) = &self.kind else {
            return Ok(());
        };
        node.daemon.lock().await.run().await?;
        node.cri.ready(READY).await
    }

    /// Starts an older release in the runtime's place, on a node without pods.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub(crate) async fn downgrade_runtime(&self, runtime: Runtime) -> Result<()> {
        let Kind::Cri(node) = &self.kind else {
            bail!("a standalone node has no container runtime");
        };
        let older = runtime.predecessor().context("no older release")?;
        self.sweep().await?;
        node.daemon.lock().await.move_to(older).await?;
        node.cri.ready(READY).await?;
        node.cri.pull().await
    }

    /// Starts the run's own release in the place of an older one; its pods live
    /// on.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) async fn upgrade_runtime(&self) -> Result<()> {
        let Kind::Cri(node) = &self.kind else {
            bail!("a standalone node has no container runtime");
        };
        node.daemon.lock().await.upgrade().await?;
        node.cri.ready(READY).await
    }

    /// Where the container runtime listens.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn runtime_socket(&self) -> Result<&Path> {
        match &self.kind {
            Kind::Standalone(_) => bail!("a standalone node has no container runtime"),
            Kind::Cri(node) => Ok(node.cri.socket()),
        }
    }

    /// Has the runtime run as it does between stories, without any sandbox.
    ///
    /// # Errors
    /// It does not come back, or keeps a sandbox.
    pub(crate) async fn tidy(&self) -> Result<()> {
        self.resume_runtime().await?;
        self.sweep().await?;
        if let Kind::Cri(node) = &self.kind {
            let mut daemon = node.daemon.lock().await;
            if let Some(home) = daemon.away_from() {
                daemon.move_to(home).await?;
                node.cri.ready(READY).await?;
            }
        }
        Ok(())
    }

    /// Removes every sandbox, whoever made it.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn sweep(&self) -> Result<()> {
        match &self.kind {
            Kind::Standalone(standalone) => standalone.sweep(),
            Kind::Cri(node) => node.cri.sweep().await,
        }
    }

    /// Ends the container runtime and everything that it started.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.sweep().await?;
        match &self.kind {
            Kind::Standalone(_) => Ok(()),
            Kind::Cri(node) => node.daemon.lock().await.stop().await,
        }
    }
}
