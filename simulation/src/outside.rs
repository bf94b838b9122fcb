//! What a client reaches: its link to the node, and the targets beside it.

use crate::net::local::pair;
use crate::net::wire::Wire;
use crate::node::Node;
use crate::plan::TargetKind;
use crate::rng::Rng;
use crate::target;
use crate::world::{World, lock};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sternline_api::{Failure, Reason};
use sternline_cli::connect::{ByteStream, StreamUrl, Way};
use sternline_cli::fault::Fault;
use sternline_cli::forward::outside::{Later, Outside, Reached};
use sternline_cli::fuzzing::upgrade_over;
use sternline_cli::spec::Target;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// A client's surroundings.
pub(crate) struct Host {
    pub(crate) world: Arc<World>,
    pub(crate) node: Node,
    delay: (u64, u64),
    rng: Mutex<Rng>,
    wires: Mutex<Vec<Wire>>,
    cut: AtomicBool,
    healed: Notify,
    /// How often something was done to this client.
    pub(crate) disturbances: AtomicU64,
    /// How many faults were put in that could end a tunnel.
    pub(crate) faults: AtomicU64,
    /// Its link is so slow that answers may come too late.
    slow: AtomicBool,
    /// Processes at targets.
    pub(crate) targets: TaskTracker,
}

impl Host {
    pub(crate) fn new(world: &Arc<World>, node: &Node, delay: (u64, u64)) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            node: node.clone(),
            delay,
            rng: Mutex::new(world.rng()),
            wires: Mutex::default(),
            cut: AtomicBool::new(false),
            healed: Notify::new(),
            disturbances: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            slow: AtomicBool::new(false),
            targets: TaskTracker::new(),
        })
    }

    /// Something is done to the client, and may end its tunnel.
    pub(crate) fn disturb(&self) {
        self.disturbances.fetch_add(1, Relaxed);
        self.faults.fetch_add(1, Relaxed);
    }

    /// Whether everything has to arrive in time.
    pub(crate) fn is_fast(&self) -> bool {
        !self.slow.load(Relaxed)
    }

    /// Cuts the link, or heals it.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Relaxed);
        for wire in lock(&self.wires).iter() {
            wire.cut(cut);
        }
        if !cut {
            self.healed.notify_waiters();
        }
    }

    /// Resets every connection to the node.
    pub(crate) fn reset(&self, seen: [bool; 2]) {
        for wire in lock(&self.wires).drain(..) {
            wire.reset(seen);
            // What one end alone saw is found out by the other, sooner or later.
            wire.cut(seen != [true, true]);
        }
    }

    /// Waits for the link, and for a packet to cross it.
    async fn cross(&self) {
        loop {
            let healed = self.healed.notified();
            let mut healed = std::pin::pin!(healed);
            healed.as_mut().enable();
            if !self.cut.load(Relaxed) {
                break;
            }
            healed.await;
        }
        let micros = lock(&self.rng).between(self.delay.0, self.delay.1);
        sleep(Duration::from_micros(micros)).await;
    }

    async fn connect(&self, url: &StreamUrl) -> Result<ByteStream, Fault> {
        self.cross().await;
        let (wire, ours, theirs) =
            Wire::new(&mut lock(&self.rng).fork(), self.delay, &self.world.wires);
        if wire.is_slow() {
            self.slow.store(true, Relaxed);
        }
        lock(&self.wires).push(wire);
        self.node.accept(theirs);
        upgrade_over(ours, url).await
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// A client's way to its surroundings.
#[derive(Debug)]
pub(crate) struct Surroundings(pub(crate) Arc<Host>);

impl Outside for Surroundings {
    fn open<'a>(&'a self, way: &'a Way, limit: Duration) -> Later<'a, Result<ByteStream, Fault>> {
        Box::pin(async move {
            let Way::Url(url) = way else {
                return Err(Fault::protocol("there is no cluster here"));
            };
            let opened = timeout(limit, self.0.connect(url)).await;
            opened.unwrap_or_else(|_| Err(Fault::no_server("the node does not answer")))
        })
    }

    fn dial<'a>(
        &'a self,
        target: &'a Target,
        limit: Duration,
    ) -> Later<'a, Result<Reached, Failure>> {
        let host = &self.0;
        let port = match target {
            Target::Host { port, .. } => *port,
            _ => 0,
        };
        Box::pin(async move {
            let micros = lock(&host.rng).between(0, 5_000);
            sleep(Duration::from_micros(micros)).await;
            match TargetKind::at(port) {
                TargetKind::Serves => {
                    let (near, far) = pair(&mut lock(&host.rng).fork(), &host.world.sockets);
                    host.targets.spawn(target::serve(Arc::clone(host), far));
                    Ok(Reached::Other(Box::new(near)))
                }
                TargetKind::Refuses => Err(Failure::new(Reason::TargetRefused, "refused")),
                TargetKind::Hangs => {
                    sleep(limit).await;
                    Err(Failure::new(Reason::TargetTimeout, "timed out"))
                }
            }
        })
    }

    fn release<'a>(&'a self, session_id: &'a str) -> Later<'a, ()> {
        let stop = async move {
            self.0.cross().await;
            drop(self.0.node.stop(session_id).await);
        };
        Box::pin(async move { drop(timeout(Duration::from_secs(1), stop).await) })
    }
}
