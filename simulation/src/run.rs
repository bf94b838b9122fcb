//! One run, from its seed to its verdict.

use crate::chaos::{Victim, chaos};
use crate::client::client;
use crate::node::Node;
use crate::outside::Host;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::verify::verify;
use crate::world::{Stats, World};
use std::cell::Cell;
use std::panic;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// By when everything must have come to its end, in virtual time. Clients stop
/// within 65 s; a hold, a token and every time-out of the product are over well
/// before the rest.
const BOUND: Duration = Duration::from_secs(900);

/// How a run went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed that makes it again.
    pub seed: u64,
    /// What did not hold; nothing, if all is well.
    pub failures: Vec<String>,
    /// What happened, with its virtual time in microseconds.
    pub trace: Vec<String>,
    /// How much happened.
    pub stats: Stats,
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts panics of this thread: those of spawned tasks are swallowed.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            before(info);
        }));
    });
}

/// Runs one seed.
///
/// # Panics
/// The system gives no runtime.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    count_panics();
    PANICS.with(|panics| panics.set(0));
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without drivers can be made");
    let (mut failures, trace, stats) = runtime.block_on(world(seed));
    drop(runtime);
    let panics = PANICS.with(Cell::get);
    if panics > 0 {
        failures.push(format!("{panics} panics"));
    }
    Outcome {
        seed,
        failures,
        trace,
        stats,
    }
}

async fn world(seed: u64) -> (Vec<String>, Vec<String>, Stats) {
    let mut rng = Rng::new(seed);
    let plan = Plan::of(&mut rng);
    let world = World::new(rng.fork());
    world.note(format!("{:?}", plan.limits));
    let node = Node::new(&world, plan.limits.clone());
    let (mut clients, pods) = (JoinSet::new(), TaskTracker::new());
    let mut victims = Vec::new();
    for (number, client_plan) in plan.clients.into_iter().enumerate() {
        world.note(format!("client {number}: {client_plan:?}"));
        let host = Host::new(&world, &node, client_plan.delay);
        let session = Arc::new(Mutex::new(None));
        let sandbox = client_plan.sandbox.clone();
        let running = client(
            Arc::clone(&host),
            (number, client_plan),
            Arc::clone(&session),
            pods.clone(),
        );
        let task = clients.spawn(running);
        victims.push(Victim {
            host,
            task,
            session,
            sandbox,
        });
    }
    let targets: Vec<_> = victims.iter().map(|v| v.host.targets.clone()).collect();
    let over = async {
        let faults = chaos(Arc::clone(&world), victims, plan.faults);
        let all = async { while clients.join_next().await.is_some() {} };
        tokio::join!(all, faults);
        world.note("every client is over");
        for tracker in targets.iter().chain([&pods, &node.upgrades]) {
            tracker.close();
            tracker.wait().await;
        }
        world.note("every process is over");
        // Holds and tokens run out.
        while !node.shared.registry.list().is_empty() || tasks() > 0 {
            sleep(Duration::from_secs(1)).await;
        }
    };
    if timeout(BOUND, over).await.is_err() {
        let sessions = node.shared.registry.list().len();
        let processes: usize = targets.iter().map(TaskTracker::len).sum();
        world.fail(format!(
            "something waits without end: {} clients, {} processes in pods, {processes} at targets, {sessions} sessions, {} upgrades, {} tasks",
            clients.len(), pods.len(), node.upgrades.len(), tasks()
        ));
    }
    verify(&world, &node, tasks());
    world.count(|stats| stats.took_ms = world.elapsed_ms());
    let stats = *crate::world::lock(&world.stats);
    let (trace, failures) = world.take();
    (failures, trace, stats)
}

/// Tasks alive now.
fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}
