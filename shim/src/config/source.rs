//! Where sandboxes come from, for whichever process binds in them.

use super::duration;
use crate::binder::{Binder, LocalBinder};
use clap::{ArgAction, Args};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::Failure;

/// Settings of the process that binds.
#[derive(Clone, Debug, Args)]
pub struct SourceArgs {
    /// CRI socket of the container runtime. Not used with --standalone.
    #[arg(
        long,
        value_name = "ENDPOINT",
        env = "CONTAINER_RUNTIME_ENDPOINT",
        default_value = "unix:///run/containerd/containerd.sock"
    )]
    pub runtime_endpoint: String,

    /// Treat named network namespaces as sandboxes, without a container runtime.
    #[arg(long)]
    pub standalone: bool,

    /// Directory of the named network namespaces.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/run/netns",
        requires = "standalone"
    )]
    pub netns_dir: PathBuf,

    /// Runtime handler whose sandboxes are ordinary network namespaces, besides "", runc and crun.
    /// May be repeated.
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub allow_runtime_handler: Vec<String>,

    /// Allow listeners on addresses other than loopback, which others than the pod can reach.
    #[arg(long)]
    pub allow_wide_bind: bool,

    /// How often sandboxes with sessions are looked at.
    #[arg(long, value_name = "SPAN", default_value = "500ms", value_parser = duration(10, 500))]
    pub poll_interval: Duration,
}

impl SourceArgs {
    /// Where sandboxes come from: the flag that names it, and its value.
    #[must_use]
    pub fn place(&self) -> String {
        if self.standalone {
            return format!("--netns-dir {}", self.netns_dir.display());
        }
        format!("--runtime-endpoint {}", self.runtime_endpoint)
    }

    /// A binder in this process. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// A setting that cannot work.
    pub fn local_binder(&self) -> Result<Arc<dyn Binder>, Failure> {
        if self.standalone {
            let dir = self.netns_dir.clone();
            let binder = LocalBinder::standalone(dir, self.allow_wide_bind, self.poll_interval)?;
            return Ok(Arc::new(binder));
        }
        Ok(Arc::new(LocalBinder::cri(
            &self.runtime_endpoint,
            self.allow_runtime_handler.clone(),
            self.allow_wide_bind,
            self.poll_interval,
        )?))
    }
}
