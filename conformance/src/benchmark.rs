//! `--benchmark`: how long the call, its set-up and a round trip take.

use crate::{
    context::Forward,
    runner::Subject,
    verdict::{Step, Verdict},
};
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Sessions that are set up one after the other.
const SESSIONS: usize = 30;
/// Round trips of 64 bytes on one stream.
const TRIPS: usize = 300;

/// Measures and answers a table. The error says why it cannot be measured.
pub(crate) async fn run(subject: &Subject, patience: Duration) -> Result<String, String> {
    let context = subject.context(patience);
    let measured = measure(&context).await;
    context.clean(measured.is_ok()).await;
    measured.map_err(|verdict| match verdict {
        Verdict::Failed { expected, seen } => format!("expected {expected}; seen: {seen}"),
        Verdict::Skipped(why) | Verdict::Broken(why) | Verdict::Environment(why) => why,
    })
}

async fn measure(context: &crate::context::Context) -> Step<String> {
    let pod = context.pod().await?;
    let (mut setups, mut connects, mut trips) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SESSIONS {
        let begun = Instant::now();
        let forward = context.forward_in(&pod, 0, Default::default()).await?;
        setups.push(begun.elapsed());
        let begun = Instant::now();
        let (mut inside, stream) = forward.connect().await?;
        connects.push(begun.elapsed());
        if trips.is_empty() {
            for _ in 0..TRIPS {
                trips.push(trip(&mut inside, &stream).await?);
            }
        }
        end(context, &forward).await;
    }
    let mut text = String::new();
    for (name, times) in [
        ("call to ready", &mut setups),
        ("connect to CONNECT", &mut connects),
        ("round trip of 64 bytes", &mut trips),
    ] {
        times.sort();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
        let _ = writeln!(text, "{name}: median {} us, p99 {} us", at(50), at(99));
    }
    Ok(text)
}

async fn trip(
    inside: &mut tokio::net::TcpStream,
    stream: &crate::wire::stream::Stream,
) -> Step<Duration> {
    let begun = Instant::now();
    let broken = crate::verdict::broken("the pod's end of the connection");
    inside.write_all(&[7; 64]).await.map_err(&broken)?;
    stream.send(&stream.receive(64).await?).await?;
    inside.read_exact(&mut [0; 64]).await.map_err(&broken)?;
    Ok(begun.elapsed())
}

async fn end(context: &crate::context::Context, forward: &Forward) {
    // The next session does not wait for it.
    let _ = context.stop(&forward.opened.response.session_id).await;
}
