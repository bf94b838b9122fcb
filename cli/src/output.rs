//! Standard output and standard error, written by a thread of their own.
//!
//! A reader that does not read must not stall the tunnel, whose PINGs would
//! then fail, and a reader that is gone must not end the process by a panic. So
//! lines go through a bounded queue; what does not fit is dropped and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Lines that may wait for their readers. Lines are bounded themselves, see
/// [`crate::clean`], so this bounds memory to a few MiB.
const QUEUE: usize = 2048;

/// How long [`Output::flush`] waits for a reader.
const FLUSH: Duration = Duration::from_secs(1);

enum Item {
    Out(String),
    Err(String),
    Flush(oneshot::Sender<()>),
}

/// Where lines go. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct Output {
    queue: mpsc::SyncSender<Item>,
    dropped: Arc<AtomicU64>,
    closed: watch::Receiver<bool>,
}

impl Output {
    /// Standard output and standard error.
    #[must_use]
    pub fn standard() -> Self {
        Self::new(io::stdout(), io::stderr())
    }

    /// Two writers in place of the standard ones.
    pub fn new(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        let (queue, items) = mpsc::sync_channel(QUEUE);
        let (closing, closed) = watch::channel(false);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            out,
            err,
            closing,
            dropped: Arc::clone(&dropped),
        };
        std::thread::spawn(move || writer.run(&items));
        Self {
            queue,
            dropped,
            closed,
        }
    }

    /// Writes one line to standard output.
    pub fn line(&self, line: impl Into<String>) {
        self.put(Item::Out(line.into()));
    }

    /// Writes one line to standard error.
    pub fn note(&self, line: impl Into<String>) {
        self.put(Item::Err(line.into()));
    }

    /// Writes an error to standard error, as every tool does.
    pub fn error(&self, message: impl std::fmt::Display) {
        let message = message.to_string();
        // What an API server says is printed as kubectl prints it.
        if message.starts_with("Error from server") {
            self.note(message);
        } else {
            self.note(format!("error: {message}"));
        }
    }

    fn put(&self, item: Item) {
        if let Err(mpsc::TrySendError::Full(_)) = self.queue.try_send(item) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything is written, for a second at most.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let queue = self.queue.clone();
        // The queue may be full; a thread of its own waits for room.
        std::thread::spawn(move || {
            let _ = queue.send(Item::Flush(done));
        });
        let _ = tokio::time::timeout(FLUSH, written).await;
    }

    /// Whether a line for standard output could not be written. Ask after
    /// [`Output::flush`].
    #[must_use]
    pub fn is_lost(&self) -> bool {
        *self.closed.borrow()
    }

    /// Resolves when nobody reads standard output any more.
    pub async fn closed(&mut self) {
        if self.closed.wait_for(|closed| *closed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct Writer<O, E> {
    out: O,
    err: E,
    closing: watch::Sender<bool>,
    dropped: Arc<AtomicU64>,
}

impl<O: Write, E: Write> Writer<O, E> {
    fn run(mut self, items: &mpsc::Receiver<Item>) {
        while let Ok(item) = items.recv() {
            match item {
                Item::Out(line) => self.out(&line),
                // Nobody is left to tell that standard error is closed.
                Item::Err(line) => drop(write_line(&mut self.err, &line)),
                Item::Flush(done) => drop(done.send(())),
            }
            let lost = self.dropped.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let note =
                    format!("warning: {lost} lines were not printed: their reader is too slow");
                drop(write_line(&mut self.err, &note));
            }
        }
    }

    fn out(&mut self, line: &str) {
        if *self.closing.borrow() {
            return;
        }
        if write_line(&mut self.out, line).is_err() {
            self.closing.send_replace(true);
        }
    }
}

/// One write per line keeps lines of several processes apart.
fn write_line(writer: &mut impl Write, line: &str) -> io::Result<()> {
    writer.write_all(format!("{line}\n").as_bytes())?;
    writer.flush()
}

impl Write for Output {
    /// For the log: each call is one or more whole lines.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.note(text.trim_end_matches('\n'));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks every write until the sender is gone.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn lines_arrive_in_order_each_at_its_place() {
        let (out, err) = (Shared::default(), Shared::default());
        let output = Output::new(out.clone(), err.clone());
        output.line("one");
        output.error("bad");
        output.line("two");
        output.flush().await;
        assert_eq!(out.text(), "one\ntwo\n");
        assert_eq!(err.text(), "error: bad\n");
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_noticed_and_panics_nobody() {
        let err = Shared::default();
        let mut output = Output::new(Broken, err.clone());
        output.line("one");
        output.closed().await;
        output.line("two");
        output.note("still here");
        output.flush().await;
        assert_eq!(err.text(), "still here\n");
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_stalls_nobody_and_what_it_missed_is_counted() {
        let (release, stuck) = mpsc::channel();
        let err = Shared::default();
        let output = Output::new(Stuck(stuck), err.clone());
        for _ in 0..QUEUE + 100 {
            output.line("x");
        }
        drop(release);
        output.flush().await;
        let text = err.text();
        assert!(text.contains("lines were not printed"), "{text}");
    }
}
