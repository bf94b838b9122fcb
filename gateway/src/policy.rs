//! Whether a namespace wants forwards.
//!
//! What comes through a forward bypasses NetworkPolicy: the pod talks to its own
//! loopback. So the namespace decides, by an annotation; and where it does not,
//! pods that policies keep from connecting anywhere are left alone.

mod selector;

use crate::kube::{self, Api, Ask, List, Namespace, Pod};
use selector::Selector;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use sternline_api::{Failure, Reason};

/// The annotation of a namespace: `allow` or `deny`.
pub const ANNOTATION: &str = "reverse.sternline.dev/policy";

/// A policy (`networking.k8s.io/v1`, `NetworkPolicy`), as far as it is looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Policy {
    metadata: kube::Metadata,
    spec: PolicySpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PolicySpec {
    pod_selector: Selector,
    policy_types: Vec<String>,
    egress: Option<Vec<BTreeMap<String, Value>>>,
}

impl PolicySpec {
    /// Whether pods that it selects may connect only where a policy says.
    fn is_about_egress(&self) -> bool {
        match self.policy_types.as_slice() {
            // Unset, it is what its rules are about.
            [] => self.egress.is_some(),
            types => types.iter().any(|one| one == "Egress"),
        }
    }

    /// Whether one of its rules lets everything out: it names neither peers nor
    /// ports.
    fn lets_all_out(&self) -> bool {
        let mut rules = self.egress.iter().flatten();
        rules.any(|rule| {
            let names = |field: &str| {
                let list = rule.get(field).and_then(Value::as_array);
                list.is_some_and(|list| !list.is_empty())
            };
            !names("to") && !names("ports")
        })
    }
}

/// Checks that the pod's namespace wants forwards.
///
/// # Errors
/// It does not, or the Kubernetes API does not say.
pub async fn check(api: &dyn Api, pod: &Pod) -> Result<(), Failure> {
    let namespace = &pod.metadata.namespace;
    let path = format!("/api/v1/namespaces/{namespace}");
    let found: Namespace = kube::read(api, Ask::get(path)).await?;
    let refused = |what: String| Err(Failure::new(Reason::Forbidden, what));
    match found
        .metadata
        .annotations
        .get(ANNOTATION)
        .map(String::as_str)
    {
        Some("allow") => Ok(()),
        Some("deny") => refused(format!(
            "namespace {namespace:?} wants no forwards: its annotation {ANNOTATION} says deny; an administrator of the namespace may change it"
        )),
        Some(other) => refused(format!(
            "namespace {namespace:?} has the annotation {ANNOTATION}={other:?}, which is neither allow nor deny: have an administrator of the namespace correct it"
        )),
        None => {
            let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies");
            let policies: List<Policy> = kube::read(api, Ask::get(path)).await?;
            match isolating(&policies.items, &pod.metadata.labels) {
                None => Ok(()),
                Some(policy) => refused(format!(
                    "pod \"{namespace}/{}\" may not connect anywhere but where NetworkPolicy {policy:?} lets it, which a forward would bypass: where that is wanted, an administrator of the namespace sets its annotation {ANNOTATION}=allow",
                    pod.metadata.name
                )),
            }
        }
    }
}

/// The name of a policy that keeps a pod with these labels from connecting where
/// no rule lets it, unless a rule of any policy lets it connect anywhere.
fn isolating<'a>(policies: &'a [Policy], labels: &BTreeMap<String, String>) -> Option<&'a str> {
    let about = policies
        .iter()
        .filter(|policy| policy.spec.is_about_egress() && policy.spec.pod_selector.selects(labels));
    let about: Vec<&Policy> = about.collect();
    if about.iter().any(|policy| policy.spec.lets_all_out()) {
        return None;
    }
    about.first().map(|policy| policy.metadata.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::fake::Fake;
    use serde_json::json;

    const NAMESPACE: &str = "/api/v1/namespaces/shop";
    const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";

    fn pod() -> Pod {
        let pod = json!({"metadata": {
            "name": "web-0", "namespace": "shop", "labels": {"app": "web"},
        }});
        serde_json::from_value(pod).expect("a pod")
    }

    async fn checked(annotation: Option<&str>, policies: &[Value]) -> Result<(), Failure> {
        let fake = Fake::default();
        let annotations = annotation.map(|value| json!({ANNOTATION: value, "other": "x"}));
        let annotations = annotations.unwrap_or_else(|| json!({}));
        fake.put(
            NAMESPACE,
            json!({"metadata": {"name": "shop", "annotations": annotations}}),
        );
        let policies = policies
            .iter()
            .map(|spec| json!({"metadata": {"name": "strict"}, "spec": spec}));
        fake.put(POLICIES, json!({"items": policies.collect::<Vec<_>>()}));
        check(&fake, &pod()).await
    }

    async fn is_open(policies: &[Value]) -> bool {
        match checked(None, policies).await {
            Ok(()) => true,
            Err(failure) => {
                assert_eq!(failure.reason, Reason::Forbidden);
                assert!(failure.message.contains("\"strict\""), "{failure}");
                assert!(failure.message.contains(ANNOTATION), "{failure}");
                false
            }
        }
    }

    #[tokio::test]
    async fn the_namespace_decides() {
        let strict = [json!({"podSelector": {}, "policyTypes": ["Egress"]})];
        checked(Some("allow"), &strict).await.expect("it says so");
        checked(None, &[]).await.expect("nothing speaks against it");
        for other in ["deny", "Allow", "", "yes"] {
            let failure = checked(Some(other), &[]).await.expect_err(other);
            assert_eq!(failure.reason, Reason::Forbidden);
            assert!(failure.message.contains(ANNOTATION), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_may_not_connect_is_left_alone() {
        for strict in [
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": []}),
            json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]}),
            // Types that are unset follow the rules.
            json!({"podSelector": {}, "egress": []}),
            // What lets some out denies the rest.
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
                {"ports": [{"port": 53}]}, {"to": [{"podSelector": {}}]},
            ]}),
        ] {
            assert!(!is_open(std::slice::from_ref(&strict)).await, "{strict}");
        }
    }

    #[tokio::test]
    async fn other_policies_say_nothing() {
        for lax in [
            json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
            json!({"podSelector": {}, "ingress": []}),
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]}),
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}),
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [], "ports": []}]}),
        ] {
            assert!(is_open(std::slice::from_ref(&lax)).await, "{lax}");
        }
        let both = [
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}),
        ];
        assert!(is_open(&both).await, "policies add up");
    }

    #[tokio::test]
    async fn without_an_answer_nobody_is_let_in() {
        let fake = Fake::default();
        fake.put(NAMESPACE, json!({"metadata": {"name": "shop"}}));
        let failure = check(&fake, &pod()).await.expect_err("no policies");
        assert_eq!(failure.reason, Reason::ClusterUnavailable);
    }
}
