//! Finding the sandbox of a pod by the labels that kubelet puts on it.

use super::invalid;
use crate::binder::PodRef;
use std::collections::HashMap;
use sternline_api::{
    Failure, Reason,
    cri::{PodSandbox, PodSandboxState},
};

const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAME: &str = "io.kubernetes.pod.name";
const UID: &str = "io.kubernetes.pod.uid";

/// Longest namespace, name or uid, in bytes.
const MAX_BYTES: usize = 253;

/// Labels that select every sandbox of this name, other incarnations included.
///
/// # Errors
/// A part that is empty or could not be a name.
pub(super) fn select_pod(pod: &PodRef) -> Result<HashMap<String, String>, Failure> {
    for (part, value) in [
        ("namespace", &pod.namespace),
        ("name", &pod.name),
        ("uid", &pod.uid),
    ] {
        let plain = value.bytes().all(|byte| byte.is_ascii_graphic());
        if value.is_empty() || value.len() > MAX_BYTES || !plain {
            let shown: String = value.chars().take(64).collect();
            return Err(invalid(format!(
                "pod {part} {shown:?} is malformed: give 1 to {MAX_BYTES} printable characters"
            )));
        }
    }
    Ok(HashMap::from([
        (NAMESPACE.to_owned(), pod.namespace.clone()),
        (NAME.to_owned(), pod.name.clone()),
    ]))
}

/// The newest ready sandbox of the pod among those of its name.
///
/// # Errors
/// There is none, or only of another incarnation.
pub(super) fn newest_ready(found: Vec<PodSandbox>, pod: &PodRef) -> Result<PodSandbox, Failure> {
    let PodRef {
        namespace,
        name,
        uid,
    } = pod;
    let label = |one: &PodSandbox, key: &str, value: &str| {
        one.labels.get(key).is_some_and(|found| found == value)
    };
    let (ours, others): (Vec<_>, Vec<_>) = found
        .into_iter()
        .filter(|one| label(one, NAMESPACE, namespace) && label(one, NAME, name))
        .partition(|one| label(one, UID, uid));
    let ready = |one: &PodSandbox| one.state() == PodSandboxState::SandboxReady;
    let stopped = !ours.is_empty();
    if let Some(newest) = ours
        .into_iter()
        .filter(ready)
        .max_by_key(|one| one.created_at)
    {
        return Ok(newest);
    }
    let (reason, what) = if others.iter().any(ready) {
        let what = "was replaced by another of the same name: name the pod again";
        (Reason::PodReplaced, what)
    } else if stopped {
        let what = "has no ready sandbox: wait for it, or restart it";
        (Reason::SandboxNotReady, what)
    } else {
        let what = "has no sandbox on this node: check where it runs, and whether it started";
        (Reason::SandboxNotFound, what)
    };
    let message = format!("pod {namespace}/{name} (uid {uid}) {what}");
    Err(Failure::new(reason, message))
}

/// The pod that a sandbox belongs to: by its labels, else by its metadata.
pub(super) fn pod_of(sandbox: &PodSandbox) -> Option<PodRef> {
    let label = |key: &str| sandbox.labels.get(key).cloned();
    let labelled = || {
        Some(PodRef {
            namespace: label(NAMESPACE)?,
            name: label(NAME)?,
            uid: label(UID)?,
        })
    };
    let described = || {
        let metadata = sandbox.metadata.as_ref()?;
        Some(PodRef {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
        })
    };
    labelled().or_else(described)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sternline_api::cri::PodSandboxMetadata;

    fn pod(uid: &str) -> PodRef {
        PodRef {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: uid.to_owned(),
        }
    }

    fn sandbox(id: &str, uid: &str, ready: bool, created_at: i64) -> PodSandbox {
        let mut labels = select_pod(&pod(uid)).expect("good");
        labels.insert(UID.to_owned(), uid.to_owned());
        let state = if ready {
            PodSandboxState::SandboxReady
        } else {
            PodSandboxState::SandboxNotready
        };
        PodSandbox {
            id: id.to_owned(),
            state: state.into(),
            created_at,
            labels,
            ..PodSandbox::default()
        }
    }

    fn reason(found: Vec<PodSandbox>) -> Reason {
        newest_ready(found, &pod("u1")).expect_err("none").reason
    }

    #[test]
    fn the_newest_ready_one_is_taken() {
        let found = vec![
            sandbox("a", "u1", true, 1),
            sandbox("b", "u1", true, 3),
            sandbox("c", "u1", true, 2),
            sandbox("d", "u1", false, 9),
            sandbox("e", "u2", true, 9),
        ];
        assert_eq!(newest_ready(found, &pod("u1")).expect("found").id, "b");
    }

    #[test]
    fn each_way_of_having_none_is_told_apart() {
        assert_eq!(reason(vec![]), Reason::SandboxNotFound);
        let stopped = sandbox("a", "u1", false, 1);
        assert_eq!(reason(vec![stopped.clone()]), Reason::SandboxNotReady);
        let other = sandbox("b", "u2", true, 2);
        assert_eq!(reason(vec![other.clone()]), Reason::PodReplaced);
        assert_eq!(reason(vec![stopped, other]), Reason::PodReplaced);
        // What an earlier pod left behind does not replace this one.
        let leftover = sandbox("c", "u0", false, 1);
        assert_eq!(reason(vec![leftover]), Reason::SandboxNotFound);
    }

    #[test]
    fn an_answer_to_another_question_is_not_taken() {
        let mut liar = sandbox("a", "u1", true, 1);
        liar.labels.insert(NAME.to_owned(), "db".to_owned());
        assert_eq!(reason(vec![liar]), Reason::SandboxNotFound);
    }

    #[test]
    fn malformed_pods_are_refused() {
        for bad in ["", "a b", "a\n", &"x".repeat(254)] {
            let failure = select_pod(&pod(bad)).expect_err(bad);
            assert_eq!(failure.reason, Reason::InvalidRequest);
        }
    }

    #[test]
    fn a_pod_is_known_by_its_labels_else_by_its_metadata() {
        let mut one = sandbox("a", "u1", true, 1);
        one.metadata = Some(PodSandboxMetadata {
            namespace: "other".to_owned(),
            ..PodSandboxMetadata::default()
        });
        assert_eq!(pod_of(&one), Some(pod("u1")));
        one.labels.remove(UID);
        assert_eq!(pod_of(&one).expect("metadata").namespace, "other");
        one.metadata = None;
        assert_eq!(pod_of(&one), None);
    }
}
