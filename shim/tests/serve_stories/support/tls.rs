//! Certificates of a test's own making, and clients that use them.

use super::{Stream, within};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A CA.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // Verifiers look a CA up by its name.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("CA {number}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    pub(crate) fn issue(&self, name: &str) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("signed");
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// The certificate of a node, which is nobody's client.
    pub(crate) fn node(&self, name: &str) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("signed");
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Answers a certificate request (PKCS#10) of a node.
    pub(crate) fn answer(&self, request: &str, name: &str) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).expect("a request");
        request.params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        request.signed_by(&self.0).expect("signed").pem()
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client that trusts this CA alone, with a certificate or without.
    pub(crate) fn client(&self, identity: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a CA");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
                builder
                    .with_client_auth_cert(vec![cert], key)
                    .expect("a pair")
            }
        }
    }
}

/// The files of an endpoint.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new(pair: &Pair) -> Self {
        let files = Self(tempfile::tempdir().expect("a directory"));
        files.put(pair);
        files
    }

    /// Writes a pair over the one that is there.
    pub(crate) fn put(&self, pair: &Pair) {
        self.write("tls.crt", &pair.cert);
        self.write("tls.key", &pair.key);
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("chmod");
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The flags of an endpoint on loopback that uses them.
    pub(crate) fn flags(&self) -> Vec<String> {
        let flag = |flag: &str, path: &Path| [flag.to_owned(), path.display().to_string()];
        [
            flag("--streaming-tls-cert", &self.path("tls.crt")),
            flag("--streaming-tls-key", &self.path("tls.key")),
            ["--streaming-tls-reload-interval".into(), "50ms".into()],
        ]
        .concat()
    }
}

/// A TLS connection to `address`, which must prove to be 127.0.0.1.
pub(crate) async fn connect(
    address: &str,
    config: ClientConfig,
) -> io::Result<TlsStream<TcpStream>> {
    let io = TcpStream::connect(address).await?;
    io.set_nodelay(true)?;
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let connector = TlsConnector::from(Arc::new(config));
    within("the TLS handshake", connector.connect(name, io)).await
}

/// The same, for whoever does not care what carries the bytes.
pub(crate) async fn stream(address: &str, config: ClientConfig) -> Stream {
    Box::new(connect(address, config).await.expect("TLS"))
}
