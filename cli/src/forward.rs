//! `sternline forward` and `sternline kubectl`: one session, from the call to its end.
//!
//! ```text
//! call -> URL -> upgrade -> tunnel -> Ready, checked -> announced -> served
//!                  ^                                                  |
//!                  +------- resume, while the hold lasts ------------+
//! ```

mod connection;
mod control;
mod dial;
pub mod drive;
mod early;
mod interrupts;
mod live;
mod mapping;
pub mod outside;
mod ready_file;
mod resume;
mod serve;
mod setup;
mod silence;
mod through;

pub use through::Through;

use crate::args::Format;
use crate::clean::clean;
use crate::connect::{Server, Trust};
use crate::descriptors::Descriptors;
use crate::fault::{Fault, exit};
use crate::output::Output;
use crate::report::{Ended, Event, Lost, Reconnected, Reporter, reporter};
use crate::signals::Held;
use crate::spec::Spec;
use crate::target::Place;
use connection::Connections;
use early::Early;
use interrupts::{Interrupt, Interrupting, Interrupts};
use live::Live;
use mapping::Mapping;
use outside::{Machine, Outside};
use ready_file::ReadyFile;
use resume::{Back, Resume};
use serve::Over;
use setup::Up;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use sternline_api::Reason;
use through::Workstation;

/// What the user asked for, checked.
#[derive(Debug)]
pub struct Plan {
    /// Where to listen.
    pub place: Place,
    /// What to forward; the ids are the positions.
    pub specs: Vec<Spec>,
    /// How long the listeners shall outlive a lost connection.
    pub hold: Duration,
    /// Command to wrap; empty for none.
    pub command: Vec<OsString>,
    /// File that says that everything listens.
    pub ready_file: Option<PathBuf>,
    /// How to print.
    pub format: Format,
    /// Whether to leave out lines of progress.
    pub quiet: bool,
    /// The limits of descriptors, for the command.
    pub descriptors: Descriptors,
}

/// How a forward came to its end, other than by a [`Fault`].
enum Finish {
    /// We were asked to stop.
    Stopped,
    /// The wrapped command ended with this code.
    Command(u8),
}

/// The way to a node.
#[derive(Debug)]
pub enum Entry {
    /// The shim on this machine.
    Node(Server, Trust),
    /// A cluster.
    Cluster(Box<Through>),
}

/// Forwards until the end and returns the exit code. Each answer may take `timeout`.
pub async fn run(plan: Plan, entry: Entry, timeout: Duration, output: Output, held: Held) -> u8 {
    let reporter: Arc<dyn Reporter> = reporter(plan.format, plan.quiet, output.clone()).into();
    let totals = Arc::default();
    let (outside, door): (Arc<dyn Outside>, Door) = match entry {
        Entry::Node(server, trust) => {
            let machine = Machine {
                server: server.clone(),
                trust,
            };
            (Arc::new(machine), Door::Call(server))
        }
        Entry::Cluster(through) => {
            let api = Arc::clone(&through.api);
            (Arc::new(Workstation { api }), Door::Cluster(through))
        }
    };
    let connections = Connections::new(
        Arc::clone(&reporter),
        Arc::clone(&totals),
        Arc::clone(&outside),
    );
    let forward = Forward {
        plan,
        outside,
        timeout,
        reporter: Arc::clone(&reporter),
        connections: Arc::new(connections),
    };
    let result = match Interrupts::open(&held, output.clone()) {
        // A tunnel is large, and there is one.
        Ok(mut interrupts) => Box::pin(forward.run(&door, &mut interrupts, &output)).await,
        Err(error) => Err(Fault::new(
            exit::OTHER,
            format!("cannot listen for signals: {error}"),
        )),
    };
    let (reason, message, exit_code) = match result {
        Ok(Finish::Stopped) => (
            Reason::Done.label(),
            "asked to stop".to_owned(),
            exit::STOPPED,
        ),
        Ok(Finish::Command(code)) => (Reason::Done.label(), "the command ended".to_owned(), code),
        Err(fault) => (fault.label(), fault.message, fault.exit),
    };
    let (connections, bytes_from_pod, bytes_to_pod) = totals.get();
    reporter.report(&Event::Ended(Ended {
        reason: reason.to_owned(),
        message,
        exit_code,
        connections,
        bytes_from_pod,
        bytes_to_pod,
    }));
    output.flush().await;
    exit_code
}

