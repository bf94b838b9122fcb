//! The task that owns a session's parts and decides what becomes of it.

mod end;
mod leaving;
mod listeners;
mod lost;
mod setup;
mod tickets;

use super::accept::Forwarder;
use super::control::{self, Control, Heard};
use super::rejections::Rejections;
use super::tunnels::Tunnels;
use super::{Arrivals, Command, Counts, Session, Shared, Visible, capped};
use crate::audit::Subject;
use crate::binder::deposits::Deposit;
use crate::binder::{Binder, Bound, Gone, SandboxTarget};
use crate::cache::{Pass, Verifier};
use crate::drain;
use crate::metrics;
use crate::registry::Slot;
use listeners::{Change, Listeners};
use setup::SetUp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_api::{Failure, Reason};
use sternline_tunnel::TunnelError;
use sternline_tunnel::budget::Traffic;
use tickets::Tickets;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// How often the client is told what was turned away.
const TELL_REJECTIONS: Duration = Duration::from_millis(200);

/// Commands that may wait for the task.
const COMMANDS: usize = 8;

/// What a session is made of.
pub struct Parts {
    /// Its id.
    pub id: String,
    /// What the binder made.
    pub bound: Bound,
    /// Who asked.
    pub requester: pb::Requester,
    /// The signed grant of a gateway, if one asked; else empty.
    pub grant: Vec<u8>,
    /// Words of the client.
    pub labels: BTreeMap<String, String>,
    /// How long the listeners outlive the tunnels.
    pub hold: Duration,
    /// Its place.
    pub slot: Slot,
    /// For listeners that the client adds later.
    pub binder: Arc<dyn Binder>,
    /// When it was made.
    pub created_at: SystemTime,
    /// What clients come with.
    pub passes: Passes,
    /// What the binder keeps of it for the next serve.
    pub deposit: Option<Deposit>,
}

/// What clients come to a session with.
pub enum Passes {
    /// A new session's token, not yet in the cache.
    Token(Pass),
    /// The token of a session that the serve before has made, and how long it is
    /// still good for.
    LeftToken(Verifier, Duration),
    /// The tickets of a session that the serve before had a client of, and how
    /// long that client may take to come back.
    Left(Vec<Verifier>, Duration),
}

/// Starts a session: puts its token into the cache, publishes it and spawns its
/// task. After an error nothing is left of it.
///
/// # Errors
/// Too many tokens wait, the node shuts down, or the bound sockets cannot be
/// used.
pub fn start(parts: Parts, shared: &Arc<Shared>) -> Result<Arc<Session>, Failure> {
    let Parts {
        id,
        bound,
        requester,
        grant,
        labels,
        hold,
        mut slot,
        binder,
        created_at,
        passes,
        deposit,
    } = parts;
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let audit = shared.audit.session(|| {
        let sandbox = &bound.sandbox;
        Subject::new(&id, &requester, &sandbox.id, sandbox.pod.as_ref())
    });
    let session = Arc::new(Session {
        id,
        sandbox: bound.sandbox,
        requester,
        granted: !grant.is_empty(),
        grant: Mutex::new(grant),
        labels,
        created_at,
        hold,
        traffic: Traffic::below(&shared.traffic),
        counts: Counts::default(),
        audit,
        visible: Mutex::new(Visible {
            state: pb::SessionState::Waiting,
            bound: Vec::new(),
        }),
        commands,
        arrivals: watch::Sender::default(),
        settled: CancellationToken::new(),
        finished: CancellationToken::new(),
    });
    let sockets = listeners::adopt(bound.sockets, &*shared.adopt)?;
    let mut tickets = Tickets::new(Arc::clone(&session), Arc::clone(shared));
    let attached = matches!(passes, Passes::Left(..));
    // From here on taken back on the way out.
    let wait = match passes {
        Passes::Token(token) => tickets.begin((&token).into(), shared.limits.token_ttl)?,
        Passes::LeftToken(token, wait) => tickets.begin(token, wait)?,
        Passes::Left(left, wait) => tickets.restore(left, wait),
    };
    slot.publish(&session)?;
    let tunnels = Tunnels::new(Arc::clone(&session));
    let forwarder = Forwarder {
        session: Arc::clone(&session),
        shared: Arc::clone(shared),
        picker: tunnels.picker(),
        budget: shared.budget.session(),
        permits: Arc::new(Semaphore::new(
            shared.limits.connections_per_session as usize,
        )),
        rejections: Arc::new(Rejections::default()),
        tasks: TaskTracker::new(),
        streams: TaskTracker::new(),
        draining: CancellationToken::new(),
        ended: CancellationToken::new(),
    };
    let mut listeners = Listeners::default();
    listeners.open(sockets, &forwarder);
    session.audit.started(listeners.audited(), hold);
    let actor = Actor {
        target: SandboxTarget::Id(session.sandbox.id.clone()),
        session: Arc::clone(&session),
        shared: Arc::clone(shared),
        binder,
        listeners,
        _ended: forwarder.ended.clone().drop_guard(),
        forwarder,
        tunnels,
        drivers: JoinSet::new(),
        setups: JoinSet::new(),
        changes: JoinSet::new(),
        control: None,
        control_tasks: TaskTracker::new(),
        tickets,
        arrivals: session.arrivals.subscribe(),
        deadline: Some(Instant::now() + wait),
        attached,
        deposit: deposit.map(Arc::new),
        leaving: false,
        goodbye: false,
        next_tunnel: 0,
        _active: metrics::Active::session(),
        _slot: slot,
        _finished: session.finished.clone().drop_guard(),
    };
    actor.show();
    tokio::spawn(actor.run(inbox, bound.gone));
    Ok(session)
}

