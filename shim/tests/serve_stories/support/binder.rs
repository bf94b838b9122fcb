//! A binder without namespaces: its sandboxes all share this machine's loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use sternline_api::{Failure, Reason};
use sternline_shim::binder::{
    BindRequest, Binder, BinderStatus, Bound, Gone, Sandbox, SandboxTarget,
};
use sternline_shim::listener::listen_all;
use sternline_shim::netns::NamespaceId;
use sternline_shim::sandbox::Watched;
use tokio::sync::watch;

/// The watcher's end and the sessions' end of the news of one sandbox.
type News = (watch::Sender<Option<String>>, Gone);

/// Listens wherever it is asked to, wide addresses included: what keeps a client
/// from those in a test is the serving half.
#[derive(Debug)]
pub(crate) struct FakeBinder {
    gone: Mutex<HashMap<String, News>>,
    /// Whether what was bound is handed over.
    open: watch::Sender<bool>,
    /// What was bound last.
    bound: Mutex<Vec<SocketAddr>>,
    /// Says that every sandbox is this one.
    posing_as: Mutex<Option<String>>,
    trouble: Mutex<Option<String>>,
}

impl FakeBinder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            gone: Mutex::default(),
            open: watch::Sender::new(true),
            bound: Mutex::default(),
            posing_as: Mutex::default(),
            trouble: Mutex::default(),
        })
    }

    /// From now on nothing that is bound is handed over.
    pub(crate) fn stall(&self) {
        self.open.send_replace(false);
    }

    /// Hands over what is held back.
    pub(crate) fn go_on(&self) {
        self.open.send_replace(true);
    }

    /// What was bound last, handed over or not.
    pub(crate) fn last_bound(&self) -> Vec<SocketAddr> {
        self.bound.lock().expect("whole").clone()
    }

    /// The sandbox is there again.
    pub(crate) fn restore(&self, id: &str) {
        self.gone.lock().expect("whole").remove(id);
    }

    pub(crate) fn pose_as(&self, id: &str) {
        *self.posing_as.lock().expect("whole") = Some(id.to_owned());
    }

    pub(crate) fn break_runtime(&self, sentence: &str) {
        *self.trouble.lock().expect("whole") = Some(sentence.to_owned());
    }

    /// The sandbox stops.
    pub(crate) fn remove(&self, id: &str) {
        let gone = self.gone.lock().expect("whole");
        let (news, _) = gone.get(id).expect("a sandbox with listeners");
        news.send_replace(Some(format!("sandbox {id} stopped")));
    }
}

#[tonic::async_trait]
impl Binder for FakeBinder {
    async fn bind(&self, request: BindRequest) -> Result<Bound, Failure> {
        let sandbox = self.find(&request.target).await?;
        let sockets = listen_all(&request.listeners, request.backlog)
            .map_err(|error| error.for_sandbox(&sandbox.id))?;
        *self.bound.lock().expect("whole") = sockets.iter().map(|s| s.addr).collect();
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.expect("kept");
        let mut gone = self.gone.lock().expect("whole");
        let id = sandbox.id.clone();
        let (_, gone) = gone.entry(id).or_insert_with(Gone::channel);
        Ok(Bound {
            sandbox,
            namespace: NamespaceId::from_parts(0, 0),
            sockets,
            gone: gone.clone(),
        })
    }

    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure> {
        let id = match target {
            SandboxTarget::Id(id) => id,
            SandboxTarget::Pod(pod) => {
                return Ok(Sandbox {
                    id: pod.uid.clone(),
                    pod: Some(pod.clone()),
                });
            }
        };
        if id == "missing" {
            return Err(Failure::new(
                Reason::SandboxNotFound,
                format!("sandbox {id} is not known: see `crictl pods`"),
            ));
        }
        let posing_as = self.posing_as.lock().expect("whole").clone();
        Ok(Sandbox {
            id: posing_as.unwrap_or_else(|| id.clone()),
            pod: None,
        })
    }

    async fn watch(&self, sandbox: Watched) -> Result<Gone, Failure> {
        let mut gone = self.gone.lock().expect("whole");
        let (_, gone) = gone.entry(sandbox.id).or_insert_with(Gone::channel);
        Ok(gone.clone())
    }

    async fn status(&self) -> BinderStatus {
        BinderStatus {
            runtime: "fake".into(),
            trouble: self.trouble.lock().expect("whole").clone(),
        }
    }
}
