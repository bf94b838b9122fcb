//! The authority's roots over time, as its Secret holds them.

use super::{AuthorityError, Lifetimes, issue::serial};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

const CURRENT: (&str, &str) = ("current.crt", "current.key");
const NEXT: (&str, &str) = ("next.crt", "next.key");
const PREVIOUS: &str = "previous.crt";

/// How long the news of a root may take to every node: kubelets bring a ConfigMap to
/// those that mount it within a minute or two.
const SPREAD: Duration = Duration::from_secs(5 * 60);

/// Keys of a Secret and what they hold.
pub type Data = BTreeMap<String, Vec<u8>>;

/// A root that signs, or will.
struct Root {
    certificate: Trusted,
    key: String,
}

/// A certificate that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trusted {
    pem: String,
    made: SystemTime,
    until: SystemTime,
}

/// The roots: the one that signs, the one that will, those that did.
pub struct Keyring {
    current: Root,
    next: Option<Root>,
    previous: Vec<Trusted>,
}

/// Keys stay out of logs.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("current_until", &self.current.certificate.until)
            .field("next", &self.next.is_some())
            .field("previous", &self.previous.len())
            .finish_non_exhaustive()
    }
}

impl Keyring {
    /// A first root.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn generate(now: SystemTime, lifetimes: &Lifetimes) -> Result<Self, AuthorityError> {
        Ok(Self {
            current: Root::generate(now, lifetimes)?,
            next: None,
            previous: Vec::new(),
        })
    }

    /// Reads what a Secret holds; none, if that is nothing yet.
    ///
    /// # Errors
    /// It holds something else, or half of it.
    pub fn from_secret(data: &Data) -> Result<Option<Self>, AuthorityError> {
        if data.is_empty() {
            return Ok(None);
        }
        let current = Root::read(data, CURRENT)?;
        let current = current.ok_or_else(|| wrong(CURRENT.0, "is missing"))?;
        let previous = text(data, PREVIOUS)?.unwrap_or_default();
        let previous = CertificateDer::pem_slice_iter(previous.as_bytes()).map(|der| {
            let der = der.map_err(|_| wrong(PREVIOUS, "is no certificate in PEM"))?;
            Trusted::of(&der, PREVIOUS)
        });
        Ok(Some(Self {
            current,
            next: Root::read(data, NEXT)?,
            previous: previous.collect::<Result<_, _>>()?,
        }))
    }

    /// What the Secret is to hold.
    #[must_use]
    pub fn to_secret(&self) -> Data {
        let mut data = Data::new();
        let mut put = |(certificate, key): (&str, &str), root: &Root| {
            data.insert(certificate.to_owned(), root.certificate.pem.clone().into());
            data.insert(key.to_owned(), root.key.clone().into());
        };
        put(CURRENT, &self.current);
        if let Some(next) = &self.next {
            put(NEXT, next);
        }
        if !self.previous.is_empty() {
            let all: String = self.previous.iter().map(|one| one.pem.as_str()).collect();
            data.insert(PREVIOUS.to_owned(), all.into());
        }
        data
    }

    /// Everything that is to be trusted, in PEM, the root that signs first.
    #[must_use]
    pub fn bundle(&self) -> String {
        let next = self.next.iter().map(|root| &root.certificate);
        let all = [&self.current.certificate].into_iter().chain(next);
        let all = all.chain(&self.previous);
        all.map(|one| one.pem.as_str()).collect()
    }

    /// What comes after, if it is time: a root is announced an overlap before it
    /// signs, and trusted as long after.
    ///
    /// # Errors
    /// The cryptography fails.
    pub fn advanced(
        &self,
        now: SystemTime,
        lifetimes: &Lifetimes,
    ) -> Result<Option<Self>, AuthorityError> {
        let ends_within = |span: Duration| now + span >= self.current.certificate.until;
        let due = ends_within(lifetimes.overlap);
        // A cluster may have slept through its time.
        let known = self
            .next
            .as_ref()
            .filter(|next| next.certificate.until > now);
        let announce = known.is_none() && ends_within(lifetimes.overlap * 2);
        let stale = self.previous.iter().any(|one| one.until <= now);
        // One that nobody could hear of yet signs nothing, unless there is nothing
        // left to sign with.
        let spread = SPREAD.min(lifetimes.overlap / 2);
        let heard = known.is_some_and(|next| next.certificate.made + spread <= now)
            || self.current.certificate.until <= now;
        let signs = due && heard;
        if !signs && !announce && !stale {
            return Ok(None);
        }
        let mut next = match known {
            Some(next) => Some(next.again()),
            None if announce => Some(Root::generate(now, lifetimes)?),
            None => None,
        };
        let mut previous = self.previous.clone();
        let current = match next.take_if(|_| signs) {
            Some(next) => {
                previous.insert(0, self.current.certificate.clone());
                next
            }
            None => self.current.again(),
        };
        previous.retain(|one| one.until > now);
        Ok(Some(Self {
            current,
            next,
            previous,
        }))
    }

    /// The certificate of the root that signs, in PEM.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.current.certificate.pem
    }

    /// Until when the root is valid that signs.
    pub(super) fn until(&self) -> SystemTime {
        self.current.certificate.until
    }

    /// What signs.
    pub(super) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        let key = KeyPair::from_pem(&self.current.key)?;
        Ok(Issuer::from_ca_cert_pem(
            &self.current.certificate.pem,
            key,
        )?)
    }
}

