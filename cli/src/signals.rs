//! Signals that ask to stop, or are for the wrapped command.
//!
//! On Linux they are read from a signalfd, because it tells who sent them: what
//! a terminal sends (Ctrl-C) goes to the whole foreground group, so a wrapped
//! command has it already and must not get it twice. A signal that was ignored
//! when we were started (nohup, a shell's background job) stays ignored.

use nix::sys::signal::Signal;
use std::io;

/// What is listened for.
const WATCHED: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Whether a terminal sent it, to every process of its foreground group.
    pub from_terminal: bool,
}

#[cfg(target_os = "linux")]
mod imp {
    use super::{Received, Signal, WATCHED, io};
    use nix::sys::signal::SigSet;
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    use std::future::poll_fn;
    use std::task::Poll;
    use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
    use tokio::sync::mpsc;

    /// Signals that may wait; the kernel keeps one of each kind beyond that.
    const QUEUE: usize = 8;

    /// `si_code` of a signal that the kernel made, for a terminal here.
    const SI_KERNEL: i32 = 0x80;

    /// The signals, taken from their default action by being blocked.
    #[derive(Clone, Copy, Debug)]
    pub struct Held(SigSet);

    impl Held {
        /// No signals, for tests, which share a process.
        #[cfg(test)]
        pub(crate) fn nothing() -> Self {
            Self(SigSet::empty())
        }

        /// Runs `start`, which starts a process, with the signal mask that we
        /// were given: a process inherits it. What arrives meanwhile goes to
        /// the handlers of [`Signals`], so that it has to be open.
        pub fn as_given<T>(&self, start: impl FnOnce() -> T) -> T {
            let freed = self.0.thread_unblock();
            let started = start();
            if freed.is_ok() && self.0.thread_block().is_err() {
                tracing::warn!("signals may end us without a goodbye");
            }
            started
        }
    }

    /// Takes the signals from their default action. To be called before any
    /// thread is started, since threads inherit it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hold() -> io::Result<Held> {
        let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |s| ignored_in(&s));
        let mut set = SigSet::empty();
        for signal in WATCHED {
            if ignored & (1 << (signal as u32 - 1)) == 0 {
                set.add(signal);
            }
        }
        set.thread_block()?;
        Ok(Held(set))
    }

    /// The mask `SigIgn` of a process's status in /proc.
    pub(super) fn ignored_in(status: &str) -> u64 {
        status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .unwrap_or(0)
    }

    /// A queue of arriving signals.
    #[derive(Debug)]
    pub struct Signals {
        received: mpsc::Receiver<Received>,
        /// Handlers, for the moments in which the signals are not blocked.
        handlers: Vec<(Signal, Stream)>,
    }

    impl Signals {
        /// Opens the queue, inside a runtime. A thread of its own fills it,
        /// until the process ends.
        ///
        /// # Errors
        /// The kernel's.
        pub fn open(held: &Held) -> io::Result<Self> {
            let mut handlers = Vec::new();
            for watched in held.0.iter() {
                handlers.push((watched, signal(SignalKind::from_raw(watched as i32))?));
            }
            let signals = SignalFd::with_flags(&held.0, SfdFlags::SFD_CLOEXEC)?;
            let (queue, received) = mpsc::channel(QUEUE);
            let fill = move || {
                while let Ok(Some(info)) = signals.read_signal() {
                    let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed()) else {
                        continue;
                    };
                    let from_terminal = info.ssi_code == SI_KERNEL;
                    let received = Received {
                        signal,
                        from_terminal,
                    };
                    if queue.blocking_send(received).is_err() {
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
                        // Who sent it is not known here; the command is told
                        // rather twice than never.
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
}

#[cfg(all(unix, not(target_os = "linux")))]
mod imp {
    use super::{Received, Signal, WATCHED, io};
    use std::io::IsTerminal;
    use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

    /// Nothing to hold here: the runtime's handlers do.
    #[derive(Clone, Copy, Debug)]
    pub struct Held;

    impl Held {
        /// No signals, for tests, which share a process.
        #[cfg(test)]
        pub(crate) fn nothing() -> Self {
            Self
        }

        /// Runs `start`: a process that is started gets no handlers.
        pub fn as_given<T>(&self, start: impl FnOnce() -> T) -> T {
            start()
        }
    }

    /// Does nothing on this system.
    ///
    /// # Errors
    /// None.
    pub fn hold() -> io::Result<Held> {
        Ok(Held)
    }

    /// A queue of arriving signals.
    #[derive(Debug)]
    pub struct Signals([Stream; 3]);

    impl Signals {
        /// Installs the handlers, inside a runtime.
        ///
        /// # Errors
        /// The system's.
        pub fn open(_: &Held) -> io::Result<Self> {
            let open = |s: Signal| signal(SignalKind::from_raw(s as i32));
            Ok(Self([
                open(WATCHED[0])?,
                open(WATCHED[1])?,
                open(WATCHED[2])?,
            ]))
        }

        /// Waits for the next signal. Cancel safe. Who sent it is not known
        /// here: an interrupt is taken for a terminal's where there is one.
        pub async fn next(&mut self) -> Received {
            let [interrupt, terminate, hangup] = &mut self.0;
            let signal = tokio::select! {
                _ = interrupt.recv() => Signal::SIGINT,
                _ = terminate.recv() => Signal::SIGTERM,
                _ = hangup.recv() => Signal::SIGHUP,
            };
            let from_terminal = signal == Signal::SIGINT && io::stdin().is_terminal();
            Received {
                signal,
                from_terminal,
            }
        }
    }
}

pub use imp::{Held, Signals, hold};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn signals_that_were_ignored_at_the_start_are_found() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(imp::ignored_in(status), 0x1001);
        assert_eq!(imp::ignored_in("nonsense"), 0);
    }

    // What one process sends is seen by the whole-program tests in `tests/`:
    // a signal sent here would reach the other tests' threads.
}