/// How a tunnel's driver ended, and which one it was.
type Driven = (u64, Result<(), TunnelError>);

struct Actor {
    session: Arc<Session>,
    shared: Arc<Shared>,
    binder: Arc<dyn Binder>,
    target: SandboxTarget,
    listeners: Listeners,
    forwarder: Forwarder,
    /// Whatever becomes of this task, nothing goes on listening.
    _ended: DropGuard,
    tunnels: Tunnels,
    drivers: JoinSet<Driven>,
    /// Tunnels that are being set up.
    setups: JoinSet<SetUp>,
    /// Listeners that are being added or removed.
    changes: JoinSet<Change>,
    control: Option<Control>,
    control_tasks: TaskTracker,
    tickets: Tickets,
    /// Clients on the way: while one may bring the session to life, it does not
    /// give up.
    arrivals: watch::Receiver<Arrivals>,
    /// When to give up: the token's end, or the hold's.
    deadline: Option<Instant>,
    /// A client came at least once.
    attached: bool,
    /// What the binder keeps of it.
    deposit: Option<Arc<Deposit>>,
    /// It drains, and is to be left to the next serve then.
    leaving: bool,
    /// The client said its last word.
    goodbye: bool,
    next_tunnel: u64,
    _active: metrics::Active,
    _slot: Slot,
    /// Last, so that whoever waits for the end finds everything given back.
    _finished: DropGuard,
}

/// What one turn of the loop found.
enum Turn {
    Go,
    End(Failure),
    Leave,
}

