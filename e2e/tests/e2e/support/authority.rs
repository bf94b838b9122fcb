//! Certificates of a story's own making.

use super::binder::{Form, give_to_serve};
use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A CA.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key in files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// One of this name, which must be its own: verifiers go by it.
    ///
    /// # Errors
    /// No key can be made.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        Ok(Self(CertifiedIssuer::self_signed(params, key)?))
    }

    /// Writes its own certificate.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: PathBuf) -> Result<PathBuf> {
        fs::write(&path, self.0.pem())?;
        Ok(path)
    }

    /// Writes a certificate for `host` to `STEM.crt` and its key to `STEM.key`,
    /// over what is there.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(crate) fn issue(&self, host: &str, stem: &Path) -> Result<Pair> {
        self.issue_until(host, stem, 4000)
    }

    /// The same, valid until a year begins.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(crate) fn issue_until(&self, host: &str, stem: &Path, year: i32) -> Result<Pair> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.0)?;
        let pair = Pair {
            cert: stem.with_extension("crt"),
            key: stem.with_extension("key"),
        };
        fs::write(&pair.cert, cert.pem())?;
        fs::write(&pair.key, key.serialize_pem())?;
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600))?;
        if Form::chosen()? == Form::Apart {
            give_to_serve(&pair.key)?;
        }
        Ok(pair)
    }
}
