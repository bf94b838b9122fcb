//! Kubeconfigs as they are found in the wild.

use super::access::Auth;
use super::*;
use proptest::prelude::*;

const ONE: &str = r#"
apiVersion: v1
kind: Config
preferences: {}
current-context: dev
contexts:
- name: dev
  context: {cluster: c1, user: token, namespace: shop}
- name: prod
  context: {cluster: c2, user: cert}
- name: broken
  context: {cluster: nowhere, user: cert}
clusters:
- name: c1
  cluster:
    server: https://api.dev:6443/k8s/clusters/c-1/
    certificate-authority-data: Q0E=
    tls-server-name: kubernetes
    proxy-url: http://proxy:3128
    extensions:
    - name: client.authentication.k8s.io/exec
      extension: {audience: abc}
- name: c2
  cluster: {server: "https://[fd00::1]", certificate-authority: ca.pem, insecure-skip-tls-verify: false}
users:
- name: token
  user: {token: SECRET, as: jane, as-groups: [dev]}
- name: cert
  user:
    client-certificate: pki/c.crt
    client-key-data: S0VZ
"#;

fn parse(text: &str) -> File {
    File::parse(text.as_bytes()).expect("a kubeconfig")
}

fn chosen(text: &str, context: &str) -> Result<Access, Fault> {
    let overrides = Overrides {
        context: Some(context.to_owned()).filter(|name| !name.is_empty()),
        ..Overrides::default()
    };
    access::choose(&parse(text), &overrides)
}

#[test]
fn the_current_context_leads_to_a_server_and_a_user() {
    let access = chosen(ONE, "").expect("chosen");
    assert_eq!(access.server.authority(), "api.dev:6443");
    assert_eq!(access.server.prefix, "/k8s/clusters/c-1");
    assert_eq!(access.namespace, "shop");
    assert_eq!(access.trust.ca.as_deref(), Some(&b"CA"[..]));
    assert_eq!(access.trust.name.as_deref(), Some("kubernetes"));
    assert_eq!(access.proxy.as_deref(), Some("http://proxy:3128"));
    assert!(matches!(&access.auth, Auth::Token(token) if token.0 == "SECRET"));
    assert_eq!(access.impersonation.user.as_deref(), Some("jane"));
    assert_eq!(access.impersonation.groups, ["dev"]);
    let info = serde_json::to_value(&access.info).expect("JSON");
    assert_eq!(info["config"]["audience"], "abc");
    assert_eq!(info["certificate-authority-data"], "Q0E=");
    assert!(!format!("{access:?}").contains("SECRET"));
}

#[test]
fn flags_count_more_than_the_file() {
    let overrides = Overrides {
        namespace: Some("other".into()),
        impersonation: Impersonation {
            user: Some("joe".into()),
            ..Impersonation::default()
        },
        ..Overrides::default()
    };
    let access = access::choose(&parse(ONE), &overrides).expect("chosen");
    assert_eq!(access.namespace, "other");
    assert_eq!(access.impersonation.user.as_deref(), Some("joe"));
    assert!(access.impersonation.groups.is_empty(), "those were jane's");
}

#[test]
fn files_are_found_beside_the_kubeconfig() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("pki")).expect("made");
    for (file, text) in [("config", ONE), ("ca.pem", "THE CA"), ("pki/c.crt", "CRT")] {
        std::fs::write(dir.path().join(file), text).expect("written");
    }
    let overrides = Overrides {
        kubeconfig: Some(dir.path().join("config")),
        context: Some("prod".into()),
        ..Overrides::default()
    };
    let access = load(&overrides).expect("loaded");
    assert_eq!(access.server.to_string(), "https://[fd00::1]:443");
    assert_eq!(access.namespace, "default");
    assert_eq!(access.trust.ca.as_deref(), Some(&b"THE CA"[..]));
    let identity = access.identity.expect("an identity");
    assert_eq!(
        (identity.certificate, identity.key),
        (b"CRT".to_vec(), b"KEY".to_vec())
    );
}

