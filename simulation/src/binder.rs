//! Sandboxes without a kernel: who listens where, and sessions' way to accept.

use crate::net::local::{End, pair};
use crate::world::{World, lock};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use sternline_api::listen::Listen;
use sternline_api::{Failure, Reason};
use sternline_shim::binder::{
    BindRequest, Binder, BinderStatus, Bound, BoundSocket, Gone, Sandbox, SandboxTarget,
};
use sternline_shim::netns::NamespaceId;
use sternline_shim::sandbox::Watched;
use sternline_shim::session::{Adopt, Adopted, Listens, Spare};
use sternline_tunnel::Socket as _;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

/// Connections that wait to be accepted, as the kernel keeps them.
#[derive(Debug)]
struct Backlog {
    waiting: Mutex<VecDeque<(End, SocketAddr)>>,
    arrived: Notify,
    most: usize,
}

/// Where somebody listens: a sandbox and an address.
type Place = (String, SocketAddr);

/// Listening sockets of all sandboxes, and those bound and not adopted yet.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    listening: Mutex<BTreeMap<Place, Arc<Backlog>>>,
    /// By the descriptor that stands for them on their way through the binder. Who
    /// drops that descriptor closes the other end of this pair.
    handed_out: Mutex<BTreeMap<RawFd, (UnixStream, Place)>>,
}

impl Ports {
    /// Sockets that are listening still.
    pub(crate) fn listening(&self) -> usize {
        self.forget_dropped();
        lock(&self.listening).len()
    }

    /// Frees what was bound and dropped on its way.
    fn forget_dropped(&self) {
        use std::io::Read as _;
        let mut dropped = Vec::new();
        lock(&self.handed_out).retain(|_, (alive, place)| {
            let gone = matches!((&*alive).read(&mut [0]), Ok(0));
            if gone {
                dropped.push(place.clone());
            }
            !gone
        });
        for place in dropped {
            lock(&self.listening).remove(&place);
        }
    }
}

impl World {
    /// A process in a sandbox connects.
    pub(crate) fn connect(&self, sandbox: &str, to: SocketAddr, from: SocketAddr) -> Option<End> {
        self.ports.forget_dropped();
        let place = (sandbox.to_owned(), to);
        let backlog = lock(&self.ports.listening).get(&place).map(Arc::clone)?;
        let mut waiting = lock(&backlog.waiting);
        if waiting.len() >= backlog.most {
            return None;
        }
        let (near, far) = pair(&mut self.rng(), &self.sockets);
        waiting.push_back((near, from));
        drop(waiting);
        backlog.arrived.notify_one();
        Some(far)
    }
}

/// The binder of the simulation.
#[derive(Debug)]
pub(crate) struct SimBinder {
    world: Arc<World>,
    /// The ends of news of each sandbox.
    gone: Mutex<BTreeMap<String, Vec<watch::Sender<Option<String>>>>>,
    next_port: Mutex<u16>,
}

impl SimBinder {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            gone: Mutex::default(),
            next_port: Mutex::new(40_000),
        })
    }

    /// A sandbox stops.
    pub(crate) fn stop(&self, sandbox: &str) {
        let news = lock(&self.gone).remove(sandbox).unwrap_or_default();
        for one in news {
            one.send_replace(Some(format!("sandbox {sandbox} stopped")));
        }
    }

    fn listen(
        &self,
        sandbox: &str,
        listen: Listen,
        backlog: u32,
    ) -> Result<Vec<BoundSocket>, Failure> {
        let port = match listen.port {
            0 => {
                let mut next = lock(&self.next_port);
                *next += 1;
                *next
            }
            port => port,
        };
        let addresses = listen.bind.addresses();
        let places = addresses
            .iter()
            .map(|ip| (sandbox.to_owned(), SocketAddr::new(*ip, port)));
        let mut listening = lock(&self.world.ports.listening);
        if let Some((_, addr)) = places.clone().find(|place| listening.contains_key(place)) {
            let message = format!("sandbox {sandbox}: {addr}: address already in use");
            return Err(Failure::new(Reason::PortInUse, message));
        }
        let mut sockets = Vec::new();
        for place in places {
            let addr = place.1;
            let socket = self.stand_in(&place).map_err(|error| {
                Failure::new(Reason::Internal, format!("no descriptors: {error}"))
            })?;
            let backlog = Arc::new(Backlog {
                waiting: Mutex::default(),
                arrived: Notify::new(),
                most: backlog as usize,
            });
            listening.insert(place, backlog);
            sockets.push(BoundSocket {
                listener_id: listen.id,
                addr,
                socket,
            });
        }
        Ok(sockets)
    }

    fn news_of(&self, sandbox: &str) -> Gone {
        let (news, gone) = Gone::channel();
        let mut all = lock(&self.gone);
        all.entry(sandbox.to_owned()).or_default().push(news);
        gone
    }

    /// A descriptor that stands for a socket until it is adopted.
    fn stand_in(&self, place: &Place) -> io::Result<TcpListener> {
        let (alive, stand_in) = UnixStream::pair()?;
        alive.set_nonblocking(true)?;
        let stand_in = TcpListener::from(OwnedFd::from(stand_in));
        let entry = (alive, place.clone());
        lock(&self.world.ports.handed_out).insert(stand_in.as_raw_fd(), entry);
        Ok(stand_in)
    }
}