impl Actor {
    #[tracing::instrument(name = "session", skip_all, fields(id = %self.session.id, sandbox = %self.session.sandbox.id))]
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, mut gone: Gone) {
        tracing::info!(bound = %self.listeners, requester = %self.session.requester.user, "listening");
        let mut tell = interval(TELL_REJECTIONS);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reason = loop {
            let settled = self.session.settled.is_cancelled();
            let deadline = self.deadline.filter(|_| !self.is_awaited());
            // What a client can send without end comes last, what frees things
            // first; a client that comes in time is let in.
            let turn = tokio::select! {
                biased;
                sentence = gone.wait() => Turn::End(Failure::new(Reason::SandboxGone, sentence)),
                Some(command) = inbox.recv() => self.obey(command),
                Some(driven) = self.drivers.join_next() => self.tunnel_ended(driven.ok()),
                Some(set_up) = self.setups.join_next() => self.tunnel_ready(set_up.ok()).await,
                Ok(()) = self.arrivals.changed() => Turn::Go,
                Some(change) = self.changes.join_next() => self.changed(change.ok()),
                // Only once it drains.
                () = self.forwarder.streams.wait(), if !settled => self.drained(),
                _ = tell.tick(), if self.control.is_some() => { self.tell_rejections(); Turn::Go }
                () = sleep_until_some(deadline) => self.out_of_time(),
                heard = control::hear(&mut self.control) => self.heed(heard).await,
            };
            match turn {
                Turn::Go => {}
                Turn::End(reason) => break Some(reason),
                Turn::Leave => break None,
            }
        };
        // From here on nobody is heard.
        inbox.close();
        match reason {
            Some(reason) => self.end(reason).await,
            None => self.leave().await,
        }
    }

    fn obey(&mut self, command: Command) -> Turn {
        match command {
            Command::Attach { io, arrival } => {
                self.attach(io, arrival);
                Turn::Go
            }
            Command::Drain { within, stay } => {
                self.drain(within, stay);
                Turn::Go
            }
            Command::Leave if self.grace().is_some() => Turn::Leave,
            Command::Leave => Turn::End(drain::end_of(&self.session)),
            Command::Stop(reason) => Turn::End(reason),
        }
    }

    /// What the client says on the control stream.
    async fn heed(&mut self, heard: Heard) -> Turn {
        match heard {
            Heard::Event(Event::Ending(ending)) => {
                tracing::debug!(code = %capped(ending.code.escape_debug().to_string()), "the client says goodbye");
                // Whatever it says, it is over; the log tells a protest from a
                // goodbye.
                let protest = Reason::ProtocolError;
                let reason = match Reason::from_label(&ending.code) {
                    Some(reason) if reason == protest => protest,
                    _ => Reason::Done,
                };
                self.goodbye = true;
                Turn::End(Failure::new(reason, "the client ended the session"))
            }
            Heard::Event(Event::Target(target)) => {
                tracing::debug!(listener = target.listener_id, up = target.up, "target");
                Turn::Go
            }
            Heard::Event(Event::AddListener(add)) => {
                self.add_listener(&add);
                Turn::Go
            }
            Heard::Event(Event::RemoveListener(remove)) => {
                self.remove_listener(&remove);
                Turn::Go
            }
            // A node's own events mean nothing when a client sends them.
            Heard::Event(_) => Turn::Go,
            Heard::Failed(TunnelError::Control(error)) => Turn::End(Failure::new(
                Reason::ProtocolError,
                format!("the client broke the framing of the control stream: {error}"),
            )),
            Heard::Failed(error) => {
                tracing::debug!(%error, "control stream lost");
                self.control_lost().await
            }
            Heard::Ended => self.control_lost().await,
            Heard::Mute => {
                self.cut_off();
                Turn::Go
            }
        }
    }

    /// Sends an event to the client, if there is one. A client that does not
    /// read is cut off.
    fn tell(&mut self, event: Event) {
        if let Some(control) = &self.control
            && !control.cut_off
            && control.outbox.try_send(event).is_err()
        {
            self.cut_off();
        }
    }

    /// Nothing reaches the client any more. What it said before is still heard:
    /// it may have been a goodbye.
    fn cut_off(&mut self) {
        if let Some(control) = &mut self.control {
            tracing::info!("the client takes no control messages and is cut off");
            control.cut_off = true;
            self.tunnels.close();
        }
    }

    fn tell_rejections(&mut self) {
        let room = self.control.as_ref().map_or(0, Control::spare_room);
        let rejections = self.forwarder.rejections.take();
        for (n, ((reason, listener_id), count)) in rejections.into_iter().enumerate() {
            if n >= room {
                // The rest waits for the next time: what the pod provokes must
                // not cost the client its session.
                let rejections = &self.forwarder.rejections;
                rejections.put_back((reason, listener_id), count);
                continue;
            }
            tracing::debug!(%reason, listener_id, count, "connections turned away");
            self.tell(Event::Rejected(pb::Rejected {
                reason: reason.label().to_owned(),
                listener_id,
                count,
            }));
        }
    }

    /// Shows others where the session stands.
    fn show(&self) {
        let state = if self.tunnels.len() > 0 {
            pb::SessionState::Active
        } else if self.attached {
            pb::SessionState::Held
        } else {
            pb::SessionState::Waiting
        };
        *self.session.visible() = Visible {
            state,
            bound: self.listeners.bound(),
        };
    }
}

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
