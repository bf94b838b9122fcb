//! seccomp: system calls that serve never makes, refused by the kernel.
//!
//! It is a list of what is denied (EPERM), not of what is allowed: which calls
//! the C library and the runtime make changes with their releases, and a server
//! that dies of an update protects nobody. What matters is out of reach without
//! capabilities already; this takes the kernel's code behind it out of reach too.

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::collections::BTreeMap;

/// Denied whatever their arguments.
const DENIED: &[i64] = &[
    // Namespaces, mounts and roots.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Other processes, and other programs.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_execve,
    libc::SYS_execveat,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_personality,
    // Keys, clocks, names, handles and devices.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
];

/// Namespaces that `clone` would make.
const NEW_NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Families of sockets that are used; all others are denied.
const FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// Marks a call of the x32 ABI, where a kernel has one.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// From here on this thread, and those that it starts, cannot make these calls.
/// Says whether that holds.
pub(super) fn restrict() -> String {
    match apply() {
        Ok(()) => format!("enforced, {} calls denied", DENIED.len()),
        Err(error) => format!("off ({error})"),
    }
}

fn apply() -> Result<(), Box<dyn std::error::Error>> {
    apply_filter(&program(denied()?, libc::EPERM)?)?;
    // Its flags lie in memory, where no filter looks. The C library takes `clone`
    // instead when there is no such call.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    apply_filter(&program(clone3, libc::ENOSYS)?)?;
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn denied() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let mut clone = Vec::new();
    for flag in NEW_NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        clone.push(rule(&[(SeccompCmpOp::MaskedEq(flag), flag)])?);
    }
    rules.insert(libc::SYS_clone, clone);
    let mut others = Vec::new();
    for family in FAMILIES {
        others.push((SeccompCmpOp::Ne, u64::from(family.unsigned_abs())));
    }
    rules.insert(libc::SYS_socket, vec![rule(&others)?]);
    #[cfg(target_arch = "x86_64")]
    for (call, rule) in rules.clone() {
        rules.insert(call | X32, rule);
    }
    Ok(rules)
}

/// Holds where the first argument of a call satisfies all of these.
fn rule(conditions: &[(SeccompCmpOp, u64)]) -> Result<SeccompRule, seccompiler::BackendError> {
    let first = |(op, value): &(SeccompCmpOp, u64)| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, op.clone(), *value)
    };
    SeccompRule::new(conditions.iter().map(first).collect::<Result<_, _>>()?)
}

fn program(rules: Rules, errno: i32) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let errno = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, errno, arch)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::sched::{CloneFlags, setns, unshare};
    use std::fs::File;
    use std::process::Command;

    #[test]
    fn what_is_never_called_is_refused_and_threads_still_start() {
        // Filters belong to a thread: the others of this test go on without.
        let confined = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).expect("set");
            let said = restrict();
            assert!(said.starts_with("enforced"), "{said}");
            let own = File::open("/proc/self/ns/net").expect("open");
            assert_eq!(setns(&own, CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
            assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
            assert_eq!(nix::unistd::chroot("/"), Err(Errno::EPERM));
            let program = Command::new("/bin/true").status().expect_err("refused");
            assert_eq!(program.kind(), std::io::ErrorKind::PermissionDenied);
            let packet = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::DGRAM, None);
            packet.expect_err("refused");
            std::net::TcpListener::bind("127.0.0.1:0").expect("allowed");
            std::thread::spawn(|| 7).join().expect("a thread starts")
        });
        assert_eq!(confined.join().expect("confined"), 7);
    }
}
