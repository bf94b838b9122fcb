//! What serve and the binder say to each other: one protobuf message in each
//! packet of a Unix socket, descriptors beside it.
//!
//! Both ends take the other for hostile: every packet is bounded and decoded
//! whole, and what it says is checked before it is used ([`convert`]).

pub mod convert;
pub mod keep;
pub mod turned_away;

pub use keep::{Discard, Keep, Taken};
pub use turned_away::TurnedAway;

use prost::Message as _;
use sternline_api::v1alpha1 as pb;

/// The version that both ends must speak. They are one program, and replaced
/// together: there is no negotiation, only a clear refusal.
pub const VERSION: u32 = 1;

/// Largest packet, in bytes. The largest that is ever needed, the answer to a
/// bind of 1,024 listeners, is split long before; a request for them has a grant.
pub const MAX_PACKET: usize = 128 * 1024;

/// Most descriptors that the kernel lets one packet carry (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// Why a packet is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than [`MAX_PACKET`].
    #[error("a packet of {0} bytes, where {MAX_PACKET} are allowed")]
    TooLong(usize),
    /// Not protobuf, or not these messages.
    #[error("a packet that cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Nothing that this version knows.
    #[error("a packet that says nothing known")]
    Empty,
    /// Something in it cannot be meant.
    #[error("{0}")]
    Invalid(String),
}

/// From serve to the binder.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ask {
    /// Names the request on this connection; its answers carry it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What is asked.
    #[prost(oneof = "ask::What", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub what: Option<ask::What>,
}

/// Parts of [`Ask`].
pub mod ask {
    /// What is asked.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum What {
        /// The first packet of a connection.
        #[prost(message, tag = "2")]
        Hello(super::Hello),
        /// Bind, and watch the sandbox from then on.
        #[prost(message, tag = "3")]
        Bind(super::Bind),
        /// Find the full id of a sandbox.
        #[prost(message, tag = "4")]
        Find(super::Target),
        /// How the source of sandboxes is.
        #[prost(message, tag = "5")]
        Status(super::Nothing),
        /// Watch a sandbox in which something was bound before.
        #[prost(message, tag = "6")]
        Watch(super::Watch),
        /// Forget the bind or the watch with this request's id, whatever came of it.
        #[prost(message, tag = "7")]
        Release(super::Nothing),
        /// Keep the descriptors beside this for whoever serves next.
        #[prost(message, tag = "8")]
        Keep(super::Keep),
        /// Close what was kept.
        #[prost(message, tag = "9")]
        Discard(super::Discard),
        /// Hand over what the serve before has left, and keep it on.
        #[prost(message, tag = "10")]
        Take(super::Nothing),
    }
}

/// From the binder to serve.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    /// The request that is answered; 0 for the connection as a whole.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What is answered.
    #[prost(oneof = "answer::What", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub what: Option<answer::What>,
}

/// Parts of [`Answer`].
pub mod answer {
    /// What is answered.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum What {
        /// To `hello`.
        #[prost(message, tag = "2")]
        Welcome(super::Hello),
        /// To any request: it failed.
        #[prost(message, tag = "3")]
        Failed(super::Failed),
        /// To `bind`: all sockets, or the next of them.
        #[prost(message, tag = "4")]
        Bound(super::Bound),
        /// To `find`.
        #[prost(message, tag = "5")]
        Found(super::Sandbox),
        /// To `status`.
        #[prost(message, tag = "6")]
        Status(super::Status),
        /// To `watch`: it is being watched.
        #[prost(message, tag = "7")]
        Watching(super::Nothing),
        /// The sandbox of this bind or watch is gone; the last word about it.
        #[prost(message, tag = "8")]
        Gone(super::Gone),
        /// To the last packet of a `keep`, and to `discard`: it is done.
        #[prost(message, tag = "9")]
        Kept(super::Nothing),
        /// To `take`: a part of what was left, or that this was all.
        #[prost(message, tag = "10")]
        Taken(super::Taken),
    }
}

/// Nothing but its name.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Nothing {}

/// Who speaks.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// [`VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Release of the program, for messages.
    #[prost(string, tag = "2")]
    pub release: String,
    /// From serve: under what its listeners are kept, which its successor shares;
    /// empty if nothing is to be kept.
    #[prost(string, tag = "3")]
    pub name: String,
    /// From serve: which process it is, the same on every connection of it.
    #[prost(string, tag = "4")]
    pub instance: String,
    /// From the binder: how long it keeps what a serve left, in milliseconds; 0 if
    /// it keeps nothing.
    #[prost(uint64, tag = "5")]
    pub restart_grace_ms: u64,
}

/// Which sandbox is meant: an id, or a pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Target {
    /// Id or prefix of one; empty if `pod` is there.
    #[prost(string, tag = "1")]
    pub id: String,
    /// A pod.
    #[prost(message, optional, tag = "2")]
    pub pod: Option<Pod>,
}

/// A pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Pod {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its uid.
    #[prost(string, tag = "3")]
    pub uid: String,
}

