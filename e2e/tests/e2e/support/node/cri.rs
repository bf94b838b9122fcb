//! Pods of a container runtime, made and watched through the CRI as kubelet
//! does it.

use super::pod::Output;
use super::{PodWish, READY, Runtime, image};
use crate::shared::image::PROBE;
use crate::support::{enclosure, until};
use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use sternline_api::cri as pb;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

type Client = pb::runtime_service_client::RuntimeServiceClient<Channel>;

/// Bound on any call; starting a container on a busy machine takes seconds.
const CALL: Duration = Duration::from_secs(150);

/// Longest run of a probe, in seconds.
const EXEC_SECONDS: i64 = 120;

/// A container runtime's CRI endpoint.
#[derive(Clone)]
pub(crate) struct Cri {
    socket: PathBuf,
    client: Client,
    images: pb::image_service_client::ImageServiceClient<Channel>,
}

impl Cri {
    /// Prepares a connection; the first call makes it.
    ///
    /// # Errors
    /// None in practice: the address is fixed.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        let channel = Endpoint::from_static("http://cri.invalid")
            .timeout(CALL)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }));
        Ok(Self {
            socket: socket.to_owned(),
            images: pb::image_service_client::ImageServiceClient::new(channel.clone()),
            client: Client::new(channel),
        })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until the runtime and its network say that they are ready.
    ///
    /// # Errors
    /// They are not within `within`.
    pub(crate) async fn ready(&self, within: Duration) -> Result<()> {
        until("the runtime to be ready", within, || async {
            let mut client = self.client.clone();
            let Ok(answer) = client.status(pb::StatusRequest::default()).await else {
                return Ok(None);
            };
            let status = answer.into_inner().status.unwrap_or_default();
            // Some runtimes have more conditions, which are warnings.
            let is = |name: &str| {
                let mut all = status.conditions.iter();
                all.any(|condition| condition.r#type == name && condition.status)
            };
            Ok((is("RuntimeReady") && is("NetworkReady")).then_some(()))
        })
        .await
    }

    /// Waits until the runtime is ready, looks whether it is of the series that
    /// was asked for, and has it pull the probe's image.
    ///
    /// # Errors
    /// It does not come up, is another one, or cannot pull.
    pub(crate) async fn set_up(&self, runtime: Runtime) -> Result<String> {
        self.ready(READY).await?;
        let version = self.version().await?;
        if !version.starts_with(runtime.series()) {
            bail!("{version} is no {}", runtime.name());
        }
        self.pull().await?;
        Ok(version)
    }

    /// Has the runtime pull the probe's image.
    ///
    /// # Errors
    /// It refuses.
    pub(crate) async fn pull(&self) -> Result<()> {
        let request = pb::PullImageRequest {
            image: Some(the_image()),
            ..Default::default()
        };
        let pull = Box::pin(self.images.clone().pull_image(request)).await;
        pull.map(drop).context("cannot pull the probe's image")
    }

    /// Name and version of the runtime.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn version(&self) -> Result<String> {
        let mut client = self.client.clone();
        let answer = client.version(pb::VersionRequest::default()).await?;
        let answer = answer.into_inner();
        // Debian's package marks a repacked source with "~ds1".
        let version = answer.runtime_version.trim_start_matches('v');
        let version = version.split('~').next().unwrap_or(version);
        Ok(format!("{} {version}", answer.runtime_name))
    }

    /// Makes a pod with one container, in which the probe waits.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn run_pod(&self, wish: &PodWish) -> Result<Pod> {
        let config = sandbox_config(wish);
        let request = pb::RunPodSandboxRequest {
            config: Some(config.clone()),
            ..Default::default()
        };
        let answer = self.client.clone().run_pod_sandbox(request).await;
        let id = answer
            .with_context(|| format!("cannot run pod {}", wish.name))?
            .into_inner()
            .pod_sandbox_id;
        let mut pod = Pod {
            cri: self.clone(),
            id,
            config,
            namespaces: namespaces(wish),
            ip: None,
            main: String::new(),
            containers: AtomicU32::new(0),
        };
        pod.ip = pod.ask_ip().await?;
        pod.main = pod.start(&["pause"]).await?.id;
        Ok(pod)
    }

    /// Removes every pod.
    ///
    /// # Errors
    /// The runtime refuses.
    pub(crate) async fn sweep(&self) -> Result<()> {
        let list = pb::ListPodSandboxRequest::default();
        let list = self.client.clone().list_pod_sandbox(list).await?;
        for pod in list.into_inner().items {
            remove(&self.client, &pod.id).await?;
        }
        Ok(())
    }
}

/// A pod sandbox with a container of the probe's image.
pub(crate) struct Pod {
    cri: Cri,
    id: String,
    config: pb::PodSandboxConfig,
    namespaces: pb::NamespaceOption,
    ip: Option<IpAddr>,
    main: String,
    containers: AtomicU32,
}

