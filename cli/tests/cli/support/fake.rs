//! The call and the raw streaming endpoint of a server that a test makes up.

use super::soon;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::reverse_port_forward_service_server::{
    ReversePortForwardService, ReversePortForwardServiceServer,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::{Request, Response, Status};

type Answer<Q, A> = Arc<dyn Fn(Q) -> Result<A, Status> + Send + Sync>;
type Script = Arc<dyn Fn(Raw) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A connection of the streaming endpoint whose request head was read.
pub struct Raw {
    pub io: UnixStream,
    /// The head, with its empty line.
    pub head: String,
}

impl Raw {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.io.write_all(bytes.as_ref()).await;
    }

    /// The answer that a client waits for.
    pub async fn upgrade(&mut self) {
        self.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: sternline\r\n\
             Sternline-Protocol: v1alpha1.reverse.sternline.dev\r\n\r\n",
        )
        .await;
    }

    /// The path's last segment.
    pub fn token(&self) -> &str {
        let path = self.head.split(' ').nth(1).unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// What was asked of a server.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    pub forwards: Vec<pb::ReversePortForwardRequest>,
    pub stopped: Vec<String>,
}

/// A server. Dropped, it is gone with its files.
pub struct Fake {
    pub dir: TempDir,
    pub socket: PathBuf,
    requests: Arc<Mutex<Requests>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// How a [`Fake`] is made.
pub struct Builder {
    forward: Option<Answer<pb::ReversePortForwardRequest, pb::ReversePortForwardResponse>>,
    sessions: Vec<pb::Session>,
    stop: Answer<String, ()>,
    script: Script,
}

impl Fake {
    pub fn builder() -> Builder {
        Builder {
            forward: None,
            sessions: Vec::new(),
            stop: Arc::new(|_| Ok(())),
            script: Arc::new(|_| Box::pin(async {})),
        }
    }

    pub fn requests(&self) -> Requests {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
    }
}

impl Builder {
    /// Answers the call in another way than by binding nothing and saying so.
    pub fn forward(
        mut self,
        answer: impl Fn(pb::ReversePortForwardRequest) -> Result<pb::ReversePortForwardResponse, Status>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.forward = Some(Arc::new(answer));
        self
    }

    pub fn sessions(mut self, sessions: Vec<pb::Session>) -> Self {
        self.sessions = sessions;
        self
    }

    pub fn stop(
        mut self,
        answer: impl Fn(String) -> Result<(), Status> + Send + Sync + 'static,
    ) -> Self {
        self.stop = Arc::new(answer);
        self
    }

    /// What becomes of each connection of the streaming endpoint.
    pub fn stream<F>(mut self, script: impl Fn(Raw) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.script = Arc::new(move |raw| Box::pin(script(raw)));
        self
    }

    pub async fn start(self) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("call.sock");
        let streaming = dir.path().join("streaming.sock");
        let requests: Arc<Mutex<Requests>> = Arc::default();
        let service = Service {
            url: url(&streaming, "TOKEN-SECRET"),
            forward: self.forward,
            sessions: self.sessions,
            stop: self.stop,
            requests: Arc::clone(&requests),
        };
        let calls =
            tokio_stream::wrappers::UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let serve = tonic::transport::Server::builder()
            .add_service(ReversePortForwardServiceServer::new(service))
            .serve_with_incoming(calls);
        let streams = UnixListener::bind(&streaming).unwrap();
        let script = self.script;
        let tasks = vec![
            tokio::spawn(async move { serve.await.unwrap() }),
            tokio::spawn(async move {
                loop {
                    let (io, _) = streams.accept().await.unwrap();
                    let script = Arc::clone(&script);
                    tokio::spawn(async move {
                        let raw = soon("a request head", head(io)).await;
                        script(raw).await;
                    });
                }
            }),
        ];
        Fake {
            dir,
            socket,
            requests,
            tasks,
        }
    }
}

async fn head(mut io: UnixStream) -> Raw {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Byte by byte: what follows the head belongs to the script.
        match io.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    Raw {
        io,
        head: String::from_utf8_lossy(&head).into_owned(),
    }
}

/// The streaming URL of a Unix socket.
fn url(path: &std::path::Path, token: &str) -> String {
    let path = path.to_str().unwrap().replace('/', "%2F");
    format!("http+unix://{path}/v1alpha1/sessions/{token}")
}

/// Binds what was asked for in the mind only: port 0 becomes 40000 and the
/// listener's id.
pub fn bound(request: &pb::ReversePortForwardRequest) -> Vec<pb::Bound> {
    let all = (0_u32..)
        .zip(&request.listeners)
        .flat_map(|(listener_id, listener)| {
            let port = if listener.port == 0 {
                40_000 + listener_id
            } else {
                listener.port
            };
            let addresses = match listener.address.as_str() {
                "" => vec!["127.0.0.1".to_owned(), "::1".to_owned()],
                one => vec![one.to_owned()],
            };
            addresses.into_iter().map(move |address| pb::Bound {
                listener_id,
                address,
                port,
            })
        });
    all.collect()
}

struct Service {
    url: String,
    forward: Option<Answer<pb::ReversePortForwardRequest, pb::ReversePortForwardResponse>>,
    sessions: Vec<pb::Session>,
    stop: Answer<String, ()>,
    requests: Arc<Mutex<Requests>>,
}

#[tonic::async_trait]
impl ReversePortForwardService for Service {
    async fn reverse_port_forward(
        &self,
        request: Request<pb::ReversePortForwardRequest>,
    ) -> Result<Response<pb::ReversePortForwardResponse>, Status> {
        let request = request.into_inner();
        self.requests.lock().unwrap().forwards.push(request.clone());
        if let Some(answer) = &self.forward {
            let mut response = answer(request)?;
            if response.url.is_empty() {
                response.url.clone_from(&self.url);
            }
            return Ok(Response::new(response));
        }
        Ok(Response::new(pb::ReversePortForwardResponse {
            session_id: "s1".into(),
            url: self.url.clone(),
            bound: bound(&request),
            expires_at_ms: u64::MAX,
            limits: Some(super::node::limits()),
        }))
    }

    async fn version(
        &self,
        _: Request<pb::VersionRequest>,
    ) -> Result<Response<pb::VersionResponse>, Status> {
        Ok(Response::new(pb::VersionResponse {
            name: "fake".into(),
            version: "9.8.7\x1b[2J".into(),
            api_versions: vec!["v1alpha1".into()],
            protocols: vec!["v1alpha1.reverse.sternline.dev".into()],
        }))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(pb::StatusResponse {
            runtime: "fake 9.8.7\x1b[2J".into(),
            conditions: vec![pb::Condition {
                r#type: "Ready".into(),
                message: "asleep".into(),
                ..pb::Condition::default()
            }],
            feature: Some(pb::Feature::default()),
            ..pb::StatusResponse::default()
        }))
    }

    async fn list_sessions(
        &self,
        _: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let sessions = self.sessions.clone();
        Ok(Response::new(pb::ListSessionsResponse { sessions }))
    }

    async fn stop_session(
        &self,
        request: Request<pb::StopSessionRequest>,
    ) -> Result<Response<pb::StopSessionResponse>, Status> {
        let id = request.into_inner().session_id;
        self.requests.lock().unwrap().stopped.push(id.clone());
        (self.stop)(id)?;
        Ok(Response::new(pb::StopSessionResponse {}))
    }
}
