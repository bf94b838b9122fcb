//! A binder that does the work in this process.

use super::{BindRequest, Binder, BinderStatus, Bound, Gone, Sandbox, SandboxTarget};
use crate::{
    listener::listen_all,
    netns::holder,
    sandbox::{
        Resolved, SandboxSource, Watched,
        cri::{CriOptions, CriSource},
        standalone::StandaloneSource,
    },
    watch::Watcher,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use sternline_api::{Failure, Reason};

/// Binds in the sandboxes of one source. See [`Binder`].
#[derive(Debug)]
pub struct LocalBinder<S> {
    source: Arc<S>,
    watcher: Watcher<S>,
    allow_wide: bool,
}

impl LocalBinder<CriSource> {
    /// Sandboxes of the container runtime at `endpoint`, for example
    /// `unix:///run/containerd/containerd.sock`, which need not answer yet.
    /// `allowed_handlers` are runtime handlers, or containerd's runtime types,
    /// that share the kernel's network although they are not known for it. To be
    /// called inside a tokio runtime, before anything enters a namespace.
    ///
    /// # Errors
    /// An endpoint that is no path of a Unix socket.
    pub fn cri(
        endpoint: &str,
        allowed_handlers: Vec<String>,
        allow_wide: bool,
        poll_interval: Duration,
    ) -> Result<Self, Failure> {
        let source = CriSource::new(CriOptions::new(endpoint, allowed_handlers))?;
        Ok(Self::new(source, allow_wide, poll_interval))
    }
}

impl LocalBinder<StandaloneSource> {
    /// Sandboxes are the named network namespaces in `dir`. To be called before
    /// anything enters a namespace.
    ///
    /// # Errors
    /// The node's own namespace cannot be told.
    pub fn standalone(
        dir: PathBuf,
        allow_wide: bool,
        poll_interval: Duration,
    ) -> Result<Self, Failure> {
        let source = StandaloneSource::new(dir)?;
        Ok(Self::new(source, allow_wide, poll_interval))
    }
}

impl<S: SandboxSource> LocalBinder<S> {
    /// Binds in the sandboxes of `source`, outside loopback only if `allow_wide`,
    /// and looks after those that have listeners every `poll_interval`.
    #[must_use]
    pub fn new(source: S, allow_wide: bool, poll_interval: Duration) -> Self {
        let source = Arc::new(source);
        Self {
            watcher: Watcher::new(Arc::clone(&source), poll_interval),
            source,
            allow_wide,
        }
    }

    /// How many sandboxes are being watched.
    #[must_use]
    pub fn watched(&self) -> usize {
        self.watcher.watched()
    }

    /// What the binder itself insists on, whoever calls.
    fn check(&self, request: &BindRequest) -> Result<(), Failure> {
        if request.listeners.is_empty() {
            let message = "the request has no listeners: name at least one port to listen on";
            return Err(Failure::new(Reason::InvalidRequest, message));
        }
        if let Some(wide) = request.listeners.iter().find(|l| l.bind.is_wide())
            && !self.allow_wide
        {
            let message = format!(
                "listener {} asks for {wide}, which others than the pod could reach: listen on loopback, or start the server with --allow-wide-bind",
                wide.id
            );
            return Err(Failure::new(Reason::WideBindDenied, message));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl<S: SandboxSource> Binder for LocalBinder<S> {
    async fn bind(&self, request: BindRequest) -> Result<Bound, Failure> {
        self.check(&request)?;
        let BindRequest {
            target,
            listeners,
            backlog,
            // Of those who look, see `cluster`.
            grant: _,
        } = request;
        let Resolved { sandbox, netns } = self.source.resolve(&target).await?;
        let namespace = netns.id();
        tracing::debug!(sandbox = sandbox.id, %namespace, path = %netns.path().display(), "entering the sandbox");
        let made = netns
            .run(move || {
                listen_all(&listeners, backlog).map_err(|err| {
                    let socket = err.taken().and_then(holder::socket_at);
                    (err, socket)
                })
            })
            .await
            .map_err(|err| err.for_sandbox(&sandbox.id))?;
        let sockets = match made {
            Ok(sockets) => sockets,
            Err((err, socket)) => {
                let holder = match socket {
                    Some(inode) => holder::process_with(inode, namespace).await,
                    None => None,
                };
                let err = match holder {
                    Some(holder) => err.held_by(&holder),
                    None => err,
                };
                return Err(err.for_sandbox(&sandbox.id));
            }
        };
        // A sandbox that stopped meanwhile is found out by the first look.
        let gone = self.watcher.watch(Watched {
            id: sandbox.id.clone(),
            namespace,
        });
        for socket in &sockets {
            tracing::debug!(sandbox = sandbox.id, listener = socket.listener_id, addr = %socket.addr, "listening");
        }
        Ok(Bound {
            sandbox,
            namespace,
            sockets,
            gone,
        })
    }

    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure> {
        self.source.find(target).await
    }

    async fn watch(&self, sandbox: Watched) -> Result<Gone, Failure> {
        Ok(self.watcher.watch(sandbox))
    }

    async fn status(&self) -> BinderStatus {
        let mut status = self.source.status().await;
        status.trouble = status.trouble.or_else(|| self.watcher.trouble());
        status
    }
}
