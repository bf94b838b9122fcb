//! What an operator does, by signals: SIGHUP ends the server and starts it again,
//! SIGUSR1 switches the feature off, SIGUSR2 on.

use crate::{
    Cli,
    node::{Node, lock},
    session::Session,
};
use std::{
    io,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use sternline_api::{
    Reason,
    v1alpha1::{self as pb, control_message::Event},
};
use tokio::signal::unix::{SignalKind, signal};

/// How long connections may go on when the server goes away.
const DRAIN: Duration = Duration::from_secs(8);

/// Long enough for the last words to be read.
const FLUSH: Duration = Duration::from_millis(600);

/// Watches for the signals until the program ends.
pub(crate) fn watch(node: &Arc<Node>, cli: &Cli) -> io::Result<()> {
    let mut restart = signal(SignalKind::hangup())?;
    let mut off = signal(SignalKind::user_defined1())?;
    let mut on = signal(SignalKind::user_defined2())?;
    let node = Arc::clone(node);
    let again = (cli.again + 1).to_string();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = restart.recv() => start_again(&node, &again).await,
                _ = off.recv() => {
                    if node.faults.has("ignores-switch") {
                        continue;
                    }
                    node.off.store(true, Ordering::Relaxed);
                    if node.faults.has("stays-off") {
                        let ending = node.live().into_iter().map(|one| one.sandbox.clone());
                        lock(&node.known).extend(ending);
                    }
                    if !node.faults.has("off-holds-sessions") {
                        end(&node, Reason::FeatureOff).await;
                    }
                }
                _ = on.recv() => node.off.store(false, Ordering::Relaxed),
            }
        }
    });
    Ok(())
}

async fn end(node: &Node, reason: Reason) {
    for session in node.live() {
        session.end(reason).await;
    }
}

/// Lets the connections that are open end, for a while.
async fn finish(node: &Node) {
    let open = |session: &Arc<Session>| session.connections.load(Ordering::Relaxed) > 0;
    let (busy, quiet): (Vec<_>, Vec<_>) = node.live().into_iter().partition(open);
    for session in &busy {
        session.pause();
        let draining = pb::Draining {
            deadline_ms: u64::try_from(DRAIN.as_millis()).unwrap_or(u64::MAX),
            message: "The server goes away.".into(),
        };
        session.tell(Event::Draining(draining)).await;
    }
    for session in quiet {
        session.end(Reason::Draining).await;
    }
    let until = Instant::now() + DRAIN;
    while busy.iter().any(open) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn start_again(node: &Node, again: &str) {
    if node.faults.has("drain-leaks") {
        node.live().iter().for_each(|session| session.leak());
    }
    if !node.faults.has("drain-untold") {
        finish(node).await;
        end(node, Reason::Draining).await;
        tokio::time::sleep(FLUSH).await;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(at) = arguments.iter().position(|word| word == "--again") {
        arguments.drain(at..at + 2);
    }
    // Only an error comes back; the suite then misses the server.
    let _ = Command::new(program)
        .args(arguments)
        .args(["--again", again])
        .exec();
}