#[tonic::async_trait]
impl Binder for SimBinder {
    async fn bind(&self, request: BindRequest) -> Result<Bound, Failure> {
        let sandbox = self.find(&request.target).await?;
        let mut rng = self.world.rng();
        sleep(Duration::from_micros(rng.between(0, 20_000))).await;
        self.world.ports.forget_dropped();
        let mut sockets = Vec::new();
        for one in &request.listeners {
            sockets.extend(self.listen(&sandbox.id, *one, request.backlog)?);
        }
        sleep(Duration::from_micros(rng.between(0, 2_000))).await;
        let gone = self.news_of(&sandbox.id);
        Ok(Bound {
            sandbox,
            namespace: NamespaceId::from_parts(0, 0),
            sockets,
            gone,
        })
    }

    async fn find(&self, target: &SandboxTarget) -> Result<Sandbox, Failure> {
        match target {
            SandboxTarget::Id(id) => Ok(Sandbox {
                id: id.clone(),
                pod: None,
            }),
            SandboxTarget::Pod(_) => Err(Failure::new(Reason::Forbidden, "no gateway here")),
        }
    }

    async fn watch(&self, sandbox: Watched) -> Result<Gone, Failure> {
        Ok(self.news_of(&sandbox.id))
    }

    async fn status(&self) -> BinderStatus {
        BinderStatus {
            runtime: "simulated".to_owned(),
            trouble: None,
        }
    }
}

/// Makes stand-ins into what sessions accept on.
#[derive(Debug)]
pub(crate) struct SimAdopt(pub(crate) Weak<World>);

impl Adopt for SimAdopt {
    fn adopt(&self, bound: BoundSocket) -> io::Result<Adopted> {
        let world = self.0.upgrade().ok_or(io::ErrorKind::NotConnected)?;
        let descriptor = bound.socket.as_raw_fd();
        let (_alive, place) = lock(&world.ports.handed_out)
            .remove(&descriptor)
            .ok_or(io::ErrorKind::NotFound)?;
        let backlog = lock(&world.ports.listening).get(&place).map(Arc::clone);
        let listener = SimListener {
            backlog: backlog.ok_or(io::ErrorKind::NotFound)?,
            place,
            world,
        };
        Ok(Adopted::new(bound.listener_id, bound.addr, listener))
    }
}

/// What a session accepts on. Dropping it closes it.
struct SimListener {
    backlog: Arc<Backlog>,
    place: Place,
    world: Arc<World>,
}

impl Listens for SimListener {
    type Socket = End;

    async fn accept(&self) -> io::Result<(End, SocketAddr)> {
        loop {
            if let Some(accepted) = lock(&self.backlog.waiting).pop_front() {
                return Ok(accepted);
            }
            self.backlog.arrived.notified().await;
        }
    }

    fn make_ready(_socket: &End) {}

    fn turn_away(&self, _spare: &Spare) -> bool {
        false
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        lock(&self.world.ports.listening).remove(&self.place);
        for (end, _) in lock(&self.backlog.waiting).drain(..) {
            end.abort_on_close();
        }
        self.world
            .note(format!("closed {} in {}", self.place.1, self.place.0));
    }
}
