//! What must hold when a run is over.

use crate::node::Node;
use crate::records::{End, Record, Side};
use crate::world::{World, lock};

/// Judges every connection, and whether everything was given back.
pub(crate) fn verify(world: &World, node: &Node, tasks: usize) {
    let records = lock(&world.records).clone();
    for (number, record) in &records {
        connection(world, *number, record);
    }
    let (sockets, wires) = world.open();
    let shared = &node.shared;
    for (what, left) in [
        ("ends of connections", sockets),
        ("ends of wires", wires),
        ("listening sockets", world.ports.listening()),
        ("sessions", shared.registry.list().len()),
        (
            "permits for connections",
            shared.registry.connections_open() as usize,
        ),
        ("passes", shared.passes.len()),
        (
            "bytes of budget",
            usize::try_from(shared.budget.used()).unwrap_or(usize::MAX),
        ),
        ("tasks", tasks),
    ] {
        if left > 0 {
            world.fail(format!("{left} {what} were not given back"));
        }
    }
    slots(world, node);
}

fn connection(world: &World, number: u64, record: &Record) {
    let Record { pod, target, .. } = record;
    direction(world, number, "there", (pod, target));
    direction(world, number, "back", (target, pod));
    for (name, side, there) in [("pod", pod, true), ("target", target, record.led)] {
        if there && !side.done {
            world.fail(format!(
                "connection {number}: the {name}'s process still waits: {record:?}"
            ));
        }
    }
    let whole = pod.end == End::Clean && target.end == End::Clean;
    world.count(|stats| match whole {
        true => stats.whole += 1,
        false => stats.cut += 1,
    });
    // Where nothing was done to anybody, nothing may be missing.
    if record.patient && record.led && record.disturbances.is_some() && !whole {
        world.fail(format!(
            "connection {number} was cut without a cause: {record:?}"
        ));
    }
}

/// An end that is told as clean has everything before it.
fn direction(world: &World, number: u64, way: &str, (writer, reader): (&Side, &Side)) {
    if reader.read > writer.wrote {
        world.fail(format!(
            "connection {number} {way}: more was read than was written"
        ));
    }
    if reader.end == End::Clean && (!writer.fin || reader.read != writer.wrote) {
        world.fail(format!(
            "connection {number} {way}: a clean end was told after {} of {} bytes, and the writer {}",
            reader.read,
            writer.wrote,
            if writer.fin { "had ended" } else { "had not ended" }
        ));
    }
}

/// All places on the node and in its sandboxes can be taken again.
fn slots(world: &World, node: &Node) {
    let limits = &node.shared.limits;
    if node.shared.registry.refusal().is_some() {
        // It drained, and takes nobody any more.
        return;
    }
    let mut taken = Vec::new();
    for n in 0..limits.sessions_per_node.min(limits.sessions_per_sandbox) {
        let sandbox = sternline_shim::binder::Sandbox {
            id: "web".to_owned(),
            pod: None,
        };
        match node.shared.registry.slot() {
            Ok(mut slot) => {
                if slot.enter(&sandbox).is_err() {
                    world.fail(format!("only {n} places in a sandbox were given back"));
                }
                taken.push(slot);
            }
            Err(_) => world.fail(format!("only {n} places on the node were given back")),
        }
    }
}
