//! What is served here, as the API server and its clients ask for it.
//!
//! None of it needs a node, a pod or a user: an APIService that does not answer
//! blocks the deletion of every namespace in the cluster.

use crate::{GROUP, SUBRESOURCE, VERSION};
use serde_json::{Value, json};

/// The answer to a GET of this path, if it is one of these.
#[must_use]
pub fn answer(path: &str) -> Option<Value> {
    let group_version = format!("{GROUP}/{VERSION}");
    match path.strip_suffix('/').unwrap_or(path) {
        "/apis" => Some(json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [group()],
        })),
        "/openapi/v2" => Some(openapi_2()),
        "/openapi/v3" => {
            let path = format!("apis/{group_version}");
            let url = format!("/openapi/v3/{path}");
            Some(json!({ "paths": { path: { "serverRelativeURL": url } } }))
        }
        "/version" => Some(json!({
            "major": "1",
            "minor": "0",
            "gitVersion": concat!("v", env!("CARGO_PKG_VERSION")),
        })),
        other => match other.strip_prefix("/apis/") {
            Some(rest) if rest == GROUP => Some(group()),
            Some(rest) if rest == group_version => Some(resources()),
            _ => (other == format!("/openapi/v3/apis/{group_version}")).then(openapi_3),
        },
    }
}

fn group() -> Value {
    let version = json!({ "groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION });
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": [version],
        "preferredVersion": version,
    })
}

/// The bare `pods` has no verbs: nothing lists, watches or deletes them here, and
/// yet `kubectl auth can-i` finds the group by it.
fn resources() -> Value {
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [
            {
                "name": "pods",
                "singularName": "",
                "namespaced": true,
                "kind": "PodPortForward",
                "verbs": [],
            },
            {
                "name": format!("pods/{SUBRESOURCE}"),
                "singularName": "",
                "namespaced": true,
                "kind": "PodPortForward",
                "verbs": ["create", "get"],
            },
        ],
    })
}

fn openapi_2() -> Value {
    json!({
        "swagger": "2.0",
        "info": { "title": "Sternline", "version": VERSION },
        "paths": paths(&json!({ "type": "string" }), false),
        "definitions": {},
    })
}

fn openapi_3() -> Value {
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Sternline", "version": VERSION },
        "paths": paths(&json!({ "schema": { "type": "string" } }), true),
        "components": { "schemas": {} },
    })
}

/// The one path, in the words of version 2 or 3, which differ in where a
/// parameter has its type.
fn paths(of_type: &Value, is_3: bool) -> Value {
    let parameter = |name: &str, place: &str, required: bool, description: &str| {
        let mut parameter = json!({
            "name": name,
            "in": place,
            "required": required,
            "description": description,
        });
        let all = parameter.as_object_mut().into_iter();
        for (all, typed) in all.zip(of_type.as_object()) {
            all.extend(typed.clone());
        }
        parameter
    };
    let mut operation = json!({
        "description": "Listen in a pod, and stream what connects there over an upgraded connection.",
        "parameters": [
            parameter("namespace", "path", true, "Namespace of the pod."),
            parameter("name", "path", true, "Name of the pod."),
            parameter("listen", "query", true, "ADDRESS:PORT or PORT to listen on; may stand several times."),
            parameter("hold", "query", false, "How long the listeners outlive the connection, such as 30s."),
            parameter("uid", "query", false, "Uid of the pod that is meant."),
        ],
        "responses": { "101": { "description": "Switching Protocols" } },
    });
    if !is_3 {
        operation["schemes"] = json!(["https"]);
    }
    let path =
        format!("/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/pods/{{name}}/{SUBRESOURCE}");
    json!({ path: { "get": operation.clone(), "post": operation } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_leads_to_the_subresource() {
        let groups = answer("/apis").expect("served");
        assert_eq!(
            groups["groups"][0],
            answer("/apis/reverse.sternline.dev").expect("served")
        );
        let preferred = &groups["groups"][0]["preferredVersion"]["groupVersion"];
        let path = format!("/apis/{}", preferred.as_str().expect("text"));
        let list = answer(&path).expect("served");
        assert_eq!(list["groupVersion"], *preferred);
        let names: Vec<_> = list["resources"]
            .as_array()
            .expect("some")
            .iter()
            .map(|one| &one["name"])
            .collect();
        assert_eq!(names, ["pods", "pods/portforward"]);
    }

    #[test]
    fn nothing_here_is_listed_watched_or_deleted() {
        let list = answer("/apis/reverse.sternline.dev/v1alpha1/").expect("served");
        for resource in list["resources"].as_array().expect("some") {
            for verb in resource["verbs"].as_array().expect("some") {
                assert!(
                    ["create", "get"].contains(&verb.as_str().expect("text")),
                    "{resource}"
                );
            }
        }
    }

    #[test]
    fn the_schema_is_where_its_index_says() {
        let index = answer("/openapi/v3").expect("served");
        let paths = index["paths"].as_object().expect("some");
        for entry in paths.values() {
            let url = entry["serverRelativeURL"].as_str().expect("text");
            let schema = answer(url).expect("served");
            assert!(schema["openapi"].as_str().expect("text").starts_with('3'));
        }
        assert_eq!(answer("/openapi/v2").expect("served")["swagger"], "2.0");
    }

    #[test]
    fn every_parameter_of_a_path_is_described() {
        for path in [
            "/openapi/v2",
            "/openapi/v3/apis/reverse.sternline.dev/v1alpha1",
        ] {
            let schema = answer(path).expect("served");
            for (path, operations) in schema["paths"].as_object().expect("some") {
                let parameters = operations["post"]["parameters"].as_array().expect("some");
                for name in ["namespace", "name"] {
                    assert!(path.contains(&format!("{{{name}}}")));
                    assert!(
                        parameters
                            .iter()
                            .any(|one| one["name"] == name && one["required"] == true)
                    );
                }
                assert!(
                    parameters
                        .iter()
                        .all(|one| one["type"] == "string" || one["schema"]["type"] == "string")
                );
            }
        }
    }

    #[test]
    fn nothing_else_is_answered() {
        for path in [
            "",
            "/",
            "/api",
            "/apis/apps",
            "/apis/reverse.sternline.dev/v1",
            "/apis/reverse.sternline.dev/v1alpha1/pods",
        ] {
            assert!(answer(path).is_none(), "{path}");
        }
    }
}
