//! One call before the first spec: whether the implementation looks for sandboxes
//! where the suite makes them. Where it does not, no spec says anything of it.

use crate::{
    context::{request, tcp},
    fixture::Sandboxes,
    runner::{Options, Subject},
};
use sternline_api::{Reason, protocol::REASON_METADATA};
use tonic::Status;

/// Makes a sandbox and a call for it, and ends the session. Anything but an
/// unknown sandbox is left to the specs.
///
/// # Errors
/// The implementation does not know the sandbox; in a sentence.
pub(crate) async fn check(subject: &Subject, options: &Options) -> Result<(), String> {
    let context = subject.context(options.patience);
    let answer = match context.pod().await {
        Ok(pod) => context.call(request(&pod.id, &[tcp("127.0.0.1", 0)])).await,
        // It was made a moment ago; what keeps it from being made again, specs tell.
        Err(_) => return Ok(()),
    };
    context.clean(true).await;
    match answer {
        Err(status) if is_unknown(&status) => Err(unknown(&options.sandboxes, &status)),
        _ => Ok(()),
    }
}

fn is_unknown(status: &Status) -> bool {
    let word = status.metadata().get(REASON_METADATA);
    word.is_some_and(|word| word.as_bytes() == Reason::SandboxNotFound.label().as_bytes())
}

fn unknown(sandboxes: &Sandboxes, status: &Status) -> String {
    let said = status.message();
    match sandboxes {
        Sandboxes::Namespaces(dir) => format!(
            "the implementation does not know a sandbox that the suite made in {} ({said}): \
             --netns-dir has to be the directory in which the implementation looks for named \
             network namespaces",
            dir.display()
        ),
        Sandboxes::Pods(pods) => format!(
            "the implementation does not know a pod that the suite made at {} ({said}): \
             --runtime-endpoint has to be the runtime that the implementation asks",
            pods.runtime.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, metadata::MetadataValue};

    fn status(word: &'static str) -> Status {
        let mut status = Status::new(Code::NotFound, "no sandbox x");
        let word = MetadataValue::from_static(word);
        status.metadata_mut().insert(REASON_METADATA, word);
        status
    }

    #[test]
    fn an_unknown_sandbox_names_the_flag_to_look_at() {
        assert!(is_unknown(&status("sandbox_not_found")));
        assert!(!is_unknown(&status("feature_off")));
        assert!(!is_unknown(&Status::new(Code::NotFound, "")));
        let sandboxes = Sandboxes::Namespaces("/run/elsewhere".into());
        let said = unknown(&sandboxes, &status("sandbox_not_found"));
        for part in ["--netns-dir", "/run/elsewhere", "no sandbox x"] {
            assert!(said.contains(part), "{said}");
        }
    }
}
