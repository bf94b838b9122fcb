//! What each process gives up before it does anything else.
//!
//! serve beside a binder keeps nothing that could bring it into a namespace, and
//! proves it by trying. The binder keeps the few capabilities that entering
//! needs. All of this is done while the process has one thread: capabilities and
//! filters belong to threads, and later ones inherit them.

mod capabilities;
mod landlock;
mod seccomp;

use crate::config::{AuditTarget, Config, StreamingAddress, User};
use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, chown, setgroups, setresgid, setresuid};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The namespace that serve tries to enter: its own, which harms nobody and needs
/// the same capability as any other.
const OWN_NAMESPACE: &str = "/proc/self/ns/net";

/// What the gateway's name is found with.
const NAMES: [&str; 5] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
];

/// Takes serve's privileges away, if a binder process is used, and says in one
/// sentence what is in force then.
///
/// # Errors
/// Something cannot be given up, or this process could still enter a namespace
/// and `--allow-privileged-serve` is not given.
pub fn confine_serve(config: &Config) -> anyhow::Result<Option<String>> {
    let separation = &config.separation;
    if separation.binder.is_none() {
        return Ok(None);
    }
    if let Some(user) = separation.run_as {
        become_user(config, user)?;
    } else {
        make_directories(config, None)?;
    }
    rustix::thread::set_no_new_privs(true).context("no_new_privs cannot be set")?;
    let left = capabilities::held().context("the own capabilities cannot be read")?;
    let uid = Uid::effective();
    let entered = can_enter()?;
    if uid.is_root() || !left.is_empty() || entered {
        let able = match entered {
            true => "can enter a network namespace",
            false => "could not enter a network namespace",
        };
        let found = format!("serve has uid {uid}, capabilities [{left}], and {able}");
        if !separation.allow_privileged_serve {
            bail!(
                "{found}: beside a binder it must have none; start it as an ordinary user, give --run-as UID:GID, or --allow-privileged-serve"
            );
        }
        tracing::warn!("{found}: allowed by --allow-privileged-serve");
    }
    let landlock = landlock::restrict(&writable(config), &readable(config), &dialled(config));
    let seccomp = seccomp::restrict();
    let proof = match entered {
        true => "entered a network namespace",
        false => "tried to enter a network namespace and was refused (EPERM)",
    };
    let in_force = format!(
        "uid {uid}, capabilities [{left}], no_new_privs; {proof}; Landlock: {landlock}; seccomp: {seccomp}"
    );
    tracing::info!("confined: {in_force}");
    Ok(Some(in_force))
}

/// Leaves the binder what entering namespaces needs, and nothing else.
///
/// # Errors
/// Something cannot be given up.
pub fn confine_binder() -> anyhow::Result<()> {
    capabilities::keep(capabilities::OF_BINDER)
        .context("the binder's capabilities cannot be given up")?;
    rustix::thread::set_no_new_privs(true).context("no_new_privs cannot be set")?;
    let left = capabilities::held().context("the own capabilities cannot be read")?;
    tracing::info!(
        "confined: uid {}, capabilities [{left}], no_new_privs",
        Uid::effective()
    );
    Ok(())
}

/// Leaves the network that the pod's containers share for an empty one: there is
/// nobody whom the binder could dial, and nobody who could dial it. To be called
/// while the process has one thread.
///
/// # Errors
/// It may not.
pub fn leave_network() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .context("--own-network: no network namespace can be made, which takes CAP_SYS_ADMIN")
}

fn become_user(config: &Config, user: User) -> anyhow::Result<()> {
    let wish = || format!("--run-as {}:{}", user.uid, user.gid);
    if !Uid::effective().is_root() {
        bail!("{}: this process is not root: leave it out", wish());
    }
    make_directories(config, Some(user))?;
    capabilities::forbid_all().with_context(wish)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    // A member may give its sockets to the group.
    let groups = std::iter::once(user.gid).chain(config.access.gid());
    let groups: Vec<Gid> = groups.map(Gid::from_raw).collect();
    setgroups(&groups).with_context(wish)?;
    setresgid(gid, gid, gid).with_context(wish)?;
    setresuid(uid, uid, uid).with_context(wish)?;
    capabilities::clear().with_context(wish)
}

