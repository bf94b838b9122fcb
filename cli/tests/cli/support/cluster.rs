//! An API server of a test's own, with the gateway behind it: real TLS, objects
//! that the test gives, and tunnels that it drives.

use super::node::limits;
use super::{Authority, Tunnel, soon};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use sternline_api::v1alpha1 as pb;
use sternline_tunnel::websocket::WebSocketIo;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The name that its certificate is for.
pub const NAME: &str = "api.test";

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub fn is_forward(&self) -> bool {
        self.path.contains("/portforward?")
    }
}

type Hook = Box<dyn Fn(&Seen) -> Option<(u16, String)> + Send>;

struct State {
    seen: Mutex<Vec<Seen>>,
    objects: Mutex<HashMap<String, Value>>,
    hook: Mutex<Option<Hook>>,
    down: AtomicBool,
    connections: AtomicUsize,
    /// Taken by whoever announces a session.
    paused: tokio::sync::Semaphore,
    hold_ms: u64,
    tunnels: mpsc::Sender<Tunnel>,
}

/// An API server. Dropped, it is gone with its files.
pub struct Cluster {
    pub dir: TempDir,
    pub port: u16,
    pub authority: Authority,
    state: Arc<State>,
    tunnels: mpsc::Receiver<Tunnel>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    /// One whose gateway promises to hold listeners so long, and which has `pod/web`
    /// in namespace `shop`.
    pub async fn start(hold_ms: u64) -> Self {
        Self::asking(hold_ms, None).await
    }

    /// One that asks its clients for certificates of `clients`.
    pub async fn asking(hold_ms: u64, clients: Option<&Authority>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("api");
        let acceptor = TlsAcceptor::from(Arc::new(authority.server(NAME, 4000, clients)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (found, tunnels) = mpsc::channel(8);
        let state = Arc::new(State {
            seen: Mutex::default(),
            objects: Mutex::default(),
            hook: Mutex::default(),
            down: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            paused: tokio::sync::Semaphore::new(1),
            hold_ms,
            tunnels: found,
        });
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                if !shared.down.load(SeqCst) {
                    shared.connections.fetch_add(1, SeqCst);
                    tokio::spawn(serve(io, acceptor.clone(), Arc::clone(&shared)));
                }
            }
        });
        let cluster = Self {
            dir,
            port,
            authority,
            state,
            tunnels,
            task,
        };
        cluster.put("/api/v1/namespaces/shop/pods/web", pod("web", "Running"));
        cluster.configure("127.0.0.1", "", "token: TOKEN-SECRET");
        cluster
    }

    /// Writes the kubeconfig: another host for the server, more of its entry, and
    /// the user's entry.
    pub fn configure(&self, host: &str, cluster: &str, user: &str) {
        self.authority.write(&self.dir.path().join("ca.pem"));
        let config = format!(
            "current-context: dev\ncontexts:\n- name: dev\n  context: {{cluster: c, user: u, namespace: shop}}\n\
             clusters:\n- name: c\n  cluster:\n    server: https://{host}:{}\n    certificate-authority: ca.pem\n    \
             tls-server-name: {NAME}\n    {cluster}\nusers:\n- name: u\n  user:\n    {user}\n",
            self.port
        );
        std::fs::write(self.config(), config).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    /// The program, as users of this cluster run it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sternline"));
        command
            .arg("kubectl")
            .args(args)
            .env("KUBECONFIG", self.config());
        for name in ["HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"] {
            command.env_remove(name);
        }
        command
    }

    /// Serves an object.
    pub fn put(&self, path: &str, object: Value) {
        self.state
            .objects
            .lock()
            .unwrap()
            .insert(path.to_owned(), object);
    }

    /// Answers what `hook` answers first.
    pub fn hook(&self, hook: impl Fn(&Seen) -> Option<(u16, String)> + Send + 'static) {
        *self.state.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Whether connections are dropped at once.
    pub fn down(&self, down: bool) {
        self.state.down.store(down, SeqCst);
    }

    /// Announces nothing until it goes on.
    pub fn pause(&self) {
        self.state.paused.try_acquire().unwrap().forget();
    }

    pub fn go_on(&self) {
        self.state.paused.add_permits(1);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
    }

    /// Requests to open a stream.
    pub fn forwards(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(Seen::is_forward).collect()
    }

    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// The next tunnel that comes up; its `token` is the ticket it came with.
    pub async fn tunnel(&mut self) -> Tunnel {
        soon("a tunnel", self.tunnels.recv()).await.unwrap()
    }
}

