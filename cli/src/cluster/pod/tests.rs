//! Pods as an API server lists them.

use super::selector::LabelSelector;
use super::*;
use serde_json::{Value, json};

fn pod(name: &str, created: &str, phase: &str, ready: bool) -> Pod {
    let ready = if ready { "True" } else { "False" };
    let pod = json!({
        "metadata": {"name": name, "uid": format!("u-{name}"), "creationTimestamp": created},
        "spec": {
            "nodeName": "n1",
            "containers": [{"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 1}]}],
        },
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    });
    serde_json::from_value(pod).expect("a pod")
}

fn picked(pods: Vec<Pod>) -> String {
    pick(pods).map_or_else(|why| why, |pod| pod.metadata.name)
}

#[test]
fn the_newest_that_is_ready_is_picked() {
    let old = || pod("old", "2026-01-01T00:00:00Z", "Running", true);
    let new = || pod("new", "2026-02-01T00:00:00Z", "Running", true);
    let starting = || pod("starting", "2026-03-01T00:00:00Z", "Running", false);
    let pending = || pod("pending", "2026-04-01T00:00:00Z", "Pending", false);
    assert_eq!(picked(vec![new(), pending(), old(), starting()]), "new");
    assert_eq!(picked(vec![pending(), starting()]), "starting");
    assert_eq!(picked(vec![]), "it has no pods");
    assert_eq!(
        picked(vec![pending()]),
        "none of its pods runs: pod/pending is Pending"
    );
    let mut going = new();
    going.metadata.deletion_timestamp = Some("2026-02-02T00:00:00Z".into());
    assert_eq!(picked(vec![old(), going]), "old");
}

#[test]
fn why_a_pod_does_not_run_is_told() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "status": {"phase": "Pending", "containerStatuses": [
            {"state": {"running": {}}}, {"state": {"waiting": {"reason": "ImagePullBackOff\u{1b}"}}},
        ]},
    }))
    .expect("a pod");
    assert_eq!(pod.state(), "pod/web is Pending (ImagePullBackOff)");
    let nowhere = |status: &str| {
        let scheduled =
            json!({"type": "PodScheduled", "status": status, "reason": "Unschedulable"});
        let status = json!({"phase": "Pending", "conditions": [scheduled]});
        let pod = json!({"metadata": {"name": "web"}, "status": status});
        serde_json::from_value::<Pod>(pod).expect("a pod").state()
    };
    assert_eq!(nowhere("False"), "pod/web is Pending (Unschedulable)");
    assert_eq!(nowhere("True"), "pod/web is Pending");
}

#[test]
fn ports_have_the_names_of_the_service_and_of_the_containers() {
    let ports: Vec<model::ServicePort> = serde_json::from_value(json!([
        {"name": "web", "port": 80, "targetPort": "http"},
        {"name": "https", "port": 443, "targetPort": 8443},
        {"name": "plain", "port": 81},
        {"name": "gone", "port": 1, "targetPort": "nowhere"},
        {"port": 2},
    ]))
    .expect("ports");
    let named: Vec<_> = ports
        .into_iter()
        .filter_map(model::ServicePort::named)
        .collect();
    let chosen = chosen("shop", pod("p", "", "Running", true), &named);
    for (name, port) in [
        ("web", 8080),
        ("https", 8443),
        ("plain", 81),
        ("http", 8080),
    ] {
        assert_eq!(chosen.port(name), Ok(port), "{name}");
    }
    let why = chosen.port("gone").expect_err("leads nowhere");
    assert!(why.contains("it has web (8080), https (8443)"), "{why}");
    assert_eq!(chosen.uid.as_deref(), Some("u-p"));
}

#[test]
fn selectors_become_queries() {
    let query = |selector: Value| {
        let selector: LabelSelector = serde_json::from_value(selector).expect("a selector");
        selector.to_query()
    };
    assert_eq!(
        query(json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "t", "operator": "In", "values": ["x", "y"]},
            {"key": "u", "operator": "NotIn", "values": ["z"]},
            {"key": "v", "operator": "Exists"},
            {"key": "w", "operator": "DoesNotExist"},
        ]}))
        .as_deref(),
        Some("a=b,t in (x,y),u notin (z),v,!w")
    );
    assert_eq!(query(json!({})), None, "that would be every pod");
    assert_eq!(
        query(json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]})),
        None
    );
}
