//! A container runtime that says what a test tells it to, for faults that a real
//! one cannot be brought to.

#![allow(dead_code, reason = "each test binary uses a part")]

use serde_json::json;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use sternline_api::cri::{
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
    *,
};
use tokio::{net::UnixListener, runtime::Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

/// One sandbox as the runtime describes it.
#[derive(Clone, Debug)]
pub(crate) struct FakeSandbox {
    pub(crate) listed: PodSandbox,
    pub(crate) network: NamespaceMode,
    pub(crate) info: String,
}

impl FakeSandbox {
    /// A ready one of containerd, whose namespace is at `path`.
    pub(crate) fn new(id: &str, path: &Path) -> Self {
        let info = json!({
            "pid": 0,
            "netNamespaceClosed": false,
            "runtimeType": "io.containerd.runc.v2",
            "runtimeSpec": {"linux": {"namespaces": [{"type": "network", "path": path}]}},
        });
        Self::with_info(id, info.to_string())
    }

    /// A ready one of CRI-O, which names no type.
    pub(crate) fn crio(id: &str, path: &Path) -> Self {
        let namespaces = json!([{"type": "network", "path": path}]);
        let info = json!({"runtimeSpec": {"linux": {"namespaces": namespaces}}});
        Self::with_info(id, info.to_string())
    }

    pub(crate) fn with_info(id: &str, info: String) -> Self {
        Self {
            listed: PodSandbox {
                id: id.to_owned(),
                created_at: 1,
                ..PodSandbox::default()
            },
            network: NamespaceMode::Pod,
            info,
        }
    }

    pub(crate) fn of_pod(mut self, name: &str, uid: &str, created_at: i64) -> Self {
        self.listed.labels = HashMap::from([
            (
                "io.kubernetes.pod.namespace".to_owned(),
                "default".to_owned(),
            ),
            ("io.kubernetes.pod.name".to_owned(), name.to_owned()),
            ("io.kubernetes.pod.uid".to_owned(), uid.to_owned()),
        ]);
        self.listed.created_at = created_at;
        self
    }

    pub(crate) fn on_node_network(mut self) -> Self {
        self.network = NamespaceMode::Node;
        self
    }

    pub(crate) fn with_handler(mut self, handler: &str) -> Self {
        self.listed.runtime_handler = handler.to_owned();
        self
    }
}

/// How the runtime misbehaves.
#[derive(Clone, Debug, Default)]
pub(crate) enum Mood {
    #[default]
    Honest,
    /// Never answers.
    Silent,
    /// Fails every call.
    Failing,
    /// Knows none of the calls.
    Ancient,
    /// Lists nothing, and still knows each sandbox by its id.
    EmptyLists,
    /// Answers every status with that of another sandbox.
    WrongSandbox,
    /// Answers every status without one.
    NoStatus,
}

#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) sandboxes: Vec<FakeSandbox>,
    pub(crate) mood: Mood,
}

#[derive(Debug, Default)]
struct Shared {
    told: Mutex<Told>,
    calls: AtomicUsize,
}

/// A running runtime and its socket.
#[derive(Debug)]
pub(crate) struct FakeRuntime {
    shared: Arc<Shared>,
    pub(crate) socket: PathBuf,
    /// The server and its connections, which end only together.
    server: Option<Runtime>,
}

impl FakeRuntime {
    /// Serves on a socket in `dir`.
    pub(crate) fn start(dir: &Path, sandboxes: Vec<FakeSandbox>) -> Self {
        let shared = Arc::new(Shared::default());
        shared.told.lock().expect("lock").sandboxes = sandboxes;
        let socket = dir.join("runtime.sock");
        let server = Some(serve(&shared, &socket));
        Self {
            shared,
            socket,
            server,
        }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// What it says, to be changed.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        self.shared.told.lock().expect("lock")
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.told().mood = mood;
    }

    pub(crate) fn set_ready(&self, id: &str, ready: bool) {
        let state = if ready {
            PodSandboxState::SandboxReady
        } else {
            PodSandboxState::SandboxNotready
        };
        let mut told = self.told();
        let found = told.sandboxes.iter_mut().find(|one| one.listed.id == id);
        found.expect("there").listed.state = state.into();
    }

    /// How many calls it has had.
    pub(crate) fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Ends the server with all its connections, as when it is killed.
    pub(crate) fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
        std::fs::remove_file(&self.socket).expect("socket");
    }

    /// Serves again, at the same path.
    pub(crate) fn restart(&mut self) {
        self.server = Some(serve(&self.shared, &self.socket));
    }
}

