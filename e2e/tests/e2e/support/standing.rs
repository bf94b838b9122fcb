//! What many stories begin with: a pod with a forward, and connections through
//! it that stay open.

use super::forward::Forward;
use super::node::{Pod, Spawned};
use super::shim::Shim;
use super::stage::Stage;
use super::target::{Manner, Target};
use super::{SOON, same, until};
use anyhow::Result;
use std::time::Duration;
use sternline_e2e::report::{End, Ended, Holding};

/// A forward of port 8080 that three connections of the pod go through.
pub(crate) struct Standing {
    pub(crate) target: Target,
    pub(crate) pod: Pod,
    pub(crate) shim: Shim,
    pub(crate) forward: Forward,
    pub(crate) held: Spawned,
}

impl Standing {
    /// With these flags of the shim and of the forward.
    ///
    /// # Errors
    /// A part of it did not come up in time.
    pub(crate) async fn on(stage: &Stage, shim: &str, forward: &str) -> Result<Self> {
        let target = Target::start(Manner::Echo).await?;
        let (pod, shim) = (stage.pod("web").await?, stage.shim(shim).await?);
        let words = format!("8080:{} {forward}", target.port());
        let forward = stage.forward(&shim, &pod, &words).await?;
        let held = pod
            .spawn("hold --to 127.0.0.1:8080 --connections 3")
            .await?;
        let _: Holding = held.report(SOON).await?;
        Ok(Self {
            target,
            pod,
            shim,
            forward,
            held,
        })
    }

    /// The open connections end with a reset, in the pod and at the target.
    ///
    /// # Errors
    /// They ended otherwise, or not soon.
    pub(crate) async fn connections_are_reset(&self) -> Result<()> {
        let ended: Ended = self.held.report(SOON).await?;
        same("end in the pod", ended.ended, End::Reset)?;
        for seen in self.target.ended(3, SOON).await? {
            same("end at the target", seen.end, End::Reset)?;
        }
        Ok(())
    }

    /// An application of the pod can bind and listen on the port, without
    /// `SO_REUSEADDR`, on both addresses.
    ///
    /// # Errors
    /// It could not `within` that time.
    pub(crate) async fn port_is_free(&self, within: Duration) -> Result<()> {
        port_is_free(&self.pod, within).await
    }
}

/// As [`Standing::port_is_free`], for a pod without a forward of its own.
///
/// # Errors
/// It was not free `within` that time.
pub(crate) async fn port_is_free(pod: &Pod, within: Duration) -> Result<()> {
    until("the port to be free", within, || async {
        for address in ["127.0.0.1:8080", "[::1]:8080"] {
            let output = pod.run(&format!("listen --address {address}")).await?;
            if output.code != 0 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}
