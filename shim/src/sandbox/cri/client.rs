//! Calls to the runtime: bounded in time and size, repeated once when the
//! connection broke, each failure a sentence that names the socket.

use crate::binder::BinderStatus;
use std::{
    collections::HashSet,
    error::Error as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use sternline_api::{
    Failure, Reason,
    cri::{
        ListPodSandboxRequest, PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
        PodSandboxStatusRequest, PodSandboxStatusResponse, VersionRequest,
        runtime_service_client::RuntimeServiceClient,
    },
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// Largest answer, in bytes: what kubelet allows itself.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// How much of the runtime's own words is passed on, in characters.
const MAX_WORDS: usize = 300;

#[derive(Debug)]
pub(super) struct Client {
    calls: RuntimeServiceClient<Channel>,
    socket: PathBuf,
    timeout: Duration,
    /// Name and version, once it told them.
    name: Mutex<Option<String>>,
}

impl Client {
    pub(super) fn new(endpoint: &str, timeout: Duration) -> Result<Self, Failure> {
        let malformed = || {
            let message = format!(
                "runtime endpoint {endpoint:?} is malformed: give the path of a Unix socket, such as unix:///run/containerd/containerd.sock"
            );
            Failure::new(Reason::InvalidRequest, message)
        };
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !path.starts_with('/') || path.contains('\0') {
            return Err(malformed());
        }
        let channel = Endpoint::from_shared(format!("unix://{path}"))
            .map_err(|_| malformed())?
            .connect_lazy();
        Ok(Self {
            calls: RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES),
            socket: PathBuf::from(path),
            timeout,
            name: Mutex::default(),
        })
    }

    /// How long one call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The sandboxes that fit the filter; all of them without one.
    pub(super) async fn list(
        &self,
        filter: Option<PodSandboxFilter>,
    ) -> Result<Vec<PodSandbox>, Failure> {
        let request = ListPodSandboxRequest { filter };
        let answer = self
            .call("ListPodSandbox", || {
                let (mut calls, request) = (self.calls.clone(), request.clone());
                async move { calls.list_pod_sandbox(request).await }
            })
            .await?;
        Ok(answer.items)
    }

    /// The ids of all that are ready.
    pub(super) async fn list_ready(&self) -> Result<HashSet<String>, Failure> {
        let filter = PodSandboxFilter {
            state: Some(PodSandboxStateValue {
                state: PodSandboxState::SandboxReady.into(),
            }),
            ..PodSandboxFilter::default()
        };
        let ready = self.list(Some(filter)).await?.into_iter();
        Ok(ready
            .filter(|found| found.state() == PodSandboxState::SandboxReady)
            .map(|found| found.id)
            .collect())
    }

    /// What the runtime knows about one sandbox; nothing if there is none.
    pub(super) async fn status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<Option<PodSandboxStatusResponse>, Failure> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose,
        };
        let answer = self
            .call("PodSandboxStatus", || {
                let (mut calls, request) = (self.calls.clone(), request.clone());
                async move {
                    match calls.pod_sandbox_status(request).await {
                        Err(status) if status.code() == Code::NotFound => Ok(Response::new(None)),
                        answer => answer.map(|answer| answer.map(Some)),
                    }
                }
            })
            .await?;
        let told = answer.as_ref().and_then(|answer| answer.status.as_ref());
        match (&answer, told) {
            (Some(_), None) => Err(self.unavailable(format!("told nothing about sandbox {id}"))),
            (Some(_), Some(told)) if told.id != id => {
                let other = words(&told.id);
                Err(self.unavailable(format!("was asked for sandbox {id} and told of {other:?}")))
            }
            _ => Ok(answer),
        }
    }

    /// Asks for name and version, to see whether the runtime answers.
    pub(super) async fn describe(&self) -> BinderStatus {
        let answer = self
            .call("Version", || {
                let mut calls = self.calls.clone();
                let version = "v1".to_owned();
                async move { calls.version(VersionRequest { version }).await }
            })
            .await;
        let mut name = self.name.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = match answer {
            Ok(told) => {
                let told = format!("{} {}", told.runtime_name, told.runtime_version);
                *name = Some(words(&told));
                None
            }
            Err(failure) => Some(failure.message),
        };
        BinderStatus {
            runtime: name.clone().unwrap_or_else(|| "unknown".to_owned()),
            trouble,
        }
    }

    /// Makes one call. All of them only read, so one that failed with its
    /// connection is made again: the runtime may have been restarted.
    async fn call<T, F>(&self, name: &str, make: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let calling = async {
            match make().await {
                Err(status) if broke(&status) => make().await,
                answer => answer,
            }
        };
        match tokio::time::timeout(self.timeout, calling).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failure(name, &status)),
            Err(_) => {
                Err(self.unavailable(format!("did not answer {name} within {:?}", self.timeout)))
            }
        }
    }

    fn failure(&self, name: &str, status: &Status) -> Failure {
        if broke(status) {
            // The innermost cause is the system's own word, such as "No such file".
            let mut cause = status.source();
            while let Some(deeper) = cause.and_then(std::error::Error::source) {
                cause = Some(deeper);
            }
            let cause = cause.map_or_else(|| status.message().to_owned(), ToString::to_string);
            return self.unavailable(format!("cannot be reached: {}", words(&cause)));
        }
        if status.code() == Code::Unimplemented {
            return self.unavailable(format!("does not offer {name} of CRI v1"));
        }
        self.unavailable(format!(
            "failed {name}: {:?}: {}",
            status.code(),
            words(status.message())
        ))
    }

    fn unavailable(&self, what: impl std::fmt::Display) -> Failure {
        unavailable(&self.socket, what)
    }
}

fn unavailable(socket: &Path, what: impl std::fmt::Display) -> Failure {
    let message = format!(
        "container runtime at {} {what}; check that it runs, and --runtime-endpoint",
        socket.display()
    );
    Failure::new(Reason::RuntimeUnavailable, message)
}

/// Whether it was the connection that failed, and not the runtime that said no.
fn broke(status: &Status) -> bool {
    status.source().is_some()
}

/// Foreign words, fit for a message: bounded, on one line.
fn words(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_WORDS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_endpoint_is_the_path_of_a_socket() {
        for good in ["unix:///run/x.sock", "/run/x.sock"] {
            let client = Client::new(good, Duration::from_secs(1)).expect(good);
            assert_eq!(client.socket, Path::new("/run/x.sock"));
        }
        for bad in [
            "",
            "unix://",
            "run/x.sock",
            "http://localhost:1",
            "tcp://1.2.3.4:5",
        ] {
            let failure = Client::new(bad, Duration::from_secs(1)).expect_err(bad);
            assert_eq!(failure.reason, Reason::InvalidRequest);
        }
    }

    #[tokio::test]
    async fn a_socket_without_a_runtime_is_named() {
        let client = Client::new("/nonexistent/x.sock", Duration::from_secs(5)).expect("client");
        let failure = client.list(None).await.expect_err("nobody there");
        assert_eq!(failure.reason, Reason::RuntimeUnavailable);
        assert!(failure.message.contains("/nonexistent/x.sock"), "{failure}");
        assert!(failure.message.contains("No such file"), "{failure}");
        let status = client.describe().await;
        assert_eq!(status.runtime, "unknown");
        assert_eq!(status.trouble, Some(failure.message));
    }

    #[test]
    fn foreign_words_stay_short_and_on_one_line() {
        assert_eq!(words("a\n\x1b[31mb"), "a  [31mb");
        assert_eq!(words(&"x".repeat(1000)).len(), MAX_WORDS);
    }
}
