//! What the target is asked beside the connections: how much each of them
//! brought, and to let go of those that it keeps.

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Bound on an answer of the target.
const ANSWER: Duration = Duration::from_secs(10);

/// Bytes by stream id.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<HashMap<u64, Arc<AtomicU64>>>);

impl Counters {
    /// The counter of a stream, made when it is new.
    pub(super) fn of(&self, id: u64) -> Arc<AtomicU64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(id).or_default())
    }
}

/// What every stream of a run had brought at one moment.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Count {
    /// The moment, in seconds since the target began.
    pub(crate) at: f64,
    /// Bytes by stream id.
    pub(crate) bytes: HashMap<u64, u64>,
}

/// Answers on a Unix socket, from a thread of its own, until the process ends.
pub(super) fn serve(path: &Path) -> Result<(Arc<Counters>, watch::Receiver<u64>)> {
    let listener = UnixListener::bind(path)
        .with_context(|| format!("cannot make the control socket {}", path.display()))?;
    let counters = Arc::new(Counters::default());
    let (drop, dropped) = watch::channel(0);
    let shared = Arc::clone(&counters);
    let begun = Instant::now();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            let drop = drop.clone();
            std::thread::spawn(move || answer(&stream, &shared, &drop, begun));
        }
    });
    Ok((counters, dropped))
}

fn answer(stream: &UnixStream, counters: &Counters, drop: &watch::Sender<u64>, begun: Instant) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let count = match line.split_once(' ') {
            // Streams of a run have its number in their upper half.
            Some(("count", run)) => {
                let run: u64 = run.parse().unwrap_or_default();
                let all = counters.0.lock().unwrap_or_else(PoisonError::into_inner);
                let of_run = all.iter().filter(|(id, _)| *id >> 32 == run);
                Count {
                    at: begun.elapsed().as_secs_f64(),
                    bytes: of_run.map(|(id, n)| (*id, n.load(Relaxed))).collect(),
                }
            }
            _ => {
                drop.send_modify(|n| *n += 1);
                let mut all = counters.0.lock().unwrap_or_else(PoisonError::into_inner);
                all.clear();
                Count::default()
            }
        };
        let Ok(mut line) = serde_json::to_string(&count) else {
            return;
        };
        line.push('\n');
        if (&mut &*stream).write_all(line.as_bytes()).is_err() {
            return;
        }
    }
}

/// The generator's end.
#[derive(Debug)]
pub(crate) struct Control(BufReader<UnixStream>);

/// Connects to a target's control socket.
///
/// # Errors
/// No target serves there.
pub(crate) fn counters(path: &Path) -> Result<Control> {
    let stream = UnixStream::connect(path)
        .with_context(|| format!("no target serves {}", path.display()))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(Control(BufReader::new(stream)))
}

impl Control {
    /// What the streams of a run brought so far.
    ///
    /// # Errors
    /// The target is gone.
    pub(crate) fn count(&mut self, run: u32) -> Result<Count> {
        self.ask(&format!("count {run}\n"))
    }

    /// Lets go of connections that are kept.
    ///
    /// # Errors
    /// The target is gone.
    pub(crate) fn drop_kept(&mut self) -> Result<()> {
        self.ask("drop\n").map(drop)
    }

    fn ask(&mut self, question: &str) -> Result<Count> {
        self.0.get_mut().write_all(question.as_bytes())?;
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            bail!("the target closed its control socket");
        }
        serde_json::from_str(&line).context("the target's answer makes no sense")
    }
}