impl Pod {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    pub(crate) async fn run(&self, words: &[&str]) -> Result<Output> {
        let request = pb::ExecSyncRequest {
            container_id: self.main.clone(),
            cmd: command(words),
            timeout: EXEC_SECONDS,
        };
        let answer = self
            .cri
            .client
            .clone()
            .exec_sync(request)
            .await?
            .into_inner();
        Ok(Output {
            code: answer.exit_code,
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
        })
    }

    /// Starts one more container, whose log can be read while it runs.
    pub(crate) async fn spawn(&self, words: &[&str]) -> Result<Container> {
        self.start(words).await
    }

    async fn start(&self, words: &[&str]) -> Result<Container> {
        let number = self.containers.fetch_add(1, Ordering::Relaxed);
        let log_path = format!("{number}.log");
        let config = pb::ContainerConfig {
            metadata: Some(pb::ContainerMetadata {
                name: format!("probe-{number}"),
                attempt: 0,
            }),
            image: Some(the_image()),
            command: command(words),
            log_path: log_path.clone(),
            linux: Some(pb::LinuxContainerConfig {
                security_context: Some(pb::LinuxContainerSecurityContext {
                    namespace_options: Some(self.namespaces.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request = pb::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let mut client = self.cri.client.clone();
        let id = client.create_container(request).await?.into_inner();
        let container_id = id.container_id.clone();
        client
            .start_container(pb::StartContainerRequest { container_id })
            .await?;
        Ok(Container {
            client,
            id: id.container_id,
            log: Path::new(&self.config.log_directory).join(log_path),
        })
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        stop(&self.cri.client, &self.id).await
    }

    pub(crate) async fn remove(&self) -> Result<()> {
        remove(&self.cri.client, &self.id).await
    }

    async fn ask_ip(&self) -> Result<Option<IpAddr>> {
        let request = pb::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        let answer = self.cri.client.clone().pod_sandbox_status(request).await?;
        let network = answer.into_inner().status.and_then(|status| status.network);
        Ok(network.and_then(|network| network.ip.parse().ok()))
    }
}

/// A container that runs one probe.
pub(crate) struct Container {
    client: Client,
    id: String,
    log: PathBuf,
}

impl Container {
    /// What it wrote so far to `stream`, out of the log in CRI's format: time,
    /// stream, tag, text.
    pub(crate) fn log(&self, stream: &str) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let mut words = line.splitn(4, ' ').skip(1);
                (words.next()? == stream).then_some(words.nth(1)?)
            })
            .map(|text| format!("{text}\n"))
            .collect()
    }

    pub(crate) async fn kill(&mut self) -> Result<()> {
        let request = pb::StopContainerRequest {
            container_id: self.id.clone(),
            timeout: 0,
        };
        self.client.stop_container(request).await?;
        Ok(())
    }
}

fn the_image() -> pb::ImageSpec {
    pb::ImageSpec {
        image: image::NAME.to_owned(),
        user_specified_image: image::NAME.to_owned(),
        ..Default::default()
    }
}

fn command(words: &[&str]) -> Vec<String> {
    let words = words.iter().map(|word| (*word).to_owned());
    std::iter::once(PROBE.to_owned()).chain(words).collect()
}

async fn stop(client: &Client, id: &str) -> Result<()> {
    let pod_sandbox_id = id.to_owned();
    let request = pb::StopPodSandboxRequest { pod_sandbox_id };
    client.clone().stop_pod_sandbox(request).await?;
    Ok(())
}

async fn remove(client: &Client, id: &str) -> Result<()> {
    stop(client, id).await?;
    let pod_sandbox_id = id.to_owned();
    let request = pb::RemovePodSandboxRequest { pod_sandbox_id };
    client.clone().remove_pod_sandbox(request).await?;
    Ok(())
}

/// The same for the sandbox and its containers, as kubelet has it.
fn namespaces(wish: &PodWish) -> pb::NamespaceOption {
    let network = match wish.host_network {
        true => pb::NamespaceMode::Node,
        false => pb::NamespaceMode::Pod,
    };
    pb::NamespaceOption {
        network: network.into(),
        pid: pb::NamespaceMode::Container.into(),
        ..Default::default()
    }
}

fn sandbox_config(wish: &PodWish) -> pb::PodSandboxConfig {
    let uid = format!("uid-{}", wish.name);
    let labels = [
        ("io.kubernetes.pod.name", wish.name.as_str()),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", uid.as_str()),
    ];
    pb::PodSandboxConfig {
        metadata: Some(pb::PodSandboxMetadata {
            name: wish.name.clone(),
            uid: uid.clone(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: if wish.host_network {
            String::new()
        } else {
            wish.name.clone()
        },
        log_directory: format!("{}/logs/{}", enclosure::STATE, wish.name),
        labels: labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<HashMap<_, _>>(),
        linux: Some(pb::LinuxPodSandboxConfig {
            cgroup_parent: enclosure::cgroup_parent(),
            security_context: Some(pb::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(wish)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
