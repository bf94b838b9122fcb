//! One certificate for everything that speaks TLS between node and workstation.

use crate::stage::{NODE, WORK};
use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Files of a certificate that is its own authority.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// The certificate, PEM.
    pub(crate) certificate: PathBuf,
    /// Its key, PEM.
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// Makes one, ECDSA on P-256, for both ends of the link and localhost.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        let names = [
            NODE.to_string(),
            WORK.to_string(),
            "127.0.0.1".to_owned(),
            "localhost".to_owned(),
        ];
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        let files = Self {
            certificate: dir.join("certificate.pem"),
            key: dir.join("key.pem"),
        };
        fs::write(&files.certificate, certificate.pem())?;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&files.key)?
            .write_all(key.serialize_pem().as_bytes())?;
        Ok(files)
    }
}