/// A pod that is ready if it is running.
pub fn pod(name: &str, phase: &str) -> Value {
    let ready = if phase == "Running" { "True" } else { "False" };
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "node-1", "containers": [{"ports": [{"name": "xdebug", "containerPort": 9003}]}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    })
}

/// A `Status` with a word of ours, or none.
pub fn status(code: u16, reason: &str, message: &str, cause: &str) -> (u16, String) {
    let causes = match cause {
        "" => json!([]),
        cause => json!([{"reason": cause, "message": message}]),
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message, "details": {"causes": causes},
    });
    (code, status.to_string())
}

async fn serve(io: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    let Ok(io) = acceptor.accept(io).await else {
        return;
    };
    let service = service_fn(|request| answer(request, Arc::clone(&state)));
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let _ = connection.await;
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let seen = Seen {
        path: request.uri().to_string(),
        headers: request.headers().clone(),
    };
    state.seen.lock().unwrap().push(seen.clone());
    let hooked = state
        .hook
        .lock()
        .unwrap()
        .as_ref()
        .and_then(|hook| hook(&seen));
    let reply = |code: u16, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        Ok(response)
    };
    if let Some((code, body)) = hooked {
        return reply(code, body);
    }
    if seen.is_forward() {
        return Ok(switch(request, seen, state));
    }
    let found = state.objects.lock().unwrap().get(&seen.path).cloned();
    match found {
        Some(object) => reply(200, object.to_string()),
        None => {
            let (code, body) = status(404, "NotFound", &format!("{} not found", seen.path), "");
            reply(code, body)
        }
    }
}

/// Upgrades, announces what was asked for, and hands the tunnel to the test.
fn switch(request: Request<Incoming>, seen: Seen, state: Arc<State>) -> Response<Full<Bytes>> {
    let accept = derive_accept_key(seen.header("sec-websocket-key").as_bytes());
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_ACCEPT, &accept),
        (
            header::SEC_WEBSOCKET_PROTOCOL,
            seen.header("sec-websocket-protocol"),
        ),
    ] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    let ready = pb::Ready {
        session_id: "s1".into(),
        bound: bound(&seen.path),
        limits: Some(limits()),
        hold_ms: state.hold_ms,
        tickets: Some(pb::Tickets {
            join: "JOIN-SECRET".into(),
            resume: "RESUME-SECRET".into(),
        }),
        ..pb::Ready::default()
    };
    tokio::spawn(async move {
        let io = hyper::upgrade::on(request).await.unwrap();
        drop(state.paused.acquire().await);
        let io = WebSocketIo::server(TokioIo::new(io)).await;
        let ticket = seen.header("sternline-ticket").to_owned();
        let tunnel = Tunnel::over(io, (ticket, seen.path), Some(ready)).await;
        let _ = state.tunnels.send(tunnel).await;
    });
    response
}

/// Binds what a query asks for in the mind only.
fn bound(path: &str) -> Vec<pb::Bound> {
    let query = path.split_once('?').unwrap().1;
    let asked = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("listen="));
    let one = |(listener_id, text): (u32, &str)| {
        let port: u32 = text.strip_prefix("localhost%3A").unwrap().parse().unwrap();
        let port = if port == 0 {
            40_000 + listener_id
        } else {
            port
        };
        ["127.0.0.1", "::1"].map(|address| pb::Bound {
            listener_id,
            address: address.into(),
            port,
        })
    };
    (0..).zip(asked).flat_map(one).collect()
}
