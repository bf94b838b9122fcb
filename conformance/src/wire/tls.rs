//! TLS to a streaming endpoint that others than its own machine can reach (§3.6).

use crate::verdict::{Step, Verdict};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// The one protocol above TLS.
pub(crate) const ALPN: &[u8] = b"http/1.1";

/// What the suite goes by where a URL is `https`.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// PEM file of the CAs that vouch for the node; none: no such URL can be opened.
    pub ca: Option<PathBuf>,
    /// PEM files of the suite's own certificate and its key, for a node that asks.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Whom to trust, ready to be used.
#[derive(Clone, Debug)]
pub(crate) struct Trust(Option<Arc<ClientConfig>>);

impl Trust {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be used; names it.
    pub(crate) fn load(settings: &TlsSettings) -> Result<Self, String> {
        let Some(ca) = &settings.ca else {
            return Ok(Self(None));
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(unusable(ca))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable(ca))?
            .with_root_certificates(roots);
        let mut config = match &settings.client {
            None => config.with_no_client_auth(),
            Some((file, key)) => {
                let secret = PrivateKeyDer::from_pem_file(key).map_err(unusable(key))?;
                config
                    .with_client_auth_cert(certificates(file)?, secret)
                    .map_err(unusable(file))?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self(Some(Arc::new(config))))
    }

    /// Fails where an `https` URL cannot be opened.
    pub(crate) fn suffices(&self, url: &str) -> Step {
        match &self.0 {
            Some(_) => Ok(()),
            None => Err(Verdict::Environment(format!(
                "the call answers {}://...: --tls-ca has to name the CA of that endpoint",
                url.split(':').next().unwrap_or("https")
            ))),
        }
    }

    /// Opens TLS to `host`, which is `NAME:PORT`, and verifies that it is the one.
    pub(crate) async fn open(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        match &self.0 {
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                connector.connect(name, stream).await
            }
            None => Err(io::Error::other("no CA was named")),
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if found.is_empty() => Err(format!("{} has no certificate", file.display())),
        found => found.map_err(unusable(file)),
    }
}

fn unusable<E: std::fmt::Display>(file: &Path) -> impl Fn(E) -> String + '_ {
    move |error| format!("{} cannot be used: {error}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let settings = TlsSettings {
            ca: Some("/nowhere/ca.pem".into()),
            client: None,
        };
        let error = Trust::load(&settings).expect_err("no such file");
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn without_a_ca_the_flag_is_named() {
        let trust = Trust::load(&TlsSettings::default()).expect("nothing to read");
        let verdict = trust.suffices("https://a:1/b").expect_err("no CA");
        let Verdict::Environment(why) = verdict else {
            panic!("no fault of the implementation");
        };
        assert!(why.contains("--tls-ca"), "{why}");
    }
}