/// Makes the directories of serve's sockets while it may, for the user that it
/// will be.
fn make_directories(config: &Config, user: Option<User>) -> anyhow::Result<()> {
    for dir in socket_directories(config) {
        if dir.exists() {
            continue;
        }
        let said = || format!("directory {}", dir.display());
        if let Some(above) = dir.parent() {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o755).create(above);
            made.with_context(said)?;
        }
        let group = config.access.gid();
        let mode = if group.is_some() { 0o750 } else { 0o700 };
        DirBuilder::new()
            .mode(mode)
            .create(&dir)
            .with_context(said)?;
        let uid = user.map(|user| Uid::from_raw(user.uid));
        let gid = group.or(user.map(|user| user.gid)).map(Gid::from_raw);
        chown(&dir, uid, gid).with_context(|| {
            format!(
                "directory {} cannot be given to user and group, which takes root, or for --socket-group a member of the group",
                dir.display()
            )
        })?;
    }
    Ok(())
}

fn socket_directories(config: &Config) -> Vec<PathBuf> {
    let streaming = match &config.streaming_address {
        StreamingAddress::Unix(path) => Some(path.as_path()),
        StreamingAddress::Tcp(_) => None,
    };
    let sockets = [Some(config.socket.as_path()), streaming];
    sockets.into_iter().filter_map(directory).collect()
}

/// Everything in the file system that serve changes: the directories of its
/// sockets, of its ready file and of its audit log, which may be moved away and
/// opened again.
fn writable(config: &Config) -> Vec<PathBuf> {
    let audit = match &config.audit.audit_log {
        // A pipe or a device is nothing to make another of.
        Some(AuditTarget::Path(path)) if path.exists() && !path.is_file() => Some(path.clone()),
        Some(AuditTarget::Path(path)) => directory(Some(path)),
        Some(AuditTarget::Stdout) | None => None,
    };
    let sockets = socket_directories(config).into_iter();
    let ready = directory(config.ready_file.as_deref());
    sockets.chain(ready).chain(audit).collect()
}

/// What serve reads again and again: the directory of each file, and of what it
/// leads to, because whoever changes a file may put another in its place.
fn readable(config: &Config) -> Vec<PathBuf> {
    let tls = &config.tls;
    let cluster = &config.cluster;
    let bundle = cluster.cluster_address.is_some();
    let bundle = bundle.then(|| cluster.trust.authority_bundle.clone());
    let files = [
        &bundle,
        &cluster.gateway_token,
        &config.ending.switch_file,
        &tls.streaming_tls_cert,
        &tls.streaming_tls_key,
        &tls.streaming_client_ca,
    ];
    let files = files.into_iter().flatten();
    let led = |file: &PathBuf| {
        [
            directory(Some(file)),
            directory(file.canonicalize().ok().as_deref()),
        ]
    };
    let names = cluster
        .gateway
        .iter()
        .flat_map(|_| NAMES.map(PathBuf::from));
    files.flat_map(led).flatten().chain(names).collect()
}

/// Ports that serve dials: the gateway's, and that of the servers of names.
fn dialled(config: &Config) -> Vec<u16> {
    let gateway = config.cluster.gateway.as_ref();
    let gateway = gateway.map(|gateway| gateway.port_u16().unwrap_or(443));
    gateway.into_iter().flat_map(|port| [port, 53]).collect()
}

fn directory(file: Option<&Path>) -> Option<PathBuf> {
    match file?.parent()? {
        here if here.as_os_str().is_empty() => Some(PathBuf::from(".")),
        dir => Some(dir.to_owned()),
    }
}

/// Whether this process can enter a network namespace.
fn can_enter() -> anyhow::Result<bool> {
    let own = File::open(OWN_NAMESPACE).with_context(|| {
        format!("{OWN_NAMESPACE} cannot be opened, to try to enter it: mount /proc")
    })?;
    match setns(&own, CloneFlags::CLONE_NEWNET) {
        Ok(()) => Ok(true),
        Err(Errno::EPERM) => Ok(false),
        Err(error) => bail!("{OWN_NAMESPACE} cannot be tried: {error}"),
    }
}
