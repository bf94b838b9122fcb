//! A gateway that is nothing but what a node sees of one: it gives certificates to
//! nodes, signs grants, makes calls and brings clients.

use super::tls::{Authority, Files, Pair};
use super::{Stream, within};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::SignatureScheme;
use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::grant::{ID_LENGTH, signed_bytes};
use sternline_api::v1alpha1::{Grant, Listener, Pod, Requester, SignedGrant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Channel, Endpoint};

pub(crate) const NODE: &str = "worker-1";
pub(crate) const HOST: &str = "worker-1.node.reverse.sternline.dev";
const TOKEN: &str = "the-token-of-the-node";

/// A gateway and its authority.
pub(crate) struct Gateway {
    pub(crate) authority: Arc<Authority>,
    pub(crate) files: Files,
    own: Pair,
    enrolment: SocketAddr,
    /// How often somebody came for a certificate.
    pub(crate) came: Arc<AtomicU32>,
    /// How often the token was shown.
    pub(crate) shown: Arc<AtomicU32>,
    serial: AtomicU8,
}

impl Gateway {
    /// One whose certificate for `host` its nodes trust.
    pub(crate) async fn start() -> Self {
        Self::serving(Arc::new(Authority::new()), None).await
    }

    /// One that nodes trust, with somebody else at its address.
    pub(crate) async fn impostor() -> Self {
        Self::serving(Arc::new(Authority::new()), Some(&Authority::new())).await
    }

    async fn serving(authority: Arc<Authority>, other: Option<&Authority>) -> Self {
        let own = authority.issue("127.0.0.1");
        let shows = other.map_or_else(
            || authority.issue("127.0.0.1"),
            |other| other.issue("127.0.0.1"),
        );
        let files = Files::new(&own);
        files.write("ca.crt", &authority.pem());
        files.write("token", &format!("{TOKEN}\n"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let gateway = Self {
            enrolment: listener.local_addr().expect("bound"),
            authority,
            files,
            own,
            came: Arc::default(),
            shown: Arc::default(),
            serial: AtomicU8::new(0),
        };
        let authority = Arc::clone(&gateway.authority);
        let (came, shown) = (Arc::clone(&gateway.came), Arc::clone(&gateway.shown));
        tokio::spawn(enrol(listener, shows, authority, came, shown));
        gateway
    }

    /// The flags of a node of this cluster.
    pub(crate) fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.files.path(name).display().to_string();
        [
            ["--cluster-address", "127.0.0.1:0"].map(str::to_owned),
            [
                "--gateway".to_owned(),
                format!("https://{}", self.enrolment),
            ],
            ["--gateway-token".to_owned(), path("token")],
            ["--authority-bundle".to_owned(), path("ca.crt")],
            ["--node-name", NODE].map(str::to_owned),
        ]
        .concat()
    }

    /// A connection to a node's port, if it lets this one in.
    pub(crate) async fn connect(
        &self,
        port: SocketAddr,
        identity: Option<&Pair>,
        alpn: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut config: ClientConfig = self.authority.client(identity);
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let io = TcpStream::connect(port).await?;
        let name = ServerName::try_from(HOST).expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        within("the handshake", connector.connect(name, io)).await
    }

    /// Whether a node does not let this one in.
    pub(crate) async fn is_refused(
        &self,
        port: SocketAddr,
        identity: Option<&Pair>,
        alpn: &str,
    ) -> bool {
        match self.connect(port, identity, alpn).await {
            Err(_) => true,
            // A client that is refused learns it when it reads.
            Ok(mut io) => within("a word of the node", io.read_u8()).await.is_err(),
        }
    }

    /// As the gateway itself, to stream.
    pub(crate) async fn stream(&self, port: SocketAddr) -> Stream {
        let io = self.connect(port, Some(&self.own), "http/1.1").await;
        Box::new(io.expect("let in"))
    }

    /// As the gateway itself, to make calls.
    pub(crate) async fn call(&self, port: SocketAddr) -> Channel {
        let io = self.connect(port, Some(&self.own), "h2").await;
        let mut io = Some(TokioIo::new(io.expect("let in")));
        let connector = tower::service_fn(move |_| {
            let io = io.take().ok_or_else(|| io::Error::other("one connection"));
            async move { io }
        });
        let node = Endpoint::from_static("http://node");
        within(
            "the call's connection",
            node.connect_with_connector(connector),
        )
        .await
        .expect("served")
    }

    /// A grant for port 0 of loopback, of now.
    pub(crate) fn grant(&self, pod: &Pod, user: &str) -> Grant {
        let ms = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).expect("later");
            u64::try_from(since.as_millis()).expect("fits")
        };
        let now = SystemTime::now();
        Grant {
            id: vec![self.serial.fetch_add(1, Ordering::Relaxed); ID_LENGTH],
            node: NODE.to_owned(),
            pod: Some(pod.clone()),
            requester: Some(requester(user)),
            listeners: vec![super::free()],
            wide: false,
            max_hold_ms: 60_000,
            issued_at_ms: ms(now),
            expires_at_ms: ms(now + Duration::from_secs(3600)),
        }
    }

    /// Signs a grant.
    pub(crate) fn sign(&self, grant: &Grant) -> Vec<u8> {
        let key = PrivateKeyDer::from_pem_slice(self.own.key.as_bytes()).expect("a key");
        let key = aws_lc_rs::sign::any_supported_type(&key).expect("usable");
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
        let grant = grant.encode_to_vec();
        let signature = signer.expect("P-256").sign(&signed_bytes(&grant));
        let cert = CertificateDer::from_pem_slice(self.own.cert.as_bytes()).expect("one");
        let signed = SignedGrant {
            signature: signature.expect("signed"),
            grant,
            chain: vec![cert.to_vec()],
        };
        signed.encode_to_vec()
    }
}

