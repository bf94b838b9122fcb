//! The settings of the cluster's front proxy, kept up to date.

use crate::identity::{FrontProxy, Stranger, User};
use crate::kube::{self, Api, Ask};
use http::HeaderMap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};

/// The ConfigMap in which the API server says how it is known.
const SETTINGS: &str =
    "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// How often it is read.
const EVERY: Duration = Duration::from_secs(60);

/// After a failure it is tried again this soon.
const RETRY: Duration = Duration::from_secs(2);

/// How often strangers may have it read anew: any of them may be a front proxy that
/// has a new authority.
const FOR_STRANGERS: Duration = Duration::from_secs(5);

/// Tells who asks.
pub struct Door {
    api: Arc<dyn Api>,
    provider: Arc<CryptoProvider>,
    known: Mutex<Option<Arc<FrontProxy>>>,
    looked: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Door {
    /// Knows nobody before [`look`](Self::look).
    #[must_use]
    pub fn new(api: Arc<dyn Api>) -> Self {
        Self {
            api,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            known: Mutex::default(),
            looked: Mutex::default(),
        }
    }

    /// Whether the front proxy is known.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.proxy().is_some()
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// They cannot be read, or not be used. Those that were read last stay.
    pub async fn look(&self) -> anyhow::Result<()> {
        let settings: Settings = kube::read(&*self.api, Ask::get(SETTINGS)).await?;
        let proxy = FrontProxy::from_settings(&settings.data, &self.provider)?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(proxy));
        Ok(())
    }

    /// Reads them again and again.
    pub async fn run(&self) {
        let mut failing = false;
        loop {
            match self.look().await {
                Ok(()) => {
                    failing = false;
                    sleep(EVERY).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("the front proxy's settings: {error}");
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// The user behind a request.
    ///
    /// # Errors
    /// The front proxy did not send it.
    pub async fn user(
        &self,
        chain: &[CertificateDer<'_>],
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<User, Stranger> {
        let unknown = || Stranger::NotTheProxy("it is not known yet".to_owned());
        let proxy = self.proxy();
        let asked = proxy
            .as_ref()
            .map_or_else(|| Err(unknown()), |proxy| proxy.user(chain, headers, now));
        match asked {
            Err(Stranger::NotTheProxy(_)) if !chain.is_empty() && self.may_look() => {
                if let Err(error) = self.look().await {
                    tracing::debug!("the front proxy's settings: {error}");
                }
                let proxy = self.proxy().ok_or_else(unknown)?;
                proxy.user(chain, headers, now)
            }
            asked => asked,
        }
    }

    fn proxy(&self) -> Option<Arc<FrontProxy>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn may_look(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let may = looked.is_none_or(|last| last.elapsed() >= FOR_STRANGERS);
        if may {
            *looked = Some(Instant::now());
        }
        may
    }
}
