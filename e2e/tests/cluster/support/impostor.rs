//! Somebody in the network of a node who answers in place of its shim.

use super::inside::Inmate;
use super::tls::Identity;
use crate::shared::system::{inside, program, run};
use anyhow::{Context as _, Result};
use rustls::version::TLS13;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use std::net::{Ipv4Addr, TcpListener as Listener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Where shims listen for gateways.
const SHIM: u16 = 10251;

/// Where the impostor listens.
const OWN: u16 = 20251;

/// Gets every connection that is made to the shim from now on, until it is dropped.
pub(crate) struct Impostor {
    network: PathBuf,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    serving: JoinHandle<()>,
}

impl Impostor {
    /// In the network of a process, with a certificate to show.
    ///
    /// # Errors
    /// It cannot listen there, or nftables refuses.
    pub(crate) fn start(shim: &Inmate, identity: &Identity) -> Result<Self> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(identity.chain()?, identity.key()?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let network = shim.proc("ns/net");
        let listener = inside(&network, || {
            let listener = Listener::bind((Ipv4Addr::UNSPECIFIED, OWN))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let heard = Arc::default();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::from_std(listener)?;
        let serving = tokio::spawn(serve(listener, acceptor, Arc::clone(&heard)));
        let this = Self {
            network,
            heard,
            serving,
        };
        this.nft("add table ip intruder")?;
        this.nft("add chain ip intruder taken { type nat hook prerouting priority dstnat ; }")?;
        this.nft(&format!(
            "add rule ip intruder taken tcp dport {SHIM} redirect to :{OWN}"
        ))?;
        Ok(this)
    }

    /// What was said to it so far, a part for each that connected: what came before
    /// anything was answered.
    pub(crate) fn heard(&self) -> Vec<Vec<u8>> {
        let heard = self.heard.lock();
        heard.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn nft(&self, words: &str) -> Result<()> {
        let words = words.to_owned();
        inside(&self.network, move || {
            run(Command::new(program("nft")?).args(words.split(' ')))
        })
        .context("nftables")
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.serving.abort();
        // The shim may be gone, and its network with it.
        let _ = self.nft("delete table ip intruder");
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, heard: Arc<Mutex<Vec<Vec<u8>>>>) {
    while let Ok((io, _)) = listener.accept().await {
        let mut words = Vec::new();
        if let Ok(mut io) = acceptor.accept(io).await {
            let _ = io.read_buf(&mut words).await;
        }
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.push(words);
    }
}
