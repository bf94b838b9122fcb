//! One session: its listeners, its tunnels, its end.

use crate::{
    bind::Bound,
    node::{Kind, LIMITS, Node, lock, random},
    relay,
};
use bytes::Bytes;
use h2::client::SendRequest;
use std::{
    collections::HashMap,
    fs::File,
    net::SocketAddr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use sternline_api::{
    Reason,
    v1alpha1::{self as pb, control_message::Event},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// One tunnel that is up.
#[derive(Clone, Debug)]
pub(crate) struct Tunnel {
    pub(crate) number: u64,
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) down: CancellationToken,
    pub(crate) joined: bool,
    /// Where its control stream's messages go.
    pub(crate) control: Option<mpsc::Sender<Event>>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) hold: Duration,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) bound: Vec<pb::Bound>,
    pub(crate) created: Instant,
    pub(crate) created_ms: u64,
    pub(crate) node: Weak<Node>,
    pub(crate) tunnels: Mutex<Vec<Tunnel>>,
    pub(crate) connections: AtomicU32,
    pub(crate) total: AtomicU64,
    pub(crate) small: AtomicUsize,
    pub(crate) pod_resets: AtomicUsize,
    pub(crate) stalled: Arc<AtomicBool>,
    pub(crate) blocked: tokio::sync::Mutex<()>,
    pub(crate) up: watch::Sender<usize>,
    pub(crate) cut: CancellationToken,
    pub(crate) numbers: AtomicU64,
    redeemed: AtomicBool,
    ended: AtomicBool,
    turn: AtomicUsize,
    listening: CancellationToken,
    acceptors: TaskTracker,
    listeners: Mutex<Vec<(u32, SocketAddr, Arc<TcpListener>)>>,
}

impl Session {
    /// Takes over what listens and begins to accept once a tunnel is up.
    pub(crate) fn start(
        node: &Arc<Node>,
        sandbox: String,
        bound: Vec<Bound>,
        options: pb::SessionOptions,
    ) -> std::io::Result<Arc<Self>> {
        let mut told: Vec<_> = bound
            .iter()
            .filter_map(|one| one.told.map(|told| pb::Bound::from_addr(one.id, told)))
            .collect();
        if node.faults.has("reports-other-port") {
            told.iter_mut().for_each(|one| one.port ^= 1);
        }
        let mut listeners = Vec::new();
        for one in bound {
            let address = one.socket.local_addr()?;
            listeners.push((
                one.id,
                address,
                Arc::new(TcpListener::from_std(one.socket)?),
            ));
        }
        let session = Arc::new(Self {
            id: random(6),
            hold: Duration::from_millis(options.hold_ms),
            labels: options.labels,
            sandbox,
            bound: told,
            created: Instant::now(),
            created_ms: crate::node::now_ms(),
            node: Arc::downgrade(node),
            tunnels: Mutex::default(),
            connections: AtomicU32::default(),
            total: AtomicU64::default(),
            small: AtomicUsize::default(),
            pod_resets: AtomicUsize::default(),
            stalled: Arc::default(),
            blocked: tokio::sync::Mutex::default(),
            up: watch::Sender::new(0),
            cut: CancellationToken::new(),
            numbers: AtomicU64::default(),
            redeemed: AtomicBool::default(),
            ended: AtomicBool::default(),
            turn: AtomicUsize::default(),
            listening: CancellationToken::new(),
            acceptors: TaskTracker::new(),
            listeners: Mutex::new(listeners.clone()),
        });
        for (id, address, listener) in listeners {
            let accepting = Arc::clone(&session).accept(id, address, listener);
            session.acceptors.spawn(accepting);
        }
        Ok(session)
    }

    pub(crate) fn was_redeemed(&self) -> bool {
        self.redeemed.load(Ordering::Relaxed)
    }

    /// Notes that a tunnel was opened.
    pub(crate) fn redeem(&self) {
        self.redeemed.store(true, Ordering::Relaxed);
        if let Some(node) = self.node.upgrade()
            && node.faults.has("pins-namespace")
        {
            std::mem::forget(File::open(node.dir.join(&self.sandbox)));
        }
        if let Some(node) = self.node.upgrade()
            && node.faults.has("stop-pins")
            && let Ok(file) = File::open(node.dir.join(&self.sandbox))
        {
            lock(&node.pins).push((self.sandbox.clone(), file));
        }
    }

