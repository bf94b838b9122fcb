//! A shim that was made up: takes the call and streams what it is sent back.

use super::until;
use http::{HeaderMap, HeaderValue, Request as HttpRequest, Response as HttpResponse, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use sternline_api::grant::from_header;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::reverse_port_forward_service_server::{
    ReversePortForwardService, ReversePortForwardServiceServer,
};
use sternline_api::{Failure, Reason};
use sternline_gateway::authority::{Keyring, Lifetimes, Profile};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::{Request, Response, Status};

/// What it was asked and how it answers.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) calls: Vec<pb::ReversePortForwardRequest>,
    pub(crate) stopped: Vec<String>,
    /// Path and fields of each request for a stream.
    pub(crate) streams: Vec<(String, HeaderMap)>,
    pub(crate) refuse_call: Option<Failure>,
    pub(crate) refuse_stream: Option<Failure>,
    /// It serves another version of the call.
    pub(crate) other_version: bool,
    /// Streams end after this many bytes.
    pub(crate) hang_up_after: Option<usize>,
    /// Streams that are open.
    pub(crate) open: usize,
}

#[derive(Clone)]
pub(crate) struct Shim {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
}

impl Shim {
    /// Listens; speaks to nobody before [`serve`](Self::serve).
    pub(crate) async fn bind() -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let shim = Self {
            address: listener.local_addr().expect("an address"),
            state: Arc::default(),
        };
        (shim, listener)
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("nobody panicked"))
    }

    /// Serves as the shim of a node, with what `ring` signed for that.
    pub(crate) fn serve(&self, listener: TcpListener, ring: &Keyring, node: &str) {
        let profile = Profile::Node(node.to_owned());
        let identity = ring.identity(&profile, SystemTime::now(), &Lifetimes::default());
        let identity = identity.expect("signed");
        let chain = CertificateDer::pem_slice_iter(identity.issued.certificate.as_bytes());
        let chain = chain.collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(ring.bundle().as_bytes()) {
            roots.add(root.expect("PEM")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(clients.build().expect("roots"))
            .with_single_cert(chain, key)
            .expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let shim = self.clone();
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (acceptor, shim) = (acceptor.clone(), shim.clone());
                tokio::spawn(async move {
                    let Ok(io) = acceptor.accept(io).await else {
                        return;
                    };
                    match io.get_ref().1.alpn_protocol() {
                        Some(b"h2") => shim.call(io).await,
                        _ => shim.streaming(io).await,
                    }
                });
            }
        });
    }

    async fn call(&self, mut io: TlsStream<TcpStream>) {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let service = ReversePortForwardServiceServer::new(self.clone());
        let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        let (_, _) = tokio::join!(served, tokio::io::copy_bidirectional(&mut io, &mut near));
    }

    async fn streaming(&self, io: TlsStream<TcpStream>) {
        let service = service_fn(|request| {
            let response = self.stream(request);
            async { Ok::<_, Infallible>(response) }
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
            .await;
    }

    fn stream(&self, mut request: HttpRequest<Incoming>) -> HttpResponse<Full<Bytes>> {
        let (path, fields) = (request.uri().path().to_owned(), request.headers().clone());
        let websocket = fields["upgrade"] == "websocket";
        let (refused, most) = self.with(|state| {
            state.streams.push((path, fields));
            (state.refuse_stream.clone(), state.hang_up_after)
        });
        if let Some(failure) = refused {
            let body = serde_json::json!({
                "reason": failure.reason.label(), "message": failure.message,
            });
            let mut response = HttpResponse::new(Full::from(body.to_string()));
            *response.status_mut() = failure.reason.http();
            return response;
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let shim = self.clone();
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.expect("upgraded"));
            shim.with(|state| state.open += 1);
            let mut buffer = [0; 4096];
            let mut total = 0;
            while most.is_none_or(|most| total < most) {
                let Ok(read @ 1..) = io.read(&mut buffer).await else {
                    break;
                };
                total += read;
                if io.write_all(&buffer[..read]).await.is_err() || io.flush().await.is_err() {
                    break;
                }
            }
            let _ = io.shutdown().await;
            shim.with(|state| state.open -= 1);
        });
        let mut response = HttpResponse::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let fields = response.headers_mut();
        let protocol = HeaderValue::from_static("v1alpha1.reverse.sternline.dev");
        fields.insert("connection", HeaderValue::from_static("Upgrade"));
        if websocket {
            fields.insert("upgrade", HeaderValue::from_static("websocket"));
            fields.insert("sec-websocket-accept", HeaderValue::from_static("accepted"));
            fields.insert("sec-websocket-protocol", protocol);
        } else {
            fields.insert("upgrade", HeaderValue::from_static("sternline"));
            fields.insert("sternline-protocol", protocol);
        }
        response
    }

    /// The grant in the fields of a request for a stream.
    pub(crate) fn grant(fields: &HeaderMap) -> pb::Grant {
        let grant = from_header(fields["sternline-grant"].as_bytes()).expect("one");
        let signed = pb::SignedGrant::decode(grant.as_slice()).expect("signed");
        pb::Grant::decode(signed.grant.as_slice()).expect("a grant")
    }

    /// Waits until no stream is open any more.
    pub(crate) async fn is_left(&self) {
        until(async || self.with(|state| (state.open == 0).then_some(()))).await;
    }
}

#[tonic::async_trait]
impl ReversePortForwardService for Shim {
    async fn reverse_port_forward(
        &self,
        request: Request<pb::ReversePortForwardRequest>,
    ) -> Result<Response<pb::ReversePortForwardResponse>, Status> {
        let (refused, other_version) = self.with(|state| {
            state.calls.push(request.into_inner());
            (state.refuse_call.clone(), state.other_version)
        });
        if other_version {
            // As a server says of a service that it does not have.
            return Err(Status::unimplemented(""));
        }
        if let Some(failure) = refused {
            return Err(failure.into());
        }
        let host = "worker-1.node.reverse.sternline.dev:10251";
        Ok(Response::new(pb::ReversePortForwardResponse {
            session_id: "s1".to_owned(),
            url: format!("https://{host}/v1alpha1/sessions/token-1"),
            ..pb::ReversePortForwardResponse::default()
        }))
    }

    async fn stop_session(
        &self,
        request: Request<pb::StopSessionRequest>,
    ) -> Result<Response<pb::StopSessionResponse>, Status> {
        self.with(|state| state.stopped.push(request.into_inner().session_id));
        Ok(Response::new(pb::StopSessionResponse {}))
    }

    async fn version(
        &self,
        _: Request<pb::VersionRequest>,
    ) -> Result<Response<pb::VersionResponse>, Status> {
        Err(nothing())
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        Err(nothing())
    }

    async fn list_sessions(
        &self,
        _: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        Err(nothing())
    }
}

/// A gateway asks nothing else.
fn nothing() -> Status {
    Failure::new(Reason::InvalidRequest, "a gateway does not ask that").into()
}
