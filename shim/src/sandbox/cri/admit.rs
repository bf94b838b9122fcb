//! Whether a sandbox may be entered, and where. The order matters: what the
//! runtime states outright comes before what a path seems to say.

use super::info::Info;
use crate::netns::HostNetwork;
use std::path::PathBuf;
use sternline_api::{
    Failure, Reason,
    cri::{NamespaceMode, PodSandboxState, PodSandboxStatusResponse},
};

/// containerd's runtime whose containers share the kernel's network.
const RUNC: &str = "io.containerd.runc.v2";

/// Runtime handlers taken for such where the runtime names no type, as CRI-O: its
/// default and the two that it configures by itself.
const KNOWN_HANDLERS: [&str; 3] = ["", "runc", "crun"];

/// Where the network namespace of a sandbox is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// At this path.
    Path(PathBuf),
    /// It is that of this process.
    Pid(u32),
}

/// Whether the runtime says that the sandbox is ready.
pub(super) fn is_ready(answer: &PodSandboxStatusResponse) -> bool {
    answer
        .status
        .as_ref()
        .is_some_and(|status| status.state() == PodSandboxState::SandboxReady)
}

/// Whether the sandbox shares the node's network, as it was asked to.
pub(super) fn is_node(answer: &PodSandboxStatusResponse) -> bool {
    let status = answer.status.as_ref();
    status
        .and_then(|status| status.linux.as_ref()?.namespaces.as_ref()?.options.as_ref())
        .is_some_and(|options| options.network() == NamespaceMode::Node)
}

/// The extra information of a verbose status.
pub(super) fn info_of(id: &str, answer: &PodSandboxStatusResponse) -> Result<Info, Failure> {
    Info::parse(&answer.info).map_err(|problem| {
        let message = format!(
            "sandbox {id}: the container runtime's information {problem}; report this with the runtime's version"
        );
        Failure::new(Reason::RuntimeUnavailable, message)
    })
}

/// Says where to enter the sandbox, or why not.
pub(super) fn admit(
    id: &str,
    answer: &PodSandboxStatusResponse,
    allowed: &[String],
) -> Result<Entry, Failure> {
    let not_ready = |what: &str| {
        let message = format!("sandbox {id} is not ready: {what}; wait for its pod, or restart it");
        Failure::new(Reason::SandboxNotReady, message)
    };
    if !is_ready(answer) {
        return Err(not_ready("it was stopped"));
    }
    if is_node(answer) {
        return Err(HostNetwork::refusal(id));
    }
    let info = info_of(id, answer)?;
    if info.network_closed {
        return Err(not_ready("its network was taken down"));
    }
    let handler = answer
        .status
        .as_ref()
        .map_or("", |status| status.runtime_handler.as_str());
    check_runtime(id, info.runtime_type.as_deref(), handler, allowed)?;
    match info {
        Info {
            network: Some(path),
            ..
        } => Ok(Entry::Path(path)),
        Info { pid: Some(pid), .. } => Ok(Entry::Pid(pid)),
        _ => {
            let message = format!(
                "sandbox {id}: the container runtime names neither a network namespace nor a process; check that it answers `crictl inspectp {id}` with runtimeSpec"
            );
            Err(Failure::new(Reason::NamespaceUnreachable, message))
        }
    }
}

fn check_runtime(
    id: &str,
    runtime_type: Option<&str>,
    handler: &str,
    allowed: &[String],
) -> Result<(), Failure> {
    let known = match runtime_type {
        Some(runtime) => runtime == RUNC,
        None => KNOWN_HANDLERS.contains(&handler),
    };
    let permitted = |name: &str| !name.is_empty() && allowed.iter().any(|one| one == name);
    if known || permitted(handler) || runtime_type.is_some_and(permitted) {
        return Ok(());
    }
    let runtime = match (runtime_type, handler) {
        (Some(runtime), "") => format!("runtime {runtime:?}"),
        (Some(runtime), handler) => format!("runtime {runtime:?}, handler {handler:?}"),
        (None, handler) => format!("runtime handler {handler:?}"),
    };
    let allow = if handler.is_empty() {
        runtime_type.unwrap_or_default()
    } else {
        handler
    };
    let message = format!(
        "sandbox {id} runs under {runtime}, which may have a network of its own, as virtual machines do: use another runtime class, or start the server with --allow-runtime-handler {allow} if it shares the kernel's network"
    );
    Err(Failure::new(Reason::VmRuntime, message))
}

#[cfg(test)]
#[path = "admit/tests.rs"]
mod tests;
