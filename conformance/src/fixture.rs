//! Sandboxes for the specs: plain network namespaces with a name, as standalone
//! mode knows them, each with a probe inside.

mod namespace;

use crate::{
    probe,
    verdict::{Step, Verdict, broken, failed},
};
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};
use tokio::net::{TcpListener, TcpStream};

/// Makes sandboxes, and gives those that are as good as new out again.
#[derive(Debug)]
pub(crate) struct Fixture {
    /// Where the namespaces get their names.
    dir: PathBuf,
    /// Where the probes' sockets are.
    sockets: PathBuf,
    made: AtomicU32,
    free: Mutex<VecDeque<Sandbox>>,
}

impl Fixture {
    /// Fails where the directories cannot be had.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        static FIXTURES: AtomicU32 = AtomicU32::new(0);
        let number = FIXTURES.fetch_add(1, Ordering::Relaxed);
        let name = format!("sternline-conformance-{}-{number}", std::process::id());
        let sockets = std::env::temp_dir().join(name);
        std::fs::create_dir_all(dir)?;
        std::fs::create_dir_all(&sockets)?;
        Ok(Self {
            dir: dir.to_owned(),
            sockets,
            made: AtomicU32::new(0),
            free: Mutex::new(VecDeque::new()),
        })
    }

    /// A sandbox in which nothing listens.
    pub(crate) async fn sandbox(self: &std::sync::Arc<Self>) -> Step<Sandbox> {
        if let Some(free) = self.lock().pop_front() {
            return Ok(free);
        }
        let fixture = std::sync::Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || fixture.make());
        made.await
            .map_err(|error| Verdict::Broken(error.to_string()))?
            .map_err(broken("making a network namespace"))
    }

    fn make(&self) -> io::Result<Sandbox> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let id = format!("stcf-{}-{number:04}-net", std::process::id());
        let path = self.dir.join(&id);
        let socket = self.sockets.join(&id);
        let inside = socket.clone();
        let probe = namespace::create(&path, move || {
            Command::new(std::env::current_exe()?)
                .arg(probe::WORD)
                .arg(inside)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
        });
        let mut probe = match probe {
            Ok(probe) => probe,
            Err(error) => {
                namespace::remove(&path);
                return Err(error);
            }
        };
        let ready = probe.stdout.take().map(|out| {
            let mut line = String::new();
            io::BufRead::read_line(&mut io::BufReader::new(out), &mut line)
        });
        let sandbox = Sandbox {
            id,
            path,
            socket,
            probe: Mutex::new(probe),
            spoilt: AtomicBool::new(false),
        };
        match ready {
            Some(Ok(read)) if read > 0 => Ok(sandbox),
            _ => Err(io::Error::other("the probe did not start")),
        }
    }

    /// Takes a sandbox back. It is given out again only when `clean` and when
    /// nothing listens in it.
    pub(crate) async fn give_back(&self, sandbox: Sandbox, clean: bool) {
        let as_new = clean
            && !sandbox.spoilt.load(Ordering::Relaxed)
            && sandbox.listening().await.is_ok_and(|all| all.is_empty());
        if as_new {
            self.lock().push_back(sandbox);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Sandbox>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.lock().clear();
        // What is left in it would be named by the next `ls`.
        let _ = std::fs::remove_dir_all(&self.sockets);
    }
}

/// One sandbox. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Its id for the call.
    pub(crate) id: String,
    path: PathBuf,
    socket: PathBuf,
    probe: Mutex<Child>,
    spoilt: AtomicBool,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.remove();
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Sandbox {
    /// Says that the sandbox must not be used by another spec.
    pub(crate) fn spoil(&self) {
        self.spoilt.store(true, Ordering::Relaxed);
    }

    /// Removes it, as when the pod is deleted: the probe ends, the name goes.
    pub(crate) fn remove(&self) {
        self.spoil();
        let mut probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended already.
        let _ = probe.kill();
        let _ = probe.wait();
        namespace::remove(&self.path);
    }

    async fn ask(&self, line: String) -> Step<io::Result<(String, Option<OwnedFd>)>> {
        let socket = self.socket.clone();
        tokio::task::spawn_blocking(move || probe::ask(&socket, &line))
            .await
            .map_err(|error| Verdict::Broken(error.to_string()))?
            .map_err(broken("asking the probe"))
    }

    /// Connects from inside; the inner error is what a process there would see.
    pub(crate) async fn try_connect(&self, address: SocketAddr) -> Step<io::Result<TcpStream>> {
        Ok(match self.ask(format!("connect {address}")).await? {
            Ok((_, Some(fd))) => TcpStream::from_std(fd.into()),
            Ok((_, None)) => Err(io::Error::other("the probe handed no socket over")),
            Err(error) => Err(error),
        })
    }

    /// Connects from inside.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Step<TcpStream> {
        match self.try_connect(address).await? {
            Ok(stream) => Ok(stream),
            Err(error) => failed(
                format!("a process in the sandbox can connect to {address}"),
                error.to_string(),
            ),
        }
    }

    /// Listens inside as an application would.
    pub(crate) async fn try_listen(&self, address: SocketAddr) -> Step<io::Result<TcpListener>> {
        self.listen_with(format!("listen {address}")).await
    }

    /// The same, with `SO_REUSEPORT`.
    pub(crate) async fn try_share(&self, address: SocketAddr) -> Step<io::Result<TcpListener>> {
        self.listen_with(format!("listen {address} shared")).await
    }

    async fn listen_with(&self, line: String) -> Step<io::Result<TcpListener>> {
        Ok(match self.ask(line).await? {
            Ok((_, Some(fd))) => TcpListener::from_std(fd.into()),
            Ok((_, None)) => Err(io::Error::other("the probe handed no socket over")),
            Err(error) => Err(error),
        })
    }

    /// Every address that listens inside.
    pub(crate) async fn listening(&self) -> Step<Vec<SocketAddr>> {
        let (text, _) = self
            .ask("table".into())
            .await?
            .map_err(broken("reading the table of listeners"))?;
        Ok(text
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect())
    }

    /// Gives the sandbox an interface whose other end is on the node. Returns
    /// the sandbox's address and the name of the node's end.
    pub(crate) fn attach(&self) -> Step<(std::net::IpAddr, String)> {
        self.spoil();
        let pid = self
            .probe
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .id();
        namespace::attach(&self.path, pid).map_err(broken("making a veth pair with `ip`"))
    }
}

/// A name under which the node's own network looks like a sandbox.
#[derive(Debug)]
pub(crate) struct HostName {
    pub(crate) id: String,
    path: PathBuf,
}

impl Fixture {
    /// Names the namespace of the suite itself.
    pub(crate) fn host(&self) -> Step<HostName> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let id = format!("stcf-host-{}-{number:04}", std::process::id());
        let path = self.dir.join(&id);
        namespace::name_own(&path).map_err(broken("naming the node's own namespace"))?;
        Ok(HostName { id, path })
    }
}

impl Drop for HostName {
    fn drop(&mut self) {
        namespace::remove(&self.path);
    }
}