#[test]
fn of_several_files_the_first_counts_and_missing_ones_are_passed_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(
        path("a"),
        "contexts:\n- {name: dev, context: {cluster: c9}}\nusers: null\n",
    )
    .expect("written");
    std::fs::write(path("b"), ONE).expect("written");
    std::fs::write(
        path("c"),
        r#"{"clusters":[{"name":"c9","cluster":{"server":"http://127.0.0.1:8001"}}]}"#,
    )
    .expect("written");
    let list = std::env::join_paths(["a", "none", "b", "c"].map(path)).expect("a list");
    let file = read_all(None, Some(list), None)
        .expect("read")
        .expect("some");
    let access = access::choose(&file, &Overrides::default()).expect("chosen");
    assert_eq!(access.server.to_string(), "http://127.0.0.1:8001");
    assert_eq!(access.auth, Auth::None);
    assert!(
        read_all(None, Some(path("none").into()), None)
            .expect("read")
            .is_none()
    );
}

#[test]
fn nothing_secret_travels_in_clear_text() {
    let text = ONE.replace("https://api.dev:6443/k8s/clusters/c-1/", "http://api.dev");
    let access = chosen(&text, "").expect("chosen");
    assert_eq!((access.server.port, access.auth), (80, Auth::None));
}

#[test]
fn what_is_wrong_is_named() {
    for (text, context, what) in [
        (ONE, "x", "\"x\" does not exist: it has dev, prod, broken"),
        (ONE, "broken", "\"nowhere\", which it does not have"),
        ("contexts: []", "", "no context is current"),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: b}}]\nclusters: [{name: b, cluster: {server: 'api:6443'}}]",
            "",
            "is no URL",
        ),
        (
            "clusters: [{name: b, cluster: {server: 'https://a', certificate-authority-data: '%'}}]",
            "",
            "certificate-authority-data is no base64",
        ),
    ] {
        let fault = chosen(text, context).expect_err(what);
        assert_eq!(fault.exit, crate::fault::exit::USAGE);
        assert!(fault.message.contains(what), "{fault}");
    }
}

#[test]
fn a_file_that_is_none_is_not_quoted() {
    for text in ["users: SECRET", "users:\n- name: [SECRET\n", "- SECRET"] {
        let why = File::parse(text.as_bytes()).expect_err(text);
        assert!(why.contains("no kubeconfig in YAML"), "{why}");
        assert!(!why.contains("SECRET"), "{why}");
    }
    assert!(File::parse(&[0xff]).is_err());
    assert!(File::parse(b"\n").is_ok());
}

#[test]
fn a_program_beside_the_kubeconfig_is_found() {
    let user = |command: &str| {
        let text = format!(
            "clusters: [{{name: c, cluster: {{server: 'https://a'}}}}]\n\
             contexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n\
             users:\n- name: u\n  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: {command}\n      args: [a]\n      interactiveMode: Never\n"
        );
        let file = parse(&text).resolve(Path::new("/etc/kube"));
        match access::choose(&file, &Overrides::default())
            .expect("chosen")
            .auth
        {
            Auth::Exec(exec) => exec.command,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(user("bin/login"), "/etc/kube/bin/login");
    assert_eq!(user("login"), "login");
    assert_eq!(user("/bin/login"), "/bin/login");
}

#[test]
fn servers_are_urls_of_a_host() {
    for (url, shown) in [
        ("https://a", "https://a:443"),
        ("http://a:1/", "http://a:1"),
        ("https://1.2.3.4:6443/x/", "https://1.2.3.4:6443/x"),
    ] {
        assert_eq!(ApiServer::parse(url).expect(url).to_string(), shown);
    }
    for url in [
        "",
        "a",
        "a:6443",
        "ftp://a",
        "https://",
        "https://u@a",
        "https://a?b",
        "https://a:0",
        "https://a[a]",
        "https://[a]",
        "https://[10.0.0.1]",
        "https://a%41",
    ] {
        assert!(ApiServer::parse(url).is_err(), "{url}");
    }
}

proptest! {
    #[test]
    fn any_file_and_any_url_is_read_or_refused(text in ".{0,200}", url in "(https?://)?[a-z0-9.:\\[\\]@%/?-]{0,30}") {
        let _ = File::parse(text.as_bytes());
        if let Ok(server) = ApiServer::parse(&url) {
            prop_assert_eq!(ApiServer::parse(&server.to_string()), Ok(server));
        }
    }
}
