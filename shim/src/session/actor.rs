//! The task that owns a session's parts and decides what becomes of it.

mod end;
mod listeners;
mod setup;

use super::accept::{Forwarder, Rejections};
use super::control::Control;
use super::tunnels::Tunnels;
use super::{Command, Counts, Session, Shared, Visible};
use crate::binder::{Binder, Bound, Gone, SandboxTarget};
use crate::cache::Pass;
use crate::metrics;
use crate::registry::Slot;
use listeners::{Change, Listeners};
use setup::Ready;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use sternline_api::{Failure, Reason};
use sternline_tunnel::TunnelError;
use sternline_tunnel::budget::Traffic;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
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
    /// Words of the client.
    pub labels: BTreeMap<String, String>,
    /// How long the listeners outlive the tunnels.
    pub hold: Duration,
    /// Its place.
    pub slot: Slot,
    /// For listeners that the client adds later.
    pub binder: Arc<dyn Binder>,
    /// When the token expires.
    pub expires: Instant,
}

/// Starts a session: publishes it and spawns its task.
///
/// # Errors
/// The bound sockets cannot be used.
pub fn start(parts: Parts, shared: &Arc<Shared>) -> Result<Arc<Session>, Failure> {
    let Parts {
        id,
        bound,
        requester,
        labels,
        hold,
        mut slot,
        binder,
        expires,
    } = parts;
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let session = Arc::new(Session {
        id,
        sandbox: bound.sandbox,
        requester,
        labels,
        created_at: SystemTime::now(),
        hold,
        traffic: Traffic::below(&shared.traffic),
        counts: Counts::default(),
        visible: Mutex::new(Visible {
            state: pb::SessionState::Waiting,
            bound: Vec::new(),
        }),
        commands,
    });
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
        ended: CancellationToken::new(),
    };
    let mut listeners = Listeners::default();
    listeners.open(bound.sockets, &forwarder)?;
    slot.publish(&session);
    let actor = Actor {
        target: SandboxTarget::Id(session.sandbox.id.clone()),
        session: Arc::clone(&session),
        shared: Arc::clone(shared),
        binder,
        listeners,
        forwarder,
        tunnels,
        drivers: JoinSet::new(),
        handles: HashMap::new(),
        setups: JoinSet::new(),
        changes: JoinSet::new(),
        control: None,
        control_tasks: TaskTracker::new(),
        tickets: Vec::new(),
        deadline: Some(expires),
        attached: false,
        next_tunnel: 0,
        _active: metrics::Active::session(),
        _slot: slot,
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
    tunnels: Tunnels,
    drivers: JoinSet<Driven>,
    /// The drivers that run, by tunnel.
    handles: HashMap<u64, AbortHandle>,
    /// Tunnels that are being set up.
    setups: JoinSet<Result<Ready, TunnelError>>,
    /// Listeners that are being added.
    changes: JoinSet<Change>,
    control: Option<Control>,
    control_tasks: TaskTracker,
    /// Tickets handed out and not used.
    tickets: Vec<Pass>,
    /// When to give up: the token's end, or the hold's.
    deadline: Option<Instant>,
    /// A client came at least once.
    attached: bool,
    next_tunnel: u64,
    _active: metrics::Active,
    _slot: Slot,
}

/// What one turn of the loop found.
enum Turn {
    Go,
    End(Failure, Option<oneshot::Sender<()>>),
}

