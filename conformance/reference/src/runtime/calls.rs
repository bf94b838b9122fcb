//! The CRI's calls.

use super::{Container, Pod, Runtime, container, program_of, pull};
use crate::node::{lock, random};
use std::sync::Arc;
use sternline_api::cri::{
    self as pb, image_service_server::ImageService, runtime_service_server::RuntimeService,
};
use tonic::{Request, Response, Status};

#[derive(Clone, Debug)]
pub(super) struct Calls(pub(super) Arc<Runtime>);

type Answer<T> = Result<Response<T>, Status>;

fn ok<T>(answer: T) -> Answer<T> {
    Ok(Response::new(answer))
}

fn unknown(error: impl std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

fn missing(id: &str) -> Status {
    Status::not_found(format!("{id} is not there"))
}

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("the suite does not use it"))
}

fn state(pod: &Pod) -> i32 {
    match pod.ready {
        true => pb::PodSandboxState::SandboxReady.into(),
        false => pb::PodSandboxState::SandboxNotready.into(),
    }
}

/// Blocking work is short here, and the specs bound it.
#[tonic::async_trait]
impl RuntimeService for Calls {
    async fn version(&self, _: Request<pb::VersionRequest>) -> Answer<pb::VersionResponse> {
        ok(pb::VersionResponse {
            runtime_name: "pretended".into(),
            ..Default::default()
        })
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Answer<pb::StatusResponse> {
        let condition = |name: &str, status| pb::RuntimeCondition {
            r#type: name.into(),
            status,
            ..Default::default()
        };
        // One of the runtime's own need not be met.
        let conditions = vec![
            condition("RuntimeReady", true),
            condition("NetworkReady", true),
            condition("NoDeprecations", false),
        ];
        ok(pb::StatusResponse {
            status: Some(pb::RuntimeStatus { conditions }),
            ..Default::default()
        })
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<pb::RunPodSandboxRequest>,
    ) -> Answer<pb::RunPodSandboxResponse> {
        let config = request.into_inner().config.unwrap_or_default();
        let pod_sandbox_id = self.0.run(config).map_err(unknown)?;
        ok(pb::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<pb::StopPodSandboxRequest>,
    ) -> Answer<pb::StopPodSandboxResponse> {
        self.0.stop(&request.into_inner().pod_sandbox_id);
        ok(pb::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<pb::RemovePodSandboxRequest>,
    ) -> Answer<pb::RemovePodSandboxResponse> {
        self.0.remove(&request.into_inner().pod_sandbox_id);
        ok(pb::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<pb::PodSandboxStatusRequest>,
    ) -> Answer<pb::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let pods = lock(&self.0.pods);
        let pod = pods.get(&id).ok_or_else(|| missing(&id))?;
        let status = pb::PodSandboxStatus {
            state: state(pod),
            id,
            ..Default::default()
        };
        ok(pb::PodSandboxStatusResponse {
            status: Some(status),
            ..Default::default()
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<pb::ListPodSandboxRequest>,
    ) -> Answer<pb::ListPodSandboxResponse> {
        let wanted = request
            .into_inner()
            .filter
            .unwrap_or_default()
            .label_selector;
        let pods = lock(&self.0.pods);
        let fitting = pods.iter().filter(|(_, pod)| {
            let labels = &pod.config.labels;
            wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        });
        let items = fitting.map(|(id, pod)| pb::PodSandbox {
            id: id.clone(),
            metadata: pod.config.metadata.clone(),
            state: state(pod),
            labels: pod.config.labels.clone(),
            ..Default::default()
        });
        ok(pb::ListPodSandboxResponse {
            items: items.collect(),
        })
    }

    async fn create_container(
        &self,
        request: Request<pb::CreateContainerRequest>,
    ) -> Answer<pb::CreateContainerResponse> {
        let request = request.into_inner();
        let container_id = random(32);
        let container = Container {
            pod: request.pod_sandbox_id,
            config: request.config.unwrap_or_default(),
            process: None,
        };
        lock(&self.0.containers).insert(container_id.clone(), container);
        ok(pb::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<pb::StartContainerRequest>,
    ) -> Answer<pb::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let mut containers = lock(&self.0.containers);
        let container = containers.get_mut(&id).ok_or_else(|| missing(&id))?;
        let image = container.config.image.clone().unwrap_or_default().image;
        let program = lock(&self.0.images).get(&image).cloned();
        let program = program.ok_or_else(|| missing(&image))?;
        let namespace = self.0.dir.join(&container.pod);
        let process = container::start(&namespace, &program, &container.config);
        container.process = Some(process.map_err(unknown)?);
        ok(pb::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        _: Request<pb::StopContainerRequest>,
    ) -> Answer<pb::StopContainerResponse> {
        unused()
    }

    async fn remove_container(
        &self,
        _: Request<pb::RemoveContainerRequest>,
    ) -> Answer<pb::RemoveContainerResponse> {
        unused()
    }

    async fn list_containers(
        &self,
        _: Request<pb::ListContainersRequest>,
    ) -> Answer<pb::ListContainersResponse> {
        unused()
    }

    async fn container_status(
        &self,
        _: Request<pb::ContainerStatusRequest>,
    ) -> Answer<pb::ContainerStatusResponse> {
        unused()
    }

    async fn exec_sync(&self, _: Request<pb::ExecSyncRequest>) -> Answer<pb::ExecSyncResponse> {
        unused()
    }
}

#[tonic::async_trait]
impl ImageService for Calls {
    async fn list_images(
        &self,
        _: Request<pb::ListImagesRequest>,
    ) -> Answer<pb::ListImagesResponse> {
        let images = lock(&self.0.images);
        let images = images.keys().map(|name| pb::Image {
            repo_tags: vec![name.clone()],
            ..Default::default()
        });
        ok(pb::ListImagesResponse {
            images: images.collect(),
        })
    }

    async fn image_status(
        &self,
        request: Request<pb::ImageStatusRequest>,
    ) -> Answer<pb::ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let there = lock(&self.0.images).contains_key(&name);
        ok(pb::ImageStatusResponse {
            image: there.then(pb::Image::default),
            ..Default::default()
        })
    }

    async fn pull_image(
        &self,
        request: Request<pb::PullImageRequest>,
    ) -> Answer<pb::PullImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let program = program_of(&self.0.dir, &name).map_err(unknown)?;
        let (reference, file) = (name.clone(), program.clone());
        let pulled = tokio::task::spawn_blocking(move || pull::pull(&reference, &file)).await;
        pulled
            .map_err(|error| Status::unknown(error.to_string()))?
            .map_err(unknown)?;
        lock(&self.0.images).insert(name.clone(), program);
        ok(pb::PullImageResponse { image_ref: name })
    }

    async fn remove_image(
        &self,
        request: Request<pb::RemoveImageRequest>,
    ) -> Answer<pb::RemoveImageResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        lock(&self.0.images).remove(&name);
        ok(pb::RemoveImageResponse {})
    }
}
