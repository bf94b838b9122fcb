//! The client's end of a tunnel: HTTP/2 with the suite as the server, driven
//! step by step by a spec.

use super::{
    control::Control,
    frame::{self, ACK, PING, SETTINGS, WINDOW_UPDATE},
    hpack::Headers,
    reader,
    stream::Stream,
};
use crate::verdict::{Step, check, failed};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// What a tunnel runs over: a socket, or the inside of a WebSocket.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How the suite behaves on a tunnel beyond what a spec does step by step.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// Whether PINGs are answered.
    pub(crate) pongs: bool,
    /// Initial window of each stream, in bytes.
    pub(crate) window: u32,
    /// Whether a stream's window is given back as data arrives.
    pub(crate) release: bool,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`; none: not announced.
    pub(crate) max_streams: Option<u32>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            pongs: true,
            window: 65_535,
            release: true,
            max_streams: None,
        }
    }
}

/// One stream as far as it got.
#[derive(Debug, Default)]
pub(crate) struct StreamState {
    pub(crate) headers: Headers,
    pub(crate) data: VecDeque<u8>,
    pub(crate) ended: bool,
    pub(crate) reset: Option<u32>,
    pub(crate) send_window: i64,
    pub(crate) receive_window: i64,
}

/// All that a node has sent so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) streams: BTreeMap<u32, StreamState>,
    pub(crate) requests: VecDeque<u32>,
    pub(crate) controls: VecDeque<u32>,
    pub(crate) settings: Option<HashMap<u16, u32>>,
    pub(crate) window: i64,
    pub(crate) initial_window: i64,
    pub(crate) pings: u32,
    pub(crate) pongs: Vec<Vec<u8>>,
    /// What the node did against HTTP/2 or §7.
    pub(crate) offences: Vec<String>,
    /// Why nothing more will come.
    pub(crate) closed: Option<String>,
}

/// Shared between a tunnel, its streams and its reader.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    out: mpsc::UnboundedSender<Vec<u8>>,
    pub(crate) manner: Manner,
    pub(super) patience: Duration,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self, apply: impl FnOnce(&mut State)) {
        apply(&mut self.lock());
        self.changed.send_replace(());
    }

    pub(crate) fn send(&self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // A writer that is gone shows as a closed tunnel.
        let _ = self.out.send(frame::encode(kind, flags, stream, payload));
    }

    /// Waits until `look` finds what it wants, at most for `patience`.
    pub(crate) async fn wait_for<T>(
        &self,
        patience: Duration,
        expected: &str,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Step<T> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                {
                    let mut state = self.lock();
                    if let Some(found) = look(&mut state) {
                        return Ok(found);
                    }
                    if let Some(why) = &state.closed {
                        return failed(expected, format!("the tunnel ended: {why}"));
                    }
                }
                let _ = changed.changed().await;
            }
        };
        match tokio::time::timeout(patience, found).await {
            Ok(found) => found,
            Err(_) => failed(expected, format!("nothing within {patience:?}")),
        }
    }

    /// Sends a PING unlike any before and waits for its answer: what was sent
    /// before it the node has read then.
    pub(super) async fn ping(&self, patience: Duration) -> Step {
        static PINGS: AtomicU64 = AtomicU64::new(0);
        let payload = PINGS.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.send(PING, 0, 0, &payload);
        self.wait_for(patience, "an answer to PING", |state| {
            state.pongs.iter().any(|p| p[..] == payload).then_some(())
        })
        .await
    }

    pub(crate) async fn wait<T>(
        &self,
        expected: &str,
        look: impl FnMut(&mut State) -> Option<T>,
    ) -> Step<T> {
        self.wait_for(self.patience, expected, look).await
    }
}

/// A tunnel after its 101. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Tunnel {
    /// Starts HTTP/2 on a connection that was upgraded; `early` is what came
    /// together with the 101.
    pub(crate) fn start(
        io: Box<dyn Duplex>,
        early: Vec<u8>,
        manner: Manner,
        patience: Duration,
    ) -> Self {
        let (out, mut bytes) = mpsc::unbounded_channel::<Vec<u8>>();
        let mut entries = vec![
            (frame::SETTING_CONNECT_PROTOCOL, 1),
            (frame::SETTING_WINDOW, manner.window),
        ];
        entries.extend(manner.max_streams.map(|n| (frame::SETTING_MAX_STREAMS, n)));
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                window: 65_535,
                initial_window: 65_535,
                ..State::default()
            }),
            changed: watch::Sender::new(()),
            out,
            manner,
            patience,
        });
        shared.send(SETTINGS, 0, 0, &frame::settings(&entries));
        // The connection's window never decides: only streams stall.
        let all = (0x7fff_ffff_u32 - 65_535).to_be_bytes();
        shared.send(WINDOW_UPDATE, 0, 0, &all);

        let (read, mut write) = tokio::io::split(io);
        let writer = tokio::spawn(async move {
            while let Some(bytes) = bytes.recv().await {
                if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                    break;
                }
            }
        });
        let reader = tokio::spawn(reader::run(read, early, Arc::clone(&shared)));
        Self {
            shared,
            tasks: [reader, writer],
        }
    }

    /// The control stream, answered with 200.
    pub(crate) async fn control(&self) -> Step<Control> {
        let id = self
            .shared
            .wait("a control stream: extended CONNECT", |state| {
                state.controls.pop_front()
            })
            .await?;
        let stream = Stream::new(Arc::clone(&self.shared), id);
        stream.answer("200", &[]);
        Ok(Control::new(stream))
    }

    /// The next forwarded connection, not yet answered.
    pub(crate) async fn request(&self) -> Step<Stream> {
        let id = self
            .shared
            .wait("a CONNECT for the pod's connection", |state| {
                state.requests.pop_front()
            })
            .await?;
        Ok(Stream::new(Arc::clone(&self.shared), id))
    }

    /// The next forwarded connection, answered with 200.
    pub(crate) async fn accept(&self) -> Step<Stream> {
        let stream = self.request().await?;
        stream.answer("200", &[]);
        Ok(stream)
    }

    /// Waits until the node closes the tunnel.
    pub(crate) async fn closed(&self, patience: Duration) -> Step {
        self.shared
            .wait_for(patience, "the node closes the tunnel", |state| {
                state.closed.is_some().then_some(())
            })
            .await
    }

    /// Fails when the node broke HTTP/2's rules so far.
    pub(crate) fn clean(&self, expected: &str) -> Step {
        let offences = self.shared.lock().offences.join("; ");
        check(offences.is_empty(), expected, offences)
    }

    /// Fails unless the tunnel still works: PING and answer.
    pub(crate) async fn alive(&self) -> Step {
        self.alive_within(self.shared.patience).await
    }

    /// The same, of a node that has much to do before it answers.
    pub(crate) async fn alive_within(&self, patience: Duration) -> Step {
        self.shared.ping(patience).await
    }
}

/// Answers a node's PING.
pub(super) fn pong(shared: &Shared, payload: &[u8]) {
    if shared.manner.pongs {
        shared.send(PING, ACK, 0, payload);
    }
}
