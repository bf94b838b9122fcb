//! The works whose instructions are counted: both ends of a tunnel in one thread,
//! joined by a pipe in memory.

use super::socket::Made;
use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use sternline_tunnel::budget::{ProcessBudget, Traffic};
use sternline_tunnel::{
    Acceptor, ConnectRequest, Dialer, End, Incoming, RelayOptions, Settings, relay,
};
use tokio::task::JoinSet;

/// Window of each stream, in bytes.
const WINDOW: u32 = 192 * 1024;

/// Size of the pipe between both ends, in bytes.
const PIPE: usize = 256 * 1024;

const MIB: u64 = 1 << 20;

/// A work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// One stream, pod to workstation.
    BulkPodOut,
    /// One stream, workstation to pod.
    BulkOutPod,
    /// Sixteen streams at once, pod to workstation.
    BulkMany,
    /// A pod that writes 64 bytes at a time.
    Messages,
    /// Streams one after the other, with a byte each way.
    Connections,
}

impl Work {
    /// Its name on the command line and in the record.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BulkPodOut => "bulk-pod-out",
            Self::BulkOutPod => "bulk-out-pod",
            Self::BulkMany => "bulk-many",
            Self::Messages => "messages",
            Self::Connections => "connections",
        }
    }

    /// What its size counts.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::BulkPodOut | Self::BulkOutPod | Self::BulkMany => "MiB",
            Self::Messages => "message",
            Self::Connections => "connection",
        }
    }

    /// How much is done: seconds under callgrind.
    pub(super) fn size(self) -> u32 {
        match self {
            Self::BulkPodOut | Self::BulkOutPod | Self::BulkMany => 64,
            Self::Messages => 20_000,
            Self::Connections => 1000,
        }
    }

    /// Does it, in this thread.
    ///
    /// # Errors
    /// The tunnel lost something: the count would mean nothing.
    pub(crate) fn run(self, size: u32) -> Result<()> {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?
            .block_on(self.work(u64::from(size)))
    }

    async fn work(self, size: u64) -> Result<()> {
        let (whole, small) = (usize::MAX, 64);
        match self {
            Self::BulkPodOut => carry(1, 1, size * MIB, 0, whole).await,
            Self::BulkOutPod => carry(1, 1, 0, size * MIB, whole).await,
            Self::BulkMany => carry(16, 16, size * MIB / 16, 0, whole).await,
            Self::Messages => carry(1, 1, size * small as u64, 0, small).await,
            Self::Connections => carry(size, 1, 1, 1, whole).await,
        }
    }
}

fn options() -> RelayOptions {
    RelayOptions {
        budget: ProcessBudget::new(256 * MIB).session(),
        traffic: Arc::new(Traffic::default()),
        idle_timeout: None,
    }
}

/// Carries `streams` streams, `at_once` at a time, `out` bytes of each from the
/// pod and `into` bytes of each to it, in reads of `step`.
async fn carry(streams: u64, at_once: usize, out: u64, into: u64, step: usize) -> Result<()> {
    // A window that follows the link follows the clock, which runs otherwise here.
    let settings = Settings {
        first_window: WINDOW,
        max_window: WINDOW,
        ..Settings::default()
    };
    let (node, client) = tokio::io::duplex(PIPE);
    let (dialer, driver) = Dialer::handshake(node, &settings).await?;
    let driver = tokio::spawn(driver);
    let mut acceptor = Acceptor::handshake(client, &settings).await?;
    let work = tokio::spawn(async move {
        let options = options();
        let mut relays = JoinSet::new();
        while let Some(incoming) = acceptor.next().await? {
            if let Incoming::Stream(stream) = incoming {
                let (target, _) = Made::new(into, step);
                let options = options.clone();
                let stream = stream.accept()?;
                relays.spawn(async move { relay(target, stream, &options).await });
            }
        }
        anyhow::Ok(())
    });
    let options = options();
    let mut relays = JoinSet::new();
    for number in 0..streams {
        if relays.len() == at_once {
            check(relays.join_next().await, into)?;
        }
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let request = ConnectRequest {
            listener_id: 0,
            bound: loopback(8080),
            peer: loopback(u16::try_from(10_000 + number % 50_000)?),
        };
        let stream = dialer.connect(request).await?;
        let (pod, written) = Made::new(out, step);
        let options = options.clone();
        relays.spawn(async move {
            let relayed = relay(pod, stream, &options).await;
            (relayed.end, written.load(Relaxed))
        });
    }
    while let Some(ended) = relays.join_next().await {
        check(Some(ended), into)?;
    }
    drop(dialer);
    driver.await??;
    work.await?
}

/// A stream that lost bytes makes no count.
fn check(ended: Option<Result<(End, u64), tokio::task::JoinError>>, expected: u64) -> Result<()> {
    match ended.context("no stream ended")?? {
        (End::Clean, got) if got == expected => Ok(()),
        (end, got) => bail!("a stream ended with {end:?} and {got} of {expected} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_comes_to_a_clean_end() {
        for work in Work::value_variants() {
            let size = match work.unit() {
                "MiB" => 1,
                _ => 20,
            };
            work.run(size)
                .unwrap_or_else(|error| panic!("{}: {error:#}", work.name()));
        }
    }

    #[test]
    fn a_stream_that_lost_bytes_is_no_count() {
        assert!(check(Some(Ok((End::Clean, 4))), 4).is_ok());
        assert!(check(Some(Ok((End::Clean, 3))), 4).is_err());
        assert!(check(Some(Ok((End::TunnelLost, 4))), 4).is_err());
        assert!(check(None, 0).is_err());
    }
}
