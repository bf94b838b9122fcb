//! A client's end of a tunnel, as docs/protocol.md has it: HTTP/2, with the node
//! as its client.

use super::LONG;
use bytes::{Buf as _, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{Request, Response};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use sternline_api::v1alpha1 as pb;
use sternline_api::v1alpha1::control_message::Event;
use tokio::time::timeout;

/// A tunnel whose control stream is up.
pub(crate) struct Tunnel {
    pub(crate) ready: pb::Ready,
    connection: Connection<TokioIo<Upgraded>, Bytes>,
    /// Ends with the tunnel.
    _control: (RecvStream, h2::SendStream<Bytes>),
}

impl Tunnel {
    /// Takes the node's control stream and its first message.
    pub(crate) async fn serve(io: TokioIo<Upgraded>) -> Self {
        let mut builder = h2::server::Builder::new();
        let connection = builder.enable_connect_protocol().handshake(io).await;
        let mut connection = connection.expect("HTTP/2");
        let (request, mut respond) = next(&mut connection).await;
        let protocol = request.extensions().get::<h2::ext::Protocol>();
        assert_eq!(protocol.expect("extended").as_str(), "sternline-control");
        let send = respond
            .send_response(Response::new(()), false)
            .expect("sent");
        let mut body = request.into_body();
        let mut read = BytesMut::new();
        let ready = loop {
            if let Some(message) = message(&mut read) {
                break message;
            }
            let data = tokio::select! {
                data = body.data() => data.expect("more").expect("in order"),
                _ = connection.accept() => panic!("nothing else was asked for"),
            };
            let _ = body.flow_control().release_capacity(data.len());
            read.extend_from_slice(&data);
        };
        let Some(Event::Ready(ready)) = ready.event else {
            panic!("{ready:?}");
        };
        Self {
            ready,
            connection,
            _control: (body, send),
        }
    }

    /// Takes the next forwarded connection, reads what it says, and answers.
    pub(crate) async fn answer(&mut self, with: &'static [u8]) -> Vec<u8> {
        let (request, mut respond) = next(&mut self.connection).await;
        assert_eq!(request.method(), "CONNECT");
        let mut send = respond
            .send_response(Response::new(()), false)
            .expect("sent");
        send.send_data(Bytes::from_static(with), true)
            .expect("sent");
        let mut body = request.into_body();
        let mut said = Vec::new();
        loop {
            let data = tokio::select! {
                data = body.data() => data,
                _ = self.connection.accept() => panic!("the tunnel is over"),
            };
            let Some(data) = data else {
                return said;
            };
            let data = data.expect("in order");
            let _ = body.flow_control().release_capacity(data.len());
            said.extend_from_slice(&data);
        }
    }

    /// Drives the tunnel for a moment, so that what was answered is sent.
    pub(crate) async fn drive<T>(&mut self, until: impl Future<Output = T>) -> T {
        tokio::select! {
            done = until => done,
            _ = self.connection.accept() => panic!("the tunnel is over"),
        }
    }
}

async fn next(
    connection: &mut Connection<TokioIo<Upgraded>, Bytes>,
) -> (Request<RecvStream>, SendResponse<Bytes>) {
    let next = timeout(LONG, connection.accept()).await.expect("in time");
    next.expect("the tunnel is up").expect("in order")
}

/// A whole message with its length before it, if it is there.
fn message(read: &mut BytesMut) -> Option<pb::ControlMessage> {
    let mut rest = &read[..];
    let length = usize::try_from(prost::encoding::decode_varint(&mut rest).ok()?).ok()?;
    let whole = rest.get(..length)?;
    let message = pb::ControlMessage::decode(whole).expect("a message");
    let used = read.len() - rest.len() + length;
    read.advance(used);
    Some(message)
}
