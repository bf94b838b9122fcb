//! From the stream to the socket.

use super::{End, Progress, RelayOptions};
use crate::budget::Charge;
use crate::queue::{MAX_SLICES, Queue};
use crate::socket::Socket;
use crate::stream::{Drained, Inbound, drain, refusal};
use crate::windows::Open;
use h2::RecvStream;
use http::StatusCode;
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;
use sternline_api::Reason;
use tokio::time::timeout;

/// Copies until END_STREAM and passes that on.
pub(super) async fn pump<S: Socket>(
    socket: &S,
    inbound: Inbound,
    (queue, open_stream): (Queue, Open),
    answer_timeout: Duration,
    progress: &Progress,
    options: &RelayOptions,
) -> Result<(), End> {
    let recv = open(inbound, answer_timeout).await;
    progress.answered.store(true, Relaxed);
    let mut copy = Copy {
        socket,
        recv: recv?,
        queue,
        open: open_stream,
        ended: false,
        charge: None,
        progress,
        options,
    };
    copy.run().await
}

/// Waits for the answer, where there is still one to come.
async fn open(inbound: Inbound, answer_timeout: Duration) -> Result<RecvStream, End> {
    let response = match inbound {
        Inbound::Open(recv) => return Ok(recv),
        Inbound::Awaiting(response) => timeout(answer_timeout, response).await,
    };
    match response {
        Err(_elapsed) => Err(End::Refused(Reason::TargetTimeout)),
        Ok(Err(error)) => Err(End::from_h2(&error)),
        Ok(Ok(response)) if response.status() == StatusCode::OK => Ok(response.into_body()),
        Ok(Ok(response)) => Err(End::Refused(refusal(response.status(), response.headers()))),
    }
}

struct Copy<'a, S> {
    socket: &'a S,
    recv: RecvStream,
    queue: Queue,
    /// Tells the tunnel what stays in it.
    open: Open,
    /// END_STREAM came.
    ended: bool,
    /// Pays for what stays in the queue.
    charge: Option<Charge>,
    progress: &'a Progress,
    options: &'a RelayOptions,
}

impl<S: Socket> Copy<'_, S> {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            self.take().await?;
            if !self.queue.is_empty() {
                self.write().await?;
            } else if self.ended {
                return self.socket.shutdown_write().map_err(|_| End::SocketReset);
            } else {
                self.wait_for_data().await?;
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Moves into the queue what came, without waiting.
    async fn take(&mut self) -> Result<(), End> {
        if self.ended {
            return Ok(());
        }
        let (recv, queue) = (&mut self.recv, &mut self.queue);
        let drained = poll_fn(|cx| Poll::Ready(drain(recv, queue, cx))).await;
        self.ended = matches!(drained.map_err(|e| End::from_h2(&e))?, Drained::Ended);
        Ok(())
    }

    async fn wait_for_data(&mut self) -> Result<(), End> {
        let (recv, queue) = (&mut self.recv, &mut self.queue);
        let drained = poll_fn(|cx| match drain(recv, queue, cx) {
            Ok(Drained::Open) if queue.is_empty() => Poll::Pending,
            drained => Poll::Ready(drained),
        })
        .await;
        self.ended = matches!(drained.map_err(|e| End::from_h2(&e))?, Drained::Ended);
        Ok(())
    }

    /// Writes once, or waits until it can or more came.
    async fn write(&mut self) -> Result<(), End> {
        let written = {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let n = self.queue.slices(&mut slices);
            self.socket.try_write(&slices[..n])
        };
        match written {
            Ok(written) => {
                self.queue.advance(written);
                if self.queue.is_empty() && self.charge.take().is_some() {
                    self.open.holds(0);
                }
                self.progress.to_socket.fetch_add(written as u64, Relaxed);
                self.options.traffic.add_to_socket(written);
                self.recv
                    .flow_control()
                    .release_capacity(written)
                    .map_err(|error| End::from_h2(&error))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.pay()?;
                self.wait_for_socket().await
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(End::SocketReset),
        }
    }

    /// Charges the budget for what the socket did not take.
    fn pay(&mut self) -> Result<(), End> {
        let due = self.queue.len();
        self.open.holds(due);
        let paid = match &mut self.charge {
            None => {
                self.charge = self.options.budget.try_charge(due);
                self.charge.is_some()
            }
            Some(charge) if charge.bytes() >= due => {
                charge.shrink(due);
                true
            }
            Some(charge) => charge.grow(due - charge.bytes()),
        };
        if paid { Ok(()) } else { Err(End::BufferLimit) }
    }

    /// Until the socket takes more, or more came to be taken from the tunnel.
    async fn wait_for_socket(&mut self) -> Result<(), End> {
        let (recv, queue, ended) = (&mut self.recv, &mut self.queue, &mut self.ended);
        let mut writable = pin!(self.socket.writable());
        let before = queue.len();
        poll_fn(|cx| {
            if let Poll::Ready(ready) = writable.as_mut().poll(cx) {
                return Poll::Ready(ready.map_err(|_| End::SocketReset));
            }
            if *ended {
                return Poll::Pending;
            }
            match drain(recv, queue, cx) {
                Err(error) => Poll::Ready(Err(End::from_h2(&error))),
                Ok(Drained::Ended) => {
                    *ended = true;
                    Poll::Ready(Ok(()))
                }
                Ok(Drained::Open) if queue.len() > before => Poll::Ready(Ok(())),
                Ok(Drained::Open) => Poll::Pending,
            }
        })
        .await
    }
}
