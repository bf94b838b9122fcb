use super::*;
use crate::sandbox::cri::info::Info;
use serde_json::{Value, json};
use std::collections::HashMap;
use sternline_api::cri::{LinuxPodSandboxStatus, Namespace, NamespaceOption, PodSandboxStatus};

/// A document of `testdata/cri`, made from what the runtime of that name answered.
fn document(name: &str) -> Value {
    let path = format!("{}/testdata/cri/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str(&text).expect(&path)
}

/// The answer that the document stands for.
fn answer(document: &Value) -> PodSandboxStatusResponse {
    let status = &document["status"];
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let network = text(&status["linux"]["namespaces"]["options"]["network"]);
    let network = NamespaceMode::from_str_name(&network).expect("mode");
    let state = PodSandboxState::from_str_name(&text(&status["state"])).expect("state");
    let options = NamespaceOption {
        network: network.into(),
        ..NamespaceOption::default()
    };
    PodSandboxStatusResponse {
        status: Some(PodSandboxStatus {
            id: text(&status["id"]),
            state: state.into(),
            runtime_handler: text(&status["runtimeHandler"]),
            linux: Some(LinuxPodSandboxStatus {
                namespaces: Some(Namespace {
                    options: Some(options),
                }),
            }),
            ..PodSandboxStatus::default()
        }),
        info: HashMap::from([("info".to_owned(), document["info"].to_string())]),
        ..PodSandboxStatusResponse::default()
    }
}

fn reason(document: &Value) -> Reason {
    admit("x", &answer(document), &[])
        .expect_err("refused")
        .reason
}

fn network_of(document: &Value) -> PathBuf {
    let namespaces = document["info"]["runtimeSpec"]["linux"]["namespaces"].as_array();
    let network = namespaces
        .expect("namespaces")
        .iter()
        .find(|namespace| namespace["type"] == "network");
    PathBuf::from(network.expect("network")["path"].as_str().expect("path"))
}

const PODS: [&str; 6] = [
    "containerd-16",
    "containerd-17",
    "containerd-21",
    "containerd-23",
    "crio",
    "crio-infra",
];

const HOST_NETWORK: [&str; 5] = [
    "containerd-16-hostnet",
    "containerd-17-hostnet",
    "containerd-21-hostnet",
    "crio-hostnet-dropfalse",
    "crio-hostnet-droptrue",
];

#[test]
fn every_runtimes_pods_are_entered_by_path() {
    for name in PODS {
        let document = document(name);
        let entry = admit("x", &answer(&document), &[]).expect(name);
        assert_eq!(entry, Entry::Path(network_of(&document)), "{name}");
    }
}

#[test]
fn every_runtimes_host_network_pods_are_refused() {
    for name in HOST_NETWORK {
        assert_eq!(reason(&document(name)), Reason::HostNetwork, "{name}");
    }
}

#[test]
fn a_crio_host_network_pod_reports_a_path_all_the_same() {
    let answer = answer(&document("crio-hostnet-droptrue"));
    let info = Info::parse(&answer.info).expect("good");
    assert!(info.network.is_some());
    assert_eq!((info.pid, info.runtime_type), (None, None));
}

#[test]
fn a_stopped_sandbox_is_not_entered_by_its_stale_path() {
    let mut stopped = document("containerd-16");
    stopped["info"]["netNamespaceClosed"] = json!(true);
    assert_eq!(reason(&stopped), Reason::SandboxNotReady);
    let mut stopped = document("crio");
    stopped["status"]["state"] = json!("SANDBOX_NOTREADY");
    assert_eq!(reason(&stopped), Reason::SandboxNotReady);
}

#[test]
fn not_ready_comes_before_host_network_and_runtime() {
    let mut hostnet = document("containerd-17-hostnet");
    hostnet["info"]["runtimeType"] = json!("io.containerd.kata.v2");
    assert_eq!(reason(&hostnet), Reason::HostNetwork);
    hostnet["status"]["state"] = json!("SANDBOX_NOTREADY");
    assert_eq!(reason(&hostnet), Reason::SandboxNotReady);
}

#[test]
fn virtual_machines_are_refused_unless_allowed() {
    let mut kata = document("containerd-21");
    kata["info"]["runtimeType"] = json!("io.containerd.kata.v2");
    kata["status"]["runtimeHandler"] = json!("kata");
    let mut crio_kata = document("crio");
    crio_kata["status"]["runtimeHandler"] = json!("kata");
    let mut gvisor = document("containerd-16");
    gvisor["info"]["runtimeType"] = json!("io.containerd.runsc.v1");

    for document in [&kata, &crio_kata, &gvisor] {
        assert_eq!(reason(document), Reason::VmRuntime);
        let other = ["runc".to_owned(), String::new()];
        let failure = admit("x", &answer(document), &other).expect_err("not that one");
        assert_eq!(failure.reason, Reason::VmRuntime);
        assert!(failure.message.contains("--allow-runtime-handler"));
    }
    for (document, name) in [
        (&kata, "kata"),
        (&kata, "io.containerd.kata.v2"),
        (&crio_kata, "kata"),
        (&gvisor, "io.containerd.runsc.v1"),
    ] {
        admit("x", &answer(document), &[name.to_owned()]).expect(name);
    }
}

#[test]
fn crio_handlers_that_are_known_need_no_leave() {
    for handler in ["", "runc", "crun"] {
        let mut pod = document("crio");
        pod["status"]["runtimeHandler"] = json!(handler);
        admit("x", &answer(&pod), &[]).expect(handler);
    }
}

#[test]
fn without_a_path_the_process_leads_there() {
    let mut pod = document("containerd-16");
    pod["info"]["runtimeSpec"] = json!({});
    let pid = pod["info"]["pid"].as_u64().expect("pid");
    let entry = admit("x", &answer(&pod), &[]).expect("process");
    assert_eq!(entry, Entry::Pid(u32::try_from(pid).expect("pid")));
    pod["info"]["pid"] = json!(0);
    assert_eq!(reason(&pod), Reason::NamespaceUnreachable);
}

#[test]
fn malformed_information_blames_the_runtime() {
    let mut pod = document("containerd-16");
    pod["info"]["runtimeSpec"] = json!("none");
    let failure = admit("9af3", &answer(&pod), &[]).expect_err("malformed");
    assert_eq!(failure.reason, Reason::RuntimeUnavailable);
    assert!(failure.message.contains("sandbox 9af3"), "{failure}");
}

#[test]
fn an_answer_without_status_is_not_ready() {
    let failure = admit("x", &PodSandboxStatusResponse::default(), &[]).expect_err("nothing");
    assert_eq!(failure.reason, Reason::SandboxNotReady);
}
