//! Capabilities: looking at them, and giving them up.

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};
use std::fmt;

/// Capabilities that a process has or could take up: permitted, effective or
/// inheritable. Ambient ones are always permitted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held(CapabilitySet);

impl Held {
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self
            .0
            .iter_names()
            .map(|(name, _)| format!("CAP_{name}"))
            .collect();
        f.write_str(&names.join(", "))
    }
}

/// What this thread has now.
pub(super) fn held() -> Result<Held> {
    let sets = capabilities(None)?;
    Ok(Held(sets.permitted | sets.effective | sets.inheritable))
}

/// What the binder needs: to enter namespaces, to listen below 1024 in them, and
/// to look at processes of pods: at the namespace of one where a runtime tells no
/// path, and for the one that has a taken port.
pub(super) const OF_BINDER: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_PTRACE);

/// Gives up all but these, for good where the kernel lets us.
pub(super) fn keep(these: CapabilitySet) -> Result<()> {
    let now = capabilities(None)?;
    limit(these, now)?;
    clear_ambient_capability_set()?;
    let permitted = now.permitted & these;
    set_capabilities(
        None,
        CapabilitySets {
            effective: permitted,
            permitted,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Makes sure that no program started later gets any. For a process that is
/// about to become another user.
pub(super) fn forbid_all() -> Result<()> {
    limit(CapabilitySet::empty(), capabilities(None)?)?;
    clear_ambient_capability_set()
}

/// Gives up all.
pub(super) fn clear() -> Result<()> {
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
}

/// Takes everything else out of the bounding set. Without CAP_SETPCAP that is
/// left as it is: no_new_privs does the same for what is started later.
fn limit(to: CapabilitySet, now: CapabilitySets) -> Result<()> {
    if !now.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !to.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // Beyond the last that this kernel knows.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_is_gone_from_this_thread_alone() {
        // Capabilities belong to a thread: the others of this test keep theirs.
        let before = held().expect("read");
        let given_up = std::thread::spawn(|| {
            clear().expect("cleared");
            held().expect("read")
        });
        assert!(given_up.join().expect("ran").is_empty());
        assert_eq!(held().expect("read"), before);
    }

    #[test]
    fn capabilities_have_their_names() {
        let names = "CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE, CAP_SYS_ADMIN";
        assert_eq!(Held(OF_BINDER).to_string(), names);
    }
}
