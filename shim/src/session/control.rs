//! The two tasks of a control stream.

use sternline_api::v1alpha1::control_message::Event;
use sternline_tunnel::{ControlStream, TunnelError};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Events that may wait for a client to read them. One that does not is cut
/// off.
const OUTBOX: usize = 64;

/// Events of the client that may wait for the session.
const INBOX: usize = 16;

/// A control stream in use. Dropping the sender flushes and ends our direction.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) outbox: mpsc::Sender<Event>,
    /// What the client sends; an error or the end closes it.
    pub(super) inbox: mpsc::Receiver<Result<Event, TunnelError>>,
}

/// Runs both directions of `stream` until the tunnel is gone.
pub(super) fn run(stream: ControlStream, tasks: &TaskTracker) -> Control {
    let (mut sender, mut receiver) = stream.split();
    let (outbox, mut events) = mpsc::channel(OUTBOX);
    let (client, inbox) = mpsc::channel(INBOX);
    tasks.spawn(async move {
        while let Some(event) = events.recv().await {
            if let Err(error) = sender.send(event).await {
                tracing::debug!(%error, "control stream lost");
                return;
            }
        }
        sender.finish().await;
    });
    tasks.spawn(async move {
        loop {
            let event = tokio::select! {
                biased;
                () = client.closed() => return,
                event = receiver.recv() => event,
            };
            let last = !matches!(event, Ok(Some(_)));
            if let Some(event) = event.transpose()
                && client.send(event).await.is_err()
            {
                return;
            }
            if last {
                return;
            }
        }
    });
    Control { outbox, inbox }
}
