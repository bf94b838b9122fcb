//! A descriptor kept back, to turn connections away with when there are none.
//!
//! A process without descriptors cannot accept, and so cannot refuse either: a
//! connection would sit in the kernel's queue until its own time-out. Giving the
//! spare one up for a moment makes room to accept it and reset it.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The descriptor of a process. Sessions share it.
#[derive(Debug)]
pub struct Spare(Mutex<Option<File>>);

impl Spare {
    /// Takes one now, while there are some.
    #[must_use]
    pub fn take() -> Self {
        Self(Mutex::new(open()))
    }

    /// Accepts one waiting connection and resets it; whether there was one that
    /// could be.
    pub(super) fn turn_away(&self, listener: &impl AsFd) -> bool {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *spare = None;
        let accepted = socket2::SockRef::from(listener).accept();
        let turned_away = match accepted {
            Ok((socket, _)) => socket.set_linger(Some(Duration::ZERO)).is_ok(),
            // Nobody waits, or another thread took what was just given up.
            Err(_) => false,
        };
        *spare = open();
        turned_away
    }
}

fn open() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_reset_and_the_descriptor_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let spare = Spare::take();
        assert!(!spare.turn_away(&listener), "nobody waits");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("queued");
        assert!(spare.turn_away(&listener));
        let error = client.read(&mut [0]).expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(spare.0.lock().expect("whole").is_some());
    }
}
