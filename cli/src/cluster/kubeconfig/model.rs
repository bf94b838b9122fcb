//! What a kubeconfig says, field by field. What we do not use is passed over.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A secret of a kubeconfig: shown nowhere.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub(in crate::cluster) struct Secret(pub(in crate::cluster) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A list of named things, which may be missing or `null`.
type Named<T> = Option<Vec<T>>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct File {
    current_context: Option<String>,
    contexts: Named<NamedContext>,
    clusters: Named<NamedCluster>,
    users: Named<NamedUser>,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Option<Context>,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Option<Cluster>,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<User>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    pub(super) cluster: Option<String>,
    pub(super) user: Option<String>,
    pub(super) namespace: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Cluster {
    pub(super) server: Option<String>,
    pub(super) certificate_authority: Option<PathBuf>,
    pub(super) certificate_authority_data: Option<String>,
    pub(super) insecure_skip_tls_verify: Option<bool>,
    pub(super) tls_server_name: Option<String>,
    pub(super) proxy_url: Option<String>,
    pub(super) extensions: Named<Extension>,
}

/// Something that a cluster's entry says to one program.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Extension {
    pub(super) name: String,
    #[serde(default)]
    pub(super) extension: serde_json::Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct User {
    pub(super) client_certificate: Option<PathBuf>,
    pub(super) client_certificate_data: Option<Secret>,
    pub(super) client_key: Option<PathBuf>,
    pub(super) client_key_data: Option<Secret>,
    pub(super) token: Option<Secret>,
    #[serde(alias = "tokenFile")]
    pub(super) token_file: Option<PathBuf>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    #[serde(rename = "as")]
    pub(super) as_user: Option<String>,
    pub(super) as_uid: Option<String>,
    pub(super) as_groups: Option<Vec<String>>,
    pub(super) as_user_extra: Option<BTreeMap<String, Vec<String>>>,
    pub(super) exec: Option<Exec>,
    pub(super) auth_provider: Option<AuthProvider>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AuthProvider {
    pub(super) name: String,
}

/// A program that answers credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::cluster) struct Exec {
    pub(in crate::cluster) api_version: String,
    pub(in crate::cluster) command: String,
    pub(in crate::cluster) args: Option<Vec<String>>,
    pub(in crate::cluster) env: Option<Vec<Variable>>,
    pub(in crate::cluster) install_hint: Option<String>,
    pub(in crate::cluster) provide_cluster_info: bool,
    pub(in crate::cluster) interactive_mode: Option<String>,
}

/// A variable in the environment of such a program. Its value may be a secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(in crate::cluster) struct Variable {
    pub(in crate::cluster) name: String,
    pub(in crate::cluster) value: Secret,
}

/// What such a program is told of the cluster, if it wants to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cluster) struct ClusterInfo {
    pub(super) server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_server_name: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) insecure_skip_tls_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_authority_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy_url: Option<String>,
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub(super) config: serde_json::Value,
}

impl File {
    /// Reads YAML, of which JSON is a part.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text in UTF-8".to_owned())?;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let read: Result<Option<Self>, _> = serde_saphyr::from_str(text);
        // The reader's own words would quote the file, which has secrets.
        read.map(Option::unwrap_or_default)
            .map_err(|error| match error.location() {
                Some(at) => format!(
                    "it is no kubeconfig in YAML: see line {}, column {}",
                    at.line(),
                    at.column()
                ),
                None => "it is no kubeconfig in YAML".to_owned(),
            })
    }

    /// Makes the paths in it absolute, or relative to where we run as the file is.
    pub(super) fn resolve(mut self, directory: &Path) -> Self {
        let absolute = |path: &mut Option<PathBuf>| {
            *path = path
                .take()
                .filter(|path| !path.as_os_str().is_empty())
                .map(|path| directory.join(path));
        };
        let clusters = self.clusters.iter_mut().flatten();
        for cluster in clusters.filter_map(|one| one.cluster.as_mut()) {
            absolute(&mut cluster.certificate_authority);
        }
        let users = self.users.iter_mut().flatten();
        for user in users.filter_map(|one| one.user.as_mut()) {
            absolute(&mut user.client_certificate);
            absolute(&mut user.client_key);
            absolute(&mut user.token_file);
            if let Some(exec) = &mut user.exec {
                let path = Path::new(&exec.command);
                // A bare name is looked for in PATH.
                if path.components().count() > 1 && path.is_relative() {
                    exec.command = directory.join(path).to_string_lossy().into_owned();
                }
            }
        }
        self
    }

    /// Adds what another file says of things that this one does not name.
    pub(super) fn merge(mut self, other: Self) -> Self {
        fn add<T>(ours: &mut Named<T>, theirs: Named<T>, name: impl Fn(&T) -> &str) {
            let ours = ours.get_or_insert_default();
            for one in theirs.into_iter().flatten() {
                if !ours.iter().any(|other| name(other) == name(&one)) {
                    ours.push(one);
                }
            }
        }
        self.current_context = self.current_context().or(other.current_context());
        add(&mut self.contexts, other.contexts, |one| &one.name);
        add(&mut self.clusters, other.clusters, |one| &one.name);
        add(&mut self.users, other.users, |one| &one.name);
        self
    }

    pub(super) fn current_context(&self) -> Option<String> {
        self.current_context.clone().filter(|name| !name.is_empty())
    }

    pub(super) fn context(&self, name: &str) -> Option<Context> {
        let mut all = self.contexts.iter().flatten();
        let found = all.find(|one| one.name == name)?;
        Some(found.context.clone().unwrap_or_default())
    }

    pub(super) fn contexts(&self) -> impl Iterator<Item = &str> {
        self.contexts.iter().flatten().map(|one| one.name.as_str())
    }

    pub(super) fn cluster(&self, name: &str) -> Option<Cluster> {
        let mut all = self.clusters.iter().flatten();
        let found = all.find(|one| one.name == name)?;
        Some(found.cluster.clone().unwrap_or_default())
    }

    /// The only cluster, where no context says which.
    pub(super) fn only_cluster(&self) -> Option<Cluster> {
        match self.clusters.as_deref() {
            Some([one]) => Some(one.cluster.clone().unwrap_or_default()),
            _ => None,
        }
    }

    pub(super) fn user(&self, name: &str) -> Option<User> {
        let mut all = self.users.iter().flatten();
        let found = all.find(|one| one.name == name)?;
        Some(found.user.clone().unwrap_or_default())
    }
}
