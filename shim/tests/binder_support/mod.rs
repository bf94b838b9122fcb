//! Real network namespaces for tests.
//!
//! Each story runs in a process of its own, inside a network and a mount
//! namespace that end with it: as root directly, else inside a user namespace. A
//! machine that allows neither fails the test; nothing is skipped.

#![allow(dead_code, reason = "each test binary uses a part")]

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    unistd::geteuid,
};
use socket2::{Domain, Socket, Type};
use std::{
    collections::BTreeSet,
    env, fs,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    thread,
    time::{Duration, Instant},
};
use sternline_api::listen::{Bind, Listen};

pub(crate) mod form;
pub(crate) mod keeping;

const INSIDE: &str = "STERNLINE_TEST_INSIDE";

/// Longer than any story takes.
const STORY_TIMEOUT: Duration = Duration::from_secs(120);

/// Defines a test that runs in namespaces of its own: once with the binder in
/// the same process, once with one apart.
#[macro_export]
macro_rules! story {
    ($(#[$doc:meta])* async fn $name:ident() $body:block) => {
        $(#[$doc])*
        async fn $name() $body

        mod $name {
            #[test]
            fn in_one_process() {
                let name = concat!(stringify!($name), "::in_one_process");
                $crate::binder_support::tell(name, "local", super::$name);
            }

            #[test]
            fn across_processes() {
                let name = concat!(stringify!($name), "::across_processes");
                $crate::binder_support::tell(name, "process", super::$name);
            }
        }
    };
}

/// Defines a test that runs in namespaces of its own, about a binder apart.
#[macro_export]
macro_rules! apart {
    ($(#[$doc:meta])* async fn $name:ident() $body:block) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            $crate::binder_support::tell(stringify!($name), "process", || async $body);
        }
    };
}

/// Runs the story if this is the process made for it, else makes that process.
pub(crate) fn tell<F: Future<Output = ()>>(name: &str, form: &str, story: impl FnOnce() -> F) {
    if env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            tokio::time::timeout(STORY_TIMEOUT, story())
                .await
                .expect("the story takes too long");
        });
        return;
    }
    let test = env::current_exe().expect("own path");
    let output = Command::new("unshare")
        .args(isolation())
        .arg(test)
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env(form::FORM, form)
        .output()
        .expect("unshare(1) starts");
    let told = describe(&output);
    assert!(output.status.success(), "{name} failed:\n{told}");
    assert!(told.contains("1 passed"), "{name} did not run:\n{told}");
}

fn describe(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    format!("{out}\n{err}")
}

/// Flags of `unshare(1)` that this machine allows.
fn isolation() -> Vec<&'static str> {
    let direct = vec!["--mount", "--net"];
    let mut mapped = direct.clone();
    mapped.extend(["--user", "--map-root-user"]);
    let choices = if geteuid().is_root() {
        vec![direct, mapped]
    } else {
        vec![mapped]
    };
    let mut refusals = String::new();
    for flags in choices {
        match Command::new("unshare").args(&flags).arg("true").output() {
            Ok(output) if output.status.success() => return flags,
            Ok(output) => refusals += &describe(&output),
            Err(err) => refusals += &format!("unshare(1): {err}"),
        }
    }
    panic!(
        "these tests need network namespaces: run them as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); unshare said: {refusals}"
    );
}

/// A directory of named network namespaces, removed at the end.
pub(crate) struct Namespaces {
    dir: tempfile::TempDir,
}

impl Namespaces {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        Self { dir }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a namespace whose loopback interface is up.
    pub(crate) fn add(&self, name: &str) -> PathBuf {
        self.make(name, true)
    }

    /// Makes a namespace as the kernel does: loopback is down.
    pub(crate) fn add_down(&self, name: &str) -> PathBuf {
        self.make(name, false)
    }

