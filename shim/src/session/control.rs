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
    /// The tunnel that it is in.
    pub(super) tunnel: u64,
    pub(super) outbox: mpsc::Sender<Event>,
    /// What the client sends; an error or the end closes it.
    pub(super) inbox: mpsc::Receiver<Result<Event, TunnelError>>,
    /// The client does not read and is being cut off: only its last words are
    /// waited for.
    pub(super) cut_off: bool,
}

impl Control {
    /// Events that may be sent and still leave room for those that matter more,
    /// the last one above all.
    pub(super) fn spare_room(&self) -> usize {
        self.outbox.capacity().saturating_sub(OUTBOX / 4)
    }
}

/// What a control stream brings.
#[derive(Debug)]
pub(super) enum Heard {
    Event(Event),
    Failed(TunnelError),
    /// The client ended it, or its tunnel is gone.
    Ended,
    /// Nothing can be sent any more.
    Mute,
}

/// Waits for news from `control`; for ever if there is none. What the client said
/// comes before anything else. Cancel safe.
pub(super) async fn hear(control: &mut Option<Control>) -> Heard {
    let Some(control) = control else {
        return std::future::pending().await;
    };
    tokio::select! {
        biased;
        said = control.inbox.recv() => match said {
            Some(Ok(event)) => Heard::Event(event),
            Some(Err(error)) => Heard::Failed(error),
            None => Heard::Ended,
        },
        () = control.outbox.closed(), if !control.cut_off => Heard::Mute,
    }
}

/// Runs both directions of `stream` until the tunnel is gone.
pub(super) fn run(tunnel: u64, stream: ControlStream, tasks: &TaskTracker) -> Control {
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
    Control {
        tunnel,
        outbox,
        inbox,
        cut_off: false,
    }
}
