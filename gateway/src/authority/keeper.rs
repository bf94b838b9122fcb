//! Keeps the authority where everybody finds it: its keys in a Secret, its bundle
//! in a ConfigMap and in the APIService.
//!
//! Every gateway does it. What they make at once is told apart by the Secret's
//! resource version: the first to write wins, the others read what it wrote.

use super::{AuthorityError, Data, Keyring, Lifetimes, Material};
use crate::kube::{self, Api, ApiError, Ask, Verb};
use crate::{GROUP, VERSION};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Key of the ConfigMap under which the bundle is.
pub const BUNDLE: &str = "ca.crt";

/// How often others may win a write before it is left to the next time.
const ATTEMPTS: usize = 5;

/// How often it is looked after at most: an administrator who empties the Secret
/// waits so long.
const SELDOM: Duration = Duration::from_secs(60);

/// The same at least, however short lifetimes are.
const OFTEN: Duration = Duration::from_millis(250);

/// After a failure it is tried again this soon.
const RETRY: Duration = Duration::from_secs(2);

/// Why the authority cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The Kubernetes API does not answer, or forbids it.
    #[error("{what}: {error}")]
    Api {
        /// Which object.
        what: &'static str,
        /// Why.
        error: ApiError,
    },
    /// What it holds is unusable.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Others always won.
    #[error(
        "the authority's Secret changes whenever it is to be written: is something else writing it?"
    )]
    Contended,
}

/// Where the authority is kept.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Namespace of Secret and ConfigMap.
    pub namespace: String,
    /// Name of both.
    pub name: String,
    /// Names in the certificates of gateways.
    pub names: Vec<String>,
}

/// Keeps it.
pub struct Keeper {
    api: Arc<dyn Api>,
    shelf: Shelf,
    lifetimes: Lifetimes,
    current: watch::Sender<Option<Arc<Material>>>,
}

impl Keeper {
    /// Nothing is there before the first [`tend`](Self::tend).
    #[must_use]
    pub fn new(api: Arc<dyn Api>, shelf: Shelf, lifetimes: Lifetimes) -> Self {
        Self {
            api,
            shelf,
            lifetimes,
            current: watch::Sender::new(None),
        }
    }

    /// What there is, now and in the future.
    #[must_use]
    pub fn material(&self) -> watch::Receiver<Option<Arc<Material>>> {
        self.current.subscribe()
    }

    /// Looks after everything, for ever.
    pub async fn run(self, clock: impl Fn() -> SystemTime) {
        let mut failing = false;
        loop {
            match self.tend(clock()).await {
                Ok(()) => {
                    failing = false;
                    tokio::time::sleep(self.every()).await;
                }
                Err(error) => {
                    crate::metrics::authority_failed();
                    // Said once: it stays so until somebody acts.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!("{error}");
                    }
                    tokio::time::sleep(RETRY.min(self.every())).await;
                }
            }
        }
    }

    /// A leaf is looked at several times in the third of its life that is left at
    /// its renewal.
    fn every(&self) -> Duration {
        (self.lifetimes.leaf / 12).clamp(OFTEN, SELDOM)
    }

    /// Looks after everything once: the Secret first, from which the rest follows.
    ///
    /// # Errors
    /// Something could not be read or written. What could be stays in use.
    pub async fn tend(&self, now: SystemTime) -> Result<(), KeeperError> {
        let ring = Arc::new(self.ring(now).await?);
        let bundle = ring.bundle();
        self.keep_material(ring, now)?;
        // Neither waits for the other to be possible.
        let published = self.publish(&bundle).await;
        self.introduce(&bundle).await.and(published)
    }

    fn keep_material(&self, ring: Arc<Keyring>, now: SystemTime) -> Result<(), KeeperError> {
        let known = self.current.borrow().clone();
        let material = match known {
            Some(known) if !known.is_due(&ring, now) => {
                if known.ring.bundle() == ring.bundle() {
                    return Ok(());
                }
                tracing::info!("the authority's roots changed");
                known.beside(ring)?
            }
            _ => Material::issue(ring, &self.shelf.names, now, &self.lifetimes)?,
        };
        crate::metrics::certificate_expires(material.until());
        self.current.send_replace(Some(Arc::new(material)));
        Ok(())
    }

    /// The roots that the Secret has, after making or changing them where it is
    /// time.
    async fn ring(&self, now: SystemTime) -> Result<Keyring, KeeperError> {
        let path = self.path("secrets");
        let failed = |error| KeeperError::Api {
            what: "the authority's Secret",
            error,
        };
        for _ in 0..ATTEMPTS {
            let mut secret = self.api.send(Ask::get(&path)).await.map_err(failed)?;
            let (made, ring) = match Keyring::from_secret(&data(&secret)?)? {
                None => (true, Keyring::generate(now, &self.lifetimes)?),
                Some(known) => match known.advanced(now, &self.lifetimes)? {
                    Some(next) => (true, next),
                    None => (false, known),
                },
            };
            if !made {
                return Ok(ring);
            }
            secret["data"] = encoded(&ring.to_secret());
            // With the resource version that was read: whoever was first has won.
            match self.api.send(Ask::with(Verb::Replace, &path, secret)).await {
                Ok(_) => {
                    tracing::info!(?ring, "the authority was written");
                    return Ok(ring);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(KeeperError::Contended)
    }

    /// The bundle for whoever mounts the ConfigMap.
    async fn publish(&self, bundle: &str) -> Result<(), KeeperError> {
        let path = self.path("configmaps");
        let failed = |error| KeeperError::Api {
            what: "the authority's ConfigMap",
            error,
        };
        let mut map = self.api.send(Ask::get(&path)).await.map_err(failed)?;
        if map["data"][BUNDLE] == bundle {
            return Ok(());
        }
        map["data"][BUNDLE] = json!(bundle);
        match self.api.send(Ask::with(Verb::Replace, &path, map)).await {
            // Somebody else wrote it just now; the next time tells what.
            Err(error) if !error.is_conflict() => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// The bundle for the API server, which is told by it that we are we.
    async fn introduce(&self, bundle: &str) -> Result<(), KeeperError> {
        let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{VERSION}.{GROUP}");
        let failed = |error| KeeperError::Api {
            what: "the APIService",
            error,
        };
        let found: Value = kube::read(&*self.api, Ask::get(&path))
            .await
            .map_err(failed)?;
        let bundle = BASE64_STANDARD.encode(bundle);
        if found["spec"]["caBundle"] == bundle {
            return Ok(());
        }
        let patch = json!({ "spec": { "caBundle": bundle } });
        let patched = self.api.send(Ask::with(Verb::Merge, &path, patch)).await;
        patched.map(drop).map_err(failed)
    }

    fn path(&self, kind: &str) -> String {
        let Shelf {
            namespace, name, ..
        } = &self.shelf;
        format!("/api/v1/namespaces/{namespace}/{kind}/{name}")
    }
}

/// What a Secret holds.
fn data(secret: &Value) -> Result<Data, AuthorityError> {
    let fields = secret["data"].as_object().into_iter().flatten();
    let decoded = fields.map(|(name, value)| {
        let bytes = BASE64_STANDARD.decode(value.as_str().unwrap_or("?"));
        let bytes = bytes.map_err(|_| AuthorityError::Secret {
            what: format!("{name} is not in base64"),
        })?;
        Ok((name.clone(), bytes))
    });
    decoded.collect()
}

fn encoded(data: &Data) -> Value {
    let fields = data.iter();
    fields
        .map(|(name, bytes)| (name.clone(), json!(BASE64_STANDARD.encode(bytes))))
        .collect()
}

#[cfg(test)]
mod tests;
