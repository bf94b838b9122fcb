//! What is kept: sockets, a record, and the sandbox that they belong to.

use crate::binder::client::listening;
use crate::binder::wire::{Socket, WireError};
use crate::binder::{Bound, BoundSocket};
use crate::sandbox::Watched;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

/// What is to be kept under a key.
#[derive(Debug, Default)]
pub struct Content {
    /// Copies of listening sockets, and what they are.
    pub sockets: Vec<(Socket, OwnedFd)>,
    /// For the successor; the binder does not read it.
    pub record: Vec<u8>,
    /// The sandbox that the sockets are in.
    pub watched: Option<Watched>,
}

impl Content {
    /// Copies of what was bound, to be kept while the sandbox is there.
    ///
    /// # Errors
    /// There is no descriptor for a copy.
    pub fn of(bound: &Bound, record: Vec<u8>) -> io::Result<Self> {
        Ok(Self {
            sockets: copies(&bound.sockets)?,
            record,
            watched: Some(Watched {
                id: bound.sandbox.id.clone(),
                namespace: bound.namespace,
            }),
        })
    }

    /// The sockets, each made sure to be one that listens where it is said to.
    ///
    /// # Errors
    /// One that is not.
    pub fn into_bound(self) -> Result<Vec<BoundSocket>, WireError> {
        let bound = self.sockets.into_iter().map(|(socket, descriptor)| {
            let addr = socket.address.parse();
            let addr = addr.map_err(|_| WireError::Invalid("no address".to_owned()))?;
            Ok(BoundSocket {
                listener_id: socket.listener_id,
                addr,
                socket: listening(descriptor, addr)?,
            })
        });
        bound.collect()
    }
}

/// Copies of sockets, and what they are.
///
/// # Errors
/// There is no descriptor for a copy.
pub fn copies(sockets: &[BoundSocket]) -> io::Result<Vec<(Socket, OwnedFd)>> {
    let copy = |one: &BoundSocket| {
        let socket = Socket {
            listener_id: one.listener_id,
            address: one.addr.to_string(),
        };
        Ok((socket, one.socket.as_fd().try_clone_to_owned()?))
    };
    sockets.iter().map(copy).collect()
}
