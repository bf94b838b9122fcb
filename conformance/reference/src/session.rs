//! One session: its listeners, its tunnels, its end.

mod end;

pub(crate) use end::WORD;

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
                biased;
                () = self.listening.cancelled() => return,
                accepted = accepted => accepted,
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
