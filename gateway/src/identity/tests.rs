use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + HOUR * 500_000
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "front-proxy-ca");
    let certificate = params.self_signed(&key).expect("signed");
    Authority {
        pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    fn client(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = (now() - HOUR).into();
        params.not_after = (now() + HOUR).into();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        signed.der().clone()
    }

    fn proxy(&self) -> CertificateDer<'static> {
        self.client("front-proxy-client", ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// As an API server writes it.
    fn settings(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("requestheader-client-ca-file", self.pem.as_str()),
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#,
            ),
        ];
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }
}

fn read(data: &BTreeMap<String, String>) -> Result<FrontProxy, SettingsError> {
    FrontProxy::from_settings(data, &provider())
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|(name, value)| {
        let name = HeaderName::from_static(name);
        (name, value.parse().expect("a value"))
    });
    let mut all = HeaderMap::new();
    for (name, value) in pairs {
        all.append(name, value);
    }
    all
}

#[test]
fn the_user_is_who_the_proxy_names() {
    let authority = authority();
    let proxy = read(&authority.settings()).expect("sound");
    let sent = headers(&[
        ("x-remote-user", "jane"),
        ("x-remote-uid", "42"),
        ("x-remote-group", "dev"),
        ("x-remote-group", "system:authenticated"),
        ("x-remote-extra-scopes", "a"),
        ("x-remote-extra-scopes", "b"),
        ("x-remote-extra-example.com%2fkey", "c"),
        ("x-remote-other", "d"),
    ]);
    let user = proxy
        .user(&[authority.proxy()], &sent, now())
        .expect("known");
    let extra = [("example.com/key", vec!["c"]), ("scopes", vec!["a", "b"])];
    let extra = extra.map(|(key, values)| {
        (
            key.to_owned(),
            values.into_iter().map(str::to_owned).collect(),
        )
    });
    assert_eq!(
        user,
        User {
            name: "jane".to_owned(),
            uid: "42".to_owned(),
            groups: vec!["dev".to_owned(), "system:authenticated".to_owned()],
            extra: extra.into(),
        }
    );
}

#[test]
fn headers_alone_are_nobody() {
    let (authority, other) = (authority(), authority());
    let proxy = read(&authority.settings()).expect("sound");
    let sent = headers(&[
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
    ]);
    let user = |chain: &[CertificateDer<'_>], at| proxy.user(chain, &sent, at);
    user(&[authority.proxy()], now()).expect("the proxy itself");
    assert_eq!(user(&[], now()), Err(Stranger::NoCertificate));
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    for (who, chain, at) in [
        ("signed by somebody else", other.proxy(), now()),
        (
            "for another name",
            authority.client("kubelet", usage),
            now(),
        ),
        (
            "for a server",
            authority.client("front-proxy-client", ExtendedKeyUsagePurpose::ServerAuth),
            now(),
        ),
        ("over", authority.proxy(), now() + HOUR * 2),
        ("not begun", authority.proxy(), now() - HOUR * 2),
        ("nothing", CertificateDer::from(vec![0; 3]), now()),
    ] {
        let refused = user(&[chain], at).expect_err(who);
        assert!(
            matches!(refused, Stranger::NotTheProxy(_)),
            "{who}: {refused}"
        );
    }
}

#[test]
fn any_name_is_allowed_where_none_is_named() {
    let authority = authority();
    let mut settings = authority.settings();
    settings.insert("requestheader-allowed-names".to_owned(), "[]".to_owned());
    let proxy = read(&settings).expect("sound");
    let chain = [authority.client("whoever", ExtendedKeyUsagePurpose::ClientAuth)];
    proxy
        .user(&chain, &headers(&[("x-remote-user", "jane")]), now())
        .expect("allowed");
}

#[test]
fn a_proxy_that_names_nobody_is_refused() {
    let authority = authority();
    let proxy = read(&authority.settings()).expect("sound");
    for sent in [
        headers(&[]),
        headers(&[("x-remote-user", "")]),
        headers(&[("x-remote-group", "dev")]),
    ] {
        let refused = proxy.user(&[authority.proxy()], &sent, now());
        assert_eq!(refused, Err(Stranger::NoUser));
    }
}

#[test]
fn groups_and_extra_values_have_an_end() {
    let authority = authority();
    let proxy = read(&authority.settings()).expect("sound");
    for (name, most) in [
        ("x-remote-group", MAX_VALUES),
        ("x-remote-extra-a", MAX_VALUES),
    ] {
        let mut sent = vec![(name, "x"); most];
        sent.push(("x-remote-user", "jane"));
        let user =
            |sent: &[(&'static str, &str)]| proxy.user(&[authority.proxy()], &headers(sent), now());
        user(&sent).expect("just so");
        sent.push((name, "x"));
        assert_eq!(user(&sent), Err(Stranger::TooMany), "{name}");
    }
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let authority = authority();
    for (key, value) in [
        ("requestheader-client-ca-file", None),
        ("requestheader-client-ca-file", Some("")),
        (
            "requestheader-client-ca-file",
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ),
        ("requestheader-username-headers", None),
        ("requestheader-username-headers", Some("[]")),
        ("requestheader-username-headers", Some(r#"["a b"]"#)),
        ("requestheader-group-headers", Some("X-Remote-Group")),
        ("requestheader-allowed-names", Some("{}")),
    ] {
        let mut settings = authority.settings();
        match value {
            Some(value) => drop(settings.insert(key.to_owned(), value.to_owned())),
            None => drop(settings.remove(key)),
        }
        let refused = read(&settings).expect_err(key);
        assert!(refused.to_string().starts_with(key), "{refused}");
    }
}
