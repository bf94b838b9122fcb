//! The binder: the only code that enters a network namespace, and the only one
//! that talks to the container runtime.
//!
//! The rest of the shim sees [`Binder`] alone. In one process it is a
//! [`LocalBinder`]; across processes it is a [`ProcessBinder`], and the
//! [`server`] in the other process has the local one.

pub mod channel;
pub mod client;
pub mod deposits;
pub mod local;
pub mod process;
pub mod server;
pub mod wire;

pub use client::ProcessBinder;
pub use local::LocalBinder;

use crate::netns::NamespaceId;
use crate::sandbox::Watched;
use deposits::Deposits;

use std::net::{SocketAddr, TcpListener};
use sternline_api::{Failure, listen::Listen, v1alpha1 as pb};
use tokio::sync::watch;

/// Which sandbox is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxTarget {
    /// Its id, or a prefix that fits only one.
    Id(String),
    /// The newest ready sandbox of this pod.
    Pod(PodRef),
}

impl std::fmt::Display for SandboxTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "sandbox {id:?}"),
            Self::Pod(pod) => write!(f, "pod {:?}/{:?} ({:?})", pod.namespace, pod.name, pod.uid),
        }
    }
}

/// A pod and, by its uid, one incarnation of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Uid of the pod.
    pub uid: String,
}

impl From<&PodRef> for pb::Pod {
    fn from(pod: &PodRef) -> Self {
        let PodRef {
            namespace,
            name,
            uid,
        } = pod.clone();
        Self {
            namespace,
            name,
            uid,
        }
    }
}

impl From<pb::Pod> for PodRef {
    fn from(pod: pb::Pod) -> Self {
        Self {
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
        }
    }
}

/// A sandbox that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The full id.
    pub id: String,
    /// The pod it belongs to, where the source of sandboxes knows one.
    pub pod: Option<PodRef>,
}

/// What to bind.
#[derive(Clone, Debug)]
pub struct BindRequest {
    /// Where.
    pub target: SandboxTarget,
    /// What. Either all are bound or none is.
    pub listeners: Vec<Listen>,
    /// Connections that the kernel may queue on each socket.
    pub backlog: u32,
    /// The signed grant of a gateway, encoded; empty without one.
    pub grant: Vec<u8>,
}

/// A socket that is bound and listening in a sandbox.
#[derive(Debug)]
pub struct BoundSocket {
    /// The listener it belongs to.
    pub listener_id: u32,
    /// What it listens on.
    pub addr: SocketAddr,
    /// The socket, non-blocking.
    pub socket: TcpListener,
}

/// What [`Binder::bind`] made.
#[derive(Debug)]
pub struct Bound {
    /// The sandbox it was made in.
    pub sandbox: Sandbox,
    /// The network namespace that the sockets are in.
    pub namespace: NamespaceId,
    /// The sockets, in the order of the request, IPv4 before IPv6.
    pub sockets: Vec<BoundSocket>,
    /// Tells when the sandbox is gone.
    pub gone: Gone,
}

/// Resolves when a sandbox stopped, was removed or lost its namespace. While
/// one exists, the binder watches that sandbox.
#[derive(Clone, Debug)]
pub struct Gone(watch::Receiver<Option<String>>);

impl Gone {
    /// A pair of the sender, which the watcher keeps, and a receiver.
    #[must_use]
    pub fn channel() -> (watch::Sender<Option<String>>, Self) {
        let (tx, rx) = watch::channel(None);
        (tx, Self(rx))
    }

    /// Another receiver of the same news.
    pub(crate) fn subscribe(tx: &watch::Sender<Option<String>>) -> Self {
        Self(tx.subscribe())
    }

    /// Waits until the sandbox is gone and returns the sentence that says so.
    /// For ever pending if the watcher itself ended: no news is not "gone".
    pub async fn wait(&mut self) -> String {
        match self.0.wait_for(Option::is_some).await.map(|v| v.clone()) {
            Ok(Some(sentence)) => sentence,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

/// Whether the source of sandboxes answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinderStatus {
    /// Its name and version, for example `containerd 1.6.20`; `standalone`.
    pub runtime: String,
    /// Why it does not answer, if it does not.
    pub trouble: Option<String>,
}

/// Finds sandboxes and binds in them. See the module's documentation.
#[tonic::async_trait]
pub trait Binder: Send + Sync + 'static {
    /// Finds the sandbox, checks that it may be entered, and binds and listens
    /// in its network namespace: everything that was asked for, or nothing.
    ///
    /// # Errors
    /// One [`Failure`] that names the sandbox or the address.
    async fn bind(&self, request: BindRequest) -> Result<Bound, Failure>;

    /// Finds the full id of a sandbox, for lists; does not enter it.
    ///
    /// # Errors
    /// As [`Binder::bind`].
    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure>;

    /// Watches a sandbox in which something was bound before, by this process or
    /// by another.
    ///
    /// # Errors
    /// It cannot be watched at the moment.
    async fn watch(&self, sandbox: Watched) -> Result<Gone, Failure>;

    /// Asks the source of sandboxes how it is.
    async fn status(&self) -> BinderStatus;

    /// Where sockets are left for the process after this one; none where nothing
    /// outlives this process.
    fn deposits(&self) -> Option<Deposits> {
        None
    }
}
