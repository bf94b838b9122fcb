//! What serve leaves with the binder for the serve after it: descriptors, and a
//! record that the binder carries and never reads.

use super::{Socket, Watch, WireError};
use crate::sandbox::Watched;

/// Longest key, in bytes: the id of a session, or a word.
const MAX_KEY: usize = 64;

/// Longest name or instance of a serve, in bytes: a name is the path of a socket.
const MAX_NAME: usize = 512;

/// Longest address of a socket, in bytes: it may be a path.
const MAX_ADDRESS: usize = 512;

/// Longest record, in bytes. The largest that serve makes, with 16 labels of full
/// length, a user of many groups and a long grant, has 32 KiB.
pub const MAX_RECORD: usize = 48 * 1024;

/// What to keep, beside its descriptors.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Keep {
    /// Names it among everything that this serve keeps.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The sockets whose descriptors come with this packet, in the same order;
    /// they are added to those that are kept under the key.
    #[prost(message, repeated, tag = "2")]
    pub sockets: Vec<Socket>,
    /// Replaces the record; what has none is handed over to nobody.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub record: Option<Vec<u8>>,
    /// The sandbox that the sockets are in: they are closed when it is gone.
    #[prost(message, optional, tag = "4")]
    pub sandbox: Option<Watch>,
    /// Whether another packet of this request follows.
    #[prost(bool, tag = "5")]
    pub more: bool,
}

/// What to close.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Discard {
    /// The key under which it is kept.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Only the sockets of this listener; without it everything.
    #[prost(uint32, optional, tag = "2")]
    pub listener_id: Option<u32>,
}

/// What the serve before has left.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Taken {
    /// Its key; empty in the last part, which has nothing else.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The sockets whose descriptors come with this packet, in the same order.
    #[prost(message, repeated, tag = "2")]
    pub sockets: Vec<Socket>,
    /// The record; in the last part of this key.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub record: Option<Vec<u8>>,
    /// The sandbox that the sockets are in, if they are in one.
    #[prost(message, optional, tag = "4")]
    pub sandbox: Option<Watch>,
    /// Whether another part follows.
    #[prost(bool, tag = "5")]
    pub more: bool,
}

fn invalid(message: &str) -> WireError {
    WireError::Invalid(message.to_owned())
}

fn check_key(key: &str) -> Result<(), WireError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !key.is_empty() && key.len() <= MAX_KEY && key.chars().all(plain) {
        true => Ok(()),
        false => Err(invalid("a key that is none")),
    }
}

fn check(
    sockets: &[Socket],
    record: Option<&Vec<u8>>,
    sandbox: Option<Watch>,
    descriptors: usize,
) -> Result<Option<Watched>, WireError> {
    if sockets.len() != descriptors {
        return Err(invalid("another number of descriptors than of sockets"));
    }
    if sockets.iter().any(|one| one.address.len() > MAX_ADDRESS) {
        return Err(invalid("a socket with too long an address"));
    }
    if record.is_some_and(|record| record.len() > MAX_RECORD) {
        return Err(invalid("a record that is too long"));
    }
    sandbox.map(Watched::try_from).transpose()
}

impl Keep {
    /// The sandbox, if the whole can be meant with so many descriptors beside it.
    ///
    /// # Errors
    /// It cannot.
    pub fn checked(&self, descriptors: usize) -> Result<Option<Watched>, WireError> {
        check_key(&self.key)?;
        let record = self.record.as_ref();
        check(&self.sockets, record, self.sandbox.clone(), descriptors)
    }
}

impl Taken {
    /// The sandbox, if the whole can be meant with so many descriptors beside it.
    ///
    /// # Errors
    /// It cannot.
    pub fn checked(&self, descriptors: usize) -> Result<Option<Watched>, WireError> {
        let nothing = self.sockets.is_empty() && self.record.is_none() && self.sandbox.is_none();
        match (self.key.is_empty(), self.more) {
            (true, false) if nothing && descriptors == 0 => return Ok(None),
            (false, true) => check_key(&self.key)?,
            _ => return Err(invalid("a part of what was left that is none")),
        }
        let record = self.record.as_ref();
        check(&self.sockets, record, self.sandbox.clone(), descriptors)
    }
}

impl Discard {
    /// # Errors
    /// The key is none.
    pub fn checked(&self) -> Result<(), WireError> {
        check_key(&self.key)
    }
}

impl super::Hello {
    /// # Errors
    /// What a serve says of itself is too long.
    pub fn checked(&self) -> Result<(), WireError> {
        match self.name.len() <= MAX_NAME && self.instance.len() <= MAX_NAME {
            true => Ok(()),
            false => Err(invalid("a greeting that is too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binder::wire::Namespace;

    fn sound() -> Keep {
        Keep {
            key: "0123abcd".to_owned(),
            sockets: vec![Socket {
                listener_id: 1,
                address: "127.0.0.1:80".to_owned(),
            }],
            record: Some(vec![0; MAX_RECORD]),
            sandbox: Some(Watch {
                id: "web".to_owned(),
                namespace: Some(Namespace::default()),
            }),
            more: false,
        }
    }

    #[test]
    fn what_cannot_be_meant_is_not_kept() {
        let kept = sound();
        assert_eq!(kept.checked(1).expect("sound").expect("one").id, "web");
        kept.checked(0).expect_err("a descriptor is missing");
        kept.checked(2).expect_err("one too many");
        for key in ["", "a/b", "a b", &"x".repeat(MAX_KEY + 1)] {
            let key = key.to_owned();
            Keep { key, ..sound() }.checked(1).expect_err("no key");
        }
        let record = Some(vec![0; MAX_RECORD + 1]);
        Keep { record, ..sound() }.checked(1).expect_err("too long");
        let mut far = sound();
        far.sockets[0].address = "x".repeat(MAX_ADDRESS + 1);
        far.checked(1).expect_err("no address");
        let mut away = sound();
        away.sandbox.as_mut().expect("one").id = "../etc".to_owned();
        away.checked(1).expect_err("it leads elsewhere");
    }

    #[test]
    fn what_was_left_ends_with_a_part_of_nothing() {
        let part = Taken {
            key: "call".to_owned(),
            more: true,
            ..Taken::default()
        };
        part.checked(0).expect("sound");
        Taken::default().checked(0).expect("the last part");
        Taken::default().checked(1).expect_err("with a descriptor");
        let more = Taken {
            more: true,
            ..Taken::default()
        };
        more.checked(0).expect_err("no key");
        let last = Taken {
            more: false,
            ..part
        };
        last.checked(0).expect_err("the last has no key");
    }
}
