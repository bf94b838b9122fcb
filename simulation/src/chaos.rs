//! Puts the faults of a plan in.

use crate::outside::Host;
use crate::plan::Fault;
use crate::world::{World, lock};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sternline_shim::drain::{self, Orders};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::TaskTracker;

/// A client, as faults meet it.
pub(crate) struct Victim {
    pub(crate) host: Arc<Host>,
    pub(crate) task: AbortHandle,
    pub(crate) session: Arc<Mutex<Option<String>>>,
    pub(crate) sandbox: String,
}

/// Puts them in one after the other, and waits for what they began.
pub(crate) async fn chaos(world: Arc<World>, victims: Vec<Victim>, faults: Vec<(Duration, Fault)>) {
    let start = Instant::now();
    let acts = TaskTracker::new();
    for (at, fault) in faults {
        sleep_until(start + at).await;
        world.note(format!("fault {fault:?}"));
        world.count(|stats| stats.faults += 1);
        match fault {
            Fault::Cut(n, millis) => {
                let host = Arc::clone(&victims[n].host);
                host.disturb();
                host.cut(true);
                acts.spawn(async move {
                    sleep(Duration::from_millis(millis)).await;
                    // What began meanwhile was disturbed as well.
                    host.disturb();
                    host.cut(false);
                });
            }
            Fault::Reset(n, seen) => {
                victims[n].host.disturb();
                victims[n].host.reset(seen);
            }
            Fault::Kill(n) => {
                victims[n].host.disturb();
                victims[n].task.abort();
            }
            Fault::Stop(n) => {
                let host = Arc::clone(&victims[n].host);
                host.disturb();
                let session = lock(&victims[n].session).clone();
                acts.spawn(async move {
                    if let Some(id) = session {
                        let _ = host.node.stop(&id).await;
                    }
                });
            }
            Fault::Gone(n) => {
                let sandbox = &victims[n].sandbox;
                for victim in victims.iter().filter(|victim| victim.sandbox == *sandbox) {
                    victim.host.disturb();
                }
                victims[n].host.node.binder.stop(sandbox);
            }
            Fault::Drain(within) => {
                for victim in &victims {
                    victim.host.disturb();
                }
                let node = victims[0].host.node.clone();
                node.shared.registry.close();
                acts.spawn(async move {
                    let (_orders, mut taken) = Orders::channel();
                    drain::drain(&node.shared, Duration::from_millis(within), &mut taken).await;
                });
            }
        }
    }
    acts.close();
    acts.wait().await;
}
