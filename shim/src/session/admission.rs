//! Who may come into a session, and who is on the way.

use super::{Command, Session, TunnelIo};
use std::sync::Arc;
use sternline_api::{Failure, Reason};

/// What a token or ticket lets its bearer do.
#[derive(Clone, Debug)]
pub struct Admission {
    /// In which session.
    pub session: Arc<Session>,
    /// With what kind of tunnel.
    pub kind: TunnelKind,
    /// Tunnels of this kind that the session had got when the pass was made: one
    /// more, and the pass is used up, whoever is still on the way with it.
    pub(super) generation: u64,
}

/// What a new tunnel is to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// The first, opened with the token.
    First,
    /// One more beside those that are up.
    Join,
    /// In place of all others.
    Resume,
}

/// How many clients are on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrivals {
    /// With what brings the session (back) to life.
    pub(super) leading: u32,
    /// To join.
    pub(super) joining: u32,
}

impl Arrivals {
    fn of(&mut self, kind: TunnelKind) -> &mut u32 {
        match kind {
            TunnelKind::First | TunnelKind::Resume => &mut self.leading,
            TunnelKind::Join => &mut self.joining,
        }
    }
}

impl Admission {
    /// Lets the bearer in. Until the result is dropped the session waits for its
    /// tunnel and does not give up.
    ///
    /// # Errors
    /// The session has `most` tunnels, those on the way included.
    pub fn arrive(&self, most: u32) -> Result<Arrival, Failure> {
        let mut full = false;
        self.session.arrivals.send_modify(|arrivals| {
            let others = match self.kind {
                TunnelKind::Join => arrivals.joining + self.session.tunnels(),
                TunnelKind::First | TunnelKind::Resume => arrivals.leading,
            };
            full = others >= most;
            if !full {
                *arrivals.of(self.kind) += 1;
            }
        });
        if full {
            return Err(Failure::new(
                Reason::TunnelLimit,
                format!(
                    "session {} has {most} tunnels, those on their way included, which is the limit (--max-tunnels-per-session): close one first",
                    self.session.id
                ),
            ));
        }
        Ok(Arrival(self.clone()))
    }
}

/// A client that was let in and whose tunnel is not up yet.
#[derive(Debug)]
pub struct Arrival(Admission);

impl Arrival {
    /// The session it comes to.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.0.session
    }

    /// What its tunnel is to be.
    #[must_use]
    pub fn kind(&self) -> TunnelKind {
        self.0.kind
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.generation
    }

    /// Hands the client's connection to the session.
    ///
    /// # Errors
    /// The session ended meanwhile.
    pub async fn attach(self, io: Box<dyn TunnelIo>) -> Result<(), Failure> {
        let session = Arc::clone(self.session());
        session.command(Command::Attach { io, arrival: self }).await
    }

    /// The client did not make it. A session that nobody can come to any more
    /// ends, and so does one whose client breaks the protocol; any other goes on,
    /// and the ticket may be used again.
    pub async fn fail(self, failure: Failure) {
        if self.kind() == TunnelKind::First || failure.reason == Reason::ProtocolError {
            let session = Arc::clone(self.session());
            session.stop(failure).await;
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let Admission { session, kind, .. } = &self.0;
        session
            .arrivals
            .send_modify(|arrivals| *arrivals.of(*kind) -= 1);
    }
}
