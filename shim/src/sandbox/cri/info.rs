//! What the runtime says about a sandbox beyond the CRI: a JSON document whose
//! shape is the runtime's own, read here with suspicion.

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::{
    collections::HashMap,
    fmt,
    marker::PhantomData,
    path::{Component, Path, PathBuf},
};

/// Largest document, in bytes. It repeats the pod's annotations several times,
/// which Kubernetes limits to 256 KiB.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The key that containerd and CRI-O both use.
const KEY: &str = "info";

/// Longest path, in bytes, that the kernel takes.
const MAX_PATH_BYTES: usize = 4095;

/// The part that matters, validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    /// The first process, if the runtime names one.
    pub(super) pid: Option<u32>,
    /// Whether the network is already torn down.
    pub(super) network_closed: bool,
    /// containerd's runtime, such as `io.containerd.runc.v2`; CRI-O names none.
    pub(super) runtime_type: Option<String>,
    /// Where the network namespace is mounted: absolute, without `..`.
    pub(super) network: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    pid: Option<i64>,
    net_namespace_closed: Option<bool>,
    runtime_type: Option<String>,
    runtime_spec: Option<Object<Spec>>,
}

#[derive(Deserialize)]
struct Spec {
    linux: Option<Object<Linux>>,
}

#[derive(Deserialize)]
struct Linux {
    namespaces: Option<Vec<Object<Namespace>>>,
}

#[derive(Deserialize)]
struct Namespace {
    r#type: Option<String>,
    path: Option<String>,
}

/// A JSON object, and nothing else: a list whose members happen to fit would pass
/// for a structure otherwise.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

impl Info {
    /// Reads the extra information of a verbose status. A runtime that gives none
    /// yields one without anything known.
    ///
    /// # Errors
    /// What is wrong with the document, to be put after "information".
    pub(super) fn parse(info: &HashMap<String, String>) -> Result<Self, String> {
        let Some(text) = info.get(KEY) else {
            return Ok(Self::default());
        };
        if text.len() > MAX_BYTES {
            return Err(format!("has {} bytes, {MAX_BYTES} are allowed", text.len()));
        }
        let document: Option<Object<Document>> =
            serde_json::from_str(text).map_err(|err| format!("is malformed: {err}"))?;
        let Some(Object(document)) = document else {
            return Ok(Self::default());
        };
        Ok(Self {
            pid: document.pid.map_or(Ok(None), process)?,
            network_closed: document.net_namespace_closed.unwrap_or(false),
            runtime_type: document.runtime_type.filter(|name| !name.is_empty()),
            network: document
                .runtime_spec
                .map_or(Ok(None), |spec| network(spec.0))?,
        })
    }
}

fn process(pid: i64) -> Result<Option<u32>, String> {
    match u32::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some(pid)),
        Err(_) => Err(format!("names {pid} as a process")),
    }
}

fn network(spec: Spec) -> Result<Option<PathBuf>, String> {
    let namespaces = spec.linux.and_then(|linux| linux.0.namespaces);
    let mut networks = namespaces
        .unwrap_or_default()
        .into_iter()
        .map(|namespace| namespace.0)
        .filter(|namespace| namespace.r#type.as_deref() == Some("network"));
    let Some(Namespace { path, .. }) = networks.next() else {
        return Ok(None);
    };
    if networks.next().is_some() {
        return Err("names two network namespaces".to_owned());
    }
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let plain = Path::new(&path)
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.starts_with('/') || !plain || path.len() > MAX_PATH_BYTES || path.contains('\0') {
        let shown: String = path.chars().take(100).collect();
        return Err(format!("names {shown:?} as a network namespace"));
    }
    Ok(Some(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Info, String> {
        Info::parse(&HashMap::from([(KEY.to_owned(), text.to_owned())]))
    }

    fn with_network(path: &str) -> String {
        let namespace = serde_json::json!({"type": "network", "path": path});
        serde_json::json!({"runtimeSpec": {"linux": {"namespaces": [namespace]}}}).to_string()
    }

    #[test]
    fn what_is_missing_is_unknown() {
        assert_eq!(Info::parse(&HashMap::new()), Ok(Info::default()));
        for text in [
            "null",
            "{}",
            r#"{"pid":0,"runtimeType":"","netNamespaceClosed":null,"runtimeSpec":null}"#,
            r#"{"runtimeSpec":{"linux":{"namespaces":null}}}"#,
            r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"pid","path":"/x"},{}]}}}"#,
            r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"network"}]}}}"#,
            &with_network(""),
        ] {
            assert_eq!(parse(text), Ok(Info::default()), "{text}");
        }
    }

    #[test]
    fn what_is_there_is_read() {
        let text = r#"{"pid":42,"runtimeType":"io.containerd.runc.v2","netNamespaceClosed":true,
            "runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}},"more":[1]}"#;
        let info = parse(text).expect("good");
        assert_eq!(info.pid, Some(42));
        assert!(info.network_closed);
        assert_eq!(info.runtime_type.as_deref(), Some("io.containerd.runc.v2"));
        assert_eq!(info.network, Some(PathBuf::from("/run/netns/x")));
    }

    #[test]
    fn wrong_shapes_are_errors() {
        for text in [
            "",
            "{",
            "[]",
            "[1,true,\"x\",null]",
            r#"{"runtimeSpec":[null]}"#,
            r#"{"runtimeSpec":{"linux":{"namespaces":[["network","/a"]]}}}"#,
            "7",
            r#""text""#,
            r#"{"pid":"4"}"#,
            r#"{"pid":-1}"#,
            r#"{"pid":4294967296}"#,
            r#"{"pid":1.5}"#,
            r#"{"netNamespaceClosed":"no"}"#,
            r#"{"runtimeType":{}}"#,
            r#"{"runtimeSpec":[1]}"#,
            r#"{"runtimeSpec":{"linux":{"namespaces":{}}}}"#,
            r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"network","path":"/a"},{"type":"network","path":"/b"}]}}}"#,
            &with_network("netns/x"),
            &with_network("/run/netns/../../proc/1/ns/net"),
            &with_network("/run/\0"),
            &with_network(&format!("/{}", "x".repeat(5000))),
            &"[".repeat(100_000),
        ] {
            parse(text).expect_err(text);
        }
    }

    #[test]
    fn a_huge_document_is_not_read() {
        let text = format!(r#"{{"x":"{}"}}"#, "y".repeat(MAX_BYTES));
        let err = parse(&text).expect_err("too long");
        assert!(err.contains("bytes"), "{err}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_path_that_is_let_in_is_absolute_and_plain(path in "[/.a\\x00]{0,12}") {
            if let Ok(Info { network: Some(path), .. }) = parse(&with_network(&path)) {
                prop_assert!(path.is_absolute());
                prop_assert!(!path.iter().any(|part| part == ".."));
            }
        }
    }
}
