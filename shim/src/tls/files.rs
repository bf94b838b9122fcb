//! From the files to what a handshake needs.

use super::validity;
use crate::config::TlsFiles;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, RootCertStore};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Longest file that is read, in bytes: a hundred times what a chain takes.
const LONGEST: u64 = 1024 * 1024;

/// The only protocol inside: the Upgrade.
const ALPN: &[u8] = b"http/1.1";

/// Why the files cannot be used. Each sentence begins with the flag and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{flag} {}: {error}: is it there, and may this user read it?", path.display())]
    Unreadable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Everybody on the machine can read the key.
    #[error("{KEY} {}: everybody on this machine can read it (mode {mode:03o}): take that away with chmod 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file has not what it should.
    #[error("{flag} {}: {what}", path.display())]
    Unfit {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
}

pub(super) const CERT: &str = "--streaming-tls-cert";
const KEY: &str = "--streaming-tls-key";
const CLIENT_CA: &str = "--streaming-client-ca";

/// The files as they were read.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What the files make.
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// The endpoint's own certificate.
    pub(super) leaf: CertificateDer<'static>,
    pub(super) not_after: SystemTime,
}

impl Contents {
    /// Reads the files, also through the links that Kubernetes swaps.
    pub(super) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let key = read(KEY, &files.key, |path, mode| match mode & 0o007 {
            0 => Ok(()),
            _ => Err(TlsError::Exposed {
                path: path.to_owned(),
                mode: mode & 0o777,
            }),
        })?;
        let anybody = |_: &Path, _: u32| Ok(());
        let client_ca = files.client_ca.as_ref();
        Ok(Self {
            cert: read(CERT, &files.cert, anybody)?,
            key,
            client_ca: client_ca
                .map(|path| read(CLIENT_CA, path, anybody))
                .transpose()?,
        })
    }

    /// Makes a handshake's settings of them.
    pub(super) fn load(&self, files: &TlsFiles) -> Result<Loaded, TlsError> {
        let unfit = |flag, path: &Path, what: String| TlsError::Unfit {
            flag,
            path: path.to_owned(),
            what,
        };
        let chain = certificates(&self.cert).map_err(|what| unfit(CERT, &files.cert, what))?;
        let leaf = chain[0].clone();
        let not_after = validity::not_after(&leaf).ok_or_else(|| {
            let what = "its first certificate is damaged: write it again";
            unfit(CERT, &files.cert, what.to_owned())
        })?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            let what = match error {
                pem::Error::NoItemsFound => {
                    "it has no private key in PEM that is not encrypted".to_owned()
                }
                other => format!("it is no PEM: {other}"),
            };
            unfit(KEY, &files.key, what)
        })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let broken = |error: rustls::Error| unfit(CERT, &files.cert, error.to_string());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(broken)?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let verifier = client_verifier(pem, provider);
                let verifier = verifier.map_err(|what| unfit(CLIENT_CA, path, what))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => unfit(
                KEY,
                &files.key,
                format!(
                    "the key does not belong to the certificate in {}: write both anew",
                    files.cert.display()
                ),
            ),
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => unfit(
                CERT,
                &files.cert,
                "its first certificate is damaged: write it again".to_owned(),
            ),
            other => unfit(CERT, &files.cert, format!("it cannot be used: {other}")),
        })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A tunnel lasts and a handshake is rare. Without resumption every client
        // is checked against the CA of today and sees the certificate of today.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Loaded {
            config: Arc::new(config),
            leaf,
            not_after,
        })
    }
}

fn read(
    flag: &'static str,
    path: &Path,
    permitted: impl Fn(&Path, u32) -> Result<(), TlsError>,
) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::Unreadable {
        flag,
        path: path.to_owned(),
        error,
    };
    // Opening a pipe waits for its other end.
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if !meta.is_file() {
        return Err(unreadable(io::Error::other("it is no file")));
    }
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    permitted(path, meta.permissions().mode())?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(unreadable(io::Error::other("it is longer than 1 MiB")));
    }
    Ok(bytes)
}

/// At least one certificate.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => {
            Err("it has no certificate in PEM (BEGIN CERTIFICATE)".to_owned())
        }
        Ok(all) => Ok(all),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

fn client_verifier(
    pem: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots
            .add(certificate)
            .map_err(|error| format!("it has a certificate that cannot be a CA: {error}"))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| format!("it cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Authority, Directory};
    use super::*;

    fn error(files: &TlsFiles) -> String {
        let loaded = Contents::read(files).and_then(|contents| contents.load(files));
        match loaded {
            Ok(_) => panic!("it loads"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_pair_loads_and_speaks_the_newest_version_only() {
        let dir = Directory::new();
        let files = dir.write(&Authority::new("ca").issue("node"));
        let contents = Contents::read(&files).expect("reads");
        let loaded = contents.load(&files).expect("loads");
        assert_eq!(loaded.config.alpn_protocols, [ALPN]);
        assert_eq!(loaded.config.send_tls13_tickets, 0);
        assert!(loaded.config.max_early_data_size == 0);
        assert!(loaded.not_after > SystemTime::now());
    }

    #[test]
    fn a_key_that_everybody_can_read_is_refused() {
        let dir = Directory::new();
        let files = dir.write(&Authority::new("ca").issue("node"));
        dir.chmod(&files.key, 0o644);
        let sentence = error(&files);
        assert!(sentence.contains("mode 644"), "{sentence}");
        // Kubernetes gives a file of a Secret to a group.
        dir.chmod(&files.key, 0o440);
        assert!(Contents::read(&files).is_ok());
    }

    #[test]
    fn each_fault_of_a_file_is_named() {
        let dir = Directory::new();
        let ca = Authority::new("ca");
        let files = dir.write(&ca.issue("node"));
        let other = Directory::new();
        let others = other.write(&ca.issue("node"));
        let with = |change: &dyn Fn(&mut TlsFiles)| {
            let mut files = files.clone();
            change(&mut files);
            error(&files)
        };
        let missing = with(&|files| files.cert = "/nowhere/tls.crt".into());
        assert!(missing.starts_with("--streaming-tls-cert /nowhere/tls.crt: No such file"));
        let directory = with(&|files| files.cert = dir.path().to_owned());
        assert!(directory.contains("it is no file"), "{directory}");
        let swapped = with(&|files| files.cert = files.key.clone());
        assert!(swapped.contains("no certificate in PEM"), "{swapped}");
        let pair = with(&|files| files.key = others.key.clone());
        assert!(pair.contains("does not belong to"), "{pair}");
        let no_key = with(&|files| {
            files.key = dir.file("k", &std::fs::read(&files.cert).expect("there"));
        });
        assert!(no_key.contains("no private key"), "{no_key}");
        let damaged = with(&|files| {
            files.cert = dir.file(
                "d",
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            );
        });
        assert!(damaged.contains("damaged"), "{damaged}");
        let no_ca = with(&|files| files.client_ca = Some(dir.file("e", b"")));
        assert!(no_ca.starts_with("--streaming-client-ca"), "{no_ca}");
        let huge = with(&|files| {
            files.cert = dir.file("h", &vec![b'-'; LONGEST as usize + 1]);
        });
        assert!(huge.contains("longer than 1 MiB"), "{huge}");
    }
}
