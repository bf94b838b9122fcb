//! TLS to an API server, as its kubeconfig says.

use super::kubeconfig::{ApiServer, Identity, ServerTrust};
use crate::fault::Fault;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The only protocol inside: an Upgrade is HTTP/1.1.
const ALPN: &[u8] = b"http/1.1";

/// What a handshake needs, for one certificate of ours.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads what the kubeconfig gave.
    ///
    /// # Errors
    /// A usage error: what it gave is no certificate, or the key is another's.
    pub(super) async fn new(
        server: &ApiServer,
        trust: &ServerTrust,
        identity: Option<&Identity>,
    ) -> Result<Self, Fault> {
        let name = trust.name.as_deref().unwrap_or(&server.host);
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            Fault::usage(format!(
                "kubeconfig: the cluster's name {name:?} is neither a DNS name nor an IP address"
            ))
        })?;
        let wrong = |error: rustls::Error| {
            Fault::usage(format!("kubeconfig: TLS cannot be set up: {error}"))
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let builder = if trust.insecure {
            let anyone = Anyone { provider };
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(anyone))
        } else {
            let roots = match &trust.ca {
                Some(pem) => roots(pem)?,
                None => system_roots().await.map_err(|error| {
                    Fault::no_server(format!(
                        "{error}: name one with certificate-authority in the kubeconfig"
                    ))
                })?,
            };
            builder.with_root_certificates(roots)
        };
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = pair(identity)?;
                builder.with_client_auth_cert(chain, key).map_err(wrong)?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Each connection checks the certificates of both sides anew.
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// Makes a connection an encrypted one.
    pub(super) async fn encrypt<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(self.name.clone(), io).await
    }
}

/// Makes a connection to a proxy an encrypted one; the system's CAs vouch for it.
pub(super) async fn to_proxy<IO>(io: IO, host: &str) -> io::Result<TlsStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(system_roots().await?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    TlsConnector::from(Arc::new(config)).connect(name, io).await
}

/// Why a handshake failed, for a user.
pub(super) fn explain(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            CertificateError::UnknownIssuer => {
                "its certificate is of a CA that the kubeconfig does not trust".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name: tls-server-name in the kubeconfig says which"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            other => format!("its certificate cannot be trusted: {other:?}"),
        },
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS".to_owned(),
        Some(other) => other.to_string(),
        None => crate::cause(error),
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    let wrong = |what: &str| Fault::usage(format!("kubeconfig: certificate-authority: {what}"));
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| wrong("it is no PEM"))?;
        roots
            .add(certificate)
            .map_err(|_| wrong("it has a certificate that cannot be a CA"))?;
    }
    match roots.is_empty() {
        true => Err(wrong("it has no certificate in PEM (BEGIN CERTIFICATE)")),
        false => Ok(roots),
    }
}

fn pair(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Fault> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&identity.certificate).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| {
        Fault::usage("kubeconfig: client-certificate has no certificate in PEM (BEGIN CERTIFICATE)")
    })?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(|_| {
        Fault::usage("kubeconfig: client-key has no private key in PEM that is not encrypted")
    })?;
    Ok((chain, key))
}

/// The CAs that this system trusts.
async fn system_roots() -> io::Result<RootCertStore> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?;
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    match taken {
        0 => Err(io::Error::other("this system has no CA certificates")),
        _ => Ok(roots),
    }
}

/// Takes whoever answers for the API server: `insecure-skip-tls-verify`. That it
/// has the key of the certificate it shows is checked still.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
