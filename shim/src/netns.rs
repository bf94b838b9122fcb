//! Network namespaces: opening one, knowing which one it is, and making sockets
//! inside it.
//!
//! A thread that entered a namespace never leaves it alive: each visit has a
//! thread of its own, which makes what was asked for and ends. Nothing that
//! fails, panics or hangs in there can leave a worker of the runtime inside a
//! pod.

pub mod holder;

use nix::{
    errno::Errno,
    sys::statfs::{NSFS_MAGIC, fstatfs},
};
use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::Duration,
};
use sternline_api::{Failure, Reason};
use tokio::sync::{Semaphore, oneshot};

/// How long a visit may take, the wait for a free thread included. It takes
/// 0.1 ms; the kernel's lock over all network configuration may hold it up.
pub const VISIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Stack of a visiting thread, in bytes: it makes a few system calls.
const STACK_BYTES: usize = 256 * 1024;

/// How many visits may be under way. Reached only when the kernel hangs; further
/// ones wait, and fail at [`VISIT_TIMEOUT`].
const MAX_VISITS: usize = 64;

static VISITS: Semaphore = Semaphore::const_new(MAX_VISITS);

/// Which namespace it is. Two files with the same identity are one namespace;
/// the number is not used again while anything, a socket too, is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// The identity of what lies at a path; links are followed.
    ///
    /// # Errors
    /// Those of `stat(2)`.
    pub fn of_path(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self::of(&found))
    }

    /// Device and inode, to tell another process.
    #[must_use]
    pub fn parts(self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// The identity with this device and inode, as another process told it.
    #[must_use]
    pub fn from_parts(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    fn of(found: &fs::Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
        }
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// Why a namespace could not be used. Every message names its path.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing is at the path.
    #[error(
        "network namespace {} does not exist: the sandbox is stopping, or {} is not shared with this server",
        .0.display(), parent(.0)
    )]
    Missing(PathBuf),
    /// Something else is at the path, such as the file that a namespace was mounted on.
    #[error(
        "{} is not a network namespace any more, or never was: its sandbox stopped, or {} is not shared with this server",
        .0.display(), parent(.0)
    )]
    Stale(PathBuf),
    /// The file cannot be opened.
    #[error("network namespace {} cannot be opened: {}", .0.display(), .1)]
    Open(PathBuf, io::Error),
    /// The kernel refuses entry.
    #[error("network namespace {} may not be entered: this server needs CAP_SYS_ADMIN", .0.display())]
    Denied(PathBuf),
    /// Entering fails otherwise.
    #[error("network namespace {} cannot be entered: {}", .0.display(), .1)]
    Enter(PathBuf, io::Error),
    /// The visit took too long.
    #[error("network namespace {} cannot be used: the kernel did not answer within {:?}; try again", .0.display(), .1)]
    TimedOut(PathBuf, Duration),
    /// No thread could be started.
    #[error("network namespace {} cannot be entered: no thread could be started: {}", .0.display(), .1)]
    Thread(PathBuf, io::Error),
    /// The work inside panicked.
    #[error("network namespace {}: the work inside failed unexpectedly; this is a bug, see the log", .0.display())]
    Panicked(PathBuf),
}

fn parent(path: &Path) -> impl fmt::Display + '_ {
    path.parent().unwrap_or(path).display()
}

impl NetnsError {
    /// The error of a path that cannot be opened.
    pub(crate) fn opening(path: &Path, err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::NotFound => Self::Missing(path.to_owned()),
            _ => Self::Open(path.to_owned(), err),
        }
    }

    /// The failure of a call for this sandbox.
    #[must_use]
    pub fn for_sandbox(&self, sandbox: &str) -> Failure {
        let reason = match self {
            Self::Open(_, err) if out_of_descriptors(err) => Reason::DescriptorLimit,
            Self::Thread(..) | Self::Panicked(_) => Reason::Internal,
            _ => Reason::NamespaceUnreachable,
        };
        Failure::new(reason, format!("sandbox {sandbox}: {self}"))
    }
}

/// Whether the process or the machine has no file descriptors left.
pub(crate) fn out_of_descriptors(err: &io::Error) -> bool {
    err.raw_os_error()
        .is_some_and(|code| code == Errno::EMFILE as i32 || code == Errno::ENFILE as i32)
}

