//! Somebody who connects over TLS, with whatever certificate a story gives.

use super::pki::Pair;
use anyhow::{Context as _, Result};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Bound on a whole visit.
const PATIENCE: Duration = Duration::from_secs(60);

/// Most that is read of an answer, in bytes.
const LONGEST: usize = 64 * 1024;

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Identity {
    /// What is in files.
    ///
    /// # Errors
    /// They are not there.
    pub(crate) fn of(pair: &Pair) -> Result<Self> {
        Ok(Self {
            certificate: fs::read_to_string(&pair.certificate)?,
            key: fs::read_to_string(&pair.key)?,
        })
    }

    /// The chain, the own certificate first.
    ///
    /// # Errors
    /// It is not PEM.
    pub(crate) fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        Ok(chain.collect::<Result<_, _>>()?)
    }

    /// The key.
    ///
    /// # Errors
    /// It is not PEM.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>> {
        Ok(PrivateKeyDer::from_pem_slice(self.key.as_bytes())?)
    }
}

/// Who connects.
#[derive(Clone)]
pub(crate) struct Visitor {
    roots: Arc<RootCertStore>,
    identity: Option<Identity>,
}

/// An answer in HTTP/1.1.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    /// All of it.
    pub(crate) text: String,
}

impl Answer {
    /// Its body, as JSON.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        let (_, body) = self.text.split_once("\r\n\r\n").context("no body")?;
        serde_json::from_str(body).with_context(|| self.text.clone())
    }
}

impl Visitor {
    /// Who trusts the servers of a bundle in PEM, and shows nothing.
    ///
    /// # Errors
    /// It has no certificate.
    pub(crate) fn trusting(bundle: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(root?)?;
        }
        anyhow::ensure!(!roots.is_empty(), "an empty bundle");
        Ok(Self {
            roots: Arc::new(roots),
            identity: None,
        })
    }

    /// The same, who shows a certificate.
    pub(crate) fn showing(&self, identity: &Identity) -> Self {
        Self {
            identity: Some(identity.clone()),
            ..self.clone()
        }
    }

    /// Says something to a server of this name and answers the first that it hears;
    /// nothing, if the other end closes without a word.
    ///
    /// # Errors
    /// Nobody listens there, or it is not who it should be.
    pub(crate) async fn say(
        &self,
        to: SocketAddr,
        name: &str,
        protocol: &str,
        words: &str,
    ) -> Result<Option<Vec<u8>>> {
        let said = timeout(PATIENCE, self.visit(to, name, protocol, words));
        let said = said.await.with_context(|| format!("{to} says nothing"))?;
        said.with_context(|| format!("{name} at {to}"))
    }

    async fn visit(
        &self,
        to: SocketAddr,
        name: &str,
        protocol: &str,
        words: &str,
    ) -> Result<Option<Vec<u8>>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match &self.identity {
            Some(one) => config.with_client_auth_cert(one.chain()?, one.key()?)?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(name.to_owned())?;
        let io = TcpStream::connect(to).await?;
        // Who is refused learns it when it reads: its own part of the handshake is over.
        let mut io = connector.connect(name, io).await?;
        if io.write_all(words.as_bytes()).await.is_err() {
            return Ok(None);
        }
        let mut heard = Vec::new();
        while heard.len() < LONGEST && !is_whole(&heard) {
            match io.read_buf(&mut heard).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        Ok((!heard.is_empty()).then_some(heard))
    }

    /// Asks in HTTP/1.1; see [`Visitor::say`].
    ///
    /// # Errors
    /// As [`Visitor::say`], or it is not HTTP.
    pub(crate) async fn ask(
        &self,
        to: SocketAddr,
        name: &str,
        request: &str,
    ) -> Result<Option<Answer>> {
        let Some(heard) = self.say(to, name, "http/1.1", request).await? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&heard).into_owned();
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.with_context(|| format!("no answer: {text:?}"))?;
        Ok(Some(Answer { code, text }))
    }
}

/// Whether an answer is there, as far as it is of interest. What is no HTTP is so at
/// once.
fn is_whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard);
    if heard.len() >= 5 && !text.starts_with("HTTP/") {
        return true;
    }
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}
