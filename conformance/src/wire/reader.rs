//! Reads what a node sends and keeps it in a tunnel's state.

use super::{
    frame::{self, Frame},
    hpack::Decoder,
    tunnel::{Duplex, Shared, State, StreamState, pong},
};
use std::{collections::HashMap, sync::Arc};
use sternline_api::protocol::CONTROL_PROTOCOL;
use tokio::io::{AsyncReadExt as _, ReadHalf};

/// Reads until the connection ends or the node breaks HTTP/2 beyond repair.
pub(super) async fn run(io: ReadHalf<Box<dyn Duplex>>, early: Vec<u8>, shared: Arc<Shared>) {
    let mut io = std::io::Cursor::new(early).chain(io);
    let why = match read(&mut io, &shared).await {
        Ok(()) => "the node closed the connection".to_owned(),
        Err(why) => why,
    };
    shared.change(|state| state.closed = Some(why));
}

async fn read<R: tokio::io::AsyncRead + Unpin>(io: &mut R, shared: &Shared) -> Result<(), String> {
    let mut preface = [0; frame::PREFACE.len()];
    io.read_exact(&mut preface)
        .await
        .map_err(|error| format!("no HTTP/2 preface: {error}"))?;
    if preface != frame::PREFACE {
        return Err(format!("not the HTTP/2 preface: {preface:?}"));
    }
    let mut decoder = Decoder::default();
    let mut block: Option<(u32, bool, Vec<u8>)> = None;
    while let Some(frame) = frame::read(io).await.map_err(|error| error.to_string())? {
        let content = frame.content().ok_or("a frame with broken padding")?;
        match frame.kind {
            frame::HEADERS => block = Some((frame.stream, frame.has(1), content.to_vec())),
            frame::CONTINUATION => match &mut block {
                Some((stream, _, so_far)) if *stream == frame.stream => so_far.extend(content),
                _ => return Err("CONTINUATION without HEADERS".into()),
            },
            _ => {
                other(&frame, content, shared)?;
                continue;
            }
        }
        if frame.has(frame::END_HEADERS)
            && let Some((stream, ended, whole)) = block.take()
        {
            let headers = decoder.decode(&whole)?;
            shared.change(|state| opened(state, stream, headers, ended, shared));
        }
    }
    Ok(())
}

fn opened(
    state: &mut State,
    id: u32,
    headers: super::hpack::Headers,
    ended: bool,
    shared: &Shared,
) {
    let control = headers
        .iter()
        .any(|(name, value)| name == ":protocol" && value == CONTROL_PROTOCOL);
    match control {
        true => state.controls.push_back(id),
        false => state.requests.push_back(id),
    }
    let stream = StreamState {
        headers,
        ended,
        send_window: state.initial_window,
        receive_window: i64::from(shared.manner.window),
        ..StreamState::default()
    };
    state.streams.insert(id, stream);
}

fn other(frame: &Frame, content: &[u8], shared: &Shared) -> Result<(), String> {
    match frame.kind {
        frame::DATA => shared.change(|state| data(state, frame, content, shared)),
        frame::RST_STREAM => {
            let code = frame.number().ok_or("RST_STREAM without a code")?;
            shared.change(|state| {
                if let Some(stream) = state.streams.get_mut(&frame.stream) {
                    stream.reset = Some(code);
                }
            });
        }
        frame::SETTINGS if !frame.has(frame::ACK) => {
            let entries: HashMap<u16, u32> = content
                .chunks_exact(6)
                .map(|entry| {
                    let id = u16::from_be_bytes([entry[0], entry[1]]);
                    let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
                    (id, value)
                })
                .collect();
            shared.send(frame::SETTINGS, frame::ACK, 0, &[]);
            shared.change(|state| settings(state, entries));
        }
        frame::PING if frame.has(frame::ACK) => {
            shared.change(|state| state.pongs.push(content.to_vec()));
        }
        frame::PING => {
            pong(shared, content);
            shared.change(|state| state.pings += 1);
        }
        frame::WINDOW_UPDATE => {
            let more = i64::from(frame.number().ok_or("WINDOW_UPDATE without a number")?);
            shared.change(|state| match frame.stream {
                0 => state.window += more,
                id => {
                    if let Some(stream) = state.streams.get_mut(&id) {
                        stream.send_window += more;
                    }
                }
            });
        }
        // GOAWAY: the end of the byte stream says the rest. Unknown: ignored.
        _ => {}
    }
    Ok(())
}

fn settings(state: &mut State, entries: HashMap<u16, u32>) {
    if let Some(window) = entries.get(&frame::SETTING_WINDOW) {
        let difference = i64::from(*window) - state.initial_window;
        state.initial_window = i64::from(*window);
        for stream in state.streams.values_mut() {
            stream.send_window += difference;
        }
    }
    state.settings.get_or_insert(entries);
}

fn data(state: &mut State, frame: &Frame, content: &[u8], shared: &Shared) {
    if content.is_empty() && !frame.has(frame::END_STREAM) {
        state
            .offences
            .push("a DATA frame without payload and END_STREAM".into());
    }
    let Some(stream) = state.streams.get_mut(&frame.stream) else {
        let message = format!("DATA on stream {} that was never opened", frame.stream);
        state.offences.push(message);
        return;
    };
    if stream.ended || stream.reset.is_some() {
        state.offences.push("DATA on a stream that ended".into());
        return;
    }
    stream.data.extend(content);
    stream.ended |= frame.has(frame::END_STREAM);
    let length = u32::try_from(frame.payload.len()).unwrap_or(0);
    stream.receive_window -= i64::from(length);
    if stream.receive_window < 0 {
        state
            .offences
            .push("more DATA than the stream's window allowed".into());
    } else if shared.manner.release && length > 0 && !stream.ended {
        stream.receive_window += i64::from(length);
        let update = length.to_be_bytes();
        shared.send(frame::WINDOW_UPDATE, 0, frame.stream, &update);
    }
}
