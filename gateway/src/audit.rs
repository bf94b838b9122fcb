//! Who forwarded what: one JSON object a line, on standard output.
//!
//! Nobody waits for it: records go through a bounded queue to a thread of its own.
//! No line holds a token, a ticket or a grant, only the id of the grant, by which a
//! node's audit log knows it too.

mod record;

pub use record::{About, Event};

use crate::metrics;
use record::Record;
pub(crate) use record::rfc3339;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// Records that may wait to be written; those beyond are lost, and counted. They
/// take 4 MiB at most.
const QUEUE: usize = 4096;

/// How long what waits may take at the end.
const LAST: Duration = Duration::from_secs(2);

/// The audit log.
#[derive(Debug)]
pub struct Audit {
    queue: Mutex<Option<SyncSender<String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// This run of the gateway.
    run: String,
    number: AtomicU64,
    lost: Arc<AtomicU64>,
}

impl Audit {
    /// Writes to `sink` from now on.
    ///
    /// # Errors
    /// There is no thread, or nothing random, to be had.
    pub fn open(sink: impl Write + Send + 'static) -> anyhow::Result<Self> {
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(|error| anyhow::anyhow!("random bytes: {error}"))?;
        let (queue, records) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new().name("audit".to_owned());
        let writer = writer.spawn(move || write(&records, sink))?;
        let audit = Self {
            queue: Mutex::new(Some(queue)),
            writer: Mutex::new(Some(writer)),
            run: hex(&run),
            number: AtomicU64::new(0),
            lost: Arc::default(),
        };
        Ok(audit)
    }

    /// Records what happened.
    pub fn record(&self, about: &About, event: Event<'_>, now: SystemTime) {
        let lost = self.lost.swap(0, SeqCst);
        if lost > 0 && !self.send(None, &Event::Lost { lost }, now) {
            self.lost.fetch_add(lost, SeqCst);
        }
        if !self.send(Some(about), &event, now) {
            metrics::audit_lost();
            self.lost.fetch_add(1, SeqCst);
        }
    }

    fn send(&self, about: Option<&About>, event: &Event<'_>, now: SystemTime) -> bool {
        let number = self.number.fetch_add(1, SeqCst);
        let id = format!("{}-{number}", self.run);
        let line = Record::line(&id, about, event, now);
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue
            .as_ref()
            .is_some_and(|queue| queue.try_send(line).is_ok())
    }

    /// Writes what waits, for a bounded time; takes no more.
    pub async fn close(&self) {
        drop(
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let until = Instant::now() + LAST;
        while let Some(writer) = &writer {
            if writer.is_finished() || Instant::now() >= until {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn write(records: &Receiver<String>, mut sink: impl Write) {
    let mut failing = false;
    while let Ok(line) = records.recv() {
        // With its end in one piece: others may write to the same place.
        match sink.write_all(line.as_bytes()).and_then(|()| sink.flush()) {
            Ok(()) => failing = false,
            Err(error) => {
                metrics::audit_lost();
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "the audit log cannot be written");
                }
            }
        }
    }
}

/// Bytes as digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Hands on what is written, while somebody takes it.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let sent = self.0.send(bytes.to_vec());
            sent.map_err(|_| std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_sink_that_is_stuck() {
        let (pipe, taken) = sync_channel(0);
        let audit = Audit::open(Pipe(pipe)).expect("opened");
        let about = About::default();
        let record = || audit.record(&about, Event::TunnelStart, SystemTime::now());
        for _ in 0..QUEUE + 100 {
            record();
        }
        let mut lines: Vec<Vec<u8>> = (0..QUEUE).filter_map(|_| taken.recv().ok()).collect();
        record();
        let reader = std::thread::spawn(move || taken.iter().collect::<Vec<_>>());
        audit.close().await;
        drop(audit);
        lines.extend(reader.join().expect("no panic"));
        let read = |line: &Vec<u8>| serde_json::from_slice::<Value>(line).expect("JSON");
        let lost = lines.iter().map(read).find(|line| line["event"] == "lost");
        let lost = lost.expect("told")["lost"].as_u64().expect("a number");
        // One is in the writer's hands.
        assert!((99..=100).contains(&lost), "{lost}");
    }
}
