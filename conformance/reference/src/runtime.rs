//! A pretended container runtime: as much of the CRI as the suite uses, with
//! network namespaces for pods and processes of the node for containers. So the
//! suite's work on pods is tested without a runtime.

mod calls;
mod container;
mod pull;

use crate::{
    bind,
    faults::Faults,
    node::{lock, random},
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex},
};
use sternline_api::{
    Failure, Reason,
    cri::{
        self as pb, image_service_server::ImageServiceServer,
        runtime_service_server::RuntimeServiceServer,
    },
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

/// What it knows.
#[derive(Debug)]
pub(crate) struct Runtime {
    /// Where the namespaces get their names: the ids of their pods.
    dir: PathBuf,
    pods: Mutex<BTreeMap<String, Pod>>,
    containers: Mutex<BTreeMap<String, Container>>,
    /// Name -> the program in it.
    images: Mutex<BTreeMap<String, PathBuf>>,
}

#[derive(Debug)]
struct Pod {
    config: pb::PodSandboxConfig,
    ready: bool,
    host: bool,
}

#[derive(Debug)]
struct Container {
    pod: String,
    config: pb::ContainerConfig,
    process: Option<Child>,
}

/// Serves both of the CRI's services on a Unix socket.
pub(crate) fn start(socket: &Path, dir: PathBuf) -> io::Result<Arc<Runtime>> {
    let runtime = Arc::new(Runtime {
        dir,
        pods: Mutex::default(),
        containers: Mutex::default(),
        images: Mutex::default(),
    });
    let calls = calls::Calls(Arc::clone(&runtime));
    let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(calls.clone()))
            .add_service(ImageServiceServer::new(calls))
            .serve_with_incoming(incoming),
    );
    Ok(runtime)
}

impl Runtime {
    /// Whether it lists this pod, ready or not.
    pub(crate) fn knows(&self, id: &str) -> bool {
        lock(&self.pods).contains_key(id)
    }

    /// Finds a sandbox by its id or a prefix of it.
    pub(crate) fn find(
        &self,
        dir: &Path,
        id: &str,
        faults: &Faults,
    ) -> Result<(String, PathBuf), Failure> {
        let pods = lock(&self.pods);
        let fitting: Vec<_> = pods
            .iter()
            .filter(|(name, _)| name.starts_with(id))
            .collect();
        match fitting[..] {
            [(name, pod)] if pod.host => {
                let message = format!("{name} uses the node's own network");
                Err(Failure::new(Reason::HostNetwork, message))
            }
            [(name, pod)] if !pod.ready && !faults.has("stopped-is-unknown") => {
                let message = format!("{name} is not ready");
                Err(Failure::new(Reason::SandboxNotReady, message))
            }
            // Those that are ready have a name in the directory.
            _ => bind::find(dir, id, faults),
        }
    }

    fn run(&self, config: pb::PodSandboxConfig) -> io::Result<String> {
        let id = random(32);
        let security = config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref());
        let host = security
            .and_then(|security| security.namespace_options.as_ref())
            .is_some_and(|options| options.network == i32::from(pb::NamespaceMode::Node));
        if !host {
            container::name_namespace(&self.dir.join(&id))?;
        }
        let pod = Pod {
            config,
            ready: true,
            host,
        };
        lock(&self.pods).insert(id.clone(), pod);
        Ok(id)
    }

    /// Ends its containers and takes its namespace away; it stays known.
    fn stop(&self, id: &str) {
        if let Some(pod) = lock(&self.pods).get_mut(id) {
            pod.ready = false;
        }
        let mut containers = lock(&self.containers);
        for container in containers.values_mut().filter(|one| one.pod == id) {
            if let Some(mut process) = container.process.take() {
                // It may have ended already.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        container::unname(&self.dir.join(id));
    }

    fn remove(&self, id: &str) {
        self.stop(id);
        lock(&self.pods).remove(id);
        lock(&self.containers).retain(|_, container| container.pod != id);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        for id in lock(&self.pods).keys().cloned().collect::<Vec<_>>() {
            self.stop(&id);
        }
    }
}

/// A command that must succeed.
fn done(command: &mut Command) -> io::Result<()> {
    match command.status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{command:?} failed"))),
    }
}

/// The file name of an image's program.
fn program_of(dir: &Path, reference: &str) -> io::Result<PathBuf> {
    let dir = dir.with_extension("images");
    fs::create_dir_all(&dir)?;
    Ok(dir.join(reference.replace(['/', ':'], "_")))
}