    async fn accept(self: Arc<Self>, id: u32, address: SocketAddr, listener: Arc<TcpListener>) {
        let Some(node) = self.node.upgrade() else {
            return;
        };
        let early = node.faults.has("early-connections-dropped");
        let mut up = self.up.subscribe();
        loop {
            let accepted = async {
                if !early {
                    let _ = up.wait_for(|tunnels| *tunnels > 0).await;
                }
                listener.accept().await
            };
            let accepted = tokio::select! {
                accepted = accepted => accepted,
                () = self.listening.cancelled() => return,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let session = self.serving(&node);
            let Some(tunnel) = session.pick() else {
                relay::reset(stream);
                continue;
            };
            self.admit(&node, stream, peer, id, address, tunnel).await;
        }
    }

    /// Whose tunnels carry the connections; another's only by fault.
    fn serving(self: &Arc<Self>, node: &Node) -> Arc<Self> {
        let other = node
            .live()
            .into_iter()
            .find(|other| other.sandbox == self.sandbox && !lock(&other.tunnels).is_empty());
        // One with many connections has a spec of its own.
        let few = |other: &Self| other.connections.load(Ordering::Relaxed) < 10;
        match other {
            Some(other) if node.faults.has("crossed-sessions") && few(&other) => other,
            _ => Arc::clone(self),
        }
    }

    fn pick(&self) -> Option<Tunnel> {
        let tunnels = lock(&self.tunnels);
        let idle = self
            .node
            .upgrade()
            .is_some_and(|node| node.faults.has("join-idle"));
        let usable: Vec<_> = tunnels
            .iter()
            .filter(|tunnel| !(idle && tunnel.joined))
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        usable
            .get(turn % usable.len().max(1))
            .map(|tunnel| (*tunnel).clone())
    }

    async fn admit(
        self: &Arc<Self>,
        node: &Arc<Node>,
        stream: TcpStream,
        peer: SocketAddr,
        id: u32,
        address: SocketAddr,
        tunnel: Tunnel,
    ) {
        let open = self.connections.load(Ordering::Relaxed);
        let full =
            open >= LIMITS.connections_per_session && !node.faults.has("ignores-connection-limit");
        let node_full = node.open.load(Ordering::Relaxed) >= LIMITS.connections_per_node
            && !node.faults.has("ignores-node-limit");
        if full || node_full {
            let reason = match full {
                true => Reason::ConnectionLimit,
                false => Reason::NodeConnectionLimit,
            };
            let event = Event::Rejected(pb::Rejected {
                reason: reason.label().into(),
                listener_id: id,
                count: 1,
            });
            if !(full && node.faults.has("rejected-untold")) {
                self.tell(event).await;
            }
            match full && node.faults.has("over-limit-hangs") {
                true => drop(tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    drop(stream);
                })),
                false => relay::reset(stream),
            }
            return;
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        node.open.fetch_add(1, Ordering::Relaxed);
        let (session, node) = (Arc::clone(self), Arc::clone(node));
        let beyond = open == 30;
        tokio::spawn(async move {
            relay::connection(
                &session,
                &node,
                stream,
                relay::Origin {
                    peer,
                    id,
                    address,
                    beyond,
                },
                tunnel,
            )
            .await;
            node.open.fetch_sub(1, Ordering::Relaxed);
            if !node.faults.has("slot-leak") {
                session.connections.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }

    /// Sends an event on the control stream, where there is one.
    pub(crate) async fn tell(&self, event: Event) {
        let control = lock(&self.tunnels)
            .iter()
            .find_map(|tunnel| tunnel.control.clone());
        if let Some(control) = control {
            let _ = control.send(event).await;
        }
    }

    /// Copies of the listening sockets that outlive the program.
    pub(crate) fn leak(&self) {
        for (_, _, listener) in lock(&self.listeners).iter() {
            if let Ok(copy) = nix::unistd::dup(listener) {
                std::mem::forget(copy);
            }
        }
    }

    /// Frees the listeners; they are free when it answers.
    pub(crate) async fn free(&self) {
        self.listening.cancel();
        let listeners = std::mem::take(&mut *lock(&self.listeners));
        if let Some(node) = self.node.upgrade() {
            if node.faults.has("stop-frees-v6-late") {
                let late: Vec<_> = listeners
                    .iter()
                    .filter(|one| one.1.is_ipv6())
                    .cloned()
                    .collect();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    drop(late);
                });
            }
            let mut rests = lock(&node.rests);
            for (_, address, _) in &listeners {
                rests.push((self.sandbox.clone(), address.port(), Instant::now()));
            }
        }
        drop(listeners);
        self.acceptors.close();
        self.acceptors.wait().await;
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
        if !listed {
            lock(&node.sessions).retain(|session| session.id != self.id);
        }
        node.forget(&self.id, None);
        let leaks = node.faults.has("leaks-listener") && self.hold.is_zero();
        if !(reason == Reason::TunnelLost && leaks) {
            self.free().await;
        }
        let tunnels = std::mem::take(&mut *lock(&self.tunnels));
        let stopped = reason == Reason::Stopped;
        if stopped && !self.was_redeemed() {
            // Port 0: not a port but a place in the sandbox.
            lock(&node.rests).push((self.sandbox.clone(), 0, Instant::now()));
        }
        let cut = self.cut.clone();
        match stopped && node.faults.has("stop-resets-late") {
            true => drop(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                cut.cancel();
            })),
            false => cut.cancel(),
        }
        // The connections' resets come before the word.
        let wait = Instant::now() + Duration::from_millis(200);
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
            let late = node.faults.has("stop-resets-late");
            tokio::time::sleep(Duration::from_millis(if late { 500 } else { 100 })).await;
            if stopped && node.faults.has("stop-stays-open") {
                tokio::time::sleep(Duration::from_secs(20)).await;
            }
            tunnels.iter().for_each(|tunnel| tunnel.down.cancel());
        });
    }

    /// Fresh tickets, in place of those before.
    pub(crate) fn tickets(self: &Arc<Self>) -> pb::Tickets {
        let Some(node) = self.node.upgrade() else {
            return pb::Tickets::default();
        };
        let mut tickets = pb::Tickets::default();
        for kind in [Kind::Join, Kind::Resume] {
            if !node.faults.has("ticket-reusable") {
                node.forget(&self.id, Some(kind));
            }
            let room = lock(&self.tunnels).len() < LIMITS.tunnels_per_session as usize
                || node.faults.has("join-beyond-limit");
            let Ok(ticket) = node.issue(self, kind) else {
                continue;
            };
            match kind {
                Kind::Join if room => tickets.join = ticket,
                Kind::Join | Kind::First => {}
                Kind::Resume => tickets.resume = ticket,
            }
        }
        tickets
    }
}
