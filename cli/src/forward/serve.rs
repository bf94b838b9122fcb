//! Serves one tunnel until it, or the session, is over.

use super::connection::Connections;
use super::control::{ControlQueue, Heard, hear};
use super::interrupts::{Interrupt, Interrupting};
use super::live::Live;
use super::mapping::Mapping;
use super::resume::Resume;
use crate::clean::clean;
use crate::connect::ByteStream;
use crate::fault::Fault;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::Reason;
use sternline_tunnel::{Acceptor, ControlReceiver, Incoming, TunnelError};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long the node may take to close the tunnel after our goodbye, before we
/// close it ourselves, which takes as long again at most.
const GOODBYE: Duration = Duration::from_millis(500);

/// How long connections may take to notice that their tunnel is gone, before
/// they are ended.
const WIND_DOWN: Duration = Duration::from_millis(500);

/// Why a tunnel is no longer served.
#[derive(Debug)]
pub(super) enum Over {
    /// From this side.
    Interrupted(Interrupt),
    /// The session is over: the server ended it, or it had to be given up.
    Ended {
        /// Why.
        fault: Fault,
        /// Connections that were open, as far as they had not ended before it.
        open: usize,
    },
    /// Without a word.
    Lost {
        /// What broke.
        why: String,
        /// Connections that were open.
        open: usize,
    },
}

/// Serves a tunnel: every connection gets a task of its own, which ends with
/// the tunnel.
pub(super) async fn serve(
    live: Live,
    mapping: &Mapping,
    resume: &mut Resume,
    connections: &Arc<Connections>,
    interrupts: &mut impl Interrupting,
) -> Over {
    let Live {
        mut acceptor,
        settings,
        sender,
        mut receiver,
        early,
    } = live;
    let queue = ControlQueue::start(sender);
    let shared = connections.of_tunnel(mapping, &settings, queue.clone());
    let mut tasks = JoinSet::new();
    for stream in early {
        tasks.spawn(Arc::clone(&shared).handle(stream));
    }
    let mut listening = true;
    let mut announced = false;
    let over = loop {
        tokio::select! {
            // An end that was announced is heard before the end itself, and
            // tasks are counted before those that the end wakes.
            biased;
            interrupt = interrupts.next() => break Over::Interrupted(interrupt),
            event = receiver.recv(), if listening => match event {
                Ok(Some(event)) => match hear(event, mapping, connections.reporter()) {
                    Heard::Told => {}
                    Heard::Tickets(tickets) => resume.keep(&tickets),
                    Heard::Ended(fault) => {
                        announced = true;
                        break Over::Ended { fault, open: tasks.len() };
                    }
                    Heard::Violation(fault) => {
                        queue.end(Reason::ProtocolError, &fault.message);
                        break Over::Ended { fault, open: tasks.len() };
                    }
                },
                // Without its control stream a tunnel says nothing more: what
                // becomes of it is seen below.
                Ok(None) => listening = false,
                Err(error) if error.is_protocol() => {
                    let fault = Fault::protocol(format!("the server broke the protocol: {error}"));
                    queue.end(Reason::ProtocolError, &fault.message);
                    break Over::Ended { fault, open: tasks.len() };
                }
                Err(_) => listening = false,
            },
            incoming = acceptor.next() => match incoming {
                Ok(Some(Incoming::Stream(stream))) => {
                    tasks.spawn(Arc::clone(&shared).handle(*stream));
                }
                // A session has one control stream: another is reset here.
                Ok(Some(Incoming::Control(_))) => {}
                Ok(None) => break Over::Lost {
                    why: "the server closed it".to_owned(),
                    open: tasks.len(),
                },
                Err(error) => break Over::Lost { why: lost(&error), open: tasks.len() },
            },
            Some(_) = tasks.join_next() => {}
        }
    };
    if announced {
        // The node freed everything and said its last word: it waits only for
        // the tunnel to close.
        drop(acceptor);
    } else if let Over::Lost { open, .. } = over {
        drop(acceptor);
        if listening
            && let Some(fault) = last_word(&mut receiver, mapping, resume, connections).await
        {
            wind_down(tasks).await;
            return Over::Ended { fault, open };
        }
    } else {
        if let Over::Interrupted(_) = over {
            queue.end(Reason::Done, "");
        }
        let second = async {
            // The command's end is no second signal.
            while !matches!(interrupts.next().await, Interrupt::Stop) {}
        };
        tokio::select! {
            biased;
            () = leave(acceptor) => {}
            () = second => {}
        }
    }
    wind_down(tasks).await;
    over
}

/// Ends a session that was announced and shall not be served.
pub(super) async fn goodbye(live: Live, reason: Reason, message: &str) {
    ControlQueue::start(live.sender).end(reason, message);
    leave(live.acceptor).await;
}

/// Lets the last messages leave and the node close the tunnel; closes it
/// ourselves if the node does not.
async fn leave(mut acceptor: Acceptor<ByteStream>) {
    // What still comes is dropped, and so reset.
    let closing = async { while let Ok(Some(_)) = acceptor.next().await {} };
    if timeout(GOODBYE, closing).await.is_err() {
        let _ = timeout(GOODBYE, acceptor.close()).await;
    }
}

/// Reads what had arrived on the control stream when the tunnel broke: an end
/// that was announced, or fresh tickets.
async fn last_word(
    receiver: &mut ControlReceiver,
    mapping: &Mapping,
    resume: &mut Resume,
    connections: &Connections,
) -> Option<Fault> {
    while let Ok(Ok(Some(event))) = timeout(GOODBYE, receiver.recv()).await {
        match hear(event, mapping, connections.reporter()) {
            Heard::Told => {}
            Heard::Tickets(tickets) => resume.keep(&tickets),
            Heard::Ended(fault) | Heard::Violation(fault) => return Some(fault),
        }
    }
    None
}

/// Waits for connections whose tunnel is gone, and ends those that do not end.
async fn wind_down(mut tasks: JoinSet<()>) {
    let ended = async { while tasks.join_next().await.is_some() {} };
    if timeout(WIND_DOWN, ended).await.is_err() {
        tasks.shutdown().await;
    }
}

fn lost(error: &TunnelError) -> String {
    let error = error.to_string();
    clean(error.strip_prefix("tunnel: ").unwrap_or(&error))
}
