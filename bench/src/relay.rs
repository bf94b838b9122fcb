//! A plain TLS relay, the reference of the table: two hops, one TLS 1.3
//! connection for each that it carries, nothing shared. Not a reverse tunnel:
//! the node dials the workstation.

use crate::target::listen_on;
use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Bound on connect and handshake.
const STEP: Duration = Duration::from_secs(10);

/// Which hop this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hop {
    /// Takes plain connections, passes them on in TLS.
    Node,
    /// Takes TLS, passes it on in plain.
    Work,
}

/// `sternline-bench relay`.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// Which hop.
    #[arg(long)]
    hop: Hop,
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where to pass connections on to.
    #[arg(long)]
    to: SocketAddr,
    /// The certificate, as PEM: presented by one hop, trusted by the other.
    #[arg(long)]
    certificate: PathBuf,
    /// Its key, for the hop that takes TLS.
    #[arg(long)]
    key: Option<PathBuf>,
}

/// What stands at the TLS end.
enum Tls {
    Connect(TlsConnector, ServerName<'static>),
    Accept(TlsAcceptor),
}

/// The default suites with the quickest of the exchanges: the reference shall
/// not be slowed down by a new handshake for each connection.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(path)
        .with_context(|| format!("no certificate in {}", path.display()))
}

/// A client that trusts one certificate alone.
///
/// # Errors
/// The file holds none.
pub(crate) fn client_config(trusted: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(trusted)?)?;
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

impl Relay {
    fn tls(&self) -> Result<Tls> {
        match self.hop {
            Hop::Node => {
                let config = client_config(&self.certificate)?;
                let name = ServerName::IpAddress(IpAddr::from(self.to.ip()));
                Ok(Tls::Connect(Arc::new(config).into(), name))
            }
            Hop::Work => {
                let Some(path) = &self.key else {
                    bail!("--hop work needs --key");
                };
                let key = PrivateKeyDer::from_pem_file(path)
                    .with_context(|| format!("no key in {}", path.display()))?;
                let config = ServerConfig::builder_with_provider(provider())
                    .with_protocol_versions(&[&TLS13])?
                    .with_no_client_auth()
                    .with_single_cert(vec![certificate(&self.certificate)?], key)?;
                Ok(Tls::Accept(Arc::new(config).into()))
            }
        }
    }

    /// Serves until it is killed.
    ///
    /// # Errors
    /// An address is taken, or a file is none.
    pub(crate) async fn serve(&self) -> Result<()> {
        let tls = Arc::new(self.tls()?);
        let listener = listen_on(self.listen)?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let (tls, to) = (Arc::clone(&tls), self.to);
            // What one connection meets is reported by the generator.
            tokio::spawn(async move { pass(stream, to, &tls).await.ok() });
        }
    }
}

async fn pass(mut from: TcpStream, to: SocketAddr, tls: &Tls) -> Result<()> {
    from.set_nodelay(true)?;
    let mut onward = timeout(STEP, TcpStream::connect(to)).await??;
    onward.set_nodelay(true)?;
    match tls {
        Tls::Connect(connector, name) => {
            let handshake = connector.connect(name.clone(), onward);
            let mut onward = timeout(STEP, handshake).await??;
            copy_bidirectional(&mut from, &mut onward).await?;
        }
        Tls::Accept(acceptor) => {
            let mut from = timeout(STEP, acceptor.accept(from)).await??;
            copy_bidirectional(&mut from, &mut onward).await?;
        }
    }
    Ok(())
}
