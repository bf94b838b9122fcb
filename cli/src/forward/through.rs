//! A forward through a cluster: its pod is found first, and there is no call
//! before the stream.

use super::Plan;
use super::early::Early;
use super::interrupts::{Interrupt, Interrupting};
use super::live::{self, Live};
use super::mapping::Mapping;
use super::outside::{Later, Outside, Reached};
use super::resume::Resume;
use super::setup::Up;
use super::{dial, serve};
use crate::cluster::api::{Api, PodWay};
use crate::cluster::object::Object;
use crate::cluster::pod::{self, Chosen};
use crate::connect::{ByteStream, Way};
use crate::fault::Fault;
use crate::spec::{Spec, Target, named};
use crate::target::Place;
use std::sync::Arc;
use std::time::Duration;
use sternline_api::{Failure, Reason};
use sternline_tunnel::Settings;
use tokio::time::timeout;

/// How long a tunnel may take to come up for a goodbye, once nobody wants it any
/// more.
const PARTING: Duration = Duration::from_secs(2);

/// What the user named in a cluster.
#[derive(Debug)]
pub struct Through {
    /// The cluster.
    pub api: Arc<Api>,
    /// What leads to the pod.
    pub object: Object,
    /// The SPECs as they were typed: they may name ports.
    pub specs: Vec<String>,
    /// How long to wait for a pod that runs.
    pub patience: Duration,
}

/// A pod, and what it makes of the plan.
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) specs: Vec<Spec>,
    pub(super) way: PodWay,
}

impl Through {
    /// Finds the pod.
    pub(super) async fn find(&self, hold: Duration) -> Result<Found, Fault> {
        let namespace = &self.api.access().namespace;
        let chosen = pod::find(&self.api, namespace, &self.object, self.patience).await?;
        let specs = named::resolve_all(&self.specs, |name| chosen.port(name));
        let specs = specs.map_err(|error| Fault::usage(error.to_string()))?;
        let Chosen {
            namespace,
            name,
            uid,
            ..
        } = chosen;
        let listeners = specs.iter().map(|spec| spec.listen);
        let way = PodWay::new((&namespace, &name, uid.as_deref()), listeners, hold);
        let place = Place::Pod { namespace, name };
        Ok(Found { place, specs, way })
    }
}

/// Brings the session up, unless something ends the forward meanwhile.
pub(super) async fn come_up(
    outside: &dyn Outside,
    limit: Duration,
    plan: &Plan,
    way: PodWay,
    interrupts: &mut impl Interrupting,
) -> Result<Up, Early> {
    let mut stream = Box::pin(stream(outside, limit, plan, way));
    let interrupt = tokio::select! {
        up = &mut stream => return Ok(up?),
        interrupt = interrupts.next() => interrupt,
    };
    // The listeners may be bound by now.
    part(async { Ok(stream.await?.live) }, interrupts).await;
    Err(interrupt.into())
}

/// Says goodbye on a tunnel that comes up in a moment: nothing else frees the
/// listeners before the hold is over. A second signal is not kept waiting.
pub(super) async fn part(
    coming: impl Future<Output = Result<Live, Fault>>,
    interrupts: &mut impl Interrupting,
) {
    let parting = async {
        match timeout(PARTING, coming).await {
            Ok(Ok(live)) => serve::goodbye(live, Reason::Done, "").await,
            _ => tracing::info!("the listeners are free once the hold is over"),
        }
    };
    let second = async { while !matches!(interrupts.next().await, Interrupt::Stop) {} };
    tokio::select! {
        biased;
        () = Box::pin(parting) => {}
        () = second => {}
    }
}

/// Opens a session's stream and checks what the node announces.
async fn stream(
    outside: &dyn Outside,
    limit: Duration,
    plan: &Plan,
    way: PodWay,
) -> Result<Up, Fault> {
    let way = Way::Pod(way);
    tracing::info!(place = %plan.place, listeners = plan.specs.len(), "asking for the listeners");
    // What the node allows is known once it has announced the session.
    let (mut live, ready) = live::establish(outside, &way, &Settings::default(), limit).await?;
    let mapping = match Mapping::check(&plan.specs, &ready.bound) {
        Ok(mapping) => mapping,
        Err(fault) => {
            give_up(live, &fault).await;
            return Err(fault);
        }
    };
    let settings = Settings::from_limits(&ready.limits.unwrap_or_default());
    live.settings.dial_timeout = settings.dial_timeout;
    live.settings.idle_timeout = settings.idle_timeout;
    tracing::info!(hold_ms = ready.hold_ms, "the session is announced");
    let resume = Resume::new(way, settings, &ready, plan.hold);
    Ok(Up {
        live,
        mapping,
        resume,
    })
}

async fn give_up(live: Live, fault: &Fault) {
    serve::goodbye(live, Reason::ProtocolError, &fault.message).await;
}

/// This machine and a cluster.
#[derive(Debug)]
pub(super) struct Workstation {
    pub(super) api: Arc<Api>,
}

impl Outside for Workstation {
    fn open<'a>(&'a self, way: &'a Way, limit: Duration) -> Later<'a, Result<ByteStream, Fault>> {
        Box::pin(async move {
            match way {
                Way::Pod(way) => self.api.open(way, limit).await,
                Way::Url(url) => Err(Fault::protocol(format!(
                    "the endpoint {} is no way through a cluster",
                    url.endpoint()
                ))),
            }
        })
    }

    fn dial<'a>(
        &'a self,
        target: &'a Target,
        limit: Duration,
    ) -> Later<'a, Result<Reached, Failure>> {
        Box::pin(dial::dial(target, limit))
    }

    fn release<'a>(&'a self, _: &'a str) -> Later<'a, ()> {
        // The API offers no other way in than a tunnel: see `Resume::part`.
        Box::pin(std::future::ready(()))
    }
}
