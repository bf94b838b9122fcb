//! Signals by a signalfd.

use super::{Received, WATCHED};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that may wait; the kernel keeps one of each kind beyond that.
const QUEUE: usize = 8;

/// `si_code` of a signal that the kernel made, for a terminal here.
const SI_KERNEL: i32 = 0x80;

/// The signals, taken from their default action by being blocked.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Those that we listen for.
    set: SigSet,
    /// Those that were ignored when we were started.
    ignored: Ignored,
}

impl Held {
    /// No signals, for tests, which share a process.
    #[cfg(test)]
    pub(crate) fn nothing() -> Self {
        Self {
            set: SigSet::empty(),
            ignored: Ignored(0),
        }
    }

    /// Runs `start`, which starts a process, with the signal mask that we were
    /// given: a process inherits it. What arrives meanwhile goes to the
    /// handlers of [`Signals`], so that it has to be open.
    pub fn as_given<T>(&self, start: impl FnOnce() -> T) -> T {
        let freed = self.set.thread_unblock();
        let started = start();
        if freed.is_ok() && self.set.thread_block().is_err() {
            tracing::warn!("signals may end us without a goodbye");
        }
        started
    }
}

/// Takes the signals from their default action. To be called before any thread
/// is started, since threads inherit it.
///
/// # Errors
/// The kernel's.
pub fn hold() -> io::Result<Held> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = Ignored::of(&status);
    let mut set = SigSet::empty();
    for signal in WATCHED {
        // A blocked signal is queued even where it is ignored.
        if signal == Signal::SIGINT || !ignored.has(signal) {
            set.add(signal);
        }
    }
    set.thread_block()?;
    Ok(Held { set, ignored })
}

/// A mask of signals as the kernel writes it.
#[derive(Clone, Copy, Debug)]
struct Ignored(u64);

impl Ignored {
    /// The mask `SigIgn` of a process's status in /proc.
    fn of(status: &str) -> Self {
        let mask = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        Self(mask.unwrap_or(0))
    }

    fn has(self, signal: Signal) -> bool {
        self.0 & (1 << (signal as u32 - 1)) != 0
    }
}

/// A queue of arriving signals.
#[derive(Debug)]
pub struct Signals {
    received: mpsc::Receiver<Received>,
    /// Handlers, for the moments in which the signals are not blocked.
    handlers: Vec<(Signal, Stream)>,
}

impl Signals {
    /// Opens the queue, inside a runtime. A thread of its own fills it, until
    /// the process ends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(held: &Held) -> io::Result<Self> {
        let Held { set, ignored } = *held;
        let mut handlers = Vec::new();
        // What was ignored needs none, and a process that we start inherits
        // that it is ignored only where there is none.
        for watched in set.iter().filter(|signal| !ignored.has(*signal)) {
            handlers.push((watched, signal(SignalKind::from_raw(watched as i32))?));
        }
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        let (queue, received) = mpsc::channel(QUEUE);
        let fill = move || {
            while let Ok(Some(info)) = signals.read_signal() {
                if let Some(received) = read(&info, ignored)
                    && queue.blocking_send(received).is_err()
                {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(fill)?;
        Ok(Self { received, handlers })
    }

    /// Waits for the next signal. Cancel safe.
    pub async fn next(&mut self) -> Received {
        poll_fn(|cx| {
            for (signal, handler) in &mut self.handlers {
                if handler.poll_recv(cx).is_ready() {
                    // Who sent it is not known here; a command is told rather
                    // twice than never.
                    return Poll::Ready(Received {
                        signal: *signal,
                        from_terminal: false,
                    });
                }
            }
            match self.received.poll_recv(cx) {
                Poll::Ready(Some(received)) => Poll::Ready(received),
                // The thread ends only with the process.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// What a signal means to us; nothing if it was to be ignored.
fn read(info: &siginfo, ignored: Ignored) -> Option<Received> {
    let signal = Signal::try_from(info.ssi_signo.cast_signed()).ok()?;
    let from_terminal = info.ssi_code == SI_KERNEL;
    (!(from_terminal && ignored.has(signal))).then_some(Received {
        signal,
        from_terminal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_were_ignored_at_the_start_are_found() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        let ignored = Ignored::of(status);
        assert!(ignored.has(Signal::SIGHUP) && ignored.has(Signal::SIGPIPE));
        assert!(!ignored.has(Signal::SIGINT));
        assert!(!Ignored::of("nonsense").has(Signal::SIGHUP));
    }

    // What arrives is seen by the tests of the whole program: a signal sent
    // here would reach the threads of other tests.
}
