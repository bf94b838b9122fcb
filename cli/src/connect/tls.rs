//! TLS to a streaming endpoint: the newest version only, and never without
//! knowing who is at the other end.

mod fault;
mod files;

pub(super) use fault::refused;

use super::url::Host;
use crate::args::TlsArgs;
use crate::fault::Fault;
use fault::{explain, no_system_roots};
use rustls::RootCertStore;
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use std::fmt;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The only protocol inside: the Upgrade.
const ALPN: &[u8] = b"http/1.1";

/// Whom to trust and who we are.
pub struct Trust {
    /// CAs of the user's choice; none for those of the system.
    roots: Option<RootCertStore>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    server_name: Option<ServerName<'static>>,
    /// Made at the first connection: the system's CAs take a while to read.
    config: OnceCell<Arc<ClientConfig>>,
}

impl Trust {
    /// Reads the files that the flags name.
    ///
    /// # Errors
    /// A usage error that names the flag and the file.
    pub fn load(args: &TlsArgs) -> Result<Self, Fault> {
        let server_name = args.tls_server_name.as_ref().map(|name| {
            ServerName::try_from(name.clone()).map_err(|_| {
                Fault::usage(format!(
                    "--tls-server-name {name:?} is neither a DNS name nor an IP address"
                ))
            })
        });
        let identity = match (&args.client_cert, &args.client_key) {
            (Some(cert), Some(key)) => Some(files::identity(cert, key)?),
            _ => None,
        };
        let trust = Self {
            roots: args.ca_file.as_deref().map(files::roots).transpose()?,
            identity,
            server_name: server_name.transpose()?,
            config: OnceCell::new(),
        };
        if let (Some(_), Some(cert)) = (&trust.identity, &args.client_cert) {
            // A pair that does not fit is found before anything is contacted.
            trust
                .configure(RootCertStore::empty())
                .map_err(|error| files::unfit_pair(cert, &error))?;
        }
        Ok(trust)
    }

    /// Makes the connection to `host` an encrypted one.
    pub(super) async fn encrypt(
        &self,
        io: TcpStream,
        host: &Host,
        port: u16,
    ) -> Result<TlsStream<TcpStream>, Fault> {
        let name = self.server_name.as_ref().unwrap_or(host.name()).clone();
        let config = self.config.get_or_try_init(|| self.with_roots()).await?;
        let connector = TlsConnector::from(Arc::clone(config));
        let endpoint = format!("{host}:{port}");
        let shaken = connector.connect(name.clone(), io).await;
        shaken.map_err(|error| explain(&endpoint, &name, self.roots.is_some(), &error))
    }

    async fn with_roots(&self) -> Result<Arc<ClientConfig>, Fault> {
        let roots = match &self.roots {
            Some(roots) => roots.clone(),
            None => system_roots().await?,
        };
        let config = self.configure(roots);
        config
            .map(Arc::new)
            .map_err(|error| Fault::usage(format!("TLS cannot be set up: {error}")))
    }

    fn configure(&self, roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // The node offers none; each connection checks its certificate anew.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// Without the key.
impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("own_roots", &self.roots.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// The CAs that this system trusts.
async fn system_roots() -> Result<RootCertStore, Fault> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let found = found.map_err(|_| no_system_roots())?;
    let mut roots = RootCertStore::empty();
    // Every system has some that a strict reader does not take.
    let (taken, left) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(taken, left, "read the system's CAs");
    if taken == 0 {
        return Err(no_system_roots());
    }
    Ok(roots)
}
