//! Where the Kubernetes API is, and how it is asked there.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a pod finds its token and the authority of the API server.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why the Kubernetes API cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Not in a cluster.
    #[error("{0} is not set: this runs in a pod, or with --kubeconfig")]
    NotInACluster(&'static str),
    /// A file is not there.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A kubeconfig that cannot be used.
    #[error("--kubeconfig {path}: {what}")]
    Kubeconfig {
        /// Which.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A certificate or key that cannot be used.
    #[error("{0}")]
    Certificate(String),
}

/// Bytes that stand somewhere, or in a file that others may renew.
#[derive(Clone)]
enum Source {
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// The Kubernetes API of a cluster.
#[derive(Clone)]
pub struct Place {
    /// Its host, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    name: String,
    authority: Source,
    token: Option<Source>,
    client: Option<(Source, Source)>,
}

/// Tokens and keys stay out of logs.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Place {
    /// That of the pod that this runs in.
    ///
    /// # Errors
    /// This is no pod.
    pub fn in_cluster() -> Result<Self, PlaceError> {
        let set = |name| std::env::var(name).map_err(|_| PlaceError::NotInACluster(name));
        let host = set("KUBERNETES_SERVICE_HOST")?;
        let port = set("KUBERNETES_SERVICE_PORT")?;
        let port = port
            .parse()
            .map_err(|_| PlaceError::NotInACluster("KUBERNETES_SERVICE_PORT"))?;
        let file = |name| Source::File(Path::new(SERVICE_ACCOUNT).join(name));
        Ok(Self {
            name: host.clone(),
            host,
            port,
            authority: file("ca.crt"),
            token: Some(file("token")),
            client: None,
        })
    }

    /// That of a kubeconfig, by its current context.
    ///
    /// # Errors
    /// It cannot be read, or says too little.
    pub fn from_kubeconfig(path: &Path) -> Result<Self, PlaceError> {
        let shown = path.display().to_string();
        let text = std::fs::read(path).map_err(|error| PlaceError::File {
            path: shown.clone(),
            error,
        })?;
        Self::read(&text, path.parent().unwrap_or(Path::new(".")))
            .map_err(|what| PlaceError::Kubeconfig { path: shown, what })
    }

    fn read(text: &[u8], beside: &Path) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is not text in UTF-8")?;
        // The reader's own words would quote the file, which has secrets.
        let config: Kubeconfig = serde_saphyr::from_str(text).map_err(|error| {
            let at = error.location();
            let at = at.map_or_else(String::new, |at| {
                format!(": see line {}, column {}", at.line(), at.column())
            });
            format!("it is no kubeconfig in YAML that says all that is needed{at}")
        })?;
        let named = |what: &str, name: &str| format!("there is no {what} {name:?}");
        let current = &config.current_context;
        let context = config.contexts.iter().find(|one| one.name == *current);
        let context = &context.ok_or_else(|| named("context", current))?.context;
        let cluster = config
            .clusters
            .iter()
            .find(|one| one.name == context.cluster);
        let cluster = &cluster
            .ok_or_else(|| named("cluster", &context.cluster))?
            .cluster;
        let user = config.users.iter().find(|one| one.name == context.user);
        let user = &user.ok_or_else(|| named("user", &context.user))?.user;
        let server: http::Uri = cluster.server.parse().map_err(|_| "its server is no URL")?;
        if server.scheme_str() != Some("https") {
            return Err("its server is no https URL".to_owned());
        }
        let host = server.host().ok_or("its server has no host")?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let source = |data: &Option<String>, file: &Option<PathBuf>| match (data, file) {
            (Some(data), _) => BASE64_STANDARD
                .decode(data)
                .map(|bytes| Some(Source::Bytes(bytes)))
                .map_err(|_| "some of its data is not in base64".to_owned()),
            (None, Some(file)) => Ok(Some(Source::File(beside.join(file)))),
            (None, None) => Ok(None),
        };
        let authority = source(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
        )?;
        let certificate = source(&user.client_certificate_data, &user.client_certificate)?;
        let key = source(&user.client_key_data, &user.client_key)?;
        let token = user.token.clone().map(|token| Source::Bytes(token.into()));
        Ok(Self {
            name: cluster.tls_server_name.clone().unwrap_or(host.clone()),
            port: server.port_u16().unwrap_or(443),
            host,
            authority: authority.ok_or("it has no certificate authority")?,
            token: token.or(user
                .token_file
                .as_ref()
                .map(|file| Source::File(beside.join(file)))),
            client: certificate.zip(key),
        })
    }

    /// The token to show, if any; read anew each time, for it is renewed.
    ///
    /// # Errors
    /// Its file is not there.
    pub fn token(&self) -> Result<Option<String>, PlaceError> {
        let bytes = self.token.as_ref().map(Source::read).transpose()?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Settings of a connection, and the name that the server must have. Read anew
    /// each time: authorities and client certificates are renewed.
    ///
    /// # Errors
    /// A file is not there, or no certificate.
    pub fn tls(&self) -> Result<(Arc<ClientConfig>, ServerName<'static>), PlaceError> {
        let wrong = |what: &str| PlaceError::Certificate(format!("{self:?}: {what}"));
        let bundle = self.authority.read()?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&bundle) {
            let root = root.map_err(|_| wrong("its authority is not in PEM"))?;
            roots.add(root).map_err(|error| wrong(&error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("its authority has no certificate"));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| wrong(&error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let (chain, key) = (chain.read()?, key.read()?);
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
                let chain = chain.map_err(|_| wrong("the client certificate is not in PEM"))?;
                let key = PrivateKeyDer::from_pem_slice(&key)
                    .map_err(|_| wrong("the client's key is not in PEM"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| wrong(&error.to_string()))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(self.name.clone());
        let name = name.map_err(|_| wrong("its name is none"))?;
        Ok((Arc::new(config), name))
    }
}

impl Source {
    fn read(&self) -> Result<Vec<u8>, PlaceError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File(path) => std::fs::read(path).map_err(|error| PlaceError::File {
                path: path.display().to_string(),
                error,
            }),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<NamedContext>,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(server: &str) -> serde_json::Value {
        json!({
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {
                "server": server, "certificate-authority-data": "AAAA",
            }}],
            "users": [{"name": "u", "user": {"token": "secret"}}],
        })
    }

    fn read(config: &serde_json::Value) -> Result<Place, String> {
        Place::read(config.to_string().as_bytes(), Path::new("/etc"))
    }

    #[test]
    fn the_current_context_is_read() {
        for (server, host, port) in [
            ("https://10.0.0.1:6443", "10.0.0.1", 6443),
            ("https://[fd00::1]:8443", "fd00::1", 8443),
            ("https://api.example.com", "api.example.com", 443),
        ] {
            let place = read(&config(server)).expect(server);
            assert_eq!((place.host.as_str(), place.port), (host, port));
            assert_eq!(place.token().expect("one").as_deref(), Some("secret"));
            assert!(!format!("{place:?}").contains("secret"));
        }
    }

    #[test]
    fn it_may_be_written_as_kubectl_does() {
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: here\ncontexts:\n- context: {cluster: c, user: u, namespace: n}\n  name: here\nclusters:\n- cluster:\n    certificate-authority: ca.crt\n    server: https://10.0.0.1:6443\n  name: c\nusers:\n- name: u\n  user:\n    tokenFile: token\n";
        let place = Place::read(text.as_bytes(), Path::new("/etc/here")).expect("sound");
        let said = place.token().expect_err("not there").to_string();
        assert!(said.starts_with("/etc/here/token"), "{said}");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        read(&config("http://10.0.0.1")).expect_err("clear text");
        let mut other = config("https://10.0.0.1");
        other["current-context"] = "there".into();
        assert!(read(&other).expect_err("no context").contains("there"));
        let mut bare = config("https://10.0.0.1");
        bare["clusters"][0]["cluster"] = json!({"server": "https://10.0.0.1"});
        read(&bare).expect_err("no authority");
        for short in [&b"apiVersion: v1"[..], b"token: [secret", b"\xff"] {
            let said = Place::read(short, Path::new("/")).expect_err("it says too little");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
