//! The JSON in which a runtime describes a sandbox.

use serde_json::Value;
use sternline_shim::fuzzing::cri_info;

/// What is believed is what the document says when it is read in the plainest
/// way, and a path that is let in is absolute and has no way up.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(info) = cri_info(text) else { return };
    if let Some(path) = &info.network {
        assert!(path.is_absolute(), "{path:?}");
        assert!(
            !path.iter().any(|part| part == ".." || part == "."),
            "{path:?}"
        );
        assert!(
            !path.as_os_str().as_encoded_bytes().contains(&0),
            "{path:?}"
        );
    }
    // A number too large for anything may stand where nobody looks.
    let Ok(document) = serde_json::from_str::<Value>(text) else {
        return;
    };
    assert!(document.is_object() || document.is_null(), "{document}");
    let number = document["pid"].as_u64().filter(|pid| *pid != 0);
    assert_eq!(info.pid.map(u64::from), number);
    let closed = document["netNamespaceClosed"].as_bool().unwrap_or(false);
    assert_eq!(info.network_closed, closed);
    let kind = document["runtimeType"]
        .as_str()
        .filter(|kind| !kind.is_empty());
    assert_eq!(info.runtime_type.as_deref(), kind);
    let namespaces = document["runtimeSpec"]["linux"]["namespaces"].as_array();
    let network = namespaces
        .into_iter()
        .flatten()
        .find(|namespace| namespace["type"] == "network")
        .and_then(|namespace| namespace["path"].as_str())
        .filter(|path| !path.is_empty());
    assert_eq!(info.network.as_deref().and_then(|p| p.to_str()), network);
}
