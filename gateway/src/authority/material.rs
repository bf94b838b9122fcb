//! What a gateway has of the authority at a time, ready for use.

use super::{AuthorityError, Identity, Keyring, Lifetimes, Profile};
use rcgen::{KeyPair, SigningKey as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// The authority and this gateway's own certificate of it.
pub struct Material {
    /// The roots, with their keys.
    pub ring: Arc<Keyring>,
    identity: Identity,
    signer: KeyPair,
    /// The root that signed the identity.
    root: String,
    chain: Vec<CertificateDer<'static>>,
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
}

/// Keys stay out of logs.
impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("ring", &self.ring)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Material {
    /// Makes a key and has it signed.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn issue(
        ring: Arc<Keyring>,
        names: &[String],
        now: SystemTime,
        lifetimes: &Lifetimes,
    ) -> Result<Self, AuthorityError> {
        let profile = Profile::Gateway(names.to_vec());
        let identity = ring.identity(&profile, now, lifetimes)?;
        Self::of(ring, identity)
    }

    /// The same identity beside other roots.
    ///
    /// # Errors
    /// As [`Material::issue`].
    pub fn beside(&self, ring: Arc<Keyring>) -> Result<Self, AuthorityError> {
        let identity = Identity {
            issued: self.identity.issued.clone(),
            key: self.identity.key.clone(),
        };
        let root = self.root.clone();
        Ok(Self {
            root,
            ..Self::of(ring, identity)?
        })
    }

    fn of(ring: Arc<Keyring>, identity: Identity) -> Result<Self, AuthorityError> {
        let failed = |what: &dyn fmt::Display| AuthorityError::Crypto(what.to_string());
        let chain = CertificateDer::pem_slice_iter(identity.issued.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| failed(&error))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes());
        let key = key.map_err(|error| failed(&error))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain.clone(), key, &provider);
        let certified = certified.map_err(|error| failed(&error))?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(ring.bundle().as_bytes()) {
            let root = root.map_err(|error| failed(&error))?;
            roots.add(root).map_err(|error| failed(&error))?;
        }
        Ok(Self {
            signer: KeyPair::from_pem(&identity.key)?,
            root: ring.root().to_owned(),
            chain,
            certified: Arc::new(certified),
            roots: Arc::new(roots),
            ring,
            identity,
        })
    }

    /// Whether another certificate is due: two thirds of its life are over, or the
    /// root that signed it is trusted no more.
    #[must_use]
    pub fn is_due(&self, ring: &Keyring, now: SystemTime) -> bool {
        now >= self.identity.issued.renewal || !ring.bundle().contains(&self.root)
    }

    /// What is shown to the API server and to nodes.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The certificate in DER, this gateway's own first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// When the certificate ends.
    #[must_use]
    pub fn until(&self) -> SystemTime {
        self.identity.issued.until
    }

    /// Signs with the key of the certificate: ECDSA on P-256 with SHA-256, in ASN.1.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        Ok(self.signer.sign(bytes)?)
    }

    /// Settings of a client of nodes that speaks this protocol.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn client(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, AuthorityError> {
        let failed = |error: rustls::Error| AuthorityError::Crypto(error.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let resolver = rustls::sign::SingleCertAndKey::from(Arc::clone(&self.certified));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(failed)?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![alpn.to_vec()];
        // A node that was replaced has a certificate of its own to show.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIFETIMES: Lifetimes = Lifetimes {
        root: Duration::from_secs(3000),
        overlap: Duration::from_secs(1000),
        leaf: Duration::from_secs(300),
    };

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
    }

    fn issue(ring: &Arc<Keyring>) -> Material {
        let names = ["g.n.svc".to_owned()];
        Material::issue(Arc::clone(ring), &names, now(), &LIFETIMES).expect("issued")
    }

    fn ring() -> Arc<Keyring> {
        Arc::new(Keyring::generate(now(), &LIFETIMES).expect("a root"))
    }

    #[test]
    fn another_certificate_is_due_when_most_of_its_life_is_over() {
        let ring = ring();
        let material = issue(&ring);
        let second = Duration::from_secs(1);
        assert!(!material.is_due(&ring, now() + second * 199));
        assert!(material.is_due(&ring, now() + second * 200));
    }

    #[test]
    fn another_certificate_is_due_when_nobody_trusts_its_root() {
        let first = ring();
        let material = issue(&first);
        let announced = first.advanced(now() + Duration::from_secs(1000), &LIFETIMES);
        let announced = Arc::new(announced.expect("random").expect("announced"));
        let beside = material.beside(Arc::clone(&announced)).expect("the same");
        assert_eq!(beside.chain(), material.chain());
        assert!(!beside.is_due(&announced, now()), "trusted still");
        assert!(beside.is_due(&ring(), now()), "the Secret was emptied");
    }

    #[test]
    fn it_signs_with_the_key_that_its_certificate_has() {
        use rustls::crypto::WebPkiSupportedAlgorithms;
        use rustls::pki_types::CertificateDer;
        let material = issue(&ring());
        let signature = material.sign(b"these bytes").expect("signed");
        let leaf: &CertificateDer<'_> = &material.chain()[0];
        let all: WebPkiSupportedAlgorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let scheme = rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
        let algorithm = all.mapping.iter().find(|(one, _)| *one == scheme);
        let algorithm = algorithm.expect("known").1[0];
        use x509_parser::prelude::{FromDer as _, X509Certificate};
        let (_, parsed) = X509Certificate::from_der(leaf).expect("DER");
        let key = &parsed.public_key().subject_public_key.data;
        let checked = |bytes: &[u8]| algorithm.verify_signature(key, bytes, &signature);
        checked(b"these bytes").expect("ours");
        checked(b"other bytes").expect_err("not these");
    }
}
