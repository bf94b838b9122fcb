//! A tunnel that is up: its first word was heard.

use super::control::ended;
use super::outside::Outside;
use crate::connect::{ByteStream, Way};
use crate::fault::{Fault, exit};
use crate::span;
use std::time::Duration;
use sternline_api::Reason;
use sternline_api::v1alpha1::{Ready, control_message::Event};
use sternline_tunnel::{
    Acceptor, ControlReceiver, ControlSender, ControlStream, Incoming, IncomingStream, Settings,
    TunnelError,
};
use tokio::time::timeout;

/// A tunnel whose node announced the session.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) acceptor: Acceptor<ByteStream>,
    pub(super) settings: Settings,
    pub(super) sender: ControlSender,
    pub(super) receiver: ControlReceiver,
    /// Connections that came before the announcement was read.
    pub(super) early: Vec<IncomingStream>,
}

/// Opens the stream of a session and waits for the node's announcement; each step
/// takes `limit` at most.
pub(super) async fn establish(
    outside: &dyn Outside,
    way: &Way,
    settings: &Settings,
    limit: Duration,
) -> Result<(Live, Ready), Fault> {
    let io = outside.open(way, limit).await?;
    timeout(limit, announce(io, settings)).await.unwrap_or_else(|_| {
        Err(Fault::new(
            exit::LOST,
            format!(
                "the server did not announce the session within {}: --request-timeout waits longer",
                span::short(limit)
            ),
        ))
    })
}

async fn announce(io: ByteStream, settings: &Settings) -> Result<(Live, Ready), Fault> {
    let mut acceptor = Acceptor::handshake(io, settings)
        .await
        .map_err(|e| broke(&e))?;
    tracing::info!("the tunnel is up: waiting for the announcement");
    let mut early = Vec::new();
    let control = loop {
        match next(&mut acceptor).await? {
            Incoming::Control(control) => break control,
            Incoming::Stream(stream) => keep(&mut early, *stream, settings),
        }
    };
    let (sender, mut receiver) = ControlStream::split(control);
    let first = loop {
        tokio::select! {
            // What was sent before the end is read before the end.
            biased;
            event = receiver.recv() => break event.map_err(|e| broke(&e))?,
            incoming = next(&mut acceptor) => match incoming {
                Ok(Incoming::Stream(stream)) => keep(&mut early, *stream, settings),
                // A session has one control stream: another is reset here.
                Ok(Incoming::Control(_)) => {}
                Err(fault) => match receiver.recv().await {
                    Ok(Some(event)) => break Some(event),
                    _ => return Err(fault),
                },
            },
        }
    };
    match first {
        Some(Event::Ready(ready)) => {
            let settings = settings.clone();
            let live = Live {
                acceptor,
                settings,
                sender,
                receiver,
                early,
            };
            Ok((live, ready))
        }
        Some(Event::Ending(ending)) => Err(ended(&ending)),
        Some(_) => Err(Fault::protocol(
            "the server's first message was not the announcement of the session: the forward is given up",
        )),
        None => Err(closed()),
    }
}

/// Keeps a connection until the announcement was checked, within the limit of
/// streams.
fn keep(early: &mut Vec<IncomingStream>, stream: IncomingStream, settings: &Settings) {
    if early.len() < settings.max_streams as usize {
        early.push(stream);
    } else {
        stream.reject(Reason::ConnectionLimit, "");
    }
}

async fn next(acceptor: &mut Acceptor<ByteStream>) -> Result<Incoming, Fault> {
    match acceptor.next().await {
        Ok(Some(incoming)) => Ok(incoming),
        Ok(None) => Err(closed()),
        Err(error) => Err(broke(&error)),
    }
}

fn closed() -> Fault {
    Fault::because(
        Reason::TunnelLost,
        "the server closed the connection before it announced the session: try again",
    )
}

fn broke(error: &TunnelError) -> Fault {
    if error.is_protocol() {
        return Fault::protocol(format!(
            "the server does not speak the protocol that it agreed to: {error}"
        ));
    }
    Fault::because(
        Reason::TunnelLost,
        format!("the connection broke before the session was announced: {error}"),
    )
}
