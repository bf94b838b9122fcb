//! A containerd of the run's own, configured as a node would have it.

use super::{Runtime, image, program, run};
use crate::support::enclosure::STATE;
use crate::support::process::Process;
use crate::support::until;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::Command;

/// Where it listens: the default that clients look for.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// Bound on its start and its end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where distributions and the upstream archives put the CNI plugins.
const CNI_DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The daemon.
pub(crate) struct Containerd {
    program: PathBuf,
    directory: PathBuf,
    process: Option<Process>,
    starts: u32,
}

impl Containerd {
    /// Writes its configuration, starts it and imports the probe as an image.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub(crate) async fn start(runtime: Runtime, probe: &Path) -> Result<Self> {
        let program = program("containerd")?;
        // runc is found by name.
        super::program("runc")?;
        let directory = Path::new(STATE).join(runtime.name());
        fs::create_dir_all(directory.join("cni"))?;
        fs::write(directory.join("config.toml"), config(&directory)?)?;
        fs::write(directory.join("cni/10-pods.conflist"), network(&directory))?;
        let archive = directory.join("probe.tar");
        image::pack(probe, &archive)?;
        let mut this = Self {
            program,
            directory,
            process: None,
            starts: 0,
        };
        this.run().await?;
        this.import(&archive)?;
        Ok(this)
    }

    pub(crate) fn socket(&self) -> &Path {
        Path::new(SOCKET)
    }

    /// Starts the daemon, unless it runs, and waits until it takes connections.
    ///
    /// # Errors
    /// It ends, or does not listen in time; the error has what it said.
    pub(crate) async fn run(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            return match process.ended() {
                None => Ok(()),
                Some(code) => bail!("containerd ended with {code}; {}", process.story()),
            };
        }
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(self.directory.join("config.toml"));
        self.starts += 1;
        let name = format!("containerd-{}", self.starts);
        let mut process = Process::start(&name, command, &self.directory)?;
        let up = until("containerd to listen", PATIENCE, || {
            let ended = process.ended();
            async move {
                if let Some(code) = ended {
                    bail!("containerd ended with {code}");
                }
                Ok(UnixStream::connect(SOCKET).await.ok().map(drop))
            }
        });
        let up = up.await;
        up.with_context(|| process.story())?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends the daemon; its pods live on.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::SIGTERM)?;
            process.exit(PATIENCE).await?;
        }
        Ok(())
    }

    fn import(&self, archive: &Path) -> Result<()> {
        run(std::process::Command::new(program("ctr")?)
            .args(["--address", SOCKET, "--namespace", "k8s.io"])
            .args(["images", "import"])
            .arg(archive))
    }
}

fn config(directory: &Path) -> Result<String> {
    let plugins = CNI_DIRECTORIES
        .iter()
        .find(|dir| Path::new(dir).join("bridge").is_file())
        .context("the CNI plugins are not installed: run hack/install-test-deps")?;
    let root = directory.display();
    let image = image::NAME;
    Ok(format!(
        r#"version = 2
root = "{root}/root"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
# Root may lack CAP_SYS_RESOURCE, which lowering the score needs.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{root}/cni"
"#
    ))
}

/// A bridge in the run's own network namespace. No address translation: pods
/// talk to the node and to each other, and to nobody else.
fn network(directory: &Path) -> String {
    let leases = directory.join("leases");
    let leases = leases.display();
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{{
    "type": "bridge",
    "bridge": "pods0",
    "isGateway": true,
    "ipMasq": false,
    "ipam": {{
      "type": "host-local",
      "dataDir": "{leases}",
      "ranges": [[{{ "subnet": "10.88.0.0/16" }}]],
      "routes": [{{ "dst": "0.0.0.0/0" }}]
    }}
  }}]
}}
"#
    )
}
