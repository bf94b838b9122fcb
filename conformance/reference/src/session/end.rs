//! How a session ends, and what it leaves behind by fault.

use super::Session;
use crate::{
    bind,
    node::{LIMITS, Node, lock},
};
use socket2::{Domain, Socket, Type};
use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use sternline_api::{
    Reason,
    v1alpha1::{self as pb, control_message::Event},
};

/// Longest wait for the connections' resets before the word. They take a moment
/// where the machine has one.
const RESETS: Duration = Duration::from_secs(5);

/// From the word to the end of the tunnels: it has to be read first.
pub(crate) const WORD: Duration = Duration::from_millis(500);

impl Session {
    /// Copies of the listening sockets that outlive the program.
    pub(crate) fn leak(&self) {
        for (_, _, listener) in lock(&self.listeners).iter() {
            if let Ok(copy) = nix::unistd::dup(listener) {
                std::mem::forget(copy);
            }
        }
    }

    /// Accepts no more connections: those that come wait in the listeners' queues.
    pub(crate) fn pause(&self) {
        self.listening.cancel();
    }

    /// Frees the listeners; they are free when it answers.
    pub(crate) async fn free(&self) {
        self.listening.cancel();
        let listeners = std::mem::take(&mut *lock(&self.listeners));
        drop(listeners);
        self.acceptors.close();
        self.acceptors.wait().await;
    }

    /// What the end by a call does not give back, as a fault wants it.
    fn keep(&self, node: &Node) {
        let faults = &node.faults;
        let addresses: Vec<_> = lock(&self.listeners).iter().map(|one| one.1).collect();
        if faults.has("port-rests") {
            let ports = addresses.iter().map(SocketAddr::port);
            lock(&node.rests).extend(ports.map(|port| (self.sandbox.clone(), port)));
        }
        if faults.has("stop-frees-v6-late") {
            let late: Vec<_> = lock(&self.listeners)
                .iter()
                .filter(|one| one.1.is_ipv6())
                .cloned()
                .collect();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(10)).await;
                drop(late);
            });
        }
        let of_it = |session: &std::sync::Arc<Self>| session.sandbox == self.sandbox;
        let here = node.live().iter().filter(|one| of_it(one)).count();
        if faults.has("session-slot-leak") && here >= LIMITS.sessions_per_sandbox as usize {
            lock(&node.lost_slots).push(self.sandbox.clone());
        }
    }

    /// Binds the ports again, where nothing listens any more.
    fn keep_ports(&self, node: &Node) {
        let addresses: Vec<_> = self.bound.iter().filter_map(pb::Bound::to_addr).collect();
        let bind = move || {
            for address in addresses {
                let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.bind(&address.into())?;
                std::mem::forget(socket);
            }
            Ok::<_, std::io::Error>(())
        };
        // A sandbox that is gone has no ports.
        let _ = bind::inside(&node.dir.join(&self.sandbox), bind);
    }

    pub(crate) async fn end(&self, reason: Reason) {
        self.end_as(reason, false).await;
    }

    /// Ends the session: listeners, connections, a word, tunnels.
    pub(crate) async fn end_as(&self, reason: Reason, listed: bool) {
        let Some(node) = self.node.upgrade() else {
            return;
        };
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let stopped = reason == Reason::Stopped;
        if stopped {
            self.keep(&node);
        }
        if !listed {
            lock(&node.sessions).retain(|session| session.id != self.id);
        }
        node.forget(&self.id, None);
        let leaks = node.faults.has("leaks-listener") && self.hold.is_zero();
        if !(reason == Reason::TunnelLost && leaks) {
            self.free().await;
        }
        let open = self.connections.load(Ordering::Relaxed) > 0;
        if stopped && open && node.faults.has("stop-keeps-port") {
            self.keep_ports(&node);
        }
        let tunnels = std::mem::take(&mut *lock(&self.tunnels));
        self.cut.cancel();
        let wait = Instant::now() + RESETS;
        while self.connections.load(Ordering::Relaxed) > 0
            && Instant::now() < wait
            && !node.faults.has("slot-leak")
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::spawn(async move {
            let ending = pb::Ending {
                code: reason.label().into(),
                message: "The session is over.".into(),
            };
            for control in tunnels.iter().filter_map(|tunnel| tunnel.control.as_ref()) {
                if !(stopped && node.faults.has("stop-untold")) {
                    let _ = control.send(Event::Ending(ending.clone())).await;
                }
            }
            tokio::time::sleep(WORD).await;
            if stopped && node.faults.has("stop-stays-open") {
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
            tunnels.iter().for_each(|tunnel| tunnel.down.cancel());
        });
    }
}
