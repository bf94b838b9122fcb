//! A sandbox as standalone mode knows it: a network namespace with a name.

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread;

/// Makes a network namespace in which only `lo` exists, up, and pins it at
/// `path` by a bind mount. Returns its name, as in `net:[4026532201]`.
///
/// # Errors
/// Each step that the kernel refuses.
pub(crate) fn create(path: &Path) -> Result<String> {
    File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let path = path.to_owned();
    // A thread of its own: it ends inside the namespace and is never used for
    // anything else.
    let made = thread::spawn(move || -> Result<String> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        loopback_up().context("bringing up lo in the new network namespace")?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("mounting the network namespace at {}", path.display()))?;
        crate::namespaces::network()
    });
    match made.join() {
        Ok(result) => result,
        Err(_) => bail!("the thread that made the network namespace panicked"),
    }
}

/// Takes the pin away. Nothing happens where there is none.
pub(crate) fn remove(path: &Path) {
    // Not mounted is as good as unmounted.
    let _ = umount2(path, MntFlags::MNT_DETACH);
}

/// `ip link set lo up`, by one rtnetlink message.
fn loopback_up() -> Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLMSG_ERROR: u16 = 2;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    /// Index of `lo` in every network namespace.
    const LOOPBACK: i32 = 1;
    const LENGTH: u32 = 32;

    let mut message = Vec::with_capacity(LENGTH as usize);
    // struct nlmsghdr: length, type, flags, sequence, port.
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family and type (any), index, flags, mask of flags.
    message.extend([0; 4]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());

    let route = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    setsockopt(&route, sockopt::ReceiveTimeout, &TimeVal::new(5, 0))?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(route.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;

    // The answer: a header of 16 bytes, then an errno, negative or 0.
    let mut answer = [0_u8; 128];
    let length = recv(route.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let Some((header, rest)) = answer[..length].split_at_checked(16) else {
        bail!("the kernel answered with {length} bytes");
    };
    match (header, rest) {
        ([_, _, _, _, a, b, ..], [e0, e1, e2, e3, ..])
            if u16::from_ne_bytes([*a, *b]) == NLMSG_ERROR =>
        {
            match i32::from_ne_bytes([*e0, *e1, *e2, *e3]) {
                0 => Ok(()),
                errno => bail!(std::io::Error::from_raw_os_error(-errno)),
            }
        }
        _ => bail!("the kernel answered with something else than an acknowledgement"),
    }
}
