//! Asks a gateway, as the API server does or as anybody else.

use super::pki::Pair;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Who asks.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) address: SocketAddr,
    /// What it trusts, in PEM.
    pub(crate) bundle: String,
    /// Name that the gateway has to prove.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) pair: Option<Pair>,
}

impl Asker {
    pub(crate) fn showing(&self, pair: &Pair) -> Self {
        Self {
            pair: Some(pair.clone()),
            ..self.clone()
        }
    }

    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.bundle.as_bytes()) {
            roots.add(root.expect("PEM")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots);
        let mut config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
                let chain = chain.collect::<Result<_, _>>().expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        // As the API server offers them.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let io = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(self.name.clone()).expect("a name");
        let io = TlsConnector::from(Arc::new(config))
            .connect(name, io)
            .await?;
        assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        Ok(io)
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let io = self.connect().await.expect("connected");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .expect("HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.expect("an answer")
    }

    /// Asks for a forward: the answer's fields and the stream, or a Status.
    pub(crate) async fn forward(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<(HeaderMap, TokioIo<Upgraded>), (u16, Value)> {
        let mut request = Request::get(path)
            .header("host", "gateway")
            .header("connection", "Upgrade");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        let response = self.send(request).await;
        if response.status() != 101 {
            return Err(read(response).await);
        }
        let fields = response.headers().clone();
        let io = hyper::upgrade::on(response).await.expect("upgraded");
        Ok((fields, TokioIo::new(io)))
    }

    /// Reads an object at a path, with these fields in the request.
    pub(crate) async fn get(&self, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        let mut request = Request::get(path).header("host", "gateway");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        read(self.send(request).await).await
    }
}

/// An answer whose body is JSON, or text.
pub(crate) async fn read(response: Response<Incoming>) -> (u16, Value) {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body");
    let body = body.to_bytes();
    let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
    (
        code,
        serde_json::from_slice(&body).unwrap_or_else(|_| text()),
    )
}
