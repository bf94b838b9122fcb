//! What a path and its query ask for, validated once.

use crate::{GROUP, SUBRESOURCE, VERSION};
use percent_encoding::percent_decode_str;
use std::time::Duration;
use sternline_api::listen::{Bind, Listen};
use sternline_api::{Failure, Reason, span};

/// The resource in paths and in answers.
pub(crate) const SLOT: &str = "pods";

/// Longest query that is looked at, in bytes: some 1,000 listeners.
const MAX_QUERY: usize = 32 * 1024;

/// Longest name of a pod or namespace (RFC 1123, section 2.1).
const MAX_NAME: usize = 253;

/// A forward that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// The incarnation of the pod that is meant; any, if it is not said.
    pub uid: Option<String>,
    /// Where to listen, at least once. Ids are positions.
    pub listeners: Vec<Listen>,
    /// How long the listeners outlive the connection.
    pub hold: Duration,
}

impl ForwardRequest {
    /// Whether a path is that of a forward; its namespace and pod.
    #[must_use]
    pub fn place(path: &str) -> Option<(&str, &str)> {
        let rest = path.strip_prefix("/apis/")?.strip_prefix(GROUP)?;
        let rest = rest.strip_prefix('/')?.strip_prefix(VERSION)?;
        let mut parts = rest.strip_prefix("/namespaces/")?.split('/');
        let (namespace, slot) = (parts.next()?, parts.next()?);
        let (pod, subresource) = (parts.next()?, parts.next()?);
        let is_one = slot == SLOT && subresource == SUBRESOURCE && parts.next().is_none();
        is_one.then_some((namespace, pod))
    }

    /// Reads the query of a forward in this namespace, to this pod.
    ///
    /// # Errors
    /// A name that none can have, a listener that cannot be, a word that is not
    /// known: what is asked for in vain is never granted in part.
    pub fn parse(namespace: &str, pod: &str, query: &str) -> Result<Self, Failure> {
        check_name("namespace", namespace)?;
        check_name("pod", pod)?;
        if query.len() > MAX_QUERY {
            return Err(invalid(format!(
                "the query is longer than {MAX_QUERY} bytes: ask for fewer listeners"
            )));
        }
        let (mut listeners, mut hold, mut uid) = (Vec::new(), None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            match name.as_str() {
                "listen" => listeners.push(value),
                "hold" => {
                    let span = span::parse(&value);
                    let span = span.map_err(|error| invalid(format!("hold: {error}")))?;
                    once(&mut hold, span, &name)?;
                }
                "uid" if uid_is_sound(&value) => once(&mut uid, value, &name)?,
                "uid" => return Err(invalid(format!("{value:?} is no uid of a pod"))),
                _ => {
                    return Err(invalid(format!(
                        "{name:?} cannot be asked for: known are listen, hold and uid; is this gateway older than its client?"
                    )));
                }
            }
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            uid,
            listeners: Listen::all((0..).zip(&listeners).map(|(id, text)| listen_one(id, text)))?,
            hold: hold.unwrap_or_default(),
        })
    }

    /// Whether others than the pod could reach one of the listeners.
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.listeners.iter().any(|one| one.bind.is_wide())
    }
}

/// Reads `PORT`, `localhost:PORT`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
fn listen_one(id: u32, text: &str) -> Result<Listen, Failure> {
    let wrong = || {
        invalid(format!(
            "{text:?} is nothing to listen on: write PORT, ADDRESS:PORT or [ADDRESS]:PORT, with a port of 1-65535 or 0"
        ))
    };
    let (address, port) = text.rsplit_once(':').unwrap_or(("", text));
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    let bare = match address.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .filter(|bare| bare.contains(':'))
            .ok_or_else(wrong)?,
        None if address.contains(':') => return Err(wrong()),
        None if address == "localhost" => "",
        None => address,
    };
    let bind = Bind::parse(bare).map_err(|_| wrong())?;
    Ok(Listen { id, bind, port })
}

fn once<T>(slot: &mut Option<T>, value: T, name: &str) -> Result<(), Failure> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(invalid(format!(
            "{name} stands twice in the query: say it once"
        ))),
    }
}

/// Decodes a part of a query, in which a plus is a space.
fn decoded(text: &str) -> Result<String, Failure> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let decoded = decoded.map_err(|_| invalid("the query is not text in UTF-8".to_owned()))?;
    Ok(decoded.into_owned())
}

/// Names as the API server has them (RFC 1123): nothing of a path gets through.
fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().last()];
    let sound = name.len() <= MAX_NAME
        && ends.iter().all(|end| end.is_some_and(plain))
        && name
            .bytes()
            .all(|byte| plain(byte) || b"-.".contains(&byte));
    if sound {
        Ok(())
    } else {
        Err(invalid(format!(
            "{name:?} is no name of a {what}: it has lower-case letters, digits, dots and hyphens"
        )))
    }
}

