//! Certificates of the cluster, and the files with which its parts and its people
//! come to the API server.

use super::network::{API_SERVICE, CONTROL};
use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the API server listens.
pub(crate) const API_PORT: u16 = 6443;

/// Whom a certificate is for.
pub(crate) struct Subject<'a> {
    /// User, or host.
    pub(crate) name: &'a str,
    /// Groups of a user.
    pub(crate) groups: &'a [&'a str],
    /// Names and addresses of a server.
    pub(crate) hosts: &'a [String],
}

impl<'a> Subject<'a> {
    /// A user of these groups.
    pub(crate) fn user(name: &'a str, groups: &'a [&'a str]) -> Self {
        let hosts = &[];
        Self {
            name,
            groups,
            hosts,
        }
    }
}

/// A CA, with its files in a directory of its own.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

/// A certificate and its key in files.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    /// One of this name.
    ///
    /// # Errors
    /// No key can be made, or a file cannot be written.
    pub(crate) fn new(name: &str, directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(directory.join("ca.crt"), issuer.pem())?;
        Ok(Self { issuer, directory })
    }

    /// The file with its own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Issues a certificate for a client that also is a server, if it has hosts.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn issue(&self, subject: &Subject<'_>) -> Result<Pair> {
        let mut params = CertificateParams::new(subject.hosts.to_vec())?;
        params
            .distinguished_name
            .push(DnType::CommonName, subject.name);
        for group in subject.groups {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *group);
        }
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
        if !subject.hosts.is_empty() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &*self.issuer)?;
        let stem = subject.name.replace(':', "-");
        let file = |end: &str| self.directory.join(format!("{stem}.{end}"));
        let pair = Pair {
            certificate: file("crt"),
            key: file("key"),
        };
        fs::write(&pair.certificate, signed.pem())?;
        fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }

    /// Writes a kubeconfig for a user with a certificate of its own.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub(crate) fn kubeconfig(&self, name: &str, groups: &[&str]) -> Result<PathBuf> {
        let pair = self.issue(&Subject::user(name, groups))?;
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        let user = format!("client-certificate: {certificate}, client-key: {key}");
        self.kubeconfig_of(name, &user)
    }

    /// Writes a kubeconfig for a user who is known by what `user` says, between the
    /// braces of a YAML mapping.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn kubeconfig_of(&self, name: &str, user: &str) -> Result<PathBuf> {
        let authority = self.certificate();
        let text = format!(
            r#"apiVersion: v1
kind: Config
current-context: tests
contexts:
- name: tests
  context: {{ cluster: tests, user: "{name}" }}
clusters:
- name: tests
  cluster: {{ server: "https://{CONTROL}:{API_PORT}", certificate-authority: {authority} }}
users:
- name: "{name}"
  user: {{ {user} }}
"#,
            authority = authority.display()
        );
        let stem = name.replace(':', "-");
        let path = self.directory.join(format!("{stem}.kubeconfig"));
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// The key that service accounts' tokens are signed with, and its public half.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn signing_key(directory: &Path) -> Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate()?;
    let (private, public) = (directory.join("tokens.key"), directory.join("tokens.pub"));
    fs::write(&private, key.serialize_pem())?;
    fs::write(&public, key.public_key_pem())?;
    Ok((private, public))
}

/// What the API server is called.
pub(crate) fn api_hosts() -> Vec<String> {
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let addresses = [CONTROL.to_string(), API_SERVICE.to_string()];
    names
        .map(str::to_owned)
        .into_iter()
        .chain(addresses)
        .collect()
}
