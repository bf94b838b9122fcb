//! The WebSocket form carries the same bytes.

use crate::support::{pattern, settings, soon, tunnel_over};
use futures_util::{SinkExt as _, StreamExt as _};
use sternline_tunnel::websocket::WebSocketIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, Utf8Bytes};

/// Our server's end, and a client of another make.
async fn foreign_client() -> (WebSocketIo<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let ours = WebSocketIo::server(near).await;
    let theirs = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    (ours, theirs)
}

#[tokio::test]
async fn a_tunnel_goes_through_it() {
    let (node, client) = tokio::io::duplex(32 * 1024);
    let node = WebSocketIo::server(node).await;
    let client = WebSocketIo::client(client).await;
    let mut tunnel = tunnel_over(node, client, &settings()).await;
    let mut running = Vec::new();
    for seed in 0..10 {
        let mut forward = tunnel.unix().await;
        running.push(tokio::spawn(async move {
            let (up, down) = (pattern(seed, 200_000), pattern(seed + 100, 200_000));
            let (mut pod_read, mut pod_write) = forward.pod.split();
            let (mut target_read, mut target_write) = forward.target.split();
            let (mut at_target, mut at_pod) = (vec![0; up.len()], vec![0; down.len()]);
            let done = tokio::join!(
                pod_write.write_all(&up),
                target_write.write_all(&down),
                target_read.read_exact(&mut at_target),
                pod_read.read_exact(&mut at_pod),
            );
            assert!(done.0.is_ok() && done.1.is_ok() && done.2.is_ok() && done.3.is_ok());
            assert!(at_target == up && at_pod == down);
        }));
    }
    for each in running {
        soon(each).await.unwrap();
    }
    drop(tunnel.dialer);
    soon(tunnel.driver).await.unwrap().unwrap();
    soon(tunnel.acceptor).await.unwrap().unwrap();
}

#[tokio::test]
async fn bytes_come_whatever_the_framing() {
    let (mut ours, mut theirs) = foreign_client().await;
    let sent = pattern(1, 300_000);
    let expected = sent.clone();
    let sender = tokio::spawn(async move {
        let (mut at, mut size) = (0, 1);
        while at < sent.len() {
            let end = (at + size).min(sent.len());
            let (a, b) = sent[at..end].split_at((end - at) / 2);
            if size % 2 == 0 {
                // In two fragments, with a PING between them.
                let first = Frame::message(a.to_vec(), OpCode::Data(Data::Binary), false);
                theirs.send(Message::Frame(first)).await.unwrap();
                theirs.send(Message::Ping(vec![1].into())).await.unwrap();
                let last = Frame::message(b.to_vec(), OpCode::Data(Data::Continue), true);
                theirs.send(Message::Frame(last)).await.unwrap();
            } else {
                theirs
                    .send(Message::binary(sent[at..end].to_vec()))
                    .await
                    .unwrap();
                theirs.send(Message::binary(Vec::new())).await.unwrap();
            }
            (at, size) = (end, size * 3 % 70_001 + 1);
        }
        theirs
    });
    let mut got = vec![0; expected.len()];
    soon(ours.read_exact(&mut got)).await.unwrap();
    assert!(got == expected);
    soon(sender).await.unwrap();
}

#[tokio::test]
async fn a_ping_is_answered_without_a_write_of_ours() {
    let (mut ours, mut theirs) = foreign_client().await;
    let reader = tokio::spawn(async move {
        let mut byte = [0];
        ours.read_exact(&mut byte).await.map(|_| ours)
    });
    theirs.send(Message::Ping(vec![7].into())).await.unwrap();
    let pong = soon(theirs.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(vec![7].into()));
    theirs.send(Message::Pong(vec![9].into())).await.unwrap();
    theirs.send(Message::binary(vec![1])).await.unwrap();
    soon(reader).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_text_message_is_an_error() {
    let (mut ours, mut theirs) = foreign_client().await;
    theirs
        .send(Message::Text(Utf8Bytes::from_static("hello")))
        .await
        .unwrap();
    let error = soon(ours.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn too_long_a_message_is_an_error() {
    let (mut ours, mut theirs) = foreign_client().await;
    tokio::spawn(async move { theirs.send(Message::binary(vec![0; 1_100_000])).await });
    let mut all = Vec::new();
    let error = soon(ours.read_to_end(&mut all)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(all.is_empty());
}

#[tokio::test]
async fn a_close_is_the_end_in_each_direction() {
    let (mut ours, mut theirs) = foreign_client().await;
    theirs.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    theirs.close(None).await.unwrap();
    let mut all = Vec::new();
    soon(ours.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all, [1, 2, 3]);

    let (mut ours, mut theirs) = foreign_client().await;
    ours.write_all(&[4, 5]).await.unwrap();
    ours.flush().await.unwrap();
    let closing = tokio::spawn(async move {
        ours.shutdown().await.unwrap();
        // Their answer, and nothing more.
        ours.read_to_end(&mut Vec::new()).await
    });
    assert_eq!(
        soon(theirs.next()).await.unwrap().unwrap(),
        Message::binary(vec![4, 5])
    );
    assert!(soon(theirs.next()).await.unwrap().unwrap().is_close());
    // Which sends the answer.
    theirs.flush().await.ok();
    assert_eq!(soon(closing).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_no_end() {
    let (mut ours, theirs) = foreign_client().await;
    drop(theirs);
    assert!(soon(ours.read(&mut [0])).await.is_err());
}

#[tokio::test]
async fn long_writes_are_cut_into_messages() {
    let (mut ours, mut theirs) = foreign_client().await;
    let sent = pattern(1, 500_000);
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        ours.write_all(&sent).await.unwrap();
        ours.flush().await.unwrap();
        ours
    });
    let mut got = Vec::new();
    while got.len() < expected.len() {
        let Message::Binary(data) = soon(theirs.next()).await.unwrap().unwrap() else {
            panic!("binary only");
        };
        assert!(data.len() <= 64 * 1024, "{}", data.len());
        got.extend_from_slice(&data);
    }
    assert!(got == expected);
    soon(writer).await.unwrap();
}
