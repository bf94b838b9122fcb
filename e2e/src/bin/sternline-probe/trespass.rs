//! Tries to come into network namespaces, with the rights that it was started with.

use crate::{Args, Outcome, report};
use nix::cmsg_space;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use sternline_e2e::report::{Attempt, Trespass};

/// Where nodes have the namespaces of pods.
const NAMESPACES: &str = "/run/netns";

/// Tries one way after the other, the namespace of a pod that whoever listens at
/// `--handed-by` hands over among them.
pub(crate) fn trespass(args: &Args) -> Outcome {
    let by: PathBuf = args.need("handed-by")?;
    args.done()?;
    // As it was started: attempts may change it.
    let uid = nix::unistd::Uid::effective().as_raw();
    let pods = handed(&by).map_err(|error| format!("{}: {error}", by.display()))?;
    let mut attempts = Vec::new();
    let mut attempt = |what: &str, came_of_it: io::Result<()>| {
        attempts.push(Attempt {
            what: what.to_owned(),
            refused: came_of_it.err().map(|error| error.to_string()),
        });
    };
    attempt("find namespaces of pods", found());
    attempt(
        "enter the one it is in",
        enter(&File::open("/proc/self/ns/net")?),
    );
    attempt("enter a pod's", enter(&pods));
    attempt("make one", apart(CloneFlags::CLONE_NEWNET));
    // Whoever is root there has every capability, in it alone.
    let user = CloneFlags::CLONE_NEWUSER;
    let entered = apart(user).and_then(|()| enter(&pods));
    attempt("enter a pod's as root of a user namespace", entered);
    report(&Trespass { uid, attempts })
}

fn found() -> io::Result<()> {
    match fs::read_dir(NAMESPACES)?.next() {
        Some(entry) => entry.map(drop),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn enter(namespace: &File) -> io::Result<()> {
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

fn apart(namespaces: CloneFlags) -> io::Result<()> {
    Ok(unshare(namespaces)?)
}

/// The descriptor that comes from a socket.
fn handed(by: &PathBuf) -> Result<File, Box<dyn Error>> {
    let socket = UnixStream::connect(by)?;
    let mut space = cmsg_space!(RawFd);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let handed = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(handed) => handed.first().copied(),
        _ => None,
    });
    let handed = handed.ok_or("nothing was handed over")?;
    // By its path: safe code makes no file of a number.
    Ok(File::open(format!("/proc/self/fd/{handed}"))?)
}