/// An open namespace. The file is opened once: its identity is read from it and
/// the namespace is entered through it, so that a path that is replaced in
/// between changes nothing. It pins the namespace: keep it for one call only.
#[derive(Debug)]
pub struct Netns {
    // The crate's `run` is not used: it leaves the thread inside after a panic.
    file: netns_rs::NetNs,
    path: PathBuf,
    id: NamespaceId,
}

impl Netns {
    /// Opens the namespace at a path; the work is done on a thread of its own.
    ///
    /// # Errors
    /// A path that is missing, unreadable, or not a namespace.
    pub async fn open(path: PathBuf) -> Result<Self, NetnsError> {
        Self::open_as(path.clone(), path).await
    }

    /// As [`Netns::open`], with another path for messages.
    ///
    /// # Errors
    /// As [`Netns::open`].
    pub async fn open_as(path: PathBuf, shown: PathBuf) -> Result<Self, NetnsError> {
        let name = shown.clone();
        visit(&name, VISIT_TIMEOUT, move || open_now(&path, shown)).await?
    }

    /// Which namespace it is.
    #[must_use]
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// The path it was opened at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `make` on a fresh thread inside the namespace, then closes it. If the
    /// caller stops waiting, what `make` returns is dropped.
    ///
    /// # Errors
    /// The namespace cannot be entered, `make` panicked, or [`VISIT_TIMEOUT`] is over.
    pub async fn run<T: Send + 'static>(
        self,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetnsError> {
        let path = self.path.clone();
        visit(&path, VISIT_TIMEOUT, move || {
            self.file
                .enter()
                .map_err(|err| entry_error(self.path.clone(), err))?;
            drop(self);
            Ok(make())
        })
        .await?
    }
}

fn open_now(path: &Path, shown: PathBuf) -> Result<Netns, NetnsError> {
    // Opening another kind of file, a FIFO say, may block or have effects.
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(NetnsError::Stale(shown)),
        Err(err) => return Err(NetnsError::opening(&shown, err)),
    }
    let file = match netns_rs::get_from_path(path) {
        Ok(file) => file,
        Err(netns_rs::Error::OpenNsError(_, err)) => return Err(NetnsError::opening(&shown, err)),
        Err(err) => return Err(NetnsError::Open(shown, io::Error::other(err))),
    };
    let opened = fstatfs(file.file())
        .map_err(io::Error::from)
        .and_then(|stat| Ok((stat.filesystem_type(), file.file().metadata()?)));
    match opened {
        Ok((NSFS_MAGIC, found)) => Ok(Netns {
            id: NamespaceId::of(&found),
            path: shown,
            file,
        }),
        Ok(_) => Err(NetnsError::Stale(shown)),
        Err(err) => Err(NetnsError::Open(shown, err)),
    }
}

fn entry_error(path: PathBuf, err: netns_rs::Error) -> NetnsError {
    let netns_rs::Error::SetnsError(errno) = err else {
        return NetnsError::Enter(path, io::Error::other(err));
    };
    match Errno::from_raw(errno as i32) {
        // A namespace, but of another kind.
        Errno::EINVAL => NetnsError::Stale(path),
        Errno::EPERM => NetnsError::Denied(path),
        errno => NetnsError::Enter(path, errno.into()),
    }
}

/// Runs blocking work on a thread that serves nothing else, and waits for it no
/// longer than `bound`.
async fn visit<T: Send + 'static>(
    path: &Path,
    bound: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetnsError> {
    let visiting = async {
        let Ok(permit) = VISITS.acquire().await else {
            return Err(NetnsError::Panicked(path.to_owned()));
        };
        let (done, result) = oneshot::channel();
        thread::Builder::new()
            .name("sternline-netns".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let _permit = permit;
                // If nobody waits any more, the result is dropped here.
                let _ = done.send(work());
            })
            .map_err(|err| NetnsError::Thread(path.to_owned(), err))?;
        result
            .await
            .map_err(|_| NetnsError::Panicked(path.to_owned()))
    };
    match tokio::time::timeout(bound, visiting).await {
        Ok(result) => result,
        Err(_) => Err(NetnsError::TimedOut(path.to_owned(), bound)),
    }
}

