//! The passes of a session: the token that it began with, and its tickets.

use crate::cache::{Pass, Verifier};
use crate::session::{Admission, Arrival, Session, Shared, TunnelKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use sternline_api::{Failure, Reason, v1alpha1 as pb};
use tokio::time::Instant;

/// Every pass that stands for the session, taken back on drop.
#[derive(Debug)]
pub(super) struct Tickets {
    session: Arc<Session>,
    shared: Arc<Shared>,
    token: Option<Verifier>,
    join: Option<Pass>,
    resume: Option<Pass>,
    /// The tickets before `resume`, the newest first, and when they were replaced:
    /// the message that told so may have been lost with its tunnel.
    previous: Vec<(Verifier, Instant)>,
    /// What the session was left with by the serve before.
    left: Vec<Verifier>,
    /// Tunnels that joined, and that brought the session to life.
    joined: u64,
    led: u64,
}

impl Tickets {
    /// Of a session that nobody can come to yet.
    pub(super) fn new(session: Arc<Session>, shared: Arc<Shared>) -> Self {
        Self {
            session,
            shared,
            token: None,
            left: Vec::new(),
            join: None,
            resume: None,
            previous: Vec::new(),
            joined: 0,
            led: 0,
        }
    }

    /// Lets a client come with the token, and returns how long it has.
    ///
    /// # Errors
    /// Too many tokens wait.
    pub(super) fn begin(&mut self, token: Verifier, wait: Duration) -> Result<Duration, Failure> {
        let admission = self.admission(TunnelKind::First);
        let inserted = self.shared.passes.insert_token(token, wait, admission);
        inserted.map_err(|full| {
            Failure::new(
                Reason::TokenLimit,
                format!("{full} (--max-tokens): try again in a moment"),
            )
        })?;
        self.token = Some(token);
        Ok(wait)
    }

    /// Lets a client come back with one of these, which another process gave out,
    /// and returns how long it has.
    pub(super) fn restore(&mut self, tickets: Vec<Verifier>, wait: Duration) -> Duration {
        for ticket in &tickets {
            self.insert(*ticket, TunnelKind::Resume);
        }
        self.left.extend(tickets);
        wait
    }

    /// What the ticket to come back with is known by, and the one before it; none
    /// if there is no way back.
    pub(super) fn verifiers(&self) -> Option<(Verifier, Option<(Verifier, SystemTime)>)> {
        let previous = self.previous.first().and_then(|(pass, at)| {
            let replaced = SystemTime::now().checked_sub(at.elapsed())?;
            Some((*pass, replaced))
        });
        self.resume.as_ref().map(|pass| (pass.into(), previous))
    }

    /// Whether what the client came with has brought no tunnel so far.
    pub(super) fn admit(&self, arrival: &Arrival) -> bool {
        arrival.generation() == self.generation(arrival.kind())
    }

    /// A tunnel of this kind is up: what it came with is used up, and fresh
    /// tickets replace all others. With `room`, one of them is to join.
    pub(super) fn renew(&mut self, kind: TunnelKind, room: bool) -> pb::Tickets {
        // Everything on its way to the old tunnels is void with them.
        self.joined += 1;
        if kind != TunnelKind::Join {
            self.led += 1;
        }
        // Of what another process left, nobody knows which the client had.
        let resume = self.resume.as_ref().map(Verifier::from);
        let previous: Vec<_> = resume.into_iter().chain(self.left.clone()).collect();
        self.take_back();
        let now = Instant::now();
        self.previous = previous.into_iter().map(|pass| (pass, now)).collect();
        self.resume = self.make(TunnelKind::Resume);
        self.join = room.then(|| self.make(TunnelKind::Join)).flatten();
        self.to_proto()
    }

    /// There is room again: offers a ticket to join, unless one is out.
    pub(super) fn offer_join(&mut self) -> Option<pb::Tickets> {
        if self.join.is_some() {
            return None;
        }
        self.join = self.make(TunnelKind::Join);
        self.join.as_ref().map(|_| self.to_proto())
    }

    /// The session is lost: nobody joins it, and who was told of no newer ticket
    /// within `unsure` may come with the one before.
    pub(super) fn lost(&mut self, unsure: Duration) {
        self.forget(|tickets| tickets.join.take());
        for (pass, replaced) in &self.previous {
            if replaced.elapsed() <= unsure {
                self.insert(*pass, TunnelKind::Resume);
            }
        }
    }

    /// Takes everything back; who was let in before is on the way still.
    pub(super) fn take_back(&mut self) {
        if let Some(token) = self.token.take() {
            self.shared.passes.remove(token);
        }
        self.forget(|tickets| tickets.join.take());
        self.forget(|tickets| tickets.resume.take());
        let previous = self.previous.drain(..).map(|(pass, _)| pass);
        for pass in previous.chain(self.left.drain(..)) {
            self.shared.passes.remove(pass);
        }
    }

    fn forget(&mut self, pass: impl FnOnce(&mut Self) -> Option<Pass>) {
        if let Some(pass) = pass(self) {
            self.shared.passes.remove(&pass);
        }
    }

    fn make(&self, kind: TunnelKind) -> Option<Pass> {
        // No ticket is better than a weak one.
        let pass = Pass::generate().ok()?;
        self.insert(&pass, kind);
        Some(pass)
    }

    fn insert(&self, pass: impl Into<Verifier>, kind: TunnelKind) {
        let admission = self.admission(kind);
        self.shared.passes.insert_ticket(pass, admission);
    }

    fn admission(&self, kind: TunnelKind) -> Admission {
        Admission {
            session: Arc::clone(&self.session),
            kind,
            generation: self.generation(kind),
        }
    }

    fn generation(&self, kind: TunnelKind) -> u64 {
        match kind {
            TunnelKind::First | TunnelKind::Resume => self.led,
            TunnelKind::Join => self.joined,
        }
    }

    fn to_proto(&self) -> pb::Tickets {
        let secret = |pass: &Option<Pass>| {
            let secret = pass.as_ref().map(Pass::secret);
            secret.unwrap_or_default().to_owned()
        };
        pb::Tickets {
            join: secret(&self.join),
            resume: secret(&self.resume),
        }
    }
}

impl Drop for Tickets {
    fn drop(&mut self) {
        self.take_back();
    }
}