pub(crate) fn requester(user: &str) -> Requester {
    Requester {
        user: user.to_owned(),
        ..Requester::default()
    }
}

pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
    }
}

/// Listeners as a grant has them.
pub(crate) fn listeners(grant: &Grant) -> Vec<Listener> {
    grant.listeners.clone()
}

/// Gives certificates to who shows the token.
async fn enrol(
    listener: TcpListener,
    shows: Pair,
    authority: Arc<Authority>,
    came: Arc<AtomicU32>,
    shown: Arc<AtomicU32>,
) {
    let cert = CertificateDer::from_pem_slice(shows.cert.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(shows.key.as_bytes()).expect("PEM");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((io, _)) = listener.accept().await {
        came.fetch_add(1, Ordering::Relaxed);
        let Ok(mut io) = acceptor.accept(io).await else {
            continue;
        };
        let mut text = String::new();
        while !text.contains("END CERTIFICATE REQUEST-----") {
            let mut more = [0; 4096];
            match io.read(&mut more).await {
                Ok(read) if read > 0 => text += std::str::from_utf8(&more[..read]).expect("text"),
                _ => break,
            }
        }
        let head = text.to_ascii_lowercase();
        let good = head.starts_with("post /v1alpha1/node-certificate http/1.1\r\n")
            && head.contains(&format!("authorization: bearer {TOKEN}\r\n"));
        if good {
            shown.fetch_add(1, Ordering::Relaxed);
        }
        let (status, body) = match text.split_once("\r\n\r\n") {
            Some((_, request)) if good => {
                let certificate = authority.answer(request, HOST);
                ("200 OK", serde_json::json!({ "certificate": certificate }))
            }
            _ => (
                "401 Unauthorized",
                serde_json::json!({ "message": "who are you?" }),
            ),
        };
        let body = body.to_string();
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
        let _ = io.write_all(answer.as_bytes()).await;
        let _ = io.shutdown().await;
    }
}
