//! Sandboxes of a container runtime, found through its CRI socket: one way for
//! containerd and CRI-O.

mod admit;
mod client;
mod info;
mod nodes;
mod pods;

use self::{
    admit::{Entry, admit, is_ready},
    client::Client,
    nodes::NodeNamespaces,
    pods::{newest_ready, pod_of, select_pod},
};
use super::{Liveness, Resolved, SandboxSource, Watched, ambiguous, invalid};
use crate::{
    binder::{BinderStatus, PodRef, Sandbox, SandboxTarget},
    netns::{HostNetwork, Netns, NetnsError},
};
use std::{fs::File, os::fd::AsRawFd as _, path::PathBuf, time::Duration};
use sternline_api::{
    Failure, Reason,
    cri::{PodSandbox, PodSandboxFilter, PodSandboxStatusResponse},
};

/// How long one call to the runtime may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Ids are SHA-256 sums in lower-case hex, or prefixes of one.
const MAX_ID_CHARS: usize = 64;

/// Reads a runtime's document alone, for [`crate::fuzzing`].
pub(crate) fn read_info(text: &str) -> Result<crate::fuzzing::CriInfo, String> {
    let read = info::Info::parse(&[("info".to_owned(), text.to_owned())].into())?;
    Ok(crate::fuzzing::CriInfo {
        pid: read.pid,
        network_closed: read.network_closed,
        runtime_type: read.runtime_type,
        network: read.network,
    })
}

/// How to reach the runtime, and what to trust.
#[derive(Clone, Debug)]
pub struct CriOptions {
    /// `unix:///path` or `/path` of its socket.
    pub endpoint: String,
    /// Runtime handlers, or containerd's runtime types, that are let in besides
    /// those known to share the kernel's network.
    pub allowed_handlers: Vec<String>,
    /// How long one call may take.
    pub call_timeout: Duration,
}

impl CriOptions {
    /// With a time-out of [`CALL_TIMEOUT`].
    #[must_use]
    pub fn new(endpoint: &str, allowed_handlers: Vec<String>) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            allowed_handlers,
            call_timeout: CALL_TIMEOUT,
        }
    }
}

/// The sandboxes of one runtime.
#[derive(Debug)]
pub struct CriSource {
    client: Client,
    allowed: Vec<String>,
    host: HostNetwork,
    nodes: NodeNamespaces,
}

impl CriSource {
    /// Connects when first used, and again whenever the runtime went away. To be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// An endpoint that is no absolute path of a Unix socket.
    pub fn new(options: CriOptions) -> Result<Self, Failure> {
        Ok(Self {
            client: Client::new(&options.endpoint, options.call_timeout)?,
            allowed: options.allowed_handlers,
            host: HostNetwork::detect()?,
            nodes: NodeNamespaces::default(),
        })
    }

    /// The sandbox with this id or prefix, as the runtime lists it.
    async fn by_id(&self, prefix: &str) -> Result<PodSandbox, Failure> {
        check_id(prefix)?;
        // Runtimes answer a filter by an ambiguous prefix with nothing at all, so
        // only a whole id is left to them.
        let filter = (prefix.len() == MAX_ID_CHARS).then(|| PodSandboxFilter {
            id: prefix.to_owned(),
            ..PodSandboxFilter::default()
        });
        let mut fitting = self.client.list(filter).await?;
        fitting.retain(|found| found.id.starts_with(prefix));
        if let Some(exact) = fitting.iter().position(|found| found.id == prefix) {
            return Ok(fitting.swap_remove(exact));
        }
        match (fitting.len(), fitting.pop()) {
            (1, Some(one)) => Ok(one),
            (_, None) => Err(not_found(prefix)),
            (total, Some(last)) => {
                fitting.push(last);
                let ids = fitting.into_iter().map(|found| short(&found.id));
                Err(ambiguous(prefix, total, ids.collect()))
            }
        }
    }

    async fn by_pod(&self, pod: &PodRef) -> Result<PodSandbox, Failure> {
        let filter = PodSandboxFilter {
            label_selector: select_pod(pod)?,
            ..PodSandboxFilter::default()
        };
        newest_ready(self.client.list(Some(filter)).await?, pod)
    }

    async fn locate(&self, target: &SandboxTarget) -> Result<PodSandbox, Failure> {
        match target {
            SandboxTarget::Id(prefix) => self.by_id(prefix).await,
            SandboxTarget::Pod(pod) => self.by_pod(pod).await,
        }
    }

    /// The status of a sandbox that was listed a moment ago.
    async fn status_of(&self, id: &str) -> Result<PodSandboxStatusResponse, Failure> {
        let status = self.client.status(id, true).await?;
        status.ok_or_else(|| not_found(id))
    }