impl Drop for FakeRuntime {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

fn serve(shared: &Arc<Shared>, socket: &Path) -> Runtime {
    let server = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("runtime");
    let listener = std::os::unix::net::UnixListener::bind(socket).expect("socket");
    listener.set_nonblocking(true).expect("socket");
    let service = RuntimeServiceServer::new(Service(Arc::clone(shared)));
    server.spawn(async move {
        let listener = UnixListener::from_std(listener).expect("socket");
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        served.await.expect("served");
    });
    server
}

struct Service(Arc<Shared>);

impl Service {
    /// Counts the call, and misbehaves if it is in the mood to.
    async fn receive(&self) -> Result<(), Status> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        let mood = self.0.told.lock().expect("lock").mood.clone();
        match mood {
            Mood::Silent => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Ok(())
            }
            Mood::Failing => Err(Status::unknown("server is not initialized yet\n\x1b[31m")),
            Mood::Ancient => Err(Status::unimplemented("unknown service runtime.v1")),
            _ => Ok(()),
        }
    }
}

fn fits(one: &PodSandbox, filter: &PodSandboxFilter) -> bool {
    let state = filter.state.as_ref();
    one.id.starts_with(&filter.id)
        && state.is_none_or(|wanted| wanted.state == one.state)
        && filter
            .label_selector
            .iter()
            .all(|(key, value)| one.labels.get(key) == Some(value))
}

fn unsupported<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(
        &self,
        _: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        self.receive().await?;
        Ok(Response::new(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "1.2.3".to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Result<Response<ListPodSandboxResponse>, Status> {
        self.receive().await?;
        let filter = request.into_inner().filter.unwrap_or_default();
        let told = self.0.told.lock().expect("lock");
        let mut items: Vec<_> = told
            .sandboxes
            .iter()
            .map(|one| one.listed.clone())
            .collect();
        items.retain(|one| fits(one, &filter));
        if matches!(told.mood, Mood::EmptyLists) {
            items.clear();
        }
        Ok(Response::new(ListPodSandboxResponse { items }))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Result<Response<PodSandboxStatusResponse>, Status> {
        self.receive().await?;
        let PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose,
        } = request.into_inner();
        let told = self.0.told.lock().expect("lock");
        let found = told
            .sandboxes
            .iter()
            .find(|one| one.listed.id == pod_sandbox_id);
        let one = found.ok_or_else(|| Status::not_found("no such sandbox"))?;
        let options = NamespaceOption {
            network: one.network.into(),
            ..NamespaceOption::default()
        };
        let mut status = PodSandboxStatus {
            id: one.listed.id.clone(),
            state: one.listed.state,
            runtime_handler: one.listed.runtime_handler.clone(),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace {
                    options: Some(options),
                }),
            }),
            ..PodSandboxStatus::default()
        };
        if matches!(told.mood, Mood::WrongSandbox) {
            status.id = "0123".to_owned();
        }
        let info = HashMap::from([("info".to_owned(), one.info.clone())]);
        Ok(Response::new(PodSandboxStatusResponse {
            status: Some(status).filter(|_| !matches!(told.mood, Mood::NoStatus)),
            info: if verbose { info } else { HashMap::new() },
            ..PodSandboxStatusResponse::default()
        }))
    }

    async fn run_pod_sandbox(
        &self,
        _: Request<RunPodSandboxRequest>,
    ) -> Result<Response<RunPodSandboxResponse>, Status> {
        unsupported()
    }

    async fn stop_pod_sandbox(
        &self,
        _: Request<StopPodSandboxRequest>,
    ) -> Result<Response<StopPodSandboxResponse>, Status> {
        unsupported()
    }

    async fn remove_pod_sandbox(
        &self,
        _: Request<RemovePodSandboxRequest>,
    ) -> Result<Response<RemovePodSandboxResponse>, Status> {
        unsupported()
    }

    async fn create_container(
        &self,
        _: Request<CreateContainerRequest>,
    ) -> Result<Response<CreateContainerResponse>, Status> {
        unsupported()
    }

    async fn start_container(
        &self,
        _: Request<StartContainerRequest>,
    ) -> Result<Response<StartContainerResponse>, Status> {
        unsupported()
    }

    async fn stop_container(
        &self,
        _: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        unsupported()
    }

    async fn remove_container(
        &self,
        _: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        unsupported()
    }

    async fn list_containers(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        unsupported()
    }

    async fn container_status(
        &self,
        _: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        unsupported()
    }

    async fn exec_sync(
        &self,
        _: Request<ExecSyncRequest>,
    ) -> Result<Response<ExecSyncResponse>, Status> {
        unsupported()
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        unsupported()
    }
}
