//! The two forms of a binder: in this process, and in one of its own.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    env, fs,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use sternline_api::Reason;
use sternline_shim::{
    binder::{
        Binder, LocalBinder, ProcessBinder, SandboxTarget,
        server::{Endpoint, Guests, Server, ServerLimits},
    },
    sandbox::SandboxSource,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Names the form in the process of a story.
pub(crate) const FORM: &str = "STERNLINE_TEST_FORM";

/// Whether this story is about a binder in a process of its own.
pub(crate) fn is_apart() -> bool {
    env::var(FORM).is_ok_and(|form| form == "process")
}

/// A binder of either form.
pub(crate) struct Formed {
    binder: Arc<dyn Binder>,
    watched: Box<dyn Fn() -> usize + Send + Sync>,
    /// What goes with it.
    _process: Option<BinderProcess>,
    _server: Option<(DropGuard, Endpoint, tempfile::TempDir)>,
}

impl Deref for Formed {
    type Target = dyn Binder;

    fn deref(&self) -> &Self::Target {
        &*self.binder
    }
}

impl Formed {
    /// A standalone binder; apart it is the real program.
    pub(crate) async fn standalone(dir: PathBuf, allow_wide: bool, poll: Duration) -> Self {
        if !is_apart() {
            let local = LocalBinder::standalone(dir, allow_wide, poll).expect("binder");
            return Self::local(local);
        }
        let wide = if allow_wide {
            "--allow-wide-bind"
        } else {
            "-v"
        };
        let poll = format!("{}ms", poll.as_millis());
        let process = BinderProcess::start(&dir, &["--poll-interval", &poll, wide]);
        let client = process.client().await;
        Self::remote(client, Some(process), None)
    }

    /// A binder of this process; apart it is served to this process over a socket.
    pub(crate) async fn of<S: SandboxSource>(local: LocalBinder<S>) -> Self {
        if !is_apart() {
            return Self::local(local);
        }
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("binder.sock");
        let (listener, endpoint) = Endpoint::bind(&path, None).expect("bound");
        let guests = Guests {
            own: nix::unistd::geteuid().as_raw(),
            serve: None,
        };
        let limits = ServerLimits::default();
        let server = Server::new(listener, Arc::new(local), guests, limits).expect("server");
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        let client = connected(&path).await;
        Self::remote(client, None, Some((stop.drop_guard(), endpoint, dir)))
    }

    fn local<S: SandboxSource>(local: LocalBinder<S>) -> Self {
        let local = Arc::new(local);
        let binder = Arc::clone(&local);
        Self {
            binder,
            watched: Box::new(move || local.watched()),
            _process: None,
            _server: None,
        }
    }

    fn remote(
        client: ProcessBinder,
        process: Option<BinderProcess>,
        server: Option<(DropGuard, Endpoint, tempfile::TempDir)>,
    ) -> Self {
        let client = Arc::new(client);
        let binder = Arc::clone(&client);
        Self {
            binder,
            watched: Box::new(move || client.watched()),
            _process: process,
            _server: server,
        }
    }

    /// Waits until so many sandboxes are watched.
    pub(crate) async fn watches(&self, expected: usize) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while (self.watched)() != expected {
            assert!(
                Instant::now() < deadline,
                "{} are watched, not {expected}",
                (self.watched)()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A client whose binder answers.
async fn connected(path: &Path) -> ProcessBinder {
    let client = ProcessBinder::new(path);
    // Refused by the binder itself, once it can be asked.
    let nobody = SandboxTarget::Id(String::new());
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(failure) = client.find(&nobody).await
        && failure.reason == Reason::RuntimeUnavailable
    {
        assert!(Instant::now() < deadline, "{failure}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client
}

/// The program `sternline-shim binder`, standalone, killed when dropped.
pub(crate) struct BinderProcess {
    child: Child,
    dir: tempfile::TempDir,
    netns_dir: PathBuf,
    flags: Vec<String>,
}

impl BinderProcess {
    /// Starts it and waits until it listens.
    pub(crate) fn start(netns_dir: &Path, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let child = spawn(dir.path(), netns_dir, &flags);
        let process = Self {
            child,
            dir,
            netns_dir: netns_dir.to_owned(),
            flags,
        };
        process.listens();
        process
    }

    fn listens(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.dir.path().join("ready").exists() {
            assert!(Instant::now() < deadline, "the binder does not start");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("binder.sock")
    }

    pub(crate) async fn client(&self) -> ProcessBinder {
        connected(&self.socket()).await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, signal).expect("it runs");
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        let _ = fs::remove_file(self.dir.path().join("ready"));
    }

    /// Starts it again, on the same socket.
    pub(crate) fn again(&mut self) {
        self.child = spawn(self.dir.path(), &self.netns_dir, &self.flags);
        self.listens();
    }

    /// Starts it again with other flags.
    pub(crate) fn again_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(ToString::to_string).collect();
        self.again();
    }

    /// A line of its `/proc/PID/status`.
    pub(crate) fn status(&self, field: &str) -> String {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.expect(field).trim_start_matches(':').trim().to_owned()
    }

    /// Sockets and namespaces that it holds open.
    pub(crate) fn holds(&self) -> Vec<PathBuf> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs");
        let mut held: Vec<PathBuf> = open
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|target| {
                let target = target.to_string_lossy();
                target.starts_with("socket:") || target.starts_with("net:")
            })
            .collect();
        held.sort();
        held
    }
}

impl Drop for BinderProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, netns_dir: &Path, flags: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_sternline-shim"))
        .args(["binder", "--standalone", "--netns-dir"])
        .arg(netns_dir)
        .arg("--socket")
        .arg(dir.join("binder.sock"))
        .arg("--ready-file")
        .arg(dir.join("ready"))
        .args(flags)
        .spawn()
        .expect("the binder starts")
}
