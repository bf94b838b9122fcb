//! A binder that answers every bind as it was told to.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use sternline_shim::binder::channel::Channel;
use sternline_shim::binder::server::Endpoint;
use sternline_shim::binder::wire::{self, answer, ask};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What a bind is answered.
#[derive(Default)]
pub(crate) struct Answers {
    sockets: Vec<(u32, SocketAddr)>,
    descriptors: Vec<OwnedFd>,
    copies: usize,
    more: bool,
    garbage: Option<Vec<u8>>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            copies: 1,
            ..Self::default()
        }
    }

    pub(crate) fn garbage(bytes: &[u8]) -> Self {
        Self {
            garbage: Some(bytes.to_vec()),
            ..Self::new()
        }
    }

    /// A socket that listens where it is said to.
    pub(crate) fn honest(self, addr: SocketAddr) -> Self {
        // The liar before this one may not have closed it yet.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match TcpListener::bind(addr) {
                Ok(listener) => return self.socket(addr, listener.into()),
                Err(error) => assert!(Instant::now() < deadline, "{addr}: {error}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn socket(mut self, addr: SocketAddr, descriptor: OwnedFd) -> Self {
        self.sockets.push((0, addr));
        self.descriptors.push(descriptor);
        self
    }

    pub(crate) fn of_listener(mut self, id: u32) -> Self {
        self.sockets[0].0 = id;
        self
    }

    pub(crate) fn without_descriptors(mut self) -> Self {
        self.copies = 0;
        self
    }

    pub(crate) fn doubled(mut self) -> Self {
        self.copies = 2;
        self
    }

    pub(crate) fn endless(mut self) -> Self {
        self.more = true;
        self
    }

    fn packet(&self, id: u64) -> Vec<u8> {
        if let Some(garbage) = &self.garbage {
            return garbage.clone();
        }
        let socket = |(listener_id, addr): &(u32, SocketAddr)| wire::Socket {
            listener_id: *listener_id,
            address: addr.to_string(),
        };
        let bound = wire::Bound {
            sandbox: Some(wire::Sandbox {
                id: "web".to_owned(),
                pod: None,
            }),
            namespace: Some(wire::Namespace::default()),
            sockets: self.sockets.iter().map(socket).collect(),
            more: self.more,
        };
        wire::encode_answer(id, answer::What::Bound(bound))
    }
}

/// A binder that lies.
pub(crate) struct Liar {
    dir: tempfile::TempDir,
    lies: watch::Sender<Option<Arc<Answers>>>,
    serving: AbortHandle,
    _endpoint: Endpoint,
}

impl Liar {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let (listener, endpoint) = Endpoint::bind(&dir.path().join("s"), None).expect("bound");
        let listener = UnixListener::from_std(listener.into()).expect("ours");
        let (lies, told) = watch::channel(None);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(Channel::from(stream), told.clone()).await;
            }
        });
        Self {
            dir,
            lies,
            serving: serving.abort_handle(),
            _endpoint: endpoint,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// From now on every bind is answered so.
    pub(crate) async fn tell(&self, answers: Answers) {
        self.lies.send_replace(Some(Arc::new(answers)));
        tokio::task::yield_now().await;
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(channel: Channel, mut told: watch::Receiver<Option<Arc<Answers>>>) {
    while let Ok(Some(packet)) = channel.receive().await {
        let (id, what) = wire::decode_ask(&packet.bytes).expect("a client of ours");
        let sent = match what {
            ask::What::Hello(hello) => {
                let welcome = answer::What::Welcome(hello);
                channel.send(&wire::encode_answer(id, welcome), &[]).await
            }
            ask::What::Bind(_) => {
                let answers = told.wait_for(Option::is_some).await.expect("told").clone();
                let answers = answers.expect("some");
                let copies = std::iter::repeat_n(&answers.descriptors, answers.copies);
                let descriptors: Vec<BorrowedFd<'_>> =
                    copies.flatten().map(|one| one.as_fd()).collect();
                channel.send(&answers.packet(id), &descriptors).await
            }
            _ => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}
