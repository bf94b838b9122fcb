//! A client: the call, then the command line's own forward.

use crate::outside::{Host, Surroundings};
use crate::plan::ClientPlan;
use crate::pod;
use crate::world::World;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use sternline_api::listen::{Bind, Listen};
use sternline_api::v1alpha1 as pb;
use sternline_cli::forward::drive::drive;
use sternline_cli::report::{Event, Reporter};
use sternline_cli::spec::{Spec, parse_all};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the client waits for each answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A client's part in a run, whatever becomes of it.
pub(crate) async fn client(
    host: Arc<Host>,
    (number, plan): (usize, ClientPlan),
    session: Arc<std::sync::Mutex<Option<String>>>,
    pods: TaskTracker,
) {
    let world = Arc::clone(&host.world);
    sleep(plan.starts).await;
    let specs: Vec<&str> = plan.specs.iter().map(String::as_str).collect();
    let specs = match parse_all(&specs) {
        Ok(specs) => specs,
        Err(error) => return world.note(format!("client {number}: {error}")),
    };
    let answer = timeout(LIMIT, host.node.call(request(&plan, &specs))).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => {
            return world.note(format!("client {number} is refused: {:?}", status.code()));
        }
        Err(_) => return world.fail("the call did not answer in time"),
    };
    world.count(|stats| stats.sessions += 1);
    *crate::world::lock(&session) = Some(answer.session_id.clone());
    let bound: Vec<SocketAddr> = answer.bound.iter().filter_map(pb::Bound::to_addr).collect();
    world.note(format!("client {number} has {bound:?}"));
    for (i, connection) in (0..).zip(plan.connections) {
        let id = (number as u64 + 1) * 1_000 + i;
        let place = (plan.sandbox.clone(), bound.clone());
        pods.spawn(pod::connection(
            Arc::clone(&host),
            (number, id),
            connection,
            place,
        ));
    }
    let told = Arc::new(Told {
        world: Arc::clone(&world),
        client: number,
        host: Arc::clone(&host),
        ready: AtomicBool::new(false),
    });
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let asked = plan.stops;
    let forward = drive(
        answer,
        (specs, plan.hold),
        LIMIT,
        Arc::new(Surroundings(Arc::clone(&host))),
        told,
        Box::pin(stopping.cancelled_owned()),
    );
    let mut forward = Box::pin(forward);
    let ended = tokio::select! {
        biased;
        ended = &mut forward => ended,
        () = sleep(asked) => {
            world.note(format!("client {number} is asked to stop"));
            // Connections that are still open are cut off by that.
            host.disturbances.fetch_add(1, Relaxed);
            stop.cancel();
            forward.await
        }
    };
    host.disturbances.fetch_add(1, Relaxed);
    let how = ended.map_err(|fault| fault.label());
    if how == Err("tunnel_lost") {
        host.lost();
    }
    world.note(format!("client {number} ended: {how:?}"));
}

impl Host {
    /// A tunnel is lost: somebody must have done something to it.
    fn lost(&self) {
        if self.faults.load(Relaxed) == 0 {
            self.world.fail("a tunnel was lost without a cause");
        }
    }
}

fn request(plan: &ClientPlan, specs: &[Spec]) -> pb::ReversePortForwardRequest {
    let listener = |listen: Listen| pb::Listener {
        protocol: pb::Protocol::Tcp.into(),
        address: match listen.bind {
            Bind::Loopback => String::new(),
            Bind::Ip(ip) => ip.to_string(),
        },
        port: listen.port.into(),
    };
    pb::ReversePortForwardRequest {
        target: Some(pb::Target {
            by: Some(pb::target::By::SandboxId(plan.sandbox.clone())),
        }),
        listeners: specs.iter().map(|spec| listener(spec.listen)).collect(),
        options: Some(pb::SessionOptions {
            hold_ms: plan.hold.as_millis() as u64,
            ..pb::SessionOptions::default()
        }),
        ..pb::ReversePortForwardRequest::default()
    }
}

/// What the command line tells its user.
#[derive(Debug)]
struct Told {
    world: Arc<World>,
    client: usize,
    host: Arc<Host>,
    ready: AtomicBool,
}

impl Reporter for Told {
    fn report(&self, event: &Event) {
        let client = self.client;
        match event {
            Event::Ready(_) => {
                if self.ready.swap(true, Relaxed) {
                    self.world.fail(format!("client {client} was ready twice"));
                }
                self.world.note(format!("client {client} is ready"));
            }
            Event::Lost(_) => {
                // Whatever the reason: what was open is gone.
                self.host.lost();
                self.host.disturbances.fetch_add(1, Relaxed);
                self.world.note(format!("client {client} lost its tunnel"));
            }
            Event::Reconnected(_) => {
                self.world.count(|stats| stats.reconnected += 1);
                self.world.note(format!("client {client} is back"));
            }
            Event::Rejected(rejected) => {
                self.world.count(|stats| stats.rejected += rejected.count);
                // A limit that was hit is a disturbance of somebody.
                self.host.disturbances.fetch_add(1, Relaxed);
                self.world
                    .note(format!("client {client}: rejected, {}", rejected.reason));
            }
            Event::Closed(closed) => {
                let (there, back) = (closed.bytes_from_pod, closed.bytes_to_pod);
                self.world.note(format!(
                    "client {client}: closed {}, {there} there, {back} back",
                    closed.end
                ));
            }
            _ => {}
        }
    }
}