impl Root {
    fn generate(now: SystemTime, lifetimes: &Lifetimes) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = Lifetimes::begin(now).into();
        params.not_after = (now + lifetimes.root).into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        // Two roots are told apart by it where the names alone are looked at.
        let name = format!("sternline-{}", short_name(&key));
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate: Trusted::of(certificate.der(), CURRENT.0)?,
            key: key.serialize_pem(),
        })
    }

    fn read(data: &Data, names: (&str, &str)) -> Result<Option<Self>, AuthorityError> {
        let (certificate, key) = (text(data, names.0)?, text(data, names.1)?);
        let (certificate, key) = match (certificate, key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (None, Some(_)) => return Err(wrong(names.0, "is missing")),
            (Some(_), None) => return Err(wrong(names.1, "is missing")),
        };
        let der = CertificateDer::from_pem_slice(certificate.as_bytes());
        let der = der.map_err(|_| wrong(names.0, "is no certificate in PEM"))?;
        let pair =
            KeyPair::from_pem(key).map_err(|_| wrong(names.1, "is no private key in PEM"))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|_| wrong(names.0, "is no certificate"))?;
        if parsed.public_key().raw != pair.subject_public_key_info() {
            return Err(wrong(names.1, "is not the key of its certificate"));
        }
        if !parsed.is_ca() {
            return Err(wrong(names.0, "is not the certificate of an authority"));
        }
        Ok(Some(Self {
            certificate: Trusted::of(&der, names.0)?,
            key: key.to_owned(),
        }))
    }

    fn again(&self) -> Self {
        Self {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }
}

impl Trusted {
    fn of(der: &CertificateDer<'_>, name: &str) -> Result<Self, AuthorityError> {
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|_| wrong(name, "is no certificate"))?;
        let since_1970 = |time: ASN1Time| u64::try_from(time.timestamp()).map(Duration::from_secs);
        let validity = parsed.validity();
        let until = since_1970(validity.not_after).map_err(|_| wrong(name, "ended before 1970"))?;
        let from = since_1970(validity.not_before).unwrap_or_default();
        Ok(Self {
            pem: super::issue::to_pem(der),
            made: Lifetimes::made(SystemTime::UNIX_EPOCH + from),
            until: SystemTime::UNIX_EPOCH + until,
        })
    }
}

/// A few digits of a key's own.
fn short_name(key: &KeyPair) -> String {
    let digits = key.public_key_raw().iter().rev().take(4);
    digits.map(|byte| format!("{byte:02x}")).collect()
}

fn text<'a>(data: &'a Data, name: &str) -> Result<Option<&'a str>, AuthorityError> {
    let found = data.get(name).map(|bytes| std::str::from_utf8(bytes));
    found.transpose().map_err(|_| wrong(name, "is not text"))
}

fn wrong(name: &str, what: &str) -> AuthorityError {
    AuthorityError::Secret {
        what: format!("{name} {what}"),
    }
}

#[cfg(test)]
mod tests;
