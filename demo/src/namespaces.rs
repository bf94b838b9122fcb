//! The namespaces that the demo runs in, so that it can make network
//! namespaces without root and leaves no mount and no process behind.

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs;
use std::path::Path;

/// Moves this process into a mount namespace, and its future children into a
/// PID namespace, of their own; without root, into a user namespace too, in
/// which it is root. Returns what was done, in words.
///
/// # Errors
/// Where the kernel allows neither; the sentence names the setting. It must be
/// called before the process has a second thread.
pub(crate) fn leave() -> Result<&'static str> {
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    let how = if geteuid().is_root() && unshare(own).is_ok() {
        "as root"
    } else {
        let (uid, gid) = (geteuid(), getegid());
        unshare(own | CloneFlags::CLONE_NEWUSER).map_err(refused)?;
        // An unprivileged process may map its one group only after it gave up
        // setgroups(2): user_namespaces(7).
        fs::write("/proc/self/setgroups", "deny").context("writing /proc/self/setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
            .context("mapping the user in the new user namespace")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
            .context("mapping the group in the new user namespace")?;
        "without root, in a user namespace of its own"
    };
    // What is mounted here must not show up outside.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    match mount(None::<&str>, "/", None::<&str>, private, None::<&str>) {
        Ok(()) => Ok(how),
        Err(errno) => Err(refused(errno)),
    }
}

/// The sentence for a kernel that refuses, with the setting that is to blame
/// where it can be seen.
fn refused(errno: Errno) -> anyhow::Error {
    let set = |name: &str| {
        fs::read_to_string(Path::new("/proc/sys").join(name)).map(|text| text.trim().to_owned())
    };
    let blame = if set("user/max_user_namespaces").is_ok_and(|v| v == "0") {
        "user.max_user_namespaces is 0"
    } else if set("kernel/unprivileged_userns_clone").is_ok_and(|v| v == "0") {
        "kernel.unprivileged_userns_clone is 0"
    } else if set("kernel/apparmor_restrict_unprivileged_userns").is_ok_and(|v| v == "1") {
        "kernel.apparmor_restrict_unprivileged_userns is 1"
    } else {
        "a container or a security module may forbid it"
    };
    let advice = if geteuid().is_root() {
        "run `make demo` where root has CAP_SYS_ADMIN, outside of a container for example"
    } else {
        "run `make demo` as root"
    };
    anyhow::anyhow!(
        "this machine does not allow new namespaces to this user ({errno}; {blame}): {advice}"
    )
}

/// The network namespace of the calling thread, as the kernel names it:
/// `net:[4026531840]`.
///
/// # Errors
/// Where `/proc` is not mounted.
pub(crate) fn network() -> Result<String> {
    let link = fs::read_link("/proc/thread-self/ns/net")
        .context("reading /proc/thread-self/ns/net: the demo needs /proc")?;
    match link.into_os_string().into_string() {
        Ok(name) => Ok(name),
        Err(name) => bail!("the kernel named a network namespace {name:?}"),
    }
}