/// What is asked for the listeners.
enum Door {
    /// The call of this shim.
    Call(Server),
    /// A gateway, which makes the call itself.
    Cluster(Box<Through>),
}

struct Forward {
    plan: Plan,
    outside: Arc<dyn Outside>,
    /// Longest wait for each answer of the node.
    timeout: Duration,
    reporter: Arc<dyn Reporter>,
    connections: Arc<Connections>,
}

impl Forward {
    async fn run(
        mut self,
        door: &Door,
        interrupts: &mut Interrupts,
        output: &Output,
    ) -> Result<Finish, Fault> {
        let came_up = self.come_up(door, interrupts, output).await;
        let (up, _ready_file) = match came_up {
            Ok(up) => up,
            Err(Early::Stopped) if self.plan.command.is_empty() => return Ok(Finish::Stopped),
            Err(Early::Stopped) => {
                return Err(Fault::new(
                    exit::NEVER_UP,
                    "asked to stop before the forward was up: the command was not started",
                ));
            }
            Err(Early::Fault(fault)) if self.plan.command.is_empty() => return Err(fault),
            Err(Early::Fault(fault)) => {
                // The command's own failures keep their code, and so does what is
                // wrong on our own command line.
                let exit = match (fault.exit, fault.reason) {
                    (own @ (exit::NOT_EXECUTABLE | exit::NOT_FOUND), _)
                    | (own @ exit::USAGE, None) => own,
                    _ => exit::NEVER_UP,
                };
                return Err(Fault { exit, ..fault });
            }
        };
        let result = self.serve(up, interrupts).await;
        if let (Err(_), Some(command)) = (&result, interrupts.command.take()) {
            command.end().await;
        }
        result
    }

    /// Everything up to the first connection. A failure on the way leaves
    /// nothing behind on the server.
    async fn come_up(
        &mut self,
        door: &Door,
        interrupts: &mut Interrupts,
        output: &Output,
    ) -> Result<(Up, Option<ReadyFile>), Early> {
        if let Some(path) = &self.plan.ready_file {
            ReadyFile::prepare(path)?;
        }
        let up = match door {
            Door::Call(server) => self.call(server, interrupts).await?,
            Door::Cluster(through) => self.go_through(through, interrupts).await?,
        };
        let ready = up.announcement(&self.plan);
        match self.announce(&ready, interrupts, output).await {
            Ok(ready_file) => Ok((up, ready_file)),
            Err(fault) => {
                serve::goodbye(up.live, Reason::Done, "").await;
                Err(fault.into())
            }
        }
    }

    async fn call(&self, server: &Server, interrupts: &mut Interrupts) -> Result<Up, Early> {
        let opened = tokio::select! {
            opened = setup::call(server, &self.plan) => opened?,
            interrupt = interrupts.next() => return Err(interrupt.into()),
        };
        let (mut client, session_id) = (opened.client, opened.answer.session_id.clone());
        let up = tokio::select! {
            up = setup::stream(&*self.outside, self.timeout, &self.plan, opened.answer) => up.map_err(Early::from),
            interrupt = interrupts.next() => Err(interrupt.into()),
        };
        if up.is_err() {
            setup::abandon(&mut client, session_id).await;
        }
        up
    }

    /// The plan is about a pod from here on.
    async fn go_through(
        &mut self,
        through: &Through,
        interrupts: &mut Interrupts,
    ) -> Result<Up, Early> {
        let found = tokio::select! {
            found = through.find(self.plan.hold) => found?,
            interrupt = interrupts.next() => return Err(interrupt.into()),
        };
        (self.plan.place, self.plan.specs) = (found.place, found.specs);
        through::come_up(
            &*self.outside,
            self.timeout,
            &self.plan,
            found.way,
            interrupts,
        )
        .await
    }

    async fn announce(
        &self,
        ready: &crate::report::Ready,
        interrupts: &mut Interrupts,
        output: &Output,
    ) -> Result<Option<ReadyFile>, Fault> {
        let ready_file = match &self.plan.ready_file {
            Some(path) => Some(ReadyFile::write(path, ready)?),
            None => None,
        };
        self.reporter.report(&Event::Ready(ready.clone()));
        if !self.plan.command.is_empty() {
            // What the command prints comes after our lines.
            output.flush().await;
            let (command, limits) = (&self.plan.command, self.plan.descriptors);
            interrupts.start(command, &ready.environment(), limits)?;
        }
        Ok(ready_file)
    }