impl Actor {
    #[tracing::instrument(name = "session", skip_all, fields(id = %self.session.id, sandbox = %self.session.sandbox.id))]
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, mut gone: Gone) {
        tracing::info!(bound = %self.listeners, requester = %self.session.requester.user, "listening");
        let mut tell = interval(TELL_REJECTIONS);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (reason, done) = loop {
            let deadline = self.deadline;
            let turn = tokio::select! {
                biased;
                sentence = gone.wait() => Turn::End(Failure::new(Reason::SandboxGone, sentence), None),
                Some(command) = inbox.recv() => self.obey(command),
                Some(driven) = self.drivers.join_next() => self.tunnel_ended(driven.ok()),
                Some(setup) = self.setups.join_next() => self.tunnel_ready(setup.ok()),
                event = next_event(&mut self.control) => self.hear(event),
                Some(change) = self.changes.join_next() => self.changed(change.ok()),
                () = sleep_until_some(deadline) => Turn::End(self.gave_up(), None),
                _ = tell.tick(), if self.control.is_some() => { self.tell_rejections(); Turn::Go }
            };
            if let Turn::End(reason, done) = turn {
                break (reason, done);
            }
        };
        // From here on nobody is heard.
        inbox.close();
        self.end(reason).await;
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn obey(&mut self, command: Command) -> Turn {
        match command {
            Command::Attach { io, kind } => {
                self.attach(io, kind);
                Turn::Go
            }
            Command::Stop { reason, done } => Turn::End(reason, Some(done)),
        }
    }

    /// What the client says on the control stream.
    fn hear(&mut self, event: Option<Result<Event, TunnelError>>) -> Turn {
        match event {
            Some(Ok(Event::Ending(ending))) => {
                tracing::debug!(code = %ending.code, "the client says goodbye");
                Turn::End(
                    Failure::new(Reason::Done, "the client ended the session"),
                    None,
                )
            }
            Some(Ok(Event::Target(target))) => {
                tracing::debug!(listener = target.listener_id, up = target.up, "target");
                Turn::Go
            }
            Some(Ok(Event::AddListener(add))) => {
                self.add_listener(&add);
                Turn::Go
            }
            Some(Ok(Event::RemoveListener(remove))) => {
                self.remove_listener(&remove);
                Turn::Go
            }
            // A node's own events mean nothing when a client sends them.
            Some(Ok(_)) => Turn::Go,
            Some(Err(error)) => {
                tracing::debug!(%error, "control stream lost");
                self.control_lost()
            }
            None => self.control_lost(),
        }
    }

    /// The control stream is the session's life line: without it the tunnels
    /// are given up.
    fn control_lost(&mut self) -> Turn {
        self.control = None;
        self.tunnels.close();
        self.lost()
    }

    /// The client is gone: hold the listeners, or end.
    fn lost(&mut self) -> Turn {
        if self.session.hold.is_zero() {
            return Turn::End(self.gave_up(), None);
        }
        if self.deadline.is_none() {
            tracing::info!(hold = ?self.session.hold, "tunnel lost, listeners are held");
            self.deadline = Some(Instant::now() + self.session.hold);
        }
        self.show();
        Turn::Go
    }

    fn gave_up(&self) -> Failure {
        let sandbox = &self.session.sandbox.id;
        if self.attached {
            Failure::new(
                Reason::TunnelLost,
                format!("sandbox {sandbox}: the client's connection was lost"),
            )
        } else {
            Failure::new(
                Reason::TokenExpired,
                format!("sandbox {sandbox}: nobody came to the streaming URL in time"),
            )
        }
    }

    /// Sends an event to the client, if there is one. A client that does not
    /// read is cut off.
    fn tell(&mut self, event: Event) {
        if let Some(control) = &self.control
            && control.outbox.try_send(event).is_err()
        {
            tracing::info!("the client does not read its control stream and is cut off");
            self.tunnels.close();
        }
    }

    fn tell_rejections(&mut self) {
        let rejected: Vec<_> = self.forwarder.rejections.take().collect();
        for (reason, count) in rejected {
            tracing::debug!(%reason, count, "connections turned away");
            self.tell(Event::Rejected(pb::Rejected {
                reason: reason.label().to_owned(),
                listener_id: 0,
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

async fn next_event(control: &mut Option<Control>) -> Option<Result<Event, TunnelError>> {
    match control {
        Some(control) => control.inbox.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