fn uid_is_sound(uid: &str) -> bool {
    let plain = uid
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && (1..=128).contains(&uid.len())
}

fn invalid(message: String) -> Failure {
    Failure::new(Reason::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(query: &str) -> Result<ForwardRequest, Failure> {
        ForwardRequest::parse("shop", "web-0", query)
    }

    fn listens(query: &str) -> Vec<String> {
        let all = parse(query).expect(query).listeners;
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_forward_is_found_in_its_path() {
        let base = "/apis/reverse.sternline.dev/v1alpha1/namespaces";
        let place = |rest: &str| {
            ForwardRequest::place(&format!("{base}{rest}"))
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        };
        let found = place("/shop/pods/web-0/portforward").expect("one");
        assert_eq!((found.0.as_str(), found.1.as_str()), ("shop", "web-0"));
        for other in [
            "",
            "/shop",
            "/shop/pods",
            "/shop/pods/web-0",
            "/shop/pods/web-0/exec",
            "/shop/pods/web-0/portforward/",
            "/shop/services/web-0/portforward",
            "/shop/pods/a/b/portforward",
        ] {
            assert_eq!(place(other), None, "{other}");
        }
        assert_eq!(
            ForwardRequest::place("/apis/reverse.sternline.dev/v1/namespaces/a/pods/b/portforward"),
            None
        );
    }

    #[test]
    fn a_query_is_read_whole() {
        let asked =
            parse("listen=9003&listen=%5B%3A%3A1%5D%3A80&hold=1m30s&uid=0a-1B&listen=127.0.0.2:0")
                .expect("sound");
        let shown: Vec<_> = asked.listeners.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["localhost:9003", "[::1]:80", "127.0.0.2:0"]);
        assert_eq!(
            asked.listeners.iter().map(|one| one.id).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert_eq!(
            (asked.hold, asked.uid.as_deref()),
            (Duration::from_secs(90), Some("0a-1B"))
        );
        assert!(!asked.is_wide());
    }

    #[test]
    fn loopback_may_be_said_or_left_out() {
        for query in [
            "listen=80",
            "listen=:80",
            "listen=localhost:80",
            "&listen=80&",
        ] {
            assert_eq!(listens(query), ["localhost:80"], "{query}");
        }
    }

    #[test]
    fn wide_is_what_others_could_reach() {
        for (query, wide) in [
            ("listen=127.9.9.9:1", false),
            ("listen=0.0.0.0:1", true),
            ("listen=80&listen=[::]:1", true),
        ] {
            assert_eq!(parse(query).expect(query).is_wide(), wide, "{query}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for query in [
            "",
            "hold=3s",
            "listen=",
            "listen",
            "listen=65536",
            "listen=-1",
            "listen=+1",
            "listen=a:b",
            "listen=::1:80",
            "listen=[127.0.0.1]:80",
            "listen=[::1:80",
            "listen=example.com:80",
            "listen=80&listen=80",
            "listen=80&listen=localhost:80",
            "listen=80&hold=3s&hold=3s",
            "listen=80&hold=forever",
            "listen=80&uid=",
            "listen=80&uid=a/b",
            "listen=80&target=10.0.0.1",
            "listen=%ff",
            "listen=[::ffff:127.0.0.1]:80",
        ] {
            let refused = parse(query).expect_err(query);
            assert_eq!(refused.reason, Reason::InvalidRequest, "{query}");
        }
        let long = "listen=80&".repeat(4000);
        parse(&long).expect_err("too long");
    }

    #[test]
    fn names_lead_nowhere_else() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a%2fb",
            "A",
            "-a",
            "a-",
            "a\n",
            &"a".repeat(254),
        ] {
            ForwardRequest::parse(name, "web", "listen=80").expect_err(name);
            ForwardRequest::parse("shop", name, "listen=80").expect_err(name);
        }
        ForwardRequest::parse("shop", "web.0", "listen=80").expect("a name");
    }

    proptest! {
        #[test]
        fn any_query_is_read_or_refused(query in ".{0,200}") {
            let _ = parse(&query);
        }

        #[test]
        fn what_is_printed_is_read_again(port in 0u16.., v6 in any::<u128>(), v4 in any::<u32>()) {
            for ip in [std::net::IpAddr::V4(v4.into()), std::net::IpAddr::V6(v6.into())] {
                let listen = Listen { id: 0, bind: Bind::Ip(ip), port };
                prop_assume!(Bind::parse(&ip.to_string()).is_ok());
                prop_assert_eq!(listen_one(0, &listen.to_string()).expect("it was printed"), listen);
            }
        }
    }
}
