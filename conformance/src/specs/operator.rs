//! What an operator does to a node: ending it, and switching the feature off and
//! on (§5.5, §11). The suite has to be told how.

use super::{pod, streams::carries};
use crate::{
    context::{Context, Forward, refusal, request, tcp},
    fixture::Sandbox,
    operator::Act,
    spec::{Spec, spec},
    verdict::{Step, check, skip, within},
    wire::stream::Stream,
};
use std::{sync::Arc, time::Duration};
use sternline_api::v1alpha1::{self as pb, control_message::Event};
use tokio::net::TcpStream;
use tonic::Code;

/// A node may look at its switch now and then, and finish what is under way
/// before it goes.
const SOON: Duration = Duration::from_secs(15);

/// Below this many milliseconds no machine is sure to get anything done.
const LEAST: u64 = 1000;

/// How long a server may take to be back.
const BACK: Duration = Duration::from_secs(60);

pub(super) const SPECS: &[Spec] = &[
    spec!(required "drain.ending", "5.5", ["serial"], "A server that goes away ends its sessions with draining.", ending),
    spec!(required "drain.frees", "5.5", ["serial"], "A server that went away left nothing that listens.", frees),
    spec!(recommended "drain.finishes", "5.6", ["serial"], "A server that goes away tells draining, and open connections go on for a while.", finishes),
    spec!(recommended "drain.opens-none", "5.6", ["serial"], "A server that goes away opens no stream any more: new connections wait, and are reset with the end.", opens_none),
    spec!(required "switch.ends", "11", ["serial"], "Switched off, a node ends its sessions with feature_off.", off_ends),
    spec!(required "switch.refuses", "11", ["serial"], "Switched off, a node fails calls with feature_off.", off_refuses),
    spec!(required "switch.on-again", "11", ["serial"], "Switched on again, a node takes calls as before.", on_again),
];

/// Waits for `ending` and answers its code.
async fn ended(forward: &Forward) -> Step<String> {
    Ok(forward.control.ending_within(SOON).await?.code)
}