    async fn open(&self, id: &str) -> Result<Netns, Failure> {
        let status = self.status_of(id).await?;
        let opened = match admit(id, &status, &self.allowed)? {
            Entry::Path(path) => Netns::open(path).await,
            Entry::Pid(pid) => return self.open_process(id, pid).await,
        };
        opened.map_err(|err| err.for_sandbox(id))
    }

    /// Opens the namespace of the sandbox's first process. The open directory of
    /// a process never becomes that of another with the same number; asking again
    /// after it was opened shows that it is the one that was meant.
    async fn open_process(&self, id: &str, pid: u32) -> Result<Netns, Failure> {
        let shown = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let process = File::open(format!("/proc/{pid}"))
            .map_err(|err| NetnsError::opening(&shown, err).for_sandbox(id))?;
        let status = self.status_of(id).await?;
        if admit(id, &status, &self.allowed)? != Entry::Pid(pid) {
            let message = format!("sandbox {id} is restarting: try again");
            return Err(Failure::new(Reason::SandboxNotReady, message));
        }
        let path = PathBuf::from(format!("/proc/self/fd/{}/ns/net", process.as_raw_fd()));
        let opened = Netns::open_as(path, shown).await;
        opened.map_err(|err| err.for_sandbox(id))
    }

    /// Whether a sandbox that is not among the ready ones is gone for good.
    async fn confirm(&self, id: &str) -> Liveness {
        match self.client.status(id, false).await {
            Ok(None) => Liveness::Gone(format!("sandbox {id} is gone: it was removed")),
            Ok(Some(status)) if is_ready(&status) => Liveness::Alive,
            Ok(Some(_)) => Liveness::Gone(format!("sandbox {id} is gone: it was stopped")),
            Err(failure) => Liveness::Unknown(failure.message),
        }
    }
}

#[tonic::async_trait]
impl SandboxSource for CriSource {
    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure> {
        self.locate(target).await.map(into_sandbox)
    }

    async fn resolve(&self, target: &SandboxTarget) -> Result<Resolved, Failure> {
        let sandbox = into_sandbox(self.locate(target).await?);
        tracing::debug!(sandbox = sandbox.id, pod = ?sandbox.pod, "found the sandbox");
        let netns = self.open(&sandbox.id).await?;
        if self.host.contains(netns.id())
            || self
                .nodes
                .contain(&self.client, &sandbox.id, netns.id())
                .await?
        {
            return Err(HostNetwork::refusal(&sandbox.id));
        }
        Ok(Resolved { sandbox, netns })
    }

    async fn check(&self, watched: &[Watched]) -> Vec<Liveness> {
        let ready = match self.client.list_ready().await {
            Ok(ready) => ready,
            Err(failure) => {
                return vec![Liveness::Unknown(failure.message); watched.len()];
            }
        };
        let mut found = Vec::with_capacity(watched.len());
        let mut trouble: Option<Liveness> = None;
        for Watched { id, .. } in watched {
            let one = if ready.contains(id) {
                Liveness::Alive
            } else if let Some(trouble) = &trouble {
                // A runtime that hangs is not asked once for every sandbox.
                trouble.clone()
            } else {
                self.confirm(id).await
            };
            if matches!(one, Liveness::Unknown(_)) {
                trouble = Some(one.clone());
            }
            found.push(one);
        }
        found
    }

    async fn status(&self) -> BinderStatus {
        self.client.describe().await
    }
}

fn into_sandbox(found: PodSandbox) -> Sandbox {
    Sandbox {
        pod: pod_of(&found),
        id: found.id,
    }
}

fn not_found(id: &str) -> Failure {
    let message = format!("sandbox {id} was not found: list them with `crictl pods`");
    Failure::new(Reason::SandboxNotFound, message)
}

/// As `crictl pods` shows an id.
fn short(id: &str) -> String {
    id.chars().take(13).collect()
}

fn check_id(id: &str) -> Result<(), Failure> {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if (1..=MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(hex) {
        return Ok(());
    }
    let shown: String = id.chars().take(80).collect();
    Err(invalid(format!(
        "sandbox id {shown:?} is malformed: give 1 to 64 hexadecimal digits, as `crictl pods` shows them"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lower_case_hex() {
        for good in ["9", "9af3cdc33464", &"f".repeat(64)] {
            check_id(good).expect(good);
        }
        for bad in [
            "",
            "web",
            "9AF3",
            "../9",
            "9 ",
            "9\n",
            "\u{661}",
            &"f".repeat(65),
        ] {
            let failure = check_id(bad).expect_err(bad);
            assert_eq!(failure.reason, Reason::InvalidRequest);
            assert!(!failure.message.contains('\n'), "{failure}");
        }
    }
}
