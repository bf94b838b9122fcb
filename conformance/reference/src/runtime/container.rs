//! Network namespaces with a name, and processes in them.

use super::done;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use std::{
    fs::{self, File},
    io,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};
use sternline_api::cri as pb;

/// Runs `act` on a thread that ends afterwards: it changes namespaces.
fn apart<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let done = thread::spawn(act).join();
    done.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}

/// Makes a namespace with `lo` up and names it.
pub(super) fn name_namespace(path: &Path) -> io::Result<()> {
    File::create_new(path)?;
    let path = path.to_owned();
    apart(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        done(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let own = Some("/proc/thread-self/ns/net");
        mount(own, &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
}

/// Takes the name away, if there is one.
pub(super) fn unname(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Starts what a container shall run, in the node's own file system: paths below
/// a mount are those of the node.
pub(super) fn start(
    namespace: &Path,
    program: &Path,
    config: &pb::ContainerConfig,
) -> io::Result<Child> {
    let arguments: Vec<_> = config
        .command
        .iter()
        .skip(1)
        .map(|word| {
            let mounted = config.mounts.iter().find_map(|mount| {
                let rest = word.strip_prefix(&mount.container_path)?;
                Some(format!("{}{rest}", mount.host_path))
            });
            mounted.unwrap_or_else(|| word.clone())
        })
        .collect();
    let (namespace, program) = (File::open(namespace)?, program.to_owned());
    apart(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
    })
}