/// The namespaces that belong to the node itself and are never entered.
#[derive(Clone, Debug)]
pub struct HostNetwork(Vec<NamespaceId>);

impl HostNetwork {
    /// Reads the namespace of this process, and that of the first process where
    /// the kernel shows it. To be called at start, before anything is entered.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn detect() -> Result<Self, Failure> {
        // Kept: a process that gave its privileges up sees less later.
        static DETECTED: OnceLock<HostNetwork> = OnceLock::new();
        if let Some(detected) = DETECTED.get() {
            return Ok(detected.clone());
        }
        let own = Path::new("/proc/self/ns/net");
        let own = NamespaceId::of_path(own).map_err(|err| {
            let message = format!(
                "the own network namespace cannot be told: {}: {err}; mount /proc",
                own.display()
            );
            Failure::new(Reason::Internal, message)
        })?;
        let first = NamespaceId::of_path(Path::new("/proc/1/ns/net"));
        let detected = Self(std::iter::once(own).chain(first).collect());
        Ok(DETECTED.get_or_init(|| detected).clone())
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn contains(&self, id: NamespaceId) -> bool {
        self.0.contains(&id)
    }

    /// The refusal of a sandbox that shares the node's network.
    #[must_use]
    pub fn refusal(sandbox: &str) -> Failure {
        let message = format!(
            "sandbox {sandbox} uses the network of the node itself: a listener there would be open to every process on the node; use a pod without hostNetwork"
        );
        Failure::new(Reason::HostNetwork, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> PathBuf {
        PathBuf::from("/proc/self/ns/net")
    }

    #[tokio::test]
    async fn the_own_namespace_is_the_hosts() {
        let netns = Netns::open(own()).await.expect("open");
        let host = HostNetwork::detect().expect("detect");
        assert!(host.contains(netns.id()));
        assert_eq!(NamespaceId::of_path(&own()).expect("stat"), netns.id());
        assert!(netns.id().to_string().starts_with("net:["));
    }

    #[tokio::test]
    async fn what_is_no_namespace_is_told_apart() {
        let dir = tempfile::tempdir().expect("dir");
        let plain = dir.path().join("plain");
        fs::write(&plain, "").expect("write");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("fifo");

        for path in [plain, fifo, dir.path().to_owned()] {
            let err = Netns::open(path.clone()).await.expect_err("refused");
            assert!(matches!(err, NetnsError::Stale(_)), "{path:?}: {err}");
            assert_eq!(err.for_sandbox("web").reason, Reason::NamespaceUnreachable);
        }
        let missing = dir.path().join("missing");
        let err = Netns::open(missing.clone()).await.expect_err("missing");
        assert!(matches!(err, NetnsError::Missing(_)), "{err}");
        let failure = err.for_sandbox("web");
        assert_eq!(failure.reason, Reason::NamespaceUnreachable);
        assert!(failure.message.contains("sandbox web"), "{failure}");
        assert!(failure.message.contains(missing.to_str().expect("utf-8")));
    }

    #[tokio::test]
    async fn a_panic_inside_ends_the_visit_and_not_the_caller() {
        let path = Path::new("/somewhere");
        let result = visit(path, VISIT_TIMEOUT, || -> u8 { panic!("on purpose") }).await;
        assert!(matches!(result, Err(NetnsError::Panicked(_))));
        assert_eq!(visit(path, VISIT_TIMEOUT, || 7).await.expect("works"), 7);
    }

    #[tokio::test]
    async fn a_visit_that_hangs_is_given_up_and_its_result_dropped() {
        struct Loud(std::sync::mpsc::Sender<()>);
        impl Drop for Loud {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (dropped, told) = std::sync::mpsc::channel();
        let result = visit(Path::new("/slow"), Duration::from_millis(20), move || {
            let _ = wait.recv();
            Loud(dropped)
        })
        .await;
        assert!(matches!(result, Err(NetnsError::TimedOut(..))));
        assert!(told.try_recv().is_err(), "the work is still under way");
        go.send(()).expect("the thread waits");
        told.recv_timeout(Duration::from_secs(10)).expect("dropped");
    }
}