    fn make(&self, name: &str, up: bool) -> PathBuf {
        let path = self.path(name);
        File::create_new(&path).expect("file");
        let target = path.clone();
        let made = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            if up {
                loopback_up();
            }
            bind_mount(Path::new("/proc/thread-self/ns/net"), &target);
        });
        made.join().expect("made");
        path
    }

    /// Gives a namespace that exists elsewhere a name here.
    pub(crate) fn adopt(&self, name: &str, namespace: &Path) -> PathBuf {
        let path = self.path(name);
        File::create_new(&path).expect("file");
        bind_mount(namespace, &path);
        path
    }

    /// What remains when only half of the removal happened: a plain file.
    pub(crate) fn unmount(&self, name: &str) {
        umount2(&self.path(name), MntFlags::MNT_DETACH).expect("umount");
    }

    pub(crate) fn remove(&self, name: &str) {
        self.unmount(name);
        fs::remove_file(self.path(name)).expect("unlink");
    }

    /// Runs `work` inside, on a thread of its own.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        inside(&self.path(name), work)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
        }
    }
}

/// Runs `work` in the namespace at a path, on a thread of its own.
pub(crate) fn inside<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let file = File::open(path).expect("namespace");
    let visit = thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).expect("setns");
        drop(file);
        work()
    });
    visit.join().expect("inside")
}

/// A process in namespaces of its own, ended with the test.
pub(crate) struct Lodger(Child);

impl Lodger {
    /// Starts it, and waits until it has left this network namespace.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let child = Command::new("unshare")
            .args(flags)
            .args(["sleep", "300"])
            .spawn();
        let lodger = Self(child.expect("unshare(1) starts"));
        let own = fs::read_link("/proc/self/ns/net").expect("own");
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_link(lodger.namespace()).is_ok_and(|now| now == own) {
            assert!(Instant::now() < deadline, "it stays here");
            thread::sleep(Duration::from_millis(5));
        }
        lodger
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.0.id()))
    }
}

impl Drop for Lodger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bind_mount(from: &Path, to: &Path) {
    let none: Option<&str> = None;
    mount(Some(from), to, none, MsFlags::MS_BIND, none).expect("bind mount");
}

/// Brings `lo` up in the namespace of this thread: one netlink message.
pub(crate) fn loopback_up() {
    const AF_NETLINK: i32 = 16;
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_ACK: u16 = 0x1 | 0x4;
    const LOOPBACK: i32 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence and sender
    message.extend([0; 4]); // family, padding, kind
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // which flags change
    let mut socket = Socket::new_raw(Domain::from(AF_NETLINK), Type::RAW, None).expect("netlink");
    socket.send(&message).expect("send");
    let mut answer = [0; 64];
    let length = socket.read(&mut answer).expect("answer");
    assert!(length >= 20);
    assert_eq!(answer[16..20], [0; 4], "lo cannot be brought up");
}

/// Writes a setting under `/proc/sys/net` of the namespace of this thread.
pub(crate) fn set_sysctl(name: &str, value: &str) {
    fs::write(Path::new("/proc/sys/net").join(name), value).expect(name);
}

/// Asks for loopback at this port.
pub(crate) fn loopback(id: u32, port: u16) -> Listen {
    let bind = Bind::Loopback;
    Listen { id, bind, port }
}

/// Asks for this address and port.
pub(crate) fn at(id: u32, ip: &str, port: u16) -> Listen {
    let bind = Bind::Ip(ip.parse().expect("ip"));
    Listen { id, bind, port }
}

/// What a process can leak: descriptors, threads, and threads elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// The network namespaces that its threads are in.
    pub(crate) namespaces: BTreeSet<PathBuf>,
}

impl Census {
    pub(crate) fn take() -> Self {
        let count = |dir: &str| fs::read_dir(dir).expect(dir).count();
        let tasks = fs::read_dir("/proc/self/task").expect("tasks").flatten();
        Self {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            // A thread may end while it is looked at.
            namespaces: tasks
                .filter_map(|task| fs::read_link(task.path().join("ns/net")).ok())
                .collect(),
        }
    }

    /// Waits until nothing changes any more, several polls long, and counts.
    pub(crate) async fn calm() -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut before = Self::take();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = Self::take();
            if now == before {
                return now;
            }
            assert!(Instant::now() < deadline, "no calm: {before:?}, {now:?}");
            before = now;
        }
    }

    /// Waits until the census is this one again; threads take a moment to end.
    pub(crate) async fn settles_at(expected: &Self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = Self::take();
            if now == *expected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "left over: {now:?}, was {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
