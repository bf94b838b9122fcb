//! A pod's own service account, for who runs this inside the cluster.

use super::access::{Access, ApiServer, Auth, Overrides, ServerTrust};
use super::model::ClusterInfo;
use std::path::Path;

/// Where the kubelet puts it.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The API server of the cluster that we run in, if we do.
pub(super) fn access(overrides: &Overrides) -> Option<Access> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let port = variable("KUBERNETES_SERVICE_PORT")?.parse().ok()?;
    from(Path::new(ACCOUNT), host, port, overrides)
}

fn from(account: &Path, host: String, port: u16, overrides: &Overrides) -> Option<Access> {
    let token = account.join("token");
    if !token.is_file() {
        return None;
    }
    let own = std::fs::read_to_string(account.join("namespace")).ok();
    let own = own.map(|name| name.trim().to_owned());
    let namespace = overrides.namespace.clone().or(own);
    Some(Access {
        context: None,
        server: ApiServer {
            host,
            port,
            is_tls: true,
            prefix: String::new(),
        },
        namespace: namespace
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        trust: ServerTrust {
            ca: std::fs::read(account.join("ca.crt")).ok(),
            ..ServerTrust::default()
        },
        identity: None,
        auth: Auth::TokenFile(token),
        impersonation: overrides.impersonation.clone(),
        proxy: None,
        info: ClusterInfo::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_is_used_where_the_kubelet_put_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let none = from(dir.path(), "10.0.0.1".into(), 443, &Overrides::default());
        assert!(none.is_none());
        for (file, text) in [("token", "t"), ("ca.crt", "ca"), ("namespace", "shop\n")] {
            std::fs::write(dir.path().join(file), text).expect("written");
        }
        let access = from(dir.path(), "fd00::1".into(), 443, &Overrides::default());
        let access = access.expect("an account");
        assert_eq!(access.namespace, "shop");
        assert_eq!(access.server.to_string(), "https://[fd00::1]:443");
        assert_eq!(access.auth, Auth::TokenFile(dir.path().join("token")));
        assert_eq!(access.trust.ca.as_deref(), Some(&b"ca"[..]));
    }
}
