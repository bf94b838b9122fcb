//! Who asks: the user that the cluster's front proxy names.
//!
//! The API server authenticates, and passes on what it found in headers. Anybody
//! can send headers: they count only beside a client certificate that the
//! cluster's request-header authority signed, for a name that it allows.

use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Most groups and values of extra keys that a user may have together.
const MAX_VALUES: usize = 1024;

/// An authenticated user (`authentication.k8s.io/v1`, `UserInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// What tells it from others of its name over time; may be empty.
    pub uid: String,
    /// The groups that it is in.
    pub groups: Vec<String>,
    /// What else the authenticator said.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Why nobody is known to ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// The connection has no client certificate.
    #[error("no client certificate: forwards are asked for at the API server, which asks here")]
    NoCertificate,
    /// Its certificate is not the front proxy's.
    #[error(
        "the client certificate is not that of the cluster's front proxy ({0}): forwards are asked for at the API server, which asks here"
    )]
    NotTheProxy(String),
    /// The proxy names nobody.
    #[error("the front proxy names no user: see its --requestheader-username-headers")]
    NoUser,
    /// The proxy names too much.
    #[error("the user has more than {MAX_VALUES} groups and extra values")]
    TooMany,
}

/// Why the cluster's settings of its front proxy cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{key} in the ConfigMap kube-system/extension-apiserver-authentication {what}: see the --requestheader flags of the API server"
)]
pub struct SettingsError {
    key: &'static str,
    what: String,
}

/// What the cluster says of its front proxy.
#[derive(Clone)]
pub struct FrontProxy {
    verifier: Arc<dyn ClientCertVerifier>,
    /// Common names that are allowed; none means any.
    names: Vec<String>,
    user: Vec<HeaderName>,
    uid: Vec<HeaderName>,
    group: Vec<HeaderName>,
    /// In lower case.
    extra: Vec<String>,
}

impl fmt::Debug for FrontProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontProxy")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl FrontProxy {
    /// Reads the data of `kube-system/extension-apiserver-authentication`.
    ///
    /// # Errors
    /// The API server has no front proxy, or says something else there.
    pub fn from_settings(
        data: &BTreeMap<String, String>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, SettingsError> {
        const CA: &str = "requestheader-client-ca-file";
        let wrong = |what: &str| SettingsError {
            key: CA,
            what: what.to_owned(),
        };
        let bundle = data.get(CA).ok_or_else(|| wrong("is missing"))?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            let root = root.map_err(|_| wrong("holds something that is no certificate"))?;
            roots.add(root).map_err(|error| {
                wrong(&format!(
                    "holds a certificate that cannot be used ({error})"
                ))
            })?;
        }
        if roots.is_empty() {
            return Err(wrong("holds no certificate"));
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let verifier = verifier
            .build()
            .map_err(|error| wrong(&error.to_string()))?;
        let user = headers(data, "requestheader-username-headers")?;
        if user.is_empty() {
            return Err(SettingsError {
                key: "requestheader-username-headers",
                what: "names no header".to_owned(),
            });
        }
        let prefixes = list(data, "requestheader-extra-headers-prefix")?;
        Ok(Self {
            verifier,
            names: list(data, "requestheader-allowed-names")?,
            user,
            uid: headers(data, "requestheader-uid-headers")?,
            group: headers(data, "requestheader-group-headers")?,
            extra: prefixes
                .iter()
                .map(|one| one.to_ascii_lowercase())
                .collect(),
        })
    }

    /// The user behind a request that came with these certificates, the client's
    /// own first, and these headers.
    ///
    /// # Errors
    /// The front proxy did not send it.
    pub fn user(
        &self,
        chain: &[CertificateDer<'_>],
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<User, Stranger> {
        self.verify(chain, now)?;
        self.named(headers)
    }

    /// The user that these headers name.
    pub(crate) fn named(&self, headers: &HeaderMap) -> Result<User, Stranger> {
        let text = |name: &HeaderName| {
            let value = headers.get(name)?;
            let value = String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let name = self.user.iter().find_map(text).ok_or(Stranger::NoUser)?;
        let groups = self.group.iter().flat_map(|name| headers.get_all(name));
        let groups = groups.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let groups: Vec<String> = groups.take(MAX_VALUES + 1).collect();
        let mut extra = BTreeMap::<String, Vec<String>>::new();
        let mut values = groups.len();
        for (header, value) in headers {
            let prefixes = self.extra.iter();
            let Some(key) = prefixes
                .filter_map(|one| header.as_str().strip_prefix(one.as_str()))
                .next()
            else {
                continue;
            };
            // The API server encodes what a header's name cannot have.
            let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            extra.entry(key).or_default().push(value);
            values += 1;
        }
        if values > MAX_VALUES {
            return Err(Stranger::TooMany);
        }
        Ok(User {
            name,
            uid: self.uid.iter().find_map(text).unwrap_or_default(),
            groups,
            extra,
        })
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Stranger> {
        let (leaf, rest) = chain.split_first().ok_or(Stranger::NoCertificate)?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = UnixTime::since_unix_epoch(since);
        let verified = self.verifier.verify_client_cert(leaf, rest, now);
        verified.map_err(|error| Stranger::NotTheProxy(error.to_string()))?;
        if self.names.is_empty() {
            return Ok(());
        }
        let unreadable = || Stranger::NotTheProxy("it cannot be read".to_owned());
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| unreadable())?;
        let mut common = parsed.subject().iter_common_name();
        let name = common
            .next()
            .and_then(|name| name.as_str().ok())
            .unwrap_or_default();
        if self.names.iter().any(|allowed| allowed == name) {
            Ok(())
        } else {
            Err(Stranger::NotTheProxy(format!("it is for {name:?}")))
        }
    }
}

/// A list in JSON; one that is missing is empty.
fn list(data: &BTreeMap<String, String>, key: &'static str) -> Result<Vec<String>, SettingsError> {
    let Some(text) = data.get(key) else {
        return Ok(Vec::new());
    };
    serde_json::from_str(text).map_err(|_| SettingsError {
        key,
        what: "is no list of words in JSON".to_owned(),
    })
}

fn headers(
    data: &BTreeMap<String, String>,
    key: &'static str,
) -> Result<Vec<HeaderName>, SettingsError> {
    let names = list(data, key)?;
    let names = names.iter().map(|name| {
        // Whatever their case in the settings.
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| SettingsError {
            key,
            what: format!("names {name:?}, which is no header"),
        })
    });
    names.collect()
}

#[cfg(test)]
mod tests;
