//! The one thread that writes. It alone waits for disks and readers.

use super::record::{Event, Record};
use super::sink::Sink;
use super::{Item, Session, Trail};
use crate::metrics;
use crate::sentence::plain;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often rejections are summed up, and how soon a rotation is noticed while
/// nothing happens.
const TICK: Duration = Duration::from_secs(1);

/// How long to leave a destination alone that could not be written.
const RETRY: Duration = Duration::from_millis(100);

/// A reader that took nothing for so long is one that cannot be written to.
const STALLED: Duration = Duration::from_secs(1);

/// How often it is said that the log cannot be written.
const COMPLAIN: Duration = Duration::from_secs(60);

/// The thread's own part.
pub(super) struct Writer {
    trail: Arc<Trail>,
    inbox: Receiver<Item>,
    sink: Box<dyn Sink>,
    /// First part of each id: this run of the program.
    run: String,
    /// Lines so far.
    lines: u64,
    /// The line that is being written, and how much of it was.
    current: Option<(Vec<u8>, usize)>,
    /// Made here, not taken from the queue.
    due: VecDeque<Record>,
    next_tick: Instant,
    /// When something was last written or there was nothing to write.
    progress: Instant,
    complained: Option<Duration>,
    /// The last line is due, or written.
    ending: bool,
}

impl Writer {
    pub(super) fn new(
        trail: Arc<Trail>,
        inbox: Receiver<Item>,
        sink: Box<dyn Sink>,
        run: String,
    ) -> Self {
        Self {
            trail,
            inbox,
            sink,
            run,
            lines: 0,
            current: None,
            due: VecDeque::new(),
            next_tick: Instant::now() + TICK,
            progress: Instant::now(),
            complained: None,
            ending: false,
        }
    }

    /// Writes until the trail is closed and everything is written, or the bound
    /// for that is over, or nobody can send any more.
    pub(super) fn run(mut self) {
        loop {
            if self.current.is_none() && !self.take() {
                break;
            }
            if self.trail.is_out_of_time() {
                break;
            }
            match self.step() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // It waited already.
                    if self.progress.elapsed() > STALLED {
                        self.fail(&"nobody reads what is in it");
                    }
                }
                Err(error) => {
                    self.fail(&error);
                    thread::sleep(RETRY);
                }
            }
        }
        self.give_up();
        self.trail.done.cancel();
    }

    /// Finds the next line; whether there may ever be one.
    fn take(&mut self) -> bool {
        if Instant::now() >= self.next_tick {
            self.next_tick = Instant::now() + TICK;
            self.due.extend(self.summaries());
            // Told even if the queue is never empty.
            self.due.extend(self.losses());
        }
        let record = match self.due.pop_front() {
            Some(record) => Some(record),
            None => match self.inbox.try_recv() {
                Ok(item) => self.received(item),
                // All that was there before the loss is written.
                Err(_) => match self.losses() {
                    Some(record) => Some(record),
                    None if self.ending => return false,
                    None if self.trail.is_closing() => {
                        self.ending = true;
                        Some(self.record(Event::ShimEnd))
                    }
                    None => match self.wait() {
                        Ok(item) => self.received(item),
                        Err(RecvTimeoutError::Timeout) => None,
                        Err(RecvTimeoutError::Disconnected) => return false,
                    },
                },
            },
        };
        self.progress = Instant::now();
        if let Some(record) = record {
            self.lines += 1;
            let id = format!("{}-{}", self.run, self.lines);
            self.current = Some((record.line(&id), 0));
        }
        true
    }

    fn wait(&self) -> Result<Item, RecvTimeoutError> {
        let wait = self.next_tick.saturating_duration_since(Instant::now());
        self.inbox.recv_timeout(wait)
    }

    fn received(&self, item: Item) -> Option<Record> {
        let Item::Record(record) = item else {
            return None;
        };
        self.trail.queued.fetch_sub(1, AcqRel);
        metrics::audit_queued(-1.0);
        Some(record)
    }

    /// A line about the log itself.
    fn record(&self, event: Event) -> Record {
        Record {
            time: self.trail.clock.wall(),
            subject: None,
            event,
        }
    }

    /// What the sessions have to sum up.
    fn summaries(&self) -> Vec<Record> {
        let sessions = self.trail.take_unsummed();
        let time = self.trail.clock.wall();
        let records = sessions.iter().flat_map(|session| session.sum_up(time));
        records.collect()
    }

    fn losses(&self) -> Option<Record> {
        let lost = self.trail.lost.swap(0, AcqRel);
        (lost > 0).then(|| self.record(Event::Lost { lost }))
    }

    /// Writes some of the current line, if there is one, to where it belongs.
    fn step(&mut self) -> io::Result<()> {
        let forced = self.trail.reopen.swap(false, AcqRel);
        match self.sink.follow(forced) {
            // What is in the old place stays there; the new one gets whole lines.
            Ok(true) => {
                if let Some((_, written)) = &mut self.current {
                    *written = 0;
                }
            }
            Ok(false) => {}
            Err(error) => {
                self.trail.reopen.fetch_or(forced, AcqRel);
                return Err(error);
            }
        }
        let Some((line, written)) = &mut self.current else {
            return Ok(());
        };
        *written += self.sink.write(&line[*written..])?;
        if *written == line.len() {
            self.current = None;
            metrics::audit_written();
        }
        self.progress = Instant::now();
        self.recover();
        Ok(())
    }

    fn fail(&mut self, why: &dyn std::fmt::Display) {
        let why = plain(why);
        if !self.trail.failing.swap(true, AcqRel) {
            metrics::audit_failing(true);
            self.complained = None;
        }
        let now = self.trail.clock.monotonic();
        let due = |last: Duration| now.saturating_sub(last) >= COMPLAIN;
        if self.complained.is_none_or(due) {
            self.complained = Some(now);
            tracing::error!(
                waiting = self.trail.queued.load(Acquire),
                lost = self.trail.lost.load(Acquire),
                "{}: the audit log cannot be written: {why}: records wait, and are lost once the queue is full",
                self.trail.place,
            );
        }
    }

    fn recover(&self) {
        if self.trail.failing.load(Acquire) {
            self.trail.failing.store(false, Release);
            metrics::audit_failing(false);
            tracing::info!("{}: the audit log is written again", self.trail.place);
        }
    }

    /// Counts what will never be written.
    fn give_up(&mut self) {
        let untold = self.trail.lost.swap(0, AcqRel);
        let mut unwritten = u64::from(self.current.take().is_some()) + self.due.len() as u64;
        while let Ok(item) = self.inbox.try_recv() {
            unwritten += u64::from(self.received(item).is_some());
        }
        metrics::audit_lost(unwritten);
        if untold + unwritten > 0 {
            tracing::error!(
                records = untold + unwritten,
                "{}: audit records are lost at the end",
                self.trail.place
            );
        }
    }
}

impl Session {
    /// What happened since the last time, in one line of each kind.
    pub(super) fn sum_up(&self, time: std::time::SystemTime) -> Vec<Record> {
        let pending = std::mem::take(&mut *self.pending());
        let record = |event| Record {
            time,
            subject: Some(Arc::clone(&self.subject)),
            event,
        };
        let mut records = Vec::new();
        if let Some(listeners) = pending.listeners {
            records.push(record(Event::ListenersChanged { listeners }));
        }
        if !pending.rejected.is_empty() {
            let rejections = pending.rejected.into_iter().collect();
            records.push(record(Event::Rejections { rejections }));
        }
        records
    }
}
