//! A link between the CLI and the shim that can fail without a word.
//!
//! It takes the place of the shim's streaming socket in the file system: the
//! shim's own moves aside, and still takes connections there.

use anyhow::Result;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What a link does with bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    /// Takes none, and closes nothing: a cable that was pulled.
    silent: bool,
    /// Counts how often all connections were ended.
    dropped: u32,
}

/// A running link; dropping it ends it.
pub(crate) struct Link {
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

impl Link {
    /// Puts itself before the Unix socket at `path`.
    ///
    /// # Errors
    /// The socket cannot be moved, or not replaced.
    pub(crate) fn before(path: &Path) -> Result<Self> {
        let behind = path.with_extension("behind");
        std::fs::rename(path, &behind)?;
        let listener = UnixListener::bind(path)?;
        let (state, _) = watch::channel(State::default());
        let state = Arc::new(state);
        let task = tokio::spawn(serve(listener, behind, state.clone()));
        Ok(Self { state, task })
    }

    /// From now on nothing gets through, and nobody is told.
    pub(crate) fn fall_silent(&self) {
        self.state.send_modify(|state| state.silent = true);
    }

    /// Ends the connections there are; later ones get through.
    pub(crate) fn drop_connections(&self) {
        self.state.send_modify(|state| state.dropped += 1);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: UnixListener, behind: PathBuf, state: Arc<watch::Sender<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = UnixStream::connect(&behind).await else {
            continue;
        };
        let mut dropped = state.subscribe();
        let before = dropped.borrow().dropped;
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let (there, back) = (state.subscribe(), state.subscribe());
        connections.spawn(async move {
            tokio::select! {
                () = carry(near_read, far_write, there) => {}
                () = carry(far_read, near_write, back) => {}
                _ = dropped.wait_for(|state| state.dropped != before) => {}
            }
        });
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buf = vec![0; 64 * 1024];
    loop {
        let Ok(n) = from.read(&mut buf).await else {
            return;
        };
        // What was read when the link fell silent is lost on the way.
        if state.wait_for(|state| !state.silent).await.is_err() {
            return;
        }
        if n == 0 || to.write_all(&buf[..n]).await.is_err() {
            return;
        }
    }
}
