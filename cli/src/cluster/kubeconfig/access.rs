//! One context of a kubeconfig, checked: what it takes to reach its API server.

use super::model::{Cluster, ClusterInfo, Context, Exec, File, Secret, User};
use crate::fault::Fault;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use http::uri::Scheme;
use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

/// Namespace of who names none.
const DEFAULT_NAMESPACE: &str = "default";

/// Extension of a cluster's entry that is meant for credential programs.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// Longest file that a kubeconfig names, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// What the command line says in place of the kubeconfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The file to read, and no other.
    pub kubeconfig: Option<PathBuf>,
    /// The context, in place of the current one.
    pub context: Option<String>,
    /// The namespace, in place of the context's.
    pub namespace: Option<String>,
    /// Whom to act as.
    pub impersonation: Impersonation,
}

/// Whom to act as, if the API server lets us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impersonation {
    /// The user's name.
    pub user: Option<String>,
    /// The user's uid.
    pub uid: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// What else is said of the user.
    pub extra: Vec<(String, String)>,
}

/// An API server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// A DNS name or an address, IPv6 without brackets.
    pub host: String,
    /// 1-65535.
    pub port: u16,
    /// Whether it is reached with TLS.
    pub is_tls: bool,
    /// What stands before every path: empty, or `/...` without a slash at its end.
    pub prefix: String,
}

/// What an API server has to prove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cluster) struct ServerTrust {
    /// CAs in PEM; none for those of the system.
    pub(in crate::cluster) ca: Option<Vec<u8>>,
    /// The name that its certificate must be for, in place of the host.
    pub(in crate::cluster) name: Option<String>,
    /// Whether it has to prove nothing at all.
    pub(in crate::cluster) insecure: bool,
}

/// A certificate with its chain, and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::cluster) struct Identity {
    pub(in crate::cluster) certificate: Vec<u8>,
    pub(in crate::cluster) key: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// How we say who we are, beside a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Auth {
    None,
    Token(Secret),
    /// Read anew for each request: such tokens are replaced.
    TokenFile(PathBuf),
    Basic(String, Secret),
    Exec(Box<Exec>),
}

/// What it takes to reach an API server.
#[derive(Clone, Debug)]
pub struct Access {
    /// Its context, where a kubeconfig named it.
    pub context: Option<String>,
    /// Where it is.
    pub server: ApiServer,
    /// The namespace that is meant where none is said.
    pub namespace: String,
    pub(in crate::cluster) trust: ServerTrust,
    pub(in crate::cluster) identity: Option<Identity>,
    pub(in crate::cluster) auth: Auth,
    pub(in crate::cluster) impersonation: Impersonation,
    /// `proxy-url`; the environment's counts where it is not set.
    pub(in crate::cluster) proxy: Option<String>,
    pub(in crate::cluster) info: ClusterInfo,
}

impl fmt::Display for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

