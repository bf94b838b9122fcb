//! What the user named to listen in: `TYPE/NAME`, as in kubectl.

use crate::clean::clean;
use crate::cluster::object::{Kind, Object};
use std::fmt;

/// Longest id of a sandbox. Runtimes use 64 characters.
const LONGEST_ID: usize = 253;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The sandbox of this id, or the only one whose id starts so.
    Sandbox(String),
    /// What leads to a pod of a cluster, until that is found.
    Object(Object),
    /// The pod that was found.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Place {
    /// Reads `sandbox/ID`.
    ///
    /// # Errors
    /// A sentence for everything else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((kind, name)) = text.split_once('/') else {
            let shown = clean(text);
            return Err(format!(
                "{shown:?} names no kind: write sandbox/{}",
                if shown.is_empty() { "ID" } else { &shown }
            ));
        };
        if Kind::parse(kind).is_some() {
            return Err(format!(
                "{}: a {kind} is found through the cluster, which `sternline kubectl`, the kubectl plug-in, does; on the node itself name the sandbox, sandbox/ID (`crictl pods` lists the ids)",
                clean(text)
            ));
        }
        if kind != "sandbox" {
            return Err(format!(
                "{:?}: there is no kind {:?} to listen in: write sandbox/ID",
                clean(text),
                clean(kind)
            ));
        }
        let wrong = |what: &str| {
            Err(format!(
                "{:?}: {what}: give the id of a sandbox or its start, as `crictl pods` lists it",
                clean(text)
            ))
        };
        if name.is_empty() {
            return wrong("the id is missing");
        }
        if name.len() > LONGEST_ID {
            return wrong("the id is too long");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if !name.chars().all(plain) || name.starts_with(['.', '-']) {
            return wrong("the id has characters that no id has");
        }
        Ok(Self::Sandbox(name.to_owned()))
    }

    /// The namespace of a pod.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Pod { namespace, .. } => Some(namespace),
            Self::Sandbox(_) | Self::Object(_) => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(id) => write!(f, "sandbox/{id}"),
            Self::Object(object) => object.fmt(f),
            Self::Pod { name, .. } => write!(f, "pod/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_sandbox_is_named_by_its_id() {
        for text in ["sandbox/web", "sandbox/4f1c", "sandbox/my-net_ns.1"] {
            assert_eq!(Place::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_needs_a_cluster_says_so() {
        for text in ["pod/web", "deploy/web", "svc/web", "sts/web"] {
            let sentence = Place::parse(text).expect_err(text);
            assert!(sentence.contains("kubectl plug-in"), "{sentence}");
            assert!(sentence.contains(text), "{sentence}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_is_wrong() {
        for (text, what) in [
            ("web", "write sandbox/web"),
            ("", "write sandbox/ID"),
            ("sandbox/", "missing"),
            ("sandbox/../../etc", "characters"),
            ("sandbox/..", "characters"),
            ("sandbox/a b", "characters"),
            ("sandbox/a\x1b[2J", "characters"),
            ("node/a", "no kind \"node\""),
        ] {
            let sentence = Place::parse(text).expect_err(text);
            assert!(sentence.contains(what), "{text}: {sentence}");
            assert!(!sentence.chars().any(char::is_control), "{text}");
        }
        assert!(Place::parse(&format!("sandbox/{}", "a".repeat(254))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_reads_the_same_again(text in "(sandbox/)?.{0,40}") {
            if let Ok(place) = Place::parse(&text) {
                prop_assert_eq!(place.to_string(), text);
            }
        }
    }
}
