//! What the user named in a cluster: `TYPE/NAME`, as in kubectl.

use crate::clean::clean;
use std::fmt;

/// Longest name (RFC 1123, section 2.1).
const LONGEST_NAME: usize = 253;

/// A kind that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A pod itself.
    Pod,
    /// `apps`.
    Deployment,
    /// `apps`.
    StatefulSet,
    /// `apps`.
    DaemonSet,
    /// `apps`.
    ReplicaSet,
    /// `batch`.
    Job,
    /// Its selector's pods.
    Service,
}

/// What kubectl calls them: the plural, other names, the group.
const KINDS: &[(Kind, &str, &[&str], &str)] = &[
    (Kind::Pod, "pods", &["pod", "po"], ""),
    (
        Kind::Deployment,
        "deployments",
        &["deployment", "deploy"],
        "apps",
    ),
    (
        Kind::StatefulSet,
        "statefulsets",
        &["statefulset", "sts"],
        "apps",
    ),
    (Kind::DaemonSet, "daemonsets", &["daemonset", "ds"], "apps"),
    (
        Kind::ReplicaSet,
        "replicasets",
        &["replicaset", "rs"],
        "apps",
    ),
    (Kind::Job, "jobs", &["job"], "batch"),
    (Kind::Service, "services", &["service", "svc"], ""),
];

impl Kind {
    /// Reads a kind as kubectl does: `deploy`, `deployment`, `deployments`,
    /// `deployments.apps`, `deployments.v1.apps`, in any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (name, group) = text.split_once('.').unwrap_or((&text, ""));
        let found = KINDS.iter().find(|(_, plural, others, of)| {
            let grouped =
                group.is_empty() || !of.is_empty() && (group == *of || group == format!("v1.{of}"));
            let long = name == *plural || name == others[0];
            // A short name has no group.
            grouped && (long || group.is_empty() && others.contains(&name))
        });
        found.map(|(kind, ..)| *kind)
    }

    /// Every kind, with the word that is offered for it.
    pub fn all() -> impl Iterator<Item = (Self, &'static str)> {
        KINDS.iter().map(|(kind, _, others, _)| (*kind, others[0]))
    }

    fn words(self) -> (&'static str, &'static str, &'static str) {
        let mut all = KINDS.iter().filter(|(kind, ..)| *kind == self);
        all.next()
            .map_or(("pods", "pod", ""), |(_, plural, others, group)| {
                (plural, others[0], group)
            })
    }

    /// The path of all of a namespace.
    #[must_use]
    pub fn path(self, namespace: &str) -> String {
        let (plural, _, group) = self.words();
        match group {
            "" => format!("/api/v1/namespaces/{namespace}/{plural}"),
            group => format!("/apis/{group}/v1/namespaces/{namespace}/{plural}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().1)
    }
}

/// An object of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name, which every path can carry.
    pub name: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

impl Object {
    /// Reads `TYPE/NAME`; a bare `NAME` is a pod's.
    ///
    /// # Errors
    /// A sentence for everything else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once('/') {
            None => (Kind::Pod, text),
            Some((kind, name)) => {
                let known = Kind::parse(kind).ok_or_else(|| {
                    let all: Vec<_> = Kind::all().map(|(_, word)| word).collect();
                    format!(
                        "{:?}: there is no kind {:?} with pods to listen in: known are {}",
                        clean(text),
                        clean(kind),
                        all.join(", ")
                    )
                })?;
                (known, name)
            }
        };
        check_name(name).map_err(|what| format!("{:?}: {what}", clean(text)))?;
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self, namespace: &str) -> String {
        format!("{}/{}", self.kind.path(namespace), self.name)
    }
}

/// Whether a name can be that of an object or of a namespace.
///
/// # Errors
/// A sentence, if it cannot.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().last()];
    let sound = name.len() <= LONGEST_NAME
        && ends.iter().all(|end| end.is_some_and(plain))
        && name.bytes().all(|b| plain(b) || b"-.".contains(&b));
    match sound {
        true => Ok(()),
        false if name.is_empty() => Err("the name is missing: write TYPE/NAME".to_owned()),
        false => Err(format!(
            "{:?} is no name: it has lower-case letters, digits, dots and hyphens",
            clean(name)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_kubectl_has() {
        for (text, object) in [
            ("web", "pod/web"),
            ("po/web", "pod/web"),
            ("Pods/web-0.a", "pod/web-0.a"),
            ("deploy/web", "deployment/web"),
            ("deployments.apps/web", "deployment/web"),
            ("statefulset.v1.apps/db", "statefulset/db"),
            ("ds/a", "daemonset/a"),
            ("rs/a", "replicaset/a"),
            ("jobs.batch/a", "job/a"),
            ("svc/a", "service/a"),
        ] {
            assert_eq!(Object::parse(text).expect(text).to_string(), object);
        }
    }

    #[test]
    fn everything_else_is_refused_before_contact() {
        for (text, what) in [
            ("", "missing"),
            ("pod/", "missing"),
            ("node/a", "no kind \"node\""),
            ("deploy.apps/a", "no kind"),
            ("pods.apps/a", "no kind"),
            ("pod/a/b", "is no name"),
            ("pod/..", "is no name"),
            ("pod/A", "is no name"),
            ("pod/a?x", "is no name"),
            ("pod/a\x1b[2J", "is no name"),
        ] {
            let sentence = Object::parse(text).expect_err(text);
            assert!(sentence.contains(what), "{text}: {sentence}");
            assert!(!sentence.chars().any(char::is_control), "{text}");
        }
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let path = |text: &str| Object::parse(text).expect(text).path("shop");
        assert_eq!(path("web"), "/api/v1/namespaces/shop/pods/web");
        assert_eq!(
            path("sts/db"),
            "/apis/apps/v1/namespaces/shop/statefulsets/db"
        );
        assert_eq!(path("job/x"), "/apis/batch/v1/namespaces/shop/jobs/x");
    }
}
