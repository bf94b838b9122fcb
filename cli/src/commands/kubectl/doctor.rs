//! `kubectl reverse-port-forward doctor`: what a forward needs, checked step by
//! step from outside in.

use crate::args::Doctor;
use crate::clean::clean;
use crate::cluster::Api;
use crate::cluster::api::{GROUP, VERSION};
use crate::cluster::object::Object;
use crate::cluster::pod::{self, Chosen};
use crate::fault::{Fault, exit};
use crate::output::Output;
use serde_json::{Value, json};
use std::time::Duration;
use sternline_api::Reason;

/// Where Sternline is installed, where nothing else is known.
const USUAL_NAMESPACE: &str = "sternline";

/// What the pods of a node are made by.
const SHIM: &str = "sternline-shim";

/// The annotation by which a namespace allows or denies forwards.
const POLICY: &str = "reverse.sternline.dev/policy";

/// What became of one check.
enum Found {
    Ok(String),
    /// With what to do next.
    Fail(String),
    /// Nobody may look.
    Skip(String),
}

use Found::{Fail, Skip};

struct Checks<'a> {
    api: &'a Api,
    output: &'a Output,
    failed: usize,
}

/// Checks, and prints a line for each step.
///
/// # Errors
/// Exit code 1 where a check failed; that of the fault where the cluster cannot be
/// asked anything.
pub async fn doctor(api: &Api, args: &Doctor, output: &Output) -> Result<(), Fault> {
    let object = args.object.as_deref().map(Object::parse).transpose();
    let object = object.map_err(Fault::usage)?;
    let mut checks = Checks {
        api,
        output,
        failed: 0,
    };
    checks.reached().await?;
    let home = checks.installed().await;
    checks.rights().await?;
    checks.policy().await;
    if let Some(object) = object
        && let Some(chosen) = checks.pod(&object).await
        && let Some(node) = &chosen.node
    {
        checks.node(node).await;
        if let Some(home) = home {
            checks.shim(&home, node).await;
        }
    }
    match checks.failed {
        0 => Ok(()),
        1 => Err(Fault::new(
            exit::OTHER,
            "1 check failed: its line says what to do",
        )),
        n => Err(Fault::new(
            exit::OTHER,
            format!("{n} checks failed: begin with the first"),
        )),
    }
}

