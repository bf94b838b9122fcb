//! The files that flags of TLS name.

use crate::fault::Fault;
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Longest file that is read, in bytes: every CA of a system takes a fourth.
const LONGEST: u64 = 1024 * 1024;

/// The CAs of `--ca-file`.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--ca-file", path)? {
        roots.add(certificate).map_err(|error| {
            wrong(
                "--ca-file",
                path,
                &format!("it has a certificate that cannot be a CA: {error}"),
            )
        })?;
    }
    Ok(roots)
}

/// The certificate of `--client-cert`, with its chain, and its key.
pub(super) fn identity(
    cert: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Fault> {
    let chain = certificates("--client-cert", cert)?;
    let pem = read("--client-key", key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let what = match error {
            pem::Error::NoItemsFound => {
                "it has no private key in PEM that is not encrypted".to_owned()
            }
            other => format!("it is no PEM: {other}"),
        };
        wrong("--client-key", key, &what)
    })?;
    Ok((chain, key))
}

/// A certificate and a key that do not go together, or a damaged one.
pub(super) fn unfit_pair(cert: &Path, error: &rustls::Error) -> Fault {
    let what = match error {
        rustls::Error::InconsistentKeys(_) => {
            "the key of --client-key does not belong to it".to_owned()
        }
        other => format!("it cannot be used with --client-key: {other}"),
    };
    wrong("--client-cert", cert, &what)
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let pem = read(flag, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if all.is_empty() => {
            let what = "it has no certificate in PEM (BEGIN CERTIFICATE)";
            Err(wrong(flag, path, what))
        }
        Ok(all) => Ok(all),
        Err(error) => Err(wrong(flag, path, &format!("it is no PEM: {error}"))),
    }
}

/// Also a pipe, as a shell's `<(...)` makes it.
fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    let read = match read {
        Ok(_) if bytes.len() as u64 > LONGEST => Err(io::Error::other("it is longer than 1 MiB")),
        other => other,
    };
    read.map_err(|error| wrong(flag, path, &crate::cause(&error)))?;
    Ok(bytes)
}

fn wrong(flag: &str, path: &Path, what: &str) -> Fault {
    Fault::usage(format!("{flag} {}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::Trust;
    use crate::args::TlsArgs;
    use rcgen::{CertificateParams, KeyPair};
    use std::path::PathBuf;

    fn error(args: &TlsArgs) -> String {
        let fault = Trust::load(args).expect_err("refused");
        assert_eq!(fault.exit, crate::fault::exit::USAGE);
        fault.message
    }

    #[test]
    fn each_fault_of_a_file_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| -> Option<PathBuf> {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            Some(path)
        };
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(Vec::new()).expect("no names");
        let cert = params.self_signed(&key).expect("signed").pem();
        let other = KeyPair::generate().expect("a key").serialize_pem();

        let ca = |ca_file| TlsArgs {
            ca_file,
            ..TlsArgs::default()
        };
        let pair = |client_cert, client_key| TlsArgs {
            client_cert,
            client_key,
            ..TlsArgs::default()
        };
        for (args, what) in [
            (
                ca(Some("/nowhere/ca".into())),
                "--ca-file /nowhere/ca: no such file",
            ),
            (ca(Some(dir.path().to_owned())), "is a directory"),
            (ca(file("empty", "")), "no certificate in PEM"),
            (ca(file("key", &other)), "no certificate in PEM"),
            (pair(file("c", &cert), file("e", "")), "--client-key"),
            (pair(file("c", &cert), file("o", &other)), "does not belong"),
        ] {
            let sentence = error(&args);
            assert!(sentence.contains(what), "{what:?} is not in {sentence:?}");
        }
        let good = pair(file("c", &cert), file("k", &key.serialize_pem()));
        let trust = Trust::load(&good).expect("loads");
        assert!(!format!("{trust:?}").contains("PRIVATE"));
        let named = TlsArgs {
            tls_server_name: Some("a b".to_owned()),
            ..TlsArgs::default()
        };
        assert!(error(&named).contains("--tls-server-name"));
    }
}