    /// Serves tunnel after tunnel until the session is over.
    async fn serve(&self, up: Up, interrupts: &mut impl Interrupting) -> Result<Finish, Fault> {
        let Up {
            mut live,
            mapping,
            mut resume,
        } = up;
        loop {
            let over =
                serve::serve(live, &mapping, &mut resume, &self.connections, interrupts).await;
            let (why, open) = match over {
                Over::Interrupted(Interrupt::Stop) => return Ok(Finish::Stopped),
                Over::Interrupted(Interrupt::Command(code)) => return Ok(Finish::Command(code)),
                Over::Interrupted(Interrupt::OutputClosed) => {
                    return Err(interrupts::output_closed());
                }
                Over::Ended { fault, open } if resume.outlives(&fault) => (fault.message, open),
                Over::Ended { fault, .. } => return Err(fault.about(&self.plan.place)),
                Over::Lost { why, open } => (why, open),
            };
            let back = self
                .come_back(&mut resume, &mapping, interrupts, why, open)
                .await;
            if leaves_session(&back) {
                self.outside.release(resume.session_id()).await;
            }
            match back? {
                ControlFlow::Continue(back) => live = back,
                ControlFlow::Break(finish) => return Ok(finish),
            }
        }
    }

    /// From a tunnel that was lost to the next, unless that is impossible or
    /// something ends the forward meanwhile.
    async fn come_back(
        &self,
        resume: &mut Resume,
        mapping: &Mapping,
        interrupts: &mut impl Interrupting,
        why: String,
        open: usize,
    ) -> Result<ControlFlow<Finish, Live>, Fault> {
        let message = format!("the connection to {} is lost: {why}", self.plan.place);
        if !resume.is_possible() {
            return Err(Fault::because(Reason::TunnelLost, message));
        }
        self.reporter.report(&Event::Lost(Lost {
            connections: open,
            hold_ms: millis(resume.patience()),
            message: message.clone(),
        }));
        let lost = Instant::now();
        let hurry = resume.hurry();
        let coming = resume.come_back(&*self.outside, &self.plan.specs, mapping, self.timeout);
        let mut coming = Box::pin(coming);
        let Back { live, anew } = tokio::select! {
            biased;
            back = &mut coming => {
                drop(coming);
                back.map_err(|fault| match fault.reason {
                    // It was no restart: without a hold the session is over.
                    Some(Reason::TokenUnknown) if resume.hold().is_zero() => {
                        Fault::because(Reason::TunnelLost, message)
                    }
                    _ => fault.about(&self.plan.place),
                })?
            }
            interrupt = interrupts.next() => {
                if let Some(hurry) = hurry {
                    hurry.notify_one();
                    let live = async { Ok(coming.await?.live) };
                    through::part(live, interrupts).await;
                }
                return match interrupt {
                    Interrupt::Stop => Ok(ControlFlow::Break(Finish::Stopped)),
                    Interrupt::Command(code) => Ok(ControlFlow::Break(Finish::Command(code))),
                    Interrupt::OutputClosed => Err(interrupts::output_closed()),
                };
            }
        };
        self.reporter.report(&Event::Reconnected(Reconnected {
            place: self.plan.place.to_string(),
            after_ms: millis(lost.elapsed()),
            session_id: clean(resume.session_id()),
            new_session: anew,
        }));
        Ok(ControlFlow::Continue(live))
    }
}

/// Whether a session is left behind that nobody will come back to: one that is
/// served elsewhere now is not ours to end.
fn leaves_session(back: &Result<ControlFlow<Finish, Live>, Fault>) -> bool {
    match back {
        Ok(ControlFlow::Continue(_)) => false,
        Ok(ControlFlow::Break(_)) => true,
        Err(fault) => fault.reason != Some(Reason::Superseded),
    }
}

/// What [`crate::fuzzing::announced`] is of.
pub(crate) fn announced(
    specs: &[Spec],
    bound: &[sternline_api::v1alpha1::Bound],
) -> Result<Vec<(String, String)>, Fault> {
    let mapping = Mapping::check(specs, bound)?;
    let led = mapping.forwarding().into_iter();
    Ok(led
        .map(|one| {
            (
                format!("{} {}", one.bound.address, one.bound.port),
                one.target,
            )
        })
        .collect())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
