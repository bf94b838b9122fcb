//! The certificate that the node shows to gateways, and how a handshake is made
//! with it.

use super::Bundle;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use sternline_api::protocol::NODE_ZONE;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What is spoken behind the handshake: the call, and streaming.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The node's certificate of the moment.
pub struct Identity {
    node: String,
    bundle: Arc<Bundle>,
    provider: Arc<CryptoProvider>,
    current: RwLock<Option<Current>>,
}

struct Current {
    key: Arc<CertifiedKey>,
}

/// Shows one certificate, whatever is asked for.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl Identity {
    /// Of a node that has no certificate yet.
    #[must_use]
    pub fn new(node: &str, bundle: Arc<Bundle>) -> Self {
        Self {
            node: node.to_owned(),
            bundle,
            provider: Arc::new(aws_lc_rs::default_provider()),
            current: RwLock::default(),
        }
    }

    /// The name in the node's certificate.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.{NODE_ZONE}", self.node)
    }

    /// Takes up a certificate, the node's own first, and returns when it ends.
    ///
    /// # Errors
    /// It is not the key's, for another node, of nobody who is trusted here, or over.
    pub fn take_up(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: SystemTime,
    ) -> Result<SystemTime, String> {
        let leaf = chain.first().ok_or("there is no certificate")?.clone();
        let until = until(&leaf).ok_or("it cannot be read")?;
        if until <= now {
            return Err(
                "it is over already: see the clocks of the gateway and of this node".to_owned(),
            );
        }
        let parsed = ParsedCertificate::try_from(&leaf).map_err(|error| error.to_string())?;
        let host = ServerName::try_from(self.host()).map_err(|error| error.to_string())?;
        rustls::client::verify_server_name(&parsed, &host)
            .map_err(|_| format!("it is not for {}", self.host()))?;
        self.vouched_for(&chain, now)?;
        let key = CertifiedKey::from_der(chain, key, &self.provider);
        let key = Arc::new(key.map_err(|error| error.to_string())?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Current { key });
        Ok(until)
    }

    /// Whether the cluster's authority of now stands for a chain.
    fn vouched_for(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
        let (leaf, rest) = chain.split_first().ok_or("there is no certificate")?;
        let leaf = ParsedCertificate::try_from(leaf).map_err(|error| error.to_string())?;
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &*self.bundle.roots()?,
            rest,
            UnixTime::since_unix_epoch(since),
            self.provider.signature_verification_algorithms.all,
        )
        .map_err(|error| format!("this cluster's authority does not stand for it: {error}"))
    }

    /// What a handshake that begins now is made with: gateways alone are let in.
    ///
    /// # Errors
    /// There is no certificate, or nobody to trust.
    pub fn handshake(&self) -> Result<Arc<ServerConfig>, String> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let current = current.as_ref().ok_or("the node has no certificate yet")?;
        let clients = verifier(self.bundle.roots()?, &self.provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| error.to_string())?;
        let mut config = builder
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(Only(Arc::clone(&current.key))));
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        // Every connection meets the certificates of today.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Why no gateway can come in at `now`, if so.
    #[must_use]
    pub fn trouble(&self, now: SystemTime) -> Option<String> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let what = match current.as_ref() {
            None => "the node has no certificate of the cluster yet".to_owned(),
            Some(current) => {
                let refused = self.vouched_for(&current.key.cert, now).err()?;
                format!("no gateway trusts the node's certificate any more ({refused})")
            }
        };
        Some(format!(
            "{what}: see the log of serve, and whether a gateway runs"
        ))
    }
}

/// The key stays out of logs.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

fn verifier(
    roots: Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
        .build()
        .map_err(|error| error.to_string())
}

fn until(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Directory};
    use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    use rustls::pki_types::pem::PemObject as _;

    const HOST: &str = "worker-1.node.reverse.sternline.dev";

    fn take_up(
        identity: &Identity,
        authority: &Authority,
        host: &str,
        year: i32,
    ) -> Result<SystemTime, String> {
        let pair = authority.issue_for(&[ServerAuth], host, year);
        let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).expect("one");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
        identity.take_up(vec![cert], key, SystemTime::now())
    }

    #[test]
    fn a_certificate_is_taken_up_that_is_of_use() {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let path = dir.file("ca.crt", authority.pem().as_bytes());
        let identity = Identity::new("worker-1", Arc::new(Bundle::always(path)));
        assert!(
            identity
                .trouble(SystemTime::now())
                .expect("none")
                .contains("no certificate")
        );
        identity.handshake().expect_err("nothing to show");
        let stranger = Authority::new("cluster");
        for (authority, host, year, what) in [
            (
                &authority,
                "worker-2.node.reverse.sternline.dev",
                4000,
                "not for",
            ),
            (&authority, HOST, 2001, "over"),
            (&stranger, HOST, 4000, "does not stand"),
        ] {
            let refused = take_up(&identity, authority, host, year).expect_err(what);
            assert!(refused.contains(what), "{refused}");
        }
        take_up(&identity, &authority, HOST, 4000).expect("taken up");
        assert_eq!(identity.trouble(SystemTime::now()), None);
        identity.handshake().expect("something to show");
    }

    #[test]
    fn another_authority_is_noticed() {
        let (dir, authority) = (Directory::new(), Authority::new("cluster"));
        let path = dir.file("ca.crt", authority.pem().as_bytes());
        let identity = Identity::new("worker-1", Arc::new(Bundle::always(path)));
        take_up(&identity, &authority, HOST, 4000).expect("taken up");
        dir.file("ca.crt", Authority::new("cluster").pem().as_bytes());
        let trouble = identity.trouble(SystemTime::now()).expect("some");
        assert!(trouble.contains("does not stand"), "{trouble}");
    }
}
