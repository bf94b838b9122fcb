//! A forward in a world of the caller's choice, from the answer of the call to
//! its end: what the simulation drives. It is the forward that `sternline
//! forward` runs, without the gRPC call before it, signals and a wrapped command.

use super::interrupts::{Interrupt, Interrupting};
use super::outside::Outside;
use super::setup::{self, Answered};
use super::{Connections, Forward, Plan};
use crate::args::Format;
use crate::descriptors::Descriptors;
use crate::fault::Fault;
use crate::report::{Event, Reporter};
use crate::spec::Spec;
use crate::target::Place;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::v1alpha1 as pb;

/// Forwards until the session is over or `stop` resolves.
///
/// # Errors
/// Why it ended, other than by `stop`.
pub async fn drive(
    answer: pb::ReversePortForwardResponse,
    (specs, hold): (Vec<Spec>, Duration),
    limit: Duration,
    outside: Arc<dyn Outside>,
    reporter: Arc<dyn Reporter>,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
) -> Result<(), Fault> {
    let plan = Plan {
        place: Place::Sandbox("driven".to_owned()),
        specs,
        hold,
        command: Vec::new(),
        ready_file: None,
        format: Format::Text,
        quiet: true,
        descriptors: Descriptors::as_they_are(),
    };
    let connections = Connections::new(Arc::clone(&reporter), Arc::default(), Arc::clone(&outside));
    let forward = Forward {
        plan,
        outside,
        timeout: limit,
        reporter,
        connections: Arc::new(connections),
    };
    let mut stop = Stop(Some(stop));
    let answered = Answered::from(answer);
    let session_id = answered.session_id.clone();
    let up = tokio::select! {
        biased;
        up = setup::stream(&*forward.outside, limit, &forward.plan, answered) => up,
        _ = stop.next() => {
            forward.outside.release(&session_id).await;
            return Ok(());
        }
    };
    let up = match up {
        Ok(up) => up,
        Err(fault) => {
            forward.outside.release(&session_id).await;
            return Err(fault);
        }
    };
    let ready = up.announcement(&forward.plan);
    forward.reporter.report(&Event::Ready(ready));
    forward.serve(up, &mut stop).await.map(drop)
}

/// Stops once.
struct Stop(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Interrupting for Stop {
    async fn next(&mut self) -> Interrupt {
        let Some(stop) = &mut self.0 else {
            return std::future::pending().await;
        };
        stop.await;
        self.0 = None;
        Interrupt::Stop
    }
}
