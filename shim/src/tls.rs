//! TLS of the streaming endpoint: the certificate in use, and its renewal.
//!
//! Handshakes take the settings of the moment. Connections that are up keep
//! theirs, so new files change nothing for them. Files that cannot be used change
//! nothing at all but what [`Tls::trouble`] says.

mod files;
mod reload;
#[cfg(test)]
pub(crate) mod testing;
mod validity;

pub use files::TlsError;

use crate::config::{Host, TlsFiles};
use crate::metrics;
use files::{Contents, Loaded};
use rustls::client::verify_server_name;
use rustls::server::{ParsedCertificate, ServerConfig};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

/// The word of a certificate whose time is over.
const EXPIRED: &str = "certificate_expired";

/// The word of new files that cannot be used.
const NOT_LOADED: &str = "certificate_not_loaded";

/// What the streaming endpoint is encrypted with.
pub struct Tls {
    files: TlsFiles,
    host: Host,
    handshake_timeout: Duration,
    current: RwLock<Current>,
    /// Why the files that are there now are not in use.
    refused: Mutex<Option<String>>,
}

/// What new connections are let in with.
struct Current {
    config: Arc<ServerConfig>,
    not_after: SystemTime,
    contents: Contents,
}

/// What is wrong with the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One word for programs.
    pub word: &'static str,
    /// One sentence for people.
    pub sentence: String,
    /// Whether no client can come in any more.
    pub shut: bool,
}

impl Tls {
    /// Reads the files. `host` stands in the URLs that clients check the
    /// certificate against; a handshake may take `handshake_timeout`.
    ///
    /// A certificate that has expired is served all the same: what replaces it is
    /// taken up without a restart.
    ///
    /// # Errors
    /// A file is missing, readable by everybody, damaged, or of another pair.
    pub fn load(
        files: TlsFiles,
        host: Host,
        handshake_timeout: Duration,
    ) -> Result<Arc<Self>, TlsError> {
        let contents = Contents::read(&files)?;
        let loaded = contents.load(&files)?;
        let tls = Self {
            current: RwLock::new(Current::new(contents, &loaded)),
            files,
            host,
            handshake_timeout,
            refused: Mutex::default(),
        };
        tls.took_up(&loaded);
        metrics::certificate_expires(loaded.not_after);
        Ok(Arc::new(tls))
    }

    /// What a handshake that begins now is made with.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().config)
    }

    /// How long a handshake may take.
    #[must_use]
    pub fn handshake_timeout(&self) -> Duration {
        self.handshake_timeout
    }

    /// What is wrong at `now`, the worst first.
    #[must_use]
    pub fn trouble(&self, now: SystemTime) -> Option<Trouble> {
        let not_after = self.current().not_after;
        if not_after < now {
            return Some(Trouble {
                word: EXPIRED,
                sentence: format!(
                    "the certificate in {} expired on {}: no client trusts it, so put a new one there",
                    self.files.cert.display(),
                    validity::date(not_after)
                ),
                shut: true,
            });
        }
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.as_ref().map(|sentence| Trouble {
            word: NOT_LOADED,
            sentence: sentence.clone(),
            shut: false,
        })
    }

    fn current(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn took_up(&self, loaded: &Loaded) {
        let until = validity::date(loaded.not_after);
        tracing::info!(
            file = %self.files.cert.display(),
            %until,
            clients = if self.files.client_ca.is_some() { "with a certificate" } else { "with a token" },
            "streaming over TLS"
        );
        let fits = ParsedCertificate::try_from(&loaded.leaf)
            .and_then(|certificate| verify_server_name(&certificate, self.host.name()));
        if fits.is_err() {
            tracing::warn!(
                file = %self.files.cert.display(),
                host = %self.host,
                "the certificate is not for the host in streaming URLs, so clients will refuse it: give --streaming-host, or a certificate with that name"
            );
        }
        if loaded.not_after < SystemTime::now() {
            tracing::warn!(
                file = %self.files.cert.display(),
                %until,
                "the certificate has expired, so clients will refuse it: put a new one there"
            );
        }
    }
}

impl Current {
    fn new(contents: Contents, loaded: &Loaded) -> Self {
        Self {
            config: Arc::clone(&loaded.config),
            not_after: loaded.not_after,
            contents,
        }
    }
}

/// Without the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
