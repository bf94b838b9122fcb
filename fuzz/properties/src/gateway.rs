//! What a gateway reads: the path and query of a forward, and the fields in which the
//! front proxy names a user.

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use sternline_api::span;
use sternline_gateway::authority::{Keyring, Lifetimes};
use sternline_gateway::fuzzing::named;
use sternline_gateway::identity::{FrontProxy, Stranger};
use sternline_gateway::request::ForwardRequest;

/// Most groups and values of extra keys that a user may have.
const MAX_VALUES: usize = 1024;

/// Whatever is asked for leads to one pod and nowhere else, and means the same when
/// it is written again.
pub(crate) fn request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let Some((namespace, pod)) = ForwardRequest::place(path) else {
        return;
    };
    let Ok(asked) = ForwardRequest::parse(namespace, pod, query) else {
        return;
    };
    for name in [&asked.namespace, &asked.pod] {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        assert!(name.bytes().all(plain) && !name.starts_with('.'), "{name}");
    }
    assert!(!asked.listeners.is_empty());
    let wide = asked.listeners.iter().any(|one| one.bind.is_wide());
    assert_eq!(asked.is_wide(), wide);
    let listeners = asked.listeners.iter().map(|one| {
        let text = one.to_string();
        format!("listen={}&", utf8_percent_encode(&text, NON_ALPHANUMERIC))
    });
    let mut again: String = listeners.collect();
    again += &format!("hold={}", span::exact(asked.hold));
    if let Some(uid) = &asked.uid {
        again += &format!("&uid={uid}");
    }
    let read = ForwardRequest::parse(namespace, pod, &again);
    assert_eq!(read.expect("it was read before"), asked, "{again}");
}

/// Fields name somebody, or nobody; those that the cluster did not choose for it
/// change nothing.
pub(crate) fn identity(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(2 * MAX_VALUES) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let proxy = proxy();
    let user = named(proxy, &headers);
    if let Ok(user) = &user {
        assert!(!user.name.trim().is_empty());
        let extra: usize = user.extra.values().map(Vec::len).sum();
        assert!(user.groups.len() + extra <= MAX_VALUES);
    }
    let chosen: HeaderMap = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-remote-"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    assert_eq!(named(proxy, &chosen), user);
    headers.remove("x-remote-user");
    assert_eq!(named(proxy, &headers), Err(Stranger::NoUser));
}

/// A front proxy as clusters have it.
fn proxy() -> &'static FrontProxy {
    static PROXY: OnceLock<FrontProxy> = OnceLock::new();
    PROXY.get_or_init(|| {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let ring = Keyring::generate(now, &Lifetimes::default()).expect("a root");
        let settings = [
            ("requestheader-client-ca-file", ring.bundle()),
            (
                "requestheader-username-headers",
                r#"["X-Remote-User"]"#.to_owned(),
            ),
            (
                "requestheader-uid-headers",
                r#"["X-Remote-Uid"]"#.to_owned(),
            ),
            (
                "requestheader-group-headers",
                r#"["X-Remote-Group"]"#.to_owned(),
            ),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#.to_owned(),
            ),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        FrontProxy::from_settings(&BTreeMap::from(settings), &provider).expect("sound")
    })
}