/// What to bind.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bind {
    /// Where.
    #[prost(message, optional, tag = "1")]
    pub target: Option<Target>,
    /// What.
    #[prost(message, repeated, tag = "2")]
    pub listeners: Vec<Listener>,
    /// Connections that may wait at each socket.
    #[prost(uint32, tag = "3")]
    pub backlog: u32,
    /// The signed grant of a gateway; empty without one.
    #[prost(bytes = "vec", tag = "4")]
    pub grant: Vec<u8>,
}

/// One listener.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Listener {
    /// Its id.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Protocol, address and port as the call carries them.
    #[prost(message, optional, tag = "2")]
    pub listener: Option<pb::Listener>,
}

/// A sandbox.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Sandbox {
    /// Its full id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its pod, where one is known.
    #[prost(message, optional, tag = "2")]
    pub pod: Option<Pod>,
}

/// A network namespace.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Namespace {
    /// Device of its file.
    #[prost(uint64, tag = "1")]
    pub device: u64,
    /// Inode of its file.
    #[prost(uint64, tag = "2")]
    pub inode: u64,
}

/// A part of what was bound, or that this was all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bound {
    /// Where; in the last part.
    #[prost(message, optional, tag = "1")]
    pub sandbox: Option<Sandbox>,
    /// In which namespace; in the last part.
    #[prost(message, optional, tag = "2")]
    pub namespace: Option<Namespace>,
    /// The sockets whose descriptors come with this packet, in the same order.
    #[prost(message, repeated, tag = "3")]
    pub sockets: Vec<Socket>,
    /// Whether another part follows. The last one comes when the binder has closed
    /// what it handed over.
    #[prost(bool, tag = "4")]
    pub more: bool,
}

/// One socket that listens.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Socket {
    /// The listener it belongs to.
    #[prost(uint32, tag = "1")]
    pub listener_id: u32,
    /// Address and port, as `127.0.0.1:80` or `[::1]:80`.
    #[prost(string, tag = "2")]
    pub address: String,
}

/// A sandbox to watch.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Watch {
    /// Its full id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The namespace that it had when something was bound in it.
    #[prost(message, optional, tag = "2")]
    pub namespace: Option<Namespace>,
}

/// How the source of sandboxes is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// Name and version of the runtime.
    #[prost(string, tag = "1")]
    pub runtime: String,
    /// Why it does not answer; empty if it does.
    #[prost(string, tag = "2")]
    pub trouble: String,
    /// Of the process that answers; none from a release that did not tell.
    #[prost(message, optional, tag = "3")]
    pub turned_away: Option<TurnedAway>,
}

/// A failure.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failed {
    /// Word of the error table.
    #[prost(string, tag = "1")]
    pub reason: String,
    /// The sentence.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// A sandbox is gone.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Gone {
    /// The sentence that says how.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// Reads a packet that serve sent.
///
/// # Errors
/// Anything that is not one whole [`Ask`].
pub fn decode_ask(packet: &[u8]) -> Result<(u64, ask::What), WireError> {
    let ask = Ask::decode(bounded(packet)?)?;
    Ok((ask.id, ask.what.ok_or(WireError::Empty)?))
}

/// Reads a packet that the binder sent.
///
/// # Errors
/// Anything that is not one whole [`Answer`].
pub fn decode_answer(packet: &[u8]) -> Result<(u64, answer::What), WireError> {
    let answer = Answer::decode(bounded(packet)?)?;
    Ok((answer.id, answer.what.ok_or(WireError::Empty)?))
}

fn bounded(packet: &[u8]) -> Result<&[u8], WireError> {
    match packet.len() {
        length if length > MAX_PACKET => Err(WireError::TooLong(length)),
        _ => Ok(packet),
    }
}

/// The packet of a request.
#[must_use]
pub fn encode_ask(id: u64, what: ask::What) -> Vec<u8> {
    let what = Some(what);
    Ask { id, what }.encode_to_vec()
}

/// The packet of an answer.
#[must_use]
pub fn encode_answer(id: u64, what: answer::What) -> Vec<u8> {
    let what = Some(what);
    Answer { id, what }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_said_is_heard() {
        let hello = Hello {
            version: VERSION,
            release: "1.2.3".to_owned(),
            ..Hello::default()
        };
        let packet = encode_ask(7, ask::What::Hello(hello.clone()));
        let (id, heard) = decode_ask(&packet).expect("ours");
        assert_eq!((id, heard), (7, ask::What::Hello(hello)));
        let gone = answer::What::Gone(Gone {
            message: "sandbox web is gone".to_owned(),
        });
        let (id, heard) = decode_answer(&encode_answer(9, gone.clone())).expect("ours");
        assert_eq!((id, heard), (9, gone));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        assert!(matches!(decode_ask(&[]), Err(WireError::Empty)));
        let long = vec![0; MAX_PACKET + 1];
        assert!(matches!(decode_ask(&long), Err(WireError::TooLong(_))));
        assert!(matches!(decode_answer(&long), Err(WireError::TooLong(_))));
        let whole = encode_ask(
            1,
            ask::What::Find(Target {
                id: "web".to_owned(),
                pod: None,
            }),
        );
        let cut = &whole[..whole.len() - 1];
        assert!(matches!(decode_ask(cut), Err(WireError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_ask(&bytes);
            let _ = decode_answer(&bytes);
        }
    }
}
