//! One stream of a tunnel, step by step.

use super::{
    frame::{self, DATA, END_STREAM, HEADERS, RST_STREAM},
    hpack,
    tunnel::{Shared, StreamState},
};
use crate::verdict::{Step, check, failed};
use std::{sync::Arc, time::Duration};

/// An answer within this time is that of a node with time to spare.
const QUICK: Duration = Duration::from_millis(150);

/// A handle on one stream; dropping it does nothing on the wire.
#[derive(Debug)]
pub(crate) struct Stream {
    shared: Arc<Shared>,
    pub(crate) id: u32,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self { shared, id }
    }

    /// The value of a field of the request.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        self.look(|stream| {
            let found = stream.headers.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        })
    }

    fn look<T: Default>(&self, look: impl FnOnce(&mut StreamState) -> T) -> T {
        let mut state = self.shared.lock();
        state
            .streams
            .get_mut(&self.id)
            .map(look)
            .unwrap_or_default()
    }

    /// Answers the request; a status other than 200 ends the stream.
    pub(crate) fn answer(&self, status: &str, fields: &[(&str, &str)]) {
        let mut headers = vec![(":status", status)];
        headers.extend(fields);
        let end = if status == "200" { 0 } else { END_STREAM };
        let flags = frame::END_HEADERS | end;
        self.shared
            .send(HEADERS, flags, self.id, &hpack::encode(&headers));
    }

    /// Answers that the target failed, as §6.2 lists it.
    pub(crate) fn refuse(&self, status: &str, error: &str) {
        let value = format!("sternline; error={error}; details=\"the target failed\"");
        self.answer(status, &[("proxy-status", &value)]);
    }

    /// Sends bytes as the windows allow.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Step {
        let mut rest = bytes;
        while !rest.is_empty() {
            let id = self.id;
            let wanted = rest.len().min(frame::MAX_PAYLOAD);
            let granted = self
                .shared
                .wait("window for more bytes to the pod", |state| {
                    let connection = state.window;
                    let Some(stream) = state.streams.get_mut(&id) else {
                        return Some(Err("the stream is unknown".to_owned()));
                    };
                    if let Some(code) = stream.reset {
                        return Some(Err(format!("the node reset the stream with code {code}")));
                    }
                    let most = stream.send_window.min(connection);
                    let most = usize::try_from(most).unwrap_or(0).min(wanted);
                    let taken = i64::try_from(most).unwrap_or(0);
                    stream.send_window -= taken;
                    state.window -= taken;
                    (most > 0).then_some(Ok(most))
                })
                .await?;
            let granted = match granted {
                Ok(granted) => granted,
                Err(seen) => return failed("the node takes bytes for the pod", seen),
            };
            self.shared.send(DATA, 0, self.id, &rest[..granted]);
            rest = &rest[granted..];
        }
        Ok(())
    }

    /// Ends the direction to the pod: `END_STREAM`.
    pub(crate) fn end(&self) {
        self.shared.send(DATA, END_STREAM, self.id, &[]);
    }

    /// `RST_STREAM`.
    pub(crate) fn reset(&self, code: u32) {
        self.shared
            .send(RST_STREAM, 0, self.id, &code.to_be_bytes());
    }

    /// Waits for exactly `length` bytes from the pod.
    pub(crate) async fn receive(&self, length: usize) -> Step<Vec<u8>> {
        let expected = format!("{length} bytes from the pod");
        self.receive_within(length, &expected, self.shared.patience)
            .await
    }

    /// The same, with another patience and something else expected.
    pub(super) async fn receive_within(
        &self,
        length: usize,
        expected: &str,
        wait: Duration,
    ) -> Step<Vec<u8>> {
        let id = self.id;
        self.shared
            .wait_for(wait, expected, |state| {
                let stream = state.streams.get_mut(&id)?;
                (stream.data.len() >= length).then(|| stream.data.drain(..length).collect())
            })
            .await
    }

    /// Waits for `END_STREAM` from the pod with nothing before it.
    pub(crate) async fn ended(&self) -> Step {
        let id = self.id;
        let (ended, left) = self
            .shared
            .wait("END_STREAM", |state| {
                let stream = state.streams.get(&id)?;
                let over = stream.ended || stream.reset.is_some();
                over.then_some((stream.ended, stream.data.len()))
            })
            .await?;
        check(ended, "END_STREAM", "the stream was reset")?;
        check(
            left == 0,
            "END_STREAM after the data that was read",
            format!("{left} bytes more"),
        )
    }

    /// Waits for `RST_STREAM` and answers its code.
    pub(crate) async fn was_reset(&self) -> Step<u32> {
        self.was_reset_within(self.shared.patience).await
    }

    /// The same, with another patience.
    pub(crate) async fn was_reset_within(&self, wait: Duration) -> Step<u32> {
        let id = self.id;
        let reset = self
            .shared
            .wait_for(wait, "RST_STREAM", |state| state.streams.get(&id)?.reset);
        reset.await
    }

    /// Whether the stream ended or was reset within `wait`.
    pub(crate) async fn over(&self, wait: Duration) -> bool {
        let id = self.id;
        let over = self.shared.wait_for(wait, "an end", |state| {
            let stream = state.streams.get(&id)?;
            (stream.ended || stream.reset.is_some()).then_some(())
        });
        over.await.is_ok()
    }

    /// How long sending waits for window.
    pub(crate) fn patience(&self) -> Duration {
        self.shared.patience
    }

    /// Whether the node answers a PING within a moment: what it was sent before
    /// it has read then.
    pub(crate) async fn is_quick(&self) -> bool {
        self.shared.ping(QUICK).await.is_ok()
    }

    /// Bytes that arrived and were not received by a spec.
    pub(crate) fn waiting(&self) -> usize {
        self.look(|stream| stream.data.len())
    }

    /// Gives the node window for `more` bytes.
    pub(crate) fn release(&self, more: u32) {
        self.look(|stream| stream.receive_window += i64::from(more));
        self.shared
            .send(frame::WINDOW_UPDATE, 0, self.id, &more.to_be_bytes());
    }
}
