//! The node's own namespace, learned from sandboxes that are said to share it.
//!
//! A process on the host knows the host's namespace as its own; one in a pod does
//! not. And CRI-O reports a path for host-network sandboxes that is the host's
//! namespace. So what any such sandbox reports is never entered, whatever another
//! sandbox says about itself.

use super::{
    admit::{info_of, is_node},
    client::Client,
};
use crate::netns::{NamespaceId, Netns};
use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};
use sternline_api::Failure;

#[derive(Debug, Default)]
pub(super) struct NodeNamespaces(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The node's namespace, which stays the same while the node is up.
    node: Option<NamespaceId>,
    /// Sandboxes already asked. How one was made never changes.
    asked: HashSet<String>,
}

impl NodeNamespaces {
    /// Whether the namespace of the sandbox `id` is the node's. Asks the runtime
    /// about each ready sandbox once, until one tells.
    ///
    /// # Errors
    /// The runtime does not answer.
    pub(super) async fn contain(
        &self,
        client: &Client,
        id: &str,
        namespace: NamespaceId,
    ) -> Result<bool, Failure> {
        if self.known().node.is_none() {
            self.learn(client, id).await?;
        }
        Ok(self.known().node == Some(namespace))
    }

    async fn learn(&self, client: &Client, id: &str) -> Result<(), Failure> {
        let ready = client.list_ready().await?;
        let unasked: Vec<String> = {
            let mut known = self.known();
            known.asked.retain(|one| ready.contains(one));
            // The one in question is known not to share the node's network.
            known.asked.insert(id.to_owned());
            let unasked = ready.iter().filter(|one| !known.asked.contains(*one));
            unasked.cloned().collect()
        };
        // A second line of defence: that it takes too long does not stop a session.
        let asking = async {
            for one in unasked {
                if self.ask(client, one).await {
                    return;
                }
            }
        };
        if tokio::time::timeout(client.timeout(), asking)
            .await
            .is_err()
        {
            tracing::warn!("the runtime is slow: not all host-network sandboxes are known yet");
        }
        Ok(())
    }

    /// Asks about one sandbox; true if it told the node's namespace. One that
    /// cannot be asked now is asked again next time.
    async fn ask(&self, client: &Client, id: String) -> bool {
        let Ok(answer) = client.status(&id, false).await else {
            return false;
        };
        let told = if answer.as_ref().is_some_and(is_node) {
            match reported(client, &id).await {
                Ok(told) => told,
                Err(_) => return false,
            }
        } else {
            None
        };
        let mut known = self.known();
        known.asked.insert(id);
        if let Some(node) = told {
            known.node = Some(node);
        }
        told.is_some()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The namespace that a host-network sandbox reports, if it can be seen from here.
async fn reported(client: &Client, id: &str) -> Result<Option<NamespaceId>, Failure> {
    let Some(answer) = client.status(id, true).await? else {
        return Ok(None);
    };
    let info = info_of(id, &answer)?;
    let process = |pid| PathBuf::from(format!("/proc/{pid}/ns/net"));
    let Some(path) = info.network.or(info.pid.map(process)) else {
        return Ok(None);
    };
    Ok(Netns::open(path).await.ok().map(|netns| netns.id()))
}