/// Waits until the server answers again.
async fn back(context: &Context) -> Step {
    let answers = async {
        while context
            .client
            .clone()
            .version(pb::VersionRequest {})
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(BACK, "the server answers again", answers).await
}

async fn ending(context: &Context) -> Step {
    let restart = context.operator.can(Act::Restart)?;
    let forward = context.forward().await?;
    context.step("restarts the server");
    let (restarted, code) = tokio::join!(restart.run(), ended(&forward));
    restarted?;
    back(context).await?;
    let code = code?;
    check(code == "draining", "draining", code)
}

/// A connection that was open when the server was told to go, and is served still.
struct Draining {
    forward: Forward,
    inside: TcpStream,
    stream: Stream,
}

/// Restarts the server over an open connection; `during` has it while the server
/// goes away.
async fn draining<F: Future<Output = Step>>(
    context: &Context,
    during: impl FnOnce(Draining) -> F,
) -> Step {
    let restart = context.operator.can(Act::Restart)?;
    let forward = context.forward().await?;
    let (inside, stream) = forward.connected().await?;
    context.step("a connection is open; restarts the server");
    let during = async {
        let told = forward.control.find(SOON, "draining", |event| match event {
            Event::Draining(draining) => Some(Some(draining)),
            Event::Ending(_) => Some(None),
            _ => None,
        });
        let Some(told) = told.await? else {
            return skip("the node ends its sessions without a word before");
        };
        context.step(format!("told draining, within {} ms", told.deadline_ms));
        if told.deadline_ms < LEAST {
            return skip("the node gives open connections no time");
        }
        during(Draining {
            forward,
            inside,
            stream,
        })
        .await
    };
    let (restarted, judged) = tokio::join!(restart.run(), during);
    restarted?;
    back(context).await?;
    judged
}

impl Draining {
    /// Ends the connection, from both sides, and expects the session's end.
    async fn end(mut self) -> Step {
        self.stream.end();
        pod::shut(&mut self.inside).await?;
        let code = ended(&self.forward).await?;
        check(code == "draining", "draining", code)
    }
}

async fn finishes(context: &Context) -> Step {
    let during = async |mut open: Draining| {
        // One that ends its sessions right after the word has done so by then.
        tokio::time::sleep(Duration::from_millis(LEAST / 4)).await;
        carries(context, &mut open.inside, &open.stream).await?;
        context.step("bytes went each way");
        open.end().await
    };
    draining(context, during).await
}

async fn opens_none(context: &Context) -> Step {
    let during = async |open: Draining| {
        let forward = &open.forward;
        let mut late = forward.pod.connect(forward.address).await?;
        context.step("another connection was made");
        let shared = Arc::clone(&forward.tunnel.shared);
        let wait = Duration::from_millis(300);
        let came = shared.wait_for(wait, "", |state| state.requests.pop_front());
        let came = came.await.is_ok();
        check(!came, "no CONNECT for it", "a CONNECT")?;
        open.end().await?;
        let came = !shared.lock().requests.is_empty();
        check(!came, "no CONNECT for it until the end", "a CONNECT")?;
        pod::reset(&mut late, context.patience).await
    };
    draining(context, during).await
}

async fn frees(context: &Context) -> Step {
    let restart = context.operator.can(Act::Restart)?;
    // With its tunnel up: one that waits would lose its listeners to its token's
    // age, without any restart.
    let forward = context.forward().await?;
    context.step("restarts the server");
    restart.run().await?;
    back(context).await?;
    let (pod, wait) = (&forward.pod, context.patience);
    context.freed(pod, forward.address, wait).await
}

/// Waits until a call in this sandbox succeeds.
async fn taken(context: &Context, pod: &Sandbox) -> Step {
    let asked = || request(&pod.id, &[tcp("127.0.0.1", 0)]);
    let taken = async {
        while context.call(asked()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    within(SOON, "a call succeeds again", taken).await
}

/// Switches the feature on, and waits until the node takes calls in a sandbox
/// of which it knows nothing: the specs that follow want them.
async fn on(context: &Context) -> Step {
    context.operator.can(Act::On)?.run().await?;
    let pod = context.pod().await?;
    taken(context, &pod).await
}

async fn off_ends(context: &Context) -> Step {
    let off = context.operator.can(Act::Off)?;
    let forward = context.forward().await?;
    // What the node thinks of it now is no other spec's matter.
    forward.pod.spoil();
    off.run().await?;
    context.step("switched the feature off");
    let code = ended(&forward).await;
    on(context).await?;
    let code = code?;
    check(code == "feature_off", "feature_off", code)
}

/// Makes calls until one fails, or none does for too long.
async fn refused(context: &Context, pod: &str) -> Step {
    let refused = async {
        loop {
            match context.call(request(pod, &[tcp("127.0.0.1", 0)])).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(status) => {
                    let answer = Err(status);
                    return refusal(answer, Code::FailedPrecondition, "feature_off").map(drop);
                }
            }
        }
    };
    within(SOON, "a call fails with feature_off", refused).await?
}

async fn off_refuses(context: &Context) -> Step {
    let off = context.operator.can(Act::Off)?;
    let pod = context.pod().await?;
    off.run().await?;
    context.step("switched the feature off");
    let refused = refused(context, &pod.id).await;
    on(context).await?;
    refused
}

/// Whether anything shows that the feature is off: that each thing does, and how,
/// is another spec's.
async fn is_off(context: &Context, forward: &Forward) -> bool {
    if forward.tunnel.closed(SOON).await.is_ok() {
        return true;
    }
    let request = request(&forward.pod.id, &[tcp("127.0.0.1", 0)]);
    context.call(request).await.is_err()
}

async fn on_again(context: &Context) -> Step {
    let off = context.operator.can(Act::Off)?;
    let forward = context.forward().await?;
    forward.pod.spoil();
    off.run().await?;
    context.step("switched the feature off");
    let was_off = is_off(context, &forward).await;
    on(context).await?;
    context.step("switched the feature on");
    taken(context, &forward.pod).await?;
    // Of one that was never off it says nothing that it takes calls.
    let expected = "switched off, the node ends its sessions or fails calls";
    check(was_off, expected, "it did neither")
}
