//! A TLS endpoint before a made-up server, with certificates of a test's own.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

/// A CA.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One of this name, which must be its own: verifiers go by it.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Writes its own certificate.
    pub fn write(&self, path: &Path) -> String {
        std::fs::write(path, self.0.pem()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn issue(&self, host: &str, year: i32) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// Writes a certificate and its key.
    pub fn issue_to(&self, dir: &Path) -> (String, String) {
        let (cert, key) = self.issue("client", 4000);
        let (to_cert, to_key) = (dir.join("client.crt"), dir.join("client.key"));
        std::fs::write(&to_cert, cert.pem()).unwrap();
        std::fs::write(&to_key, key.serialize_pem()).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        (text(to_cert), text(to_key))
    }

    /// What a server with a certificate for `host`, valid until `year`, speaks
    /// TLS with; it wants certificates of `clients`, if there are such.
    pub fn server(&self, host: &str, year: i32, clients: Option<&Self>) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let (cert, key) = self.issue(host, year);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}

/// Takes TLS off and leads what is inside to a Unix socket.
pub struct Front {
    listener: TcpListener,
    pub port: u16,
}

impl Front {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    /// A session's URL that leads here.
    pub fn url(&self, host: &str) -> String {
        format!(
            "https://{host}:{}/v1alpha1/sessions/TOKEN-SECRET",
            self.port
        )
    }

    pub fn serve(self, config: ServerConfig, behind: PathBuf) {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (io, _) = self.listener.accept().await.unwrap();
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    let mut io = match acceptor.accept(io).into_fallible().await {
                        Ok(io) => io,
                        Err((_, mut io)) => {
                            // A close with bytes unread would take the alert along.
                            let _ = tokio::io::AsyncWriteExt::shutdown(&mut io).await;
                            let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
                            return;
                        }
                    };
                    let mut to = UnixStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut io, &mut to).await;
                });
            }
        });
    }

    /// Says this to whoever comes, and closes; nothing at all if it is `None`.
    pub fn say(self, what: Option<&'static [u8]>) {
        tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (mut io, _) = self.listener.accept().await.unwrap();
                match what {
                    None => silent.push(io),
                    Some(what) => {
                        // Read what came, so that the close is no reset.
                        let mut hello = [0; 4096];
                        let _ = tokio::io::AsyncReadExt::read(&mut io, &mut hello).await;
                        let _ = tokio::io::AsyncWriteExt::write_all(&mut io, what).await;
                    }
                }
            }
        });
    }
}