impl Checks<'_> {
    fn told(&mut self, step: &str, found: Found) {
        let (word, said) = match found {
            Found::Ok(said) => ("ok", said),
            Skip(said) => ("skip", said),
            Fail(said) => {
                self.failed += 1;
                ("FAIL", said)
            }
        };
        self.output
            .line(format!("{word:<5} {step}: {}", clean(&said)));
    }

    /// Nothing else can be asked where this fails.
    async fn reached(&mut self) -> Result<(), Fault> {
        let access = self.api.access();
        let context = access.context.as_deref().unwrap_or("none");
        let place = format!(
            "{} (context {context}, namespace {})",
            access.server, access.namespace
        );
        match self.api.get::<Value>("/version").await {
            Ok(version) => {
                let version = text(&version, "/gitVersion");
                self.told(
                    "cluster",
                    Found::Ok(format!("{place} answers, Kubernetes {version}")),
                );
                Ok(())
            }
            Err(fault)
                if fault.reason == Some(Reason::Forbidden) && !fault.message.starts_with("You") =>
            {
                self.told("cluster", Found::Ok(format!("{place} answers")));
                Ok(())
            }
            Err(fault) => {
                self.told("cluster", Fail(fault.message.clone()));
                Err(fault)
            }
        }
    }

    /// Whether the group is served; the namespace it is served from, if it is.
    async fn installed(&mut self) -> Option<String> {
        let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{VERSION}.{GROUP}");
        let service: Result<Value, Fault> = self.api.get(&path).await;
        let mut home = USUAL_NAMESPACE.to_owned();
        match &service {
            Ok(service) => {
                if let Some(namespace) = service
                    .pointer("/spec/service/namespace")
                    .and_then(Value::as_str)
                {
                    home = clean(namespace);
                }
                let found = available(service, &home);
                self.told("APIService", found);
            }
            Err(fault) if fault.reason == Some(Reason::SandboxNotFound) => {
                let next = format!(
                    "{VERSION}.{GROUP} does not exist: Sternline is not installed in this cluster; an administrator installs it with `kubectl apply -k`, see docs/kubectl.md"
                );
                self.told("APIService", Fail(next));
            }
            Err(fault) => self.told("APIService", skipped(fault)),
        }
        let path = format!("/apis/{GROUP}/{VERSION}");
        match self.api.get::<Value>(&path).await {
            Ok(_) => self.told("gateway", Found::Ok(format!("{GROUP}/{VERSION} is served"))),
            Err(fault) => self.told("gateway", Fail(fault.message)),
        }
        let is_missing = |fault: Fault| fault.reason == Some(Reason::SandboxNotFound);
        (!service.is_err_and(is_missing)).then_some(home)
    }

    async fn rights(&mut self) -> Result<(), Fault> {
        for verb in ["get", "create"] {
            let allowed = self.may(verb, "portforward").await?;
            let what = format!("{verb} pods/portforward of {GROUP}");
            let found = match allowed {
                Ok(()) => Found::Ok(format!("you may {what}")),
                Err(why) => Fail(format!(
                    "you may not {what}{why}: ask an administrator for the role sternline-user in namespace {}",
                    self.api.access().namespace
                )),
            };
            self.told("rights", found);
        }
        let found = match self.may("create", "wideportforward").await? {
            Ok(()) => Found::Ok("you may listen outside loopback".to_owned()),
            Err(_) => Skip(
                "you may not listen outside loopback, which only a BIND such as 0.0.0.0 needs"
                    .to_owned(),
            ),
        };
        self.told("rights", found);
        Ok(())
    }

    /// Whether the API server would let us, or what it says to that.
    async fn may(&self, verb: &str, subresource: &str) -> Result<Result<(), String>, Fault> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "group": GROUP, "version": VERSION, "resource": "pods", "subresource": subresource,
                "namespace": self.api.access().namespace, "verb": verb,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let review: Value = self.api.create(path, &review).await?;
        if review.pointer("/status/allowed") == Some(&Value::Bool(true)) {
            return Ok(Ok(()));
        }
        Ok(Err(match text(&review, "/status/reason") {
            none if none.is_empty() => String::new(),
            why => format!(" ({why})"),
        }))
    }

    async fn policy(&mut self) {
        let namespace = self.api.access().namespace.clone();
        let found = match self
            .api
            .get::<Value>(&format!("/api/v1/namespaces/{namespace}"))
            .await
        {
            Ok(object) => {
                let policy = object
                    .pointer("/metadata/annotations")
                    .and_then(|all| all.get(POLICY));
                match policy.and_then(Value::as_str) {
                    Some("deny") => Fail(format!(
                        "namespace {namespace} denies forwards by its annotation {POLICY}: its owner decides that"
                    )),
                    Some("allow") => Found::Ok(format!("{namespace} says {POLICY}=allow")),
                    Some(other) => Fail(format!(
                        "namespace {namespace} denies forwards: its annotation {POLICY} says {other:?}, which is neither allow nor deny: its owner corrects that"
                    )),
                    None => Found::Ok(format!(
                        "{namespace} denies nothing by itself; a default-deny egress policy would"
                    )),
                }
            }
            Err(fault) => skipped(&fault),
        };
        self.told("namespace", found);
    }

    async fn pod(&mut self, object: &Object) -> Option<Chosen> {
        let namespace = self.api.access().namespace.clone();
        match pod::find(self.api, &namespace, object, Duration::ZERO).await {
            Ok(chosen) if chosen.host_network => {
                let said = format!(
                    "pod/{} uses its node's own network: forwards are refused there, name another pod",
                    chosen.name
                );
                self.told("pod", Fail(said));
                None
            }
            Ok(chosen) if !chosen.was_seen() => {
                let said = "you may not look at pods: a forward to one by its name and by numbers of ports may work still";
                self.told("pod", Skip(said.to_owned()));
                None
            }
            Ok(chosen) => {
                let node = chosen
                    .node
                    .as_deref()
                    .map_or_else(String::new, |node| format!(" on node {node}"));
                self.told("pod", Found::Ok(format!("pod/{} runs{node}", chosen.name)));
                Some(chosen)
            }
            Err(fault) => {
                self.told("pod", Fail(fault.message));
                None
            }
        }
    }

    async fn node(&mut self, node: &str) {
        let found = match self
            .api
            .get::<Value>(&format!("/api/v1/nodes/{node}"))
            .await
        {
            Ok(object) => {
                let labels = object.pointer("/metadata/labels");
                let os = labels
                    .and_then(|all| all.get("kubernetes.io/os"))
                    .and_then(Value::as_str);
                match (os.unwrap_or("linux"), condition(&object, "Ready")) {
                    ("linux", Some((true, _))) => Found::Ok(format!("{node} is ready")),
                    ("linux", _) => Fail(format!(
                        "{node} is not ready: `kubectl describe node {node}` says why"
                    )),
                    (os, _) => Fail(format!(
                        "{node} runs {os}: forwards need Linux, name a pod on another node"
                    )),
                }
            }
            Err(fault) => skipped(&fault),
        };
        self.told("node", found);
    }

    async fn shim(&mut self, home: &str, node: &str) {
        let path = format!("/api/v1/namespaces/{home}/pods?fieldSelector=spec.nodeName%3D{node}");
        let found = match pod::of_node(self.api, &path, SHIM).await {
            Ok(None) => Fail(format!(
                "no pod of DaemonSet {SHIM} is on node {node}: `kubectl -n {home} describe daemonset {SHIM}` says why; perhaps a taint is not tolerated"
            )),
            Ok(Some((true, name))) => Found::Ok(format!("pod/{name} in namespace {home} is ready")),
            Ok(Some((false, state))) => Fail(format!(
                "{state} in namespace {home} and is not ready: `kubectl -n {home} describe pod` and its logs say why"
            )),
            Err(fault) => skipped(&fault),
        };
        self.told("shim", found);
    }
}

fn available(service: &Value, home: &str) -> Found {
    match condition(service, "Available") {
        Some((true, _)) => Found::Ok(format!(
            "{VERSION}.{GROUP} is available, served from namespace {home}"
        )),
        Some((false, why)) => Fail(format!(
            "{VERSION}.{GROUP} is not available: {why}: `kubectl -n {home} get pods` shows the gateway's state"
        )),
        None => Fail(format!("{VERSION}.{GROUP} has no state yet: wait a moment")),
    }
}

/// A condition of an object: whether it is true, and what is said of it.
fn condition(object: &Value, name: &str) -> Option<(bool, String)> {
    let all = object.pointer("/status/conditions")?.as_array()?;
    let one = all.iter().find(|one| one["type"] == name)?;
    Some((one["status"] == "True", text(one, "/message")))
}

fn text(object: &Value, pointer: &str) -> String {
    clean(
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default(),
    )
}

/// Who may not look is not told that something is wrong.
fn skipped(fault: &Fault) -> Found {
    match fault.reason {
        Some(Reason::Forbidden) => Skip("you may not look, which no forward needs".to_owned()),
        _ => Fail(fault.message.clone()),
    }
}
