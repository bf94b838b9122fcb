//! Processes in pods: they connect, and talk.

use crate::outside::Host;
use crate::pattern::Way;
use crate::plan::ConnectionPlan;
use crate::target::Process;
use crate::world::lock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::sleep;

/// One connection of a pod, from its beginning to its end.
pub(crate) async fn connection(
    host: Arc<Host>,
    (client, number): (usize, u64),
    plan: ConnectionPlan,
    (sandbox, bound): (String, Vec<SocketAddr>),
) {
    let world = Arc::clone(&host.world);
    let mut rng = world.rng();
    sleep(plan.at).await;
    let to = bound[(plan.listener % bound.len() as u64) as usize];
    let port = 50_000 + (number % 10_000) as u16;
    lock(&world.behaviours).insert(number, plan.target);
    // While one side takes its time over bytes that all arrived, the other hears
    // nothing of the stream.
    let silent = host.node.shared.limits.idle_timeout > Duration::ZERO
        && (plan.pod.dawdles() || plan.target.dawdles());
    world.record(number, |record| {
        record.client = client;
        record.patient = plan.pod.is_patient() && plan.target.is_patient() && !silent;
        record.disturbances = Some(host.disturbances.load(Relaxed));
    });
    let Some(socket) = world.connect(&sandbox, to, SocketAddr::new(to.ip(), port)) else {
        world.note(format!("connection {number}: nobody listens on {to}"));
        lock(&world.records).remove(&number);
        return;
    };
    world.note(format!("connection {number} to {to}"));
    world.count(|stats| stats.connections += 1);
    let process = Process {
        world: &world,
        connection: number,
        socket: &socket,
        behaviour: plan.pod,
        sends: Way::There,
        read: AtomicUsize::new(0),
        wrote: AtomicUsize::new(0),
        rng: (rng.fork(), rng.fork()),
    };
    process.run().await;
    drop(socket);
    host.looked_after(number);
    let record = lock(&world.records).get(&number).copied();
    world.note(format!(
        "connection {number}: {:?}",
        record.map(|record| record.pod)
    ));
}