impl ApiServer {
    /// Reads the `server` of a cluster.
    ///
    /// # Errors
    /// A sentence: it is no http or https URL of a host.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "its server {:?} is no URL such as https://203.0.113.7:6443",
                crate::clean::clean(url)
            )
        };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().and_then(host).ok_or_else(wrong)?;
        let userinfo = uri
            .authority()
            .is_some_and(|one| one.as_str().contains('@'));
        if userinfo || uri.query().is_some() {
            return Err(wrong());
        }
        let port = match uri.port() {
            Some(port) => Some(port.as_u16()).filter(|port| *port != 0),
            None if is_tls => Some(443),
            None => Some(80),
        };
        Ok(Self {
            host,
            port: port.ok_or_else(wrong)?,
            is_tls,
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// Host and port, IPv6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The host of a URL: a name, an IPv4 address, or an IPv6 address without the
/// brackets that it has there.
pub(in crate::cluster) fn host(text: &str) -> Option<String> {
    if let Some(bare) = text.strip_prefix('[') {
        let bare = bare.strip_suffix(']')?;
        return bare.parse::<Ipv6Addr>().is_ok().then(|| bare.to_owned());
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (!text.is_empty() && text.bytes().all(plain)).then(|| text.to_owned())
}

/// Picks a context's cluster and user.
pub(super) fn choose(file: &File, overrides: &Overrides) -> Result<Access, Fault> {
    let name = overrides.context.clone().or(file.current_context());
    let (context, cluster) = match &name {
        Some(name) => {
            let context = file.context(name).ok_or_else(|| no_context(file, name))?;
            let cluster = context.cluster.as_deref().filter(|name| !name.is_empty());
            let cluster = cluster.ok_or_else(|| {
                Fault::usage(format!("kubeconfig: context {name:?} names no cluster"))
            })?;
            let found = file.cluster(cluster).ok_or_else(|| {
                Fault::usage(format!(
                    "kubeconfig: context {name:?} names cluster {cluster:?}, which it does not have"
                ))
            })?;
            (context, found)
        }
        None => {
            let only = file.only_cluster().ok_or_else(|| {
                Fault::usage(
                    "kubeconfig: no context is current: choose one with --context, or with `kubectl config use-context`",
                )
            })?;
            (Context::default(), only)
        }
    };
    let user = match context.user.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => file.user(name).ok_or_else(|| {
            Fault::usage(format!(
                "kubeconfig: user {name:?} is named and does not exist there"
            ))
        })?,
        None => User::default(),
    };
    let namespace = overrides.namespace.clone().or(context.namespace);
    Ok(Access {
        context: name,
        namespace: namespace
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        ..access(&cluster, user, overrides)?
    })
}

fn no_context(file: &File, name: &str) -> Fault {
    let others: Vec<_> = file.contexts().take(10).collect();
    let others = match others.join(", ") {
        none if none.is_empty() => "it has none".to_owned(),
        some => format!("it has {some}"),
    };
    Fault::usage(format!(
        "kubeconfig: context {name:?} does not exist: {others}"
    ))
}

fn access(cluster: &Cluster, user: User, overrides: &Overrides) -> Result<Access, Fault> {
    let wrong = |what: String| Fault::usage(format!("kubeconfig: the cluster: {what}"));
    let server = cluster.server.clone().unwrap_or_default();
    let server = ApiServer::parse(&server).map_err(wrong)?;
    let ca = material(
        "certificate-authority",
        cluster.certificate_authority.as_deref(),
        cluster.certificate_authority_data.as_deref(),
    )?;
    let trust = ServerTrust {
        ca,
        name: cluster
            .tls_server_name
            .clone()
            .filter(|name| !name.is_empty()),
        insecure: cluster.insecure_skip_tls_verify.unwrap_or_default(),
    };
    let info = info(cluster, &server, &trust);
    let impersonation = impersonation(&user, &overrides.impersonation)?;
    // As kubectl: nobody's secrets travel in clear text.
    let (identity, auth) = if server.is_tls {
        credentials(user)?
    } else {
        (None, Auth::None)
    };
    Ok(Access {
        context: None,
        server,
        namespace: String::new(),
        trust,
        identity,
        auth,
        impersonation,
        proxy: cluster.proxy_url.clone().filter(|url| !url.is_empty()),
        info,
    })
}

fn credentials(user: User) -> Result<(Option<Identity>, Auth), Fault> {
    let data = |data: &Option<Secret>| data.as_ref().map(|secret| secret.0.clone());
    let certificate = material(
        "client-certificate",
        user.client_certificate.as_deref(),
        data(&user.client_certificate_data).as_deref(),
    )?;
    let key = material(
        "client-key",
        user.client_key.as_deref(),
        data(&user.client_key_data).as_deref(),
    )?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        (None, None) => None,
        _ => {
            return Err(Fault::usage(
                "kubeconfig: the user has a client-certificate or a client-key and not the other",
            ));
        }
    };
    let token = user.token.filter(|token| !token.0.is_empty());
    let auth = if let Some(file) = user.token_file {
        Auth::TokenFile(file)
    } else if let Some(token) = token {
        Auth::Token(token)
    } else if let Some(name) = user.username.filter(|name| !name.is_empty()) {
        Auth::Basic(name, user.password.unwrap_or_default())
    } else if let Some(exec) = user.exec {
        Auth::Exec(Box::new(exec))
    } else if let Some(provider) = user.auth_provider {
        return Err(Fault::usage(format!(
            "kubeconfig: auth-provider {:?} is not supported: use a credential plug-in (exec)",
            provider.name
        )));
    } else {
        Auth::None
    };
    Ok((identity, auth))
}

/// Whom to act as: what the command line says replaces what the file says.
fn impersonation(user: &User, flags: &Impersonation) -> Result<Impersonation, Fault> {
    let mut chosen = flags.clone();
    if chosen.user.is_none() {
        chosen.user = user.as_user.clone().filter(|name| !name.is_empty());
        let extra = user.as_user_extra.iter().flatten();
        chosen.extra = extra
            .flat_map(|(key, values)| values.iter().map(|value| (key.clone(), value.clone())))
            .collect();
        if chosen.uid.is_none() {
            chosen.uid = user.as_uid.clone().filter(|uid| !uid.is_empty());
        }
        if chosen.groups.is_empty() {
            chosen.groups = user.as_groups.clone().unwrap_or_default();
        }
    }
    if chosen.user.is_none() && (chosen.uid.is_some() || !chosen.groups.is_empty()) {
        return Err(Fault::usage(
            "--as-group and --as-uid go with --as: name the user, too",
        ));
    }
    Ok(chosen)
}

/// What a file or its content in base64 says; the content counts more.
fn material(
    field: &str,
    path: Option<&Path>,
    data: Option<&str>,
) -> Result<Option<Vec<u8>>, Fault> {
    if let Some(data) = data.filter(|data| !data.trim().is_empty()) {
        let plain: String = data.split_whitespace().collect();
        let decoded = STANDARD.decode(plain);
        return decoded
            .map(Some)
            .map_err(|_| Fault::usage(format!("kubeconfig: {field}-data is no base64")));
    }
    let Some(path) = path else { return Ok(None) };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| {
        std::io::Read::read_to_end(&mut std::io::Read::take(file, LONGEST), &mut bytes)
    });
    match read {
        Ok(_) => Ok(Some(bytes)),
        Err(error) => Err(Fault::usage(format!(
            "kubeconfig: {field} {}: {}",
            path.display(),
            crate::cause(&error)
        ))),
    }
}

fn info(cluster: &Cluster, server: &ApiServer, trust: &ServerTrust) -> ClusterInfo {
    let mut extensions = cluster.extensions.iter().flatten();
    let config = extensions.find(|one| one.name == EXEC_EXTENSION);
    ClusterInfo {
        server: server.to_string(),
        tls_server_name: trust.name.clone(),
        insecure_skip_tls_verify: trust.insecure,
        certificate_authority_data: trust.ca.as_ref().map(|ca| STANDARD.encode(ca)),
        proxy_url: cluster.proxy_url.clone(),
        config: config.map(|one| one.extension.clone()).unwrap_or_default(),
    }
}
